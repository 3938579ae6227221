"""Refined schedules against SciPy's filters, and the bound against runs of the method that it is about."""

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter

from minimand import optim
from minimand.optim import ScheduleRecorder, last_iterate_bound, last_iterate_steps, refine_schedule

RUN = torch.tensor([5, 4, 3, 2, 1, 1, 1, 1, 2, 4], dtype=torch.float64)


def random_norms(length, seed=0):
    return torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


def test_constant_norms_give_linear_decay():
    wanted = (9 - np.arange(10)) / 9
    assert refine_schedule(torch.full((10,), 3.0, dtype=torch.float64)).tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("power", "wanted"),
    [
        (
            2,
            (
                0.056269841,
                0.086805556,
                0.150793651,
                0.321428571,
                1,
                0.714285714,
                0.428571429,
                0.142857143,
                0.017857143,
                0,
            ),
        ),
        (1, (0.304166667, 0.364583333, 0.458333333, 0.625, 1, 0.75, 0.5, 0.25, 0.0625, 0)),
    ],
)
def test_golden_schedules(power, wanted):
    assert refine_schedule(RUN, tau=0.3, power=power).tolist() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("length", "tau"), [(57, 0.1), (57, 0.5), (40, 1.0), (3, 1.0), (2, 1.0), (30, 0.0)])
def test_the_filter_is_scipys_over_a_padded_run(length, tau):
    norms = random_norms(length).numpy()
    width = 2 * (int(tau * length) // 2) + 1
    padded = np.pad(norms, (0, min(2 * width, length - 1)), mode="reflect")
    weights = median_filter(padded, size=width, mode="nearest")[:length] ** -2.0
    steps = weights * (weights.sum() - np.cumsum(weights))
    wanted = steps / steps.max()
    np.testing.assert_allclose(refine_schedule(torch.from_numpy(norms), tau).numpy(), wanted, atol=1e-12)


def test_long_runs_are_filtered_in_parts(monkeypatch):
    norms = random_norms(101)
    whole = refine_schedule(norms, tau=0.3)
    monkeypatch.setattr("minimand.optim.refine.SORTED_AT_ONCE", 100)
    assert torch.equal(refine_schedule(norms, tau=0.3), whole)


def test_a_schedule_does_not_depend_on_the_unit_of_the_norms():
    norms = random_norms(30).float()
    for unit in (1e-30, 1e30):
        torch.testing.assert_close(refine_schedule(norms * unit), refine_schedule(norms))


def test_equal_weights_step_as_linear_decay_does():
    steps = last_iterate_steps(torch.full((10,), 0.3, dtype=torch.float64))
    assert steps.tolist() == pytest.approx([0.3 * optim.linear_decay(t + 1, 10) for t in range(10)], abs=1e-12)


def test_the_weights_of_the_theory_give_distance_times_norm_over_root_t():
    distance, norm, steps = 3.0, 2.0, 50
    weights = torch.full((steps,), distance / (norm * steps**0.5), dtype=torch.float64)
    bound = last_iterate_bound(weights, torch.full_like(weights, norm), distance)
    assert bound.item() == pytest.approx(distance * norm / steps**0.5, rel=1e-12)


def test_the_bound_holds_on_every_random_maximum_of_absolute_values():
    # f(x) = max_i |a_i . (x - z)| is convex with minimum 0 at z; 300 problems at once, each with weights of its own.
    generator = torch.Generator().manual_seed(0)
    rows, best = torch.randn(300, 8, 5, generator=generator), torch.randn(300, 5, generator=generator)
    weights = 10 ** (2 * torch.rand(300, 1, generator=generator) - 2) * (0.1 + torch.rand(300, 40, generator=generator))
    steps, x, norms = last_iterate_steps(weights), torch.zeros(300, 5), []
    for t in range(40):
        slopes = torch.einsum("pij,pj->pi", rows, x - best)
        active = slopes.abs().argmax(1)
        sign = slopes[torch.arange(300), active].sign()
        subgradient = sign[:, None] * rows[torch.arange(300), active]
        norms.append(subgradient.norm(dim=1))
        last = x
        x = x - steps[:, t : t + 1] * subgradient
    assert torch.equal(last, x)  # the last step is zero
    value = torch.einsum("pij,pj->pi", rows, x - best).abs().amax(1)
    bound = last_iterate_bound(weights, torch.stack(norms, 1), 0.0)
    bound = bound + best.square().sum(1) / (2 * weights.sum(1))  # the distance is each problem's own
    assert (value <= bound).all()
    assert (value > bound / 20).any()  # and is not idle


# The recorder.


def train(optimizer, params, steps, after_backward=lambda: None):
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        found.append(torch.cat([param.grad.flatten() for param in params]))
        after_backward()
        optimizer.step()
    return torch.stack(found)


@pytest.mark.parametrize(
    ("make", "norm", "order", "power"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "l2", 2, 2.0),
        (lambda p: torch.optim.Adam(p), "l1", 1, 1.0),
        (lambda p: optim.AdamW(p), "l1", 1, 1.0),
    ],
)
def test_a_recorder_gives_lambdalr_the_schedule_of_the_runs_norms(make, norm, order, power):
    params = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))]
    optimizer = make(params)
    recorder = ScheduleRecorder(optimizer, norm)
    gradients = train(optimizer, params, 25)
    torch.testing.assert_close(recorder.norms, gradients.norm(order, dim=1))
    wanted = refine_schedule(gradients.norm(order, dim=1).double(), 0.2, power)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, recorder.schedule(tau=0.2))
    rates = []
    for _ in range(25):
        rates.append(scheduler.get_last_lr()[0] / scheduler.base_lrs[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(wanted.tolist(), rel=1e-5)
    assert scheduler.get_last_lr() == [0.0]
    assert scheduler.state_dict()["lr_lambdas"][0]["values"] == pytest.approx(wanted.tolist(), rel=1e-5)


def test_norms_recorded_before_clipping_are_kept():
    params = [torch.nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.SGD(params, lr=0.1)
    recorder = ScheduleRecorder(optimizer)

    def clip():
        recorder.record()
        torch.nn.utils.clip_grad_norm_(params, 1e-3)

    gradients = train(optimizer, params, 6, clip)
    torch.testing.assert_close(recorder.norms, gradients.norm(dim=1))
    train(optimizer, params, 2)  # and without a call every step records again
    assert len(recorder.norms) == 8


def test_a_closed_recorder_hears_no_more_and_a_narrow_gradient_is_summed_in_float32():
    params = [torch.nn.Parameter(torch.zeros(3, dtype=torch.float16))]
    params[0].grad = torch.full((3,), 60000.0, dtype=torch.float16)
    optimizer = torch.optim.SGD(params, lr=0.0)
    recorder = ScheduleRecorder(optimizer)
    optimizer.step()
    recorder.close()
    optimizer.step()
    assert recorder.norms.tolist() == pytest.approx([60000 * 3**0.5], rel=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda o: ScheduleRecorder("sgd"), TypeError, "optimizer must be a torch.optim.Optimizer; got str"),
        (lambda o: ScheduleRecorder(o, "l3"), ValueError, "norm must be one of 'l2', 'l1'; got 'l3'"),
        (lambda o: ScheduleRecorder(o).record(), ValueError, "gradients must be there.*; got none"),
        (lambda o: ScheduleRecorder(o).schedule(), ValueError, r"norms must have shape .*; got \(0,\)"),
    ],
)
def test_bad_input_is_named(call, error, message):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(error, match=message):
        call(optimizer)


def test_a_run_that_stood_still_is_refused():
    with pytest.raises(ValueError, match="norms must be positive and finite; got 0 at flat position 1"):
        refine_schedule(torch.tensor([1.0, 0.0, 1.0]))


# The schedules that it is compared with.


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (optim.inverse_sqrt, lambda t, s: (s / (t + 1)) ** 0.5),
        (optim.inverse_time, lambda t, s: s / (t + 1)),
    ],
)
def test_inverse_schedules_fall_from_the_end_of_the_warm_up(schedule, wanted):
    assert [schedule(t, 50) for t in range(5)] == pytest.approx([wanted(t, 1) for t in range(5)])
    warm = [schedule(t, 50, warmup=10) for t in range(50)]
    assert warm[:10] == pytest.approx([(t + 1) / 10 for t in range(10)])
    assert warm[10:] == pytest.approx([wanted(t, 10) for t in range(10, 50)])
    tensors = schedule(torch.arange(50, dtype=torch.float64), 50, warmup=10)
    assert tensors.tolist() == pytest.approx(warm)


def test_step_decay_falls_tenfold_at_its_shares_of_the_run():
    values = [optim.step_decay(t, 20, drops=(0.5, 0.75)) for t in range(20)]
    assert values == pytest.approx([1.0] * 10 + [0.1] * 5 + [0.01] * 5)
    tensors = optim.step_decay(torch.arange(20, dtype=torch.float64), 20, drops=(0.5, 0.75))
    assert tensors.tolist() == pytest.approx(values, rel=1e-12)
