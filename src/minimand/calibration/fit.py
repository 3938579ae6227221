"""Fitting a calibration map to an objective, and the pairs of both that need nothing but logits and labels."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from math import inf, isfinite
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimand._checks import check_choice, check_class_logits, check_count, check_floating, check_indices, check_no_nan
from minimand._numerics import upcast
from minimand.calibration.correctness import correctness_loss
from minimand.calibration.h_calibration import h_calibration_loss
from minimand.calibration.isotonic import IsotonicCalibration
from minimand.calibration.maps import MonotoneMap, TemperatureScaling, VectorScaling
from minimand.losses.loss import LossModule, loss_function, narrowed, reduce
from minimand.source import Source

LIKELIHOOD = Source("Rational Decisions", "Good", 1952)

Objective = Callable[[Tensor, Tensor], Tensor]
Method = Literal["lbfgs", "adam"]
Map = TypeVar("Map", bound=nn.Module)

METHODS = ("lbfgs", "adam")
STEPS = {"lbfgs": 200, "adam": 300}
RATE = 0.05  # of Adam; it falls to 0 along a half cosine
LARGEST = 1e6  # of a parameter: where an objective has no minimum, the way there ends


@loss_function(LIKELIHOOD, target="class")
def nll(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, the mean of -ln softmax(z)_y in nats: the objective that calibration maps are fitted to most.

    Args:
        logits: (N, C) scores.
        target: (N,) class indices.

    Returns:
        a scalar of ``logits``'s type; 0 for an empty batch.

    Raises:
        ValueError, TypeError: for shapes, types, devices or labels that do not fit.

    Source: Good (1952), "Rational decisions".

    >>> nll(torch.zeros(1, 2), torch.tensor([0]))  # ln 2
    tensor(0.6931)
    """
    logits, target = check_class_logits(logits, target)
    each = F.cross_entropy(upcast(logits), target, reduction="none")
    return narrowed(reduce(each, "mean"), logits.dtype)


SMOOTH: tuple[Callable[..., Any], ...] = (nll, correctness_loss, F.cross_entropy)


def fit_calibrator(
    map: Map,
    objective: Objective | None,
    logits: Tensor,
    labels: Tensor,
    *,
    features: Tensor | None = None,
    method: Method | None = None,
    steps: int | None = None,
) -> Map:
    """Fit ``map`` so that ``objective(map(logits), labels)`` is least, over all rows at once.

    Everything runs in float64 and without chance: the same rows give the same map. The parameters kept are the best
    of all that were tried, those it came with among them.

    Args:
        map: a module (N, C) -> (N, C); fitted in place.
        objective: ``(logits, labels) -> scalar``: ``nll``, ``correctness_loss``, ``h_calibration_loss`` or any other.
            None for a map that fits itself, as ``IsotonicCalibration`` does.
        logits: (N, C) scores of rows that the model was not trained on; N at least 1.
        labels: (N,) class indices.
        features: (N, F), for a map that is called with them beside the logits, as ``FeatureTemperature`` is.
        method: "lbfgs" for what is smooth, "adam" for what has kinks. None takes L-BFGS where both the map (its
            attribute ``smooth``) and the objective (this room's smooth ones, ``torch.nn.functional.cross_entropy``)
            are known to be smooth, and Adam elsewhere.
        steps: at most how many; 200 for L-BFGS, 300 for Adam.

    Returns:
        the map, in evaluation mode.

    Raises:
        ValueError, TypeError: for shapes, types, devices or labels that do not fit, an objective that is not finite.

    >>> logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)  # said: 88%; right: 3 of 4
    >>> map = fit_calibrator(TemperatureScaling(), nll, logits, torch.tensor([0, 0, 0, 1]))
    >>> map(logits)[0].softmax(0)[0].item()
    0.75...
    """
    scores, labels = _checked(logits, labels)
    if objective is None:
        if features is not None or not hasattr(map, "fit"):
            raise ValueError(f"objective must be given for a map that does not fit itself; got None for {map!r}")
        return map.fit(scores, labels).eval()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    inputs: tuple[Tensor, ...] = (scores,)
    if features is not None:
        inputs += (check_floating("features", features).detach().double(),)
    if method is None:
        method = "lbfgs" if getattr(map, "smooth", False) and _function(objective) in SMOOTH else "adam"
    check_choice("method", method, METHODS)
    if steps is not None:
        check_count("steps", steps, least=0)

    trial = deepcopy(map).double().to(scores.device).eval()
    search = _Search(trial, lambda: objective(trial(*inputs), labels))
    (search.lbfgs if method == "lbfgs" else search.adam)(STEPS[method] if steps is None else steps)
    with torch.no_grad():
        for name, param in map.named_parameters():
            param.copy_(search.best[name])
    return map.eval()


class _Search:
    """A search for the least value of ``loss`` over a module's parameters that remembers the best."""

    def __init__(self, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.params = {name: param for name, param in module.named_parameters() if param.requires_grad}
        self.loss, self.least = loss, inf
        self.best = {name: param.detach().clone() for name, param in module.named_parameters()}
        first = self.evaluate()
        if not isfinite(float(first)):
            raise ValueError(f"objective must be finite at the start; got {float(first):g}")

    def evaluate(self) -> Tensor:
        """The loss, with its gradient in the parameters."""
        with torch.enable_grad():
            loss = self.loss()
        gradients = torch.autograd.grad(loss, list(self.params.values()))
        for param, gradient in zip(self.params.values(), gradients, strict=True):
            param.grad = gradient
        within = all(float(param.detach().abs().max()) <= LARGEST for param in self.params.values())
        if within and float(loss.detach()) < self.least:
            self.least = float(loss.detach())
            self.best.update({name: param.detach().clone() for name, param in self.params.items()})
        return loss.detach()

    def lbfgs(self, steps: int) -> None:
        """L-BFGS with a strong Wolfe line search."""
        if steps:
            options = {"tolerance_grad": 1e-10, "tolerance_change": 1e-14, "line_search_fn": "strong_wolfe"}
            torch.optim.LBFGS(self.params.values(), max_iter=steps, **options).step(self.evaluate)  # pyright: ignore

    def adam(self, steps: int) -> None:
        """Adam with a rate that falls to 0."""
        optimizer = torch.optim.Adam(self.params.values(), lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(steps, 1))
        for _ in range(steps):
            optimizer.step(self.evaluate)  # pyright: ignore[reportArgumentType]
            schedule.step()
        self.evaluate()


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits in float64, without their graph, and labels."""
    logits = check_floating("logits", logits, ndim=2)
    labels = check_indices("labels", labels, logits.shape[1], "class", logits, "logits")
    check_no_nan("logits", logits)
    if len(logits) == 0:
        raise ValueError("logits must have at least one row to fit to; got none")
    return logits.detach().double(), labels


def _function(objective: Any) -> Any:
    """The function under ``functools.partial`` and derived modules."""
    while isinstance(objective, partial):
        objective = objective.func
    return type(objective).function if isinstance(objective, LossModule) else objective


class Calibrator(NamedTuple):
    """A way to calibrate that needs logits and labels alone: ``make(num_classes)`` gives the map."""

    make: Callable[[int], nn.Module]
    objective: Objective | None
    summary: str


CALIBRATORS: dict[str, Calibrator] = {
    "temperature": Calibrator(lambda _: TemperatureScaling(), nll, "one temperature, by likelihood"),
    "vector": Calibrator(VectorScaling, nll, "a scale and a shift of each class, by likelihood"),
    "monotone": Calibrator(lambda _: MonotoneMap(), nll, "one increasing function of log-probabilities, by likelihood"),
    "isotonic": Calibrator(IsotonicCalibration, None, "an increasing function of each class's probability"),
    "correctness": Calibrator(lambda _: TemperatureScaling(), correctness_loss, "one temperature, by correctness"),
    "h_calibration": Calibrator(
        lambda _: MonotoneMap(), h_calibration_loss, "one increasing function, by windows of like probability"
    ),
}


def calibrate(name: str, logits: Tensor, labels: Tensor) -> nn.Module:
    """The map called ``name`` in ``CALIBRATORS``, fitted: ``calibrate(name, ...)(new_logits).softmax(1)``.

    Args:
        name: "temperature", "vector", "monotone", "isotonic", "correctness" or "h_calibration".
        logits: (N, C) scores of rows that the model was not trained on; N at least 1.
        labels: (N,) class indices.

    Returns:
        a module (N, C) -> (N, C) in evaluation mode, on the device of ``logits``.

    Raises:
        ValueError, TypeError: for an unknown name, for shapes, types, devices or labels that do not fit.

    >>> logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
    >>> calibrate("isotonic", logits, torch.tensor([0, 0, 0, 1]))(logits)[0].exp()
    tensor([0.7500, 0.2500])
    """
    check_choice("name", name, CALIBRATORS)
    scores, labels = _checked(logits, labels)
    chosen = CALIBRATORS[name]
    return fit_calibrator(chosen.make(scores.shape[1]).to(scores.device), chosen.objective, scores, labels)
