"""The weights that maximise an expectation at a price on, or within a ball of, an f-divergence.

sup_p E_p[x] - lam D_f(p || q) is attained at p_k = q_k (f')^{-1}((x_k - eta) / lam) with eta such that sum_k p_k = 1.
Here z = (x - max x) / lam <= 0 and eta = max x - lam t, so that p_k = q_k (f')^{-1}(z_k + t).

All functions work over the last dimension. Roots are found without gradient and then carry it, to second order.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from minimand._numerics import increasing_root, polished

if TYPE_CHECKING:
    from minimand.divergences.f_divergence import FDivergence

NORMALISING_STEPS = 60
RADIUS_STEPS = 60
JUMP = 1e-9  # weights that miss 1 by more have a leap between them
COLDEST = 40.0  # e^-40 of the values' range as price leaves nothing in float64 beside the largest value


class WorstCase(NamedTuple):
    """A worst-case expectation and the weights that attain it."""

    value: Tensor
    weights: Tensor


def priced_weights(divergence: FDivergence, x: Tensor, log_q: Tensor, strength: Tensor) -> Tensor:
    """ln p of sup_p E_p[x] - strength D_f(p || q)."""
    kink = divergence.generator.kink
    if kink is not None:
        return _log(kink.regularised(x, log_q.exp(), strength))
    return tilted(divergence, _below_top(x, log_q) / strength, log_q)[0]


def ball_weights(divergence: FDivergence, x: Tensor, log_q: Tensor, radius: Tensor) -> Tensor:
    """ln p of sup E_p[x] over D_f(p || q) <= radius.

    The price whose weights lie on the sphere is found by Newton's method on ln D_f in w = -ln price: it rises with w
    at the rate sum_k p'_k (z_k - mean z)^2, p' = dp/dz, mean over p'.
    """
    kink = divergence.generator.kink
    if kink is not None:
        return _log(kink.robust(x, log_q.exp(), radius))
    z = _below_top(x, log_q)
    spread = -z.detach().amin(-1, keepdim=True)
    z = z / torch.where(spread > 0, spread, 1)
    at_top = torch.where(z == 0, log_q, -inf)
    log_best = at_top - at_top.logsumexp(-1, keepdim=True)
    farthest = divergence.terms(log_best, log_q).sum(-1, keepdim=True).detach()
    attained = radius >= farthest
    radius = torch.where(attained, farthest / 2, radius)

    def distance(w: Tensor, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        z = z * w.exp()
        log_p, log_response = tilted(divergence, z, log_q)
        response = log_response.exp()
        mean = (response * z).sum(-1, keepdim=True) / response.sum(-1, keepdim=True)
        return divergence.terms(log_p, log_q).sum(-1, keepdim=True), (response * (z - mean) ** 2).sum(-1, keepdim=True)

    fixed_z, fixed_q, target = z.detach(), log_q.detach(), radius.detach()
    high = torch.full_like(farthest, COLDEST)
    w = increasing_root(lambda w: (distance(w, fixed_z, fixed_q)[0] / target).log(), -high, high, RADIUS_STEPS, 1e-12)
    w = polished(w, lambda w: distance(w, z, log_q)[0] - radius, lambda w: distance(w, z, log_q)[1])
    return torch.where(attained, log_best, tilted(divergence, z * w.exp(), log_q)[0])


def tilted(divergence: FDivergence, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """ln p and ln dp/dz of p_k = q_k (f')^{-1}(z_k + t), sum_k p_k = 1, for z <= 0 that is 0 somewhere.

    The unknown is v = ln p/q where z is 0, so that t = f'(e^v): between 0 and where these weights alone sum to 1.
    """
    f = divergence.generator
    fixed_z, fixed_q = z.detach(), log_q.detach()

    def log_mass(v: Tensor, z: Tensor, log_q: Tensor) -> Tensor:
        return (log_q + divergence.climb(v, z)).logsumexp(-1, keepdim=True)

    def log_response(v: Tensor) -> Tensor:
        log_ratio = divergence.climb(v, fixed_z)
        present = log_ratio > -inf
        bend = 2 * log_ratio - f.log_weight(torch.where(present, log_ratio, 0))
        return torch.where(present, fixed_q + bend, -inf)

    def across_jump(v: Tensor) -> Tensor:
        # where f'(0) is finite a weight can leap from 0 between neighbouring numbers v: it takes what is left to take
        step = 4 * torch.finfo(v.dtype).eps * (1 + v)
        below, above = ((fixed_q + divergence.climb(end, fixed_z)).exp() for end in (v - step, v + step))
        missing, leap = 1 - below.sum(-1, keepdim=True), (above - below).sum(-1, keepdim=True)
        return _log(below + (missing / torch.where(leap > 0, leap, 1)).clamp(0, 1) * (above - below))

    def slope(v: Tensor) -> Tensor:
        rate = log_response(v).logsumexp(-1, keepdim=True) - log_mass(v, fixed_z, fixed_q)
        return (rate + f.log_weight(v) - v).exp()

    if f.normaliser is not None:
        v = f.normaliser(log_q, z)
    else:
        high = -torch.where(fixed_z == 0, fixed_q, -inf).logsumexp(-1, keepdim=True)
        tolerance = 4 * torch.finfo(z.dtype).eps
        v = increasing_root(
            lambda v: log_mass(v, fixed_z, fixed_q), torch.zeros_like(high), high, NORMALISING_STEPS, tolerance
        )
        v = polished(v, lambda v: log_mass(v, z, log_q), slope)
    log_p = log_q + divergence.climb(v, z)
    mass = log_p.logsumexp(-1, keepdim=True)
    return torch.where(mass.abs() < JUMP, log_p - mass, across_jump(v.detach())), log_response(v.detach())


def _below_top(x: Tensor, log_q: Tensor) -> Tensor:
    """x - max x over the support of q, 0 outside it; the maximum is a constant, for p does not depend on it."""
    support = log_q > -inf
    top = torch.where(support, x, -inf).amax(-1, keepdim=True).detach()
    return torch.where(support, x - top, torch.zeros_like(x))


def _log(weights: Tensor) -> Tensor:
    """ln p, -inf with a zero gradient where p is 0."""
    return torch.where(weights > 0, torch.where(weights > 0, weights, 1).log(), -inf)
