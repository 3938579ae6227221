"""Many tensors that behave as one in an element rule's formula: each operator is one ``torch._foreach_*`` call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class TensorList:
    """Tensors of one dtype and device that take part in arithmetic together.

    Numbers and 0-d tensors broadcast over the list; another list pairs up with it.

    >>> (2 * TensorList([torch.ones(2), torch.zeros(3)]) + 1).tensors[0]
    tensor([3., 3.])
    """

    __slots__ = ("tensors",)

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that all tensors share."""
        return self.tensors[0].dtype

    def _apply(self, function: Callable[..., Any], *args: Any) -> TensorList:
        return TensorList(function(self.tensors, *args))

    def _operand(self, other: Any) -> Any:
        if isinstance(other, TensorList):
            return other.tensors
        # A number on the host needs no look at the device, and keeps the list's dtype.
        return other.item() if isinstance(other, Tensor) and other.device.type == "cpu" else other

    def __add__(self, other: Any) -> TensorList:
        return self._apply(torch._foreach_add, self._operand(other))

    __radd__ = __add__

    def __mul__(self, other: Any) -> TensorList:
        return self._apply(torch._foreach_mul, self._operand(other))

    __rmul__ = __mul__

    def __neg__(self) -> TensorList:
        return self._apply(torch._foreach_neg)

    def __sub__(self, other: Any) -> TensorList:
        if isinstance(other, TensorList):
            return self._apply(torch._foreach_sub, other.tensors)
        return self + (-other)

    def __rsub__(self, other: Any) -> TensorList:
        return -self + other

    def __truediv__(self, other: Any) -> TensorList:
        return self._apply(torch._foreach_div, self._operand(other))

    def __rtruediv__(self, other: Any) -> TensorList:
        return self._apply(torch._foreach_reciprocal) * other

    def square(self) -> TensorList:
        """Elementwise square."""
        return self * self

    def sqrt(self) -> TensorList:
        """Elementwise square root."""
        return self._apply(torch._foreach_sqrt)

    def abs(self) -> TensorList:
        """Elementwise absolute value."""
        return self._apply(torch._foreach_abs)

    def sigmoid(self) -> TensorList:
        """Elementwise logistic function."""
        return self._apply(torch._foreach_sigmoid)

    def maximum(self, other: Any) -> TensorList:
        """Elementwise larger value."""
        return self._apply(torch._foreach_maximum, self._operand(other))

    def clamp(self, min: float, max: float) -> TensorList:
        """Every value, or the end of [min, max] that is next to it."""
        return self._apply(torch._foreach_clamp_min, min)._apply(torch._foreach_clamp_max, max)

    def to(self, dtype: torch.dtype) -> TensorList:
        """Every tensor in ``dtype``."""
        return self if dtype == self.dtype else TensorList([t.to(dtype) for t in self.tensors])

    def float(self) -> TensorList:
        """Every tensor in float32."""
        return self.to(torch.float32)

    def clone(self) -> TensorList:
        """A copy of every tensor."""
        return TensorList([t.clone() for t in self.tensors])
