"""Batch-size tests against numbers by hand and NumPy's variances."""

import copy
import pickle

import numpy as np
import pytest
import torch

from minimand.optim import BatchSizeTest, GradientSums

GRADIENTS = torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
KINDS = ("norm", "inner", "augmented", "coordinate")


def random_gradients(count=30, dim=7):
    drawn = torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn + torch.linspace(-1, 2, dim, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "options", "needed", "size"),
    [
        ("norm", {"eta": 0.5}, 2.871794872, 3),
        ("norm", {"eta": 0.1}, 71.794871795, 72),
        ("inner", {"theta": 0.5}, 0.915187377, 1),
        ("augmented", {"theta": 0.5, "nu": 0.5}, 1.956607495, 2),
        ("coordinate", {"eta": 0.5}, 2.962962963, 3),
    ],
)
def test_golden_sizes(kind, options, needed, size):
    test = BatchSizeTest(kind=kind, max_size=1000, **options)
    assert test.needed(GRADIENTS).item() == pytest.approx(needed, abs=1e-9)
    assert test.next(GRADIENTS, size=1) == size


def test_every_kind_is_its_formula_in_numpy():
    g = random_gradients().numpy()
    mean = g.mean(0)
    along = g @ mean
    across = g - along[:, None] / (mean @ mean) * mean
    inner = along.var(ddof=1) / (0.2**2 * (mean @ mean) ** 2)
    wanted = {
        "norm": g.var(0, ddof=1).sum() / (0.1**2 * mean @ mean),
        "inner": inner,
        "augmented": max(inner, (across**2).sum() / 29 / (0.3**2 * mean @ mean)),
        "coordinate": (g.var(0, ddof=1) / (0.1**2 * mean**2)).max(),
    }
    for kind in KINDS:
        test = BatchSizeTest(kind=kind, max_size=10, eta=0.1, theta=0.2, nu=0.3)
        assert test.needed(torch.from_numpy(g)).item() == pytest.approx(wanted[kind], rel=1e-10), kind


@pytest.mark.parametrize("kind", KINDS)
def test_sums_added_up_over_shards_give_the_whole_batchs_size(kind):
    g = random_gradients()
    shards = g.split([10, 15, 5])
    total = sum(GradientSums.of(shard).total for shard in shards)
    squares = sum(GradientSums.of(shard).squares for shard in shards)
    projections = sum((shard @ (total / 30)).square().sum() for shard in shards)
    test = BatchSizeTest(kind=kind, max_size=10_000, eta=0.05, theta=0.05, nu=0.05)
    joint = GradientSums(30, total, squares, projections)
    assert test.needed(joint).item() == pytest.approx(test.needed(g).item(), rel=1e-10)
    assert test.next(joint) == test.next(g)


def test_gradients_of_several_parameters_are_one_vector():
    g, test = random_gradients(dim=7), BatchSizeTest(max_size=10_000, eta=0.05)
    by_name = {"weight": g[:, :6].reshape(30, 2, 3), "bias": g[:, 6]}
    assert test.needed(by_name).item() == pytest.approx(test.needed(g).item(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_all_alike_ask_for_no_more(kind):
    for gradients in (torch.zeros(4, 3), torch.tensor([[0.1, 0.0, -2.0]]).expand(4, 3)):
        test = BatchSizeTest(kind=kind, max_size=100)
        assert test.needed(gradients).item() < 1e-6
        assert test.next(gradients) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_noise_around_a_mean_of_zero_asks_for_everything(kind):
    gradients = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    test = BatchSizeTest(kind=kind, max_size=100)
    assert test.next(gradients) == (4 if kind == "inner" else 100)  # along a mean of zero nothing varies


def test_a_coordinate_that_never_varies_is_left_out():
    test = BatchSizeTest(kind="coordinate", max_size=100)
    padded = torch.cat([GRADIENTS, torch.zeros(4, 1)], 1)
    assert test.needed(padded).item() == test.needed(GRADIENTS).item()


def test_a_batch_never_shrinks_nor_exceeds_the_largest():
    assert BatchSizeTest(max_size=1000).next(GRADIENTS) == 4
    assert BatchSizeTest(max_size=1000).next(GRADIENTS, size=50) == 50
    assert BatchSizeTest(max_size=20, eta=0.1).next(GRADIENTS) == 20
    assert BatchSizeTest(max_size=20).next(GRADIENTS, size=50) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_gradients_are_summed_in_float64(dtype):
    g = (300 * random_gradients()).to(dtype)  # their squares are beyond float16
    for kind in KINDS:
        test = BatchSizeTest(kind=kind, max_size=10)
        assert test.needed(g).dtype == torch.float64
        assert test.needed(g).item() == test.needed(g.double()).item()


def test_a_test_is_a_value():
    test = BatchSizeTest(kind="inner", max_size=10, theta=0.3)
    assert pickle.loads(pickle.dumps(test)) == copy.deepcopy(test) == test


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: BatchSizeTest(max_size=0), ValueError, "max_size must be at least 1; got 0"),
        (lambda t: BatchSizeTest(max_size=2.0), TypeError, "max_size must be an integer of at least 1; got float"),  # type: ignore
        (lambda t: BatchSizeTest(max_size=9, eta=1.0), ValueError, r"eta must lie in \(0, 1\); got 1"),
        (lambda t: BatchSizeTest(max_size=9, kind="all"), ValueError, "kind must be one of 'norm'.*; got 'all'"),  # type: ignore
        (lambda t: t.next(GRADIENTS[:1]), ValueError, "gradients must be of at least 2 samples.*; got 1"),
        (lambda t: t.next(GRADIENTS[:0]), ValueError, "gradients must be of at least 2 samples.*; got 0"),
        (lambda t: t.next(GRADIENTS[0]), ValueError, r"gradients must have shape \(b, d\); got \(2,\)"),
        (lambda t: t.next(GRADIENTS.long()), TypeError, "gradients must be a floating-point tensor; got .*int64"),
        (lambda t: t.next({"a": GRADIENTS, "b": GRADIENTS[1:]}), ValueError, "one number of samples; got .*3"),
        (lambda t: t.next(GRADIENTS * torch.nan), ValueError, "gradients must not hold NaN.*; got NaN"),
        (lambda t: t.next(GRADIENTS * torch.inf), ValueError, "gradients must not hold NaN.*; got NaN"),
        (lambda t: t.next(GRADIENTS, size=0), ValueError, "size must be at least 1; got 0"),
        (
            lambda t: BatchSizeTest(kind="inner", max_size=9).next(GradientSums(4, GRADIENTS[0], GRADIENTS[1])),
            ValueError,
            "projections must be given for the inner test; got None",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(BatchSizeTest(max_size=100))


def test_more_noise_asks_for_more_samples():
    mean, noise = torch.ones(5), random_gradients(dim=5).float()
    sizes = [BatchSizeTest(max_size=10**9, eta=0.1).next(mean + scale * (noise - noise.mean(0))) for scale in (1, 2, 4)]
    assert np.diff(sizes).min() > 0
