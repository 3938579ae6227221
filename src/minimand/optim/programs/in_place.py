"""A rule's step written over its parameters and states, as one program shared by all parameters that it fits."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minimand._numerics import upcast
from minimand.optim.programs.compiled import compiled, compiled_for_vectors
from minimand.optim.programs.fuse import fused
from minimand.optim.programs.hoist import Hoisted
from minimand.optim.rule import Hyper, Rule, State

SMALL = 1 << 16  # entries: below, a call costs more than its work, so such tensors are stepped as one
BLOCK = 1 << 18  # entries: a block's dozen passes, uncompiled, stay in the processor's cache


class InPlaceStep:
    """One step of a rule over (parameter, states, gradient), traced once.

    Element rules are traced for vectors of any size, others for tensors of the example's shape.
    """

    def __init__(self, rule: Rule, param: Tensor, grad: Tensor, state: State, hyper: Hyper, compile: bool) -> None:
        self.rule = rule
        self.hyper_names = list(hyper)
        self.state_names = [name for name in state if name != "step"]
        self.counts = "step" in state
        by_element = rule.event == "element"
        example = [param, *(state[name] for name in self.state_names), grad]
        if by_element:
            example = [torch.zeros(4, dtype=t.dtype, device=t.device) for t in example]
        self.hoisted = Hoisted(self._program, self._scalars(hyper, state), example)
        numbers = self.hoisted.numbers(self._scalars(hyper, state))[1]
        self.is_plain = len(numbers) > 0 and all(n.ndim == 0 and n.dtype == torch.float64 for n in numbers)
        self.packs = compile and self.is_plain and param.device.type == "cpu"
        self.dtype = upcast(param).dtype if self.packs else torch.float64
        graph = self.hoisted.in_place(len(example) - 1, packed=self.packs)
        self.program: Callable[..., Any]
        if not compile:
            self.program = fused(graph, [*example, *numbers], any_length=by_element)
        elif by_element:
            # Vectors that are worth a second thread: the compiler writes its loops for the length that it is shown.
            vectors = [torch.zeros(SMALL + 1, dtype=t.dtype, device=t.device) for t in example]
            self.program = compiled_for_vectors(graph.forward, vectors, *self._passed(numbers))
        else:
            self.program = compiled(graph.forward, dynamic=False)

    def numbers(self, hyper: Hyper, state: State) -> tuple[State, list[Tensor]]:
        """What is the same for every tensor: the next step counter, and the numbers that the program takes."""
        scalars = self._scalars(hyper, state)
        floats = self.hoisted.floats(scalars) if self.is_plain else None
        if floats is None:
            outputs, numbers = self.hoisted.numbers(scalars)
            return ({"step": outputs[0]} if self.counts else {}), self._passed(numbers)
        outputs, values = floats
        vector = torch.tensor(values, dtype=self.dtype)
        counter = {"step": torch.tensor(outputs[0], dtype=state["step"].dtype)} if self.counts else {}
        return counter, [vector] if self.packs else list(vector.unbind())

    def run(self, calls: Sequence[Sequence[Tensor]], numbers: Sequence[Tensor]) -> None:
        """Step each of ``calls``, (parameter, *states, gradient), in place."""
        for call in calls:
            self.program(*call, *numbers)

    def _passed(self, numbers: Sequence[Tensor]) -> list[Tensor]:
        """As the program takes them. Packed: one argument to check in the place of nine, and nothing to convert."""
        return [torch.stack(list(numbers)).to(self.dtype)] if self.packs else list(numbers)

    def _program(self, scalars: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
        hyper = dict(zip(self.hyper_names, scalars, strict=False))
        param, *states, grad = tensors
        state = dict(zip(self.state_names, states, strict=True))
        if self.counts:
            state["step"] = scalars[-1]
        step, state = self.rule.update(grad, state, param, hyper)
        # The parameter's sum is formed here, so that the compiler sees one loop over entries.
        outputs = [param + step, *(state[name] for name in self.state_names)]
        return [*outputs, state["step"]] if self.counts else outputs

    def _scalars(self, hyper: Hyper, state: State) -> list[Tensor]:
        numbers = [hyper[name] for name in self.hyper_names]
        return [*numbers, state["step"]] if self.counts else numbers


class Vectors:
    """Parameters of an element rule and their states as vectors, laid out once and stepped in place ever after.

    A tensor is seen as the vector of its entries as they lie in memory. Small ones are stepped as one: their states
    become parts of one buffer, and parameters and gradients are copied to and fro.
    """

    def __init__(self, values: Sequence[Tensor], states: Sequence[State], blocks: bool) -> None:
        self.names = [name for name in states[0] if name != "step"]
        self.values, self.states, self.block = values, states, BLOCK if blocks else None
        vectors = [_vector(value, value) for value in values]
        self.is_plain = [value.is_contiguous() for value in values]
        self.counter: Tensor | None = None  # one for all: they go in step
        if "step" in states[0]:
            self.counter = counter = states[0]["step"].clone()
            for state in states:
                state["step"] = counter
        self.small = [i for i, vector in enumerate(vectors) if vector.numel() < SMALL]
        self.small_vectors = [vectors[i] for i in self.small]
        self.sizes = [vector.numel() for vector in self.small_vectors]
        self.joint = [self._joined(name) for name in self.names if self.small]
        self.large = []
        for i, vector in enumerate(vectors):
            if vector.numel() >= SMALL:
                columns = [vector, *(self._vector_of_state(i, name) for name in self.names)]
                self.large.append((i, self._blocks(columns)))
        self._laid_out = [tensor for state in states for tensor in state.values()]

    def stand(self, states: Sequence[State | None]) -> bool:
        """Whether these are the states, tensor by tensor, that were laid out here."""
        if not all(map(operator.is_, states, self.states)):
            return False
        tensors = list(itertools.chain.from_iterable(map(dict.values, self.states)))
        return len(tensors) == len(self._laid_out) and all(map(operator.is_, tensors, self._laid_out))

    def step(self, program: InPlaceStep, grads: Sequence[Tensor], hyper: Hyper) -> None:
        """Step every parameter, and the counter that they share."""
        counter, numbers = program.numbers(hyper, self.states[0])
        if self.small:
            param = torch.cat(self.small_vectors)
            grad = torch.cat([self._vector_of_grad(i, grads[i]) for i in self.small])
            program.run(self._blocks([param, *self.joint, grad]), numbers)
            torch.split_with_sizes_copy(param, self.sizes, out=self.small_vectors)
        for i, blocks in self.large:
            vectors = self._blocks([self._vector_of_grad(i, grads[i])])
            program.run([(*block, grad) for block, (grad,) in zip(blocks, vectors, strict=True)], numbers)
        if self.counter is not None:
            self.counter.copy_(counter["step"])

    def _joined(self, name: str) -> Tensor:
        """A state of all small tensors as one buffer, of which each now holds a part."""
        whole = torch.cat([_vector(self.states[i][name], self.values[i]) for i in self.small])
        for i, part in zip(self.small, whole.split(self.sizes), strict=True):
            value = self.values[i]
            self.states[i][name] = part.as_strided(value.shape, value.stride())
        return whole

    def _vector_of_state(self, i: int, name: str) -> Tensor:
        state, value = self.states[i], self.values[i]
        if state[name].stride() != value.stride():  # as loaded, perhaps
            state[name] = torch.empty_like(value, dtype=state[name].dtype).copy_(state[name])
        return _vector(state[name], value)

    def _vector_of_grad(self, i: int, grad: Tensor) -> Tensor:
        return grad.flatten() if self.is_plain[i] else _vector(grad, self.values[i])

    def _blocks(self, vectors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        if self.block is None:
            return [tuple(vectors)]
        return list(zip(*(vector.split(self.block) for vector in vectors), strict=True))


def fits_vectors(param: Tensor, state: Mapping[str, Tensor]) -> bool:
    """Whether a parameter is a plain tensor that fills a stretch of memory, with states of its own shape."""
    if type(param) not in (Tensor, torch.nn.Parameter) or param.layout is not torch.strided:
        return False
    order = sorted(range(param.ndim), key=param.stride, reverse=True)
    of_its_shape = all(value.shape == param.shape for name, value in state.items() if name != "step")
    return param.permute(order).is_contiguous() and of_its_shape


def _vector(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor's entries in the order in which those of ``like``, of the same shape, lie in memory."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))
