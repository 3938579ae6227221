"""Each rule against numbers and implementations that share no code with it.

Golden values: weights after three steps on the problem of ``golden.py`` with lr 0.1 and decay 0.1 unless said,
computed with an independent NumPy script in float64 from the papers' formulas.
"""

import adabelief_pytorch
import adamp
import lion_pytorch
import numpy as np
import pytest
import torch

from minimand import optim
from minimand.optim import rules
from minimand.optim.rule import sign

from .golden import fingerprint, gradient, run, weights

L2 = {"decay": "l2"}


@pytest.mark.parametrize(
    ("optimizer", "options", "expected", "tolerance"),
    [
        (optim.AdamW, {"weight_decay": 0.0}, (0.109671762, 7.169055984, 0.783083166, -0.792748119), 1e-8),
        (optim.AdamW, {}, (0.111975224, 6.766949018, 0.760157177, -0.773888409), 1e-8),
        (optim.Lion, {}, (0.078349002, 6.464203719, 0.917468455, -0.617646166), 1e-8),
        (optim.LionK, {}, (0.078349002, 6.464203719, 0.917468455, -0.617646166), 1e-8),
        (optim.Muon, {}, (0.151978287, 6.245287768, 0.844582437, -0.688925854), 1e-6),
        (
            optim.Muon,
            {"adjust_lr": "match_rms_adamw"},
            (-0.012199284, 6.016499544, 0.827720048, -0.587952041),
            1e-6,
        ),
        (
            optim.AdaBelief,
            {"eps": 1e-8, "weight_decay": 0.0},
            (0.139853881, 7.302306854, 0.775870141, -0.825960853),
            1e-8,
        ),
        (optim.AdaBelief, {}, (0.117995122, 6.940163746, 0.753167810, -0.806740764), 1e-8),
        (optim.DiffGrad, {"weight_decay": 0.0}, (0.082207406, 6.682401599, 0.804266499, -0.702701058), 1e-8),
        (optim.AdamP, {}, (0.115348461, 6.431272090, 0.737298218, -0.759670779), 1e-8),
        (optim.AdamP, {"delta": 10.0}, (0.157953170, 6.430132443, 0.771777479, -0.758319855), 1e-8),
        (optim.SGDP, {"delta": 10.0}, (0.129622414, 6.159592378, 0.814852315, -0.812437420), 1e-8),
    ],
)
def test_three_steps_give_the_golden_weights(optimizer, options, expected, tolerance):
    w = run(optimizer, **{"lr": 0.1, "weight_decay": 0.1, **options})
    assert fingerprint(w) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("ours", "options", "theirs", "peer_options"),
    [
        (optim.SGD, {"lr": 0.1}, torch.optim.SGD, {"lr": 0.1}),
        (optim.SGD, {"lr": 0.1, "weight_decay": 0.2, **L2}, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
        (
            optim.Momentum,
            {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2, **L2},
            torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2},
        ),
        (
            optim.Momentum,
            {"lr": 0.1, "momentum": 0.8, "nesterov": True},
            torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.8, "nesterov": True},
        ),
        (
            optim.AdamW,
            {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
            torch.optim.AdamW,
            {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
        ),
        (
            optim.AdamW,
            {"lr": 0.1, "weight_decay": 0.3, **L2},
            torch.optim.Adam,
            {"lr": 0.1, "weight_decay": 0.3},
        ),
        (
            optim.AdaBelief,
            {"lr": 0.1, "weight_decay": 0.3, "eps": 1e-6},
            adabelief_pytorch.AdaBelief,
            {"lr": 0.1, "weight_decay": 0.3, "eps": 1e-6, "rectify": False, "print_change_log": False},
        ),
        (
            optim.AdamP,
            {"lr": 0.1, "weight_decay": 0.3},
            adamp.AdamP,
            {"lr": 0.1, "weight_decay": 0.3, "eps": 1e-8},
        ),
        (  # adamp projects the buffer too, unless nesterov makes a copy of it
            optim.SGDP,
            {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3, "nesterov": True, "delta": 1.0},
            adamp.SGDP,
            {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3, "nesterov": True, "delta": 1.0, "eps": 1e-12},
        ),
        (optim.AdaGrad, {"lr": 0.1}, torch.optim.Adagrad, {"lr": 0.1}),
        (
            optim.AdaGrad,
            {"lr": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3, "weight_decay": 0.3, **L2},
            torch.optim.Adagrad,
            {"lr": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3, "weight_decay": 0.3},
        ),
        (
            optim.Lion,
            {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.3},
            lion_pytorch.Lion,
            {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.3},
        ),
    ],
)
def test_ten_steps_equal_an_established_implementation(ours, options, theirs, peer_options):
    # adamp adds its eps to the norms that it divides by; the others agree to rounding.
    tolerance = 1e-9 if theirs in (adamp.AdamP, adamp.SGDP) else 1e-11
    torch.testing.assert_close(
        run(ours, steps=10, **options), run(theirs, steps=10, **peer_options), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(6, 8), (8, 3)])
def test_muon_in_bfloat16_equals_torch_muon_to_its_precision(adjust, shape):
    # Gradients of full rank: bfloat16 noise in a null direction would be amplified to a step of its own.
    ends = []
    for make in (
        lambda p: optim.Muon(p, lr=0.02, weight_decay=0.1, adjust_lr=adjust, ns_dtype=torch.bfloat16),
        lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.1, adjust_lr_fn=adjust),
    ):
        generator = torch.Generator().manual_seed(0)
        param = torch.nn.Parameter(weights(*shape))
        optimizer = make([param])
        for _ in range(3):
            param.grad = torch.randn(*shape, generator=generator, dtype=torch.float64)
            optimizer.step()
        ends.append(param)
    # Three steps of 0.033 an entry, each to 2^-8 times what five iterations make of a rounding.
    torch.testing.assert_close(*ends, rtol=0, atol=3e-3)


def test_newton_schulz_acts_on_singular_values_alone():
    u, _ = torch.linalg.qr(gradient(5, 5, 1))
    v, _ = torch.linalg.qr(gradient(5, 5, 2))
    inner = torch.diag(torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    out = u.T @ rules.orthogonalise(u @ inner @ v.T) @ v
    assert out[0, 0].item() == pytest.approx(0.7228761, abs=1e-6)
    assert out[1, 1].item() == pytest.approx(1.1192039, abs=1e-6)


def test_orthogonalised_singular_values_lie_around_one():
    generator = torch.Generator().manual_seed(0)
    for rows, cols in [(8, 8), (5, 20), (20, 5)]:
        matrix = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
        before = torch.linalg.svdvals(matrix) / matrix.norm()
        after = torch.linalg.svdvals(rules.orthogonalise(matrix))
        assert ((after[before > 0.02] > 0.6818) & (after[before > 0.02] < 1.1344)).all()


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 10])
@pytest.mark.parametrize("spectrum", ["even", "steep", "singular"])
def test_steps_by_the_gram_matrix_are_those_of_the_iteration(steps, spectrum):
    generator = torch.Generator().manual_seed(steps)
    u, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(60, 12, generator=generator, dtype=torch.float64))
    decades = {"even": torch.zeros(12), "steep": torch.linspace(0, -9, 12), "singular": torch.linspace(0, -2, 12)}
    values = 10.0 ** decades[spectrum].double()
    if spectrum == "singular":
        values[4:] = 0
    matrix = u * values @ v.T
    wanted = (values / values.norm()).tolist()  # a Newton-Schulz step is a polynomial of each singular value
    for _ in range(steps):
        wanted = [3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5 for s in wanted]
    wanted = u * torch.tensor(wanted, dtype=torch.float64) @ v.T
    for given, result in ((matrix, wanted), (matrix.T, wanted.T)):
        torch.testing.assert_close(rules.orthogonalise(given, steps), result, rtol=0, atol=1e-7)
        single = rules.orthogonalise(given.float(), steps)
        torch.testing.assert_close(single.double(), result, rtol=0, atol=5e-3 if steps == 10 else 2e-5)


def test_adagrad_norm_takes_the_steps_computed_by_hand():
    x = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = optim.AdaGradNorm([x], lr=0.5, initial_norm=0.1)
    for grad in ([3.0, 4.0], [0.0, 1.0]):
        x.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
    assert x.tolist() == pytest.approx([0.700059982, 0.502040760], abs=1e-8)


def test_adabelief_on_constant_gradients_forgets_the_spread():
    # Steps in units of lr from S_t = (1 - b2) sum b2^(t - k) b1^(2k) / (1 - b2^t), summed with NumPy.
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = optim.AdaBelief([w], lr=1.0)
    steps = []
    for _ in range(100):
        before = w.item()
        w.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        steps.append(before - w.item())
    for t in (1, 10, 100):
        k = np.arange(1, t + 1)
        spread = (1 - 0.999) * np.sum(0.999 ** (t - k) * 0.9 ** (2 * k)) / (1 - 0.999**t)
        assert steps[t - 1] == pytest.approx(1 / np.sqrt(spread), rel=1e-6)


def test_diffgrad_halves_adams_step_on_constant_gradients():
    ours = run_constant(optim.DiffGrad)
    adam = run_constant(optim.AdamW, weight_decay=0.0)
    assert np.diff(ours) == pytest.approx(0.5 * np.diff(adam), rel=1e-12)


def run_constant(optimizer_class, **options):
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = optimizer_class([w], lr=0.1, **options)
    path = []
    for _ in range(5):
        w.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        path.append(w.item())
    return path


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("l2", lambda x, _: x / np.linalg.norm(x)),
        ("identity", lambda x, _: x),
        ("dead_zone", lambda x, d: np.sign(x) * (np.abs(x) > d)),
    ],
)
def test_lion_k_steps_along_its_kernels_gradient(kernel, expected):
    w = run(optim.LionK, steps=1, kernel=kernel, lr=1.0, **({"dead_zone": 0.05} if kernel == "dead_zone" else {}))
    ahead = 0.1 * gradient(3, 4, 1).numpy()
    np.testing.assert_allclose((weights(3, 4) - w).numpy(), expected(ahead, 0.05), atol=1e-12)


def test_lion_k_nuclear_kernel_is_close_to_the_polar_factor():
    w = run(optim.LionK, steps=1, kernel="nuclear", lr=1.0, rows=4, cols=4)
    u, s, vh = np.linalg.svd(gradient(4, 4, 1).numpy())
    inside = u.T @ (weights(4, 4) - w).numpy() @ vh.T
    large = s / np.linalg.norm(s) > 0.02
    assert np.all((np.diag(inside)[large] > 0.68) & (np.diag(inside)[large] < 1.14))


def test_lion_with_decay_settles_inside_the_box_at_the_constrained_minimum():
    # min over |x| <= 1/2 of |x - 2|^2 + |x + 0.1|^2 coordinatewise: 0.5 and -0.1.
    x = torch.nn.Parameter(torch.tensor([3.0, 3.0], dtype=torch.float64))
    optimizer = optim.Lion([x], lr=1e-2, weight_decay=2.0)
    centre = torch.tensor([2.0, -0.1], dtype=torch.float64)
    for t in range(4000):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - t / 4000)
        x.grad = x.detach() - centre
        optimizer.step()
    assert x.tolist() == pytest.approx([0.5, -0.1], abs=2e-3)


def test_radial_projection_leaves_nothing_along_the_weight():
    w, u = weights(3, 4), gradient(3, 4, 2)
    tangent = gradient(3, 4, 1)
    tangent = tangent - (tangent * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True) * w
    projected, happened = rules.radial_projection(u, w, tangent, 0.1)
    assert happened
    assert (projected * w).sum(1).abs().max() < 1e-12


def test_sgdp_projects_its_step_and_not_its_buffer():
    w, grads = weights(3, 4), [gradient(3, 4, t) for t in (1, 2)]
    rule, hyper = rules.SGDP(), {"lr": 1.0, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "wd_ratio": 0.1}
    hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in {**hyper, "delta": 10.0}.items()}
    state = rule.init(w)
    for grad in grads:
        step, state = rule.update(grad, state, w, hyper)
    torch.testing.assert_close(state["mean"], 0.9 * grads[0] + grads[1], rtol=0, atol=1e-15)
    assert (step * w).sum(1).abs().max() < 1e-14


def test_momentum_grows_a_scale_invariant_weight_as_the_lemma_says():
    # Gradients of w^T A w / (2 w^T w): the scale of w changes nothing.
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = matrix @ matrix.T
    w = torch.randn(6, generator=generator, dtype=torch.float64)
    start, momentum, norms = w.square().sum(), torch.zeros_like(w), []
    for _ in range(40):
        unit = w / w.norm()
        grad = (matrix @ unit - (unit @ matrix @ unit) * unit) / w.norm()
        momentum = 0.9 * momentum + grad
        w = w - 0.05 * momentum
        norms.append(momentum.norm())
    growth = rules.scale_invariant_norm_growth(torch.stack(norms), lr=0.05, beta=0.9)
    assert growth.item() == pytest.approx((w.square().sum() - start).item(), rel=1e-12)


def test_matrix_groups_keep_embeddings_and_the_head_from_muon():
    model = torch.nn.Sequential(
        torch.nn.Embedding(10, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 10)
    )
    matrix, rest = optim.matrix_groups(model)
    assert [name for name, _ in matrix["params"]] == ["1.weight"]
    assert {name for name, _ in rest["params"]} == {"0.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"}
    optim.Muon([matrix, rest])


def test_a_convolution_kernel_is_stepped_as_its_matrix_view():
    kernel = torch.nn.Parameter(weights(3, 8).reshape(3, 2, 2, 2))
    kernel.grad = gradient(3, 8, 1).reshape(3, 2, 2, 2)
    optim.Muon([kernel], lr=0.1).step()
    torch.testing.assert_close(kernel.reshape(3, 8), run(optim.Muon, steps=1, rows=3, cols=8, lr=0.1))


def test_what_is_no_matrix_takes_adamws_step():
    bias = torch.nn.Parameter(weights(1, 4)[0])
    bias.grad = gradient(1, 4, 1)[0]
    optim.Muon([bias], fallback_lr=0.1, fallback_weight_decay=0.1).step()
    peer = torch.nn.Parameter(weights(1, 4)[0])
    peer.grad = gradient(1, 4, 1)[0]
    torch.optim.AdamW([peer], lr=0.1, betas=(0.9, 0.95), weight_decay=0.1).step()
    torch.testing.assert_close(bias, peer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sign_of_every_size_keeps_nan(dtype):
    x = torch.tensor([-torch.inf, -1e30, -1e-37, 0.0, 1e-37, 2.0, torch.inf], dtype=dtype)
    assert torch.equal(sign(x), torch.sign(x))
    assert sign(torch.tensor(torch.nan, dtype=dtype)).isnan()
