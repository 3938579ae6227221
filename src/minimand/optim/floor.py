"""What an update rule costs: the bytes of its state, and the bytes that a step cannot do without moving.

A step of Adam's kind does a few operations an entry, so that memory sets its pace: no step is faster than its bytes
over the machine's bandwidth. How far above that floor a step is says how good its code is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from minimand._numerics import upcast
from minimand.optim import rules
from minimand.optim.rule import Event, Rule, State, events
from minimand.optim.rules.matrix import runs

COSTS: Mapping[str, tuple[float, float, float]] = {
    "SGD": (0, 12, 6),
    "SignSGD": (0, 12, 6),
    "Momentum": (4, 20, 14),
    "Lion": (4, 20, 14),
    "LionK": (4, 20, 14),
    "AdaGrad": (4, 20, 14),
    "AdaGradNorm": (0, 16, 8),
    "AdamW": (8, 28, 22),
    "AdaBelief": (8, 28, 22),
    "DiffGrad": (12, 36, 30),
    "SGDP": (4, 28, 20),
    "AdamP": (8, 40, 32),
    "Sophia": (8, 24, 18),
    "Frugal": (2.25, 22.5, 14.5),
    "Muon": (4, 42, 36),
    "NorMuon": (4, 44, 38),
    "Conda": (9, 46, 40),
    "MFAC": (4102, 8220, 8214),
}
"""Bytes a parameter of a 1024 x 4096 matrix, every rule with its defaults: its state; a step in float32; a step with
16-bit parameters and gradients and a float32 state."""


def state_bytes(rule: Rule, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> float:
    """Bytes of state a parameter of this shape and dtype, as ``rule.init`` makes it. No memory is taken for that.

    A shape that a matrix rule does not accept is its fallback's.

    >>> state_bytes(rules.AdaBelief(), (1000, 1000))  # two moments; the counter is 4 bytes for all
    8.000004
    """
    _, param, state = _made(rule, shape, dtype)
    return sum(tensor.nbytes for tensor in state.values()) / param.numel()


def step_bytes(
    rule: Rule,
    shape: Sequence[int],
    param_dtype: torch.dtype = torch.float32,
    state_dtype: torch.dtype | None = None,
) -> float:
    """Bytes a parameter that one step reads and writes at least: reads + writes of each tensor, times its item size.

    The parameter and its state are read and written once, the gradient, of the parameter's dtype, is read; and what
    a formula asks beyond that:

    - ``AdaGradNorm`` reads the gradient twice, for the norm comes first. So does ``LionK`` with the kernel ``"l2"``
      the gradient and its momentum.
    - ``AdamP`` and ``SGDP`` read parameter and moments twice where they have rows: inner products come first. (Rows
      that stay on chip save that.)
    - ``Sophia`` only reads its curvature. With an estimate every k steps add 12 / k (10 / k with 16 bits).
    - ``Muon`` writes its iterate, reads it twice and writes it once each time it is formed, which is in each of
      ``ns_steps`` iterations or, as ``orthogonalise`` says, in every second or third, and reads it; ``NorMuon`` once
      more, for its rows. Nothing of that if the iterate stays in cache, which leaves 20. The iterate is counted in
      ``ns_dtype``, or bfloat16; its smaller Gram matrices are not counted, and multiplications, up to 20 m + 10 m^2 / n
      an entry of a matrix m <= n, usually bind before memory does.
    - ``Conda`` writes and reads the gradient and the quotient in its basis, and reads the basis for each.
    - ``Frugal`` only reads its choice. For ``"svd"`` it reads the gradient twice, writes and reads its coordinates, and
      reads the basis twice.
    - ``MFAC`` reads its window twice, and writes one row of it.

    What happens at a refresh alone is not counted. A rule that is not named here is taken to do with one pass.

    Args:
        rule: the update rule, with its statics.
        shape: the parameter's; what a matrix rule does not accept is its fallback's.
        param_dtype: of parameter and gradient.
        state_dtype: of moments; what ``rule.init`` gives unless given.

    Source: counted from the formulas.

    >>> step_bytes(rules.AdaBelief(), (1000, 1000))  # p g m s read, p m s written
    28.0
    """
    event, param, state = _made(rule, shape, param_dtype)
    if state_dtype is not None:
        _check_dtype("state_dtype", state_dtype)
        state = {name: x.to(state_dtype) if x.is_floating_point() and x.ndim else x for name, x in state.items()}
    # Counters and norms, a number for all entries, are free.
    held = {name: x.nbytes / param.numel() for name, x in state.items() if x.ndim > 0}
    moved = _Moved(param.element_size(), upcast(param).element_size(), tuple(param.shape), held)
    beyond = _BEYOND.get(type(event.rule))
    return 3 * moved.param + 2 * sum(held.values()) + (beyond(event.rule, moved) if beyond else 0.0)


def _check_dtype(name: str, value: object) -> None:
    if not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise TypeError(f"{name} must be a floating dtype; got {value!r}")


def _made(rule: Rule, shape: Sequence[int], dtype: torch.dtype) -> tuple[Event, Tensor, State]:
    """What acts on a parameter of this shape, the parameter as it sees it and its state, on no device."""
    _check_dtype("dtype", dtype)
    if prod(shape) == 0:
        raise ValueError(f"shape must have at least one entry; got {tuple(shape)}")
    tensors = {"param": torch.empty(tuple(shape), dtype=dtype, device="meta")}
    (event,) = events(rule, tensors)
    param = event.pack(tensors)
    return event, param, event.rule.init(param)


# What formulas move beyond one pass over the parameter, its gradient and its state.

NUCLEAR_STEPS = 10  # iterations of LionK's


@dataclass
class _Moved:
    """Bytes a parameter of one pass over each tensor: the parameter or gradient, a float32 one, each state."""

    param: int
    wide: int
    shape: tuple[int, ...]
    state: Mapping[str, float]


def _projected(rule: Rule, moved: _Moved) -> float:
    return moved.param + sum(moved.state.values()) if len(moved.shape) > 1 else 0


def _orthogonalised(passes: int) -> Callable[[rules.Muon | rules.NorMuon, _Moved], float]:
    """The iterate's: once written and ``passes`` times read, and three for every time it is formed."""

    def moved_by(rule: rules.Muon | rules.NorMuon, moved: _Moved) -> float:
        dtype = rule.ns_dtype or torch.bfloat16
        return (1 + passes + 3 * len(runs(moved.shape, rule.ns_steps, dtype))) * dtype.itemsize

    return moved_by


def _lion(rule: rules.LionK, moved: _Moved) -> float:
    if rule.kernel == "nuclear" and len(moved.shape) > 1:
        shape = (moved.shape[0], prod(moved.shape[1:]))
        return (2 + 3 * len(runs(shape, NUCLEAR_STEPS, torch.float32))) * moved.wide
    return moved.param + moved.state["mean"] if rule.kernel in ("l2", "nuclear") else 0


def _frugal(rule: rules.Frugal, moved: _Moved) -> float:
    if rule.select != "svd":
        return -moved.state["index"]
    return (0 if rule.free == "none" else moved.param) + 2 * moved.state["mean"]


_BEYOND: Mapping[type[Rule], Callable[..., float]] = {
    rules.AdaGradNorm: lambda rule, moved: moved.param,
    rules.LionK: _lion,
    rules.AdamP: _projected,
    rules.SGDP: _projected,
    rules.Sophia: lambda rule, moved: -moved.state["curvature"],
    rules.Muon: _orthogonalised(1),
    rules.NorMuon: _orthogonalised(2),
    rules.Conda: lambda rule, moved: 4 * moved.wide,
    rules.Frugal: _frugal,
    rules.MFAC: lambda rule, moved: moved.wide,
}
