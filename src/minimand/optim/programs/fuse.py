"""Fewer passes over memory for a traced step that is not compiled.

Every operator of a formula reads and writes whole tensors. Three of them that PyTorch has as one, such as
beta * m + (1 - beta) * g, become one; and ``place`` says where results go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp

from minimand.optim.programs.place import ADD, DIV, MUL, POW, SUB, Layout, layout, place_results
from minimand.optim.programs.simplify import simplified

WORTH_KEEPING = 1 << 12  # entries: what is smaller is had in no time


class Fused:
    """A program, and memory of its own for what it computes on its way.

    Memory that every step takes and gives back is often returned to the system in between, which clears it page by
    page: a fifth of the time of an uncompiled step.
    """

    def __init__(self, module: fx.GraphModule, places: Sequence[Layout], device: torch.device, any_length: bool):
        self.module, self._places, self._device, self._any_length = module, places, device, any_length
        self._kept: list[Tensor] = []
        self._views: dict[int, list[Tensor]] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the program."""
        return self.module(*inputs, *self._memory(inputs[0].shape[0] if self._any_length else 0))

    def _memory(self, length: int) -> list[Tensor]:
        if length not in self._views:
            if not self._kept or self._kept[0].numel() < length:
                self._views = {}
                self._kept = [
                    torch.empty(length, dtype=dtype, device=self._device)
                    if self._any_length
                    else torch.empty_strided(shape, stride, dtype=dtype, device=self._device)
                    for dtype, shape, stride in self._places
                ]
            self._views[length] = [kept[:length] if self._any_length else kept for kept in self._kept]
        return self._views[length]


def fused(program: fx.GraphModule, example: Sequence[Tensor], any_length: bool = False) -> Fused:
    """``program``, which ends in copies over some of its inputs, in fewer passes.

    ``example`` are inputs of the shapes and dtypes to come; with ``any_length``, vectors of one length that may be
    another. Those that are 0-d and float64 are numbers.
    """
    program = simplified(program, example)
    graph = program.graph
    ShapeProp(program).propagate(*(t.clone() for t in example))
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    numbers = [node for node, t in zip(inputs, example, strict=True) if t.ndim == 0 and t.dtype == torch.float64]
    with graph.inserting_after(inputs[-1]):
        floats = {node: graph.call_method("item", (node,)) for node in numbers}
    _contract(graph, floats)
    graph.eliminate_dead_code()
    kept = place_results(graph, inputs[-1], example[0].numel() if any_length else WORTH_KEEPING)
    graph.lint()
    program.recompile()
    return Fused(program, kept, example[0].device, any_length)


def _contract(graph: fx.Graph, numbers: dict[fx.Node, fx.Node]) -> None:
    """x + s y and x - s y as one operator, and so with y z or y / z in the place of y, with or without a number s."""

    def scaled(node: Any) -> tuple[fx.Node, fx.Node] | None:
        """(y, s) of a product s y that nobody else needs."""
        if not (isinstance(node, fx.Node) and node.target is MUL and len(node.users) == 1):
            return None
        first, second = node.args
        if second in numbers:
            first, second = second, first
        return (second, numbers[first]) if first in numbers and second not in numbers else None  # type: ignore

    for node in list(graph.nodes):
        if node.target not in (ADD, SUB) or node.kwargs:
            continue
        orders = [(node.args[0], node.args[1])]
        if node.target is ADD:
            orders.append((node.args[1], node.args[0]))
        found = []
        for kept, other in orders:
            product = scaled(other)
            factor, number = product or (other, 1)
            pair = _pair(factor, kept) if node.target is ADD or product is None else None
            if kept not in numbers and (product or pair):
                found.append((kept, other, factor, number, pair))
        if not found:
            continue
        # A factor that is itself a product or a quotient saves one pass more.
        kept, other, factor, number, pair = max(found, key=lambda f: (f[4] is not None) + (f[3] != 1))
        with graph.inserting_before(node):
            if pair is not None:
                value = number if node.target is ADD else -1
                new = graph.call_function(pair[0], (kept, *pair[1:]), {"value": value})
            else:
                new = graph.call_function(node.target, (kept, factor), {"alpha": number})
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        graph.erase_node(other)
        if pair is not None and factor is not other:
            graph.erase_node(factor)


def _pair(node: Any, kept: Any) -> tuple[Callable[..., Any], Any, Any] | None:
    """The operator that adds a multiple of this product or quotient to ``kept``, and its two terms."""
    if not isinstance(node, fx.Node) or len(node.users) != 1 or node.kwargs:
        return None
    square = node.target is POW and node.args[1] == 2
    if not square and node.target not in (MUL, DIV):
        return None
    terms = (node.args[0], node.args[0]) if square else node.args
    layouts = [layout(term) if isinstance(term, fx.Node) else None for term in (node, kept, *terms)]
    if None in layouts or len({found[0] for found in layouts if found}) != 1:
        return None
    return torch.addcdiv if node.target is DIV else torch.addcmul, *terms  # type: ignore[return-value]
