"""Inner maximisation: the worst input near a given one, what adversarial training and robust losses are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimand._checks import check_choice, check_count, check_indices
from minimand._numerics import upcast
from minimand.losses.constraints import (
    DOUBLY_ROBUST,
    PGD,
    Constraint,
    L2Ball,
    LinfBall,
    LogBarrier,
    MovePenalty,
    check_inputs,
)
from minimand.source import from_paper

Objective = Callable[[Tensor], Tensor]
StepSize = float | Callable[[int], float]
REACH = 2.5  # radii that all steps together go by default: enough to cross the ball and turn back


@from_paper(PGD)
def inner_max(
    objective: Objective,
    x: Tensor,
    constraint: Constraint,
    steps: int = 10,
    step_size: StepSize = 0.1,
    *,
    start: Tensor | None = None,
) -> Tensor:
    """The inputs near x where an objective is large: x + u, u -> argmax of objective(x + u) - R(u), R the constraint.

    Proximal gradient ascent, each sample for itself: u <- prox_R(u + length * direction(gradient)). In a ball that is
    projected gradient ascent, under a price it is gradient ascent on objective and price together. It goes where the
    gradient leads, so it finds a value below the supremum where the objective is not concave.

    Args:
        objective: maps inputs (N, ...) to a value (N,) for each; row i may depend on input i alone. A module in it
            should be in evaluation mode: see ``evaluating``.
        x: (N, ...) floating-point.
        constraint: ``LinfBall``, ``L2Ball``, ``MovePenalty``, ``LogBarrier``, or what has their three methods.
        steps: at least 0; each takes one forward and one backward pass.
        step_size: a length, or a function from the step's number, 0 first, to one.
        start: an offset (N, ...) to start from, such as ``ball.random(x)``; None starts at x. Where the objective is
            least at x itself, such as a distance from it, its gradient is 0 there and nothing would move.

    Returns:
        (N, ...) in x's type, without gradient. At a maximum the value's own gradient needs none (Danskin);
        ``implicit_max`` gives one to the point.

    Raises:
        ValueError, TypeError: for shapes, types, ranges or numbers that do not fit.

    Works inside ``vmap``, ``torch.func.grad`` and ``torch.compile``, as far as the objective does, and inside
    ``torch.no_grad``.

    Source: Madry et al. (2017), arXiv:1706.06083, section 2.1, for balls.

    >>> inner_max(lambda z: z.sum(1), torch.zeros(1, 2), LinfBall(0.5), steps=3, step_size=0.2)
    tensor([[0.5000, 0.5000]])
    """
    x = check_inputs(x, constraint)
    check_count("steps", steps, least=0)
    with torch.no_grad():
        x = x.detach()
        offset = torch.zeros_like(x) if start is None else constraint.settled(_checked_start(start, x), x, 0.0)
        uphill = torch.func.grad(lambda u: _checked_values(objective(x + u), x).sum())
        for n in range(steps):
            length = step_size(n) if callable(step_size) else step_size
            moved = offset + length * constraint.direction(uphill(offset))
            offset = constraint.settled(moved, x, length)
        return (x + offset).detach()


@from_paper(DOUBLY_ROBUST)
def implicit_max(objective: Objective, x: Tensor, found: Tensor, constraint: LogBarrier | MovePenalty) -> Tensor:
    """A maximum that ``inner_max`` found, with its derivative in all that the objective depends on.

    At u* the gradient of G(u) = objective(x + u) - R(u) is 0, so that du*/dtheta = -G_uu^{-1} G_utheta: one Newton step
    from ``found``, whose Hessian is a constant in the gradient, has that derivative and makes the maximum exact.

    The Hessians of all samples are written out: as many passes as a sample has entries, and the square of that in
    numbers. For small inputs; large ones need an iterative solver.

    Args:
        objective: as in ``inner_max``, twice differentiable.
        x: (N, ...) the inputs; their own gradient flows too.
        found: (N, ...) the maximum, near enough for a Newton step.
        constraint: a smooth one: ``LogBarrier``, or ``MovePenalty`` with cost "sq_l2".

    Returns:
        (N, ...), first derivatives only.

    Raises:
        ValueError, TypeError: for shapes, types or a constraint that is not smooth.

    Source: Sow et al. (2023), arXiv:2308.00311, section 3, whose algorithm solves for the product with the inverse
    approximately.

    >>> slope = torch.tensor(1.0, requires_grad=True)
    >>> x, price = torch.zeros(1, 1), MovePenalty(2.0)
    >>> found = inner_max(lambda z: slope * z[:, 0], x, price, steps=30)
    >>> implicit_max(lambda z: slope * z[:, 0], x, found, price).sum().backward()
    >>> slope.grad  # of slope / (2 gamma)
    tensor(0.2500)
    """
    if not isinstance(constraint, LogBarrier) and not (
        isinstance(constraint, MovePenalty) and constraint.cost == "sq_l2"
    ):
        raise ValueError(f"constraint must be a LogBarrier or a MovePenalty with cost 'sq_l2'; got {constraint!r}")
    x, found = check_inputs(x, constraint), check_inputs(found, constraint)
    offset = _checked_start(found, x, "found").detach() - x.detach()

    def total(u: Tensor) -> Tensor:
        return (_checked_values(objective(x + u), x) - constraint.penalty(u)).sum()

    uphill, size = torch.func.grad(total), max(offset[:1].numel(), 1)
    with torch.no_grad():
        basis = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *x.shape[1:]).expand(size, *x.shape)
        columns = torch.func.vmap(lambda e: torch.func.jvp(uphill, (offset,), (e,))[1])(basis)
        hessian = columns.reshape(size, len(x), size).transpose(0, 1)
    gradient = uphill(offset).reshape(len(x), size)
    return x + offset - torch.linalg.solve(hessian.detach(), gradient).view_as(x)


@from_paper(PGD)
def pgd_attack(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    eps: float,
    *,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 10,
    step_size: StepSize | None = None,
    targeted: bool = False,
    random_start: bool = True,
    low: float = -math.inf,
    high: float = math.inf,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent: inputs of a ball around x at which the cross-entropy of a model is large.

    x' <- P(x' + step * sign(g)) in the cube, P(x' + step * g / |g|) in the Euclidean ball, P onto ball and range.

    A model that is an ``nn.Module`` is in evaluation mode meanwhile, and each of its modules as before afterwards:
    dropout rests, batch norm uses its running statistics and learns nothing from the attack. Gradients that parameters
    hold are left alone. Other callables are called as they are.

    Args:
        model: maps (N, ...) to logits (N, C).
        x: (N, ...) floating-point, in [low, high].
        target: (N,) class indices: the labels to get away from, or those to reach where ``targeted``.
        eps: radius of the ball, at least 0, in the units of x.
        norm: "linf" or "l2", of the ball.
        steps: at least 0.
        step_size: a length, or a function from the step's number to one; 2.5 eps / steps unless given.
        targeted: descend towards ``target`` instead of climbing away from it.
        random_start: start evenly anywhere in the ball, not at x.
        low, high: the range of inputs; [0, 1] for pictures.
        generator: of the random start.

    Returns:
        (N, ...) in x's type, without gradient.

    Raises:
        ValueError, TypeError: for shapes, types, labels, ranges or numbers that do not fit.

    Source: Madry et al. (2017), arXiv:1706.06083, section 2.1. For a model's reported robustness use an ensemble of
    attacks with restarts; this is one.

    >>> model = lambda x: torch.stack([x[:, 0], -x[:, 0]], 1)
    >>> pgd_attack(model, torch.ones(1, 2), torch.tensor([0]), eps=0.5, random_start=False)
    tensor([[0.5000, 1.0000]])
    """
    check_choice("norm", norm, ("linf", "l2"))
    ball = (LinfBall if norm == "linf" else L2Ball)(eps, low, high)
    x = check_inputs(x, ball)
    way = -1.0 if targeted else 1.0
    if step_size is None:
        step_size = REACH * eps / max(steps, 1)

    def objective(moved: Tensor) -> Tensor:
        logits = upcast(model(moved))
        return way * F.cross_entropy(logits, target, reduction="none")

    with evaluating(model):
        with torch.no_grad():
            _check_labels(model, x, target)
        return inner_max(
            objective, x, ball, steps, step_size, start=ball.random(x, generator) if random_start else None
        )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """An ``nn.Module`` in evaluation mode, each of its modules as before afterwards; nothing for other callables."""
    modules = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module in modules:
            module.training = True


def _check_labels(model: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> None:
    logits = model(x)
    if logits.ndim != 2 or logits.shape[0] != x.shape[0] or logits.shape[1] == 0:
        raise ValueError(f"model must answer with logits ({len(x)}, C), C >= 1; got {tuple(logits.shape)}")
    check_indices("target", target, logits.shape[1], "class", logits)


def _checked_values(value: Tensor, x: Tensor) -> Tensor:
    if value.shape != x.shape[:1]:
        raise ValueError(f"objective must answer with shape ({len(x)},), a value a sample; got {tuple(value.shape)}")
    return value


def _checked_start(start: Tensor, x: Tensor, name: str = "start") -> Tensor:
    if start.shape != x.shape:
        raise ValueError(f"{name} must have x's shape {tuple(x.shape)}; got {tuple(start.shape)}")
    return start.detach().to(x)
