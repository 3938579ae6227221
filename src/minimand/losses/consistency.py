"""What a small comp-sum loss guarantees about the 0-1 loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minimand._checks import check_count, is_concrete
from minimand.losses.score_difference import COMP_SUM
from minimand.source import from_paper

BISECTIONS = 64  # halves [0, 1] down to float64's resolution
LOGISTIC_WITHIN = 1e-7  # |tau - 1| under which the formulas at tau != 1 lose more digits than the limit does


@from_paper(COMP_SUM)
def comp_sum_bound(gap: float | Tensor, tau: float, num_classes: int) -> Tensor:
    """Gamma_tau(gap): the 0-1 regret that a comp-sum regret of ``gap`` still allows.

    R01 - R01* + M01 <= Gamma_tau(R_tau - R_tau* + M_tau), M the minimisability gaps; Gamma_tau inverts

    T_tau(b) = 2^(1 - tau) (1 - g) / (1 - tau)                         tau < 1
             = (1 + b)/2 ln(1 + b) + (1 - b)/2 ln(1 - b)               tau = 1
             = (g - 1) / ((tau - 1) n^(tau - 1))                       1 < tau < 2
             = b / ((tau - 1) n^(tau - 1))                             tau >= 2
    g = [((1 + b)^(1 / (2 - tau)) + (1 - b)^(1 / (2 - tau))) / 2]^(2 - tau),  n = ``num_classes``.

    The bound is tight for tau <= 1; for 1 < tau < 2 with more than two classes it holds but is loose.

    Args:
        gap: the regret of ``comp_sum_loss(tau)`` plus its minimisability gap, at least 0; a number or tensor.
        tau: a number in [0, inf).
        num_classes: at least 2.

    Returns:
        A float64 tensor of ``gap``'s shape in [0, 1]; 1 where the gap allows anything. No gradient flows through it.

    Raises:
        ValueError: for a negative or NaN gap, a negative tau, fewer than two classes.

    Source: Mao, Mohri and Zhong (2023), arXiv:2304.07288, theorem 3.1.

    >>> comp_sum_bound(0.125, tau=1.0, num_classes=10)  # near sqrt(2 * gap)
    tensor(0.4893, dtype=torch.float64)
    """
    if not 0.0 <= tau < math.inf:
        raise ValueError(f"tau must lie in [0, inf); got {tau:g}")
    check_count("num_classes", num_classes, least=2)
    wanted = torch.as_tensor(gap, dtype=torch.float64).detach()
    if is_concrete(wanted) and not bool((wanted >= 0).all()):
        raise ValueError(f"gap must be at least 0; got {wanted[~(wanted >= 0)].reshape(-1)[0].item():g}")
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = comp_sum_transformation(middle, tau, num_classes) >= wanted
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(wanted.isnan(), wanted, high)


def comp_sum_transformation(regret: Tensor, tau: float, num_classes: int) -> Tensor:
    """T_tau(regret), increasing on [0, 1]: the comp-sum regret that a 0-1 regret costs at least."""
    up, down = torch.log1p(regret), torch.log1p(-regret)
    if abs(tau - 1) < LOGISTIC_WITHIN:
        return (torch.special.xlog1py(1 + regret, regret) + torch.special.xlog1py(1 - regret, -regret)) / 2
    if tau >= 2:
        return regret / ((tau - 1) * num_classes ** (tau - 1))
    power = 2 - tau  # the powers of 1 +- b overflow near tau = 2, their logs do not
    shortfall = -torch.expm1(power * (torch.logaddexp(up / power, down / power) - math.log(2)))
    scale = 2 ** (1 - tau) if tau < 1 else num_classes ** (1 - tau)
    return scale * shortfall / (1 - tau)
