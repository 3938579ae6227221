"""Many runs at once: equal to as many runs one after the other."""

import pytest
import torch
from torch import nn

from minimand.optim import BatchedTrainer, RuleOptimizer, linear_decay, rules, stack_modules, trainer


def network(seed: int, dtype=torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(40, 5, generator=generator, dtype=dtype)
    target = torch.randint(0, 3, (40,), generator=generator)
    index = torch.randint(0, 40, (4, 50, 8), generator=generator)
    return inputs, target, index


def batched(rule, dtype=torch.float64, steps=50, **options):
    inputs, target, index = problem(dtype)
    params, call = stack_modules([network(s, dtype) for s in range(4)])

    def loss_fn(p, batch, hyper):
        return nn.functional.cross_entropy(call(p, batch[0]), batch[1])

    trainer = BatchedTrainer(loss_fn, rule, **options)
    state = trainer.init(params, {"lr": torch.tensor([0.001, 0.01, 0.03, 0.1])})
    return trainer.run(params, state, (inputs, target), index[:, :steps])


def one_by_one(rule, dtype=torch.float64, steps=50, schedule=None, clip_norm=None):
    inputs, target, index = problem(dtype)
    ends, losses = [], []
    for seed, lr in enumerate([0.001, 0.01, 0.03, 0.1]):
        model = network(seed, dtype)
        optimizer = RuleOptimizer(model.parameters(), rule, lr=lr)
        path = []
        for t, rows in enumerate(index[seed, :steps]):
            if schedule is not None:
                optimizer.param_groups[0]["lr"] = lr * schedule(t, steps)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[rows]), target[rows])
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            path.append(loss.detach())
        ends.append({name: p.detach() for name, p in model.named_parameters()})
        losses.append(torch.stack(path))
    return ends, torch.stack(losses)


def assert_same(batched_result, single_result, tolerance):
    params, _, losses = batched_result
    ends, paths = single_result
    torch.testing.assert_close(losses, paths, rtol=tolerance, atol=tolerance)
    for trial, end in enumerate(ends):
        for name, value in end.items():
            torch.testing.assert_close(params[name][trial], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", [rules.AdaBelief(), rules.Muon()], ids=["adabelief", "muon"])
def test_a_short_run_takes_the_steps_that_a_traced_one_takes(rule, monkeypatch):
    options = {"steps": 10, "schedule": linear_decay, "clip_norm": 0.1}
    plain = batched(rule, **options)
    monkeypatch.setattr(trainer, "TRACED_FROM", 0)
    traced = batched(rule, **options)
    torch.testing.assert_close(plain[0], traced[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(plain[1].rule, traced[1].rule, rtol=1e-12, atol=1e-14)


def test_schedule_and_clipping_are_each_trials_own():
    options = {"schedule": linear_decay, "clip_norm": 0.1}
    single = one_by_one(rules.AdamW(), **options)
    # clip_grad_norm_ divides by norm + 1e-6.
    assert_same(batched(rules.AdamW(), **options), single, 1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_nothing(chunk):
    whole, parts = batched(rules.AdaBelief()), batched(rules.AdaBelief(), chunk_size=chunk)
    assert_same(parts, ([{k: v[i] for k, v in whole[0].items()} for i in range(4)], whole[2]), 1e-12)


def test_compiled_equals_replayed():
    whole, fast = batched(rules.Muon(), steps=5), batched(rules.Muon(), steps=5, compile=True)
    assert_same(fast, ([{k: v[i] for k, v in whole[0].items()} for i in range(4)], whole[2]), 1e-10)


def test_running_on_is_running_through():
    inputs, target, index = problem()
    params, call = stack_modules([network(s) for s in range(4)])
    trainer = BatchedTrainer(
        lambda p, batch, hyper: nn.functional.cross_entropy(call(p, batch[0]), batch[1]),
        rules.AdamW(),
        schedule=linear_decay,
        total_steps=50,
    )
    state = trainer.init(params, {"lr": 0.01})
    params, state, first = trainer.run(params, state, (inputs, target), index[:, :20])
    params, state, second = trainer.run(params, state, (inputs, target), index[:, 20:])
    assert state.step == 50
    trainer = BatchedTrainer(
        lambda p, batch, hyper: nn.functional.cross_entropy(call(p, batch[0]), batch[1]),
        rules.AdamW(),
        schedule=linear_decay,
    )
    start, _ = stack_modules([network(s) for s in range(4)])
    whole, _, losses = trainer.run(start, trainer.init(start, {"lr": 0.01}), (inputs, target), index)
    assert torch.equal(torch.cat([first, second], 1), losses)
    assert all(torch.equal(params[name], whole[name]) for name in params)


def test_a_diverging_trial_leaves_the_others_bitwise_unchanged():
    inputs, target, index = problem()
    params, call = stack_modules([network(s) for s in range(4)])

    def run(rates):
        trainer = BatchedTrainer(
            lambda p, batch, hyper: nn.functional.cross_entropy(call(p, batch[0]) * hyper["scale"], batch[1]),
            rules.SGD(),
        )
        state = trainer.init(params, {"lr": 0.01, "scale": torch.tensor(rates)})
        return trainer.run(params, state, (inputs, target), index)[0]

    calm, wild = run([1.0, 1.0, 1.0, 1.0]), run([1.0, float("nan"), 1.0, 1.0])
    for name in params:
        assert wild[name][1].isnan().all()
        assert torch.equal(wild[name][[0, 2, 3]], calm[name][[0, 2, 3]])


def test_numbers_of_the_loss_are_each_trials_own():
    trainer = BatchedTrainer(lambda p, batch, hyper: (p["w"] - hyper["goal"]).square().sum(), rules.SGD())
    params = {"w": torch.zeros(3, 1)}
    state = trainer.init(params, {"lr": 0.5, "goal": torch.tensor([1.0, 2.0, 3.0])})
    params, _, _ = trainer.run(params, state, (torch.zeros(1),), torch.zeros(3, 1, 1, dtype=torch.int64))
    assert params["w"].flatten().tolist() == [1.0, 2.0, 3.0]
    assert params["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("hypers", "message"),
    [
        ({"nesterov": 1.0}, r"nesterov is a static: give it to Momentum\(...\)"),
        ({"lr": -1.0}, r"lr must lie in \[0, inf\); got -1"),
        ({"lr": torch.ones(3)}, r"lr must be a number or have shape \(2,\); got \(3,\)"),
    ],
)
def test_bad_hypers_are_named(hypers, message):
    trainer = BatchedTrainer(lambda p, b, h: p["w"].sum(), rules.Momentum())
    with pytest.raises(ValueError, match=message):
        trainer.init({"w": torch.zeros(2, 1)}, hypers)


def test_running_statistics_are_refused_before_training():
    with pytest.raises(ValueError, match="running statistics; got BatchNorm1d at '1'"):
        stack_modules([nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2)])


def test_unlike_modules_are_refused():
    with pytest.raises(ValueError, match="same parameters in the same shapes"):
        stack_modules([nn.Linear(2, 2), nn.Linear(2, 3)])


def test_an_index_for_another_number_of_trials_is_refused():
    trainer = BatchedTrainer(lambda p, b, h: p["w"].sum(), rules.SGD())
    params = {"w": torch.zeros(2, 1)}
    with pytest.raises(ValueError, match=r"index must have shape \(2, steps, batch\); got \(3, 1, 1\)"):
        trainer.run(params, trainer.init(params, {}), (torch.ones(1),), torch.zeros(3, 1, 1, dtype=torch.int64))


def test_a_loss_that_is_part_of_the_batch_is_kept():
    data, index = torch.arange(8.0)[:, None], torch.arange(60).view(2, 30, 1) % 8
    trainer = BatchedTrainer(lambda p, batch, hyper: batch[0][0, 0] + 0 * p["w"].sum(), rules.SGD())
    params = {"w": torch.ones(2, 1)}
    *_, losses = trainer.run(params, trainer.init(params, {"lr": torch.ones(2)}), (data,), index)
    assert torch.equal(losses, index[..., 0].float())
