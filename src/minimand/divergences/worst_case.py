"""The weights that maximise an expectation at a price on, or within a ball of, an f-divergence.

sup_p E_p[x] - lam D_f(p || q) is attained at p_k = q_k (f')^{-1}((x_k - eta) / lam) with eta such that sum_k p_k = 1.
Here z = (x - max x) / lam <= 0 and eta = max x - lam t, so that p_k = q_k (f')^{-1}(z_k + t) and t >= 0.

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
    at the rate sum_k p'_k (u_k - mean u)^2, p' = dp/du, mean over p'.
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
        log_p, u, log_response = tilted(divergence, z * w.exp(), log_q)
        response = log_response.exp()
        mean = (response * u).sum(-1, keepdim=True) / response.sum(-1, keepdim=True)
        return divergence.terms(log_p, log_q).sum(-1, keepdim=True), (response * (u - mean) ** 2).sum(-1, keepdim=True)

    fixed_z, fixed_q, target = z.detach(), log_q.detach(), radius.detach()
    high = torch.full_like(farthest, COLDEST)
    w = increasing_root(lambda w: (distance(w, fixed_z, fixed_q)[0] / target).log(), -high, high, RADIUS_STEPS)
    w = polished(w, lambda w: distance(w, z, log_q)[0] - radius, lambda w: distance(w, z, log_q)[1])
    return torch.where(attained, log_best, tilted(divergence, z * w.exp(), log_q)[0])


def tilted(divergence: FDivergence, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ln p, u = z + t and ln dp/du of p_k = q_k (f')^{-1}(u_k) with sum_k p_k = 1; z <= 0 is 0 somewhere.

    Unless a closed form knows t, Newton finds v = ln p/q where z is 0, and t = f'(e^v).
    """
    f = divergence.generator

    def weights(t: Tensor, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        log_ratio = divergence.unchecked_inverse_link(z + t)
        present = log_ratio > -inf
        curvature = f.log_weight(torch.where(present, log_ratio, 0))
        return log_q + log_ratio, log_q + torch.where(present, 2 * log_ratio - curvature, -inf)

    def log_mass(v: Tensor, z: Tensor, log_q: Tensor) -> Tensor:
        return weights(f.link(v), z, log_q)[0].logsumexp(-1, keepdim=True)

    def slope(v: Tensor) -> Tensor:
        log_p, log_response = weights(f.link(v), fixed_z, fixed_q)
        log_rate = log_response.logsumexp(-1, keepdim=True) - log_p.logsumexp(-1, keepdim=True)
        return (log_rate + f.log_weight(v) - v).exp()

    fixed_z, fixed_q = z.detach(), log_q.detach()
    if f.normaliser is not None:
        t = -f.normaliser(log_q, z)
    else:
        high = -torch.where(fixed_z == 0, fixed_q, -inf).logsumexp(-1, keepdim=True)  # where these weights sum to 1
        v = increasing_root(lambda v: log_mass(v, fixed_z, fixed_q), torch.zeros_like(high), high, NORMALISING_STEPS)
        t = f.link(polished(v, lambda v: log_mass(v, z, log_q), slope))
    log_p, log_response = weights(t, z, log_q)
    return log_p - log_p.logsumexp(-1, keepdim=True), z + t, log_response


def _below_top(x: Tensor, log_q: Tensor) -> Tensor:
    """x - max x over the support of q, 0 outside it; the maximum is a constant, for p does not depend on it."""
    support = log_q > -inf
    top = torch.where(support, x, -inf).amax(-1, keepdim=True).detach()
    return torch.where(support, x - top, torch.zeros_like(x))


def _log(weights: Tensor) -> Tensor:
    """ln p, -inf with a zero gradient where p is 0."""
    return torch.where(weights > 0, torch.where(weights > 0, weights, 1).log(), -inf)
