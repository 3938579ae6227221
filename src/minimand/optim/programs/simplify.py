"""Fewer and faster operators for a traced step that is not compiled, before ``fuse`` finds places for their results.

``vmap`` leaves views that change nothing behind it and computes some things twice, and a product with few columns
takes three times as long as its transpose.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp

from minimand.optim.programs.place import ADD, COPY, layout

aten = torch.ops.aten
BMM, BADDBMM, TRANSPOSE = aten.bmm.default, aten.baddbmm.default, aten.transpose.int
NARROW = 16  # columns
RESHAPES = (aten.view.default, aten._unsafe_view.default, aten.expand.default)


def simplified(program: fx.GraphModule, example: Sequence[Tensor]) -> fx.GraphModule:
    """``program``, which ends in copies over some of its inputs, in fewer operators.

    ``example`` are inputs of the shapes and dtypes to come.
    """
    _propagate(program, example)
    _drop(program.graph)
    _join_biases(program.graph)
    turned = fx.GraphModule(program, copy.deepcopy(program.graph))
    _turn_narrow(turned.graph)
    try:
        _propagate(turned, example)
    except RuntimeError:  # a view that does not fit how the transpose lies in memory
        return program
    _drop(turned.graph)
    return turned


def _propagate(program: fx.GraphModule, example: Sequence[Tensor]) -> None:
    ShapeProp(program).propagate(*(t.clone() for t in example))


def _drop(graph: fx.Graph) -> None:
    """Operators that change nothing, and those that do again what an earlier one did."""
    done: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
            continue
        if node.target is aten.relu.default:  # which cannot be told where to write
            node.target, node.args = aten.clamp_min.default, (node.args[0], 0)
        same = _unchanged(node)
        if same is None and torch.Tag.nondeterministic_seeded not in node.target.tags:
            same = done.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
        if same is not None and same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)


def _unchanged(node: fx.Node) -> fx.Node | None:
    """The argument that a node hands on as it is."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if node.target in RESHAPES and _shape(source) == _shape(node):
        return source
    if node.target is TRANSPOSE and source.target is TRANSPOSE and source.args[1:] == node.args[1:]:
        return cast(fx.Node, source.args[0])
    # What is written at the program's end needs a value of its own.
    is_read = all(user.op != "output" and user.target is not COPY for user in node.users)
    return source if node.target is aten.mul.Scalar and node.args[1] == 1 and is_read else None


def _join_biases(graph: fx.Graph) -> None:
    """A batch of products and what is added to each as one operator."""
    for node in list(graph.nodes):
        if node.target is not ADD or node.kwargs:
            continue
        for product, bias in (node.args, node.args[::-1]):
            is_product = isinstance(product, fx.Node) and product.target is BMM and len(product.users) == 1
            if is_product and _kind(bias) == _kind(product) and _shape(product) == _shape(node):
                with graph.inserting_before(node):
                    joined = graph.call_function(BADDBMM, (bias, *product.args))
                joined.meta = dict(node.meta)
                node.replace_all_uses_with(joined)
                graph.erase_node(node)
                graph.erase_node(product)
                break


def _turn_narrow(graph: fx.Graph) -> None:
    """Products with few columns as the transposes of products with few rows."""
    for node in list(graph.nodes):
        if node.target not in (BMM, BADDBMM):
            continue
        _, rows, columns = cast(torch.Size, _shape(node))
        if columns >= NARROW or rows < NARROW:
            continue
        *bias, first, second = node.args
        with graph.inserting_before(node):
            terms = [graph.call_function(TRANSPOSE, (term, 1, 2)) for term in (*bias, second, first)]
            product = graph.call_function(cast(Any, node.target), tuple(terms))
            turned = graph.call_function(TRANSPOSE, (product, 1, 2))
        node.replace_all_uses_with(turned)
        graph.erase_node(node)


def _shape(node: Any) -> torch.Size | None:
    found = layout(node) if isinstance(node, fx.Node) else None
    return found[1] if found else None


def _kind(node: Any) -> tuple[torch.dtype, int] | None:
    """Dtype and number of dimensions of a node's tensor."""
    found = layout(node) if isinstance(node, fx.Node) else None
    return (found[0], len(found[1])) if found else None
