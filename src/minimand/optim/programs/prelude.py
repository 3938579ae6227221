"""What a step computes from numbers alone, without computing the same twice."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from minimand.optim.programs.graphs import subgraph

aten = torch.ops.aten
ON_FLOATS: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: operator.add,
    aten.sub.Tensor: operator.sub,
    aten.rsub.Scalar: lambda x, other: other - x,
    aten.mul.Tensor: operator.mul,
    aten.div.Tensor: operator.truediv,
    aten.reciprocal.default: lambda x: 1.0 / x,
    aten.pow.Tensor_Tensor: operator.pow,
    aten.pow.Tensor_Scalar: operator.pow,
    aten.neg.default: operator.neg,
    aten.sqrt.default: math.sqrt,
    aten.eq.Scalar: operator.eq,
    aten.where.self: lambda condition, x, other: x if condition else other,
    aten.scalar_tensor.default: lambda x, **_: x,
    aten._to_copy.default: lambda x, **_: x,
}


class Prelude:
    """A graph over 0-d or (B,) tensors that can be had in three ways: as it is, as floats, and as what has changed."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self._floats = _on_floats(module)
        self._seen: list[tuple[Tensor, int] | None] = []
        self._values: dict[fx.Node, Any] = {}  # of every node, for the inputs seen when all were computed
        self._part: _Part | None = None  # what has been computed since

    def __call__(self, scalars: Sequence[Tensor]) -> list[Tensor]:
        """All of it."""
        return list(self.module(*scalars))

    def floats(self, scalars: Sequence[Tensor]) -> list[float] | None:
        """The same of 0-d tensors as Python's floats, at a tenth of the time; None where they cannot have them."""
        if self._floats is None or not all(scalar.is_cpu for scalar in scalars):
            return None
        try:
            return list(self._floats(*map(float, scalars)))
        except (ArithmeticError, ValueError):  # what is inf or NaN in a tensor
            return None

    def renewed(self, scalars: Sequence[Tensor]) -> list[Tensor]:
        """The same; only what follows from tensors that are not those of the last call is computed."""
        seen = self._seen or [None] * len(scalars)
        changed = [i for i, (then, now) in enumerate(zip(seen, scalars, strict=True)) if not _is_same(then, now)]
        self._seen = [None if scalar.is_inference() else (scalar, scalar._version) for scalar in scalars]
        if not self._values or (self._part is not None and self._part.changed != changed):
            everything = fx.Interpreter(self.module, garbage_collect_values=False)
            outputs = list(everything.run(*scalars))
            self._values, self._part = everything.env, None
            return outputs
        if self._part is None:
            self._part = _Part(self.module, changed)
        return self._part(scalars, self._values)


class _Part:
    """What of a graph follows from some of its inputs."""

    def __init__(self, module: fx.GraphModule, changed: list[int]) -> None:
        self.changed = changed
        *nodes, output = module.graph.nodes
        inputs = [node for node in nodes if node.op == "placeholder"]
        given = [inputs[i] for i in changed]
        fresh = dict.fromkeys(given)
        for node in nodes:
            if any(source in fresh for source in node.all_input_nodes):
                fresh[node] = None
        sources = [source for node in fresh for source in node.all_input_nodes]
        self.kept = list(dict.fromkeys(source for source in sources if source not in fresh))
        self.outputs = cast(list[fx.Node], output.args[0])
        self.made = [node for node in self.outputs if node in fresh]
        self.module = subgraph(module, module.graph, [*given, *self.kept], self.made, fresh.__contains__)

    def __call__(self, scalars: Sequence[Tensor], values: dict[fx.Node, Any]) -> list[Tensor]:
        """All outputs: those that were kept, and those made of the new scalars."""
        made = self.module(*(scalars[i] for i in self.changed), *(values[node] for node in self.kept))
        now = dict(zip(self.made, made, strict=True))
        return [now[node] if node in now else values[node] for node in self.outputs]


def _is_same(seen: tuple[Tensor, int] | None, now: Tensor) -> bool:
    return seen is not None and seen[0] is now and not now.is_inference() and seen[1] == now._version


def _on_floats(prelude: fx.GraphModule) -> Callable[..., Any] | None:
    """A graph over 0-d tensors as a function of floats, if it is one of ``ON_FLOATS`` throughout."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(prelude.graph, {}))
    for node in graph.nodes:
        if node.op == "call_function":
            if node.target not in ON_FLOATS or not node.kwargs.get("dtype", torch.float64).is_floating_point:
                return None
            node.target = ON_FLOATS[node.target]
    return fx.GraphModule(prelude, graph).forward
