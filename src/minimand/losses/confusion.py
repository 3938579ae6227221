"""Losses of the confusion matrix: one minus a metric, its four counts made smooth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minimand._checks import (
    check_choice,
    check_floating,
    check_range,
    check_same_device,
    check_same_shape,
    is_concrete,
)
from minimand._numerics import upcast
from minimand.hyper import HyperSpec, LogUniform
from minimand.losses.loss import check_binary, loss_function, module_of, narrowed, spec_of
from minimand.source import Source, from_paper

ANYLOSS = Source(
    "AnyLoss: Transforming Classification Metrics into Loss Functions",
    "Han, Moniz and Chawla",
    2024,
    "2405.14745",
    "section 3",
)
AMPLIFICATION = HyperSpec(73.0, low=0.0, high=1e6, closed="right", search=LogUniform(4.0, 80.0))


@from_paper(ANYLOSS)
class SoftConfusion(NamedTuple):
    """Soft counts of true positives, false negatives, false positives and true negatives, each a scalar.

    They add up to the number of samples (the sum of the weights).
    """

    tp: Tensor
    fn: Tensor
    fp: Tensor
    tn: Tensor


MetricName = Literal["accuracy", "f1", "f_beta", "g_mean", "balanced_accuracy", "mcc", "iou"]
Empty = Literal["neutral", "raise"]


@from_paper(ANYLOSS)
def soft_confusion(
    logits: Tensor, target: Tensor, amplification: float | Tensor = 73.0, weights: Tensor | None = None
) -> SoftConfusion:
    """The soft confusion matrix of a binary classifier, from logits.

    A = sigmoid(L (p - 1/2)),  p = sigmoid(logit),  L the amplification;
    TP = sum y A,  FN = sum y (1 - A),  FP = sum (1 - y) A,  TN = sum (1 - y)(1 - A).

    As L grows these become the hard counts at threshold 1/2. The gradient of a sample falls with its distance from
    the threshold: at L = 73 it is below 1e-7 where |p - 1/2| > 0.3. It is computed here so that it is lost to
    underflow alone, never to rounding; a smaller L, or one raised during training, reaches further.

    Args:
        logits: any shape, one logit a sample.
        target: the same shape, 0 and 1.
        amplification: L, a number or 0-d tensor in (0, 1e6]; differentiable.
        weights: the same shape, at least 0; what each sample counts.

    Returns:
        Four scalars, in float32 for 16-bit logits (a 16-bit count would lose samples), else in the logits' type.

    Raises:
        ValueError, TypeError: for shapes, types, devices, labels or numbers that do not fit.

    Source: Han, Moniz and Chawla (2024), arXiv:2405.14745, section 3. The authors' snippet divides by the size of the
    training set in every batch; here the counts are the batch's.

    >>> soft_confusion(torch.tensor([9.0, -9.0, -9.0]), torch.tensor([1, 1, 0])).tp
    tensor(1.)
    """
    value, label = check_binary("logits", logits, target)
    from_half = F.logsigmoid(upcast(value)).exp() - 0.5  # not sigmoid: its derivative is 0 once the value rounds to 1
    return _counts(from_half, label, amplification, weights)


@from_paper(ANYLOSS)
def soft_confusion_from_probs(
    probs: Tensor, target: Tensor, amplification: float | Tensor = 73.0, weights: Tensor | None = None
) -> SoftConfusion:
    """``soft_confusion`` from probabilities of class 1 in [0, 1].

    Where the model has logits, pass those: a probability that was rounded to 1 has lost its gradient.

    >>> soft_confusion_from_probs(torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))
    SoftConfusion(tp=tensor(0.5000), fn=tensor(0.5000), fp=tensor(0.5000), tn=tensor(0.5000))
    """
    value, label = check_binary("probs", probs, target)
    check_range("probs", value, 0, 1)
    return _counts(upcast(value) - 0.5, label, amplification, weights)


@loss_function(
    ANYLOSS,
    target="binary",
    beta=HyperSpec(1.0, low=0.0, closed="neither"),
    amplification=AMPLIFICATION,
)
def metric_loss(
    logits: Tensor,
    target: Tensor,
    metric: MetricName | Callable[[SoftConfusion], Tensor] = "f1",
    *,
    beta: float | Tensor = 1.0,
    amplification: float | Tensor = 73.0,
    weights: Tensor | None = None,
    empty: Empty = "neutral",
) -> Tensor:
    """AnyLoss: one minus a metric of the soft confusion matrix of the whole batch, from logits.

    ================= =============================================================================
    metric            value
    ================= =============================================================================
    accuracy          (TP + TN) / N
    f_beta            (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP); "f1" is b = 1
    g_mean            sqrt(TPR TNR),  TPR = TP / (TP + FN), TNR = TN / (TN + FP)
    balanced_accuracy (TPR + TNR) / 2
    mcc               (TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN))
    iou               TP / (TP + FN + FP)
    a callable        what it makes of the ``SoftConfusion``
    ================= =============================================================================

    It is not a sum over samples: accumulating it over micro-batches gives another loss, and there is no ``reduction``.

    Args:
        logits: any shape, one logit a sample.
        target: the same shape, 0 and 1.
        metric: a name of the table, or a function of a ``SoftConfusion``.
        beta: b of "f_beta", in (0, inf); the other metrics take none.
        amplification: see ``soft_confusion``.
        weights: see ``soft_confusion``.
        empty: what a batch without positives or without negatives does. "neutral": a rate that is 0/0 counts as 1 and
            gives no gradient (nothing of that kind was got wrong), an MCC that is 0/0 is 0. "raise": ValueError, where
            values can be seen (on the CPU, outside ``torch.compile`` and ``vmap``).

    Returns:
        A scalar in the logits' type.

    Raises:
        ValueError, TypeError: for shapes, types, devices, labels or options that do not fit.

    Source: Han, Moniz and Chawla (2024), arXiv:2405.14745.

    >>> logits, target = torch.tensor([3.0, 2.0, -3.0, -1.0]), torch.tensor([1, 0, 1, 0])
    >>> metric_loss(logits, target, metric="accuracy", amplification=1e6)
    tensor(0.5000)
    """
    counts = soft_confusion(logits, target, amplification, weights)
    return narrowed(1 - _measured(counts, metric, beta, empty), logits.dtype)


@loss_function(
    ANYLOSS,
    target="binary",
    beta=HyperSpec(1.0, low=0.0, closed="neither"),
    amplification=AMPLIFICATION,
)
def metric_loss_from_probs(
    probs: Tensor,
    target: Tensor,
    metric: MetricName | Callable[[SoftConfusion], Tensor] = "f1",
    *,
    beta: float | Tensor = 1.0,
    amplification: float | Tensor = 73.0,
    weights: Tensor | None = None,
    empty: Empty = "neutral",
) -> Tensor:
    """``metric_loss`` from probabilities of class 1 in [0, 1]; see ``soft_confusion_from_probs``.

    >>> metric_loss_from_probs(torch.tensor([0.9, 0.2]), torch.tensor([1, 0]), amplification=1e6)
    tensor(0.)
    """
    counts = soft_confusion_from_probs(probs, target, amplification, weights)
    return narrowed(1 - _measured(counts, metric, beta, empty), probs.dtype)


def _counts(from_half: Tensor, label: Tensor, amplification: float | Tensor, weights: Tensor | None) -> SoftConfusion:
    """The counts of samples at ``from_half`` = p - 1/2, in [-1/2, 1/2]."""
    score = spec_of(metric_loss).hyper("amplification", amplification, like=from_half) * from_half
    positive, negative = F.logsigmoid(score).exp(), F.logsigmoid(-score).exp()  # each keeps its own gradient
    first, second = label, 1 - label
    if weights is not None:
        weights = _checked_weights(weights, label)
        first, second = weights * first, weights * second
    return SoftConfusion(
        tp=(first * positive).sum(),
        fn=(first * negative).sum(),
        fp=(second * positive).sum(),
        tn=(second * negative).sum(),
    )


def _checked_weights(weights: Tensor, label: Tensor) -> Tensor:
    weights = check_floating("weights", weights)
    check_same_shape(target=label, weights=weights)
    check_same_device(target=label, weights=weights)
    check_range("weights", weights, 0, torch.finfo(weights.dtype).max)
    return weights.to(label.dtype)


def _measured(
    counts: SoftConfusion,
    metric: MetricName | Callable[[SoftConfusion], Tensor],
    beta: float | Tensor,
    empty: Empty,
) -> Tensor:
    """The metric of the counts."""
    check_choice("empty", empty, ("neutral", "raise"))
    if metric != "f_beta" and (isinstance(beta, Tensor) or beta != 1):
        raise ValueError(f"beta must be left at 1 unless metric is 'f_beta'; got {beta} with metric {metric!r}")
    if empty == "raise":
        _check_both_classes(counts)
    if callable(metric):
        return metric(counts)
    check_choice("metric", metric, METRICS)
    if metric == "f_beta":
        return _f_beta(counts, spec_of(metric_loss).hyper("beta", beta, like=counts.tp))
    return METRICS[metric](counts)


def _check_both_classes(counts: SoftConfusion) -> None:
    if is_concrete(*counts):
        for value, held in ((1, counts.tp + counts.fn), (0, counts.tn + counts.fp)):
            if held == 0:
                raise ValueError(f"target must hold both classes where empty='raise'; got no {value}")


def _accuracy(counts: SoftConfusion) -> Tensor:
    tp, fn, fp, tn = counts
    return _rate(tp + tn, fn + fp)


def _f_beta(counts: SoftConfusion, beta: float | Tensor = 1.0) -> Tensor:
    tp, fn, fp, _ = counts
    square = beta * beta
    return _rate((1 + square) * tp, square * fn + fp)


def _g_mean(counts: SoftConfusion) -> Tensor:
    tp, fn, fp, tn = counts
    return _root(_rate(tp, fn)) * _root(_rate(tn, fp))


def _balanced_accuracy(counts: SoftConfusion) -> Tensor:
    tp, fn, fp, tn = counts
    return (_rate(tp, fn) + _rate(tn, fp)) / 2


def _mcc(counts: SoftConfusion) -> Tensor:
    tp, fn, fp, tn = counts
    scale = _root(tp + fp) * _root(tp + fn) * _root(tn + fp) * _root(tn + fn)
    return (tp * tn - fp * fn) / torch.where(scale == 0, 1, scale)


def _iou(counts: SoftConfusion) -> Tensor:
    tp, fn, fp, _ = counts
    return _rate(tp, fn + fp)


METRICS: dict[str, Callable[[SoftConfusion], Tensor]] = {
    "accuracy": _accuracy,
    "f1": _f_beta,
    "f_beta": _f_beta,
    "g_mean": _g_mean,
    "balanced_accuracy": _balanced_accuracy,
    "mcc": _mcc,
    "iou": _iou,
}


def _rate(right: Tensor, wrong: Tensor) -> Tensor:
    """right / (right + wrong); 1 without gradient where both are 0."""
    total = right + wrong
    none = total == 0
    return torch.where(none, 1, right / torch.where(none, 1, total))


def _root(value: Tensor) -> Tensor:
    """The square root, with gradient 0 where the value is 0."""
    zero = value == 0
    return torch.where(zero, 0, torch.where(zero, 1, value).sqrt())


MetricLoss = module_of(metric_loss, "MetricLoss")
