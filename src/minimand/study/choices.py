"""What can be plugged in on each axis of a method, by name; and methods made of it.

A choice is written ``name``, or ``name:hyper=value:hyper=value`` to fix some of its numbers (``ldr:lam=10``), or
``module:attribute`` for one's own. A prefix will do for a name. The axes are

========== ================================================= ==========================================
axis       what ``Choice.value`` is                          what else stands for a choice in Python
========== ================================================= ==========================================
loss       an :class:`~minimand.study.objective.Objective`   a function or module of (outputs, target)
rule       a :class:`~minimand.optim.Rule`                   a ``Rule``
schedule   ``(step, total) -> multiplier`` of the rate       such a function
model      ``(features, outputs) -> nn.Module``              such a function
penalty    ``(predictions, attributes, ...) -> scalar``      such a function
calibrator a name of ``minimand.calibration.CALIBRATORS``    nothing
========== ================================================= ==========================================
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from minimand._checks import check_choice
from minimand.losses import LossSpec
from minimand.optim.rule import Rule
from minimand.study import models
from minimand.study.catalogue import CATALOGUE
from minimand.study.method import Choice, Method
from minimand.study.names import nearest, unknown
from minimand.study.objective import BinaryLoss, ClassLoss, LossFunction, Objective, RealLoss, UndeclaredLoss
from minimand.study.task import Kind, Task

AXES = ("loss", "rule", "schedule", "model", "penalty", "calibrator")
TUNED = ("loss", "rule", "penalty")  # the axes whose choices have numbers
DEFAULT_RULE, DEFAULT_SCHEDULE = "adamw", "cosine"

_CHOICES: dict[str, dict[str, Choice]] = {axis: {} for axis in AXES}
_ALIASES = {"squared_error": "mse", "absolute_error": "l1", "adaptive_ldr": "aldr"}

Value = str | Choice | Objective | Rule | Callable[..., Any]


def register(choice: Choice) -> Choice:
    """Make a choice known under its name; ValueError where that is taken."""
    check_choice("axis", choice.axis, AXES)
    if choice.name in _CHOICES[choice.axis]:
        raise ValueError(f"{choice.axis} {choice.name!r} is registered already")
    if choice.hypers and choice.axis not in TUNED:
        raise ValueError(f"hypers must be empty for a {choice.axis}; got {', '.join(choice.hypers)}")
    _CHOICES[choice.axis][choice.name] = choice
    return choice


def choices(axis: str | None = None, kind: Kind | None = None) -> tuple[Choice, ...]:
    """All choices, of one axis or of all, that fit tasks of ``kind``.

    >>> [choice.name for choice in choices("schedule")]
    ['constant', 'cosine', 'linear', 'inverse_sqrt', 'step']
    """
    if axis is not None:
        check_choice("axis", axis, AXES)
    found = (choice for name in AXES if axis in (None, name) for choice in _CHOICES[name].values())
    return tuple(choice for choice in found if kind is None or kind in choice.kinds)


def find(axis: str, name: str, kind: Kind | None = None) -> Choice:
    """The choice called ``name``, or the only one whose name starts so; ValueError with the nearest otherwise.

    >>> find("rule", "adab").name
    'adabelief'
    >>> find("loss", "mse", kind="classification")
    Traceback (most recent call last):
    ValueError: loss 'mse' is for regression; this task is classification
    """
    check_choice("axis", axis, AXES)
    table = _CHOICES[axis]
    name = _ALIASES.get(name, name)
    if name not in table:
        fitting = [choice.name for choice in choices(axis, kind)]
        starts = [other for other in fitting if name and other.startswith(name)]
        if len(starts) > 1:
            raise ValueError(f"{axis} {name!r} may mean {', '.join(starts)}; say which")
        if not starts:
            near = nearest(name, fitting) or nearest(name, table)
            raise ValueError(unknown(axis, name, dict.fromkeys([*near, *fitting]), listed=len(fitting) + 1))
        name = starts[0]
    choice = table[name]
    if kind is not None and kind not in choice.kinds:
        raise ValueError(f"{axis} {name!r} is for {' and '.join(choice.kinds)}; this task is {kind}")
    return choice


@dataclass(frozen=True)
class Pick:
    """A choice with some of its numbers fixed, and how it was written."""

    choice: Choice
    fixed: Mapping[str, float] = field(default_factory=dict)
    label: str = ""


def pick(axis: str, value: Value, kind: Kind | None = None) -> Pick:
    """What ``value`` means on ``axis``: text as described above, a ``Choice``, or the part itself.

    >>> chosen = pick("loss", "ldr:lam=10")
    >>> chosen.choice.name, chosen.fixed, chosen.label
    ('ldr', {'lam': 10.0}, 'ldr:lam=10')
    """
    check_choice("axis", axis, AXES)
    if not isinstance(value, str):
        choice = _choice_of(axis, value)
        if kind is not None and kind not in choice.kinds:
            raise ValueError(f"{axis} {choice.name!r} is for {' and '.join(choice.kinds)}; this task is {kind}")
        return Pick(choice, {}, choice.name)
    name, fixed = _parse(axis, value.strip())
    choice = _imported(axis, name) if ":" in name else find(axis, name, kind)
    _check_fixed(axis, choice, fixed)
    label = ":".join([choice.name, *(f"{hyper}={number:g}" for hyper, number in fixed.items())])
    return Pick(choice, fixed, label)


def grid(task: Task, try_: Mapping[str, Value | Sequence[Value]]) -> tuple[Method, ...]:
    """A method for every combination of what is to be tried; other axes take their defaults.

    They are the task's own loss, AdamW, cosine decay, the task's own model, no penalty and no calibrator. A method is
    named by what it varies.

    >>> from minimand.study.task import Task
    >>> import torch
    >>> task = Task.from_arrays(torch.randn(40, 2), torch.arange(40) % 2)
    >>> [method.name for method in grid(task, {"loss": ["cross_entropy", "ldr:lam=10"], "rule": "lion"})]
    ['cross_entropy', 'ldr:lam=10']
    """
    if not try_:
        raise ValueError(f"try_ must name what to try on at least one axis of {', '.join(AXES)}")
    for axis in try_:
        if axis not in AXES:
            raise ValueError(unknown("axis", axis, AXES))
    columns: dict[str, list[Pick]] = {}
    for axis, values in try_.items():
        listed: list[Any] = list(values) if isinstance(values, (list, tuple)) else [values]
        columns[axis] = [pick(axis, value, task.kind) for value in listed]
        if not columns[axis]:
            raise ValueError(f"try_[{axis!r}] must hold at least one choice; it is empty")
    varied = [axis for axis, picks in columns.items() if len(picks) > 1] or list(columns)
    methods = []
    for picks in itertools.product(*columns.values()):
        chosen = dict(zip(columns, picks, strict=True))
        methods.append(make_method(task, " + ".join(chosen[axis].label for axis in varied), **chosen))
    names = [each.name for each in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"try_ must hold different choices; {twice!r} is there twice")
    return tuple(methods)


def make_method(task: Task, name: str, **chosen: Value | Pick) -> Method:
    """A method by hand: ``make_method(task, "robust", loss="ldr:lam=10")``; other axes take their defaults."""
    for axis in chosen:
        if axis not in AXES:
            raise ValueError(unknown("axis", axis, AXES))
    defaults: dict[str, Value] = {"loss": task.default_loss, "rule": DEFAULT_RULE, "schedule": DEFAULT_SCHEDULE}
    picks = {}
    for axis, value in {**defaults, **chosen}.items():
        picks[axis] = value if isinstance(value, Pick) else pick(axis, value, task.kind)
    return Method(
        name=name,
        choices={axis: picks[axis].choice for axis in AXES if axis in picks},
        fixed={f"{axis}.{hyper}": number for axis, each in picks.items() for hyper, number in each.fixed.items()},
    )


def find_method(name: str, methods: Sequence[Method]) -> Method:
    """The method called ``name``, the first that makes a choice of that name, or the only one that starts so."""
    for method in methods:
        if method.name == name:
            return method
    parts = [(part, method) for method in methods for part in method.name.split(" + ")]
    for part, method in parts:
        if part == name or part.split(":")[0] == _ALIASES.get(name, name):
            return method
    starts = [method for method in methods if name and method.name.startswith(name)]
    if len(starts) != 1:
        raise ValueError(unknown("baseline", name, [method.name for method in methods]))
    return starts[0]


def _parse(axis: str, text: str) -> tuple[str, dict[str, float]]:
    """``name:hyper=value:...`` taken apart; what has no ``=`` belongs to the name."""
    parts = text.split(":")
    name = ":".join(part for part in parts if "=" not in part)
    fixed: dict[str, float] = {}
    for part in parts:
        if "=" not in part:
            continue
        hyper, _, written = part.partition("=")
        try:
            number = float(written)
        except ValueError:
            raise ValueError(f"{axis} {text!r}: {hyper} must be a number; got {written!r}") from None
        if hyper in fixed:
            raise ValueError(f"{axis} {text!r} gives {hyper} twice")
        fixed[hyper.strip()] = number
    if not name:
        raise ValueError(f"{axis} must be a name, name:hyper=value or module:attribute; got {text!r}")
    return name, fixed


def _check_fixed(axis: str, choice: Choice, fixed: Mapping[str, float]) -> None:
    for hyper, number in fixed.items():
        if hyper not in choice.hypers:
            raise ValueError(f"{axis} {choice.name!r}: " + unknown("hyper", hyper, choice.hypers))
        if not math.isfinite(number):
            raise ValueError(f"{axis} {choice.name!r}: {hyper} must be finite; got {number}")
        choice.hypers[hyper].check(f"{axis} {choice.name!r}: {hyper}", number)


def _imported(axis: str, text: str) -> Choice:
    """The choice that ``module:attribute`` stands for. This runs the user's code."""
    if axis == "model":
        return _choice_of(axis, models.model(text), name=text)
    module_name, _, attribute = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"{axis} {text!r}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ValueError(f"{axis} {text!r}: " + unknown(f"attribute of {module_name}", attribute, public))
    return _choice_of(axis, getattr(module, attribute), name=text)


def _choice_of(axis: str, value: Any, name: str = "") -> Choice:
    """A choice made of a part itself."""
    if isinstance(value, Choice):
        if value.axis != axis:
            raise ValueError(f"{axis} must be a choice of that axis; got {value.name!r} of axis {value.axis!r}")
        return value
    name = str(name or getattr(value, "__name__", type(value).__name__))
    summary = (getattr(value, "__doc__", None) or "").strip().partition("\n")[0]
    if axis == "rule":
        rule = value() if isinstance(value, type) and issubclass(value, Rule) else value
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a name or a minimand.optim.Rule; got {type(value).__name__}")
        return Choice(name, axis, rule, type(rule).hypers, summary, type(rule).source)
    if axis == "loss" and hasattr(value, "fit"):
        return Choice(name, axis, value, getattr(value, "hypers", {}), summary)
    if not callable(value):
        raise TypeError(f"{axis} must be a name, a Choice or a function; got {type(value).__name__}")
    if axis == "calibrator":
        raise TypeError(f"calibrator must be a name; got {type(value).__name__}")
    if axis != "loss":
        return Choice(name, axis, value, {}, summary)
    spec = getattr(value, "spec", None)
    if not isinstance(spec, LossSpec):
        return Choice(name, axis, UndeclaredLoss(cast(LossFunction, value)), {}, summary)
    if spec.target not in _OBJECTIVES:
        raise ValueError(f"loss must be of scores and a column of labels or values; got {name}, of {spec.target}")
    objective, kind = _OBJECTIVES[spec.target]
    return Choice(name, axis, objective(cast(LossFunction, value)), spec.hypers, summary, spec.source, (kind,))


_OBJECTIVES: dict[str, tuple[Callable[..., Objective], Kind]] = {
    "class": (ClassLoss, "classification"),
    "binary": (BinaryLoss, "classification"),
    "real": (RealLoss, "regression"),
}


for _choice in CATALOGUE:
    register(_choice)
