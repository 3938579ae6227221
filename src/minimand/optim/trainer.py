"""Train many copies of a model at once, each with its own weights, data order and hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minimand._checks import check_count
from minimand.hyper import as_hyper
from minimand.optim.programs.compiled import compiled
from minimand.optim.programs.fuse import fused
from minimand.optim.programs.hoist import Hoisted
from minimand.optim.rule import FALLBACK, Rule, State, events

Params = dict[str, Tensor]
LossFn = Callable[[Params, tuple[Tensor, ...], dict[str, Tensor]], Tensor]
Schedule = Callable[[Any, int], Any]

TRACED_FROM = 24  # steps of the whole run: tracing takes as long as about so many steps without it


@dataclass(frozen=True)
class TrainerState:
    """What ``run`` carries on: the rule's states (B, ...) by event, the hypers (B,), and the steps taken."""

    rule: dict[str, State]
    hypers: dict[str, Tensor]
    step: int = 0


class BatchedTrainer:
    """B training runs as one: ``vmap`` over trials of loss, gradient and update rule.

    The step of all trials is traced once into a flat tensor program and replayed, so that a step costs the same
    number of calls for one trial as for a hundred; runs of a few steps do without the trace. Each trial has its own
    data order; one that diverges to NaN leaves the others bitwise unchanged.

    Args:
        loss_fn: ``(params, batch, hyper) -> loss`` of one trial. It may branch on shapes, never on values.
        rule: the update rule, for all trials.
        schedule: ``(step, total) -> multiplier`` of the learning rate.
        clip_norm: largest norm of a trial's whole gradient.
        chunk_size: how many trials to hold in one program at most; None takes all. Memory grows with the chunk.
        compile: compile the program. Takes seconds to a minute, then a step is several times as fast.
        total_steps: the length of the whole run for ``schedule``; the first ``run``'s unless given.

    >>> from minimand.optim import BatchedTrainer, rules
    >>> trainer = BatchedTrainer(lambda p, batch, hyper: (p["w"] - batch[0]).square().mean(), rules.SGD())
    >>> params = {"w": torch.zeros(3, 1)}
    >>> state = trainer.init(params, {"lr": torch.tensor([0.0, 0.25, 0.5])})
    >>> index = torch.zeros(3, 1, 1, dtype=torch.int64)
    >>> params, state, losses = trainer.run(params, state, (torch.ones(1, 1),), index)
    >>> params["w"].flatten().tolist()
    [0.0, 0.5, 1.0]
    """

    def __init__(
        self,
        loss_fn: LossFn,
        rule: Rule,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
        chunk_size: int | None = None,
        compile: bool = False,
        total_steps: int | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be > 0 or None; got {clip_norm}")
        if chunk_size is not None:
            check_count("chunk_size", chunk_size)
        self.loss_fn, self.rule, self.schedule = loss_fn, rule, schedule
        self.clip_norm, self.chunk_size, self.compile, self.total_steps = clip_norm, chunk_size, compile, total_steps
        self._programs: dict[Any, _Program] = {}

    def init(self, params: Params, hypers: Mapping[str, float | Tensor]) -> TrainerState:
        """The state before the first step, for ``params`` {name: (B, ...)} and hypers, each a number or (B,).

        Hypers that the rule does not declare are handed to ``loss_fn``; those that it declares and that are
        missing take their defaults.
        """
        trials = _count(params)
        statics = [name for name in hypers if name not in self.rule.hypers and hasattr(self.rule, name)]
        if statics:
            self.rule.check({statics[0]: hypers[statics[0]]})
        values = {}
        for name, value in {**self.rule.defaults(), **hypers}.items():
            if name in self.rule.hypers:
                self.rule.hypers[name].check(name, value)
            value = as_hyper(value)
            if value.shape not in ((), (trials,)):
                raise ValueError(f"{name} must be a number or have shape ({trials},); got {tuple(value.shape)}")
            values[name] = value.expand(trials).clone()
        first = {name: param[0] for name, param in params.items()}
        states = {}
        for event in events(self.rule, first, joint=True):
            state = event.rule.init(event.pack(first))
            states[event.names[0]] = {k: v.expand(trials, *v.shape).clone() for k, v in state.items()}
        return TrainerState(states, values)

    def run(
        self,
        params: Params,
        state: TrainerState,
        data: Sequence[Tensor],
        index: Tensor,
        steps: int | None = None,
    ) -> tuple[Params, TrainerState, Tensor]:
        """Train on ``data``, tensors (N, ...) that all trials share, over the rows ``index`` (B, steps, batch).

        Returns parameters, state and each step's loss (B, steps). Calling it again continues where it stopped.
        """
        trials = _count(params)
        if index.ndim != 3 or index.shape[0] != trials:
            raise ValueError(f"index must have shape ({trials}, steps, batch); got {tuple(index.shape)}")
        steps = index.shape[1] if steps is None else steps
        if not 0 <= steps <= index.shape[1]:
            raise ValueError(f"steps must lie in [0, {index.shape[1]}]; got {steps}")
        if self.total_steps is None:
            self.total_steps = state.step + steps
        layout = _Layout(self.rule, params)
        packed, states = layout.pack(params), layout.flatten(state.rule)
        size = min(self.chunk_size or trials, trials)
        size = -(-trials // -(-trials // size))  # even chunks, so that one traced program serves them all
        parts = []
        for start in range(0, trials, size):
            rows = torch.arange(start, start + size).clamp(max=trials - 1)
            chunk = (_rows(packed, rows), _rows(states, rows), _rows(state.hypers, rows))
            outcome = self._run_chunk(layout, *chunk, state.step, tuple(data), index[rows.to(index.device)], steps)
            keep = min(size, trials - start)
            parts.append([{k: v[:keep] for k, v in flat.items()} for flat in outcome])
        packed, states, losses = ({k: torch.cat([p[i][k] for p in parts]) for k in parts[0][i]} for i in range(3))
        new_state = TrainerState(layout.nest(states), state.hypers, state.step + steps)
        return layout.unpack(packed), new_state, losses["loss"]

    @torch.no_grad()
    def _run_chunk(
        self,
        layout: _Layout,
        packed: Params,
        states: State,
        hypers: dict[str, Tensor],
        start: int,
        data: tuple[Tensor, ...],
        index: Tensor,
        steps: int,
    ) -> list[dict[str, Tensor]]:
        losses = []
        programs: dict[bool, Callable[..., Any]] = {}
        order = index.transpose(0, 1).flatten(1)
        drawn = [d.new_empty(index.shape[0] * index.shape[2], *d.shape[1:]) for d in data]
        batch = tuple(d.view(index.shape[0], index.shape[2], *d.shape[1:]) for d in drawn)
        traced = self.compile or max(start + steps, self.total_steps or 0) >= TRACED_FROM
        for t in range(steps):
            scale = 1.0 if self.schedule is None else self.schedule(start + t, self.total_steps or 1)
            numbers = {k: v * scale if k in ("lr", FALLBACK + "lr") else v for k, v in hypers.items()}
            for whole, part in zip(data, drawn, strict=True):
                torch.index_select(whole, 0, order[t], out=part)
            refresh = self.rule.refresh_every is not None and (start + t) % self.rule.refresh_every == 0
            if refresh not in programs:
                step = self._step(layout, refresh)
                programs[refresh] = self._program(step, refresh, packed, states, numbers, batch) if traced else step
            packed, states, loss = programs[refresh](packed, states, numbers, batch)
            losses.append(loss.clone())  # it may be a view of the batch
        loss = torch.stack(losses, 1) if losses else torch.zeros(index.shape[0], 0, device=index.device)
        return [packed, states, {"loss": loss}]

    def _program(
        self,
        step: Callable[..., Any],
        refresh: bool,
        packed: Params,
        states: State,
        hypers: State,
        batch: tuple[Tensor, ...],
    ) -> _Program:
        """The step, traced for tensors of these shapes; one of its own to refresh a basis."""
        named = dict(sorted({**packed, **states, **hypers}.items()))
        key = (refresh, *((k, v.shape, v.dtype) for k, v in named.items()), *((b.shape, b.dtype) for b in batch))
        if key not in self._programs:
            self._programs[key] = _Program(step, packed, states, hypers, batch, self.compile)
        return self._programs[key]

    def _step(self, layout: _Layout, refresh: bool) -> Callable[..., Any]:
        """One step of all trials: (packed parameters, states, hypers, batch) -> (packed, states, loss)."""

        def one(packed: Params, states: State, hypers: dict[str, Tensor], batch: tuple[Tensor, ...]) -> Any:
            extra = {name: value for name, value in hypers.items() if name not in self.rule.hypers}
            params = layout.unpack_one(packed)
            grads, loss = torch.func.grad_and_value(self.loss_fn)(params, batch, extra)
            if self.clip_norm is not None:
                norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
                grads = {name: g * (self.clip_norm / norm).clamp(max=1.0) for name, g in grads.items()}
            new_packed, new_states = {}, {}
            for event in layout.events:
                lead = event.names[0]
                state = {name[len(lead) + 1 :]: v for name, v in states.items() if name.startswith(f"{lead}|")}
                param, grad, hyper = packed[lead], event.pack(grads), event.hyper(hypers)
                if refresh:
                    state = event.rule.refresh(grad, state, param, hyper)
                step, state = event.rule.update(grad, state, param, hyper)
                new_packed[lead] = param + step
                new_states.update({f"{lead}|{name}": value for name, value in state.items()})
            return new_packed, new_states, loss.detach()

        return torch.func.vmap(one, randomness="different")


class _Layout:
    """How parameters are held while they train: one tensor an event, under its first parameter's name.

    An element rule's parameters lie end to end in one tensor (B, P), so that its formula runs once a step.
    """

    def __init__(self, rule: Rule, params: Params) -> None:
        first = {name: param[0] for name, param in params.items()}
        self.names = list(params)
        self.shapes = {name: param.shape for name, param in first.items()}
        self.events = events(rule, first, joint=True)

    def pack(self, params: Params) -> Params:
        return {event.names[0]: torch.func.vmap(event.pack)(params) for event in self.events}

    def unpack_one(self, packed: Params) -> Params:
        found = {k: v for e in self.events for k, v in e.unpack(packed[e.names[0]], self.shapes).items()}
        return {name: found[name] for name in self.names}

    def unpack(self, packed: Params) -> Params:
        return {name: param.contiguous() for name, param in torch.func.vmap(self.unpack_one)(packed).items()}

    @staticmethod
    def flatten(states: Mapping[str, State]) -> State:
        return {f"{lead}|{name}": value for lead, state in states.items() for name, value in state.items()}

    @staticmethod
    def nest(states: State) -> dict[str, State]:
        nested: dict[str, State] = {}
        for key, value in states.items():
            lead, name = key.rsplit("|", 1)
            nested.setdefault(lead, {})[name] = value
        return nested


class _Program:
    """One step of all trials as a flat tensor program, its scalar part split off."""

    def __init__(
        self,
        step: Callable[..., Any],
        params: Params,
        states: State,
        hypers: dict[str, Tensor],
        batch: tuple[Tensor, ...],
        compile: bool,
    ) -> None:
        self.param_names, self.hyper_names = list(params), list(hypers)
        # A trial's counters and norms are as scalar as its hypers: (B,), while everything large is (B, ...).
        self.scalar_states = [name for name, value in states.items() if value.ndim == 1 and name.endswith("|step")]
        self.tensor_states = [name for name in states if name not in self.scalar_states]
        num_params = len(self.param_names)

        def program(scalars: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
            split = len(self.hyper_names)
            hyper = dict(zip(self.hyper_names, scalars[:split], strict=True))
            state = dict(zip(self.scalar_states, scalars[split:], strict=True))
            params = dict(zip(self.param_names, tensors[:num_params], strict=True))
            state.update(
                zip(self.tensor_states, tensors[num_params : num_params + len(self.tensor_states)], strict=True)
            )
            batch = tuple(tensors[num_params + len(self.tensor_states) :])
            params, state, loss = step(params, state, hyper, batch)
            large = [*(params[k] for k in self.param_names), *(state[k] for k in self.tensor_states), loss]
            return [*large, *(state[k] for k in self.scalar_states)]

        scalars, tensors = self._scalars(states, hypers), self._tensors(params, states, batch)
        self.hoisted = Hoisted(program, scalars, tensors)
        graph = self.hoisted.in_place(num_params + len(self.tensor_states))
        self.body: Callable[..., Any]
        if compile:
            self.body = compiled(graph.forward)
        else:
            self.body = fused(graph, [*tensors, *self.hoisted.numbers(scalars)[1]])

    def __call__(
        self, params: Params, states: State, hypers: dict[str, Tensor], batch: tuple[Tensor, ...]
    ) -> tuple[Params, State, Tensor]:
        """The step, taken in place: what comes back are the tensors given, counters and the loss apart."""
        scalar_outputs, numbers = self.hoisted.numbers(self._scalars(states, hypers), renew=True)
        (loss,) = self.body(*self._tensors(params, states, batch), *numbers)
        return params, {**states, **dict(zip(self.scalar_states, scalar_outputs, strict=True))}, loss

    def _scalars(self, states: State, hypers: dict[str, Tensor]) -> list[Tensor]:
        return [*(hypers[k] for k in self.hyper_names), *(states[k] for k in self.scalar_states)]

    def _tensors(self, params: Params, states: State, batch: tuple[Tensor, ...]) -> list[Tensor]:
        return [*(params[k] for k in self.param_names), *(states[k] for k in self.tensor_states), *batch]


def stack_modules(modules: Sequence[nn.Module]) -> tuple[Params, Callable[..., Any]]:
    """The parameters of like modules stacked as {name: (B, ...)}, and ``call(params, *inputs)`` of one of them.

    Raises ValueError for modules with buffers that training updates, such as batch normalisation's running
    statistics: ``vmap`` cannot write to them.

    >>> params, call = stack_modules([nn.Linear(2, 1) for _ in range(3)])
    >>> params["weight"].shape, call({k: v[0] for k, v in params.items()}, torch.ones(5, 2)).shape
    (torch.Size([3, 1, 2]), torch.Size([5, 1]))
    """
    if not modules:
        raise ValueError("modules must hold at least one module; got none")
    for name, module in modules[0].named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            kind = type(module).__name__
            raise ValueError(f"modules must not keep running statistics; got {kind} at {name or 'the top'!r}")
    shapes = [{name: p.shape for name, p in module.named_parameters()} for module in modules]
    if any(other != shapes[0] for other in shapes[1:]):
        raise ValueError("modules must have the same parameters in the same shapes")
    params = {
        name: torch.stack([dict(module.named_parameters())[name].detach() for module in modules]) for name in shapes[0]
    }
    skeleton = modules[0]
    buffers = dict(skeleton.named_buffers())

    def call(params: Params, *inputs: Any) -> Any:
        return torch.func.functional_call(skeleton, (params, buffers), inputs)

    return params, call


def _count(params: Params) -> int:
    """B, the number of trials."""
    sizes = {name: tuple(p.shape[:1]) for name, p in params.items()}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        raise ValueError(f"params must all have one leading trial dimension; got {sizes}")
    return next(iter(sizes.values()))[0]


def _rows(tensors: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows.to(value.device)] for name, value in tensors.items()}
