"""Compile a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten


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
