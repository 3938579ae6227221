"""Logistic regression with huge rates, normalised so that it separates data in few steps however many there are."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimand._checks import check_count, check_floating, check_same_device, check_same_shape, check_tensor, is_concrete
from minimand._numerics import downcast, upcast
from minimand.hyper import HyperSpec
from minimand.optim.objective import Composite, Params, module_objective, norm, pullback
from minimand.optim.solvers.solver import SolverState, StepInfo, unusable
from minimand.source import Source, from_paper

NORMALIZED = Source(
    "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes",
    "Tyurin",
    2024,
    "2412.08424",
)
GAMMA = HyperSpec(1.0, low=0.0, closed="neither")


@from_paper(NORMALIZED)
def normalized_logistic_step(theta: Tensor, z: Tensor, gamma: float = 1.0) -> Tensor:
    """One step of gradient descent on the logistic loss, over the mean weight of a sample in the gradient.

    theta + gamma (sum_i w_i z_i) / (sum_i w_i),  w_i = 1 / (1 + exp(z_i . theta))

    From theta = 0 it separates separable data in at most ``logistic_separation_bound`` steps, whatever gamma. The
    quotient is a softmax of ln w, so that it does not become 0 / 0 where all samples are far on the right side.

    Args:
        theta: (..., d), one or many classifiers.
        z: (n, d), each sample times its label, which is -1 or 1.
        gamma: the rate, above 0.

    Returns:
        (..., d), in theta's type; theta itself where n is 0.

    Raises:
        ValueError, TypeError: for shapes, types, devices or a rate that do not fit.

    Source: Tyurin (2024), arXiv:2412.08424, normalized logistic regression with gradient descent.

    >>> normalized_logistic_step(torch.zeros(2), torch.tensor([[1.0, 2.0], [3.0, 0.0]]), gamma=10.0)
    tensor([20., 10.])
    """
    GAMMA.check("gamma", gamma)
    theta, z = check_floating("theta", theta), check_floating("z", z, ndim=2)
    if theta.ndim == 0 or theta.shape[-1] != z.shape[1]:
        raise ValueError(f"theta must have shape (..., {z.shape[1]}) to match z; got {tuple(theta.shape)}")
    check_same_device(theta=theta, z=z)
    wide = upcast(theta)
    samples = z.to(wide.dtype)
    return downcast(wide + gamma * sample_shares(wide @ samples.mT) @ samples, theta.dtype)


def sample_shares(margins: Tensor) -> Tensor:
    """w_i / sum_j w_j over the last dimension, w = 1 / (1 + exp(margin)): who the gradient of the loss speaks for."""
    return F.logsigmoid(-margins).softmax(-1)


@from_paper(NORMALIZED)
@dataclass(frozen=True)
class NormalizedLogistic:
    """``normalized_logistic_step`` for any model that gives margins.

    params + gamma (sum_i w_i grad m_i) / (sum_i w_i),  w_i = 1 / (1 + exp(m_i)),  m_i = y_i f(x_i; params)

    It has converged where all margins are above 0. Its objective is a ``Composite`` whose outputs are the margins
    (N,), as ``margin_objective`` makes of a module. The step is that of the logistic loss, whichever loss the
    objective reports. The bound on the number of steps is for linear models that start at 0.

    Args:
        gamma: the rate, above 0; huge ones do no harm to a linear model.

    Source: Tyurin (2024), arXiv:2412.08424.

    >>> from minimand.optim import minimise
    >>> margins = Composite(lambda params: params["w"] * torch.tensor([1.0, 2.0]), lambda m: F.softplus(-m))
    >>> found = minimise(NormalizedLogistic(gamma=1.0), margins, {"w": torch.tensor(-0.1)})
    >>> found.status, found.message, len(found.history)
    ('converged', 'all 2 margins are above 0', 2)
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        GAMMA.check("gamma", self.gamma)

    def init(self, params: Params) -> SolverState:
        """It has none."""
        return {}

    @torch.no_grad()
    def step(self, objective: Composite, params: Params, state: SolverState) -> tuple[Params, SolverState, StepInfo]:
        """One step, or none where all margins are above 0."""
        if not isinstance(objective, Composite):
            raise TypeError(f"objective must be a Composite of margins; got {type(objective).__name__}")
        margins, pull = pullback(objective.outputs, params)
        if margins.ndim != 1 or len(margins) == 0:
            raise ValueError(f"outputs must be margins of shape (N,), N at least 1; got {tuple(margins.shape)}")
        direction = pull(sample_shares(margins))
        value = float(objective.value(margins))
        # the gradient of the mean logistic loss is minus the direction times the mean weight
        grad_norm = float(torch.sigmoid(-margins).mean() * norm(direction))
        if failed := unusable(value, grad_norm):
            return params, state, failed
        wrong = int((margins <= 0).sum())
        numbers = {"wrong": float(wrong), "margin": float(margins.min())}
        if wrong == 0:
            message = f"all {len(margins)} margins are above 0"
            return params, state, StepInfo(value, grad_norm, 1, "converged", message, numbers)
        there = {name: param + self.gamma * direction[name] for name, param in params.items()}
        return there, state, StepInfo(value, grad_norm, 1, numbers=numbers)


@from_paper(NORMALIZED)
def margin_objective(module: nn.Module, inputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Composite:
    """The mean logistic loss ln(1 + e^-m) of a module's margins m_i = y_i f(x_i) (N,), which are its outputs.

    Args:
        module: gives one score a sample, (N,) or (N, 1).
        inputs: what it is called with.
        labels: (N,), each -1 or 1.

    Raises:
        ValueError: for labels other than -1 and 1, such as 0 and 1.

    Source: Tyurin (2024), arXiv:2412.08424.

    >>> objective = margin_objective(nn.Linear(1, 1), torch.tensor([[1.0], [2.0]]), torch.tensor([1, -1]))
    >>> objective.outputs({"weight": torch.tensor([[3.0]]), "bias": torch.tensor([1.0])})
    tensor([ 4., -7.])
    """
    labels = check_tensor("labels", labels, "a tensor of -1 and 1")
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (N,); got {tuple(labels.shape)}")
    if is_concrete(labels) and not bool((labels.abs() == 1).all()):
        where = int((labels.abs() != 1).nonzero()[0])
        raise ValueError(f"labels must be -1 or 1; got {labels[where].item():g} at position {where}")
    scores = module_objective(module, F.mse_loss, inputs, labels).outputs

    def margins(params: Params) -> Tensor:
        found = scores(params)
        found = found.squeeze(1) if found.ndim == 2 and found.shape[1] == 1 else found
        check_same_shape(labels=labels, scores=found)
        return labels.to(found.dtype) * found

    return Composite(margins, logistic)


def logistic(margins: Tensor) -> Tensor:
    """ln(1 + e^-m), one a sample."""
    return F.softplus(-margins)


class Perceptron(NamedTuple):
    """What ``batch_perceptron`` found: a classifier (d,), the steps it took, and whether it separates the data."""

    theta: Tensor
    steps: int
    separated: bool


@from_paper(NORMALIZED)
def batch_perceptron(z: Tensor, normalize: bool = True, steps: int = 100_000) -> Perceptron:
    """What logistic regression over its rate tends to as the rate grows: the batch perceptron.

    theta_1 = mean of z;  theta += (sum over S of z_i) / |S|,  S = {i: z_i . theta <= 0}, until S is empty.

    That is the limit of normalized logistic regression, which takes at most (R / mu)^2 steps, R the largest ||z_i||
    and mu the margin. Without normalisation theta_1 is half the mean and every later sum is over n in place of |S|:
    the limit of plain logistic regression, which may take n (R / mu)^2.

    Args:
        z: (n, d), n at least 1, each sample times its label, which is -1 or 1.
        normalize: whether the sums are divided by |S|.
        steps: how many to take at most.

    Source: Tyurin (2024), arXiv:2412.08424.

    >>> batch_perceptron(torch.tensor([[1.0, -1.0], [1.0, 4.0]]))
    Perceptron(theta=tensor([2.0000, 0.5000]), steps=2, separated=True)
    """
    z = check_floating("z", z, ndim=2)
    if len(z) == 0:
        raise ValueError("z must hold at least one sample; got none")
    check_count("steps", steps)
    wide = upcast(z).detach()
    theta = wide.mean(0) if normalize else wide.mean(0) / 2
    taken, wrong = 1, wide @ theta <= 0
    while taken < steps and bool(wrong.any()):
        total = wide[wrong].sum(0)
        theta = theta + total / (wrong.sum() if normalize else len(wide))
        taken, wrong = taken + 1, wide @ theta <= 0
    return Perceptron(downcast(theta, z.dtype), taken, not bool(wrong.any()))


@from_paper(NORMALIZED)
def logistic_separation_bound(radius: float, margin: float, count: int, gamma: float) -> float:
    """The steps within which normalized logistic regression separates data, from theta = 0.

    (R / mu)^2 + 2 ln(2 n - 1) / (gamma mu^2)

    Args:
        radius: R, the largest length of a sample.
        margin: mu > 0, the largest over unit vectors of the least z_i . theta.
        count: n, at least 1.
        gamma: the rate, above 0.

    Source: Tyurin (2024), arXiv:2412.08424.

    >>> logistic_separation_bound(2.0, 1.0, 1, 1.0)
    4.0
    """
    GAMMA.check("gamma", gamma)
    GAMMA.check("margin", margin)
    if not radius >= margin:
        raise ValueError(f"radius must be at least the margin {margin:g}; got {radius:g}")
    check_count("count", count)
    return (radius / margin) ** 2 + 2 * log(2 * count - 1) / (gamma * margin**2)
