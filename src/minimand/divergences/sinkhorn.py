"""Entropic optimal transport: its plan, and the divergence that is made of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from minimand._checks import (
    check_choice,
    check_count,
    check_floating,
    check_range,
    check_same_device,
    check_tensor,
    is_concrete,
)
from minimand._numerics import downcast, upcast
from minimand.divergences.costs import Cost, check_cost, check_points, mean_cost, pairwise_cost
from minimand.divergences.scaling import potentials
from minimand.hyper import HyperSpec
from minimand.source import Source, from_paper

SINKHORN = Source("Sinkhorn Distances: Lightspeed Computation of Optimal Transport", "Cuturi", 2013, "1306.0895")
DEBIASED = Source(
    "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences",
    "Feydy et al.",
    2018,
    "1810.08278",
)
EPSILON = HyperSpec(0.01, low=0.0, closed="neither")
TOLERANCE = HyperSpec(1e-6, low=0.0, closed="left")
Entropy = Literal["relative", "shannon"]
ENTROPIES = ("relative", "shannon")


class Transport(NamedTuple):
    """An entropic transport plan; n and m points, any leading dimensions (...). Of these only ``value`` has a gradient.

    plan: (..., n, m) P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon), its rows' sums a.
    f, g: (..., n) and (..., m) potentials, with <a, f> = <b, g>.
    value: (...) the regularised cost, in the convention that was asked for.
    transport_cost: (...) <P, C>, without the entropy.
    marginal_error: (...) sum_j |sum_i P_ij - b_j|, by how much the plan misses the second marginal.
    iterations: (...) how many were made.
    """

    plan: Tensor
    f: Tensor
    g: Tensor
    value: Tensor
    transport_cost: Tensor
    marginal_error: Tensor
    iterations: Tensor


@from_paper(SINKHORN)
def sinkhorn(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float | Tensor,
    relative: Literal["mean"] | None = None,
    max_iterations: int = 2000,
    tolerance: float = 1e-6,
    entropy: Entropy = "relative",
) -> Transport:
    """Entropic optimal transport over plans P with the marginals a and b.

    "relative": min <P, C> + epsilon KL(P || a b') = max <a, f> + <b, g> - epsilon (sum_ij P_ij - 1)
    "shannon":  min <P, C> - epsilon H(P), which is less by epsilon (H(a) + H(b)); H(p) = -sum p ln p, in nats

    The value's gradient is that of the envelope theorem: P in the cost, f in a and g in b, whatever the iterations
    did. Nothing is unrolled, and there is no second derivative. ``epsilon`` is a constant.

    Args:
        cost: (..., n, m), finite.
        a, b: (..., n) and (..., m) weights >= 0, or (n,) and (m,) for all; divided by their sum. None: uniform.
        epsilon: in (0, inf), the strength of the entropy, in the unit of the cost.
        relative: "mean" multiplies epsilon by the mean size of the cost.
        max_iterations: at least 1. Where they do not suffice ``marginal_error`` says so.
        tolerance: the L1 error of the marginals at which to stop; float32 resolves about 1e-6.
        entropy: the convention of ``value``; the plan is the same.

    Raises:
        ValueError, TypeError: for shapes, types, devices or numbers that do not fit.

    Source: Cuturi (2013), arXiv:1306.0895; potentials in the log domain as in Feydy et al. (2018), arXiv:1810.08278.

    >>> found = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), epsilon=1.0)
    >>> found.plan  # 1 / (2 + 2/e) and 1 / (2 + 2 e)
    tensor([[0.3655, 0.1345],
            [0.1345, 0.3655]])
    >>> found.transport_cost  # 1 / (1 + e)
    tensor(0.2689)
    """
    cost = check_floating("cost", cost)
    if cost.ndim < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"cost must have shape (..., n, m) with n, m >= 1; got {tuple(cost.shape)}")
    check_limits(max_iterations, tolerance)
    check_choice("entropy", entropy, ENTROPIES)
    wide = upcast(cost)
    a = weights_of("a", a, wide[..., 0])
    b = weights_of("b", b, wide[..., 0, :])
    scale = wide.detach().abs().mean((-2, -1)) if relative is not None else None
    strength = _strength(epsilon, relative, scale, wide[..., 0, 0])
    safe = torch.where(strength == 0, 1, strength)  # where all costs are 0 any will do
    found = potentials([wide], "dense", a, b, safe, max_iterations=max_iterations, tolerance=tolerance)
    f, g, fixed, given = found.f, found.g, wide.detach(), (a.detach(), b.detach())
    exponent = (f[..., :, None] + g[..., None, :] - fixed) / safe[..., None, None]
    plan = given[0][..., :, None] * given[1][..., None, :] * exponent.exp()
    shift = ((given[0] * f).sum(-1) - (given[1] * g).sum(-1))[..., None] / 2
    f, g = f - shift, g + shift
    value = _enveloped((given[0] * f).sum(-1) + (given[1] * g).sum(-1), (f, a, 1), (g, b, 1), (plan, wide, 2))
    if entropy == "shannon":
        value = value - strength * (weight_entropy(a) + weight_entropy(b))
    error = (plan.sum(-2) - given[1]).abs().sum(-1)
    answers = (plan, f, g, value, (plan * fixed).sum((-2, -1)), error)
    return Transport(*(downcast(answer, cost.dtype) for answer in answers), iterations=found.iterations)


@from_paper(DEBIASED)
def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float | Tensor,
    relative: Literal["mean"] | None = None,
    cost: Cost = "sqeuclidean",
    max_iterations: int = 2000,
    tolerance: float = 1e-6,
) -> Tensor:
    """S(x, y) = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2 of weighted points, OT the "relative" value of ``sinkhorn``.

    0 where the two measures are one, positive elsewhere for the named costs; for "sqeuclidean" S(x, x + t) = |t|^2
    exactly, whatever epsilon. Between half of the energy distance (epsilon -> inf) and optimal transport (-> 0).

    Gradients in points and weights are those of the envelope theorem: of the points, each one's distance from where
    its mass goes on average. For named costs no cost matrix is made, and one matrix (n, m) is held at most; none where
    it would take more than a gigabyte.

    Args:
        x: (..., n, d) points.
        y: (..., m, d) points.
        a, b: weights, as in ``sinkhorn``.
        epsilon: in (0, inf), in the unit of the cost.
        relative: "mean" multiplies epsilon, in all three terms, by the mean cost between x and y.
        cost: as in ``pairwise_cost``. A function makes its matrices, and is differentiated through them.
        max_iterations, tolerance: as in ``sinkhorn``.

    Returns:
        (...) in the points' type.

    Raises:
        ValueError, TypeError: for shapes, types, devices or numbers that do not fit.

    Source: Feydy et al. (2018), arXiv:1810.08278. geomloss has half the squared distance as its cost for
    p = 2, and epsilon = blur^2: this is ``2 * SamplesLoss("sinkhorn", blur=(epsilon / 2) ** 0.5)``.

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> sinkhorn_divergence(x, x + torch.tensor([3.0, 4.0]), epsilon=0.5)
    tensor(25.0000)
    """
    x, y = check_points("x", x, "y", y)
    check_limits(max_iterations, tolerance)
    wide_x, wide_y = upcast(x), upcast(y)
    a, b = weights_of("a", a, wide_x[..., 0]), weights_of("b", b, wide_y[..., 0])
    strength = strength_between(wide_x, wide_y, epsilon, relative, cost)
    limits = (max_iterations, tolerance)
    between = regularised(wide_x, wide_y, a, b, strength, cost, limits)
    within = regularised(wide_x, wide_x, a, a, strength, cost, limits)
    within = within + regularised(wide_y, wide_y, b, b, strength, cost, limits)
    return downcast(between - within / 2, x.dtype)


def weights_of(name: str, weights: Tensor | None, like: Tensor) -> Tensor:
    """Weights of the points (..., n), those of ``like``'s shape, with sum 1; uniform where none are given."""
    size = like.shape[-1]
    if weights is None:
        return torch.full_like(like, 1 / size, requires_grad=False)
    weights = check_floating(name, weights)
    if weights.shape not in (like.shape, like.shape[-1:]):
        raise ValueError(f"{name} must have shape {tuple(like.shape)} or ({size},); got {tuple(weights.shape)}")
    check_same_device(**{"points": like, name: weights})
    check_range(name, weights, 0, torch.finfo(weights.dtype).max)
    weights = weights.to(like.dtype)
    total = weights.sum(-1, keepdim=True)
    if is_concrete(total) and bool((total == 0).any()):
        raise ValueError(f"{name} must have a sum above 0; got 0")
    return (weights / total).expand(like.shape)


def regularised(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, cost: Cost, limits: tuple[int, float]
) -> Tensor:
    """(...) the "relative" value between two sets of points; a set with itself is solved by averaging."""
    safe = torch.where(epsilon == 0, 1, epsilon)
    options = {"max_iterations": limits[0], "tolerance": limits[1]}
    if callable(cost):
        matrix = pairwise_cost(x, y, cost)
        f, g, *_ = potentials([matrix], "dense", a, b, safe, **options)
        exponent = (f[..., :, None] + g[..., None, :] - matrix.detach()) / safe[..., None, None]
        plan = a.detach()[..., :, None] * b.detach()[..., None, :] * exponent.exp()
        return _enveloped((a.detach() * f).sum(-1) + (b.detach() * g).sum(-1), (f, a, 1), (g, b, 1), (plan, matrix, 2))
    shift: Tensor | float = 0.0
    symmetric = x is y
    if cost == "sqeuclidean":  # each set around its own mean: what separates the means moves no mass
        centre_x, centre_y = ((w[..., None] * p).sum(-2, keepdim=True) for w, p in ((a, x), (b, y)))
        shift = (centre_x - centre_y).square().sum((-2, -1))
        x, y = x - centre_x, y - centre_y
    pull = _may_need_gradient(x, y)
    f, g, _, _, grad_x, grad_y = potentials([x, y], cost, a, b, safe, symmetric=symmetric, pull=pull, **options)
    slopes = [(f, a, 1), (g, b, 1), *([(grad_x, x, 2), (grad_y, y, 2)] if pull else [])]
    return shift + _enveloped((a.detach() * f).sum(-1) + (b.detach() * g).sum(-1), *slopes)


def _enveloped(value: Tensor, *slopes: tuple[Tensor, Tensor, int]) -> Tensor:
    """``value``, with the given slope in each tensor, over its last dimensions; their number is the third entry."""
    for slope, given, dims in slopes:
        if _may_need_gradient(given):
            value = value + (slope * (given - given.detach())).sum(tuple(range(-dims, 0)))
    return value


def _may_need_gradient(*tensors: Tensor) -> bool:
    """Whether a gradient may be asked for; under transforms and compilation it always may."""
    return torch.is_grad_enabled() and any(tensor.requires_grad or not is_concrete(tensor) for tensor in tensors)


def weight_entropy(weights: Tensor) -> Tensor:
    """-sum p ln p over the last dimension; a weight of 0 adds 0, without gradient."""
    present = weights > 0
    return torch.where(present, torch.special.entr(torch.where(present, weights, 1)), 0 * weights).sum(-1)


def strength_between(x: Tensor, y: Tensor, epsilon: float | Tensor, relative: str | None, cost: Cost) -> Tensor:
    """(...) epsilon between two sets of points."""
    if not callable(cost):
        check_cost(cost)
    scale = None
    if relative is not None:
        matrix = pairwise_cost(x.detach(), y.detach(), cost).detach() if callable(cost) else None
        scale = mean_cost(x, y, str(cost)) if matrix is None else matrix.abs().mean((-2, -1))
    return _strength(epsilon, relative, scale, x[..., 0, 0])


def _strength(epsilon: float | Tensor, relative: str | None, scale: Tensor | None, like: Tensor) -> Tensor:
    """(...) epsilon in the unit of the cost, a constant."""
    EPSILON.check("epsilon", epsilon)
    if isinstance(epsilon, Tensor):
        check_tensor("epsilon", epsilon)
        if epsilon.shape not in ((), like.shape):
            raise ValueError(f"epsilon must be a number or have shape {tuple(like.shape)}; got {tuple(epsilon.shape)}")
        strength = epsilon.detach().to(like).expand(like.shape)
    else:
        strength = torch.full_like(like, epsilon, requires_grad=False)
    if relative is None or scale is None:
        return strength
    check_choice("relative", relative, ("mean",))
    return strength * scale


def check_limits(max_iterations: int, tolerance: float) -> None:
    """When to stop."""
    check_count("max_iterations", max_iterations)
    TOLERANCE.check("tolerance", tolerance)
