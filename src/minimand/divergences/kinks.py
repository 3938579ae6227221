"""The two generators with kinks: their suprema have weights that a sort gives."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

from minimand.divergences.generator import Kink


def no_form(name: str, what: str) -> Callable[..., Tensor]:
    """A form that does not exist: calling it says so."""

    def missing(*_: Tensor) -> Tensor:
        raise ValueError(f"{name} has a kink and therefore no {what}; use a divergence with a smooth generator")

    return missing


def _share_of_best(x: Tensor, q: Tensor) -> Tensor:
    """q restricted to where x is largest in its support, and normalised."""
    top = x.masked_fill(q == 0, -inf).amax(-1, keepdim=True)
    best = q * (x == top)
    return best / best.sum(-1, keepdim=True)


def _tv_conjugate(u: Tensor) -> Tensor:
    """max(u, -1/2) up to 1/2, infinite past it."""
    return torch.where(u > 0.5, inf, u.clamp(min=-0.5))


def _tv_regularised(x: Tensor, q: Tensor, strength: Tensor) -> Tensor:
    """sup E_p[x] - strength TV(p, q) = E_q[max(x, x_max - strength)]: what lies lower moves to the maximum."""
    best = _share_of_best(x, q)
    kept = q * (x >= (best * x).sum(-1, keepdim=True) - strength)
    return kept + (q.sum(-1, keepdim=True) - kept.sum(-1, keepdim=True)) * best


def _tv_robust(x: Tensor, q: Tensor, radius: Tensor) -> Tensor:
    """sup E_p[x] over TV(p, q) <= radius: the lowest ``radius`` of mass moves to the maximum."""
    order = x.argsort(-1)
    mass = q.gather(-1, order)
    below = mass.cumsum(-1) - mass
    moved = (radius - below).clamp(min=0).minimum(mass).gather(-1, order.argsort(-1))
    return q - moved + moved.sum(-1, keepdim=True) * _share_of_best(x, q)


def cvar_weights(level: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """sup E_p[x] over p <= q / level: the mean of the top ``level`` of mass, whatever the strength or radius."""

    def weights(x: Tensor, q: Tensor, _: Tensor) -> Tensor:
        order = x.argsort(-1, descending=True)
        mass = q.gather(-1, order)
        above = mass.cumsum(-1) - mass
        return (level - above).clamp(min=0).minimum(mass).gather(-1, order.argsort(-1)) / level

    return weights


def cvar_kink(level: float) -> Kink:
    """The kink of the indicator of t <= 1 / level."""
    weights = cvar_weights(level)
    return Kink(lambda u: u.clamp(min=0) / level, lambda v: v, weights, weights)


TV_KINK = Kink(_tv_conjugate, lambda v: (v / 2).tanh() / 2, _tv_regularised, _tv_robust)
