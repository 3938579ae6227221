"""Solvers: methods that evaluate the objective several times a step, and the loop that runs one.

A solver is a frozen dataclass whose fields are its numbers::

    init(params) -> state
    step(objective, params, state) -> (params, state, info)

``params`` and ``state`` are dicts of tensors and are never written to. A mini-batch method is the same with another
objective at each step: ``params, state, info = solver.step(module_objective(module, loss, *batch), params, state)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, Protocol

from torch import Tensor

from minimand._checks import check_count, check_floating
from minimand.optim.objective import Objective, Params, norm, value_and_gradient

SolverState = dict[str, Tensor]


@dataclass(frozen=True)
class StepInfo:
    """What a step found out; ``value`` and ``grad_norm`` are those where it started.

    status: "running"; "converged" where the solver has what it looks for; "stalled" where it found no step to take.
        In both latter cases the parameters are left as they are, and ``message`` says why, with numbers.
    oracle_calls: the gradients of the objective that the step took.
    numbers: what else the solver tells, by name.
    """

    value: float
    grad_norm: float
    oracle_calls: int
    status: Literal["running", "converged", "stalled"] = "running"
    message: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def unusable(value: float, grad_norm: float, oracle_calls: int = 1) -> StepInfo | None:
    """That a solver has stalled, where the objective or its gradient is no finite number; None where both are."""
    if isfinite(value) and isfinite(grad_norm):
        return None
    what = f"the objective is {value}" if not isfinite(value) else f"the gradient's length is {grad_norm}"
    return StepInfo(value, grad_norm, oracle_calls, "stalled", f"{what} where the step starts")


class Solver(Protocol):
    """What ``minimise`` runs."""

    def init(self, params: Params) -> SolverState:
        """The state before the first step."""
        ...

    def step(self, objective: Any, params: Params, state: SolverState) -> tuple[Params, SolverState, StepInfo]:
        """The parameters after a step, the next state, and what was found out on the way."""
        ...


@dataclass(frozen=True)
class Minimised:
    """Where ``minimise`` ended: ``value`` and ``grad_norm`` are those of ``params``.

    status: "converged", "stalled" or "out of steps"; ``message`` says it with numbers.
    history: one entry a step that was begun, with the values where it began.
    """

    params: Params
    state: SolverState
    value: float
    grad_norm: float
    status: Literal["converged", "stalled", "out of steps"]
    message: str
    history: tuple[StepInfo, ...]

    @property
    def converged(self) -> bool:
        """Whether the solver got where it was going."""
        return self.status == "converged"

    @property
    def oracle_calls(self) -> int:
        """The gradients of the objective that all steps took."""
        return sum(info.oracle_calls for info in self.history)


def minimise(
    solver: Solver,
    objective: Objective,
    params: Mapping[str, Tensor],
    steps: int = 1000,
    tolerance: float = 1e-6,
    state: SolverState | None = None,
) -> Minimised:
    """Run a solver until the gradient's length is at most ``tolerance``, it stalls, or ``steps`` are over.

    That a method fails is an answer and no exception: see ``status``. The gradient is looked at first, since a solver
    at a minimum finds no better point and would seem to have failed.

    Args:
        solver: the method.
        objective: a function of the parameters; some solvers need a ``Composite``.
        params: {name: tensor} to start from, such as ``dict(module.named_parameters())``; not written to.
        steps: how many to take at most.
        tolerance: the gradient's Euclidean length at which to stop, at least 0.
        state: an earlier result's, to go on from there.

    >>> import torch
    >>> from torch import nn
    >>> from minimand.optim import GradientRegularizedNewton, minimise, module_objective
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> module = nn.Linear(1, 1)
    >>> objective = module_objective(module, nn.MSELoss(), x, 3 * x + 1)
    >>> start = {name: param.double() for name, param in module.named_parameters()}
    >>> found = minimise(GradientRegularizedNewton(), objective, start)
    >>> _ = module.load_state_dict(found.params, strict=False)
    >>> found.status, round(module.weight.item(), 4), round(module.bias.item(), 4)
    ('converged', 3.0, 1.0)
    """
    check_count("steps", steps, least=0)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0; got {tolerance}")
    if not params:
        raise ValueError("params must hold at least one tensor; got none")
    here = {name: check_floating(f"params[{name!r}]", param).detach().clone() for name, param in params.items()}
    state = solver.init(here) if state is None else state
    history: list[StepInfo] = []
    for _ in range(steps):
        there, next_state, info = solver.step(objective, here, state)
        history.append(info)
        if info.grad_norm <= tolerance:
            return _ended(here, state, info, "converged", _reached(info.grad_norm, tolerance), history)
        if info.status != "running":
            return _ended(here, state, info, info.status, info.message, history)
        here, state = there, next_state
    value, gradient = value_and_gradient(objective, here)
    last = StepInfo(float(value), float(norm(gradient)), 1)
    if last.grad_norm <= tolerance:
        return _ended(here, state, last, "converged", _reached(last.grad_norm, tolerance), history)
    message = f"after {steps} steps the gradient's length is {last.grad_norm:.3g}, above {tolerance:g}"
    return _ended(here, state, last, "out of steps", message, history)


def _reached(grad_norm: float, tolerance: float) -> str:
    return f"the gradient's length is {grad_norm:.3g}, at most {tolerance:g}"


def _ended(
    params: Params,
    state: SolverState,
    info: StepInfo,
    status: Literal["converged", "stalled", "out of steps"],
    message: str,
    history: list[StepInfo],
) -> Minimised:
    return Minimised(params, state, info.value, info.grad_norm, status, message, tuple(history))
