"""Checks on arguments. Every message names the argument, what came and what is wanted.

Shapes, dtypes and devices are always checked. Values are checked where looking at them is free: on the CPU,
outside ``torch.compile`` and ``torch.func`` transforms. On an accelerator a look would wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]


def is_concrete(*tensors: Tensor) -> bool:
    """Whether the values of all tensors can be looked at here without cost."""
    if torch.compiler.is_compiling():
        return False
    return all(t.device.type == "cpu" and not is_wrapped(t) for t in tensors)


def check_tensor(name: str, value: object, wanted: str = "a tensor") -> Tensor:
    """``value`` as a tensor, or TypeError."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be {wanted}; got {type(value).__name__}")
    return value


def check_floating(name: str, value: object, *, ndim: int | None = None) -> Tensor:
    """``value`` as a real floating-point tensor, of ``ndim`` dimensions where given."""
    tensor = check_tensor(name, value, "a floating-point tensor")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor; got dtype {tensor.dtype}")
    if ndim is not None and tensor.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions; got shape {tuple(tensor.shape)}")
    return tensor


def check_same_device(**tensors: Tensor) -> None:
    """All named tensors must lie on one device."""
    (first, reference), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.device != reference.device:
            raise ValueError(f"{name} must be on {first}'s device {reference.device}; got {tensor.device}")


def check_same_shape(**tensors: Tensor) -> None:
    """All named tensors must have one shape."""
    (first, reference), *rest = tensors.items()
    for name, tensor in rest:
        if tensor.shape != reference.shape:
            raise ValueError(f"{name} must have {first}'s shape {tuple(reference.shape)}; got {tuple(tensor.shape)}")


def check_no_nan(name: str, value: Tensor) -> None:
    """NaN in an argument whose NaN would otherwise be lost (by a clamp, a sort, a comparison) is an error."""
    if is_concrete(value) and bool(value.isnan().any()):
        where = int(value.detach().isnan().reshape(-1).nonzero()[0])
        raise ValueError(f"{name} must not hold NaN; got NaN at flat position {where}")


def check_range(name: str, value: Tensor, low: float, high: float) -> None:
    """Every entry must lie in [low, high]; NaN does not."""
    if not is_concrete(value) or value.numel() == 0:
        return
    outside = ~((value >= low) & (value <= high))
    if bool(outside.any()):
        where = int(outside.detach().reshape(-1).nonzero()[0])
        got = value.detach().reshape(-1)[where].item()
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}]; got {got:g} at flat position {where}")


def check_indices(name: str, value: object, size: int, of: str, like: Tensor, rows: str = "its rows") -> Tensor:
    """``value`` as int64 indices into ``size`` of what ``of`` names, one for each row of ``like``, named ``rows``."""
    index = check_tensor(name, value, f"an integer tensor of {of} indices")
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor of {of} indices; got dtype {index.dtype}")
    if index.shape != like.shape[:1]:
        raise ValueError(f"{name} must have shape ({like.shape[0]},) to match {rows}; got {tuple(index.shape)}")
    check_same_device(**{rows: like, name: index})
    if is_concrete(index) and index.numel():
        outside = (index < 0) | (index >= size)
        if bool(outside.any()):
            where = int(outside.nonzero()[0])
            raise ValueError(
                f"{name} must be integer {of} indices in [0, {size}); got {int(index[where])} at position {where}"
            )
    return index.long()


def check_class_logits(logits: object, target: object) -> tuple[Tensor, Tensor]:
    """Logits (N, C) and class indices (N,) in [0, C)."""
    logits = check_floating("logits", logits)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must have shape (N, C) with C >= 1; got {tuple(logits.shape)}")
    return logits, check_indices("target", target, logits.shape[1], "class", logits, "logits")


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """``value`` as an integer of at least ``least``, and at most ``most`` where given."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer of at least {least}; got {type(value).__name__}")
    if value < least or (most is not None and value > most):
        wanted = f"be at least {least}" if most is None else f"lie in [{least}, {most}]"
        raise ValueError(f"{name} must {wanted}; got {value}")
    return value


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """``value`` must be one of ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
