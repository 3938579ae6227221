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

aten = torch.ops.aten
ADD, SUB, MUL, DIV, POW, COPY = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.pow.Tensor_Scalar,
    aten.copy_.default,
)
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
    aten.reciprocal.default: torch.reciprocal,
    torch.addcmul: torch.addcmul,
    torch.addcdiv: torch.addcdiv,
}


def fused(program: fx.GraphModule, example: Sequence[Tensor]) -> fx.GraphModule:
    """``program(*tensors, *numbers)``, which ends in copies over some of its tensors, in fewer passes.

    ``example`` are tensors of the shapes and dtypes to come.
    """
    graph = program.graph
    numbers = [node for node in graph.nodes if node.op == "placeholder"][len(example) :]
    ShapeProp(program).propagate(*(t.clone() for t in example), *(torch.ones((), dtype=torch.float64) for _ in numbers))
    with graph.inserting_after(numbers[-1] if numbers else None):
        floats = {node: graph.call_method("item", (node,)) for node in numbers}
    _contract(graph, floats)
    graph.eliminate_dead_code()
    _place(graph)
    graph.lint()
    program.recompile()
    return program


def _contract(graph: fx.Graph, numbers: dict[fx.Node, fx.Node]) -> None:
    """x + s y and x - s y as one operator, with y a quotient or product too."""

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
        terms = [
            (kept, other, *product) for kept, other in orders if (product := scaled(other)) and kept not in numbers
        ]
        if not terms:
            continue
        # A factor that is itself a product or a quotient saves two passes.
        pairs = [_pair(factor) if node.target is ADD else None for _, _, factor, _ in terms]
        best = next((i for i, pair in enumerate(pairs) if pair), 0)
        (kept, other, factor, number), pair = terms[best], pairs[best]
        with graph.inserting_before(node):
            if pair is not None:
                new = graph.call_function(pair[0], (kept, *pair[1:]), {"value": number})
            else:
                new = graph.call_function(node.target, (kept, factor), {"alpha": number})
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        for done in (node, other, *([factor] if pair is not None else [])):
            graph.erase_node(done)


def _pair(node: Any) -> tuple[Callable[..., Any], Any, Any] | None:
    """The operator that adds a multiple of this product or quotient, and its two terms."""
    if not isinstance(node, fx.Node) or len(node.users) != 1 or node.kwargs:
        return None
    if node.target is POW and node.args[1] == 2:
        return torch.addcmul, node.args[0], node.args[0]
    is_pair = node.target in (MUL, DIV) and all(
        isinstance(a, fx.Node) and _layout(a) == _layout(node) for a in node.args
    )
    return (torch.addcmul if node.target is MUL else torch.addcdiv, *node.args) if is_pair else None  # type: ignore[return-value]


def _place(graph: fx.Graph) -> None:
    """Give every operator that acts entry by entry a place for its result, where there is one."""
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
    last = {node: max((order[user] for user in node.users), default=-1) for node in nodes}
    place: dict[fx.Node, fx.Node] = {}  # in whose memory a node's value is
    copies = {node.args[1]: node for node in nodes if node.target is COPY}

    def is_private(node: fx.Node) -> bool:
        """Whether no view of the node's memory is about: all that use it act entry by entry."""
        return all(user in by_entry or user.target is COPY for user in node.users)

    for node in nodes:
        if node not in by_entry:
            continue
        now, copy = order[node], copies.get(node)
        place_found = None
        if copy is not None:
            target = copy.args[0]
            others = [user for user in target.users if user is not copy]
            if _layout(target) == _layout(node) and is_private(target) and all(order[o] <= now for o in others):
                place_found = target
                node.replace_all_uses_with(target, delete_user_cb=lambda user, copy=copy: user is not copy)
                graph.erase_node(copy)
                last[target] = max(last[target], last[node])
        if place_found is None:
            dead = [
                arg
                for arg in node.all_input_nodes
                if arg in by_entry and last[arg] == now and is_private(arg) and _layout(arg) == _layout(node)
            ]
            place_found = place.get(dead[0], dead[0]) if dead else None
        arguments = dict(node.kwargs)
        if place_found is not None:
            place[node] = place_found
            arguments["out"] = place_found
        node.target = BY_ENTRY[node.target]
        node.kwargs = arguments


def _layout(node: fx.Node) -> Any:
    meta = node.meta.get("tensor_meta")
    return (meta.dtype, meta.shape) if meta is not None else None
