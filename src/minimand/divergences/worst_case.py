"""The weights that maximise an expectation at a price on, or within a ball of, an f-divergence.

sup_p E_p[x] - lam D_f(p || q) is attained at p_k = q_k (f')^{-1}((x_k - eta) / lam) with eta such that sum_k p_k = 1.
Here z = (x - max x) / lam <= 0 and eta = max x - lam t, so that p_k = q_k (f')^{-1}(z_k + t).

All functions work over the last dimension. Roots are found without gradient and then carry it, to second order.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from minimand._numerics import RootSearch, polished, safe_log

if TYPE_CHECKING:
    from minimand.divergences.f_divergence import FDivergence

JUMP = 1e-9  # weights that miss 1 by more have a leap between them
COLDEST = 40.0  # e^-40 of the values' range as price leaves nothing in float64 beside the largest value


class WorstCase(NamedTuple):
    """A worst-case expectation and the weights that attain it."""

    value: Tensor
    weights: Tensor


def log_weights_at_price(divergence: FDivergence, x: Tensor, log_q: Tensor, strength: Tensor) -> Tensor:
    """ln p of sup_p E_p[x] - strength D_f(p || q)."""
    kink = divergence.generator.kink
    if kink is not None:
        log_p = safe_log(kink.regularised(x, log_q.exp(), strength))
    else:
        log_p = divergence.tilting.at_price(x, log_q, strength)
    return _with_nan_of(log_p, x, log_q, strength)


def log_weights_within(divergence: FDivergence, x: Tensor, log_q: Tensor, radius: Tensor) -> Tensor:
    """ln p of sup E_p[x] over D_f(p || q) <= radius."""
    kink = divergence.generator.kink
    if kink is not None:
        log_p = safe_log(kink.robust(x, log_q.exp(), radius))
    else:
        log_p = divergence.tilting.within(x, log_q, radius)
    return _with_nan_of(log_p, x, log_q, radius)


class Tilting:
    """p_k = q_k (f')^{-1}(z_k + t), sum_k p_k = 1, for one f and z <= 0 that is 0 somewhere.

    The unknown is v = ln p/q where z is 0, so that t = f'(e^v): between 0 and where these weights alone sum to 1.
    """

    def __init__(self, divergence: FDivergence) -> None:
        self.divergence = divergence
        self.find_top = RootSearch(lambda v, z, log_q: self.log_mass(v, z, log_q)[0], tolerance=1e-15)
        self.find_coldness = RootSearch(self.log_excess, tolerance=1e-12)

    def at_price(self, x: Tensor, log_q: Tensor, strength: Tensor) -> Tensor:
        """ln p of sup_p E_p[x] - strength D_f(p || q)."""
        z = _below_top(x, log_q) / strength
        return self.log_weights(self.top(z, log_q), z, log_q)

    def within(self, x: Tensor, log_q: Tensor, radius: Tensor) -> Tensor:
        """ln p of sup E_p[x] over D_f(p || q) <= radius.

        The price e^-w whose weights lie on the sphere is found in w, with which D_f rises.
        """
        z = _below_top(x, log_q)
        spread = -z.detach().amin(-1, keepdim=True)
        z = z / torch.where(spread > 0, spread, 1)
        at_top = torch.where(z == 0, log_q, -inf)
        log_best = at_top - at_top.logsumexp(-1, keepdim=True)
        farthest = self.distance(log_best, log_q).detach()
        attained = radius >= farthest
        radius = torch.where(attained, farthest / 2, radius)
        coldest = torch.full_like(radius, COLDEST)
        w = self.find_coldness(-coldest, coldest, z, log_q, radius)
        w = polished(w, lambda w: self.excess(w, z, log_q, radius))
        z = z * w.exp()
        return torch.where(attained, log_best, self.log_weights(self.top(z, log_q), z, log_q))

    def top(self, z: Tensor, log_q: Tensor) -> Tensor:
        """v, differentiable in z and ln q."""
        normaliser = self.divergence.generator.normaliser
        if normaliser is not None:
            return normaliser(log_q, z)
        return polished(self.fixed_top(z.detach(), log_q.detach()), lambda v: self.log_mass(v, z, log_q))

    def fixed_top(self, z: Tensor, log_q: Tensor) -> Tensor:
        """v, without gradient."""
        high = -torch.where(z == 0, log_q, -inf).logsumexp(-1, keepdim=True)
        return self.find_top(torch.zeros_like(high), high, z, log_q)

    def log_mass(self, v: Tensor, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """ln sum_k p_k, which rises in v, and its slope."""
        f = self.divergence.generator
        log_ratio = self.divergence.climb(v, z)
        mass = (log_q + log_ratio).logsumexp(-1, keepdim=True)
        response = self.log_response(log_ratio, log_q).logsumexp(-1, keepdim=True)
        return mass, (response - mass + f.log_weight(v) - v).exp()

    def log_weights(self, v: Tensor, z: Tensor, log_q: Tensor) -> Tensor:
        """ln p, normalised.

        Where f'(0) is finite a weight can leap from 0 between neighbouring numbers v: there, without gradient, what
        leaps is shared out so that the sum is 1.
        """
        log_p = log_q + self.divergence.climb(v, z)
        log_mass = log_p.logsumexp(-1, keepdim=True)
        if not isfinite(self.divergence.df_at_zero):
            return log_p - log_mass
        v, z, q = v.detach(), z.detach(), log_q.detach().exp()
        step = 4 * torch.finfo(v.dtype).eps * (1 + v)
        below, above = (q * self.divergence.climb(end, z).exp() for end in (v - step, v + step))
        missing, leap = 1 - below.sum(-1, keepdim=True), (above - below).sum(-1, keepdim=True)
        shared = below + (missing / torch.where(leap > 0, leap, 1)).clamp(0, 1) * (above - below)
        return torch.where(log_mass.abs() < JUMP, log_p - log_mass, safe_log(shared))

    def log_response(self, log_ratio: Tensor, log_q: Tensor) -> Tensor:
        """ln p', p' = dp/dz = q / f'' at fixed t."""
        present = log_ratio > -inf
        bend = 2 * log_ratio - self.divergence.generator.log_weight(torch.where(present, log_ratio, 0))
        return torch.where(present, log_q + bend, -inf)

    def distance(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """D_f(p || q), the last dimension kept."""
        return self.divergence.terms(log_p, log_q).sum(-1, keepdim=True)

    def log_excess(self, w: Tensor, z: Tensor, log_q: Tensor, radius: Tensor) -> Tensor:
        """ln D_f - ln radius at the weights of z e^w, which rises in w."""
        z = z * w.exp()
        distance = self.distance(self.log_weights(self.fixed_top(z, log_q), z, log_q), log_q)
        return (distance.clamp(min=torch.finfo(distance.dtype).tiny) / radius).log()  # a radius of 0 is not 0 / 0

    def excess(self, w: Tensor, z: Tensor, log_q: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """D_f - radius at the weights of z e^w, and its slope: sum_k p'_k (u_k - mean u)^2, u = z e^w, mean over p'."""
        u = z * w.exp()
        log_p = self.log_weights(self.top(u, log_q), u, log_q)
        response = self.log_response(log_p - torch.where(log_q > -inf, log_q, 0), log_q).exp()
        mean = (response * u).sum(-1, keepdim=True) / response.sum(-1, keepdim=True)
        return self.distance(log_p, log_q) - radius, (response * (u - mean) ** 2).sum(-1, keepdim=True)


def _below_top(x: Tensor, log_q: Tensor) -> Tensor:
    """x - max x over the support of q, 0 outside it; the maximum is a constant, for p does not depend on it."""
    support = log_q > -inf
    top = torch.where(support, x, -inf).amax(-1, keepdim=True).detach()
    return torch.where(support, x - top, torch.zeros_like(x))


def _with_nan_of(log_p: Tensor, *given: Tensor) -> Tensor:
    """``log_p``, NaN where anything given in its row is: comparing, sorting and clamping would hide it."""
    for tensor in given:
        missing = tensor.isnan()
        log_p = torch.where(missing.any(-1, keepdim=True) if tensor.ndim else missing, torch.nan, log_p)
    return log_p
