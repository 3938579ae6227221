"""An update rule is a pure function: ``init(param) -> state``, ``update(grad, state, param, hyper) -> (step, state)``.

A rule writes its formula once, for one event: a tensor of any shape, a matrix, or one flat vector. Three
executions run that formula as it stands: ``RuleOptimizer`` a parameter at a time, the same over lists of
parameters at once (``TensorList``) or compiled, and ``BatchedTrainer`` over hundreds of trials (``vmap``).

A rule is a frozen dataclass. Its fields are *statics*: they change the code path or a state's shape. Its *hypers*
are numbers (``lr``, ``beta1``, ``eps``), declared in ``hypers`` and passed to every call as 0-d float64 tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from minimand._checks import check_choice
from minimand._numerics import upcast
from minimand.hyper import HyperSpec, LogUniform
from minimand.source import Source

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]
FALLBACK = "fallback_"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A pure update rule. Subclasses write ``hypers``, ``source``, ``init`` and ``direction``.

    Contract, tested over every rule: inputs are never changed; no branch on a tensor's value; states hold tensors
    only, the step counter under ``"step"``; ``step`` has the parameter's dtype, and states of 16-bit parameters
    are float32; the step is finite for zero, empty, 1 x 1 and 1e30-sized gradients, and zero for ``lr=0``.

    ``decay="decoupled"`` subtracts ``lr * weight_decay * param`` from the parameter as AdamW does, measured before
    the step; ``decay="l2"`` adds ``weight_decay * param`` to the gradient. A decay of nought may be left out of the
    numbers, which saves its passes over memory.
    """

    event: ClassVar[Literal["element", "tensor", "matrix", "vector"]] = "element"
    hypers: ClassVar[Mapping[str, HyperSpec]]
    source: ClassVar[Source]
    observes: ClassVar[Literal["hess_diag"] | None] = None

    decay: Literal["decoupled", "l2"] = "decoupled"

    def __post_init__(self) -> None:
        check_choice("decay", self.decay, ("decoupled", "l2"))

    # What a rule writes.

    def init(self, param: Tensor) -> State:
        """The state before the first step."""
        return {}

    def direction(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        """What to go against, before learning rate and decay; at least float32."""
        raise NotImplementedError(f"{type(self).__name__} must define direction or update")

    def observe(self, info: Tensor, state: State, param: Tensor, hyper: Hyper) -> State:
        """Take in a value that comes every few steps, such as an estimate of the Hessian's diagonal."""
        raise TypeError(f"{type(self).__name__} observes nothing")

    @property
    def refresh_every(self) -> int | None:
        """Steps between two calls of ``refresh``, for rules that choose a subspace or a basis."""
        return None

    def refresh(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> State:
        """Choose the subspace or basis anew; called before ``update`` at steps 0, T, 2T, ..."""
        return state

    @property
    def fallback(self) -> Rule | None:
        """The rule for parameters that are no matrix; it takes the hypers named ``fallback_...``."""
        return None

    # What everybody calls.

    def update(self, grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        """The step to add to ``param``, and the next state."""
        wide = upcast(param)
        grad = upcast(grad)
        if self.decay == "l2" and "weight_decay" in hyper:
            grad = grad + hyper["weight_decay"] * wide
        u, state = self.direction(grad, state, wide, hyper)
        step = -hyper["lr"] * u
        if self.decay == "decoupled" and "weight_decay" in hyper:
            step = step - hyper["lr"] * hyper["weight_decay"] * wide
        return step.to(param.dtype), state

    def batched(self, dims: int = 1) -> Callable[[Tensor, State, Tensor, Hyper], tuple[Tensor, State]]:
        """``update`` over ``dims`` leading dimensions that gradient, state, parameter and hypers all carry."""
        update: Callable[..., Any] = self.update
        for _ in range(dims):
            update = torch.func.vmap(update)
        return update

    def accepts(self, param: Tensor) -> bool:
        """Whether the rule acts on this parameter; others go to ``fallback``."""
        if self.event != "matrix":
            return True
        return param.ndim >= 2 and min(param.shape[0], param.shape[1:].numel()) > 1

    def check(self, hyper: Mapping[str, float | Tensor]) -> None:
        """ValueError for an unknown hyper or one outside its range, naming it."""
        for name, value in hyper.items():
            if name not in self.hypers:
                statics = f"{name} is a static: give it to {type(self).__name__}(...)" if hasattr(self, name) else ""
                takes = f"{type(self).__name__} takes {', '.join(self.hypers)}; got {name!r}"
                raise ValueError(statics or takes)
            self.hypers[name].check(name, value)

    def defaults(self) -> dict[str, float]:
        """Every hyper's default."""
        return {name: spec.default for name, spec in self.hypers.items()}


@dataclass(frozen=True, kw_only=True)
class VectorRule(Rule):
    """A rule that acts on one flat vector: a group's parameters end to end, or with ``scope="param"`` each alone."""

    event: ClassVar = "vector"
    scope: Literal["group", "param"] = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scope", self.scope, ("group", "param"))


def zeros_like(param: Tensor) -> Tensor:
    """A moment's first value: zeros in ``param``'s shape, at least float32."""
    return torch.zeros_like(upcast(param), memory_format=torch.preserve_format)


def zero_step() -> Tensor:
    """The step counter's first value."""
    return torch.zeros((), dtype=torch.float32)


def ema(average: Any, value: Any, beta: Tensor) -> Any:
    """beta * average + (1 - beta) * value.

    The complement is formed from the float64 ``beta``: 1 - 0.999 in float32 is off by 1e-5. Written as a sum of
    two products, an average that has overflowed to inf stays inf instead of becoming NaN.
    """
    return beta * average + (1 - beta) * value


def debias(average: Any, beta: Tensor, step: Tensor) -> Any:
    """An average that began at zero, over the weight it has gathered after ``step`` values.

    A product with the reciprocal of a number: a quotient for each of its entries takes several times as long.
    """
    return average * (1 / (1 - beta ** step.double()))


def sign(value: Any) -> Any:
    """-1, 0 or 1, and NaN for NaN; what has diverged would seem to rest under ``torch.sign``.

    Two passes over memory, where ``minimand._numerics.sign``, which may be differentiated, takes three. What is smaller
    than the largest number's reciprocal, 3e-39 in float32, counts in proportion.
    """
    return (value * torch.finfo(value.dtype).max).clamp(-1.0, 1.0)


# How numbers are declared: ranges once, defaults by the rule.


def learning_rate(default: float) -> HyperSpec:
    """``lr`` >= 0, searched a factor 10 to either side of its default."""
    return HyperSpec(default, low=0.0, search=LogUniform(default / 10, default * 10))


def fraction(default: float) -> HyperSpec:
    """A number in [0, 1): betas and momenta."""
    return HyperSpec(default, low=0.0, high=1.0, closed="left")


def nonnegative(default: float) -> HyperSpec:
    """A number >= 0."""
    return HyperSpec(default, low=0.0)


def weight_decay(default: float = 0.0) -> HyperSpec:
    """``weight_decay`` >= 0, searched between 1e-4 and 1e-1."""
    return HyperSpec(default, low=0.0, search=LogUniform(1e-4, 1e-1))


def adam_hypers(
    lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, decay: float = 0.0
) -> dict[str, HyperSpec]:
    """The numbers of Adam and its relatives."""
    return {
        "lr": learning_rate(lr),
        "beta1": fraction(beta1),
        "beta2": fraction(beta2),
        "eps": nonnegative(eps),
        "weight_decay": weight_decay(decay),
    }


def fallback_hypers(hypers: Mapping[str, HyperSpec]) -> dict[str, HyperSpec]:
    """The fallback rule's numbers under their names in the matrix rule's declaration."""
    return {FALLBACK + name: spec for name, spec in hypers.items()}


# What one call of a rule acts on.


@dataclass(frozen=True)
class Event:
    """The parameters that one call of ``rule`` takes: one, or several laid end to end as one flat vector."""

    rule: Rule
    names: tuple[Any, ...]
    is_fallback: bool = False
    flat: bool = False

    def pack(self, tensors: Mapping[Any, Tensor]) -> Tensor:
        """The tensor that the rule sees: the parameter, its matrix view, or the group as one flat vector."""
        if self.flat:
            return torch.cat([tensors[name].reshape(-1) for name in self.names])
        tensor = tensors[self.names[0]]
        return tensor.reshape(tensor.shape[0], -1) if self.rule.event == "matrix" else tensor

    def unpack(self, packed: Tensor, shapes: Mapping[Any, torch.Size]) -> dict[Any, Tensor]:
        """What belongs to each parameter, in its own shape."""
        if not self.flat:
            return {self.names[0]: packed.reshape(shapes[self.names[0]])}
        parts = packed.split([shapes[name].numel() for name in self.names])
        return {name: part.reshape(shapes[name]) for name, part in zip(self.names, parts, strict=True)}

    def hyper(self, hyper: Hyper) -> Hyper:
        """The numbers as the rule names them."""
        if not self.is_fallback:
            return hyper
        return {name[len(FALLBACK) :]: value for name, value in hyper.items() if name.startswith(FALLBACK)}


def events(rule: Rule, params: Mapping[Any, Tensor], matrix: bool = True, joint: bool = False) -> list[Event]:
    """Split named parameters into what the rule, or its fallback, is called on.

    ``matrix=False`` sends every parameter of a matrix rule to the fallback: right for embeddings and output heads.
    ``joint=True`` lays all parameters of an element rule end to end, which changes nothing but the number of calls.
    """
    if isinstance(rule, VectorRule):
        together = [tuple(params)] if params else []
        return [Event(rule, names, flat=True) for names in (together if rule.scope == "group" else zip(params))]
    found = []
    for name, param in params.items():
        if rule.event != "matrix" or (matrix and rule.accepts(param)):
            found.append(Event(rule, (name,)))
        elif rule.fallback is not None:
            found.append(Event(rule.fallback, (name,), is_fallback=True))
        else:
            kind, shape = type(rule).__name__, tuple(param.shape)
            raise ValueError(f"{kind} takes matrices; got parameter {name!r} of shape {shape}")
    if not joint:
        return found
    single = [event for event in found if event.rule.event != "element"]
    by_element = [event for event in found if event.rule.event == "element"]
    if not by_element:
        return single
    lead = by_element[0]  # all of one rule: the rule itself, or its fallback
    return [*single, Event(lead.rule, tuple(e.names[0] for e in by_element), lead.is_fallback, flat=True)]
