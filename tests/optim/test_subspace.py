"""NorMuon, Conda, FRUGAL and Sophia against NumPy, closed forms and one another.

Golden values: weights after three steps on the problem of ``golden.py`` with lr 0.1 and decay 0.1, computed with an
independent NumPy script in float64 from the papers' formulas.
"""

import numpy as np
import pytest
import torch

from minimand import optim
from minimand.hyper import as_hyper
from minimand.optim import rules
from minimand.optim.rules.subspace import scrambled, singular_basis

from .golden import fingerprint, gradient, run, weights

GOLDEN = {"lr": 0.1, "weight_decay": 0.1}


def numbers(rule, **values):
    return {name: as_hyper(value) for name, value in {**rule.defaults(), **values}.items()}


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        (optim.NorMuon, {}, (0.021660599, 6.013964737, 0.835414119, -0.594632304)),
        (
            optim.NorMuon,
            {"nesterov": True, "scale": "muon"},
            (0.140610247, 6.254595717, 0.850176542, -0.688014762),
        ),
        (optim.Conda, {"gap": 2}, (-0.089989302, 5.957376568, 0.810590583, -0.578977896)),
    ],
)
def test_three_steps_give_the_golden_weights(optimizer, options, expected):
    assert fingerprint(run(optimizer, **GOLDEN, **options)) == pytest.approx(expected, abs=1e-6)


def test_frugal_on_chosen_columns_gives_the_golden_weights():
    rule = rules.Frugal(select="columns", density=0.5, gap=2)
    hyper, w = numbers(rule, **GOLDEN), weights(3, 4)
    state = rule.init(w)
    for t, columns in ((1, [0, 2]), (2, None), (3, [1, 3])):
        if columns is not None:
            state = {**rule.refresh(gradient(3, 4, t), state, w, hyper), "index": torch.tensor(columns)}
        step, state = rule.update(gradient(3, 4, t), state, w, hyper)
        w = w + step
    assert fingerprint(w) == pytest.approx((0.121044315, 6.609346812, 0.810891004, -0.617646174), abs=1e-8)


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (0.05, (0.534424545, 7.070854685, 0.719468455, -0.817646166)),
        (5.0, (0.150163809, 6.677640197, 0.750508254, -0.807301054)),
    ],
)
def test_sophia_observing_squared_gradients_gives_the_golden_weights(gamma, expected):
    w = torch.nn.Parameter(weights(3, 4))
    optimizer = optim.Sophia([w], gamma=gamma, **GOLDEN)
    for t in (1, 2, 3):
        w.grad = gradient(3, 4, t)
        optimizer.observe([w.grad.square()])
        optimizer.step()
    assert fingerprint(w.detach()) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("shape", [(6, 8), (8, 3)])
def test_normuons_first_step_has_rows_of_one_length_and_adamws_size(shape):
    step = weights(*shape) - run(optim.NorMuon, steps=1, rows=shape[0], cols=shape[1], lr=0.1)
    np.testing.assert_allclose(step.norm(dim=1), step.norm(dim=1).mean(), rtol=1e-6)
    assert step.norm().item() == pytest.approx(0.2 * 0.1 * (shape[0] * shape[1]) ** 0.5, rel=1e-12)


def test_normuon_at_muons_scale_steps_as_far_as_muon():
    lengths = [
        (weights(8, 3) - run(kind, steps=1, rows=8, cols=3, lr=0.1, **options)).norm().item()
        for kind, options in ((optim.NorMuon, {"nesterov": True, "scale": "muon"}), (optim.Muon, {}))
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-9)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_conda_equals_a_plain_numpy_loop(shape):
    rule = rules.Conda(gap=2)
    hyper = numbers(rule, lr=0.1, weight_decay=0.0)
    w, state = random(*shape), rule.init(random(*shape))
    plain, mean, square = w.numpy().copy(), np.zeros(shape), np.zeros(shape)
    tall = shape[0] >= shape[1]
    for t in range(1, 6):
        grad = random(*shape, seed=t)
        if t % 2:
            state = rule.refresh(grad, state, w, hyper)
        step, state = rule.update(grad, state, w, hyper)
        w = w + step
        mean = 0.9 * mean + 0.1 * grad.numpy()
        if t % 2:
            left, _, right = np.linalg.svd(mean, full_matrices=False)
        there, back = (
            (lambda x, q=right: x @ q.T, lambda x, q=right: x @ q)
            if tall
            else (
                lambda x, q=left: q.T @ x,
                lambda x, q=left: q @ x,
            )
        )
        square = 0.99 * square + 0.01 * there(grad.numpy()) ** 2
        size = 0.1 * 0.25 * np.sqrt(1 - 0.99**t) / (1 - 0.9**t)
        plain -= size * back(there(mean) / (np.sqrt(square) + 1e-8))
    np.testing.assert_allclose(w.numpy(), plain, atol=1e-12)


def test_conda_without_a_basis_is_adam_times_its_scale():
    conda, adam = rules.Conda(), rules.AdamW()
    w, states = weights(3, 4), [conda.init(weights(3, 4)), adam.init(weights(3, 4))]
    for t in (1, 2, 3):
        ours, states[0] = conda.direction(gradient(3, 4, t), states[0], w, numbers(conda, eps=0.0, scale=0.5))
        theirs, states[1] = adam.direction(gradient(3, 4, t), states[1], w, numbers(adam, eps=0.0, beta2=0.99))
        torch.testing.assert_close(ours, 0.5 * theirs, rtol=1e-12, atol=0)


def test_conda_turns_with_its_weights():
    turn = torch.linalg.qr(random(4, 4, seed=9)).Q
    rule = rules.Conda(gap=1)
    hyper = numbers(rule)
    states = [rule.init(random(6, 4))] * 2
    for t in (1, 2, 3):
        steps = []
        for i, grad in enumerate((random(6, 4, seed=t), random(6, 4, seed=t) @ turn)):
            state = rule.refresh(grad, states[i], grad, hyper)
            step, states[i] = rule.update(grad, state, grad, hyper)
            steps.append(step)
        torch.testing.assert_close(steps[0] @ turn, steps[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_basis_holds_singular_vectors_from_the_largest_value_down(dtype):
    for shape in ((5, 9), (9, 5), (7, 7)):
        matrix = random(*shape, dtype=dtype)
        left, _, right = np.linalg.svd(matrix.double().numpy())
        vectors = right[: shape[1]].T if shape[0] >= shape[1] else left
        overlap = np.abs(vectors[:, :3].T @ singular_basis(matrix, 3).double().numpy())
        np.testing.assert_allclose(overlap, np.eye(3), atol=1e-5 if dtype == torch.float32 else 1e-10)


def test_float32_tells_apart_small_singular_values_as_well_as_an_svd_does():
    left, right = (torch.linalg.qr(random(6, 6, seed=s)).Q for s in (1, 2))
    values = torch.tensor([1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5], dtype=torch.float64)
    matrix = ((left * values) @ right.T).float()
    ours = (singular_basis(matrix).double().T @ right).abs().diagonal()
    svd = (torch.linalg.svd(matrix).Vh.double() @ right).abs().diagonal()
    assert (1 - ours).max() < 2 * (1 - svd).max() + 1e-6


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_the_basis_is_orthonormal_whatever_the_matrix(size):
    for matrix in (random(3, 5, dtype=torch.float32), torch.ones(5, 3), torch.full((2, 2), torch.nan)):
        basis = singular_basis(size * matrix)
        torch.testing.assert_close(basis.mT @ basis, torch.eye(min(matrix.shape)), rtol=0, atol=1e-6)
    assert singular_basis(torch.zeros(0, 4)).shape == (0, 0)
    assert singular_basis(torch.zeros(4, 3), 2).shape == (3, 2)


def test_frugal_that_keeps_all_is_adam_and_that_keeps_nothing_is_signsgd():
    for select in ("columns", "rows", "elements"):
        whole = run(optim.Frugal, select=select, density=1.0, gap=10, **GOLDEN)
        torch.testing.assert_close(whole, run(optim.AdamW, **GOLDEN), rtol=0, atol=1e-14)
    for select in ("svd", "columns"):
        nothing = run(optim.Frugal, select=select, density=0.0, **GOLDEN)
        torch.testing.assert_close(nothing, run(optim.SignSGD, **GOLDEN), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(8, 6), (6, 8)])
@pytest.mark.parametrize("free", ["sign", "sgd", "none"])
def test_frugal_along_singular_vectors_equals_a_plain_numpy_loop(shape, free):
    rule = rules.Frugal(free=free, density=0.3, gap=2)
    hyper = numbers(rule, free_scale=0.5)
    param, state = random(*shape), rule.init(random(*shape))
    for t in range(1, 5):
        grad = random(*shape, seed=t)
        if t % 2:
            state = rule.refresh(grad, state, param, hyper)
            mean = square = 0.0
            left, _, right = np.linalg.svd(grad.numpy(), full_matrices=False)
            onto_chosen = right[:2].T @ right[:2] if shape[0] >= shape[1] else left[:, :2] @ left[:, :2].T
            basis = right[:2].T if shape[0] >= shape[1] else left[:, :2]
        u, state = rule.direction(grad, state, param, hyper)
        g = grad.numpy()
        kept, back = (
            (g @ basis, lambda x, q=basis: x @ q.T)
            if shape[0] >= shape[1]
            else (
                basis.T @ g,
                lambda x, q=basis: q @ x,
            )
        )
        mean, square = 0.9 * mean + 0.1 * kept, 0.999 * square + 0.001 * kept**2
        count = 2 - t % 2
        inner = mean / (1 - 0.9**count) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
        rest = g - (g @ onto_chosen if shape[0] >= shape[1] else onto_chosen @ g)
        free_part = {"sign": np.sign(rest), "sgd": rest, "none": 0 * rest}[free]
        np.testing.assert_allclose(u.numpy(), back(inner) + 0.5 * free_part, atol=1e-10)


def test_what_a_projection_leaves_of_nothing_takes_no_sign():
    left, right = random(6, 2, dtype=torch.float32), random(2, 9, seed=1, dtype=torch.float32)
    rule = rules.Frugal(density=1 / 3)
    grad = left @ right  # of rank 2, and two directions are kept
    state = rule.refresh(grad, rule.init(grad), grad, numbers(rule))
    with_signs, _ = rule.direction(grad, state, grad, numbers(rule))
    without, _ = rule.direction(grad, state, grad, numbers(rule, free_scale=0.0))
    assert torch.equal(with_signs, without)


@pytest.mark.parametrize(("select", "count"), [("columns", 10), ("rows", 6), ("elements", 60)])
def test_every_line_is_chosen_about_as_often_as_any_other(select, count):
    rule = rules.Frugal(select=select, density=0.5)
    param, hyper = weights(6, 10), numbers(rule)
    state, chosen = rule.init(param), torch.zeros(count)
    for _ in range(200):
        state = rule.refresh(param, state, param, hyper)
        assert len(state["index"].unique()) == count // 2
        chosen[state["index"]] += 1
    assert (chosen - 100).abs().max() < 30  # four standard deviations of a fair draw
    assert torch.equal(state["index"], _last_choice(rule, param, hyper, 200))  # the same again from the same seed
    other = rules.Frugal(select=select, density=0.5, seed=1)
    assert not torch.equal(state["index"], _last_choice(other, param, hyper, 200))


def _last_choice(rule, param, hyper, refreshes):
    state = rule.init(param)
    for _ in range(refreshes):
        state = rule.refresh(param, state, param, hyper)
    return state["index"]


def test_scrambling_is_splitmix64s():
    wide = (1 << 64) - 1

    def plain(x):
        x = x * 0x9E3779B97F4A7C15 & wide
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & wide
        x = (x ^ x >> 27) * 0x94D049BB133111EB & wide
        return x ^ x >> 31

    values = [0, 1, 2, 1234567, 2**62, -5]
    found = scrambled(torch.tensor(values)).tolist()
    assert [x & wide for x in found] == [plain(x & wide) for x in values]


def test_frugal_goes_on_from_a_checkpoint_in_bfloat16_bit_for_bit():
    def stepped(optimizer, param, steps):
        for t in steps:
            param.grad = random(8, 400, seed=t).bfloat16()
            optimizer.step()

    whole = torch.nn.Parameter(random(8, 400).bfloat16())
    options = {"select": "columns", "gap": 3}
    stepped(optim.Frugal([whole], **options), whole, range(8))
    first = torch.nn.Parameter(random(8, 400).bfloat16())
    stopped = optim.Frugal([first], **options)
    stepped(stopped, first, range(4))
    other = optim.Frugal([first], **options)
    other.load_state_dict(stopped.state_dict())
    assert torch.equal(other.state[first]["index"], stopped.state[first]["index"])  # past 256 bfloat16 skips
    stepped(other, first, range(4, 8))
    assert torch.equal(first, whole)


def test_a_trial_that_diverges_refreshes_without_harm():
    for rule in (rules.Conda(), rules.Frugal()):
        grads = torch.stack([random(4, 6), torch.full((4, 6), torch.nan, dtype=torch.float64)])
        state = {name: torch.stack([value] * 2) for name, value in rule.init(grads[0]).items()}
        hyper = {name: value.expand(2) for name, value in numbers(rule).items()}
        state = torch.func.vmap(rule.refresh)(grads, state, grads, hyper)
        step, _ = rule.batched()(grads, state, grads, hyper)
        assert step[0].isfinite().all()
        assert step[1].isnan().all()


def test_the_momentum_that_the_basis_is_made_from_has_the_l2_decay_in_it():
    rule = rules.Conda(decay="l2")
    hyper = numbers(rule, weight_decay=0.5)
    grad, param = random(3, 5), random(3, 5, seed=1)
    basis = rule.refresh(grad, rule.init(param), param, hyper)["basis"]
    torch.testing.assert_close(basis, singular_basis(grad + 0.5 * param), rtol=0, atol=1e-12)


def test_sophia_steps_by_newton_where_curvature_is_large_and_by_sign_elsewhere():
    rule = rules.Sophia()
    hyper = numbers(rule, lr=1.0, gamma=1.0, weight_decay=0.0, beta1=0.0, beta2=0.0)
    x = torch.tensor([3.0, 3.0, -3.0, 0.0])
    state = rule.observe(torch.tensor([30.0, 0.0, -4.0, 0.0]), rule.init(x), x, hyper)
    step, _ = rule.update(x, state, x, hyper)
    assert step.tolist() == pytest.approx([-0.1, -1.0, 1.0, 0.0])


def test_what_sophia_observes_must_have_the_parameters_shape():
    rule, x = rules.Sophia(), torch.zeros(3)
    with pytest.raises(ValueError, match=r"info must have param's shape \(3,\); got \(4,\)"):
        rule.observe(torch.zeros(4), rule.init(x), x, numbers(rule))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rules.Conda(gap=0), "gap must be at least 1; got 0"),
        (
            lambda: rules.Frugal(select="blocks"),
            "select must be one of 'svd', 'columns', 'rows', 'elements'; got 'blocks'",
        ),
        (lambda: rules.Frugal(free="adam"), "free must be one of 'sign', 'sgd', 'none'; got 'adam'"),
        (lambda: rules.Frugal(density=1.5), r"density must lie in \[0, 1\]; got 1.5"),
        (lambda: rules.NorMuon(scale="adam"), "scale must be one of 'rms', 'muon'; got 'adam'"),
    ],
)
def test_a_wrong_static_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
