"""Calibration maps: modules from logits to logits, the identity until they are fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from minimand._checks import check_count, check_floating
from minimand._numerics import upcast
from minimand.losses.loss import narrowed
from minimand.source import Source, from_paper

GUO = Source("On Calibration of Modern Neural Networks", "Guo et al.", 2017, "1706.04599", "section 4.2")
MONOTONE = Source(
    "h-calibration: Rethinking Classifier Recalibration with Probabilistic Error-Bounded Objective",
    "Huang et al.",
    2025,
    "2506.17968",
    "authors' code, piecewise linear map",
)

LARGEST_TEMPERATURE = 1e3  # and its inverse the smallest: labels that one class explains have no best temperature
LARGEST_SLOPE = 1e3
KNOTS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def checked_logits(logits: Tensor, num_classes: int | None = None) -> Tensor:
    """Logits (N, C), of ``num_classes`` where that is known, in float32 at least."""
    logits = check_floating("logits", logits)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must have shape (N, C) with C >= 1; got {tuple(logits.shape)}")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise ValueError(f"logits must have shape (N, {num_classes}); got {tuple(logits.shape)}")
    return upcast(logits)


@from_paper(GUO)
class TemperatureScaling(nn.Module):
    """All logits over one temperature: z / T. The order of the classes stays.

    Args:
        temperature: T to start from, in [0.001, 1000]; it stays there. Its logarithm is the parameter.

    Source: Guo et al. (2017), arXiv:1706.04599, section 4.2.

    >>> TemperatureScaling(2.0)(torch.tensor([[4.0, -2.0]]))
    tensor([[ 2., -1.]], grad_fn=<DivBackward0>)
    """

    smooth = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not 1 / LARGEST_TEMPERATURE <= temperature <= LARGEST_TEMPERATURE:
            raise ValueError(f"temperature must lie in [0.001, 1000]; got {temperature:g}")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def temperature(self) -> Tensor:
        """T, a scalar."""
        limit = math.log(LARGEST_TEMPERATURE)
        return self.log_temperature.clamp(-limit, limit).exp()

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, C) over T, in their type."""
        scores = checked_logits(logits)
        return narrowed(scores / self.temperature.to(scores.dtype), logits.dtype)


@from_paper(GUO)
class VectorScaling(nn.Module):
    """A scale and a shift of each class: w_k z_k + b_k. The predicted class may change.

    Args:
        num_classes: C.

    Source: Guo et al. (2017), arXiv:1706.04599, section 4.2.

    >>> VectorScaling(2)(torch.tensor([[4.0, -2.0]]))
    tensor([[ 4., -2.]], grad_fn=<AddBackward0>)
    """

    smooth = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        self.weight = nn.Parameter(torch.ones(num_classes))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, C) scaled and shifted, in their type."""
        scores = checked_logits(logits, len(self.weight))
        return narrowed(self.weight.to(scores.dtype) * scores + self.bias.to(scores.dtype), logits.dtype)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"num_classes={len(self.weight)}"


@from_paper(MONOTONE)
class MonotoneMap(nn.Module):
    """One increasing, piecewise linear function of every log-probability. The order of the classes stays.

    f(v) = -sum_j s_j |[-v, 0] in segment j|,   v = ln softmax(z) <= 0,   s_j > 0

    One slope for all segments is temperature scaling.

    Args:
        knots: where -v passes from one segment to the next, in nats, rising from above 0. The last segment is open.

    Source: the code of Huang et al. (2025), arXiv:2506.17968, where the segments are of equal length up to 100 nats;
    here they are short near 0, where most is decided. Increasing functions of all logits alike keep the order within
    a row, as in Rahimi et al. (2020).

    >>> MonotoneMap((1.0,))(torch.tensor([[0.0, 0.0]])).exp()  # the identity on log-probabilities
    tensor([[0.5000, 0.5000]], grad_fn=<ExpBackward0>)
    """

    smooth = True

    knots: Tensor

    def __init__(self, knots: Sequence[float] = KNOTS) -> None:
        super().__init__()
        ends = [0.0, *knots]
        if not knots or any(not low < high < math.inf for low, high in pairwise(ends)):
            raise ValueError(f"knots must be finite numbers rising from above 0; got {tuple(knots)}")
        self.register_buffer("knots", torch.tensor(ends))
        self.log_slope = nn.Parameter(torch.zeros(len(ends)))

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, C) whose softmax is recalibrated, in ``logits``'s type; none is above 0."""
        depth = -checked_logits(logits).log_softmax(1)[..., None]
        low = self.knots.to(depth.dtype)
        length = torch.cat([low.diff(), torch.full_like(low[:1], torch.inf)])
        limit = math.log(LARGEST_SLOPE)
        slope = self.log_slope.to(depth.dtype).clamp(-limit, limit).exp()
        inside = (depth - low).clamp(min=0).minimum(length)
        return narrowed(-(inside * slope).sum(-1), logits.dtype)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"knots={tuple(round(float(knot), 6) for knot in self.knots[1:])}"
