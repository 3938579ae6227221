"""Where the results of a traced step go: where they will end up, over what is no longer needed, or into memory kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
Layout = tuple[torch.dtype, torch.Size, tuple[int, ...]]
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


def place_results(graph: fx.Graph, last_input: fx.Node, least: int) -> list[Layout]:
    """Give the operators of a graph, which ends in copies over some of its inputs, places for their results.

    Memory kept for results of ``least`` entries or more becomes further inputs; what is returned are its layouts.
    """
    copies = [node for node in graph.nodes if node.target is COPY]
    targets = {copy.args[0] for copy in copies}
    for copy in copies:
        source = copy.args[1]
        if source.target is aten.clone.default and len(source.users) == 1 and source.args[0] not in targets:
            copy.args = (copy.args[0], source.args[0])
            graph.erase_node(source)
    placement = _Placement(graph, last_input, least)
    for node in placement.nodes:
        if node.target in ELSEWHERE:
            memory = placement.keep(node, direct=False)
            if memory is not None:
                placement.put(node, ELSEWHERE[node.target], memory)
        elif node in placement.by_entry:
            memory = placement.target(node) or placement.dead(node) or placement.keep(node)
            placement.put(node, BY_ENTRY[node.target], memory)
    return list(placement.kept.values())


class _Placement:
    """Who holds which memory, while a graph's operators are taken in their order."""

    def __init__(self, graph: fx.Graph, last_input: fx.Node, least: int) -> None:
        self.graph, self.last_input, self.least = graph, last_input, least
        self.nodes = list(graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.by_entry = {node for node in self.nodes if node.target in BY_ENTRY}
        self.copies = {node.args[1]: node for node in self.nodes if node.target is COPY}
        self.place: dict[fx.Node, fx.Node] = {}  # in whose memory a node's value is
        self.kept: dict[fx.Node, Layout] = {}  # further inputs

    def put(self, node: fx.Node, target: Any, memory: fx.Node | None) -> None:
        """Let a node write its result to ``memory``."""
        node.target = target
        if memory is not None:
            self.place[node] = memory
            node.kwargs = {**node.kwargs, "out": memory}

    def target(self, node: fx.Node) -> fx.Node | None:
        """The input over which a node's value is copied in the end, if nobody needs what it holds."""
        copy = self.copies.get(node)
        if copy is None:
            return None
        target = copy.args[0]
        if layout(target) != layout(node) or not self.is_over(target, self.order[node]):
            return None
        node.replace_all_uses_with(target, delete_user_cb=lambda user: user is not copy)
        self.graph.erase_node(copy)
        return target

    def dead(self, node: fx.Node) -> fx.Node | None:
        """The memory of an argument that is not needed again."""
        for arg in node.all_input_nodes:
            memory = self.place.get(arg, arg)
            is_free = self.is_fresh(arg) and self.is_over(arg, self.order[node]) and layout(arg) == layout(node)
            if is_free and not (memory in self.kept and self.is_returned(node)):
                return memory
        return None

    def keep(self, node: fx.Node, direct: bool = True) -> fx.Node | None:
        """Kept memory that is free now, or more of it. ``direct``: one that the node itself reads is free."""
        own = layout(node)
        if own is None or own[1].numel() < self.least or self.is_returned(node):
            return None
        for memory in self.kept:
            held = [other for other, where in self.place.items() if where is memory]
            if self.kept[memory] == own and all(self.is_over(other, self.order[node], direct) for other in held):
                return memory
        with self.graph.inserting_after(next(reversed(self.kept), self.last_input)):
            memory = self.graph.placeholder(f"kept_{len(self.kept)}")
        self.kept[memory] = own
        return memory

    def is_fresh(self, node: fx.Node) -> bool:
        """Whether a node's value is in memory of its own, and no view of another."""
        return node in self.by_entry or node in self.place or _aliases_nothing(node.target)

    def is_over(self, node: fx.Node, now: int, direct: bool = True) -> bool:
        """Whether nobody reads the node's memory after ``now``, and nobody at ``now`` by way of a view."""
        for user in node.users:
            if user.target is COPY and user.args[0] is node:
                continue
            if self.order[user] > now or (self.order[user] == now and not direct):
                return False
            if not (self.is_fresh(user) or user.target is COPY or self.is_over(user, now, direct=False)):
                return False
        return True

    def is_returned(self, node: fx.Node) -> bool:
        """Whether somebody may hold the node's memory when the program has ended."""
        return any(user.op == "output" or (not self.is_fresh(user) and self.is_returned(user)) for user in node.users)


def _aliases_nothing(target: Any) -> bool:
    # An unsafe view is one that is declared none.
    if not isinstance(target, torch._ops.OpOverload) or target is aten._unsafe_view.default:
        return False
    returns = target._schema.returns
    return len(returns) == 1 and returns[0].alias_info is None


def layout(node: fx.Node) -> Layout | None:
    """How a node's tensor lies in memory."""
    meta = node.meta.get("tensor_meta")
    return (meta.dtype, meta.shape, meta.stride) if meta is not None else None
