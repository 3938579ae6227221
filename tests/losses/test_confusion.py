"""Soft confusion matrices and metric losses against scikit-learn, by hand and by golden numbers."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch

from minimand.losses import (
    MetricLoss,
    SoftConfusion,
    metric_loss,
    metric_loss_from_probs,
    soft_confusion,
    soft_confusion_from_probs,
)

# A worked sample; golden values from the definitions.
PROBS = torch.tensor([0.9, 0.6, 0.45, 0.2, 0.55, 0.1], dtype=torch.float64)
TARGET = torch.tensor([1, 1, 1, 0, 0, 0])


def random_sample(size: int = 200, positive: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(size, dtype=torch.float64, generator=generator)
    return logits, (torch.rand(size, generator=generator) < positive).long()


def test_the_counts_have_the_golden_values():
    counts = soft_confusion_from_probs(PROBS, TARGET)
    assert counts.tp.item() == pytest.approx(2.02465762, abs=1e-8)
    assert counts.fp.item() == pytest.approx(0.97466730, abs=1e-8)


@pytest.mark.parametrize(
    ("metric", "options", "golden"),
    [
        ("accuracy", {}, 0.32500161),
        ("f1", {}, 0.32503818),
        ("f_beta", {"beta": 2.0}, 0.32508375),
        ("g_mean", {}, 0.32500162),
        ("f1", {"amplification": 10.0}, 0.27641476),
        ("balanced_accuracy", {"amplification": 10.0}, 0.26620973),
        ("mcc", {"amplification": 10.0}, 0.53113957),
    ],
)
def test_the_loss_has_the_golden_value(metric, options, golden):
    assert metric_loss_from_probs(PROBS, TARGET, metric, **options).item() == pytest.approx(golden, abs=1e-8)


def test_the_counts_are_the_sums_of_their_definition():
    logits, target = random_sample()
    p = 1 / (1 + np.exp(-logits.numpy()))
    a, y = 1 / (1 + np.exp(-20 * (p - 0.5))), target.numpy()
    expected = [(y * a).sum(), (y * (1 - a)).sum(), ((1 - y) * a).sum(), ((1 - y) * (1 - a)).sum()]
    np.testing.assert_allclose([c.item() for c in soft_confusion(logits, target, 20.0)], expected, rtol=1e-12)


def test_logits_and_their_probabilities_count_alike():
    logits, target = random_sample()
    for one, other in zip(
        soft_confusion(logits, target), soft_confusion_from_probs(logits.sigmoid(), target), strict=True
    ):
        torch.testing.assert_close(one, other)


SKLEARN = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": sklearn.metrics.f1_score,
    "balanced_accuracy": sklearn.metrics.balanced_accuracy_score,
    "mcc": sklearn.metrics.matthews_corrcoef,
    "iou": sklearn.metrics.jaccard_score,
    "g_mean": lambda y, prediction: math.sqrt(
        sklearn.metrics.recall_score(y, prediction) * sklearn.metrics.recall_score(1 - y, 1 - prediction)
    ),
}


@pytest.mark.parametrize("metric", SKLEARN)
def test_a_large_amplification_gives_scikit_learns_metric(metric):
    logits, target = random_sample()
    expected = SKLEARN[metric](target.numpy(), (logits > 0).long().numpy())
    assert 1 - metric_loss(logits, target, metric, amplification=1e6).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_f_beta_is_scikit_learns(beta):
    logits, target = random_sample()
    expected = sklearn.metrics.fbeta_score(target.numpy(), (logits > 0).long().numpy(), beta=beta)
    loss = metric_loss(logits, target, "f_beta", beta=beta, amplification=1e6)
    assert 1 - loss.item() == pytest.approx(expected, abs=1e-6)


def test_weights_are_scikit_learns_sample_weights():
    logits, target = random_sample()
    weights = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = sklearn.metrics.f1_score(target.numpy(), (logits > 0).long().numpy(), sample_weight=weights.numpy())
    loss = metric_loss(logits, target, "f1", amplification=1e6, weights=weights)
    assert 1 - loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_weight_of_two_is_the_sample_twice():
    logits, target = random_sample(20)
    weights = torch.ones(20, dtype=torch.float64)
    weights[3] = 2
    torch.testing.assert_close(
        metric_loss(logits, target, "mcc", weights=weights),
        metric_loss(torch.cat([logits, logits[3:4]]), torch.cat([target, target[3:4]]), "mcc"),
    )


def test_any_function_of_the_counts_is_a_metric():
    logits, target = random_sample()

    def precision(counts: SoftConfusion) -> torch.Tensor:
        return counts.tp / (counts.tp + counts.fp)

    expected = sklearn.metrics.precision_score(target.numpy(), (logits > 0).long().numpy())
    assert 1 - metric_loss(logits, target, precision, amplification=1e6).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_far_from_the_threshold_is_right_until_it_underflows(dtype):
    # d acc / dz = L p(1-p) A(1-A) / N with every factor written so that it cannot round to 0.
    logits = torch.tensor([4.0, -4.0, 12.0, -12.0, 25.0, -25.0], dtype=dtype, requires_grad=True)
    metric_loss(logits, torch.zeros(6), "accuracy").backward()
    z = logits.detach().double().numpy()
    x = 73 * np.tanh(z / 2) / 2
    expected = 73 * np.exp(-np.abs(z) - np.abs(x)) / ((1 + np.exp(-np.abs(z))) * (1 + np.exp(-np.abs(x)))) ** 2 / 6
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4 if dtype == torch.float32 else 1e-11)
    assert bool((logits.grad != 0).all())


@pytest.mark.parametrize("metric", ["accuracy", "f1", "g_mean", "balanced_accuracy", "mcc", "iou"])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_one_class_or_no_sample_gives_a_finite_loss_and_gradient(metric, labels):
    logits = torch.tensor([-2.0, 1.0, 50.0][: len(labels)], requires_grad=True)
    loss = metric_loss(logits, torch.tensor(labels, dtype=torch.long), metric, amplification=1e6)
    loss.backward()
    assert 0 <= loss.item() <= 1
    assert bool(logits.grad.isfinite().all())


def test_a_rate_without_samples_counts_as_one():
    logits = torch.tensor([3.0, 3.0, -3.0, 3.0])
    assert metric_loss(logits, torch.ones(4), "balanced_accuracy", amplification=1e6).item() == pytest.approx(0.125)


@pytest.mark.parametrize(("labels", "absent"), [([0, 0], 1), ([1, 1], 0), ([], 1)])
def test_an_absent_class_raises_where_asked(labels, absent):
    logits, target = torch.zeros(len(labels)), torch.tensor(labels, dtype=torch.long)
    with pytest.raises(ValueError, match=f"target must hold both classes where empty='raise'; got no {absent}"):
        metric_loss(logits, target, empty="raise")


def test_g_mean_has_a_finite_gradient_where_everything_is_wrong():
    logits = torch.tensor([-1e4, 1e4, -500.0], requires_grad=True)
    metric_loss(logits, torch.tensor([1, 0, 1]), "g_mean", amplification=1e6).backward()
    assert bool(logits.grad.isfinite().all())


def test_counts_of_half_precision_logits_are_kept_in_float32():
    counts = soft_confusion(torch.full((5000,), 9.0, dtype=torch.float16), torch.ones(5000, dtype=torch.long))
    assert counts.tp.dtype == torch.float32
    assert counts.tp.item() == pytest.approx(5000)


def test_the_amplification_may_be_annealed_on_the_module():
    logits, target = random_sample()
    loss = MetricLoss(metric="g_mean", amplification=5.0)
    loss.amplification = 40.0
    torch.testing.assert_close(loss(logits, target), metric_loss(logits, target, "g_mean", amplification=40.0))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": torch.tensor([0.0, 0.5])}, ValueError, "target must hold 0 and 1; got 0.5 at flat position 1"),
        ({"target": torch.tensor([0, 1, 1])}, ValueError, r"target must have logits's shape \(2,\); got \(3,\)"),
        ({"target": [0, 1]}, TypeError, "target must be a tensor of 0 and 1; got list"),
        ({"logits": torch.tensor([0, 1])}, TypeError, "logits must be a floating-point tensor; got dtype torch.int64"),
        ({"metric": "f3"}, ValueError, "metric must be one of 'accuracy', 'f1'"),
        ({"beta": 2.0}, ValueError, "beta must be left at 1 unless metric is 'f_beta'; got 2.0 with metric 'f1'"),
        ({"metric": "f_beta", "beta": 0.0}, ValueError, r"beta must lie in \(0, inf\); got 0"),
        ({"amplification": 0.0}, ValueError, r"amplification must lie in \(0, 1e\+06\]; got 0"),
        ({"empty": "skip"}, ValueError, "empty must be one of 'neutral', 'raise'; got 'skip'"),
        ({"weights": torch.tensor([1.0, -1.0])}, ValueError, "weights must lie in .*; got -1 at flat position 1"),
        ({"weights": torch.ones(3)}, ValueError, r"weights must have target's shape \(2,\); got \(3,\)"),
    ],
)
def test_what_does_not_fit_is_named(changes, error, message):
    arguments = {"logits": torch.zeros(2), "target": torch.tensor([0, 1]), **changes}
    with pytest.raises(error, match=message):
        metric_loss(**arguments)


def test_probabilities_outside_the_unit_interval_are_named():
    with pytest.raises(ValueError, match=r"probs must lie in \[0, 1\]; got 1.5 at flat position 1"):
        metric_loss_from_probs(torch.tensor([0.5, 1.5]), torch.tensor([0, 1]))
