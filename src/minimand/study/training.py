"""What a trial is: the one definition that all engines share.

Everything random in a trial comes from its seed, in streams of their own: the initial weights, the order of the
rows, and what the model draws while it trains. Methods are paired by seed, so they share all three.
"""

from __future__ import annotations

import dataclasses
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from minimand.calibration import calibrate
from minimand.optim import RuleOptimizer
from minimand.optim.rule import Rule, events
from minimand.study.method import Method, Penalty
from minimand.study.metrics import SMALLEST_PROBABILITY
from minimand.study.objective import FittedLoss
from minimand.study.task import Factory, Task
from minimand.study.trial import Budget, CurvePoint, Phase, Status, Trial, TrialResult

CHECKED_ROWS = 4  # the least that a measure of dependence takes
PENALTY = "penalty."
EVALUATED_ROWS = 8192  # rows predicted at once, so that a large split does not need memory for all of it

_STREAMS = {"weights": 0, "order": 1, "training": 2}


def stream(seed: int, purpose: Literal["weights", "order", "training"]) -> int:
    """The seed of one of a trial's streams of random numbers."""
    return int(np.random.SeedSequence([seed, _STREAMS[purpose]]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Recipe:
    """How the trials of a method are trained: everything but their seed and their hyperparameters."""

    task: Task
    method: Method
    budget: Budget

    @property
    def device(self) -> torch.device:
        """Where the task's data lie, and so where training happens."""
        return self.task.train.inputs.device

    @cached_property
    def objective(self) -> FittedLoss:
        """The loss, fitted to the task; ValueError where it does not fit."""
        choice = self.method.choices["loss"]
        try:
            return choice.value.fit(self.task)
        except ValueError as error:
            raise ValueError(f"loss {choice.name!r} {error}") from error

    @property
    def rule(self) -> Rule:
        """The update rule."""
        return self.method.choices["rule"].value

    @property
    def factory(self) -> Factory:
        """The method's own model, or the task's."""
        choice = self.method.choices.get("model")
        return self.task.model if choice is None else choice.value

    @property
    def batch_size(self) -> int:
        """The budget's, or all training rows where there are fewer."""
        return min(self.budget.batch_size, len(self.task.train))

    @cached_property
    def points(self) -> tuple[int, ...]:
        """The steps after which a learning curve has a point; the last step is one."""
        count = max(1, min(self.budget.curve_points, self.budget.steps))
        return tuple(round(self.budget.steps * (i + 1) / count) for i in range(count))

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """(first step, step after the last) between one point and the next."""
        return tuple(zip((0, *self.points[:-1]), self.points, strict=True))

    def scored(self, phase: Phase) -> tuple[int, ...]:
        """The points at which the validation split is scored: tuning needs the last alone."""
        return self.points if phase == "final" else self.points[-1:]

    def predicted(self, split: Literal["validation", "test"]) -> tuple[Literal["validation", "test"], ...]:
        """The splits whose predictions a score of ``split`` takes."""
        return ("validation", "test") if split == "test" and self.calibrator is not None else (split,)

    def rate(self, step: int) -> float:
        """What the learning rate is multiplied by at ``step``, which counts from 0."""
        return self.method.choices["schedule"].value(step, self.budget.steps)

    def hypers(self, axis: str, trial: Trial | None = None) -> dict[str, float]:
        """Every number of an axis's choice under its plain name: the trial's, or the default."""
        choice, given = self.method.choices.get(axis), {} if trial is None else trial.hypers
        declared = {} if choice is None else choice.hypers
        return {name: given.get(f"{axis}.{name}", spec.default) for name, spec in declared.items()}

    def charged(self, trial: Trial | None = None) -> dict[str, float]:
        """The numbers of the loss under their names and those of the penalty under ``penalty.``; or their defaults."""
        penalty = {f"{PENALTY}{name}": value for name, value in self.hypers("penalty", trial).items()}
        return {**self.hypers("loss", trial), **penalty}

    @property
    def penalty(self) -> Penalty | None:
        """What is added to the loss; ValueError where the task has no protected attributes."""
        choice = self.method.choices.get("penalty")
        if choice is None or choice.value is None:
            return None
        if self.task.train.protected is None:
            raise ValueError(f"penalty {choice.name!r} needs protected attributes: --protected COLUMN, protected=...")
        return choice.value

    def loss(
        self, outputs: Tensor, target: Tensor, protected: Tensor | None = None, *, hyper: Mapping[str, Tensor]
    ) -> Tensor:
        """The scalar loss of a batch, penalty included; ValueError for outputs or a loss of another shape."""
        wanted = (len(target), self.objective.outputs)
        if tuple(outputs.shape) != wanted:
            raise ValueError(f"model must return outputs of shape {wanted}; got {tuple(outputs.shape)}")
        numbers = {name: value for name, value in hyper.items() if not name.startswith(PENALTY)}
        loss = self.objective.loss(outputs, target, numbers)
        if loss.ndim:
            raise ValueError(f"loss must be a scalar; got shape {tuple(loss.shape)}")
        penalty, attributes = self.penalty, self.task.train.protected
        if penalty is None or attributes is None or protected is None:
            return loss
        own = {name.removeprefix(PENALTY): value for name, value in hyper.items() if name.startswith(PENALTY)}
        return loss + penalty(self.objective.predict(outputs), protected.split(attributes.widths, 1), **own)

    @cached_property
    def known(self) -> dict[str, np.ndarray]:
        """The validation and test targets as the metric takes them."""
        mean, deviation = self.task.scale
        found = {}
        for name in ("validation", "test"):
            target = getattr(self.task, name).target.cpu().numpy()
            found[name] = target if self.task.kind == "classification" else target.astype(np.float64) * deviation + mean
        return found

    @property
    def calibrator(self) -> str | None:
        """The name of what mends the model's probabilities after training."""
        choice = self.method.choices.get("calibrator")
        return None if choice is None else choice.value

    def score(
        self, split: Literal["validation", "test"], prediction: np.ndarray, validation: np.ndarray | None = None
    ) -> float:
        """The task's metric of what ``objective.predict`` gave for a split.

        A calibrator is fitted to the predictions ``validation`` of the validation rows to score test rows. To score
        validation rows it is fitted to every other one of them and mends the rest, and the other way round.
        """
        if self.calibrator is not None and np.isfinite(prediction).all():
            known = self.known["validation"]
            if split == "validation":
                prediction = _calibrated_crosswise(self.calibrator, prediction, known)
            elif validation is not None:
                prediction = _calibrated(self.calibrator, validation, known, prediction)
        if self.task.kind == "regression":
            mean, deviation = self.task.scale
            prediction = prediction.astype(np.float64) * deviation + mean
        part = getattr(self.task, split)
        groups = (part.protected.group,) if self.task.metric.needs_groups else ()
        return float(self.task.metric.score(self.known[split], prediction, *groups))


def _calibrated(name: str, fitted_to: np.ndarray, labels: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Probabilities mended by a calibrator fitted to others and their labels."""
    map = calibrate(name, _as_logits(fitted_to), torch.from_numpy(labels))
    with torch.no_grad():
        return map(_as_logits(prediction)).softmax(1).numpy()


def _calibrated_crosswise(name: str, prediction: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities each mended by a calibrator that was fitted to the other half of the rows."""
    mended = np.empty(prediction.shape)
    for half in (0, 1):
        own, other = slice(half, None, 2), slice(1 - half, None, 2)
        mended[own] = _calibrated(name, prediction[other], labels[other], prediction[own])
    return mended


def _as_logits(probs: np.ndarray) -> Tensor:
    return torch.from_numpy(np.log(np.clip(probs.astype(np.float64), SMALLEST_PROBABILITY, None)))


def on_device(task: Task, device: torch.device | str) -> Task:
    """The task with its data on ``device``."""
    return dataclasses.replace(
        task, train=task.train.to(device), validation=task.validation.to(device), test=task.test.to(device)
    )


def initial_model(recipe: Recipe, seed: int) -> nn.Module:
    """The model before its first step, on the CPU.

    It is the factory's under the seed's own random stream. Where a loss wants another number of outputs than the
    task has by default, every tensor whose name and shape are as in the default model takes that one's value, so
    that methods start alike as far as they can.
    """
    task, outputs = recipe.task, recipe.objective.outputs
    model = _built(recipe.factory, task, outputs, seed)
    if "model" not in recipe.method.choices and outputs != task.num_outputs:
        default = _built(task.model, task, task.num_outputs, seed).state_dict()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name in default and default[name].shape == value.shape:
                    value.copy_(default[name])
    return model


def _built(factory: Factory, task: Task, outputs: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        model = factory(task.num_features, outputs)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must make a torch.nn.Module; got {type(model).__name__}")
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
            with torch.no_grad():
                model.eval()(task.train.inputs[:2].cpu())  # lazy layers take their sizes from what they see
    return model.train()


def batch_order(rows: int, steps: int, batch_size: int, seed: int) -> Tensor:
    """Row numbers (steps, batch_size): one permutation of all rows after the other, cut into batches.

    >>> batch_order(4, 2, 2, seed=0).flatten().sort().values
    tensor([0, 1, 2, 3])
    """
    needed = steps * batch_size
    generator = np.random.default_rng(stream(seed, "order"))
    epochs = [generator.permutation(rows) for _ in range(-(-needed // rows))]
    flat = np.concatenate(epochs)[:needed] if epochs else np.empty(0, dtype=np.int64)
    return torch.from_numpy(flat.reshape(steps, batch_size))


@torch.no_grad()
def predictions(predict: Callable[[Tensor], Tensor], inputs: Tensor, dim: int = 0) -> np.ndarray:
    """``predict(inputs)``, some thousand rows at a time; the results are joined along ``dim``."""
    return torch.cat([predict(rows) for rows in inputs.split(EVALUATED_ROWS)], dim).cpu().numpy()


def trial_bytes(rule: Rule, params: Mapping[str, Tensor]) -> int:
    """What one trial's parameters, their gradients and the optimiser's state take."""
    held = sum(2 * param.numel() * param.element_size() for param in params.values())
    for event in events(rule, params):
        held += sum(value.numel() * value.element_size() for value in event.rule.init(event.pack(params)).values())
    return held


def describe(error: BaseException) -> str:
    """An error in one line, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def crashed(trial: Trial, error: str, seconds: float = 0.0) -> TrialResult:
    """The record of a trial that raised an error or lost its process."""
    return TrialResult(trial, "crashed", error=error, seconds=seconds)


def outcome(
    recipe: Recipe,
    trial: Trial,
    losses: np.ndarray,
    scores: Sequence[float],
    test: float,
    finite: bool,
    seconds: float,
    parameters: int,
    memory_bytes: int,
) -> TrialResult:
    """The record of a trial that ran.

    ``losses`` are those of every step taken, ``scores`` the metric at the points of ``recipe.scored`` reached,
    ``finite`` whether the parameters are. It diverged where a loss, a parameter or the metric is not finite.
    """
    wrong = np.flatnonzero(~np.isfinite(losses))
    error = ""
    if len(wrong):
        error = f"the loss became {losses[wrong[0]]:g} at step {wrong[0] + 1}"
    elif not finite:
        error = "the parameters became infinite or NaN"
    elif not math.isfinite(scores[-1]) or (trial.phase == "final" and not math.isfinite(test)):
        error = f"{recipe.task.metric.name} of the predictions is not a finite number"
    curve, start = [], 0
    for step, metric in zip(recipe.scored(trial.phase), scores, strict=False):
        loss = float(losses[start:step].mean())
        if not math.isfinite(loss):
            break
        curve.append(CurvePoint(step, loss, metric))
        start = step
    status: Status = "diverged" if error else "finished"
    done = status == "finished"
    return TrialResult(
        trial=trial,
        status=status,
        validation=scores[-1] if done else math.nan,
        test=test if done else math.nan,
        curve=tuple(curve),
        seconds=seconds,
        parameters=parameters,
        memory_bytes=memory_bytes,
        error=error,
    )


def train(recipe: Recipe, trial: Trial, advance: Callable[[float], None] | None = None) -> TrialResult:
    """Run one trial in a plain loop. What it raises is recorded as a crash.

    ``advance`` is told the share of the trial done since it was last told.
    """
    started, told = time.perf_counter(), 0.0

    def tell(share: float) -> None:
        nonlocal told
        told += share
        if advance is not None:
            advance(share)

    try:
        cuda = [recipe.device] if recipe.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            torch.manual_seed(stream(trial.seed, "training"))
            return _train(recipe, trial, tell, started)
    except Exception as error:  # the user's model, loss or metric may raise anything
        return crashed(trial, describe(error), time.perf_counter() - started)
    finally:
        tell(1.0 - told)


def _train(recipe: Recipe, trial: Trial, advance: Callable[[float], None], started: float) -> TrialResult:
    task, budget = recipe.task, recipe.budget
    model = initial_model(recipe, trial.seed).to(recipe.device)
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    numbers: dict[str, Any] = dict(recipe.hypers("rule", trial))
    optimizer = RuleOptimizer(params.values(), recipe.rule, **numbers)
    hyper = {
        name: torch.tensor(value, dtype=torch.float64, device=recipe.device)
        for name, value in recipe.charged(trial).items()
    }
    order = batch_order(len(task.train), budget.steps, recipe.batch_size, trial.seed).to(recipe.device)
    losses = torch.empty(budget.steps, dtype=torch.float64, device=recipe.device)
    scores: list[float] = []
    taken = 0
    for start, end in recipe.segments:
        for step in range(start, end):
            optimizer.param_groups[0]["lr"] = numbers["lr"] * recipe.rate(step)  # the fallback's rate follows
            rows = order[step]
            optimizer.zero_grad()
            inputs, *known = (each[rows] for each in task.train.tensors)
            loss = recipe.loss(model(inputs), *known, hyper=hyper)
            loss.backward()
            optimizer.step()
            losses[step] = loss.detach()
        taken = end
        advance((end - start) / budget.steps)
        if not bool(losses[start:end].isfinite().all()):
            break
        if end in recipe.scored(trial.phase):
            scores.append(_score(recipe, model, "validation"))
    finite = all(bool(param.isfinite().all()) for param in params.values())
    charged = losses[:taken].cpu().numpy()
    healthy = finite and np.isfinite(charged).all()
    test = _score(recipe, model, "test") if healthy and trial.phase == "final" else math.nan
    return outcome(
        recipe,
        trial,
        charged,
        scores or [math.nan],
        test,
        finite,
        time.perf_counter() - started,
        sum(param.numel() for param in params.values()),
        trial_bytes(recipe.rule, {name: param.detach() for name, param in params.items()}),
    )


def _score(recipe: Recipe, model: nn.Module, split: Literal["validation", "test"]) -> float:
    model.eval()
    found = {
        name: predictions(lambda rows: recipe.objective.predict(model(rows)), getattr(recipe.task, name).inputs)
        for name in recipe.predicted(split)
    }
    model.train()
    return recipe.score(split, found[split], found.get("validation"))


def default_hyper(recipe: Recipe) -> dict[str, Tensor]:
    """The numbers of loss and penalty at their defaults, as ``Recipe.loss`` takes them."""
    numbers = recipe.charged()
    return {name: torch.tensor(value, dtype=torch.float64, device=recipe.device) for name, value in numbers.items()}


def check(recipe: Recipe) -> None:
    """ValueError, before anything is trained, for a model, loss or rule that cannot work on the task's first rows."""
    name = f"method {recipe.method.name!r}"
    inputs, *known = (each[:CHECKED_ROWS] for each in recipe.task.train.tensors)
    try:
        model = initial_model(recipe, 0).to(recipe.device)
        params = {key: param for key, param in model.named_parameters() if param.requires_grad}
        if not params:
            raise ValueError("model must have parameters to train; it has none")
        events(recipe.rule, params)
        with torch.no_grad():
            outputs = model.eval()(inputs)
            recipe.loss(outputs, *known, hyper=default_hyper(recipe))
            recipe.objective.predict(outputs)
        float(recipe.rate(0))
    except Exception as error:  # the user's model, loss or schedule may raise anything
        raise ValueError(f"{name}: {describe(error)}") from error
