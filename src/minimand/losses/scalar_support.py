"""Regression as classification: a number becomes a distribution over bins and is read off as its mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count, check_floating, check_same_device
from minimand._numerics import upcast
from minimand.hyper import HyperSpec, Uniform
from minimand.losses.loss import LossSpec, narrowed, reduce
from minimand.source import Source

HL_GAUSS = Source(
    "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL",
    "Farebrother et al.",
    2024,
    "2403.03950",
    "section 3.1",
)


@dataclass(frozen=True)
class ScalarSupport:
    """A range of numbers cut into bins, and the loss that regresses onto it by classification.

    "hl_gauss": ``num_bins`` = m bins of width w on [v_min, v_max] with edges e_0 .. e_m. A number y becomes the
    mass of N(y, s^2), s = sigma_ratio * w, in each bin, renormalised to the range:
    q_i = [Phi((e_{i+1} - y) / s) - Phi((e_i - y) / s)] / [Phi((e_m - y) / s) - Phi((e_0 - y) / s)].
    "two_hot": m atoms from v_min to v_max; y is split over the two nearest so that the mean is y.

    The loss is the cross-entropy -sum_i q_i ln softmax(logits)_i in nats; the prediction is the mean of the softmax
    over bin centres (atoms). Numbers outside the range count as its ends. The mean of a smoothed target is drawn
    inwards near the ends: make the range a few s wider than the data.

    Args:
        v_min, v_max: the range, finite, v_min < v_max.
        num_bins: m, at least 1 for "hl_gauss" and 2 for "two_hot".
        sigma_ratio: s / w, a number or 0-d tensor in [0.001, 100]; "two_hot" does not use it.
        kind: "hl_gauss" or "two_hot".

    Raises:
        ValueError, TypeError: for arguments that do not fit.

    Source: Farebrother et al. (2024), arXiv:2403.03950, section 3.1, who take m = 51 on [-10, 10] and s = 0.75 w;
    the smoothed histogram is Imani and White (2018), arXiv:1806.04613.

    >>> support = ScalarSupport(-2.0, 2.0, num_bins=5)
    >>> support.encode(torch.tensor(0.3))
    tensor([0.0062, 0.1157, 0.4456, 0.3679, 0.0647])
    >>> support.loss(torch.zeros(1, 5), torch.tensor([0.3])) / math.log(5)
    tensor(1.)
    """

    v_min: float
    v_max: float
    num_bins: int
    sigma_ratio: float | Tensor = 0.75
    kind: Literal["hl_gauss", "two_hot"] = "hl_gauss"

    spec: ClassVar[LossSpec] = LossSpec(
        "ScalarSupport",
        HL_GAUSS,
        "real",
        {"sigma_ratio": HyperSpec(0.75, low=1e-3, high=100.0, search=Uniform(0.3, 2.0))},
    )

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("hl_gauss", "two_hot"))
        if not (math.isfinite(self.v_min) and math.isfinite(self.v_max) and self.v_min < self.v_max):
            raise ValueError(f"v_min and v_max must be finite with v_min < v_max; got {self.v_min} and {self.v_max}")
        least = 1 if self.kind == "hl_gauss" else 2
        check_count("num_bins", self.num_bins, least)
        self.spec.check(sigma_ratio=self.sigma_ratio)

    def encode(self, value: Tensor) -> Tensor:
        """The target distribution (..., m) of numbers (...), in their type; sums to 1."""
        value = check_floating("value", value)
        return self._encoded(upcast(value)).to(value.dtype)

    def decode(self, logits: Tensor) -> Tensor:
        """The predicted numbers (...) of logits (..., m), in their type."""
        logits = self._checked_logits(logits)
        scores = upcast(logits)
        return narrowed((scores.softmax(-1) * self._points(scores)).sum(-1), logits.dtype)

    def loss(self, logits: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
        """Cross-entropy of logits (..., m) against numbers (...), in the logits' type.

        ``reduction`` "none" gives the target's shape, "mean" and "sum" a scalar.
        """
        logits = self._checked_logits(logits)
        target = check_floating("target", target)
        if target.shape != logits.shape[:-1]:
            raise ValueError(
                f"target must have shape {tuple(logits.shape[:-1])} to match logits; got {tuple(target.shape)}"
            )
        check_same_device(logits=logits, target=target)
        scores = upcast(logits)
        cross_entropy = -(self._encoded(target.to(scores.dtype)) * scores.log_softmax(-1)).sum(-1)
        return narrowed(reduce(cross_entropy, reduction), logits.dtype)

    def _checked_logits(self, logits: Tensor) -> Tensor:
        logits = check_floating("logits", logits)
        if logits.ndim == 0 or logits.shape[-1] != self.num_bins:
            raise ValueError(f"logits must have shape (..., {self.num_bins}); got {tuple(logits.shape)}")
        return logits

    def _points(self, like: Tensor) -> Tensor:
        """Where the mass of each bin sits: its centre, or the atom."""
        if self.kind == "two_hot":
            return torch.linspace(self.v_min, self.v_max, self.num_bins, dtype=like.dtype, device=like.device)
        edges = self._edges(like)
        return (edges[:-1] + edges[1:]) / 2

    def _edges(self, like: Tensor) -> Tensor:
        return torch.linspace(self.v_min, self.v_max, self.num_bins + 1, dtype=like.dtype, device=like.device)

    def _encoded(self, value: Tensor) -> Tensor:
        value = value.clamp(self.v_min, self.v_max)[..., None]
        if self.kind == "two_hot":
            spacing = (self.v_max - self.v_min) / (self.num_bins - 1)
            return (1 - (value - self._points(value)).abs() / spacing).relu()
        sigma = self.spec.hyper("sigma_ratio", self.sigma_ratio, like=value) * (self.v_max - self.v_min) / self.num_bins
        bounds = (self._edges(value) - value) / sigma
        mass = _normal_mass(bounds[..., :-1], bounds[..., 1:])
        return mass / mass.sum(-1, keepdim=True)


def _normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Phi(high) - Phi(low), taken in the lower tail, where a difference of two numbers near 1 loses no digits."""
    above = low + high > 0
    left, right = torch.where(above, -high, low), torch.where(above, -low, high)
    return (torch.special.erfc(-right / math.sqrt(2)) - torch.special.erfc(-left / math.sqrt(2))) / 2
