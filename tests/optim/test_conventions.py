"""The torch driver keeps PyTorch's conventions: what checkpoints, schedulers, scalers and hooks take for granted.

The oracle is torch's own AdamW where one is needed. What every rule is held to is in ``tests/contract``.
"""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from minimand import optim
from minimand.optim import BatchedTrainer, RuleOptimizer, linear_decay, rules, stack_modules

BETAS = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def parameters() -> list[nn.Parameter]:
    return list(network().parameters())


def train(optimizer, params, steps, start=0) -> None:
    for t in range(start, start + steps):
        for i, param in enumerate(params):
            k = torch.arange(1, param.numel() + 1)
            param.grad = ((t + 1 + 0.3 * i) * k).cos().reshape(param.shape)
        optimizer.step()


def equal(ours, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def close(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# States of every kind: moments and a counter, matrices beside a fallback's, indices and a seed, a window of gradients.
RESUMED = [rules.AdamW(), rules.Muon(), rules.Frugal(select="elements", gap=2), rules.MFAC(window=2)]


# Checkpoints.

CONTINUE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from tests.optim.test_conventions import RESUMED, RuleOptimizer, nn, train
saved, ends = torch.load(sys.argv[2], weights_only=True), []
for rule, (kept, state) in zip(RESUMED, saved):
    params = [nn.Parameter(p) for p in kept]
    optimizer = RuleOptimizer(params, rule, lr=5.0)
    optimizer.load_state_dict(state)
    train(optimizer, params, 3, start=3)
    ends.append([p.detach() for p in params])
whole = torch.load(sys.argv[3], weights_only=False)
params = whole.param_groups[0]["params"]
train(whole, params, 3, start=3)
torch.save([*ends, [p.detach() for p in params]], sys.argv[2])
"""


def test_a_process_of_its_own_goes_on_bit_for_bit(tmp_path, request):
    saved, wanted = [], []
    for rule in RESUMED:
        params = parameters()
        optimizer = RuleOptimizer(params, rule, lr=0.01, weight_decay=0.1)
        train(optimizer, params, 3)
        saved.append(copy.deepcopy(([p.detach() for p in params], optimizer.state_dict())))
        train(optimizer, params, 3, start=3)
        wanted.append(params)
    params = parameters()
    whole = optim.AdamW(params, lr=0.01)
    train(whole, params, 3)
    states, pickled = tmp_path / "states.pt", tmp_path / "optimizer.pt"
    torch.save(saved, states)
    torch.save(whole, pickled)
    train(whole, params, 3, start=3)
    wanted.append(params)
    program = [sys.executable, "-c", CONTINUE, request.config.rootpath, states, pickled]
    ran = subprocess.run(list(map(str, program)), capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    for end, unbroken in zip(torch.load(states, weights_only=True), wanted, strict=True):
        assert equal(end, unbroken)


def test_an_optimizer_with_a_scheduler_and_hooks_is_copied_and_pickled():
    params = parameters()
    optimizer = optim.AdamW(params, **BETAS)
    schedulers.StepLR(optimizer, 2)
    optimizer.register_step_pre_hook(lambda *_: None)
    train(optimizer, params, 2)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        twins = twin.param_groups[0]["params"]
        kept = [p.detach().clone() for p in params]
        train(twin, twins, 2, start=2)
        assert equal(params, kept)
        assert not equal(params, twins)
    train(optimizer, params, 2, start=2)
    assert equal(params, twins)


def test_state_dict_hooks_run():
    params = parameters()
    optimizer = optim.AdamW(params, **BETAS)
    train(optimizer, params, 1)
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    assert optimizer.state_dict()["note"] == 1
    other = optim.AdamW(params)
    other.register_load_state_dict_pre_hook(lambda _, state: {k: v for k, v in state.items() if k != "note"})
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == BETAS["lr"]


def test_a_checkpoint_of_other_groups_is_refused():
    optimizer, other = optim.AdamW(parameters()), optim.AdamW(parameters()[:2])
    with pytest.raises(ValueError, match="doesn't match the size"):
        other.load_state_dict(optimizer.state_dict())


# Groups.


def test_a_group_added_on_the_way_starts_its_own_count():
    both = []
    for kind in (optim.AdamW, torch.optim.AdamW):
        params = parameters()
        optimizer = kind(params[:2], **BETAS)
        train(optimizer, params[:2], 3)
        optimizer.add_param_group({"params": params[2:], "lr": 0.1, "betas": (0.5, 0.6)})
        train(optimizer, params, 3, start=3)
        both.append(params)
        assert [optimizer.state[p]["step"] for p in params] == [6, 6, 3, 3]
    close(*both)


def test_names_of_parameters_are_kept_and_never_mixed_with_none():
    model = network()
    optimizer = optim.Muon(model.named_parameters())
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names
    twin = optim.Muon(model.named_parameters())
    twin.load_state_dict(optimizer.state_dict())
    assert twin.param_groups[0]["param_names"] == names
    with pytest.raises(ValueError, match="with/without names"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


def test_a_parameter_belongs_to_one_group():
    params = parameters()
    with pytest.raises(ValueError, match="more than one parameter group"):
        optim.AdamW(params).add_param_group({"params": params[:1]})


# Schedulers.

S = schedulers
SCHEDULERS = {
    "LambdaLR": lambda o: S.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: S.StepLR(o, 3),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: S.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: S.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 6, power=2),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 6),
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.001, 0.05, step_size_up=3),
    "OneCycleLR": lambda o: S.OneCycleLR(o, 0.05, total_steps=9),
    "ReduceLROnPlateau": lambda o: S.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: S.SequentialLR(o, [S.LinearLR(o, total_iters=2), S.ExponentialLR(o, 0.5)], [2]),
    "ChainedScheduler": lambda o: S.ChainedScheduler([S.ConstantLR(o, total_iters=2), S.ExponentialLR(o, 0.9)]),
    "SWALR": lambda o: SWALR(o, swa_lr=0.1, anneal_epochs=4),
}


def test_every_scheduler_of_torch_has_its_turn():
    assert set(SCHEDULERS) == {*schedulers.__all__, "SWALR"} - {"LRScheduler"}


def scheduled(optimizer, scheduler, params, steps, start=0) -> list:
    seen = []
    for t in range(start, start + steps):
        train(optimizer, params, 1, start=t)
        scheduler.step(*([1.0] if isinstance(scheduler, S.ReduceLROnPlateau) else []))
        group = optimizer.param_groups[0]
        seen.append((float(group["lr"]), group.get("betas"), group.get("momentum")))
    return seen


MOMENTUM = {"lr": 0.02, "momentum": 0.9}
DRIVEN = [(name, optim.AdamW, torch.optim.AdamW, BETAS) for name in SCHEDULERS]
# These two turn the momentum too, under that name or as the first of the betas.
DRIVEN += [(name, optim.Momentum, torch.optim.SGD, MOMENTUM) for name in ("CyclicLR", "OneCycleLR")]


@pytest.mark.parametrize(("name", "ours", "theirs", "options"), DRIVEN)
def test_schedulers_drive_ours_as_they_drive_torchs(name, ours, theirs, options):
    seen, ends = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (ours, theirs):
            params = parameters()
            optimizer = kind(params, **options)
            seen.append(scheduled(optimizer, SCHEDULERS[name](optimizer), params, 8))
            ends.append(params)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 1
    close(*ends)


@pytest.mark.parametrize("name", ["OneCycleLR", "SequentialLR", "ReduceLROnPlateau"])
def test_a_scheduled_run_goes_on_from_its_checkpoint(name):
    unbroken = parameters()
    optimizer = optim.AdamW(unbroken, **BETAS)
    scheduled(optimizer, SCHEDULERS[name](optimizer), unbroken, 7)
    params = parameters()
    first = optim.AdamW(params, **BETAS)
    scheduler = SCHEDULERS[name](first)
    scheduled(first, scheduler, params, 4)
    second = optim.AdamW(params, **BETAS)
    again = SCHEDULERS[name](second)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    again.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    scheduled(second, again, params, 3, start=4)
    assert equal(unbroken, params)


def test_a_tensor_rate_is_scheduled_in_place():
    ends = []
    for rate in (torch.tensor(0.02, dtype=torch.float64), 0.02):
        params = parameters()
        optimizer = optim.AdamW(params, lr=rate)
        scheduled(optimizer, S.ExponentialLR(optimizer, 0.5), params, 4)
        ends.append(params)
    assert equal(*ends)


def test_a_schedule_reaches_the_fallbacks_rate_in_both_drivers():
    inputs, target = torch.randn(8, 6), torch.randn(8, 3)
    params, call = stack_modules([network()])

    def loss_fn(p, batch, _):
        return nn.functional.mse_loss(call(p, batch[0]), batch[1])

    trainer = BatchedTrainer(loss_fn, rules.Muon(), schedule=linear_decay)
    start = trainer.init(params, {"lr": torch.full((1,), 0.02, dtype=torch.float64)})
    ends, _, _ = trainer.run(params, start, (inputs, target), torch.arange(8).expand(1, 5, 8))
    model = network()
    optimizer = optim.Muon(model.parameters(), lr=0.02)
    scheduler = S.LambdaLR(optimizer, lambda t: float(linear_decay(t, 5)))
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), target).backward()
        optimizer.step()
        scheduler.step()
    close([end[0] for end in ends.values()], [p.detach() for p in model.parameters()])


# Mixed precision, hooks and gradients on the way.


def scaled_step(scaler, optimizer, model, inputs, factor=1.0) -> None:
    optimizer.zero_grad()
    scaler.scale(model(inputs).square().mean() * factor).backward()
    scaler.step(optimizer)
    scaler.update()


def test_a_gradient_scaler_changes_nothing_and_skips_what_overflows():
    inputs = torch.randn(8, 6)
    plain, scaled = network(), network()
    ours, optimizer = optim.AdamW(plain.parameters()), optim.AdamW(scaled.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for factor in (1.0, float("inf"), 1.0, 1.0):
        before = [p.detach().clone() for p in scaled.parameters()]
        scaled_step(scaler, optimizer, scaled, inputs, factor)
        if factor != 1.0:
            assert equal(scaled.parameters(), before)
            continue
        ours.zero_grad()
        plain(inputs).square().mean().backward()
        ours.step()
    assert scaler.get_scale() == 2.0**9
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}
    assert equal(plain.parameters(), scaled.parameters())


def test_unscaled_gradients_are_clipped_before_the_step():
    inputs = torch.randn(8, 6)
    ends = []
    for scale in (1.0, 2.0**12):
        model = network()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(model(inputs).square().mean()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        ends.append(list(model.parameters()))
    assert equal(*ends)


@pytest.mark.parametrize("kind", [optim.AdamW, optim.Muon])
def test_hooks_run_once_around_each_step_until_removed(kind):
    params, seen = parameters(), []
    optimizer = kind(params)
    before = optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("before", o is optimizer)))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("after", o is optimizer)))
    train(optimizer, params, 1)
    before.remove()
    train(optimizer, params, 1)
    assert seen == [("before", True), ("after", True), ("after", True)]


def test_parameters_may_be_stepped_while_the_gradients_come():
    inputs = torch.randn(8, 6)
    ends = []
    for within in (False, True):
        model = network()
        params = list(model.parameters())
        steppers = {p: optim.Muon([p], lr=0.01) for p in params} if within else {}

        def step(param, steppers=steppers):
            steppers[param].step()
            steppers[param].zero_grad()

        for param in steppers:
            param.register_post_accumulate_grad_hook(step)
        together = optim.Muon(params, lr=0.01)
        for _ in range(3):
            model(inputs).square().mean().backward()
            if not within:
                together.step()
                together.zero_grad()
        ends.append(params)
    close(*ends)


def test_a_compiled_program_may_step():
    inputs = torch.randn(8, 6)
    ends = []
    for compiled in (False, True):
        model = network()
        optimizer = optim.Muon(model.parameters(), lr=0.01)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for _ in range(2):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            step()
        ends.append(list(model.parameters()))
    assert equal(*ends)


def test_a_parameter_without_entries_is_no_matter():
    param = nn.Parameter(torch.zeros(0, 4))
    param.grad = torch.zeros(0, 4)
    optim.Muon([param]).step()
    assert param.shape == (0, 4)
