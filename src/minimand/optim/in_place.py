"""One compiled step of a rule, shared by all parameters that it fits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minimand.optim.hoist import Hoisted, compiled
from minimand.optim.rule import Hyper, Rule, State

SMALL = 1 << 16  # entries: below, a compiled call costs more than its work, so such tensors are stepped as one


class CompiledStep:
    """One compiled step of a rule, in place on parameters and states.

    Element rules are compiled once for tensors of any size; small ones are stepped together in one buffer.
    """

    def __init__(self, rule: Rule, param: Tensor, grad: Tensor, state: State, hyper: Hyper) -> None:
        self.rule = rule
        self.hyper_names = list(hyper)
        self.state_names = [name for name in state if name != "step"]
        self.counts = "step" in state
        by_element = rule.event == "element"
        example = [torch.zeros(4, dtype=t.dtype, device=t.device) if by_element else t for t in (param, grad)]
        states = [torch.zeros(4, dtype=s.dtype, device=s.device) if by_element else s for s in self._tensors(state)]
        self.hoisted = Hoisted(self._program, self._scalars(hyper, state), [example[0], *states, example[1]])
        self.body = compiled(self.hoisted.in_place(1 + len(states)), dynamic=by_element)

    def run(self, packed: Sequence[tuple[Tensor, Tensor]], states: Sequence[State], hyper: Hyper) -> State:
        """Step every parameter in place; returns the step counter that they now share."""
        scalar_outputs, numbers = self.hoisted.numbers(self._scalars(hyper, states[0]))
        calls = [[param, *self._tensors(state), grad] for (param, grad), state in zip(packed, states, strict=True)]
        if self.rule.event != "element":
            for tensors in calls:
                self.body(*tensors, *numbers)
        else:
            small = [tensors for tensors in calls if 0 < tensors[0].numel() < SMALL]
            for tensors in calls:
                if tensors[0].numel() >= SMALL:
                    self._run_large(tensors, numbers)
            if small:
                columns = list(zip(*small, strict=True))
                joint = [torch.cat([t.reshape(-1) for t in column]) for column in columns]
                self.body(*joint, *numbers)
                for column, whole in zip(columns[:-1], joint[:-1], strict=True):  # gradients, last, are only read
                    parts = whole.split([t.numel() for t in column])
                    torch._foreach_copy_(list(column), [p.view(t.shape) for p, t in zip(parts, column, strict=True)])
        return {"step": scalar_outputs[0]} if self.counts else {}

    def _run_large(self, tensors: list[Tensor], numbers: list[Tensor]) -> None:
        """One tensor of many entries, seen as a vector in the order in which its entries lie in memory."""
        order = sorted(range(tensors[0].ndim), key=tensors[0].stride, reverse=True)
        ordered = [t.permute(order) for t in tensors]
        flat = [t.reshape(-1) for t in ordered]
        self.body(*flat, *numbers)
        for target, vector in zip(ordered[:-1], flat[:-1], strict=True):  # the gradient, last, is only read
            if target.data_ptr() != vector.data_ptr():  # no dense layout: the vector is a copy
                target.copy_(vector.view(target.shape))

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

    def _tensors(self, state: State) -> list[Tensor]:
        return [state[name] for name in self.state_names]
