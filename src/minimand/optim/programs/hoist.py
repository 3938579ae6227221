"""Trace a tensor program once and split what depends on numbers alone from what touches large tensors.

A rule's formula mixes a few scalars (1 - beta2 ** t) with millions of entries. Compiled as it stands, the scalar
part is computed again inside the loop over entries: ``pow`` alone then costs three times the rest of AdaBelief's
step. Split, the scalar part runs once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from minimand.optim.programs.graphs import Program, subgraph, trace
from minimand.optim.programs.prelude import Prelude


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
        self.prelude = Prelude(
            subgraph(
                root, graph, placeholders[: len(scalars)], [*scalar_outputs, *crossing], lambda n: n not in touched
            )
        )
        self.body = subgraph(
            root,
            graph,
            [*placeholders[len(scalars) :], *crossing],
            [node for node in outputs if node in touched],
            lambda n: n in touched,
        )

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

    def numbers(self, scalars: Sequence[Tensor], renew: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Run the prelude: the program's scalar outputs, and the values that the body takes.

        ``renew`` computes only what follows from tensors that are not those of the last such call.
        """
        return self._parted(self.prelude.renewed(scalars) if renew else self.prelude(scalars))

    def floats(self, scalars: Sequence[Tensor]) -> tuple[list[float], list[float]] | None:
        """``numbers`` of 0-d tensors as Python's floats; None where they cannot have them."""
        values = self.prelude.floats(scalars)
        return None if values is None else self._parted(values)

    def _parted(self, values: list[Any]) -> tuple[list[Any], list[Any]]:
        return values[: self._num_scalar_outputs], values[self._num_scalar_outputs :]
