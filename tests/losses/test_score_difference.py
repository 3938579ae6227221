"""Comp-sum and label-distributionally-robust losses against their definitions, limits and golden numbers."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
import torch.nn.functional as F

from minimand.divergences import alpha, cvar, kl, pearson, total_variation
from minimand.losses import (
    comp_sum_bound,
    comp_sum_loss,
    generalised_cross_entropy_loss,
    ldr_loss,
    score_differences,
    smooth_adversarial_comp_sum,
)

# A worked sample; its losses were computed from the definitions in 40-digit arithmetic.
LOGITS = torch.tensor([[1, 2, -0.5, 0.3], [0, -1, 3, 0.2]], dtype=torch.float64)
TARGET = torch.tensor([1, 0])


def random_scores(rows: int = 50, classes: int = 6, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize(
    ("tau", "golden"),
    [
        (0.0, [0.63264796, 21.67481912]),
        (0.5, [0.55550227, 7.52361678]),
        (1.5, [0.43474997, 1.57999150]),
        (2.0, [0.38749809, 0.95589821]),
        (3.0, [0.31242070, 0.49902752]),
    ],
)
def test_comp_sum_has_the_golden_values(tau, golden):
    loss = comp_sum_loss(LOGITS, TARGET, tau=tau, reduction="none")
    assert loss.tolist() == pytest.approx(golden, abs=1e-8)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_comp_sum_at_one_is_cross_entropy(reduction):
    logits, target = random_scores()
    torch.testing.assert_close(
        comp_sum_loss(logits, target, reduction=reduction), F.cross_entropy(logits, target, reduction=reduction)
    )


def test_comp_sum_at_zero_is_the_sum_of_exponentials():
    logits, target = random_scores(classes=5)
    rows = zip(logits.tolist(), target.tolist(), strict=True)
    expected = [sum(math.exp(row[k] - row[y]) for k in range(5) if k != y) for row, y in rows]
    np.testing.assert_allclose(comp_sum_loss(logits, target, tau=0.0, reduction="none").numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("distance", [0.0, 1e-15, 1e-9, 1e-4, 1e-2, 0.3, -1e-9, -1e-3, -0.5])
def test_comp_sum_is_accurate_on_both_sides_of_one(distance):
    logits, target = random_scores()
    cross_entropy = scipy.special.logsumexp(logits.numpy(), axis=1) - logits.numpy()[np.arange(50), target.numpy()]
    rate = 1 - (1 + distance)
    expected = cross_entropy * scipy.special.exprel(rate * cross_entropy)
    loss = comp_sum_loss(logits, target, tau=1 + distance, reduction="none")
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("tau", [0.3, 1.0, 1 + 1e-12, 1.04, 1.7])
def test_comp_sum_gradient_in_tau_is_the_difference_quotient(tau):
    logits, target = random_scores(rows=5)
    point = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda t: comp_sum_loss(logits, target, tau=t, reduction="none"), point)
    torch.autograd.gradgradcheck(lambda t: comp_sum_loss(logits, target, tau=t, reduction="none"), point)


def test_comp_sum_gradient_is_the_power_of_the_probability():
    # dl/ds_y = -(1 - p_y) p_y^(tau - 1), from the definition by hand.
    logits, target = random_scores()
    logits.requires_grad_()
    comp_sum_loss(logits, target, tau=1.6, reduction="sum").backward()
    p = scipy.special.softmax(logits.detach().numpy(), axis=1)[np.arange(50), target.numpy()]
    np.testing.assert_allclose(logits.grad.numpy()[np.arange(50), target.numpy()], -(1 - p) * p**0.6, rtol=1e-10)


def test_a_confident_sample_keeps_its_relative_accuracy_in_float32():
    logits = torch.tensor([[30.0, 0.0, 1.0]])
    exact = math.log1p(math.exp(-30) + math.exp(-29))
    assert comp_sum_loss(logits, torch.tensor([0])).item() == pytest.approx(exact, rel=1e-6)


def test_comp_sum_past_the_cap_is_the_tangent():
    logits = torch.tensor([[0.0, 50.0]], dtype=torch.float64, requires_grad=True)
    loss = comp_sum_loss(logits, torch.tensor([0]), tau=0.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    entropy = math.log1p(math.exp(50))
    assert loss.item() == pytest.approx(math.expm1(40) + math.exp(40) * (entropy - 40), rel=1e-12)
    assert gradient[0, 1].item() == pytest.approx(math.exp(40), rel=1e-12)


def test_generalised_cross_entropy_is_its_formula():
    logits, target = random_scores()
    p = scipy.special.softmax(logits.numpy(), axis=1)[np.arange(50), target.numpy()]
    loss = generalised_cross_entropy_loss(logits, target, q=0.7, reduction="none")
    np.testing.assert_allclose(loss.numpy(), (1 - p**0.7) / 0.7, rtol=1e-12)


def test_generalised_cross_entropy_ends_are_cross_entropy_and_mean_absolute_error():
    logits, target = random_scores()
    torch.testing.assert_close(generalised_cross_entropy_loss(logits, target, q=0), F.cross_entropy(logits, target))
    p = logits.softmax(1).gather(1, target[:, None])
    torch.testing.assert_close(generalised_cross_entropy_loss(logits, target, q=1.0), (1 - p).mean())


def test_score_differences_are_zero_at_the_label_and_carry_the_margin_elsewhere():
    differences = score_differences(LOGITS, TARGET, margin=0.5)
    expected = [[-0.5, 0.0, -2.0, -1.2], [0.0, -0.5, 3.5, 0.7]]
    np.testing.assert_allclose(differences.numpy(), expected, atol=1e-15)


# --- the bound


@pytest.mark.parametrize(
    ("tau", "golden"), [(0.5, [0.00472501, 0.12562776, 0.51442627]), (1.5, [0.00575914, 0.13629391, 0.39879015])]
)
def test_the_bound_inverts_the_golden_transformation(tau, golden):
    bound = comp_sum_bound(torch.tensor(golden, dtype=torch.float64), tau, num_classes=3)
    assert bound.tolist() == pytest.approx([0.1, 0.5, 0.9], abs=1e-6)


def test_the_bound_at_tau_two_is_linear():
    assert comp_sum_bound(0.02, tau=2.0, num_classes=7).item() == pytest.approx(0.14, abs=1e-12)


def test_the_bound_is_continuous_through_tau_one():
    bounds = [comp_sum_bound(0.03, tau=1 + step, num_classes=5).item() for step in (-1e-6, 0.0, 1e-6)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)
    assert bounds[2] == pytest.approx(bounds[1], rel=1e-5)


def test_the_bound_is_one_where_the_gap_allows_anything():
    assert comp_sum_bound(1e6, tau=1.0, num_classes=2).item() == 1.0
    assert comp_sum_bound(0.0, tau=1.0, num_classes=2).item() < 1e-7


def conditional_regrets(p: np.ndarray, scores: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """0-1 regret and comp-sum regret of score vectors under label distributions, both in closed form.

    With q the softmax, E l = (1 - sum p q^(tau-1)) / (tau - 1), least at q ~ p^(1/(2-tau)) for tau < 2, and at
    q = the mode for tau >= 2.
    """
    rows = np.arange(len(p))
    zero_one = p.max(1) - p[rows, scores.argmax(1)]
    log_q = scipy.special.log_softmax(scores, axis=1)
    if tau == 1:
        return zero_one, (scipy.special.xlogy(p, p) - p * log_q).sum(1)
    risk = (1 - (p * np.exp((tau - 1) * log_q)).sum(1)) / (tau - 1)
    if tau >= 2:
        return zero_one, risk - (1 - p.max(1)) / (tau - 1)
    best = (1 - (p ** (1 / (2 - tau))).sum(1) ** (2 - tau)) / (tau - 1)
    return zero_one, risk - best


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.3, 1.7, 2.0, 2.5])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_zero_one_regret_never_passes_the_bound(tau, classes):
    rng = np.random.default_rng(classes)
    p = rng.dirichlet(np.ones(classes) * rng.choice([0.3, 1, 5]), size=4000)
    scores = np.concatenate([rng.normal(size=(2000, classes)) * 2, np.log(p[2000:]) + rng.normal(size=(2000, classes))])
    zero_one, surrogate = conditional_regrets(p, scores, tau)
    bound = comp_sum_bound(torch.from_numpy(np.maximum(surrogate, 0)), tau, classes).numpy()
    assert (zero_one <= bound + 1e-7).all()


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_the_bound_is_tight_up_to_tau_one(tau):
    # Two likely labels a hair apart, scores tied between them: the worst case of the theorem.
    regret = 0.4
    p = np.array([[(1 + regret) / 2, (1 - regret) / 2, 0.0]])
    scores = np.array([[0.0, 1e-12, -50.0]])
    zero_one, surrogate = conditional_regrets(p, scores, tau)
    assert zero_one[0] == pytest.approx(regret)
    assert comp_sum_bound(float(surrogate[0]), tau, 3).item() == pytest.approx(regret, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1, 1.0, 3), "gap must be at least 0; got -0.1"),
        ((math.nan, 1.0, 3), "gap must be at least 0; got nan"),
        ((0.1, -1.0, 3), r"tau must lie in \[0, inf\); got -1"),
        ((0.1, 1.0, 1), "num_classes must be at least 2; got 1"),
    ],
)
def test_the_bound_names_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        comp_sum_bound(*arguments)


# --- the smooth adversarial loss


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_zero_radius_leaves_the_comp_sum_loss(norm):
    model = torch.nn.Linear(3, 4, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0])
    loss = smooth_adversarial_comp_sum(model, x, y, tau=1.4, radius=0.0, norm=norm)
    torch.testing.assert_close(loss, comp_sum_loss(model(x), y, tau=1.4))


def test_the_supremum_of_a_linear_model_is_radius_times_the_largest_singular_value():
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 5, dtype=torch.float64)
    x = torch.randn(8, 6, dtype=torch.float64)
    y = torch.arange(8) % 5
    loss = smooth_adversarial_comp_sum(model, x, y, radius=0.3, nu=2.0, steps=60, reduction="none")
    extra = (loss - comp_sum_loss(model(x), y, reduction="none")).detach()
    weight = model.weight.detach().numpy()
    expected = [2.0 * 0.3 * np.linalg.norm(weight[label] - weight, 2) for label in y.tolist()]
    np.testing.assert_allclose(extra.numpy(), expected, rtol=2e-3)


def test_the_search_in_the_cube_ends_at_a_corner():
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 3, dtype=torch.float64)
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    loss = smooth_adversarial_comp_sum(model, x, y, radius=0.2, nu=1.0, steps=40, norm="linf", reduction="none")
    extra = (loss - comp_sum_loss(model(x), y, reduction="none")).detach()
    corners = np.array(np.meshgrid(*[[-0.2, 0.2]] * 4)).reshape(4, -1)
    weight = model.weight.detach().numpy()
    for label, found in enumerate(extra.tolist()):
        at_corners = np.linalg.norm((weight[label] - weight) @ corners, axis=0)
        assert np.abs(at_corners - found).min() < 1e-12
        assert found >= np.median(at_corners)


def test_the_default_weight_bounds_the_margin_loss_of_every_nearby_input():
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).double()
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randint(4, (20,))
    rho, radius, tau = 0.8, 0.2, 1.5
    bound = smooth_adversarial_comp_sum(model, x, y, tau, radius=radius, rho=rho, steps=30, reduction="none").detach()
    offset = torch.randn(500, 20, 3, dtype=torch.float64)
    offset = radius * offset / offset.norm(dim=-1, keepdim=True) * torch.rand(500, 20, 1, dtype=torch.float64)
    with torch.no_grad():
        lead = model(x + offset)
        lead = lead.gather(2, y.expand(500, 20)[..., None]) - lead
        failures = (1 - lead / rho).clamp(0, 1).sum(-1) - 1  # the label's own term is 1
        margin_loss = ((1 + failures) ** (1 - tau) - 1) / (1 - tau)
    assert (margin_loss.amax(0) <= bound + 1e-9).all()


def test_the_search_leaves_the_gradients_of_the_model_alone():
    model = torch.nn.Linear(3, 4)
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        smooth_adversarial_comp_sum(model, x, y, radius=0.1)
    assert model.weight.grad is None
    smooth_adversarial_comp_sum(model, x, y, radius=0.1).backward()
    assert model.weight.grad is not None
    assert bool(model.weight.grad.isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -1.0}, "radius must be a number in"),
        ({"radius": 0.1, "rho": 0.0}, "rho must be a number in"),
        ({"radius": 0.1, "nu": -1.0}, "nu must be a number in"),
        ({"radius": 0.1, "steps": 0}, "steps must be at least 1; got 0"),
        ({"radius": 0.1, "norm": "l1"}, "norm must be one of 'l2', 'linf'; got 'l1'"),
    ],
)
def test_the_adversarial_loss_names_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        smooth_adversarial_comp_sum(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([0]), **options)


# --- label-distributionally-robust losses


@pytest.mark.parametrize(
    ("lam", "margin", "golden"),
    [
        (1.0, 0.0, [-0.89609115, 1.73496066]),
        (0.5, 1.0, [-0.27747932, 3.30903246]),
        (10.0, 1.0, [-0.53110261, 1.43953482]),
        (0.0, 1.0, [0.0, 4.0]),
        (1e9, 1.0, [-0.55, 1.3]),
    ],
)
def test_ldr_has_the_golden_values(lam, margin, golden):
    loss = ldr_loss(LOGITS, TARGET, lam=lam, margin=margin, reduction="none")
    assert loss.tolist() == pytest.approx(golden, abs=1e-8)


def worst_average(differences: np.ndarray, lam: float, penalty) -> float:
    """max over the simplex of p.d - lam * penalty(p), by direct constrained search."""
    classes = len(differences)
    answer = scipy.optimize.minimize(
        lambda p: -(p @ differences - lam * penalty(p)),
        np.full(classes, 1 / classes),
        bounds=[(1e-12, 1)] * classes,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return -answer.fun


@pytest.mark.parametrize("lam", [0.3, 1.0, 5.0])
def test_ldr_is_the_worst_average_found_by_search(lam):
    logits, target = random_scores(rows=5, classes=4, scale=1.0)
    differences = (logits - logits.gather(1, target[:, None])).numpy()
    differences[np.arange(4) != target.numpy()[:, None]] += 0.2
    expected = [worst_average(row, lam, lambda p: (scipy.special.xlogy(p, 4 * p)).sum()) for row in differences]
    loss = ldr_loss(logits, target, lam=lam, margin=0.2, reduction="none")
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("lam", [0.5, 2.0])
def test_ldr_with_pearson_is_the_worst_average_found_by_search(lam):
    logits, target = random_scores(rows=5, classes=4, scale=1.0)
    differences = (logits - logits.gather(1, target[:, None])).numpy()
    expected = [worst_average(row, lam, lambda p: ((4 * p - 1) ** 2).mean()) for row in differences]
    loss = ldr_loss(logits, target, lam=lam, divergence=pearson, reduction="none")
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-6)


def test_ldr_with_kl_given_is_ldr_with_kl_left_out():
    logits, target = random_scores()
    torch.testing.assert_close(
        ldr_loss(logits, target, lam=0.7, margin=0.1, divergence=kl), ldr_loss(logits, target, lam=0.7, margin=0.1)
    )


@pytest.mark.parametrize("lam", [0.0, 1.0, 100.0])
def test_ldr_with_cvar_is_the_top_k_hinge_whatever_lam(lam):
    logits, target = random_scores(classes=8)
    expected = np.sort(score_differences(logits, target, margin=1.0).numpy(), axis=1)[:, -2:].mean(1)
    loss = ldr_loss(logits, target, lam=lam, margin=1.0, divergence=cvar(2 / 8), reduction="none")
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("divergence", [None, pearson, total_variation, alpha(0.5)], ids=str)
def test_ldr_at_zero_is_the_crammer_singer_maximum(divergence):
    logits, target = random_scores()
    by_hand = [
        max(0.0, max(row[k] - row[y] + 0.5 for k in range(6) if k != y))
        for row, y in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    loss = ldr_loss(logits, target, lam=0.0, margin=0.5, divergence=divergence, reduction="none")
    assert loss.tolist() == pytest.approx(by_hand, abs=1e-10)


def test_ldr_keeps_its_digits_as_lam_grows_in_float32():
    # mean d + Var(d) / (2 lam): the second term is lost unless the logarithm is taken near 1.
    logits, target = random_scores()
    wide = ldr_loss(logits, target, lam=1e5, reduction="none")
    narrow = ldr_loss(logits.float(), target, lam=1e5, reduction="none")
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-6)


def test_ldr_falls_in_lam():
    logits, target = random_scores()
    losses = torch.stack([ldr_loss(logits, target, lam=lam, reduction="none") for lam in (0, 1e-13, 1e-6, 0.1, 1, 1e3)])
    assert bool((losses.diff(dim=0) <= 1e-12).all())


def test_ldr_slope_in_lam_is_minus_the_divergence_down_to_zero():
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]], dtype=torch.float64)
    for lam, weights in ((0.0, [0, 0.5, 0.5, 0]), (0.9, scipy.special.softmax(np.array([0, 3, 3, 1]) / 0.9))):
        point = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
        ldr_loss(logits, torch.tensor([0]), lam=point).backward()
        expected = -scipy.special.rel_entr(np.asarray(weights), 0.25).sum()
        assert point.grad.item() == pytest.approx(expected, rel=1e-10)


def test_an_unknown_divergence_is_refused():
    with pytest.raises(TypeError, match=r"divergence must be an FDivergence or None \(KL\); got str"):
        ldr_loss(LOGITS, TARGET, divergence="pearson")
