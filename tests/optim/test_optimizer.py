"""The torch.optim driver: PyTorch's conventions, and three executions of one formula.

What holds for every rule under it is in ``tests/contract``.
"""

import numpy
import pytest
import scipy.special
import torch
from torch import nn

from minimand import optim
from minimand.hyper import HyperSpec, as_hyper
from minimand.optim import RuleOptimizer, rules
from minimand.optim import optimizer as optimizer_module
from minimand.optim.programs import compiled, hoist, in_place
from minimand.optim.rule import Rule, learning_rate, nonnegative, weight_decay, zeros_like
from minimand.source import Source

from .golden import fingerprint, gradient, weights


def model(dtype=torch.float64, seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def fill_gradients(params, t, dtype=None) -> None:
    for i, param in enumerate(params):
        k = torch.arange(1, param.numel() + 1, dtype=torch.float64)
        param.grad = ((t + 0.3 * i) * k).cos().reshape(param.shape).to(param.dtype)


def train(optimizer, params, steps, start=0) -> None:
    for t in range(start, start + steps):
        fill_gradients(params, t + 1)
        optimizer.step()


OPTIONS = {"lr": 0.01, "weight_decay": 0.1}


@pytest.mark.parametrize("optimizer", [optim.AdaBelief, optim.Muon, optim.AdaGradNorm])
def test_compiled_equals_eager(optimizer):
    ends = []
    for compile in (False, True):
        params = list(model(torch.float32).parameters())
        train(optimizer(params, compile=compile, **OPTIONS), params, 3)
        ends.append(params)
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_compiled_step_does_not_compile_again_when_the_rate_changes():
    params = list(model(torch.float32).parameters())
    optimizer = optim.Lion(params, compile=True)
    train(optimizer, params, 2)
    with torch.compiler.set_stance("fail_on_recompile"):
        for t in range(3):
            optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)
            train(optimizer, params, 1, start=t)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels_last"])
def test_compiled_step_serves_tensors_in_any_layout(layout):
    torch.manual_seed(0)
    start = torch.randn(4, 300, 8, 9)  # above the size that is stepped on its own
    if layout == "transposed":
        start = start.transpose(0, 3)
    elif layout == "channels_last":
        start = start.to(memory_format=torch.channels_last)
    ends = []
    for compile in (False, True):
        param = nn.Parameter(start.clone(memory_format=torch.preserve_format))
        optimizer = optim.AdamW([param], compile=compile)
        for t in range(2):
            param.grad = ((t + 1) * start).cos().contiguous()  # a gradient may come in another layout
            optimizer.step()
        ends.append(param)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_parameters_without_gradient_are_skipped_and_their_state_stays():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = optim.AdamW([a, b])
    for t in range(3):
        a.grad = torch.ones(2)
        b.grad = torch.ones(2) if t == 2 else None
        optimizer.step()
    assert optimizer.state[a]["step"] == 3
    assert optimizer.state[b]["step"] == 1


def test_foreach_buckets_follow_each_parameters_own_count():
    def late(foreach):
        a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        optimizer = optim.AdamW([a, b], foreach=foreach)
        for t in range(3):
            a.grad = torch.ones(2)
            b.grad = torch.ones(2) if t == 2 else None
            optimizer.step()
        return torch.cat([a, b])

    torch.testing.assert_close(late(True), late(False))


def test_schedulers_drive_rate_and_betas():
    param = nn.Parameter(torch.ones(2))
    optimizer = optim.AdamW([param], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    seen = []
    for _ in range(5):
        param.grad = torch.ones(2)
        optimizer.step()
        schedule.step()
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
    assert len(set(seen)) == 5


def test_closure_returns_the_loss_and_computes_gradients():
    param = nn.Parameter(torch.tensor([2.0]))
    optimizer = optim.SGD([param], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(4.0)
    assert param.item() == pytest.approx(1.6)


def test_a_tensor_rate_is_taken_and_a_group_may_have_its_own():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = optim.SGD([{"params": [a], "lr": torch.tensor(0.5)}, {"params": [b]}], lr=0.25)
    a.grad, b.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert (a.item(), b.item()) == (0.5, 0.75)


def test_complex_parameters_are_stepped_as_pairs_of_reals():
    start = torch.tensor([1 + 2j, 3 - 1j])
    z = nn.Parameter(start.clone())
    z.grad = torch.tensor([0.5 - 1j, 2 + 0.1j])
    optim.AdamW([z], lr=0.1).step()
    x = nn.Parameter(torch.view_as_real(start).clone())
    x.grad = torch.view_as_real(z.grad).clone()
    optim.AdamW([x], lr=0.1).step()
    torch.testing.assert_close(torch.view_as_real(z.detach()), x.detach())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.AdamW(p, lr=-1.0), r"lr must lie in \[0, inf\); got -1"),
        (lambda p: optim.AdamW(p, betas=(0.9, 1.0)), r"beta2 must lie in \[0, 1\); got 1"),
        (lambda p: optim.AdamW(p, betas=0.9), "betas must be a pair of numbers; got 0.9"),
        (lambda p: optim.AdamW(p, beta3=0.9), "AdamW takes lr, beta1, beta2, eps, weight_decay; got 'beta3'"),
        (lambda p: optim.AdamW(p, lr=float("nan")), "lr must lie in"),
        (lambda p: optim.Muon(p, ns_steps=0), "ns_steps must be at least 1; got 0"),
        (lambda p: optim.Muon(p, adjust_lr="fast"), "adjust_lr must be one of 'original', 'match_rms_adamw'"),
        (lambda p: optim.AdamW(p, decay="none"), "decay must be one of 'decoupled', 'l2'; got 'none'"),
        (lambda p: optim.LionK(p, kernel="l3"), "kernel must be one of"),
        (lambda p: optim.AdaGradNorm(p, foreach=True), "foreach must be False or None for AdaGradNorm"),
        (lambda p: optim.AdamW(p, differentiable=True), "differentiable must be False"),
        (lambda p: optim.AdamW(p, lr=torch.tensor(0.1), foreach=True), "needs capturable=True"),
        (lambda p: optim.AdamW([{"params": p, "lr": torch.ones(2)}]), "floats or 0-d tensors"),
        (lambda p: optim.AdamP([nn.Parameter(torch.zeros(2, dtype=torch.complex64))]), "params must be real"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(list(model().parameters()))


def test_a_bad_group_leaves_the_optimizer_as_it_was():
    optimizer = optim.AdamW([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="lr must lie in"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


def test_a_rule_class_in_place_of_a_rule_is_a_type_error():
    with pytest.raises(TypeError, match=r"rule must be a minimand.optim.Rule; got type"):
        RuleOptimizer([nn.Parameter(torch.ones(1))], rules.SGD)  # type: ignore[arg-type]


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="gradients must be dense"):
        optim.SGD(embedding.parameters()).step()


class Sophia(Rule):
    """A rule that observes: momentum over a clipped running curvature (arXiv:2305.14342, algorithm 3)."""

    observes = "hess_diag"
    source = Source("Sophia", "Liu et al.", 2023, "2305.14342")
    hypers = {
        "lr": learning_rate(1e-4),
        "weight_decay": weight_decay(),
        "beta1": nonnegative(0.96),
        "beta2": nonnegative(0.99),
        "gamma": nonnegative(0.01),
    }

    def init(self, param):
        return {"mean": zeros_like(param), "curvature": zeros_like(param)}

    def observe(self, info, state, param, hyper):
        return {
            **state,
            "curvature": hyper["beta2"] * state["curvature"] + (1 - hyper["beta2"]) * info,
        }

    def direction(self, grad, state, param, hyper):
        mean = hyper["beta1"] * state["mean"] + (1 - hyper["beta1"]) * grad
        u = (mean / (hyper["gamma"] * state["curvature"]).clamp(min=1e-12)).clamp(-1, 1)
        return u, {**state, "mean": mean}


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (0.05, (0.534424545, 7.070854685, 0.719468455, -0.817646166)),
        (5.0, (0.150163809, 6.677640197, 0.750508254, -0.807301054)),
    ],
)
def test_a_rule_that_observes_curvature_fits_the_driver(gamma, expected):
    w = nn.Parameter(weights(3, 4))
    optimizer = RuleOptimizer([("w", w)], Sophia(), lr=0.1, weight_decay=0.1, gamma=gamma)
    for t in (1, 2, 3):
        optimizer.observe({"w": gradient(3, 4, t).square()})
        w.grad = gradient(3, 4, t)
        optimizer.step()
    assert fingerprint(w.detach()) == pytest.approx(expected, abs=1e-8)


class EveryThird(Rule):
    """A rule that refreshes: it goes along the gradient it saw at its last refresh."""

    source = Source("none", "none", 2024)
    hypers = {"lr": HyperSpec(0.1)}

    def init(self, param):
        return {"step": torch.zeros(()), "basis": zeros_like(param)}

    @property
    def refresh_every(self):
        return 3

    def refresh(self, grad, state, param, hyper):
        return {**state, "basis": grad.clone()}

    def direction(self, grad, state, param, hyper):
        return state["basis"], {**state, "step": state["step"] + 1}


def test_refresh_is_called_every_third_step():
    w = nn.Parameter(torch.zeros(1))
    optimizer = RuleOptimizer([w], EveryThird(), lr=1.0)
    path = []
    for t in range(6):
        w.grad = torch.tensor([10.0**t])
        optimizer.step()
        path.append(w.item())
    assert path == [-1, -2, -3, -1003, -2003, -3003]


def test_observing_needs_a_rule_that_observes():
    optimizer = optim.SGD([nn.Parameter(torch.ones(1))])
    with pytest.raises(TypeError, match="SGD observes nothing"):
        optimizer.observe([torch.ones(1)])


@pytest.mark.parametrize("compile", [False, True])
def test_two_hypers_that_are_equal_at_first_may_part(compile):
    w = nn.Parameter(torch.tensor([2.0]))
    optimizer = optim.SGD([w], lr=0.5, weight_decay=0.5, compile=compile)
    w.grad = torch.tensor([1.0])
    optimizer.step()  # 2 - 0.5 * 1 - 0.5 * 0.5 * 2
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()  # 1 - 0.25 * 1 - 0.25 * 0.5 * 1
    assert w.item() == 0.625


@pytest.mark.parametrize("change", ["replaced", "moved", "cleared", "paused"])
def test_a_step_sees_what_changed_between_steps(change):
    def run(optimizer_of):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(300, 300))]
        optimizer = optimizer_of(params)
        for t in range(6):
            for param in params:
                param.grad = gradient(*param.shape, t + 1).float()
            if t == 3:
                if change == "replaced":
                    for param in params:
                        optimizer.state[param]["exp_avg" if "exp_avg" in optimizer.state[param] else "mean"] = (
                            torch.ones_like(param)
                        )
                elif change == "moved":
                    for param in params:
                        param.data = param.data.clone().t().contiguous().t() * 2
                elif change == "cleared":
                    optimizer.state.clear()
                else:
                    params[0].grad = None
            optimizer.step()
        return [param.detach() for param in params]

    ours, theirs = run(lambda p: optim.AdamW(p, lr=0.1)), run(lambda p: torch.optim.AdamW(p, lr=0.1))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in rules.RULES if rule.event == "matrix"])
def test_matrices_of_one_shape_are_stepped_as_a_batch(rule):
    results = []
    for foreach in (False, True):
        torch.manual_seed(0)
        shapes = ((3, 4), (4, 3), (3, 4), (3, 2, 2), (5,), (5,))  # a kernel (3, 2, 2) is a matrix (3, 4)
        params = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
        optimizer = RuleOptimizer(params, rule(), foreach=foreach, weight_decay=0.1)
        train(optimizer, params, 4)
        states = [value.flatten() for param in params for value in optimizer.state[param].values()]
        results.append(torch.cat([*(param.detach().flatten() for param in params), *states]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [rules.Muon, rules.Conda, rules.AdamP])
def test_a_traced_step_is_the_rules_own(rule, monkeypatch):
    ends = []
    for traced_from in (1, 1 << 30):
        monkeypatch.setattr(optimizer_module, "SMALL", traced_from)
        params = [nn.Parameter(weights(3, 4)), nn.Parameter(weights(4, 3))]
        train(RuleOptimizer(params, rule(), weight_decay=0.1), params, 3)
        ends.append(torch.cat([param.detach().flatten() for param in params]))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def of_many_sizes(sizes, compile):
    """Parameters after three steps of DiffGrad."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(size)) for size in sizes]
    optimizer = optim.DiffGrad(params, lr=0.1, compile=compile)
    train(optimizer, params, 3)
    return torch.cat([param.detach().flatten() for param in params])


@pytest.mark.parametrize("sizes", [((16, 2), (16,), (24,), (3,), (9,)), ((1,),), ((),)])
def test_one_compiled_program_serves_every_size(monkeypatch, sizes):
    monkeypatch.setattr(in_place, "SMALL", 8)
    made = []
    monkeypatch.setattr(compiled, "compiled", lambda *_, **__: pytest.fail("inductor could not take the program"))
    monkeypatch.setattr(
        in_place, "compiled_for_vectors", lambda *args: made.append(compiled.compiled_for_vectors(*args)) or made[-1]
    )
    torch.testing.assert_close(of_many_sizes(sizes, compile=True), of_many_sizes(sizes, compile=False))
    assert len(made) == 1


def test_a_program_that_inductor_does_not_take_goes_through_torch_compile(monkeypatch):
    sizes = ((5,), (3, 2))

    def changed(*_):
        raise TypeError("another interface")

    monkeypatch.setattr(compiled, "_by_inductor", changed)
    torch.testing.assert_close(of_many_sizes(sizes, compile=True), of_many_sizes(sizes, compile=False))


@pytest.mark.parametrize("kind", [kind for kind in rules.RULES if kind.event == "element"])
def test_numbers_as_floats_are_those_of_tensors(kind):
    rule, tensor = kind(), torch.zeros(3)
    state = {name: torch.tensor(6.0) if name == "step" else value for name, value in rule.init(tensor).items()}
    hyper = {name: as_hyper(value) for name, value in rule.defaults().items()}
    program = in_place.InPlaceStep(rule, tensor, tensor, state, hyper, False)
    scalars = program._scalars(hyper, state)
    floats, tensors = program.hoisted.floats(scalars), program.hoisted.numbers(scalars)
    assert floats is not None
    for ours, theirs in zip(floats, tensors, strict=True):
        numpy.testing.assert_allclose(ours, [float(t) for t in theirs], rtol=1e-15 if program.is_plain else 1e-7)


def test_numbers_that_floats_cannot_have_are_tensors():
    def halves(scalars, tensors):
        return [tensors[0] * (1 / scalars[0]), scalars[0] ** scalars[0]]

    hoisted = hoist.Hoisted(halves, [as_hyper(2.0)], [torch.ones(2)])
    assert hoisted.floats([as_hyper(2.0)]) == ([4.0], [0.5])
    assert hoisted.floats([as_hyper(0.0)]) is None
    assert hoisted.floats([as_hyper(1e4)]) is None  # 1e4 to the power of 1e4
    assert hoisted.floats([as_hyper(2.0).to("meta")]) is None
    sines = hoist.Hoisted(lambda s, t: [t[0] * s[0].sin()], [as_hyper(2.0)], [torch.ones(2)])
    assert sines.floats([as_hyper(2.0)]) is None


def test_compiled_sigmoid():
    x = torch.cat([torch.linspace(-86, 86, 100_001), torch.tensor([0.0, 1e-30, 1e30, torch.inf])])
    numpy.testing.assert_allclose(compiled._sigmoid(x), scipy.special.expit(x.double().numpy()), rtol=2e-7)
    assert compiled._sigmoid(torch.tensor([-1e30, -torch.inf])).max() < 1e-37
    assert compiled._sigmoid(torch.tensor(torch.nan)).isnan()


@pytest.mark.parametrize("rule", [rules.AdaGradNorm, lambda **kw: rules.MFAC(window=4, **kw)])
def test_vector_rules_take_a_group_as_one_vector_or_each_parameter_alone(rule):
    def trained(scope, groups):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((2, 3), (4,))]
        optimizer = RuleOptimizer([{"params": [p]} for p in params] if groups else params, rule(scope=scope), lr=0.1)
        train(optimizer, params, 3)
        return torch.cat([p.detach().flatten() for p in params])

    assert torch.equal(trained("param", groups=False), trained("group", groups=True))
    assert not torch.equal(trained("group", groups=False), trained("group", groups=True))
    with pytest.raises(ValueError, match="scope must be one of 'group', 'param'; got 'all'"):
        rule(scope="all")


@pytest.mark.parametrize("decay", ["decoupled", "l2"])
@pytest.mark.parametrize("rule", [rules.AdamW, rules.AdamP, rules.Conda])
def test_no_decay_is_a_decay_of_nought(rule, decay):
    ends = []
    for nought in (0.0, torch.tensor(0.0)):  # a tensor may change: its decay is computed
        net = model()
        statics = {"window": 4} if rule is rules.MFAC else {}
        optimizer = RuleOptimizer(net.parameters(), rule(decay=decay, **statics), weight_decay=nought)
        train(optimizer, list(net.parameters()), 3)
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
