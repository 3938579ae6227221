"""Sets that online learners play in, each with the geometry in which distances over it are measured."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

import torch
from torch import Tensor

from minimand._checks import is_concrete
from minimand.hyper import HyperSpec
from minimand.source import Source, from_paper

OPTIMISTIC = Source(
    "Optimistic Online Mirror Descent for Bridging Stochastic and Adversarial Online Convex Optimization",
    "Chen et al.",
    2023,
    "2302.04552",
)
RADIUS = HyperSpec(1.0, low=0.0, closed="neither")


class Mirror(Protocol):
    """A convex set and the geometry in which distances over it are measured, both over the last dimension.

    Points are held by coordinates in which a step is a sum: those of ``coordinates``, made plays by ``point``.
    """

    def coordinates(self, point: Tensor) -> Tensor:
        """How a point of the set is held."""
        ...

    def point(self, coordinates: Tensor) -> Tensor:
        """The point that is held so."""
        ...

    def step(self, coordinates: Tensor, direction: Tensor) -> Tensor:
        """Of argmin over y in the set of <direction, y> + D(y, x), the coordinates, for x held by coordinates."""
        ...

    def best(self, direction: Tensor) -> Tensor:
        """The point of the set at which <direction, .> is least."""
        ...

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """(...): the norm of gradients (..., d) dual to that in which the divergence is strongly convex."""
        ...

    def reach(self, point: Tensor) -> Tensor:
        """(...): the largest divergence D(u, point) of any u in the set."""
        ...

    def spread(self, like: Tensor) -> float:
        """The largest divergence of any two points of the size of ``like``'s."""
        ...


@from_paper(OPTIMISTIC)
@dataclass(frozen=True)
class Ball:
    """||x|| <= radius, around 0, in Euclidean geometry: D(y, x) = ||y - x||^2 / 2.

    >>> Ball(5.0).step(torch.tensor([3.0, 4.0]), torch.tensor([-3.0, -4.0]))  # (6, 8), brought back
    tensor([3., 4.])
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        RADIUS.check("radius", self.radius)

    def coordinates(self, point: Tensor) -> Tensor:
        """The point of the ball nearest to ``point``."""
        return point * (self.radius / _length(point).clamp(min=self.radius))[..., None]

    def point(self, coordinates: Tensor) -> Tensor:
        """Themselves."""
        return coordinates

    def step(self, coordinates: Tensor, direction: Tensor) -> Tensor:
        """x - direction, projected."""
        return self.coordinates(coordinates - direction)

    def best(self, direction: Tensor) -> Tensor:
        """-radius direction / ||direction||; 0 for none."""
        length = _length(direction)
        return -direction * (self.radius / torch.where(length == 0, 1, length))[..., None]

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """The Euclidean one."""
        return _length(gradient)

    def reach(self, point: Tensor) -> Tensor:
        """(||point|| + radius)^2 / 2."""
        return (_length(point) + self.radius).square() / 2

    def spread(self, like: Tensor) -> float:
        """Half the squared diameter."""
        return 2 * self.radius**2


@from_paper(OPTIMISTIC)
@dataclass(frozen=True)
class Box:
    """low <= x_i <= high in each coordinate, in Euclidean geometry.

    >>> Box(0.0, 1.0).step(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.25]))
    tensor([0.0000, 0.2500])
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"high must be above low, {self.low:g}; got {self.high:g}")

    def coordinates(self, point: Tensor) -> Tensor:
        """The point of the box nearest to ``point``."""
        return point.clamp(self.low, self.high)

    def point(self, coordinates: Tensor) -> Tensor:
        """Themselves."""
        return coordinates

    def step(self, coordinates: Tensor, direction: Tensor) -> Tensor:
        """x - direction, projected."""
        return self.coordinates(coordinates - direction)

    def best(self, direction: Tensor) -> Tensor:
        """The corner opposite to ``direction``."""
        return torch.where(direction > 0, torch.full_like(direction, self.low), self.high)

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """The Euclidean one."""
        return _length(gradient)

    def reach(self, point: Tensor) -> Tensor:
        """Half the squared distance to the farthest corner."""
        return (point - self.low).maximum(self.high - point).square().sum(-1) / 2

    def spread(self, like: Tensor) -> float:
        """Half the squared diagonal."""
        return like.shape[-1] * (self.high - self.low) ** 2 / 2


@from_paper(OPTIMISTIC)
@dataclass(frozen=True)
class Simplex:
    """x_i > 0 with sum 1, in the geometry of entropy: D(y, x) = sum_i y_i ln(y_i / x_i). Points are held by logarithms.

    >>> plays = Simplex()
    >>> even = plays.coordinates(torch.tensor([0.5, 0.5]))
    >>> plays.point(plays.step(even, torch.tensor([0.0, 3.0]).log1p()))  # in proportion to e^{-direction}
    tensor([0.8000, 0.2000])
    """

    def coordinates(self, point: Tensor) -> Tensor:
        """ln x, for x in proportion to ``point``, which must be positive."""
        if is_concrete(point) and not bool((point > 0).all()):
            raise ValueError(f"start must be positive everywhere; got {point.min().item():g}")
        return (point / point.sum(-1, keepdim=True)).log()

    def point(self, coordinates: Tensor) -> Tensor:
        """e to them."""
        return coordinates.softmax(-1)

    def step(self, coordinates: Tensor, direction: Tensor) -> Tensor:
        """ln x - direction, normalised."""
        return (coordinates - direction).log_softmax(-1)

    def best(self, direction: Tensor) -> Tensor:
        """The vertex at which ``direction`` is least."""
        return torch.zeros_like(direction).scatter(-1, direction.argmin(-1, keepdim=True), 1.0)

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """The largest entry's size."""
        return gradient.abs().amax(-1)

    def reach(self, point: Tensor) -> Tensor:
        """-ln of the smallest entry."""
        return -point.amin(-1).log()

    def spread(self, like: Tensor) -> float:
        """Without bound: points may be near the edge."""
        return inf


def _length(value: Tensor) -> Tensor:
    return torch.linalg.vector_norm(value, dim=-1)
