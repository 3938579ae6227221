"""Trace a tensor program once and split what depends on numbers alone from what touches large tensors.

A rule's formula mixes a few scalars (1 - beta2 ** t) with millions of entries. Compiled as it stands, the scalar
part is computed again inside the loop over entries: ``pow`` alone then costs three times the rest of AdaBelief's
step. Split, the scalar part runs once a step.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten
Program = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
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


def trace(program: Program, scalars: Sequence[Tensor], tensors: Sequence[Tensor]) -> fx.GraphModule:
    """The ATen graph of ``program(scalars, tensors)``, for inputs of these shapes.

    Inputs that happen to be one tensor, such as a learning rate and a decay that are both 0.01, stay two inputs.
    """
    with torch.no_grad():
        return make_fx(lambda s, t: program(s, t))([s.detach() for s in scalars], [t.detach() for t in tensors])


class Hoisted:
    """A traced program in two graphs: ``prelude(scalars)``, then ``body(tensors, prelude's values)``.

    ``is_body[i]`` says which of the program's outputs come from the body; the others are the prelude's.
    """

    def __init__(self, program: Program, scalars: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        root = trace(program, scalars, tensors)
        graph = root.graph
        graph.eliminate_dead_code()
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        touched = set(placeholders[len(scalars) :])  # everything downstream of a large tensor
        outputs: list[fx.Node] = []
        for node in graph.nodes:
            if node.op == "output":
                outputs = list(node.args[0])
            elif any(source in touched for source in node.all_input_nodes):
                touched.add(node)
        crossing = [
            node
            for node in graph.nodes
            if node.op != "output" and node not in touched and any(user in touched for user in node.users)
        ]
        self.num_tensors = len(tensors)
        self.is_body = [node in touched for node in outputs]
        scalar_outputs = [node for node in outputs if node not in touched]
        self._num_scalar_outputs = len(scalar_outputs)
        self.prelude = _subgraph(
            root, graph, placeholders[: len(scalars)], [*scalar_outputs, *crossing], lambda n: n not in touched
        )
        self.body = _subgraph(
            root,
            graph,
            [*placeholders[len(scalars) :], *crossing],
            [node for node in outputs if node in touched],
            lambda n: n in touched,
        )
        self._on_floats = _on_floats(self.prelude)

    def in_place(self, targets: int, packed: bool = False) -> fx.GraphModule:
        """The body with its first outputs written over its inputs: output i over the i-th of ``targets`` inputs.

        Further outputs are returned. ``packed`` takes the prelude's values, 0-d and of one dtype, as one vector.
        """
        graph = fx.Graph()
        inputs = [node for node in self.body.graph.nodes if node.op == "placeholder"]
        own, shared = inputs[: self.num_tensors], inputs[self.num_tensors :]
        tensors = [graph.placeholder(node.name) for node in own]
        if packed:
            vector = graph.placeholder("numbers")
            numbers = [graph.call_function(torch.ops.aten.select.int, (vector, 0, i)) for i in range(len(shared))]
        else:
            numbers = [graph.placeholder(node.name) for node in shared]
        values = dict(zip([*own, *shared], [*tensors, *numbers], strict=True))
        outputs = graph.graph_copy(self.body.graph, values)
        results = list(cast(Sequence[fx.Node], outputs))
        for old, new in zip(tensors[:targets], results[:targets], strict=True):
            graph.call_function(torch.ops.aten.copy_.default, (old, new))
        graph.output(tuple(results[targets:]))
        module = fx.GraphModule(self.body, graph)
        module.recompile()
        return module

    def numbers(self, scalars: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Run the prelude: the program's scalar outputs, and the values that the body takes."""
        values = list(self.prelude(*scalars))
        return values[: self._num_scalar_outputs], values[self._num_scalar_outputs :]

    def floats(self, scalars: Sequence[Tensor]) -> tuple[list[float], list[float]] | None:
        """``numbers`` of 0-d tensors as Python's floats, at a tenth of the time; None where they cannot have them."""
        if self._on_floats is None or not all(scalar.is_cpu for scalar in scalars):
            return None
        try:
            values = list(self._on_floats(*map(float, scalars)))
        except (ArithmeticError, ValueError):  # what is inf or NaN in a tensor
            return None
        return values[: self._num_scalar_outputs], values[self._num_scalar_outputs :]


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


def _subgraph(
    root: fx.GraphModule,
    graph: fx.Graph,
    inputs: Sequence[fx.Node],
    outputs: Sequence[fx.Node],
    belongs: Callable[[fx.Node], bool],
) -> fx.GraphModule:
    """The part of ``graph`` for which ``belongs`` holds, from ``inputs`` to ``outputs``."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for i, node in enumerate(inputs):
        copies[node] = part.placeholder(f"input_{i}")
    for node in graph.nodes:
        if node.op not in ("placeholder", "output") and belongs(node) and node not in copies:
            copies[node] = part.node_copy(node, lambda n: copies[n])
    part.output([copies[node] for node in outputs])
    module = fx.GraphModule(root, part)
    module.recompile()
    return module


def compiled(program: Callable[..., Any], dynamic: bool | None = None) -> Callable[..., Any]:
    """``program`` through ``torch.compile`` as one graph."""
    return torch.compile(program, fullgraph=True, dynamic=dynamic)


def compiled_for_vectors(program: Callable[..., Any], vectors: Sequence[Tensor], *shared: Tensor) -> Callable[..., Any]:
    """``program``, which writes over vectors of one length and returns nothing, compiled for any length.

    The program is traced already, so that inductor can take it as it is. What torch.compile does beyond that at every
    call, to find out whether it has seen the arguments before, takes as long as the step of 100,000 entries.
    """
    try:
        return _by_inductor(program, [*vectors, *shared])
    except Exception:  # inductor's own interface is nothing that torch promises to keep
        return compiled(program, dynamic=True)


def _by_inductor(program: Callable[..., Any], example: Sequence[Tensor]) -> Callable[..., Any]:
    from torch._dynamo.utils import detect_fake_mode
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    table = {**select_decomp_table(), aten.sigmoid.default: _sigmoid}
    graph = make_fx(lambda *args: tuple(program(*args)), table, tracing_mode="symbolic")(*example)
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    products_and_sums_as_one = config.patch({"cpp.enable_floating_point_contract_flag": "fast"})
    with tracing(TracingContext(detect_fake_mode(inputs))), products_and_sums_as_one:
        call = cast(Callable[..., Any], compile_fx_inner(graph, inputs))
    return lambda *args: call([*args])


def _sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) in plain arithmetic, to 1e-7.

    A processor has no instruction for an exponential: a compiled loop calls a function for it, which empties its
    registers. Here exp(y) = 2^n exp(r), n the whole number next to y / ln 2, and exp(r) by Taylor's series.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return NotImplemented
    y = (-x).clamp(-87.0, 87.0)  # 2^n is a normal number
    n = (y * (1 / math.log(2))).round()
    high = 355 / 512  # n times that is exact
    r = (y - n * high) - n * (math.log(2) - high)
    series = torch.full_like(r, 1 / math.factorial(7))
    for k in range(6, -1, -1):
        series = series * r + 1 / math.factorial(k)
    power = ((n.to(torch.int32) + 127) << 23).view(torch.float32)  # an exponent's bits
    return 1 / (1 + power * series)
