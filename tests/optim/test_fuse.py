"""Fewer passes change no result: a fused program does what the program does."""

import copy
import random

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from minimand.hyper import as_hyper
from minimand.optim import rules
from minimand.optim.programs import place
from minimand.optim.programs.fuse import fused
from minimand.optim.programs.in_place import InPlaceStep

TENSORS = 4


def arbitrary(seed: int):
    """A program of random operators that ends in copies of random values over its first three tensors."""
    draw = random.Random(seed)

    def program(*args):
        values, column, numbers = list(args[:TENSORS]), args[TENSORS], args[TENSORS + 1 :]
        for _ in range(draw.randint(3, 12)):
            x, y, s = draw.choice(values), draw.choice(values), draw.choice(numbers)
            values.append(
                draw.choice(
                    [
                        lambda x, y, s: x + s * y,
                        lambda x, y, s: s * y * x + y,
                        lambda x, y, s: x - s * y,
                        lambda x, y, s: s * y - x,
                        lambda x, y, s: x + s * y.square(),
                        lambda x, y, s: x + s * (y / (x.abs() + 1)),
                        lambda x, y, s: s * x,
                        lambda x, y, s: x.sigmoid() * y,
                        lambda x, y, s: column * y + x * column,
                        lambda x, y, s: x - y.square(),
                        lambda x, y, s: y / (x.abs() + 1) + x,
                        lambda x, y, s: (x.abs() + 1).sqrt(),
                        lambda x, y, s: x.clone(),
                        lambda x, y, s: x.reshape(3, 2).flip(0).reshape(2, 3) + y,
                        lambda x, y, s: y[:1] + y * x,
                        lambda x, y, s: (x - x.amax()) * s,
                        lambda x, y, s: x @ y.mT @ x,
                        lambda x, y, s: y / (1 + torch.linalg.vector_norm(x, dim=1, keepdim=True)),
                    ]
                )(x, y, s)
            )
        outputs = [draw.choice(values).clone() for _ in range(3)]
        for target, value in zip(args, outputs, strict=False):
            target.copy_(value)
        return ()

    return program


@pytest.mark.parametrize("seed", range(40))
def test_fused_programs_do_what_the_program_does(seed):
    tensors = [torch.randn(2, 3, dtype=torch.float64) for _ in range(TENSORS)]
    rest = [torch.randn(2, 1, dtype=torch.float64), *(torch.tensor(x, dtype=torch.float64) for x in (0.5, -1.25, 0.1))]
    graph = make_fx(arbitrary(seed))(*[t.clone() for t in tensors], *rest)
    expected, found = ([t.clone() for t in tensors] for _ in range(2))
    copy.deepcopy(graph)(*expected, *rest)
    fused(graph, [*tensors, *rest])(*found, *rest)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_adabelief_takes_eleven_passes_and_no_copies():
    rule = rules.AdaBelief()
    hyper = {name: as_hyper(value) for name, value in rule.defaults().items() if name != "weight_decay"}
    step = InPlaceStep(rule, torch.ones(8), torch.ones(8), rule.init(torch.ones(8)), hyper, compile=False)
    called = [node.target for node in step.program.module.graph.nodes if node.op == "call_function"]
    assert len(called) == 11
    assert place.COPY not in called
