"""Methods that evaluate the objective several times a step, and the loop that runs them."""

from minimand.optim.solvers.descent import Armijo, Descent
from minimand.optim.solvers.newton import GradientRegularizedNewton
from minimand.optim.solvers.normalized import (
    NormalizedLogistic,
    Perceptron,
    batch_perceptron,
    logistic_separation_bound,
    margin_objective,
    normalized_logistic_step,
)
from minimand.optim.solvers.solver import Minimised, Solver, StepInfo, minimise
from minimand.optim.solvers.target import TargetSurrogate

__all__ = [
    "Solver",
    "StepInfo",
    "Minimised",
    "minimise",
    "Descent",
    "Armijo",
    "GradientRegularizedNewton",
    "TargetSurrogate",
    "NormalizedLogistic",
    "normalized_logistic_step",
    "margin_objective",
    "batch_perceptron",
    "Perceptron",
    "logistic_separation_bound",
]
