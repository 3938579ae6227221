"""Run a rule as a ``torch.optim.Optimizer``."""

from __future__ import annotations

import inspect
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor

from minimand.hyper import as_hyper
from minimand.optim.programs.in_place import SMALL, InPlaceStep, Vectors, fits_vectors
from minimand.optim.rule import FALLBACK, Event, Hyper, Rule, State, events
from minimand.optim.tensor_list import TensorList

GIVEN = "lr_given"  # a group's rate before schedules changed it


class RuleOptimizer(torch.optim.Optimizer):
    """A rule as a drop-in optimizer. A schedule of ``lr`` moves a matrix rule's ``fallback_lr`` in proportion.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either. A group may set any hyper, and
            ``matrix=False`` to keep its parameters from a matrix rule.
        rule: the update rule.
        maximize: climb instead of descend; weight decay still shrinks.
        foreach: step many parameters by one call: those of an element rule as a list, of a matrix rule stacked with
            others of their shape. None does so on accelerators.
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
        if foreach and rule.event not in ("element", "matrix"):
            kind = type(rule).__name__
            raise ValueError(f"foreach must be False or None for {kind}: it acts neither by element nor on matrices")
        self.rule = rule
        defaults = {**_grouped(rule.defaults()), "matrix": True, "maximize": maximize}
        unknown = [name for name in hypers if name not in defaults and name not in rule.hypers]
        if unknown:
            rule.check({unknown[0]: 0.0})
        defaults.update(_grouped(hypers, defaults))
        self.foreach, self.capturable, self.compile = foreach, capturable, compile
        self._counts: dict[Tensor, int] = {}
        self._constants: dict[tuple[float, torch.device], Tensor] = {}
        self._programs: dict[Any, InPlaceStep] = {}
        self._plans: dict[int, _Plan] = {}
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        for plan in self._plans.values():
            self._settle(plan)
        # By name: a scheduler leaves a wrapper of ``step`` here that cannot be pickled.
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in _KEPT}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, **{name: {} for name in _MADE_ANEW}})

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
        if self.rule.fallback is not None:
            group.setdefault(GIVEN, float(group["lr"]))

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
        self._counts, self._plans = {}, {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step. ``closure`` recomputes the loss, which is returned."""
        if torch.compiler.is_dynamo_compiling():  # a step compiles its own formula, and its bookkeeping is Python's
            return cast(Any, torch.compiler.disable(RuleOptimizer._step))(self, closure)
        return self._step(closure)

    def _step(self, closure: Callable[[], Any] | None) -> Any:
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
        given = [param.grad for param in group["params"]]
        plan = self._plan_of(group, given)
        grads = plan.gradients(given, group["maximize"])
        by_param = {} if plan.is_laid_out else dict(zip(plan.values, grads, strict=True))
        if plan.refreshing and self._refresh(plan, by_param, group):
            plan = self._plan_of(group, given)  # a state may be another tensor now
        try:
            for bucket in plan.buckets:
                self._step_bucket(bucket, plan.values, grads, by_param, group)
        except BaseException:
            del self._plans[id(group)]  # which steps were taken is now to be read from the states
            for event in plan.events:
                self._counts.pop(event.names[0], None)
            raise
        plan.taken += 1

    def _step_bucket(
        self, bucket: _Bucket, values: Any, grads: Sequence[Tensor], by_param: Any, group: dict[str, Any]
    ) -> None:
        first = bucket.events[0]
        lead = first.names[0]
        hyper = first.hyper(self._hyper(group, lead.device))
        if bucket.vectors is not None:
            own = [grads[i] for i in bucket.positions]
            bucket.vectors.step(self._program(first, values[lead], own[0], self.state[lead], hyper), own, hyper)
        elif len(bucket.events) > 1:
            step = self._step_foreach if first.rule.event == "element" else self._step_stacked
            step(bucket.events, values, by_param, hyper)
        elif self.compile or _is_worth_a_trace(first):
            self._step_traced(first, values, by_param, hyper)
        else:
            self._step_one(first, values, by_param, hyper)

    def _plan_of(self, group: dict[str, Any], grads: Sequence[Tensor | None]) -> _Plan:
        """The group's plan, made anew where it no longer stands."""
        plan = self._plans.get(id(group))
        if plan is None or not plan.stands(group, grads, self.state):
            self._settle(plan)
            plan = self._plans[id(group)] = self._plan(group, grads)
        return plan

    def _settle(self, plan: _Plan | None) -> None:
        """Count the steps that were taken by a plan."""
        if plan is not None:
            for event in plan.events:
                self._counts[event.names[0]] += plan.taken
            plan.taken = 0

    def _plan(self, group: dict[str, Any], grads: Sequence[Tensor | None]) -> _Plan:
        if any(grad is not None and grad.is_sparse for grad in grads):
            raise ValueError("gradients must be dense; got a sparse gradient")
        params = [param for param, grad in zip(group["params"], grads, strict=True) if grad is not None]
        values = {p: torch.view_as_real(p).detach() if p.is_complex() else p.detach() for p in params}
        found = _events_of(self.rule, group, params)
        position = {param: i for i, param in enumerate(params)}
        buckets = []
        for alike in self._buckets(found, values):
            leads = [event.names[0] for event in alike]
            states = [self.state[lead] for lead in leads]
            vectors = None
            if self._use_vectors(alike[0], states[0]):
                vectors = Vectors([values[lead] for lead in leads], states, blocks=not self.compile)
            buckets.append(_Bucket(alike, vectors, [position[lead] for lead in leads]))
        return _Plan(list(group["params"]), _signature(group, grads), values, found, buckets)

    def _program(self, event: Event, value: Tensor, grad: Tensor, state: State, hyper: Hyper) -> InPlaceStep:
        shape = None if event.rule.event == "element" else value.shape
        threads = torch.get_num_threads() if self.compile else None  # the compiler writes loops for so many
        key = (event.rule, value.dtype, grad.dtype, value.device, shape, threads, *hyper)
        if key not in self._programs:
            self._programs[key] = InPlaceStep(event.rule, value, grad, state, hyper, self.compile)
        return self._programs[key]

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

    def _step_stacked(self, bucket: Sequence[Event], values: Any, grads: Any, hyper: Hyper) -> None:
        """All events of a bucket, matrices of one shape, as a batch."""
        states = [self._state(event, values) for event in bucket]
        shared = {name: state for name, state in states[0].items() if name == "step"}
        own = {name: torch.stack([state[name] for state in states]) for name in states[0] if name not in shared}
        update = torch.func.vmap(
            lambda grad, state, param: bucket[0].rule.update(grad, {**state, **shared}, param, hyper),
            out_dims=cast(Any, (0, {name: None if name in shared else 0 for name in states[0]})),
            randomness="different",
        )
        packed = [torch.stack([event.pack(tensors) for event in bucket]) for tensors in (grads, values)]
        steps, stacked = update(packed[0], own, packed[1])
        for i, event in enumerate(bucket):
            for param, part in event.unpack(steps[i], _shapes(values)).items():
                values[param].add_(part)
            lead = event.names[0]
            self._store(lead, {name: v if name in shared else v[i].clone() for name, v in stacked.items()})

    def _step_traced(self, event: Event, values: Any, grads: Any, hyper: Hyper) -> None:
        lead, state = event.names[0], self._state(event, values)
        value, grad = event.pack(values), event.pack(grads)
        program = self._program(event, value, grad, state, hyper)
        counter, numbers = program.numbers(hyper, state)
        program.run([(value, *(state[name] for name in program.state_names), grad)], numbers)
        if value.data_ptr() != values[lead].data_ptr():  # packed by copying
            for param, part in event.unpack(value, _shapes(values)).items():
                values[param].copy_(part)
        self._store(lead, {**state, **counter})

    def _buckets(self, found: Sequence[Event], values: Mapping[Tensor, Tensor]) -> list[list[Event]]:
        """Events that one call can take: alike in rule, dtype, device and number of steps taken."""
        buckets: dict[Any, list[Event]] = defaultdict(list)
        for i, event in enumerate(found):
            lead = event.names[0]
            state = self._state(event, values)
            if lead not in self._counts:
                self._counts[lead] = int(state.get("step", 0))
            in_vectors = self._use_vectors(event, state)
            by_matrix = event.rule.event == "matrix" and not self.compile
            joint = in_vectors or ((event.rule.event == "element" or by_matrix) and self._use_foreach(lead))
            shape = event.pack(values).shape if by_matrix else None
            alike = (event.rule, event.is_fallback, lead.dtype, lead.grad.dtype, lead.device, self._counts[lead], shape)
            buckets[(in_vectors, alike) if joint else i].append(event)
        return list(buckets.values())

    def _use_foreach(self, param: Tensor) -> bool:
        return param.device.type != "cpu" if self.foreach is None else self.foreach

    def _use_vectors(self, event: Event, state: State) -> bool:
        lead = event.names[0]
        chosen = self.compile or (lead.device.type == "cpu" and not self._use_foreach(lead))
        return chosen and event.rule.event == "element" and fits_vectors(lead, state)

    def _refresh(self, plan: _Plan, grads: Any, group: dict[str, Any]) -> bool:
        """Refresh the states whose time has come; whether there were any."""
        due = [e for e in plan.refreshing if (self._counts[e.names[0]] + plan.taken) % (e.rule.refresh_every or 1) == 0]
        for event in due:
            lead = event.names[0]
            hyper = event.hyper(self._hyper(group, lead.device))
            state = event.rule.refresh(
                event.pack(grads), self._state(event, plan.values), event.pack(plan.values), hyper
            )
            self._store(lead, state)
        return bool(due)

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
        numbers = _ungrouped(group, self.rule)
        if group.get(GIVEN):
            numbers[FALLBACK + "lr"] = numbers[FALLBACK + "lr"] * (numbers["lr"] / group[GIVEN])
        return {name: self._number(value, where) for name, value in numbers.items() if not _is_no_decay(name, value)}

    def _number(self, value: float | Tensor, device: torch.device) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().to(torch.float64)
        key = (value, device)
        if key not in self._constants:
            if len(self._constants) > 1000:  # a schedule makes a new learning rate every step
                self._constants.clear()
            self._constants[key] = as_hyper(value).to(device)
        return self._constants[key]


_KEPT = ("rule", "foreach", "capturable", "compile", "_counts")
_MADE_ANEW = ("_programs", "_plans", "_constants")  # by every process that loads or copies an optimizer


@dataclass
class _Bucket:
    """Events that are stepped by one call: where their gradients are among the group's, and how they are laid out."""

    events: list[Event]
    vectors: Vectors | None
    positions: list[int]


@dataclass
class _Plan:
    """How a group's parameters are stepped together, good until one of them or its state is another tensor."""

    params: list[Tensor]  # all of the group's
    signature: list[Any]
    values: dict[Tensor, Tensor]  # of those that have gradients
    events: list[Event]
    buckets: list[_Bucket]
    taken: int = 0  # steps

    def __post_init__(self) -> None:
        self.refreshing = [event for event in self.events if event.rule.refresh_every is not None]
        self.is_laid_out = not self.refreshing and all(bucket.vectors is not None for bucket in self.buckets)
        self.is_complete = len(self.values) == len(self.params)
        self.is_complex = any(param.is_complex() for param in self.values)

    def stands(self, group: Mapping[str, Any], grads: Sequence[Tensor | None], state: Mapping[Tensor, State]) -> bool:
        same = len(group["params"]) == len(self.params) and all(map(operator.is_, group["params"], self.params))
        if not same or self.signature != _signature(group, grads):
            return False
        return all(
            bucket.vectors is None or bucket.vectors.stand([state.get(event.names[0]) for event in bucket.events])
            for bucket in self.buckets
        )

    def gradients(self, given: Sequence[Tensor | None], maximize: bool) -> Sequence[Tensor]:
        """Those of ``values``, as a rule takes them."""
        grads = cast(Sequence[Tensor], given if self.is_complete else [grad for grad in given if grad is not None])
        if self.is_complex:
            grads = [torch.view_as_real(grad) if grad.is_complex() else grad for grad in grads]
        return [-grad for grad in grads] if maximize else grads


def _is_worth_a_trace(event: Event) -> bool:
    return event.rule.event in ("tensor", "matrix") and event.names[0].numel() >= SMALL


def _is_no_decay(name: str, value: float | Tensor) -> bool:
    return name.endswith("weight_decay") and not isinstance(value, Tensor) and value == 0


def _signature(group: Mapping[str, Any], grads: Sequence[Tensor | None]) -> list[Any]:
    pairs = zip(group["params"], grads, strict=True)
    return [group["matrix"], *(g if g is None else (p.data_ptr(), g.dtype, g.is_sparse) for p, g in pairs)]


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


EXAMPLE = """
    >>> import torch
    >>> model = torch.nn.Linear(8, 3)
    >>> optimizer = {}(model.parameters(), lr=1e-3)
    >>> before = model.weight.clone()
    >>> model(torch.randn(16, 8)).square().mean().backward()
    >>> optimizer.step()
    >>> bool((model.weight != before).any())
    True
    """


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
    doc = f"{rule.__doc__}\n\n    Options: those of :class:`RuleOptimizer`. {pure}\n{EXAMPLE.format(rule.__name__)}"
    return type(
        rule.__name__,
        (RuleOptimizer,),
        {"__init__": __init__, "__doc__": doc, "__module__": module, "source": rule.source},
    )
