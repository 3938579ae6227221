"""Black-box search: maximise a function over the unit cube from its values alone.

A search is asked for points and told their values; mapping the cube to boxes, logarithms or choices is the caller's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from minimand._checks import check_count, check_floating, check_range


class Evaluated(NamedTuple):
    """A point (d,) and its value, a scalar."""

    point: Tensor
    value: Tensor


class Search(ABC):
    """A search for the maximum of a function over [0, 1]^dim.

    ``ask`` answers with points to evaluate, ``tell`` takes points with their values. Points may be told that were
    never asked for, and in any grouping; a value of NaN says that the point is infeasible. Points and values are
    float64 on the CPU. The same seed and the same calls give the same points.

    Args:
        dim: how many numbers a point has, at least 1.
        seed: of all that is random, an integer of at least 0.

    Attributes:
        points: (n, dim), what has been told so far, in order.
        values: (n,), their values.
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        for name, value, least in (("dim", dim, 1), ("seed", seed, 0)):
            check_count(name, value, least)
        self.dim, self.seed = dim, seed
        self.points = torch.empty(0, dim, dtype=torch.float64)
        self.values = torch.empty(0, dtype=torch.float64)
        self._best: Evaluated | None = None

    @abstractmethod
    def ask(self, count: int = 1) -> Tensor:
        """``count`` points (count, dim) to evaluate next."""

    def tell(self, points: Tensor, values: Tensor) -> None:
        """Take in the values (k,) of points (k, dim).

        Raises:
            ValueError, TypeError: for shapes or types that do not fit, a point outside the cube, an infinite value.
        """
        points = check_floating("points", points, ndim=2).detach().double().cpu()
        if points.shape[1] != self.dim:
            raise ValueError(f"points must have shape (k, {self.dim}); got {tuple(points.shape)}")
        check_range("points", points, 0.0, 1.0)
        values = check_floating("values", values).detach().double().cpu()
        if values.shape != points.shape[:1]:
            raise ValueError(f"values must have shape ({len(points)},), one a point; got {tuple(values.shape)}")
        if bool(values.isinf().any()):
            where = int(values.isinf().nonzero()[0])
            raise ValueError(
                f"values must be finite, or NaN where a point is infeasible; got {values[where]:g} at position {where}"
            )
        self.points, self.values = torch.cat([self.points, points]), torch.cat([self.values, values])
        for point, value in zip(points, values, strict=True):
            if not bool(value.isnan()) and (self._best is None or bool(value > self._best.value)):
                self._best = Evaluated(point, value)

    @property
    def best(self) -> Evaluated:
        """The point told so far whose value is largest, the first of equals. ValueError where none is feasible."""
        if self._best is None:
            raise ValueError("best needs a feasible point; none of those told is")
        return self._best

    @property
    def feasible(self) -> tuple[Tensor, Tensor]:
        """The points told so far whose values are numbers, and these values."""
        kept = ~self.values.isnan()
        return self.points[kept], self.values[kept]


class RandomSearch(Search):
    """Points drawn evenly from the cube, whatever their values: what any search must beat.

    >>> search = RandomSearch(2, seed=0)
    >>> points = search.ask(5)
    >>> search.tell(points, -points.square().sum(1))
    >>> bool(search.best.value == -points.square().sum(1).min())
    True
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        super().__init__(dim, seed)
        self._generator = torch.Generator().manual_seed(seed)

    def ask(self, count: int = 1) -> Tensor:
        """``count`` points (count, dim) to evaluate next."""
        check_count("count", count)
        return torch.rand(count, self.dim, generator=self._generator, dtype=torch.float64)


class QuasiRandomSearch(Search):
    """Points of a scrambled Sobol sequence: evener than chance, and without regard to values.

    >>> QuasiRandomSearch(2, seed=0).ask(4).mul(2).floor().sum(0)  # each half of each axis has half of them
    tensor([2., 2.], dtype=torch.float64)
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        super().__init__(dim, seed)
        self._sequence = SobolEngine(dim, scramble=True, seed=seed)

    def ask(self, count: int = 1) -> Tensor:
        """``count`` points (count, dim) to evaluate next."""
        check_count("count", count)
        return self._sequence.draw(count, dtype=torch.float64)
