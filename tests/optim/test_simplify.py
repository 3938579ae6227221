"""Fewer operators change no result: views dropped, products turned and joined, numbers renewed, memory kept."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from minimand.optim.programs import fuse, graphs, prelude
from minimand.optim.programs.fuse import fused
from minimand.optim.programs.graphs import trace
from minimand.optim.programs.simplify import simplified

aten = torch.ops.aten
WIDE, NARROW, BIAS = (3, 20, 18), (3, 18, 4), (3, 1, 4)


def operators(program) -> list:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def arbitrary(seed):
    """A program of random operators on batches of matrices that ends in copies over its first tensors."""
    draw = random.Random(seed)

    def program(wide, other, narrow, bias):
        wides, narrows, outs = [wide, other], [narrow], [torch.zeros(3, 20, 4, dtype=wide.dtype)]
        for _ in range(draw.randint(3, 10)):
            x, y, n, o = (draw.choice(values) for values in (wides, wides, narrows, outs))
            made = draw.choice(
                [
                    lambda x, y, n, o: outs.append(bias + torch.bmm(x, n)),
                    lambda x, y, n, o: outs.append(torch.bmm(x, n) + o),
                    lambda x, y, n, o: outs.append((o.exp() + o.exp()).relu()),
                    lambda x, y, n, o: outs.append(o.reshape(3, 80).flip(1).reshape(3, 20, 4)),
                    lambda x, y, n, o: outs.append(o.transpose(1, 2).expand(3, 4, 20).transpose(1, 2) * 0.5),
                    lambda x, y, n, o: narrows.append(torch.bmm(x.mT, o)),
                    lambda x, y, n, o: wides.append(torch.cat([x[:, :10], y[:, 10:]], 1).relu()),
                    lambda x, y, n, o: wides.append(torch.bmm(torch.bmm(x, y.mT), x).tanh()),
                    lambda x, y, n, o: wides.append(aten.threshold_backward(x, y, 0)),
                    lambda x, y, n, o: wides.append(aten.mul.Scalar(y, 1) - x.square()),
                ]
            )
            made(x, y, n, o)
        returned = (outs[-1].log_softmax(2), wides[-1].sum((1, 2)))
        values = wides[-1], aten.mul.Scalar(wide, 1), narrows[-1]
        for target, value in zip((wide, other, narrow), values, strict=True):
            target.copy_(value)
        return returned

    return program


@pytest.mark.parametrize("seed", range(40))
def test_simplified_programs_do_what_the_program_does(seed, monkeypatch):
    monkeypatch.setattr(fuse, "WORTH_KEEPING", 1)
    tensors = [0.1 * torch.randn(shape, dtype=torch.float64) for shape in (WIDE, WIDE, NARROW, BIAS)]
    graph = make_fx(arbitrary(seed))(*(t.clone() for t in tensors))
    expected, found = ([t.clone() for t in tensors] for _ in range(2))
    step = fused(copy.deepcopy(graph), tensors)
    before = None
    for _ in range(3):
        returned, outputs = graph(*expected), step(*found)
        for a, b in zip((*found, *outputs), (*expected, *returned), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        if before is not None:  # what a step returned is nobody's scratch
            assert all(torch.equal(now, then) for now, then in zip(*before, strict=True))
        before = outputs, [value.clone() for value in outputs]


def test_a_layer_is_one_product_with_its_bias_turned_where_it_is_narrow():
    def layer(x, weight, bias):
        with torch.no_grad():
            return (torch.func.vmap(nn.functional.linear)(x, weight, bias),)

    x, weight, bias = torch.randn(3, 20, 18), torch.randn(3, 4, 18), torch.randn(3, 4)
    program = simplified(make_fx(layer)(x, weight, bias), [x, weight, bias])
    found = operators(program)
    assert found.count(aten.baddbmm.default) == 1
    assert not {aten.bmm.default, aten.add.Tensor, aten.mul.Scalar, aten.expand.default} & set(found)
    product = next(node for node in program.graph.nodes if node.target is aten.baddbmm.default)
    assert product.meta["tensor_meta"].shape == (3, 4, 20)
    torch.testing.assert_close(program(x, weight, bias), layer(x, weight, bias))


def test_a_product_that_is_seen_as_a_vector_is_not_turned():
    def flat(x, y):
        return (torch.bmm(x, y).view(-1) * 2,)

    x, y = torch.randn(3, 20, 18), torch.randn(3, 18, 4)
    program = simplified(make_fx(flat)(x, y), [x, y])
    assert operators(program).count(aten.transpose.int) == 0
    torch.testing.assert_close(program(x, y), flat(x, y))


def test_what_is_random_is_drawn_every_time():
    def noisy(x):
        return (torch.rand_like(x) - torch.rand_like(x), x.exp() + x.exp())

    x = torch.ones(5)
    program = simplified(make_fx(noisy)(x), [x])
    assert operators(program).count(aten.rand_like.default) == 2
    assert operators(program).count(aten.exp.default) == 1
    assert program(x)[0].abs().min() > 0


def test_kept_memory_serves_vectors_of_every_length():
    def step(x):
        x.copy_((2 * x).exp() + x.exp().sqrt())
        return ()

    program = fused(make_fx(step)(torch.ones(4)), [torch.ones(4)], any_length=True)
    for length in (5, 9, 2, 9, 1):
        x = torch.randn(length)
        expected = (2 * x).exp() + x.exp().sqrt()
        program(x)
        torch.testing.assert_close(x, expected)
    assert {memory.data_ptr() for views in program._views.values() for memory in views} == {
        memory.data_ptr() for memory in program._kept
    }


@pytest.mark.parametrize("width", [2, 10, 15, 16, 40])
def test_a_short_softmax_is_a_softmax(width):
    torch.manual_seed(0)
    x, grad = 5 * torch.randn(6, 7, width), torch.randn(6, 7, width)
    x[0, 0], x[0, 1, 0], x[0, 2, 1] = 1e4 * x[0, 0], -torch.inf, 1e30

    def both(scalars, tensors):
        output = aten._log_softmax(tensors[0], 2, False)
        return [output, aten._log_softmax_backward_data(tensors[1], output, 2, torch.float32)]

    traced = trace(both, [], [x, grad])
    for ours, theirs in zip(traced([], [x, grad]), both([], [x, grad]), strict=True):
        torch.testing.assert_close(ours, theirs)
    is_short = graphs._is_short(x, 2)
    assert (aten._log_softmax.default in operators(traced)) != is_short
    assert is_short == (width < 8 or (width < 16 and torch.backends.cpu.get_cpu_capability() == "AVX512"))


def numbers(a, b, c):
    return [a * 2, (a + b).exp(), b.sqrt() * c, torch.ones(2) + c, a + a * b]


def inference(value):
    with torch.inference_mode():
        return torch.full((2,), value)


def test_numbers_are_renewed_where_they_follow_from_what_changed():
    changes = [
        lambda a, b, c: (a, b, c),
        *[lambda a, b, c: (a, b, c + 1)] * 3,
        *[lambda a, b, c: (a + 1, b, c + 1)] * 2,
        lambda a, b, c: (a, b.add_(1), c),
        lambda a, b, c: (a + 1, b + 1, c + 1),
        *[lambda a, b, c: (a, b, inference(7.0))] * 2,
        *[lambda a, b, c: (a, b, c + 1)] * 2,
    ]
    now = tuple(torch.rand(2) + 1 for _ in range(3))
    ready = prelude.Prelude(make_fx(numbers)(*now))
    for change in changes:
        now = change(*now)
        for ours, theirs in zip(ready.renewed(now), numbers(*now), strict=True):
            assert torch.equal(ours, theirs)
    assert ready._part is not None
    assert len(operators(ready._part.module)) < len(operators(ready.module))
