"""Trace a tensor program as a graph of torch's operators, and take parts of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten
Program = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]


def trace(program: Program, scalars: Sequence[Tensor], tensors: Sequence[Tensor]) -> fx.GraphModule:
    """The ATen graph of ``program(scalars, tensors)``, for inputs of these shapes.

    Inputs that happen to be one tensor, such as a learning rate and a decay that are both 0.01, stay two inputs.
    """
    with torch.no_grad():
        traced = make_fx(lambda s, t: program(s, t), _SHORT)
        return traced([s.detach() for s in scalars], [t.detach() for t in tensors])


def _is_short(x: Tensor, dim: int) -> bool:
    """Whether torch would take exponentials along ``dim`` one at a time: there are too few for a vector."""
    lanes = {"AVX512": 16}.get(torch.backends.cpu.get_cpu_capability(), 8)
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[dim] < lanes


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    if half_to_float or not _is_short(x, dim):
        return NotImplemented
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _log_softmax_backward(grad: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    if input_dtype != output.dtype or not _is_short(output, dim):
        return NotImplemented
    return grad - output.exp() * grad.sum(dim, keepdim=True)


_SHORT = {
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
}


def subgraph(
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
