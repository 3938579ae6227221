"""Two equations that Lambert's W solves, in logarithms: neither overflows, both keep their digits near 0."""

from __future__ import annotations

import torch
from torch import Tensor

from minimand._numerics import exp_difference, polished

STEPS = 4  # Newton's steps to float64's resolution from the starts below, before the two that carry the gradient


def tangent_gap(x: Tensor) -> Tensor:
    """e^x - 1 - x, what exp has over its tangent at 0.

    >>> tangent_gap(torch.tensor([1e-4, 1.0]))
    tensor([5.0002e-09, 7.1828e-01])
    """
    return scaled_tangent_gap(x, torch.zeros_like(x), x)


def scaled_tangent_gap(a: Tensor, b: Tensor, gap: Tensor) -> Tensor:
    """e^a - e^b (1 + gap) >= 0, where a - b is known as ``gap``.

    With b = ln p and a = ln m this is p ln(p/m) - p + m, a term of KL(p || m) in standard form.
    """
    near = gap.abs() < torch.finfo(gap.dtype).eps ** (1 / 7)  # rounding and truncation meet there
    x = torch.where(near, gap, 0)
    series = 1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x / 720)))
    return torch.where(near, b.exp() * x * x * series, exp_difference(a, b, gap) - b.exp() * gap)


def inverse_tangent_gap(gap: Tensor, sign: int) -> Tensor:
    """The x of the given sign with e^x - 1 - x = gap >= 0: W_0 and W_-1 of -e^(-1 - gap), less their own logarithm.

    >>> inverse_tangent_gap(tangent_gap(torch.tensor([3.0])), +1), inverse_tangent_gap(torch.tensor([1e4]), -1)
    (tensor([3.]), tensor([-10001.]))
    """
    gap = gap.clamp(min=torch.finfo(gap.dtype).tiny)
    constant = gap.detach()
    root = (2 * constant).sqrt() + constant
    # both starts lie past the root, from where Newton's steps on a convex function only approach it
    x = root.log1p() if sign > 0 else -root
    for _ in range(STEPS):
        x = x - (tangent_gap(x) - constant) / x.expm1()
    return polished(x, lambda x: (tangent_gap(x) - gap, x.expm1()))


def omega(c: Tensor) -> Tensor:
    """The x with x + e^x = c: the logarithm of W_0(e^c).

    >>> c = torch.tensor([-50.0, 1.0, 50.0])
    >>> torch.allclose(omega(c) + omega(c).exp(), c)
    True
    """
    constant = c.detach()
    x = torch.where(constant > 1, constant.clamp(min=1).log(), constant.clamp(max=1))
    for _ in range(STEPS):
        x = x - (x + x.exp() - constant) / (1 + x.exp())
    return polished(x, lambda x: (x + x.exp() - c, 1 + x.exp()))
