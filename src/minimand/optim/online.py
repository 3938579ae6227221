"""Online learning: mirror descent that plays against a guess of the next gradient, and its regret measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from minimand._checks import check_floating, check_same_device, check_same_shape
from minimand._numerics import downcast, upcast
from minimand.hyper import HyperSpec
from minimand.optim.mirrors import OPTIMISTIC, Mirror
from minimand.source import from_paper

POSITIVE = HyperSpec(1.0, low=0.0, closed="neither")
NONNEGATIVE = HyperSpec(1.0, low=0.0, closed="left")
Loss = Callable[[Tensor], Tensor]


# How far it steps.


@from_paper(replace(OPTIMISTIC, where="convex and smooth functions"))
@dataclass(frozen=True, kw_only=True)
class AdaptiveRate:
    """eta_t = D / sqrt(10 D^2 L^2 + 4 G^2 + V_{t-1}),  V_t = sum_{s <= t} ||g_s - g_{s-1}||^2,  g_0 = 0.

    Args:
        diameter: D, the largest distance of two points of the set.
        gradient: G, the largest norm of a gradient.
        smoothness: L, by how much the expected losses' gradients change per distance; 0 where that is not known.

    Source: Chen et al. (2023), arXiv:2302.04552. The 10 was not compared with the paper's text; it is what its regret
    bound follows from (``sea_regret_bound``).
    """

    diameter: float
    gradient: float
    smoothness: float = 0.0

    def __post_init__(self) -> None:
        POSITIVE.check("diameter", self.diameter)
        POSITIVE.check("gradient", self.gradient)
        NONNEGATIVE.check("smoothness", self.smoothness)

    def __call__(self, round: Tensor, variation: Tensor) -> Tensor:
        """The rate of round t, from 1, after a variation V_{t-1}."""
        base = 10 * (self.diameter * self.smoothness) ** 2 + 4 * self.gradient**2
        return self.diameter / (base + variation).sqrt()


@from_paper(replace(OPTIMISTIC, where="strongly convex and smooth functions"))
@dataclass(frozen=True)
class StronglyConvexRate:
    """eta_t = 2 / (curvature t), for expected losses that are ``curvature``-strongly convex.

    Source: Chen et al. (2023), arXiv:2302.04552. The 2 could not be compared with the paper's text.
    """

    curvature: float

    def __post_init__(self) -> None:
        POSITIVE.check("curvature", self.curvature)

    def __call__(self, round: Tensor, variation: Tensor) -> Tensor:
        """The rate of round t, from 1."""
        return 2 / (self.curvature * round)


@from_paper(replace(OPTIMISTIC, where="convex and smooth functions"))
def sea_regret_bound(diameter: float, gradient: float, smoothness: float, variance: float, drift: float) -> float:
    """What ``AdaptiveRate``'s expected regret on a set in Euclidean geometry stays under.

    5 sqrt(10) D^2 L + (5 sqrt(5) / 2) D G + 5 sqrt(2) D sqrt(variance) + 5 D sqrt(drift)

    It follows from sum_t <g_t, x_t - u> <= D^2 / (2 eta_T) + sum_t eta_t ||g_t - g_{t-1}||^2 - sum_t (||x_t - xh_t||^2
    + ||x_t - xh_{t+1}||^2) / (2 eta_t): the sums are at most (5/2) D sqrt(10 D^2 L^2 + 4 G^2 + V_T), and what of V_T
    comes from moving is paid for by the negative terms.

    Args:
        diameter, gradient, smoothness: as in ``AdaptiveRate``.
        variance: sum over rounds of the largest E||grad f_t(x) - grad F_t(x)||^2, with F_t the expectation of f_t.
        drift: sum over rounds from the second of the largest ||grad F_t(x) - grad F_{t-1}(x)||^2.

    Source: Chen et al. (2023), arXiv:2302.04552. The constants were derived as said, not compared with the paper's.

    >>> round(sea_regret_bound(2.0, 0.0, 0.0, variance=2.0, drift=1.0), 6)  # 5 * 2 * 2 + 5 * 2
    30.0
    """
    given = {"diameter": diameter, "gradient": gradient, "smoothness": smoothness, "variance": variance, "drift": drift}
    for name, value in given.items():
        NONNEGATIVE.check(name, value)
    fixed = 5 * sqrt(10) * diameter**2 * smoothness + 2.5 * sqrt(5) * diameter * gradient
    return fixed + 5 * diameter * (sqrt(2 * variance) + sqrt(drift))


# The learner.


class OnlineState(NamedTuple):
    """What a learner carries from round to round: tensors only."""

    center: Tensor  # xh_t by the mirror's coordinates, (..., d)
    hint: Tensor  # M_t, the last gradient
    variation: Tensor  # V_{t-1}, (...)
    round: Tensor  # t, 0-d


@from_paper(OPTIMISTIC)
@dataclass(frozen=True)
class OptimisticMirrorDescent:
    """Mirror descent that first steps by a guess of the gradient, and then from where it was by the gradient itself.

    x_t = argmin_x eta_t <M_t, x> + D(x, xh_t);  xh_{t+1} = argmin_x eta_t <g_t, x> + D(x, xh_t)

    The guess M_t is the last gradient, at first 0. Leading dimensions are learners of their own.

    Args:
        mirror: the set and its geometry: ``Ball``, ``Box``, ``Simplex``, or another ``Mirror``.
        rate: eta, a number above 0, or a rule (round, variation) -> eta that never grows.

    Raises:
        ValueError, TypeError: for shapes, types, devices or a rate that do not fit.

    Source: Chen et al. (2023), arXiv:2302.04552, optimistic online mirror descent.

    >>> from minimand.optim import Ball
    >>> learner = OptimisticMirrorDescent(Ball(1.0), rate=0.25)
    >>> state = learner.init(torch.zeros(2))
    >>> learner.play(state)
    tensor([0., 0.])
    >>> state = learner.observe(torch.tensor([1.0, -1.0]), state)
    >>> learner.play(state)  # from (-1/4, 1/4), expecting the same gradient again
    tensor([-0.5000,  0.5000])
    """

    mirror: Mirror
    rate: float | Callable[[Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.rate):
            POSITIVE.check("rate", self.rate)

    def init(self, start: Tensor) -> OnlineState:
        """The state before the first round, xh_1 the point of the set at ``start`` (..., d)."""
        check_floating("start", start)
        if start.ndim == 0 or start.shape[-1] == 0:
            raise ValueError(f"start must have shape (..., d) with d >= 1; got {tuple(start.shape)}")
        center = self.mirror.coordinates(upcast(start))
        return OnlineState(center, torch.zeros_like(start), center.new_zeros(start.shape[:-1]), center.new_ones(()))

    def play(self, state: OnlineState) -> Tensor:
        """x_t (..., d), in the start's type."""
        direction = self.step_size(state)[..., None] * upcast(state.hint)
        return downcast(self.mirror.point(self.mirror.step(state.center, direction)), state.hint.dtype)

    def observe(self, gradient: Tensor, state: OnlineState) -> OnlineState:
        """The state of the next round, given this one's gradient at x_t."""
        check_floating("gradient", gradient)
        check_same_shape(start=state.hint, gradient=gradient)
        check_same_device(start=state.hint, gradient=gradient)
        wide, hint = upcast(gradient).to(state.center.dtype), upcast(state.hint)
        center = self.mirror.step(state.center, self.step_size(state)[..., None] * wide)
        variation = state.variation + (wide - hint).square().sum(-1)
        return OnlineState(center, downcast(wide, state.hint.dtype), variation, state.round + 1)

    def step_size(self, state: OnlineState) -> Tensor:
        """eta_t (...)."""
        if callable(self.rate):
            return self.rate(state.round, state.variation).expand(state.variation.shape)
        return torch.full_like(state.variation, self.rate)


# The regret.


class Regret(NamedTuple):
    """How much more was lost over a game than by the best fixed point in hindsight, per learner.

    Args:
        losses: (T, ...), what was lost in each round.
        linear: (T, ...), sum_{s <= t} <g_s, x_s> - min_u sum_{s <= t} <g_s, u>: the regret where losses are linear,
            and no less than it where they are convex.
        bound: (...), what the last of ``linear`` cannot be above, by the gradients that came.
    """

    losses: Tensor
    linear: Tensor
    bound: Tensor


@from_paper(OPTIMISTIC)
def play_online(learner: OptimisticMirrorDescent, losses: Iterable[Loss], start: Tensor) -> Regret:
    """Let a learner play against convex losses, and measure its regret beside the bound of its analysis.

    sum_t <g_t, x_t - u> <= B / eta_T + sum_t (eta_t / 2) ||g_t - M_t||_*^2

    with B the largest divergence of a point from the start, of any two points where the rate is no single number:
    infinite in entropy's geometry. It holds for every sequence and every rate that never grows.

    Args:
        learner: who plays.
        losses: in order, each a function of the plays (..., d) that gives (...), one loss a learner.
        start: (..., d).

    Source: Chen et al. (2023), arXiv:2302.04552; Rakhlin & Sridharan (2013), arXiv:1208.3728, for the bound.

    >>> from minimand.optim import Ball
    >>> linear = lambda x: x[..., 0]
    >>> game = play_online(OptimisticMirrorDescent(Ball(1.0), rate=0.5), [linear] * 4, torch.zeros(1))
    >>> game.losses.tolist(), game.linear[-1].item(), game.bound.item()  # always -1 would have lost -4
    ([0.0, -1.0, -1.0, -1.0], 1.0, 1.25)
    """
    state = learner.init(start)
    reach = learner.mirror.reach(learner.mirror.point(state.center))
    if callable(learner.rate):
        reach = torch.full_like(reach, learner.mirror.spread(start))
    total = paid = surprise = torch.zeros_like(state.variation)[..., None]
    found, regrets, rate = [], [], learner.step_size(state)
    for loss in losses:
        play = learner.play(state)
        gradient, lost = torch.func.grad(lambda x, loss=loss: _summed(loss(x)), has_aux=True)(play)
        wide = upcast(gradient)
        rate = learner.step_size(state)
        surprise = surprise + (rate * learner.mirror.dual_norm(wide - upcast(state.hint)).square() / 2)[..., None]
        total, paid = total + wide, paid + (wide * upcast(play)).sum(-1, keepdim=True)
        regrets.append((paid - (total * learner.mirror.best(total)).sum(-1, keepdim=True))[..., 0])
        found.append(lost)
        state = learner.observe(gradient, state)
    if not found:
        raise ValueError("losses must hold at least one loss; got none")
    return Regret(torch.stack(found), torch.stack(regrets), reach / rate + surprise[..., 0])


def _summed(loss: Tensor) -> tuple[Tensor, Tensor]:
    return loss.sum(), loss
