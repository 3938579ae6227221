"""Fewer passes over memory for a traced step that is not compiled.

Every operator of a formula reads and writes whole tensors. Three of them that PyTorch has as one, such as
beta * m + (1 - beta) * g, become one; and results go where they will end up, or over what is no longer needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp

from minimand.optim.simplify import simplified

aten = torch.ops.aten
_Layout = tuple[torch.dtype, torch.Size, tuple[int, ...]]
ADD, SUB, MUL, DIV, POW, COPY = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.pow.Tensor_Scalar,
    aten.copy_.default,
)


def _threshold_backward(grad: Tensor, x: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
    if out is None:
        return aten.threshold_backward.default(grad, x, threshold)
    return aten.threshold_backward.grad_input(grad, x, threshold, grad_input=out)


# Operators that make entry i from the entries i of their arguments, and may write it over one of them.
BY_ENTRY: dict[Any, Callable[..., Any]] = {
    ADD: torch.add,
    SUB: torch.sub,
    MUL: torch.mul,
    DIV: torch.div,
    POW: torch.pow,
    aten.sqrt.default: torch.sqrt,
    aten.neg.default: torch.neg,
    aten.abs.default: torch.abs,
    aten.sign.default: torch.sign,
    aten.sigmoid.default: torch.sigmoid,
    aten.exp.default: torch.exp,
    aten.maximum.default: torch.maximum,
    aten.minimum.default: torch.minimum,
    aten.clamp.default: torch.clamp,
    aten.clamp_min.default: torch.clamp_min,
    aten.tanh.default: torch.tanh,
    aten.reciprocal.default: torch.reciprocal,
    aten.log.default: torch.log,
    aten.threshold_backward.default: _threshold_backward,
    torch.addcmul: torch.addcmul,
    torch.addcdiv: torch.addcdiv,
}


# Operators that make more of it, and can be told where.
ELSEWHERE: dict[Any, Any] = {
    aten.bmm.default: aten.bmm.out,
    aten.baddbmm.default: aten.baddbmm.out,
    aten.cat.default: aten.cat.out,
}
WORTH_KEEPING = 1 << 12  # entries: what is smaller is had in no time


class Fused:
    """A program, and memory of its own for what it computes on its way.

    Memory that every step takes and gives back is often returned to the system in between, which clears it page by
    page: a fifth of the time of an uncompiled step.
    """

    def __init__(self, module: fx.GraphModule, places: Sequence[_Layout], device: torch.device, any_length: bool):
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
    places = _place(graph, inputs[-1], example[0].numel() if any_length else WORTH_KEEPING)
    graph.lint()
    program.recompile()
    return Fused(program, places, example[0].device, any_length)


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
    layouts = [_layout(term) if isinstance(term, fx.Node) else None for term in (node, kept, *terms)]
    if None in layouts or len({layout[0] for layout in layouts if layout}) != 1:
        return None
    return torch.addcdiv if node.target is DIV else torch.addcmul, *terms  # type: ignore[return-value]


def _place(graph: fx.Graph, last_input: fx.Node, least: int) -> list[_Layout]:
    """Give operators a place for their results: a target, over what is no longer needed, or memory kept for that.

    Kept memory, for results of ``least`` entries or more, becomes further inputs; what is returned are its layouts.
    """
    last_copies = [node for node in graph.nodes if node.target is COPY]
    targets = {copy.args[0] for copy in last_copies}
    for copy in last_copies:
        source = copy.args[1]
        if source.target is aten.clone.default and len(source.users) == 1 and source.args[0] not in targets:
            copy.args = (copy.args[0], source.args[0])
            graph.erase_node(source)
    nodes = list(graph.nodes)
    by_entry = {node for node in nodes if node.target in BY_ENTRY}
    order = {node: i for i, node in enumerate(nodes)}
    copies = {node.args[1]: node for node in nodes if node.target is COPY}
    place: dict[fx.Node, fx.Node] = {}  # in whose memory a node's value is
    kept: dict[fx.Node, _Layout] = {}  # further inputs

    def is_fresh(node: fx.Node) -> bool:
        """Whether a node's value is in memory of its own, and no view of another."""
        return node in by_entry or node in place or _aliases_nothing(node.target)

    def is_over(node: fx.Node, now: int, direct: bool = True) -> bool:
        """Whether nobody reads the node's memory after ``now``, and nobody at ``now`` by way of a view."""
        for user in node.users:
            if user.target is COPY and user.args[0] is node:
                continue
            if order[user] > now or (order[user] == now and not direct):
                return False
            if not (is_fresh(user) or user.target is COPY or is_over(user, now, direct=False)):
                return False
        return True

    def is_returned(node: fx.Node) -> bool:
        """Whether somebody may hold the node's memory when the program has ended."""
        return any(user.op == "output" or (not is_fresh(user) and is_returned(user)) for user in node.users)

    def keep(node: fx.Node, direct: bool) -> fx.Node | None:
        """Kept memory that is free now, or more of it."""
        layout, now = _layout(node), order[node]
        if layout is None or layout[1].numel() < least or is_returned(node):
            return None
        for memory in kept:
            held = [other for other, where in place.items() if where is memory]
            if kept[memory] == layout and all(is_over(other, now, direct) for other in held):
                return memory
        with graph.inserting_after(next(reversed(kept), last_input)):
            memory = graph.placeholder(f"kept_{len(kept)}")
        kept[memory] = layout
        return memory

    for node in nodes:
        if node.target in ELSEWHERE:
            memory = keep(node, direct=False)
            if memory is not None:
                place[node] = memory
                node.target = ELSEWHERE[node.target]
                node.kwargs = {**node.kwargs, "out": memory}
        if node not in by_entry:
            continue
        now, copy = order[node], copies.get(node)
        place_found = None
        if copy is not None:
            target = copy.args[0]
            if _layout(target) == _layout(node) and is_over(target, now):
                place_found = target
                node.replace_all_uses_with(target, delete_user_cb=lambda user, copy=copy: user is not copy)
                graph.erase_node(copy)
        if place_found is None:
            dead = [
                place.get(arg, arg)
                for arg in node.all_input_nodes
                if is_fresh(arg) and is_over(arg, now) and _layout(arg) == _layout(node)
            ]
            free = [where for where in dead if where not in kept or not is_returned(node)]
            place_found = free[0] if free else keep(node, direct=True)
        arguments = dict(node.kwargs)
        if place_found is not None:
            place[node] = place_found
            arguments["out"] = place_found
        node.target = BY_ENTRY[node.target]
        node.kwargs = arguments
    return list(kept.values())


def _aliases_nothing(target: Any) -> bool:
    if (
        not isinstance(target, torch._ops.OpOverload) or target is aten._unsafe_view.default
    ):  # a view that is declared none
        return False
    returns = target._schema.returns
    return len(returns) == 1 and returns[0].alias_info is None


def _layout(node: fx.Node) -> _Layout | None:
    meta = node.meta.get("tensor_meta")
    return (meta.dtype, meta.shape, meta.stride) if meta is not None else None
