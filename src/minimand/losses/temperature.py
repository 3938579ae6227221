"""Label-distributionally-robust losses whose temperature follows each sample."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from minimand._checks import (
    check_choice,
    check_class_logits,
    check_count,
    check_floating,
    check_range,
    check_same_device,
    check_same_shape,
    check_tensor,
)
from minimand._numerics import upcast
from minimand.hyper import HyperSpec, LogUniform
from minimand.losses.loss import REDUCTIONS, loss_function, narrowed, reduce, spec_of
from minimand.losses.score_difference import LDR, score_differences, tempered_maximum
from minimand.source import from_paper

ALDR = replace(LDR, where="ALDR-KL")

GRID = 8  # temperatures tried before refining; more than two maxima need many classes and alpha near 1
REFINEMENTS = 8  # Newton steps; from a grid cell they reach float64's resolution in five or six


@loss_function(
    ALDR,
    target="class",
    lam0=HyperSpec(10.0, low=0.0, closed="neither", search=LogUniform(0.3, 30.0)),
    alpha=HyperSpec(2.0, low=1.0, closed="neither"),
    margin=HyperSpec(0.1, low=0.0, closed="left"),
)
def adaptive_ldr_loss(
    logits: Tensor,
    target: Tensor,
    lam0: float | Tensor = 10.0,
    alpha: float | Tensor = 2.0,
    margin: float | Tensor = 0.1,
    *,
    reduction: str = "mean",
) -> Tensor:
    """``ldr_loss`` with a temperature of each sample's own, near ``lam0`` and lower where the scores are decided.

    max_lam psi_lam(d) - A/2 (lam - lam0)^2,   psi_lam(d) = lam ln mean_k e^{d_k / lam},   A = alpha ln C / lam0,
    d_k = s_k - s_y + margin * 1[k != y].

    The maximiser solves lam = lam0 - KL(p_lam || u) / A, p_lam = softmax(d / lam); as KL <= ln C it lies in
    [lam0 (1 - 1/alpha), lam0]. To the gradient it is a constant (the envelope theorem); second derivatives follow it.

    Args:
        logits: (N, C) scores.
        target: (N,) class indices.
        lam0: the temperature of an undecided sample, a number or 0-d tensor in (0, inf).
        alpha: how firmly lam is held there, in (1, inf).
        margin: what a score must win by, in [0, inf).
        reduction: "none" gives (N,), "mean" and "sum" a scalar.

    Raises:
        ValueError, TypeError: for shapes, types, labels or hypers that do not fit.

    Source: Zhu, Ying and Yang (2021), arXiv:2112.14869, ALDR-KL. Solved here to convergence and with the margin in
    p_lam; the authors' code takes one fixed-point step a visit, without it (``AdaptiveLDRLoss(num_samples=...)``).
    Where there are two maxima (many classes, alpha near 1) the higher is taken, as the definition asks.

    >>> adaptive_ldr_loss(torch.zeros(1, 3), torch.tensor([0]), margin=0.0)  # undecided: lam = lam0, psi = 0
    tensor(0.)
    """
    logits, target = check_class_logits(logits, target)
    scores, spec = upcast(logits), spec_of(adaptive_ldr_loss)
    lam0, alpha = spec.hyper("lam0", lam0, like=scores), spec.hyper("alpha", alpha, like=scores)
    difference = score_differences(scores, target, spec.hyper("margin", margin, like=scores))
    stiffness = _stiffness(lam0, alpha, logits.shape[1])
    lam = adapted_temperature(difference.detach(), lam0.detach(), alpha.detach())
    _, excess, bend = _rise(_below_top(difference), lam, lam0, stiffness)
    lam = lam - excess / _downward(bend.detach())  # excess is 0: this only says how lam moves
    loss = tempered_maximum(difference, lam) - stiffness / 2 * (lam - lam0) ** 2
    return narrowed(reduce(loss, reduction), logits.dtype)


def adapted_temperature(difference: Tensor, lam0: Tensor, alpha: Tensor) -> Tensor:
    """(N,) the lam that maximises psi_lam(d) - A/2 (lam - lam0)^2.

    The slope is A (lam0 - KL / A - lam), at least 0 at lam0 (1 - 1/alpha) and at most 0 at lam0: the best of a grid
    between them has a maximum beside it, on the side its slope points to. Newton finds it, kept inside by bisection.
    """
    gap = _below_top(difference)
    stiffness = _stiffness(lam0, alpha, difference.shape[-1])
    coldest = lam0 * (1 - 1 / alpha)
    cell = (lam0 - coldest) / (GRID - 1)

    best = lam0.expand(gap.shape[:-1])
    best_value, excess, _ = _rise(gap, best, lam0, stiffness)
    for n in range(GRID - 1):
        lam = (coldest + n * cell).expand(gap.shape[:-1])
        value, slope, _ = _rise(gap, lam, lam0, stiffness)
        better = value > best_value
        best, best_value = torch.where(better, lam, best), torch.where(better, value, best_value)
        excess = torch.where(better, slope, excess)

    rising = excess >= 0
    low = torch.where(rising, best, best - cell).clamp(min=coldest)
    high = torch.where(rising, best + cell, best).clamp(max=lam0)
    lam = best
    for _ in range(REFINEMENTS):
        _, excess, bend = _rise(gap, lam, lam0, stiffness)
        low, high = torch.where(excess >= 0, lam, low), torch.where(excess >= 0, high, lam)
        newton = lam - excess / _downward(bend)
        inside = (bend < 0) & (newton >= low) & (newton <= high)
        lam = torch.where(inside, newton, (low + high) / 2)
    return lam


def _rise(gap: Tensor, lam: Tensor, lam0: Tensor, stiffness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The objective (less the largest difference), its slope / A and its second derivative / A, at ``lam``."""
    scaled = gap / lam[..., None]
    weight = scaled.exp()
    log_mean = weight.mean(-1).log()
    weight = weight / weight.sum(-1, keepdim=True)
    mean = (weight * scaled).sum(-1)
    variance = (weight * (scaled - mean[..., None]) ** 2).sum(-1)
    value = lam * log_mean - stiffness / 2 * (lam - lam0) ** 2
    slope = lam0 - (mean - log_mean) / stiffness - lam
    return value, slope, variance / (lam * stiffness) - 1


def _below_top(difference: Tensor) -> Tensor:
    """Differences less the largest; psi_lam only shifts, so the shift needs no gradient."""
    return difference - difference.detach().amax(-1, keepdim=True)


def _downward(bend: Tensor) -> Tensor:
    """The second derivative where it is that of a maximum, else -1."""
    return torch.where(bend < 0, bend, -1)


def _stiffness(lam0: Tensor, alpha: Tensor, num_classes: int) -> Tensor:
    """A = alpha ln C / lam0; with one class nothing is decided and any A will do."""
    return alpha * math.log(max(num_classes, 2)) / lam0


@from_paper(ALDR)
def normalise_logits(logits: Tensor) -> Tensor:
    """Scores divided by their row's mean size: s / mean_k |s_k|, in ``logits``'s type.

    The LDR losses' temperatures mean the same for every sample then. A row of mean size under the type's resolution
    (``torch.finfo(...).eps``) is divided by that, so a row of zeros stays zero with a finite gradient.

    Args:
        logits: (..., C) scores.

    Source: the code of Zhu, Ying and Yang (2021), arXiv:2112.14869.

    >>> normalise_logits(torch.tensor([[1.0, -3.0, 2.0]]))
    tensor([[ 0.5000, -1.5000,  1.0000]])
    """
    logits = check_floating("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., C) with C >= 1; got {tuple(logits.shape)}")
    return narrowed(_normalised(logits), logits.dtype)


def _normalised(logits: Tensor) -> Tensor:
    """The same, not yet rounded to 16 bits."""
    scores = upcast(logits)
    size = scores.abs().mean(-1, keepdim=True)
    return scores / size.clamp(min=torch.finfo(logits.dtype).eps)


@from_paper(ALDR)
class AdaptiveLDRLoss(nn.Module):
    """Module of :func:`adaptive_ldr_loss`, and the authors' training procedure where it keeps the temperatures.

    With ``num_samples`` it holds a temperature for every training sample in the buffer ``lam`` (num_samples,), starts
    them at ``lam0`` and in training mode takes one step lam_i <- lam0 - KL(p_lam_i || u) / A each time sample i comes
    by, before its loss is taken at lam_i. It is then called as ``loss(logits, target, index)``.

    Args:
        lam0, alpha, margin: numbers, as in ``adaptive_ldr_loss``.
        normalise: pass the scores through ``normalise_logits`` first, as the authors do.
        num_samples: size of the memory; None solves for lam at every call.
        reduction: as in ``adaptive_ldr_loss``.

    Raises:
        ValueError, TypeError: for options or inputs that do not fit.

    Source: Zhu, Ying and Yang (2021), arXiv:2112.14869. Their code leaves the margin out of p_lam; it is in here.

    >>> loss = AdaptiveLDRLoss(lam0=1.0, num_samples=100)
    >>> value = loss(torch.tensor([[3.0, 0.0]]), torch.tensor([0]), index=torch.tensor([7]))
    >>> bool(loss.lam[7] < 1), bool(loss.lam[8] == 1)
    (True, True)
    """

    lam: Tensor | None

    def __init__(
        self,
        lam0: float = 10.0,
        alpha: float = 2.0,
        margin: float = 0.1,
        normalise: bool = False,
        num_samples: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        spec_of(adaptive_ldr_loss).check(lam0=lam0, alpha=alpha, margin=margin)
        check_choice("reduction", reduction, REDUCTIONS)
        if num_samples is not None:
            check_count("num_samples", num_samples)
        self.lam0, self.alpha, self.margin = lam0, alpha, margin
        self.normalise, self.num_samples, self.reduction = normalise, num_samples, reduction
        self.register_buffer("lam", None if num_samples is None else torch.full((num_samples,), float(lam0)))

    def forward(self, logits: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """The loss of ``logits`` (N, C) against ``target`` (N,); ``index`` (N,) says which samples these are."""
        scores = _normalised(check_floating("logits", logits)) if self.normalise else logits
        if self.lam is not None:
            loss = self._remembered(scores, target, index, self.lam)
        elif index is None:
            loss = adaptive_ldr_loss(scores, target, self.lam0, self.alpha, self.margin, reduction=self.reduction)
        else:
            raise ValueError("index must be left out where num_samples is None; got a tensor")
        return narrowed(loss, logits.dtype)

    def _remembered(self, logits: Tensor, target: Tensor, index: Tensor | None, memory: Tensor) -> Tensor:
        logits, target = check_class_logits(logits, target)
        index = _checked_index(index, target, len(memory))
        scores, spec = upcast(logits), spec_of(adaptive_ldr_loss)
        lam0, alpha = spec.hyper("lam0", self.lam0, like=scores), spec.hyper("alpha", self.alpha, like=scores)
        difference = score_differences(scores, target, self.margin)
        stiffness = _stiffness(lam0, alpha, logits.shape[1])
        lam = memory[index].to(scores.dtype)
        if self.training:
            lam = lam + _rise(_below_top(difference.detach()), lam, lam0, stiffness)[1]
            memory[index] = lam.to(memory.dtype)
        loss = tempered_maximum(difference, lam) - stiffness / 2 * (lam - lam0) ** 2
        return narrowed(reduce(loss, self.reduction), logits.dtype)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return (
            f"lam0={self.lam0!r}, alpha={self.alpha!r}, margin={self.margin!r}, normalise={self.normalise!r}, "
            f"num_samples={self.num_samples!r}, reduction={self.reduction!r}"
        )


def _checked_index(index: Tensor | None, target: Tensor, size: int) -> Tensor:
    """Positions (N,) in a memory of ``size``."""
    index = check_tensor("index", index, f"an integer tensor of positions in [0, {size})")
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"index must be an integer tensor; got dtype {index.dtype}")
    check_same_shape(target=target, index=index)
    check_same_device(target=target, index=index)
    check_range("index", index, 0, size - 1)
    return index.long()
