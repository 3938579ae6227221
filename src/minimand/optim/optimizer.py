"""Run a rule as a ``torch.optim.Optimizer``."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor

from minimand.hyper import as_hyper
from minimand.optim.compiled_step import CompiledStep
from minimand.optim.rule import FALLBACK, Event, Hyper, Rule, State, events
from minimand.optim.tensor_list import TensorList


class RuleOptimizer(torch.optim.Optimizer):
    """A rule as a drop-in optimizer.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either. A group may set any hyper, and
            ``matrix=False`` to keep its parameters from a matrix rule.
        rule: the update rule.
        maximize: climb instead of descend; weight decay still shrinks.
        foreach: step many parameters by one call; None does so on accelerators. Element rules only.
        capturable: keep step counters on the device and in place, so that a step can be captured in a graph.
        compile: compile the step. The first step takes seconds; changing ``lr`` does not compile again.
        hypers: the rule's numbers, as floats or 0-d tensors; ``beta1`` and ``beta2`` may be given as ``betas``.

    Raises:
        ValueError: an unknown hyper, or one out of range; sparse gradients; complex parameters of a rule that is
            not elementwise.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> from minimand.optim import rules
    >>> optimizer = RuleOptimizer([weight], rules.SGD(), lr=0.5)
    >>> weight.sum().backward()
    >>> optimizer.step(); weight.data
    tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: Rule,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        compile: bool = False,
        **hypers: Any,
    ) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a minimand.optim.Rule; got {type(rule).__name__}")
        if differentiable:
            raise ValueError("differentiable must be False; to differentiate through a step call rule.update itself")
        if foreach and rule.event != "element":
            raise ValueError(f"foreach must be False or None for {type(rule).__name__}: it does not act by element")
        self.rule = rule
        defaults = {**_grouped(rule.defaults()), "matrix": True, "maximize": maximize}
        unknown = [name for name in hypers if name not in defaults and name not in rule.hypers]
        if unknown:
            rule.check({unknown[0]: 0.0})
        defaults.update(_grouped(hypers, defaults))
        self.foreach, self.capturable, self.compile = foreach, capturable, compile
        self._counts: dict[Tensor, int] = {}
        self._constants: dict[tuple[float, torch.device], Tensor] = {}
        self._programs: dict[Any, CompiledStep] = {}
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_programs", "_constants")}
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_programs": {}, "_constants": {}})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its hypers are checked, and what it leaves out is the optimizer's default."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        hypers = _ungrouped(group, self.rule)
        try:
            self.rule.check(hypers)
            for value in hypers.values():
                if isinstance(value, Tensor) and value.ndim != 0:
                    raise ValueError(f"hypers must be floats or 0-d tensors; got shape {tuple(value.shape)}")
            if self.foreach and isinstance(hypers["lr"], Tensor) and not self.capturable:
                raise ValueError("lr as a tensor with foreach=True needs capturable=True")
            for param in group["params"]:
                if param.is_complex() and self.rule.event != "element":
                    raise ValueError(f"params must be real for {type(self.rule).__name__}; got {param.dtype}")
            _events_of(self.rule, group, group["params"])
        except Exception:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; every tensor keeps its own dtype, which stock PyTorch would cast to the parameter's."""
        super().load_state_dict(state_dict)
        params = [param for group in self.param_groups for param in group["params"]]
        order = [index for group in state_dict["param_groups"] for index in group["params"]]
        for index, param in zip(order, params, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                on_host = value.ndim == 0 and name == "step" and not self.capturable
                device = torch.device("cpu") if on_host else param.device
                self.state[param][name] = value.detach().clone().to(device)
        self._counts = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step. ``closure`` recomputes the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    @torch.no_grad()
    def observe(self, info: Mapping[str, Tensor] | Sequence[Tensor]) -> None:
        """Hand a rule what it observes, a tensor a parameter: in the groups' order, or by parameter name."""
        if self.rule.observes is None:
            raise TypeError(f"{type(self.rule).__name__} observes nothing")
        params = [param for group in self.param_groups for param in group["params"]]
        if isinstance(info, Mapping):
            names = [name for group in self.param_groups for name in group.get("param_names", ())]
            if set(names) != set(info):
                raise ValueError(f"info must name the parameters {names}; got {list(info)}")
            info = [info[name] for name in names]
        if len(info) != len(params):
            raise ValueError(f"info must hold {len(params)} tensors, one a parameter; got {len(info)}")
        values = dict(zip(params, info, strict=True))
        for group in self.param_groups:
            for event in _events_of(self.rule, group, group["params"]):
                if event.rule.observes is None:
                    continue
                lead = event.names[0]
                hyper = event.hyper(self._hyper(group, lead.device))
                tensors = {p: p.detach() for p in event.names}
                state, packed = self._state(event, tensors), event.pack(tensors)
                self._store(lead, event.rule.observe(event.pack(values), state, packed, hyper))

    # One group.

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [param for param in group["params"] if param.grad is not None]
        if not params:
            return
        values, grads = {}, {}
        for param in params:
            grad = param.grad
            if grad.is_sparse:
                raise ValueError("gradients must be dense; got a sparse gradient")
            grad = -grad if group["maximize"] else grad
            is_complex = param.is_complex()
            values[param] = torch.view_as_real(param).detach() if is_complex else param.detach()
            grads[param] = torch.view_as_real(grad) if is_complex else grad
        found = _events_of(self.rule, group, params)
        for event in found:
            self._refresh(event, values, grads, group)
        for bucket in self._buckets(found):
            hyper = bucket[0].hyper(self._hyper(group, bucket[0].names[0].device))
            if self.compile:
                self._step_compiled(bucket, values, grads, hyper)
            elif len(bucket) > 1:
                self._step_foreach(bucket, values, grads, hyper)
            else:
                self._step_one(bucket[0], values, grads, hyper)
            for event in bucket:
                self._counts[event.names[0]] += 1

    def _step_one(self, event: Event, values: Any, grads: Any, hyper: Hyper) -> None:
        step, state = event.rule.update(event.pack(grads), self._state(event, values), event.pack(values), hyper)
        for param, part in event.unpack(step, _shapes(values)).items():
            values[param].add_(part)
        self._store(event.names[0], state)

    def _step_foreach(self, bucket: Sequence[Event], values: Any, grads: Any, hyper: Hyper) -> None:
        """All events of a bucket by one call of the formula, on lists in the place of tensors."""
        leads = [event.names[0] for event in bucket]
        states = [self._state(event, values) for event in bucket]
        joint: dict[str, Any] = {
            name: states[0][name] if name == "step" else TensorList([state[name] for state in states])
            for name in states[0]
        }
        param_list = TensorList([values[p] for p in leads])
        step, joint = bucket[0].rule.update(
            cast(Tensor, TensorList([grads[p] for p in leads])), joint, cast(Tensor, param_list), hyper
        )
        torch._foreach_add_(param_list.tensors, cast(TensorList, step).tensors)
        for i, lead in enumerate(leads):
            # The counter is one tensor for all: rules never write into a state.
            self._store(lead, {name: v.tensors[i] if isinstance(v, TensorList) else v for name, v in joint.items()})

    def _step_compiled(self, bucket: Sequence[Event], values: Any, grads: Any, hyper: Hyper) -> None:
        states = [self._state(event, values) for event in bucket]
        rule = bucket[0].rule
        packed = [(event.pack(values), event.pack(grads)) for event in bucket]
        shape = None if rule.event == "element" else tuple(packed[0][0].shape)
        key = (rule, packed[0][0].dtype, packed[0][1].dtype, packed[0][0].device, shape)
        if key not in self._programs:
            self._programs[key] = CompiledStep(rule, packed[0][0], packed[0][1], states[0], hyper)
        counter = self._programs[key].run(packed, states, hyper)
        for event, (new, _), state in zip(bucket, packed, states, strict=True):
            if new.data_ptr() != values[event.names[0]].data_ptr():  # packed by copying
                for param, part in event.unpack(new, _shapes(values)).items():
                    values[param].copy_(part)
            self._store(event.names[0], {**state, **counter})

    def _buckets(self, found: Sequence[Event]) -> list[list[Event]]:
        """Events that one call can take: alike in rule, dtype, device and number of steps taken."""
        buckets: dict[Any, list[Event]] = defaultdict(list)
        for i, event in enumerate(found):
            lead = event.names[0]
            if lead not in self._counts:
                taken = self.state[lead].get("step") if lead in self.state else None
                self._counts[lead] = 0 if taken is None else int(taken)
            joint = event.rule.event == "element" and (self.compile or self._use_foreach(lead))
            key = (event.rule, event.is_fallback, lead.dtype, lead.grad.dtype, lead.device, self._counts[lead])
            buckets[key if joint else i].append(event)
        return list(buckets.values())

    def _use_foreach(self, param: Tensor) -> bool:
        return param.device.type != "cpu" if self.foreach is None else self.foreach

    def _refresh(self, event: Event, values: Any, grads: Any, group: dict[str, Any]) -> None:
        every = event.rule.refresh_every
        lead = event.names[0]
        if every is None or self._counts.get(lead, 0) % every:
            return
        hyper = event.hyper(self._hyper(group, lead.device))
        state = event.rule.refresh(event.pack(grads), self._state(event, values), event.pack(values), hyper)
        self._store(lead, state)

    # State and numbers.

    def _state(self, event: Event, values: Mapping[Tensor, Tensor]) -> State:
        lead = event.names[0]
        state = self.state[lead]
        if not state:
            state.update(event.rule.init(event.pack(values)))
            if self.capturable and "step" in state:
                state["step"] = state["step"].to(lead.device)
        return dict(state)

    def _store(self, lead: Tensor, state: State) -> None:
        if not self.capturable:
            self.state[lead].update(state)
            return
        for name, value in state.items():  # a captured graph replays on these addresses
            self.state[lead][name].copy_(value)

    def _hyper(self, group: dict[str, Any], device: torch.device) -> Hyper:
        where = device if self.capturable else torch.device("cpu")
        return {name: self._number(value, where) for name, value in _ungrouped(group, self.rule).items()}

    def _number(self, value: float | Tensor, device: torch.device) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().to(torch.float64)
        key = (value, device)
        if key not in self._constants:
            if len(self._constants) > 1000:  # a schedule makes a new learning rate every step
                self._constants.clear()
            self._constants[key] = as_hyper(value).to(device)
        return self._constants[key]


def _events_of(rule: Rule, group: Mapping[str, Any], params: Sequence[Tensor]) -> list[Event]:
    return events(rule, {param: param for param in params}, matrix=group["matrix"])


def _shapes(tensors: Mapping[Tensor, Tensor]) -> dict[Any, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


_PAIRS = {"betas": ("beta1", "beta2"), FALLBACK + "betas": (FALLBACK + "beta1", FALLBACK + "beta2")}


def _grouped(hypers: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Hypers as parameter groups hold them: the two betas as the tuple ``betas``, which OneCycleLR edits."""
    grouped = dict(hypers)
    for pair, names in _PAIRS.items():
        given = [grouped.pop(name, None) for name in names]
        if any(value is not None for value in given):
            start = grouped.get(pair) or (known or {}).get(pair) or (None, None)
            grouped[pair] = tuple(s if g is None else g for g, s in zip(given, start, strict=True))
        elif pair in grouped and (not isinstance(grouped[pair], (tuple, list)) or len(grouped[pair]) != 2):
            raise ValueError(f"{pair} must be a pair of numbers; got {grouped[pair]!r}")
    return grouped


def _ungrouped(group: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    """A group's hypers under the rule's own names."""
    values = {name: group[name] for name in rule.hypers if name in group}
    for pair, names in _PAIRS.items():
        if pair in group and names[0] in rule.hypers:
            values.update(zip(names, group[pair], strict=True))
    return {name: values[name] for name in rule.hypers}


def optimizer_of(rule: type[Rule], module: str) -> type[RuleOptimizer]:
    """The named optimizer class of a rule: ``AdaBelief(params, lr=1e-3, betas=(0.9, 0.999), ...)``.

    Statics of the rule and options of ``RuleOptimizer`` are keyword arguments too.
    """
    statics = {f.name: f.default for f in fields(rule)}

    def __init__(self: RuleOptimizer, params: Iterable[Any], **options: Any) -> None:
        chosen = {name: options.pop(name) for name in list(options) if name in statics}
        RuleOptimizer.__init__(self, params, rule(**chosen), **options)

    P = inspect.Parameter
    keywords = {**_grouped({name: spec.default for name, spec in rule.hypers.items()}), **statics}
    driver = {"maximize": False, "foreach": None, "capturable": False, "compile": False}
    signature = inspect.Signature(
        [P("self", P.POSITIONAL_OR_KEYWORD), P("params", P.POSITIONAL_OR_KEYWORD)]
        + [P(name, P.KEYWORD_ONLY, default=value) for name, value in {**keywords, **driver}.items()]
    )
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    pure = f"The pure rule is ``minimand.optim.rules.{rule.__name__}``."
    doc = f"{rule.__doc__}\n\n    Options: those of :class:`RuleOptimizer`. {pure}\n    "
    return type(rule.__name__, (RuleOptimizer,), {"__init__": __init__, "__doc__": doc, "__module__": module})
