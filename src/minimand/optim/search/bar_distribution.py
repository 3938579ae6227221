"""Forecasts as histograms: densities that are constant between fixed borders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minimand._checks import check_floating, check_same_device
from minimand._numerics import downcast, upcast
from minimand.source import Source, from_paper

NEURAL_ACQUISITION = Source(
    "End-to-End Meta-Bayesian Optimisation with Transformer Neural Processes", "Maraval et al.", 2023, "2305.15930"
)


@from_paper(NEURAL_ACQUISITION)
@dataclass(frozen=True, eq=False)
class BarDistribution:
    """The density p(y) = p_k / w_k in bar k: p the softmax of logits, w_k = b_{k+1} - b_k the widths between borders.

    Bar k takes b_k < y <= b_{k+1}. What lies outside the borders counts to the bar at that end.

    Args:
        borders: b, (K + 1,), increasing: K bars, at least one.

    Raises:
        ValueError, TypeError: for borders that do not increase or are not finite, logits of another number of bars.

    Source: Maraval et al. (2023), arXiv:2305.15930, whose forecasts take this form; it is that of Muller et al. (2021),
    arXiv:2112.10510, section 3.

    >>> bars, logits = BarDistribution(torch.tensor([0.0, 1.0, 2.0, 3.0])), torch.tensor([0.2, 0.5, 0.3]).log()
    >>> bars.mean(logits)  # 0.2 * 0.5 + 0.5 * 1.5 + 0.3 * 2.5
    tensor(1.6000)
    >>> bars.expected_improvement(logits, torch.tensor(1.4))  # 0.5 * 0.6^2 / 2 + 0.3 * 1.1
    tensor(0.4200)
    """

    borders: Tensor

    def __post_init__(self) -> None:
        borders = check_floating("borders", self.borders, ndim=1)
        if len(borders) < 2:
            raise ValueError(f"borders must be at least 2; got {len(borders)}")
        if not bool((borders.diff() > 0).all()) or not bool(borders.isfinite().all()):
            raise ValueError(f"borders must be finite and increase; got {borders.tolist()}")

    def log_prob(self, logits: Tensor, y: Tensor) -> Tensor:
        """ln p(y) (...) of values y (...) under logits (..., K), in nats and the logits' type; y is a constant."""
        logits, wide, borders = self._checked(logits)
        y = check_floating("y", y)
        check_same_device(logits=logits, y=y)
        reached = upcast(y)[..., None] > borders[1:-1]  # the border below each bar but the first
        inside = F.pad(reached, (1, 0), value=True) & ~F.pad(reached, (0, 1), value=False)
        density = torch.where(inside, wide.log_softmax(-1) - borders.diff().log(), 0).sum(-1)
        return downcast(torch.where(y.isnan(), torch.nan, density), logits.dtype)

    def mean(self, logits: Tensor) -> Tensor:
        """The mean (...) under logits (..., K): sum_k p_k m_k, m_k the middle of bar k."""
        logits, wide, borders = self._checked(logits)
        return downcast((wide.softmax(-1) * _middle(borders)).sum(-1), logits.dtype)

    def ucb(self, logits: Tensor, beta: float = 1.0) -> Tensor:
        """The mean plus ``beta`` standard deviations (...) under logits (..., K).

        The variance is the density's, sum_k p_k ((m_k - mean)^2 + w_k^2 / 12); the authors' code leaves out the widths.
        """
        logits, wide, borders = self._checked(logits)
        p, middle = wide.softmax(-1), _middle(borders)
        mean = (p * middle).sum(-1)
        variance = (p * ((middle - mean[..., None]).square() + borders.diff().square() / 12)).sum(-1)
        return downcast(mean + beta * variance.sqrt(), logits.dtype)

    def expected_improvement(self, logits: Tensor, best: Tensor) -> Tensor:
        """E max(y - best, 0) (...) under logits (..., K), for a ``best`` that broadcasts with (...).

        Bar k gives p_k (m_k - best) above the best, p_k (b_{k+1} - best)^2 / (2 w_k) where it holds it. The authors'
        code gives the latter without the share (b_{k+1} - best) / w_k of the bar that lies above: too much.
        """
        logits, wide, borders = self._checked(logits)
        best = check_floating("best", best)
        check_same_device(logits=logits, best=best)
        best = upcast(best)[..., None].to(wide.dtype)
        low, high = borders[:-1].maximum(best), borders[1:]
        share = (high - low).clamp(min=0) / borders.diff()
        gain = share * ((high - best) + (low - best)) / 2
        return downcast((wide.softmax(-1) * gain).sum(-1), logits.dtype)

    def _checked(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits, the same in float32 at least, and the borders beside them."""
        logits = check_floating("logits", logits)
        bars = len(self.borders) - 1
        if logits.shape[-1:] != (bars,):
            raise ValueError(f"logits must have shape (..., {bars}), one a bar; got {tuple(logits.shape)}")
        wide = upcast(logits)
        return logits, wide, self.borders.to(wide)


def _middle(borders: Tensor) -> Tensor:
    return borders[:-1] + borders.diff() / 2
