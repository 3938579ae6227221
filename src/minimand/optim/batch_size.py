"""Batch sizes that grow once the gradient's noise outweighs the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from minimand._checks import check_choice, check_count, check_floating
from minimand._numerics import widest
from minimand.hyper import HyperSpec
from minimand.source import Source, from_paper

ADADAGRAD = Source(
    "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", "Lau et al.", 2024, "2402.11215"
)
KINDS = ("norm", "inner", "augmented", "coordinate")
TOLERANCE = HyperSpec(0.5, low=0.0, high=1.0, closed="neither")  # the paper names no default
PerSample = Tensor | Mapping[str, Tensor]


@from_paper(ADADAGRAD)
@dataclass(frozen=True)
class GradientSums:
    """What a :class:`BatchSizeTest` reads of a batch: sums over its samples, which shards can add up.

    Args:
        count: the number of samples, b.
        total: (d,), the sum of the gradients g_i.
        squares: (d,), the sum of their squares, entry by entry.
        projections: 0-d, the sum of <g_i, mean>^2 with the mean total / count of the whole batch, known only once
            ``total`` is; the inner-product tests need it.

    >>> sums = GradientSums.of(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> sums.count, sums.total.tolist(), sums.squares.tolist(), sums.projections.item()  # the mean is (2, 1)
    (2, [4.0, 2.0], [10.0, 4.0], 52.0)
    """

    count: int
    total: Tensor
    squares: Tensor
    projections: Tensor | None = None

    @classmethod
    def of(cls, gradients: PerSample) -> GradientSums:
        """The sums, in float64, of per-sample gradients (b, d), or of (b, ...) a parameter by name."""
        parts = gradients if isinstance(gradients, Mapping) else {"gradients": gradients}
        for name, part in parts.items():
            check_floating(name, part)
            if part.ndim < 1 or (isinstance(gradients, Tensor) and part.ndim != 2):
                raise ValueError(f"gradients must have shape (b, d); got {tuple(part.shape)}")
        sizes = {name: len(part) for name, part in parts.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"gradients must have one number of samples; got {sizes}")
        each = torch.cat(
            [widest(part).flatten(1) if part.ndim > 1 else widest(part)[:, None] for part in parts.values()], 1
        )
        total = each.sum(0)
        projections = (each @ (total / max(len(each), 1))).square().sum()
        return cls(len(each), total, each.square().sum(0), projections)


@from_paper(ADADAGRAD)
@dataclass(frozen=True, kw_only=True)
class BatchSizeTest:
    """How many samples the next batch should have, by the per-sample gradients g_i of this one, b in number.

    With gbar their mean and Var the unbiased variance over i, the next size is the largest of b and

    - ``"norm"``: sum_j Var_j / (eta^2 ||gbar||^2);
    - ``"inner"``: Var(<g_i, gbar>) / (theta^2 ||gbar||^4);
    - ``"augmented"``: the same, and sum_i ||g_i - p_i gbar||^2 / ((b - 1) nu^2 ||gbar||^2) with p_i gbar the
      projection of g_i on gbar, whichever is larger;
    - ``"coordinate"``, for rules with a rate for each coordinate: max_j Var_j / (eta^2 gbar_j^2),

    rounded up, and at most ``max_size``. Where the variance is zero nothing more is needed; where the mean is, and the
    variance is not, everything up to ``max_size`` is.

    Args:
        max_size: the largest batch; at most the number of samples.
        kind: which test.
        eta, theta, nu: in (0, 1), how much noise is borne; smaller ones grow the batch sooner.

    Each g_i must be of sample i alone: batch normalisation would couple them.

    Source: Lau et al. (2024), arXiv:2402.11215: the norm test, the inner product tests, and the coordinate-wise test.

    >>> gradients = torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
    >>> BatchSizeTest(max_size=50, eta=0.2).next(gradients)  # (5/3 + 2/3) / (0.04 * 3.25) = 17.9
    18
    """

    max_size: int
    kind: Literal["norm", "inner", "augmented", "coordinate"] = "norm"
    eta: float = TOLERANCE.default
    theta: float = TOLERANCE.default
    nu: float = TOLERANCE.default

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        for name in ("eta", "theta", "nu"):
            TOLERANCE.check(name, getattr(self, name))
        check_count("max_size", self.max_size)

    def next(self, gradients: PerSample | GradientSums, size: int | None = None) -> int:
        """The next batch's size, never under ``size``, this batch's unless given. It waits for the device."""
        sums = gradients if isinstance(gradients, GradientSums) else GradientSums.of(gradients)
        needed = float(self.needed(sums))
        size = sums.count if size is None else size
        check_count("size", size)
        if needed != needed:
            raise ValueError("gradients must not hold NaN or infinite numbers; got NaN for the size")
        return min(max(size, ceil(min(needed, self.max_size))), self.max_size)

    def needed(self, gradients: PerSample | GradientSums) -> Tensor:
        """The test's own number of samples, 0-d in float64: neither rounded nor bounded."""
        sums = gradients if isinstance(gradients, GradientSums) else GradientSums.of(gradients)
        if sums.count < 2:
            raise ValueError(f"gradients must be of at least 2 samples, to vary; got {sums.count}")
        free = sums.count - 1
        mean = widest(sums.total) / sums.count
        variance = ((widest(sums.squares) - sums.count * mean.square()) / free).clamp(min=0)
        signal = mean.square().sum()
        if self.kind == "norm":
            return _ratio(variance.sum(), self.eta**2 * signal)
        if self.kind == "coordinate":
            each = _ratio(variance, self.eta**2 * mean.square())
            return each.amax() if len(each) else each.sum()
        if sums.projections is None:
            raise ValueError(f"projections must be given for the {self.kind} test; got None")
        projections = widest(sums.projections)
        along = (projections - sums.count * signal.square()) / free
        inner = _ratio(along.clamp(min=0), self.theta**2 * signal.square())
        if self.kind == "inner":
            return inner
        across = (widest(sums.squares).sum() - _ratio(projections, signal)) / free
        return inner.maximum(_ratio(across.clamp(min=0), self.nu**2 * signal))


def _ratio(noise: Tensor, signal: Tensor) -> Tensor:
    """noise / signal, and 0 where there is no noise."""
    return torch.where(noise == 0, noise, noise / signal)
