"""Numerics that several rooms share: each written once, tested to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minimand._checks import is_concrete

# e^cap and a hundred times it are finite in the type, with room for the gradient
MAX_EXPONENT = {torch.float64: 700.0, torch.float32: 80.0, torch.bfloat16: 80.0, torch.float16: 8.0}


def upcast(value: Tensor) -> Tensor:
    """16-bit floats as float32, where logs, exponentials and sums can be trusted; any other type unchanged.

    >>> upcast(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def downcast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` in ``dtype``. A finite number past the type's largest is held there, an infinite one stays.

    >>> downcast(torch.tensor([1e9, float("inf")]), torch.float16)
    tensor([65504.,    inf], dtype=torch.float16)
    """
    if value.dtype == dtype:
        return value
    limit = torch.finfo(dtype).max
    return torch.where(value.isinf(), value, value.clamp(-limit, limit)).to(dtype)


def widest(value: Tensor) -> Tensor:
    """``value`` in float64, where its device has that."""
    return upcast(value) if value.device.type == "mps" else value.double()


def max_exponent(dtype: torch.dtype) -> float:
    """The exponent past which e^x is held, for results of type ``dtype``."""
    return MAX_EXPONENT[dtype]


def exp_difference(a: Tensor, b: Tensor, gap: Tensor) -> Tensor:
    """e^a - e^b, where a - b is known as ``gap``: no cancellation where that is small.

    >>> exp_difference(torch.tensor(0.0), torch.tensor(-1000.0), torch.tensor(1000.0))
    tensor(1.)
    """
    falling = b.exp() * gap.clamp(max=0).expm1()
    rising = a.exp() * -(-gap).clamp(max=0).expm1()
    return torch.where(gap > 0, rising, falling)


def log_mixture(log_ratio: Tensor, share: float) -> Tensor:
    """ln(share * e^log_ratio + 1 - share): 0 at 0 exactly, and accurate around it.

    >>> log_mixture(torch.tensor([0.0, 1e4, -1e4]), 0.5)
    tensor([ 0.0000e+00,  9.9993e+03, -6.9315e-01])
    """
    below = (share * log_ratio.clamp(max=0).expm1()).log1p()
    above = log_ratio + ((1 - share) * (-log_ratio).clamp(max=0).expm1()).log1p()
    return torch.where(log_ratio > 0, above, below)


def increasing_root(
    function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, steps: int, tolerance: float = 0.0
) -> Tensor:
    """The x in [low, high] at which an increasing function is 0, elementwise, or within ``tolerance`` of 0.

    Without gradient, for ``polished`` to give it one. Where there is no root in the bounds, the bound nearest to one.
    Inverse quadratic interpolation where three points show a smooth curve, halving elsewhere: poles, kinks and jumps
    do no harm. Ten steps are typical, sixty always enough.

    Source: Chandrupatla (1997), "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear
    function without using derivatives".

    >>> increasing_root(lambda x: x**3 - 8, torch.tensor(0.0), torch.tensor(9.0), steps=40)
    tensor(2.)
    """
    # the root lies between a, the newest point, and b; c is the point before them
    a, b = torch.broadcast_tensors(high.detach(), low.detach())
    value_a, value_b = function(a), function(b)
    outside, end = (value_a <= 0) | (value_b >= 0), torch.where(value_a <= 0, a, b)
    fraction = torch.full_like(a, 0.5)
    for _ in range(steps):
        x = a + fraction * (b - a)
        value = function(x)
        same = (value > 0) == (value_a > 0)
        c, value_c = torch.where(same, a, b), torch.where(same, value_a, value_b)
        b, value_b = torch.where(same, b, a), torch.where(same, value_b, value_a)
        a, value_a = x, value
        resolution = torch.finfo(x.dtype).eps * (1 + a.abs())
        done = ((b - a).abs() <= 2 * resolution) | (value.abs() <= tolerance) | outside
        if is_concrete(done) and bool(done.all()):
            break
        position, height = (a - b) / (c - b), (value_a - value_b) / (value_c - value_b)
        smooth = (height**2 < position) & ((1 - height) ** 2 < 1 - position)
        quadratic = value_a / (value_b - value_a) * value_c / (value_b - value_c)
        quadratic = quadratic + (c - a) / (b - a) * value_a / (value_c - value_a) * value_b / (value_c - value_b)
        margin = (resolution / (b - a).abs()).clamp(max=0.5)
        fraction = torch.where(smooth & quadratic.isfinite(), quadratic, 0.5).clamp(min=margin, max=1 - margin)
        fraction = torch.where(done, 0, fraction)  # rests
    best = torch.where(value_a.abs() < value_b.abs(), a, b)
    return torch.where(outside, end, best)


def polished(root: Tensor, residual: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
    """A root that was found without gradient, after two Newton steps that carry it, right to second order.

    Where a step would be large the root lies past the end of the function's numbers; it stays there, a constant.

    >>> c = torch.tensor(9.0, requires_grad=True)
    >>> polished(torch.tensor(3.0), lambda x: x**2 - c, lambda x: 2 * x).backward()
    >>> c.grad  # 1 / (2 * 3)
    tensor(0.1667)
    """
    for _ in range(2):
        steepness = slope(root).detach()
        sloped = ~(steepness <= 0)
        step = residual(root) / torch.where(sloped, steepness, 1)
        near = sloped & ~(step.detach().abs() > 0.01 * (1 + root.detach().abs()))
        root = root - torch.where(near, step, 0)
    return root
