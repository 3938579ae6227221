"""How far probabilities are from what they say: calibration errors, proper scores, the reliability diagram."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count, check_floating, check_indices, check_range
from minimand._numerics import widest
from minimand.losses.loss import narrowed
from minimand.source import Source, from_paper

ECE = Source("Obtaining Well Calibrated Probabilities Using Bayesian Binning", "Naeini, Cooper and Hauskrecht", 2015)
BRIER = Source("Verification of Forecasts Expressed in Terms of Probability", "Brier", 1950)

Binning = Literal["width", "mass"]
Norm = Literal["l1", "l2", "max"]

BINNINGS = ("width", "mass")
NORMS = ("l1", "l2", "max")


class ReliabilityCurve(NamedTuple):
    """What a reliability diagram shows of each bin: mean confidence, share of hits, number of rows; all (bins,)."""

    confidence: Tensor
    accuracy: Tensor
    count: Tensor


@from_paper(ECE)
def expected_calibration_error(
    probs: Tensor,
    labels: Tensor,
    *,
    bins: int = 15,
    binning: Binning = "width",
    norm: Norm = "l1",
    classwise: bool = False,
    debiased: bool = False,
) -> Tensor:
    """The mean gap between confidence and accuracy over bins of like confidence.

    l1:  sum_b n_b / n |acc_b - conf_b|,   l2:  sqrt(sum_b n_b / n (acc_b - conf_b)^2),   max:  max_b |acc_b - conf_b|

    The confidence is the largest probability, a hit where it is the label's. With ``classwise`` every class is
    measured by its own probability and its own frequency, and the classes are averaged (l1; l2 in squares; max: the
    largest).

    A perfectly calibrated model of finitely many rows has a positive error, the larger the more bins. ``debiased``
    takes that off: for l2 acc_b (1 - acc_b) / (n_b - 1) from each squared gap, and 0 where the sum falls below 0; for
    l1 what the error would grow by, were acc_b drawn anew from N(acc_b, acc_b (1 - acc_b) / n_b), so that the answer
    may lie a little below 0. Bins of one row count nothing in the first, as they are in the second.

    Args:
        probs: (N, C) probabilities; N at least 1.
        labels: (N,) class indices.
        bins: how many bins, at least 1.
        binning: "width" cuts [0, 1] into bins [a, b) of equal width, 1 in the last; "mass" into bins of equally many
            rows, where equal confidences stay together.
        norm: how gaps are summed.
        classwise: every class by itself, in place of the predicted one.
        debiased: take off what is due to few rows; for "l1" and "l2".

    Returns:
        a scalar of ``probs``'s type, computed in float64. Its gradient takes the bins for given.

    Raises:
        ValueError, TypeError: for shapes, types, devices, labels or numbers that do not fit.

    Source: Naeini, Cooper and Hauskrecht (2015); class by class Nixon et al. (2019), arXiv:1904.01685. Debiased: for l2
    Broecker (2012), Ferro and Fricker (2012), analysed by Kumar, Liang and Ma (2019), arXiv:1909.10155, section 5; for
    l1 as their code does, whose draws are here an expectation in closed form. Roelofs et al. (2022), arXiv:2012.08668,
    find "mass" the less biased.

    >>> probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    >>> expected_calibration_error(probs, torch.tensor([0, 0, 1, 0]))  # (|1 - 0.9| + |0.5 - 0.6|) / 2
    tensor(0.1000)
    """
    check_choice("norm", norm, NORMS)
    if debiased and norm == "max":
        raise ValueError("debiased must be False for the norm 'max'; got True")
    confidence, hit = _confidences(probs, labels, classwise)
    mean, accuracy, count = _binned(confidence, hit, bins, binning)
    share = count / confidence.shape[-1]
    gap = accuracy - mean
    if norm == "max":
        error = gap.abs().amax()
    elif norm == "l2":
        square = gap.square()
        if debiased:
            square = torch.where(count > 1, square - accuracy * (1 - accuracy) / (count - 1).clamp(min=1), 0)
        error = _root((share * square).sum(-1).mean())
    else:
        size = gap.abs()
        if debiased:
            size = 2 * size - _folded_mean(gap, accuracy * (1 - accuracy) / count.clamp(min=1))
        error = (share * size).sum(-1).mean()
    return narrowed(error, probs.dtype)


@from_paper(ECE)
def reliability_curve(probs: Tensor, labels: Tensor, *, bins: int = 15, binning: Binning = "width") -> ReliabilityCurve:
    """What a reliability diagram draws: accuracy against confidence, bin by bin.

    Args:
        probs, labels, bins, binning: as in :func:`expected_calibration_error`.

    Returns:
        ``confidence`` and ``accuracy`` (bins,) in ``probs``'s type, both 0 in a bin without rows; ``count`` (bins,).

    Raises:
        ValueError, TypeError: for shapes, types, devices, labels or numbers that do not fit.

    Source: Naeini, Cooper and Hauskrecht (2015).

    >>> probs = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.4, 0.6]])
    >>> reliability_curve(probs, torch.tensor([0, 0, 1, 0]), bins=4).accuracy  # the two of 0.6 and that of 0.7
    tensor([0.0000, 0.0000, 0.6667, 1.0000])
    """
    confidence, hit = _confidences(probs, labels, classwise=False)
    mean, accuracy, count = (row[0] for row in _binned(confidence, hit, bins, binning))
    accuracy = torch.where(mean.isnan(), mean, accuracy)  # a NaN among the probabilities is seen in both
    return ReliabilityCurve(narrowed(mean, probs.dtype), narrowed(accuracy, probs.dtype), count.long())


@from_paper(BRIER)
def brier_score(probs: Tensor, labels: Tensor) -> Tensor:
    """Mean squared distance of the probabilities from what came: mean_i sum_k (p_ik - 1[y_i = k])^2, in [0, 2].

    Args:
        probs: (N, C) probabilities; N at least 1.
        labels: (N,) class indices.

    Returns:
        a scalar of ``probs``'s type.

    Raises:
        ValueError, TypeError: for shapes, types, devices or labels that do not fit.

    Source: Brier (1950), with the sum over classes as there; of two classes some take half of it.

    >>> brier_score(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))  # 0.2^2 + 0.2^2
    tensor(0.0800)
    """
    values, labels = _checked(probs, labels)
    square = (values - _one_hot(labels, values)).square()
    return narrowed(square.sum(1).mean(), probs.dtype)


@from_paper(BRIER)
def negative_log_likelihood(probs: Tensor, labels: Tensor) -> Tensor:
    """Mean of -ln p_y, in nats; a p_y under the type's smallest normal number counts as that.

    Args:
        probs: (N, C) probabilities; N at least 1. Of logits take ``torch.nn.functional.cross_entropy``.
        labels: (N,) class indices.

    Returns:
        a scalar of ``probs``'s type.

    Raises:
        ValueError, TypeError: for shapes, types, devices or labels that do not fit.

    Source: Good (1952), "Rational decisions"; beside Brier (1950) the other common proper score.

    >>> negative_log_likelihood(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))  # ln 2
    tensor(0.6931)
    """
    values, labels = _checked(probs, labels)
    found = values.gather(1, labels[:, None]).clamp(min=torch.finfo(probs.dtype).tiny)
    return narrowed(-found.log().mean() + 0 * values.sum(), probs.dtype)  # a NaN of any class is seen


def _checked(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (N, C) in float64, and labels."""
    probs = check_floating("probs", probs)
    if probs.ndim != 2 or probs.shape[1] == 0:
        raise ValueError(f"probs must have shape (N, C) with C >= 1; got {tuple(probs.shape)}")
    check_range("probs", probs, 0, 1)
    labels = check_indices("labels", labels, probs.shape[1], "class", probs, "probs")
    if len(probs) == 0:
        raise ValueError("probs must have at least one row; got none")
    return widest(probs), labels


def _confidences(probs: Tensor, labels: Tensor, classwise: bool) -> tuple[Tensor, Tensor]:
    """What is said to be probable, and whether it came: (1, N) of the predicted class, (C, N) of every class."""
    values, labels = _checked(probs, labels)
    if classwise:
        return values.T, _one_hot(labels, values).T
    confidence, predicted = values.max(1)
    return confidence[None], (predicted == labels).to(values.dtype)[None]


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    return (labels[:, None] == torch.arange(like.shape[1], device=like.device)).to(like.dtype)


def _binned(confidence: Tensor, hit: Tensor, bins: int, binning: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean confidence, share of hits and number of rows of each bin, (R, bins), of values (R, N)."""
    check_choice("binning", binning, BINNINGS)
    check_count("bins", bins)
    rows, size = confidence.shape
    fixed = confidence.detach().contiguous()
    if binning == "width":
        edges = torch.arange(1, bins, dtype=fixed.dtype, device=fixed.device) / bins
        edges = edges.expand(rows, -1)
    else:
        edges = fixed.sort(-1).values[:, [size * i // bins for i in range(1, bins)]]
    index = torch.searchsorted(edges.contiguous(), fixed, right=True)
    empty = torch.zeros(rows, bins, dtype=fixed.dtype, device=fixed.device)
    count = empty.scatter_add(1, index, torch.ones_like(fixed))
    filled = count.clamp(min=1)
    return empty.scatter_add(1, index, confidence) / filled, empty.scatter_add(1, index, hit) / filled, count


def _root(square: Tensor) -> Tensor:
    """The root of what is above 0, else 0 without gradient."""
    above = ~(square <= 0)
    return torch.where(above, torch.where(above, square, 1).sqrt(), 0)


def _folded_mean(mean: Tensor, variance: Tensor) -> Tensor:
    """The expectation of |x| for x from N(mean, variance)."""
    spread = variance > 0
    deviation = torch.where(spread, variance, 1).sqrt()
    z = mean / (math.sqrt(2) * deviation)
    folded = deviation * math.sqrt(2 / math.pi) * (-z.square()).exp() + mean * z.erf()
    return torch.where(spread, folded, mean.abs())
