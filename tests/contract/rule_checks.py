"""What every update rule promises, as a pure function and under both drivers, each promise a check of one rule."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from minimand import optim
from minimand.hyper import as_hyper
from minimand.optim import BatchedTrainer, RuleOptimizer, stack_modules
from minimand.optim.rule import Hyper, Rule, State

from .declare import RuleSample

INDUCTOR = ("AdaBelief",)
SHAPES = ((), (5,), (3, 4), (6, 2), (2, 3, 2), (1, 1), (0,), (0, 4))
PLAIN = (3, 4)
Moment = tuple[Tensor, State]


# The pure function.


def pure(sample: RuleSample) -> None:
    """Inputs stay as they were, share no memory with what comes back, and give the same again."""
    rule = sample.rule
    grad, param, hyper = gradient(rule, PLAIN, 1), parameter(rule, PLAIN), hypers(rule)
    state = warmed(rule, PLAIN)
    given = [grad, param, *state.values(), *hyper.values()]
    before = [x.clone() for x in given]
    step, new = rule.update(grad, state, param, hyper)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    memory = {x.untyped_storage().data_ptr() for x in given}
    for name, out in {"step": step, **{f"state {k}": v for k, v in new.items()}}.items():
        assert out.untyped_storage().data_ptr() not in memory, name
    equal_bitwise((step, new), rule.update(grad, state, param, hyper))


def states_are_tensors(sample: RuleSample) -> None:
    """A state holds tensors only and keeps its names, shapes and types; its counter is 0-d float32 on the CPU."""
    rule = sample.rule
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        state = rule.init(parameter(rule, PLAIN, dtype))
        for t in range(3):
            shapes = {name: (x.shape, x.dtype, x.device) for name, x in state.items()}
            if "step" in state:
                assert shapes["step"] == (torch.Size(), torch.float32, torch.device("cpu"))
                assert state["step"] == t
            for name, x in state.items():
                assert not x.is_floating_point() or x.dtype in (torch.float32, torch.float64), name
            grad, param = gradient(rule, PLAIN, t + 1, dtype), parameter(rule, PLAIN, dtype)
            _, state = rule.update(grad, state, param, hypers(rule))
            assert shapes == {name: (x.shape, x.dtype, x.device) for name, x in state.items()}


def step_has_the_parameters_dtype(sample: RuleSample) -> None:
    """float64 hypers promote no float32 event, batched or not, and gradients of another type no parameter."""
    rule = sample.rule
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        param = parameter(rule, PLAIN, dtype)
        step, _ = rule.update(gradient(rule, PLAIN, 1, dtype), rule.init(param), param, hypers(rule))
        assert step.dtype == dtype
        step, _ = rule.update(gradient(rule, PLAIN, 1, torch.float32), rule.init(param), param, hypers(rule))
        assert step.dtype == dtype
        grads, states, params, numbers = stacked(rule, PLAIN, dtype)
        step, new = rule.batched()(grads, states, params, numbers)
        assert step.dtype == dtype
        assert {k: v.dtype for k, v in new.items()} == {k: v.dtype for k, v in states.items()}


def narrow_types_agree(sample: RuleSample) -> None:
    """Three steps in a narrow type are float64's, to what the type can hold."""
    rule = sample.rule
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        param = parameter(rule, PLAIN, dtype)
        narrow, wide = rule.init(param), rule.init(param.double())
        for t in range(1, 4):
            grad = gradient(rule, PLAIN, t, dtype)
            step, narrow = rule.update(grad, narrow, param, hypers(rule))
            wanted, wide = rule.update(grad.double(), wide, param.double(), hypers(rule))
            size = float(wanted.abs().max())
            torch.testing.assert_close(step.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=2e-5 * size)


def no_branch_on_values(sample: RuleSample) -> None:
    """One traced program serves other values, zeros among them."""
    rule = sample.rule
    for shape in (PLAIN, (1, 1), (0, 4)):
        program = make_fx(lambda *given: rule.update(*given))(
            gradient(rule, shape, 1), rule.init(parameter(rule, shape)), parameter(rule, shape), hypers(rule)
        )
        state = warmed(rule, shape)
        for grad in (gradient(rule, shape, 5), 0 * gradient(rule, shape, 1), 1e6 * gradient(rule, shape, 2)):
            param = parameter(rule, shape) + 1
            close(program(grad, state, param, hypers(rule)), rule.update(grad, state, param, hypers(rule)), 1e-12)


def compiled(sample: RuleSample) -> None:
    """``torch.compile(fullgraph=True)`` gives the steps and states of eager mode."""
    torch._dynamo.reset()
    rule = sample.rule
    program = torch.compile(rule.update, backend="inductor" if sample.name in INDUCTOR else "aot_eager", fullgraph=True)
    grad, param, state = gradient(rule, PLAIN, 4), parameter(rule, PLAIN), warmed(rule, PLAIN)
    close(program(grad, state, param, hypers(rule)), rule.update(grad, state, param, hypers(rule)), 1e-10)


def batched_equals_a_loop(sample: RuleSample) -> None:
    """Leading dimensions, hypers too, give what a loop gives."""
    rule = sample.rule
    for shape in SHAPES:
        given = grads, states, params, numbers = stacked(rule, shape, torch.float64, trials=6)
        together = rule.batched()(*given)
        for i in range(6):
            alone = rule.update(grads[i], at(states, i), params[i], at(numbers, i))
            close((together[0][i], at(together[1], i)), alone, 1e-10)
        nested = [{k: fold(v) for k, v in x.items()} if isinstance(x, dict) else fold(x) for x in given]
        step, state = rule.batched(2)(*nested)
        close((step.flatten(0, 1), {k: v.flatten(0, 1) for k, v in state.items()}), together, 1e-12)


def batched_is_bitwise_a_loop(sample: RuleSample) -> None:
    """What acts by element gives each trial the same bits together as alone."""
    rule = sample.rule
    for shape in SHAPES:
        grads, states, params, numbers = stacked(rule, shape, torch.float64, trials=6)
        step, state = rule.batched()(grads, states, params, numbers)
        for i in range(6):
            equal_bitwise((step[i], at(state, i)), rule.update(grads[i], at(states, i), params[i], at(numbers, i)))


def finite(sample: RuleSample) -> None:
    """Zero, 1 x 1, empty, tiny and 1e30-sized gradients and zero parameters give finite steps, several in a row."""
    rule = sample.rule
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        largest = min(1e30, torch.finfo(dtype).max)
        for shape in SHAPES:
            for size in (0.0, 1e-30, 1.0, largest):
                for param in (parameter(rule, shape, dtype), 0 * parameter(rule, shape, dtype)):
                    state = rule.init(param)
                    for t in range(1, 6):
                        grad = (gradient(rule, shape, t) * size).to(dtype)
                        step, state = rule.update(grad, state, param, hypers(rule))
                        assert bool(step.isfinite().all()), f"step {t}, {shape}, {size:g}, {dtype}: {step}"


def nan_is_seen(sample: RuleSample) -> None:
    """A NaN in the gradient, or in the parameter where decay reads it, makes its step NaN."""
    rule = sample.rule
    grad, param = gradient(rule, PLAIN, 1), parameter(rule, PLAIN)
    state = warmed(rule, PLAIN)
    for spoilt in ((spoil(grad), param), (grad, spoil(param))):
        step, _ = rule.update(spoilt[0], state, spoilt[1], hypers(rule))
        where = spoilt[0].isnan() | spoilt[1].isnan()
        assert bool(step[where].isnan().all()), step


def no_rate_no_step(sample: RuleSample) -> None:
    """``lr=0`` gives a step of exactly zero, whatever the decay."""
    rule = sample.rule
    zero = {name: torch.zeros_like(v) if name.endswith("lr") else v for name, v in hypers(rule).items()}
    step, _ = rule.update(gradient(rule, PLAIN, 4), warmed(rule, PLAIN), parameter(rule, PLAIN), zero)
    assert not step.any()


def wrong_hypers(sample: RuleSample) -> None:
    """``check`` names a hyper that is unknown or outside its range, its value and its range."""
    rule = sample.rule
    rule.check(rule.defaults())
    for name, spec in rule.hypers.items():
        rule.check({name: torch.tensor(spec.default)})
        bad = [math.nan, spec.low - 1.5, *([spec.high + 1.5] if spec.high < math.inf else [])]
        for value in bad:
            for given in (value, torch.tensor(value)):
                with pytest.raises(ValueError) as raised:
                    rule.check({name: given})
                assert str(raised.value) == f"{name} must lie in {spec.range}; got {value:g}"
    with pytest.raises(ValueError, match=f"{type(rule).__name__} takes lr, .*; got 'lrr'"):
        rule.check({"lrr": 0.1})


def cites_its_source(sample: RuleSample) -> None:
    """The docstring names the paper that ``source`` names."""
    rule = sample.rule
    text = " ".join((type(rule).__doc__ or "").split())
    assert rule.source.citation.split(",")[0] in text
    assert rule.source.arxiv is None or f"arXiv:{rule.source.arxiv}" in text


# Under the drivers.


def split_into_groups(sample: RuleSample) -> None:
    """The trajectory is the same under any split of the parameters into groups."""
    whole = model()
    train(optimizer(sample, whole), whole, 4)
    for cuts in ((1, 3), (2,), (1, 2, 3)):
        split = model()
        bounds = [0, *cuts, len(split)]
        groups = [{"params": split[a:b]} for a, b in itertools.pairwise(bounds)]
        train(optimizer(sample, groups), split, 4)
        assert all(torch.equal(a, b) for a, b in zip(whole, split, strict=True)), cuts


def maximize(sample: RuleSample) -> None:
    """``maximize`` negates the gradient and not the decay."""
    up, down = model(), model()
    climb, descend = optimizer(sample, up, maximize=True), optimizer(sample, down)
    for t in range(3):
        fill_gradients(up, t + 1)
        fill_gradients(down, t + 1)
        for param in down:
            param.grad = -param.grad
        climb.step()
        descend.step()
    assert all(torch.equal(a, b) for a, b in zip(up, down, strict=True))


def resumed(sample: RuleSample) -> None:
    """From a checkpoint in the middle the run goes on bit for bit, moments in their own types."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        unbroken = model(dtype)
        train(optimizer(sample, unbroken), unbroken, 6)
        first = model(dtype)
        stopped = optimizer(sample, first)
        train(stopped, first, 3)
        file = io.BytesIO()
        torch.save({"params": [p.detach() for p in first], "optimizer": stopped.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        second = [nn.Parameter(p) for p in saved["params"]]
        other = optimizer(sample, second, lr=5.0)  # the checkpoint's own rate returns with it
        other.load_state_dict(saved["optimizer"])
        for a, b in zip(first, second, strict=True):
            equal_bitwise((a, stopped.state[a]), (b, other.state[b]))
        train(other, second, 3, start=3)
        assert all(torch.equal(a, b) for a, b in zip(unbroken, second, strict=True)), dtype


def pickled_and_copied(sample: RuleSample) -> None:
    """A pickled or deep-copied optimizer goes on alike, with its own parameters."""
    for twin_of in (copy.deepcopy, lambda whole: pickle.loads(pickle.dumps(whole))):
        params = model()
        original = optimizer(sample, params)
        train(original, params, 2)
        twin = twin_of(original)
        twins = [param for group in twin.param_groups for param in group["params"]]
        train(original, params, 2, start=2)
        train(twin, twins, 2, start=2)
        assert type(twin) is type(original)
        assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def named_class(sample: RuleSample) -> None:
    """``minimand.optim`` has the rule as an optimizer class that takes its hypers and statics by keyword."""
    kind = getattr(optim, type(sample.rule).__name__)
    assert issubclass(kind, RuleOptimizer)
    named, plain = model(), model()
    statics = {f.name: getattr(sample.rule, f.name) for f in fields(sample.rule)}
    train(kind(named, **statics, **ROUGH), named, 3)
    train(optimizer(sample, plain), plain, 3)
    assert all(torch.equal(a, b) for a, b in zip(named, plain, strict=True))


def foreach(sample: RuleSample) -> None:
    """Lists of parameters stepped by one call give what the loop gives."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0)):
        loop, joint = model(dtype), model(dtype)
        train(optimizer(sample, loop, foreach=False), loop, 5)
        train(optimizer(sample, joint, foreach=True), joint, 5)
        for a, b in zip(loop, joint, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def capturable(sample: RuleSample) -> None:
    """``capturable`` keeps every state at its address and gives the plain trajectory."""
    params, plain = model(), model()
    fixed = optimizer(sample, params, capturable=True)
    train(fixed, params, 1)
    addresses = [{k: v.data_ptr() for k, v in fixed.state[p].items()} for p in params]
    train(fixed, params, 3, start=1)
    assert addresses == [{k: v.data_ptr() for k, v in fixed.state[p].items()} for p in params]
    train(optimizer(sample, plain), plain, 4)
    assert all(torch.equal(a, b) for a, b in zip(params, plain, strict=True))


def drivers_agree(sample: RuleSample) -> None:
    """B trials trained together end where B optimizers end: 50 steps to 1e-10 in float64, 20 to 1e-4 in float32."""
    # Squared error: a softmax's gradients lack a rank, and orthogonalising would magnify the rounding in its place.
    loss_fn = nn.functional.mse_loss
    for dtype, steps, tolerance in ((torch.float64, 50, 1e-10), (torch.float32, 20, 1e-4)):
        rates = torch.tensor([0.003, 0.02], dtype=torch.float64)
        decays = torch.tensor([0.0, 0.1], dtype=torch.float64)
        inputs, target, index = problem(len(rates), steps, dtype)
        params, call = stack_modules([network(seed, dtype) for seed in range(len(rates))])
        trainer = BatchedTrainer(lambda p, batch, _, call=call: loss_fn(call(p, batch[0]), batch[1]), sample.rule)
        start = trainer.init(params, {"lr": rates, "weight_decay": decays})
        ends, _, losses = trainer.run(params, start, (inputs, target), index)
        for i, (rate, decay) in enumerate(zip(rates.tolist(), decays.tolist(), strict=True)):
            single = network(i, dtype)
            stepper = RuleOptimizer(single.parameters(), sample.rule, lr=rate, weight_decay=decay)
            for t, rows in enumerate(index[i]):
                stepper.zero_grad()
                loss = loss_fn(single(inputs[rows]), target[rows])
                loss.backward()
                stepper.step()
                torch.testing.assert_close(losses[i, t], loss.detach(), rtol=tolerance, atol=tolerance)
            for name, param in single.named_parameters():
                torch.testing.assert_close(ends[name][i], param.detach(), rtol=tolerance, atol=tolerance)


RULE_CHECKS: list[Callable[[RuleSample], None]] = [
    pure,
    states_are_tensors,
    step_has_the_parameters_dtype,
    narrow_types_agree,
    no_branch_on_values,
    compiled,
    batched_equals_a_loop,
    finite,
    nan_is_seen,
    no_rate_no_step,
    wrong_hypers,
    cites_its_source,
    split_into_groups,
    maximize,
    resumed,
    pickled_and_copied,
    named_class,
    capturable,
    drivers_agree,
]
BY_ELEMENT: list[Callable[[RuleSample], None]] = [batched_is_bitwise_a_loop, foreach]


def rule_checks_of(sample: RuleSample) -> list[Callable[[RuleSample], None]]:
    """The checks that apply to a rule by what it acts on."""
    return [*RULE_CHECKS, *(BY_ELEMENT if sample.rule.event == "element" else [])]


# What the checks share.

# Large enough a rate for three steps to show, and a decay to be seen.
ROUGH = {"lr": 0.01, "weight_decay": 0.1}


def viewed(rule: Rule, x: Tensor) -> Tensor:
    """``x`` as the rule sees it: a matrix for matrix rules, a vector for vector rules."""
    if rule.event == "vector":
        return x.reshape(-1)
    if rule.event == "matrix":
        return x.reshape(x.shape[0], math.prod(x.shape[1:])) if x.ndim else x.reshape(1, 1)
    return x


def entries(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).reshape(shape)


def parameter(rule: Rule, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return viewed(rule, entries(shape).sin().to(dtype))


def gradient(rule: Rule, shape: tuple[int, ...], t: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return viewed(rule, (t * entries(shape) ** 1.1).cos().to(dtype))


def hypers(rule: Rule) -> Hyper:
    return {name: as_hyper(value) for name, value in {**rule.defaults(), **ROUGH}.items()}


def warmed(rule: Rule, shape: tuple[int, ...], steps: int = 3) -> State:
    """A state after some steps."""
    state = rule.init(parameter(rule, shape))
    for t in range(1, steps + 1):
        _, state = rule.update(gradient(rule, shape, t), state, parameter(rule, shape), hypers(rule))
    return state


def stacked(rule: Rule, shape: tuple[int, ...], dtype: torch.dtype, trials: int = 3) -> tuple[Any, ...]:
    """Gradients, states, parameters and hypers of some trials, no two alike."""
    grads = torch.stack([gradient(rule, shape, 7 + i, dtype) for i in range(trials)])
    params = torch.stack([parameter(rule, shape, dtype) * (i + 1) for i in range(trials)])
    states = []
    for i in range(trials):
        state = rule.init(params[i])
        for t in range(i):  # trials differ in their counts too
            _, state = rule.update(gradient(rule, shape, t + 1, dtype), state, params[i], hypers(rule))
        states.append(state)
    state = {name: torch.stack([s[name] for s in states]) for name in states[0]}
    factor = torch.linspace(0.5, 1.0, trials, dtype=torch.float64)
    numbers = {name: value * factor for name, value in hypers(rule).items()}
    return grads, state, params, numbers


def at(tensors: State | Hyper, i: int) -> State:
    return {name: x[i] for name, x in tensors.items()}


def fold(x: Tensor) -> Tensor:
    """(6, ...) as (2, 3, ...)."""
    return x.unflatten(0, (2, 3))


def spoil(x: Tensor) -> Tensor:
    x = x.clone()
    x.view(-1)[4] = math.nan
    return x


def tensors_of(moment: Moment) -> Iterator[tuple[str, Tensor]]:
    yield "step", moment[0]
    yield from moment[1].items()


def equal_bitwise(got: Moment, wanted: Moment) -> None:
    for (name, a), (other, b) in zip(tensors_of(got), tensors_of(wanted), strict=True):
        assert name == other
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}")


def close(got: Moment, wanted: Moment, tolerance: float) -> None:
    for (name, a), (other, b) in zip(tensors_of(got), tensors_of(wanted), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def network(seed: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def model(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return list(network(0, dtype).parameters())


def optimizer(sample: RuleSample, params: Any, **options: Any) -> RuleOptimizer:
    return RuleOptimizer(params, sample.rule, **{**ROUGH, **options})


def fill_gradients(params: list[Any], t: int) -> None:
    for i, param in enumerate(params):
        k = torch.arange(1, param.numel() + 1, dtype=torch.float64)
        param.grad = ((t + 0.3 * i) * k).cos().reshape(param.shape).to(param.dtype)


def train(stepper: torch.optim.Optimizer, params: list[Any], steps: int, start: int = 0) -> None:
    for t in range(start, start + steps):
        fill_gradients(params, t + 1)
        stepper.step()


def problem(trials: int, steps: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(40, 6, generator=generator, dtype=torch.float64).to(dtype)
    target = torch.randn(40, 3, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, target, torch.randint(0, 40, (trials, steps, 8), generator=generator)
