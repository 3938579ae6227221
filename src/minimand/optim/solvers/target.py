"""Target surrogates: many cheap steps on a quadratic model of the loss in the outputs, for one gradient of the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from minimand._checks import check_count
from minimand.hyper import HyperSpec
from minimand.optim.objective import Composite, Params, value_and_gradient
from minimand.optim.rule import Rule
from minimand.optim.solvers.descent import Armijo
from minimand.optim.solvers.solver import Solver, SolverState, StepInfo
from minimand.source import Source, from_paper

SURROGATES = Source("Target-based Surrogates for Stochastic Optimization", "Lavington et al.", 2023, "2302.02607")
ETA = HyperSpec(1.0, low=0.0, closed="neither")


@from_paper(SURROGATES)
@dataclass(frozen=True, kw_only=True)
class TargetSurrogate:
    """Several steps on a model of the loss around the outputs z_t, for one gradient of the loss in them.

    g_t(params) = l(z_t) + <l'(z_t), z - z_t> + ||z - z_t||^2 / (2 eta N),  z = outputs(params) (N, ...)

    l is the loss of all outputs together, N the number of samples: for the mean of losses of which each has a
    derivative in its outputs that is L-Lipschitz (1/4 for logistic regression, 1/2 for softmax cross-entropy, 1 for
    half a squared error), eta <= 1 / L makes g_t an upper bound of the objective that touches it at the start.
    Whatever lowers g_t then lowers the objective, however the outputs depend on the parameters. The rate of the inner
    solver is another number than eta. A step that raises g_t is taken back and ends the inner steps.

    On mini-batches this is the paper's SSO: an objective of its own for each step, and an eta that decays.

    Args:
        eta: above 0; or a function of the step's number, from 0: ``lambda t: 4 / (t + 1) ** 0.5``.
        inner: the solver of the surrogate, started afresh at each step: ``Armijo()``, or any rule as in
            ``Descent(rules.AdamW(), {"lr": 1e-2})``.
        steps: inner steps, at least 1. They evaluate the model, never the loss.

    Raises:
        TypeError: for an objective that is no ``Composite``.

    Source: Lavington et al. (2023), arXiv:2302.02607. The authors' code minimises the mean over
    all outputs of l' z / e + (z - z_t)^2: its e is 1 / (2 eta), and with k outputs a sample its mean divides by k more
    than the sum over a sample's outputs that stands here. It notes when the surrogate rises and goes on.

    >>> from minimand.optim import Descent, rules
    >>> x, y = torch.tensor([[1.0, 2.0], [0.0, 1.0], [2.0, -1.0]]), torch.tensor([1.0, -1.0, 1.0])
    >>> logistic = Composite(lambda params: x @ params["w"], lambda z: torch.nn.functional.softplus(-y * z))
    >>> solver = TargetSurrogate(eta=4.0, inner=Descent(rules.SGD(), {"lr": 2.0}), steps=3)
    >>> params = {"w": torch.zeros(2)}
    >>> params, _, _ = solver.step(logistic, params, solver.init(params))
    >>> params["w"]  # on the way to 1.2, the least of the surrogate
    tensor([1.1944, 0.0000])
    """

    eta: float | Callable[[int], float]
    inner: Solver = field(default_factory=Armijo)
    steps: int = 10

    def __post_init__(self) -> None:
        if not callable(self.eta):
            ETA.check("eta", self.eta)
        if isinstance(self.inner, Rule):
            name = type(self.inner).__name__
            raise TypeError(f"inner must be a solver, such as Descent({name}()); got {name}")
        check_count("steps", self.steps)

    def init(self, params: Params) -> SolverState:
        """The number of the step."""
        return {"step": torch.zeros((), dtype=torch.int64)}

    @torch.no_grad()
    def step(self, objective: Composite, params: Params, state: SolverState) -> tuple[Params, SolverState, StepInfo]:
        """One gradient of the loss, and up to ``steps`` steps on the surrogate."""
        if not isinstance(objective, Composite):
            raise TypeError(f"objective must be a Composite, whose outputs are known; got {type(objective).__name__}")
        number = int(state["step"])
        eta = self.eta(number) if callable(self.eta) else self.eta
        ETA.check("eta", eta)
        outputs = objective.outputs(params).detach()
        value, slope = value_and_gradient(lambda found: objective.value(found["outputs"]), {"outputs": outputs})
        loss = partial(quadratic_model, value=value, slope=slope["outputs"], around=outputs, eta=eta)
        found, infos, reached = self._descend(Composite(objective.outputs, loss), params)
        first, last = infos[0], infos[-1]
        moved = found is not params
        status: Literal["running", "converged", "stalled"] = "running"
        message = ""
        if not moved:
            status = "stalled" if last.status == "running" else last.status
            message = last.message or f"the first step raises the surrogate from {first.value:.6g} to {reached:.6g}"
        numbers = {"inner_steps": float(len(infos)), "surrogate": reached if moved else first.value, "eta": eta}
        # the surrogate touches the objective where the step starts: its value and gradient there are the objective's
        info = StepInfo(first.value, first.grad_norm, 1, status, message, numbers)
        return found, {"step": state["step"] + 1}, info

    def _descend(self, surrogate: Composite, start: Params) -> tuple[Params, list[StepInfo], float]:
        """The lowest parameters on the way down the surrogate, the steps' infos, and the last value met."""
        before, here, state = start, start, self.inner.init(start)
        infos: list[StepInfo] = []
        for _ in range(self.steps):
            there, state, info = self.inner.step(surrogate, here, state)
            if infos and not info.value <= infos[-1].value:
                return before, infos, info.value
            infos.append(info)
            if info.status != "running":
                return here, infos, info.value
            before, here = here, there
        reached = float(surrogate(here))
        return (here if reached <= infos[-1].value else before), infos, reached


def quadratic_model(outputs: Tensor, value: Tensor, slope: Tensor, around: Tensor, eta: float) -> Tensor:
    """value + <slope, z - z_t> + ||z - z_t||^2 / (2 eta N), at z = ``outputs`` around z_t, both (N, ...)."""
    move = outputs - around
    return value + (slope * move).sum() + move.square().sum() / (2 * eta * len(around))
