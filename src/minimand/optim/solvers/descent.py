"""The two plain solvers: an update rule with its numbers, and gradient descent by line search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minimand._checks import check_count
from minimand.hyper import HyperSpec, as_hyper
from minimand.optim.objective import Objective, Params, norm, value_and_gradient
from minimand.optim.rule import Rule, events
from minimand.optim.solvers.solver import SolverState, StepInfo, unusable
from minimand.source import Source, from_paper

ARMIJO = Source("Minimization of Functions Having Lipschitz Continuous First Partial Derivatives", "Armijo", 1966)
POSITIVE = HyperSpec(1.0, low=0.0, closed="neither")
FRACTION = HyperSpec(0.5, low=0.0, high=1.0, closed="neither")


@dataclass(frozen=True)
class Descent:
    """Any update rule as a solver: one gradient, one step of the rule.

    Args:
        rule: the rule.
        hypers: its numbers by name; its defaults where not named.

    >>> from minimand.optim import rules
    >>> solver = Descent(rules.SGD(), {"lr": 0.25})
    >>> params, _, info = solver.step(lambda p: p["x"] ** 2, {"x": torch.tensor(1.0)}, {})
    >>> params["x"], info.value
    (tensor(0.5000), 1.0)
    """

    rule: Rule
    hypers: Mapping[str, float | Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rule.check(self.hypers)

    def init(self, params: Params) -> SolverState:
        """The rule's states, each under its event's first parameter."""
        state = {}
        for event in events(self.rule, params):
            first = event.rule.init(event.pack(params))
            state.update({f"{event.names[0]}|{name}": value for name, value in first.items()})
        if self.rule.refresh_every is not None:
            state["|steps"] = torch.zeros((), dtype=torch.int64)
        return state

    @torch.no_grad()
    def step(self, objective: Objective, params: Params, state: SolverState) -> tuple[Params, SolverState, StepInfo]:
        """One step of the rule."""
        value, gradient = value_and_gradient(objective, params)
        info = StepInfo(float(value), float(norm(gradient)), 1)
        if failed := unusable(info.value, info.grad_norm):
            return params, state, failed
        hyper = {name: as_hyper(number) for name, number in {**self.rule.defaults(), **self.hypers}.items()}
        shapes = {name: param.shape for name, param in params.items()}
        found, after = {}, {name: count + 1 for name, count in state.items() if name == "|steps"}
        for event in events(self.rule, params):
            lead = f"{event.names[0]}|"
            own = {name[len(lead) :]: tensor for name, tensor in state.items() if name.startswith(lead)}
            param, grad, numbers = event.pack(params), event.pack(gradient), event.hyper(hyper)
            if self.rule.refresh_every is not None and int(state["|steps"]) % self.rule.refresh_every == 0:
                own = event.rule.refresh(grad, own, param, numbers)
            move, own = event.rule.update(grad, own, param, numbers)
            found.update(event.unpack(param + move, shapes))
            after.update({lead + name: tensor for name, tensor in own.items()})
        return {name: found[name] for name in params}, after, info


@from_paper(ARMIJO)
@dataclass(frozen=True)
class Armijo:
    """Gradient descent whose rate is found by backtracking: f(x - r g) <= f(x) - c r ||g||^2.

    The first trial of a step is ``growth`` times the last rate that was accepted; each trial after it is ``shrink``
    times the one before.

    Source: Armijo (1966), Minimization of Functions Having Lipschitz Continuous First Partial Derivatives; the
    defaults are those of the code to arXiv:2302.02607.

    Args:
        c: the share of the decrease that the slope promises, in (0, 1).
        shrink: in (0, 1).
        growth: at least 1.
        rate: the first trial of all, above 0.
        attempts: trials a step, after which the solver has stalled.

    >>> solver, x = Armijo(rate=4.0, shrink=0.5), {"x": torch.tensor(1.0)}
    >>> params, _, info = solver.step(lambda p: p["x"] ** 2, x, solver.init(x))
    >>> params["x"], info.numbers["rate"]  # 1 - 0.5 * 2
    (tensor(0.), 0.5)
    """

    c: float = 0.5
    shrink: float = 0.9
    growth: float = 1.8
    rate: float = 1.0
    attempts: int = 100

    def __post_init__(self) -> None:
        FRACTION.check("c", self.c)
        FRACTION.check("shrink", self.shrink)
        POSITIVE.check("rate", self.rate)
        if not self.growth >= 1:
            raise ValueError(f"growth must be at least 1; got {self.growth}")
        check_count("attempts", self.attempts)

    def init(self, params: Params) -> SolverState:
        """The rate to try first."""
        return {"rate": torch.tensor(self.rate, dtype=torch.float64)}

    @torch.no_grad()
    def step(self, objective: Objective, params: Params, state: SolverState) -> tuple[Params, SolverState, StepInfo]:
        """One step along the gradient."""
        value, gradient = value_and_gradient(objective, params)
        start, length, rate = float(value), float(norm(gradient)), float(state["rate"])
        if failed := unusable(start, length):
            return params, state, failed
        if length == 0:
            return params, state, StepInfo(start, length, 1, "converged", "the gradient is zero")
        lowest = start
        for _ in range(self.attempts):
            there = {name: param - rate * gradient[name] for name, param in params.items()}
            reached = float(objective(there))
            if reached <= start - self.c * rate * length**2:  # never where it is NaN
                after = {"rate": state["rate"].new_tensor(rate * self.growth)}
                return there, after, StepInfo(start, length, 1, numbers={"rate": rate})
            lowest = min(lowest, reached)
            rate *= self.shrink
        message = (
            f"no rate down to {rate / self.shrink:.3g} lowers the objective enough: from {start:.6g} to {lowest:.6g} "
            f"at best, the gradient's length {length:.3g}"
        )
        return params, state, StepInfo(start, length, 1, "stalled", message, {"rate": rate})
