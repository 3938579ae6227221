"""Histogram targets against the normal distribution, their means and golden numbers."""

import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
import torch.nn.functional as F

from minimand.losses import ScalarSupport


def test_the_histogram_has_the_golden_values():
    # scipy.stats.norm.cdf on [-2, 2], m = 5, sigma = 0.6 = 0.75 bins, y = 0.3.
    histogram = ScalarSupport(-2.0, 2.0, 5).encode(torch.tensor(0.3, dtype=torch.float64))
    assert histogram.tolist() == pytest.approx([0.00616104, 0.11573673, 0.44556575, 0.36787954, 0.06465694], abs=1e-8)


@pytest.mark.parametrize(
    ("support", "value", "golden"),
    [
        (ScalarSupport(-2.0, 2.0, 5), 0.3, 0.29530771),
        (ScalarSupport(-2.0, 2.0, 5), 1.9, 1.41921702),
        (ScalarSupport(-10.0, 10.0, 51), 3.37, 3.3700010),
    ],
)
def test_the_decoded_histogram_has_the_golden_mean(support, value, golden):
    logits = support.encode(torch.tensor([value], dtype=torch.float64)).log()
    assert support.decode(logits).item() == pytest.approx(golden, abs=1e-7)


@pytest.mark.parametrize("ratio", [0.1, 0.75, 3.0, 100.0])
@pytest.mark.parametrize("value", [-2.0, -1.3, 0.0, 1.999])
def test_the_histogram_is_the_truncated_normals(ratio, value):
    edges, sigma = np.linspace(-2, 2, 9), ratio * 0.5
    truncated = scipy.stats.truncnorm((-2 - value) / sigma, (2 - value) / sigma, loc=value, scale=sigma)
    histogram = ScalarSupport(-2.0, 2.0, 8, sigma_ratio=ratio).encode(torch.tensor(value, dtype=torch.float64))
    np.testing.assert_allclose(histogram.numpy(), np.diff(truncated.cdf(edges)), atol=1e-12)


def test_a_bin_holds_the_integral_of_the_density():
    density = scipy.stats.norm(0.7, 0.75 * 0.8).pdf
    mass = [scipy.integrate.quad(density, low, low + 0.8)[0] for low in np.linspace(-2, 2, 6)[:-1]]
    histogram = ScalarSupport(-2.0, 2.0, 5).encode(torch.tensor(0.7, dtype=torch.float64))
    np.testing.assert_allclose(histogram.numpy(), np.array(mass) / sum(mass), rtol=1e-10)


def test_a_far_tail_keeps_its_relative_accuracy_in_float32():
    wide = ScalarSupport(0.0, 10.0, 10).encode(torch.tensor(0.5, dtype=torch.float64))
    narrow = ScalarSupport(0.0, 10.0, 10).encode(torch.tensor(0.5))
    np.testing.assert_allclose(narrow[:7].numpy(), wide[:7].numpy(), rtol=1e-4)


def test_two_hot_decodes_to_what_was_encoded():
    support = ScalarSupport(-1.0, 3.0, 9, kind="two_hot")
    value = torch.linspace(-1, 3, 101, dtype=torch.float64)
    torch.testing.assert_close(support.decode(support.encode(value).log()), value, rtol=0, atol=1e-14)


def test_two_hot_touches_the_two_nearest_atoms():
    histogram = ScalarSupport(0.0, 4.0, 5, kind="two_hot").encode(torch.tensor([2.25, 4.0, 0.0], dtype=torch.float64))
    expected = [[0, 0, 0.75, 0.25, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]
    np.testing.assert_allclose(histogram.numpy(), expected, atol=1e-15)


@pytest.mark.parametrize("kind", ["hl_gauss", "two_hot"])
def test_numbers_outside_the_range_count_as_its_ends(kind):
    support = ScalarSupport(-1.0, 1.0, 7, kind=kind)
    outside = support.encode(torch.tensor([-1e30, 1e30, math.inf]))
    torch.testing.assert_close(outside, support.encode(torch.tensor([-1.0, 1.0, 1.0])))


@pytest.mark.parametrize("kind", ["hl_gauss", "two_hot"])
def test_the_loss_is_cross_entropy_against_the_histogram(kind):
    support = ScalarSupport(-3.0, 3.0, 11, kind=kind)
    logits, target = torch.randn(20, 11, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    torch.testing.assert_close(support.loss(logits, target), F.cross_entropy(logits, support.encode(target)))


def test_training_on_the_loss_recovers_the_number():
    support = ScalarSupport(-10.0, 10.0, 51)
    logits = torch.zeros(1, 51, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([3.37], dtype=torch.float64)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = support.loss(logits, target)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert support.decode(logits).item() == pytest.approx(3.37, abs=1e-2)


def test_leading_dimensions_are_kept():
    support = ScalarSupport(0.0, 1.0, 4)
    assert support.encode(torch.rand(2, 3)).shape == (2, 3, 4)
    assert support.decode(torch.rand(2, 3, 4)).shape == (2, 3)
    assert support.loss(torch.rand(2, 3, 4), torch.rand(2, 3), reduction="none").shape == (2, 3)


def test_a_nan_target_stays_nan():
    for kind in ("hl_gauss", "two_hot"):
        support = ScalarSupport(0.0, 1.0, 4, kind=kind)
        assert support.loss(torch.zeros(1, 4), torch.tensor([math.nan])).isnan()


@pytest.mark.parametrize("kind", ["hl_gauss", "two_hot"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_give_a_finite_loss_and_gradient(kind, dtype):
    support = ScalarSupport(-1.0, 1.0, 3, kind=kind)
    logits = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    loss = support.loss(logits, torch.tensor([0.9]))
    loss.backward()
    assert loss.dtype == dtype
    assert bool(loss.isfinite())
    assert bool(logits.grad.isfinite().all())


def test_gradients_are_the_difference_quotients():
    ratio = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([-0.6, 0.1, 0.35, 0.77], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda z, y, r: ScalarSupport(-1.0, 1.0, 5, sigma_ratio=r).loss(z, y), (logits, target, ratio)
    )


def test_one_loss_a_ratio_under_vmap_equals_a_loop():
    logits, target = torch.randn(4, 5), torch.rand(4)
    ratios = torch.tensor([0.3, 0.75, 2.0], dtype=torch.float64)

    def loss(ratio: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return ScalarSupport(0.0, 1.0, 5, sigma_ratio=ratio).loss(logits, target)

    together = torch.func.vmap(torch.func.grad(loss, argnums=1), in_dims=(0, None))(ratios, logits)
    assert together.dtype == torch.float32
    apart = torch.stack([torch.func.grad(loss, argnums=1)(ratio, logits) for ratio in ratios])
    torch.testing.assert_close(together, apart)


def test_compiled_equals_eager():
    support = ScalarSupport(-1.0, 1.0, 5)
    logits, target = torch.randn(4, 5), torch.rand(4)
    compiled = torch.compile(support.loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, target), support.loss(logits, target))


def test_a_support_survives_pickling():
    support = ScalarSupport(-1.0, 1.0, 5, kind="two_hot")
    assert pickle.loads(pickle.dumps(support)) == support


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1.0, 1.0, 5), ValueError, "v_min and v_max must be finite with v_min < v_max; got 1.0 and 1.0"),
        ((0.0, math.inf, 5), ValueError, "v_min and v_max must be finite"),
        ((0.0, 1.0, 0), ValueError, "num_bins must be at least 1; got 0"),
        ((0.0, 1.0, 2.5), TypeError, "num_bins must be an integer of at least 1; got float"),
        ((0.0, 1.0, 1, 0.75, "two_hot"), ValueError, "num_bins must be at least 2; got 1"),
        ((0.0, 1.0, 5, 0.0), ValueError, r"sigma_ratio must lie in \[0.001, 100\]; got 0"),
        ((0.0, 1.0, 5, 0.75, "c51"), ValueError, "kind must be one of 'hl_gauss', 'two_hot'; got 'c51'"),
    ],
)
def test_a_support_that_does_not_fit_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ScalarSupport(*arguments)


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2), ValueError, r"logits must have shape \(..., 5\); got \(2, 4\)"),
        (torch.zeros(2, 5), torch.zeros(3), ValueError, r"target must have shape \(2,\) to match logits; got \(3,\)"),
        (torch.zeros(2, 5), torch.zeros(2).long(), TypeError, "target must be a floating-point tensor"),
    ],
)
def test_inputs_that_do_not_fit_are_named(logits, target, error, message):
    with pytest.raises(error, match=message):
        ScalarSupport(0.0, 1.0, 5).loss(logits, target)
