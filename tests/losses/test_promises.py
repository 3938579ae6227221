"""What every loss of scores promises: types, extremes, transforms, modules."""

import copy
import inspect
import io
import pickle
from functools import partial

import pytest
import torch
from torch.func import grad, vmap

from minimand.divergences import jensen_shannon, pearson
from minimand.losses import (
    AdaptiveLDRLoss,
    CompSumLoss,
    FocalLoss,
    GeneralisedCrossEntropyLoss,
    LDRLoss,
    MetricLoss,
    SigmoidFocalLoss,
    adaptive_ldr_loss,
    comp_sum_loss,
    focal_loss,
    generalised_cross_entropy_loss,
    ldr_loss,
    metric_loss,
    sigmoid_focal_loss,
    spec_of,
)

SOLVED = {  # by the divergence's own solver
    "ldr pearson": partial(ldr_loss, lam=2.0, divergence=pearson),
    "ldr jensen-shannon": partial(ldr_loss, lam=2.0, divergence=jensen_shannon),
}
CLASS = {
    "sum-exponential": partial(comp_sum_loss, tau=0.0),
    "comp-sum 0.6": partial(comp_sum_loss, tau=0.6),
    "cross-entropy": comp_sum_loss,
    "comp-sum 1.5": partial(comp_sum_loss, tau=1.5),
    "mean absolute error": partial(comp_sum_loss, tau=2.0),
    "generalised cross-entropy": generalised_cross_entropy_loss,
    "ldr": ldr_loss,
    "ldr hot": partial(ldr_loss, lam=10.0, margin=0.1),
    "ldr cold": partial(ldr_loss, lam=1e-3, margin=1.0),
    "ldr zero": partial(ldr_loss, lam=0.0, margin=1.0),
    **SOLVED,
    "adaptive ldr": adaptive_ldr_loss,
    "adaptive ldr quick": partial(adaptive_ldr_loss, lam0=0.5, alpha=1.2),
    "focal": focal_loss,
    "focal 0.5": partial(focal_loss, gamma=0.5),
}
BINARY = {
    "sigmoid focal": sigmoid_focal_loss,
    **{name: partial(metric_loss, metric=name) for name in ("accuracy", "f1", "g_mean", "mcc", "iou")},
    "balanced accuracy": partial(metric_loss, metric="balanced_accuracy", amplification=10.0),
}
LOSSES = CLASS | BINARY
HYPERS = [  # loss, its hyper, values
    (comp_sum_loss, "tau", [0.0, 0.7, 1.0, 1.0 + 1e-9, 2.0]),
    (generalised_cross_entropy_loss, "q", [0.0, 0.5, 1.0]),
    (ldr_loss, "lam", [0.0, 0.3, 1.0, 30.0]),
    (ldr_loss, "margin", [0.0, 1.0]),
    (adaptive_ldr_loss, "lam0", [0.3, 10.0]),
    (adaptive_ldr_loss, "alpha", [1.1, 4.0]),
    (focal_loss, "gamma", [0.0, 0.5, 5.0]),
    (sigmoid_focal_loss, "alpha", [0.0, 0.4]),
    (metric_loss, "amplification", [1.0, 73.0]),
]


def sample(name: str, rows: int = 12, classes: int = 5, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + classes)
    if name in CLASS:
        logits = scale * torch.randn(rows, classes, dtype=torch.float64, generator=generator)
        return logits, torch.arange(rows) % classes
    return scale * torch.randn(rows, dtype=torch.float64, generator=generator), torch.arange(rows) % 2


def name_of(function) -> str:
    return next(name for name, loss in LOSSES.items() if getattr(loss, "func", loss) is function)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_the_difference_quotient(name):
    logits, target = sample(name)
    torch.autograd.gradcheck(lambda z: LOSSES[name](z, target), logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_narrow_type_agrees_with_float64(name, dtype):
    logits, target = sample(name)
    logits = logits.to(dtype).requires_grad_()
    wide = logits.detach().double().requires_grad_()
    narrow_loss, wide_loss = LOSSES[name](logits, target), LOSSES[name](wide, target)
    narrow_loss.backward()
    wide_loss.backward()
    assert narrow_loss.dtype == dtype
    assert logits.grad.dtype == dtype
    tolerance = {"rtol": 20 * torch.finfo(dtype).eps, "atol": 20 * torch.finfo(torch.float32).eps}
    torch.testing.assert_close(narrow_loss.double(), wide_loss, **tolerance)
    torch.testing.assert_close(logits.grad.double(), wide.grad, **tolerance)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_huge_logits_give_a_finite_value_and_gradient(name, dtype, reduction):
    options = {} if getattr(LOSSES[name], "func", None) is metric_loss else {"reduction": reduction}
    logits = sample(name)[0].sign() * 1e4
    logits[0] = 1e4
    logits[1] = -1e4
    target = sample(name)[1]
    logits = logits.to(dtype).requires_grad_()
    loss = LOSSES[name](logits, target, **options)
    assert bool(loss.isfinite().all())
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert bool(gradient.isfinite().all())


def test_a_sum_past_float16_is_held_at_its_largest_number_and_keeps_its_gradient():
    logits = torch.zeros(120_000, 2, dtype=torch.float16, requires_grad=True)
    loss = comp_sum_loss(logits, torch.zeros(120_000, dtype=torch.long), reduction="sum")
    loss.backward()
    assert loss.item() == 65504
    assert logits.grad[7].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("sum-exponential", "comp-sum 0.6")])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_float32_agrees_with_float64_on_large_logits(name, scale):
    # tau < 1 is left out: an exponential of a float32 number has lost the digits before the point.
    logits, target = sample(name, scale=scale / 4)
    logits = logits.float().requires_grad_()
    wide = logits.detach().double().requires_grad_()
    torch.testing.assert_close(LOSSES[name](logits, target).double(), LOSSES[name](wide, target), rtol=1e-5, atol=1e-6)
    (narrow_gradient,) = torch.autograd.grad(LOSSES[name](logits, target), logits)
    (wide_gradient,) = torch.autograd.grad(LOSSES[name](wide, target), wide)
    torch.testing.assert_close(narrow_gradient.double(), wide_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_is_never_hidden(name):
    logits, target = sample(name)
    logits.view(-1)[3] = torch.nan
    if name in SOLVED:
        with pytest.raises(ValueError, match="logits must not hold NaN; got NaN at flat position 3"):
            LOSSES[name](logits, target)
    else:
        assert bool(LOSSES[name](logits, target).isnan())


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_gives_a_finite_value_and_an_empty_gradient(name):
    logits, target = sample(name, rows=0)
    logits.requires_grad_()
    loss = LOSSES[name](logits, target)
    loss.backward()
    assert bool(loss.isfinite())
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("name", CLASS)
def test_one_class_gives_zero_with_zero_gradient(name):
    logits, target = sample(name, classes=1)
    logits.requires_grad_()
    loss = LOSSES[name](logits, target)
    loss.backward()
    assert loss.item() == 0
    assert bool((logits.grad == 0).all())


@pytest.mark.parametrize("name", CLASS)
def test_a_constant_added_to_all_scores_changes_nothing(name):
    logits, target = sample(name)
    torch.testing.assert_close(LOSSES[name](logits + 8.0, target), LOSSES[name](logits, target))


@pytest.mark.parametrize("name", LOSSES)
def test_strides_do_not_matter(name):
    logits, target = sample(name)
    strided = torch.stack([logits, -logits], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    torch.testing.assert_close(LOSSES[name](strided, target), LOSSES[name](logits, target))
    expanded = logits[:1].expand_as(logits)
    torch.testing.assert_close(LOSSES[name](expanded, target), LOSSES[name](expanded.clone(), target))


@pytest.mark.parametrize("name", ["comp-sum 1.5", "ldr hot", "adaptive ldr", "focal", "sigmoid focal", "g_mean"])
def test_compiled_equals_eager(name):
    logits, target = sample(name)
    logits.requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(LOSSES[name], backend="aot_eager", fullgraph=True)
    (expected,) = torch.autograd.grad(LOSSES[name](logits, target), logits)
    loss = compiled(logits, target)
    torch.testing.assert_close(loss, LOSSES[name](logits, target))
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)


@pytest.mark.parametrize("name", LOSSES)
def test_vmap_over_models_equals_a_loop(name):
    logits, target = sample(name)
    stack = torch.stack([logits, logits.flip(0), 3 * logits])
    together = vmap(grad(LOSSES[name]), in_dims=(0, None))(stack, target)
    apart = torch.stack([grad(LOSSES[name])(one, target) for one in stack])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize(("loss", "hyper", "values"), HYPERS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_one_hyper_a_trial_under_vmap_equals_a_loop_and_keeps_float32(loss, hyper, values):
    logits, target = sample(name_of(loss))
    logits = logits.float()

    def of(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return loss(logits, target, **{hyper: value})

    trials = torch.tensor(values, dtype=torch.float64)
    together = vmap(grad(of, argnums=1), in_dims=(0, None))(trials, logits)
    assert together.dtype == torch.float32
    assert vmap(of, in_dims=(0, None))(trials, logits).dtype == torch.float32
    apart = torch.stack([grad(of, argnums=1)(value, logits) for value in trials])
    torch.testing.assert_close(together, apart)
    plain = torch.stack([grad(lambda z, v=v: loss(z, target, **{hyper: v}))(logits) for v in values])
    torch.testing.assert_close(together, plain)


@pytest.mark.parametrize(("loss", "hyper", "values"), HYPERS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_gradient_in_a_hyper_is_the_difference_quotient(loss, hyper, values):
    logits, target = sample(name_of(loss))
    inside = torch.tensor(values[-1] * 0.9, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda value: loss(logits, target, **{hyper: value}), inside)


MODULES = [
    CompSumLoss(tau=1.4),
    GeneralisedCrossEntropyLoss(q=0.3),
    LDRLoss(lam=3.0, margin=0.1),
    AdaptiveLDRLoss(lam0=2.0),
    FocalLoss(gamma=1.0, alpha=torch.tensor([1.0, 2, 3, 4, 5])),
    SigmoidFocalLoss(alpha=None),
    MetricLoss(metric="mcc"),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_a_module_survives_pickling_copying_and_its_state(module):
    name = "sigmoid focal" if isinstance(module, SigmoidFocalLoss | MetricLoss) else "focal"
    logits, target = sample(name)
    expected = module(logits, target)
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(logits, target), expected)
    torch.testing.assert_close(copy.deepcopy(module)(logits, target), expected)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    module.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(module(logits, target), expected)


def test_a_module_is_its_function():
    logits, target = sample("ldr")
    module = LDRLoss(lam=0.4, margin=0.2, reduction="sum")
    torch.testing.assert_close(module(logits, target), ldr_loss(logits, target, 0.4, 0.2, reduction="sum"))


def test_class_weights_are_part_of_a_modules_state_and_move_with_it():
    module = FocalLoss(alpha=torch.ones(5))
    assert list(module.state_dict()) == ["alpha"]
    assert module.double().alpha.dtype == torch.float64


def test_a_parameter_given_as_a_hyper_is_learned():
    logits, target = sample("cross-entropy")
    module = CompSumLoss(tau=torch.nn.Parameter(torch.tensor(1.2)))
    module(logits, target).backward()
    assert [name for name, _ in module.named_parameters()] == ["tau"]
    assert module.tau.grad.item() != 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CompSumLoss(tau=-1.0), ValueError, r"tau must lie in \[0, inf\); got -1"),
        (lambda: CompSumLoss(tua=1.0), TypeError, "CompSumLoss takes tau, reduction; got 'tua'"),
        (lambda: CompSumLoss(reduction="avg"), ValueError, "reduction must be one of 'none', 'mean', 'sum'; got 'avg'"),
        (lambda: GeneralisedCrossEntropyLoss(q=1.5), ValueError, r"q must lie in \[0, 1\]; got 1.5"),
        (lambda: LDRLoss(lam=float("nan")), ValueError, r"lam must lie in \[0, inf\); got nan"),
    ],
)
def test_a_module_names_an_option_that_does_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", CLASS)
@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, r"class indices in \[0, 3\); got 3 at position 1"),
        (torch.zeros(2, 3), torch.tensor([0, -100]), ValueError, r"class indices in \[0, 3\); got -100 at position 1"),
        (torch.zeros(2, 3), torch.tensor([0]), ValueError, r"target must have shape \(2,\) to match .*; got \(1,\)"),
        (torch.zeros(2, 3), torch.zeros(2), TypeError, "target must be an integer tensor of class indices"),
        (torch.zeros(2, 3).long(), torch.tensor([0, 1]), TypeError, "logits must be a floating-point tensor"),
        (torch.zeros(3), torch.tensor(0), ValueError, r"logits must have shape \(N, C\) with C >= 1; got \(3,\)"),
        ([[0.0]], torch.tensor([0]), TypeError, "logits must be a floating-point tensor; got list"),
        (torch.zeros(2, 3), torch.tensor([0, 1], device="meta"), ValueError, "target must be on logits's device cpu"),
    ],
)
def test_inputs_that_do_not_fit_are_named(name, logits, target, error, message):
    with pytest.raises(error, match=message):
        LOSSES[name](logits, target)


@pytest.mark.parametrize("name", LOSSES)
def test_every_declared_hyper_is_an_argument_with_that_default(name):
    function = getattr(LOSSES[name], "func", LOSSES[name])
    parameters = inspect.signature(function).parameters
    for hyper, spec in spec_of(function).hypers.items():
        assert parameters[hyper].default == spec.default
        if spec.search is not None:
            assert spec.contains(spec.search.at(0.0))
            assert spec.contains(spec.search.at(1.0))
