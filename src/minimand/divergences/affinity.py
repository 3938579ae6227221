"""The affinity of two distributions and Renyi's divergences, which are its logarithm."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from minimand._numerics import downcast, upcast
from minimand.divergences.f_divergence import check_pair
from minimand.divergences.generators import alpha, kl
from minimand.hyper import HyperSpec

ORDER = HyperSpec(0.5, closed="neither")


def log_affinity(p_logits: Tensor, q_logits: Tensor, a: float, dim: int = -1) -> Tensor:
    """ln sum_k p_k^a q_k^(1 - a) over ``dim``, of softmax(p_logits) and softmax(q_logits).

    Finite for every finite ``a`` where p and q have one support, however far apart: the logarithm of
    1 + a (a - 1) ``alpha(a)``, without its overflow. At most 0 for a in [0, 1], at least 0 elsewhere.
    Where only one has a zero (a logit of -inf) the term is 0, or infinite if its power is negative.

    >>> log_affinity(torch.tensor([1e4, 0.0]), torch.tensor([0.0, 1e4]), a=2.0)
    tensor(10000.)
    """
    ORDER.check("a", a)
    check_pair("p_logits", p_logits, "q_logits", q_logits)
    x, y = (upcast(logits).log_softmax(dim) for logits in (p_logits, q_logits))
    no_p, no_q = x == -inf, y == -inf
    both = ~(no_p | no_q)
    exponent = a * torch.where(both, x, 0) + (1 - a) * torch.where(both, y, 0)
    lone = torch.where(no_q, inf if a > 1 else -inf, inf if a < 0 else -inf)
    exponent = torch.where(both, exponent, torch.where(no_p & no_q, -inf, lone))
    return downcast(exponent.logsumexp(dim), torch.promote_types(p_logits.dtype, q_logits.dtype))


def renyi(p_logits: Tensor, q_logits: Tensor, a: float, dim: int = -1) -> Tensor:
    """Renyi's divergence of order ``a``, ``log_affinity(a)`` / (a - 1), in nats; KL(p || q) at a = 1.

    Keeps its digits where p is near q and where ``a`` is near 1 or 0.

    Source: van Erven & Harremoes (2014), arXiv:1206.2459, definition 2.

    >>> renyi(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log(), a=2.0)  # ln(1 + 1/3)
    tensor(0.2877)
    """
    ORDER.check("a", a)
    check_pair("p_logits", p_logits, "q_logits", q_logits)
    if a == 1:
        return kl(p_logits, q_logits, dim)
    dtype = torch.promote_types(p_logits.dtype, q_logits.dtype)
    p_logits, q_logits = upcast(p_logits), upcast(q_logits)
    rise = a * (a - 1) * alpha(a)(p_logits, q_logits, dim)
    near = rise.abs() < 0.5
    log_rise = torch.where(near, torch.where(near, rise, 0).log1p(), log_affinity(p_logits, q_logits, a, dim))
    return downcast(log_rise / (a - 1), dtype)
