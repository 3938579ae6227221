"""Offline search: the gradient of a gradient's norm against closed forms, and ascent against torch's optimizers."""

import pickle

import pytest
import torch
from torch import nn

from minimand.optim import IgniteMultiplier, ascend_surrogate, gradient_norm_penalty, rules

FLOAT64 = {"dtype": torch.float64}
CURVATURE = torch.tensor([1.0, 2.0, 3.0], **FLOAT64)


def bowl(params, x):
    """Half b^T diag(1, 2, 3) b, whatever the design."""
    return (CURVATURE * params["b"].square()).sum() / 2 * torch.ones_like(x)


def slope_of(predict, params, x, **options):
    return torch.func.grad(lambda b: gradient_norm_penalty(predict, b, x, **options))(params)


def tanh_network(seed=0):
    """A network 4-16-1 in float64, its parameters, and 20 designs."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0)).double()
    params = {k: torch.randn(v.shape, generator=generator, **FLOAT64) / 2 for k, v in network.named_parameters()}
    x = torch.randn(20, 4, generator=generator, **FLOAT64)
    return lambda p, x: torch.func.functional_call(network, p, (x,)), params, x


@pytest.mark.parametrize("r", [None, 1e-3, 0.05, 10.0])
def test_golden_gradient_for_a_quadratic_by_any_difference(r):
    params, x = {"b": torch.ones(3, **FLOAT64)}, torch.zeros(4, **FLOAT64)
    found = slope_of(bowl, params, x, rho=1.0, r=r)["b"]
    assert found.tolist() == pytest.approx((0.267261242, 1.069044968, 2.405351177), abs=1e-9)
    assert gradient_norm_penalty(bowl, params, x, 2.0, r).item() == pytest.approx(2 * 14**0.5)


@pytest.mark.parametrize(("r", "error"), [(1e-3, 1e-3), (0.05, 0.05)])
def test_the_difference_for_a_tanh_network_is_near_the_exact_gradient(r, error):
    predict, params, x = tanh_network()
    exact, near = (
        torch.cat([g.flatten() for g in slope_of(predict, params, x, rho=0.05, r=each).values()]) for each in (None, r)
    )
    assert 0 < (near - exact).norm() / exact.norm() < error


def test_the_exact_gradient_is_the_values_difference_quotient():
    predict, params, x = tanh_network()
    values = [
        gradient_norm_penalty(predict, {k: v + t * v.cos() for k, v in params.items()}, x, 0.5) for t in (-1e-5, 1e-5)
    ]
    along = sum((g * params[k].cos()).sum() for k, g in slope_of(predict, params, x, rho=0.5).items())
    assert along.item() == pytest.approx((values[1] - values[0]).item() / 2e-5, rel=1e-6)


@pytest.mark.parametrize("r", [None, 0.05])
def test_where_predictions_do_not_depend_on_the_parameters_value_and_gradient_are_0(r):
    params, x = {"b": torch.zeros(3, **FLOAT64)}, torch.zeros(4, **FLOAT64)
    assert gradient_norm_penalty(bowl, params, x, 1.0, r).item() == 0
    assert slope_of(bowl, params, x, rho=1.0, r=r)["b"].tolist() == [0, 0, 0]


def test_the_mean_and_not_the_sum_of_predictions_is_held_still():
    predict, params, x = tanh_network()
    once = gradient_norm_penalty(predict, params, x)
    assert gradient_norm_penalty(predict, params, torch.cat([x, x])).item() == pytest.approx(once.item(), rel=1e-12)


@pytest.mark.parametrize("r", [None, 0.05])
def test_it_reaches_a_modules_own_parameters_and_leaves_their_values(r):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    before = [p.detach().clone() for p in module.parameters()]
    params = dict(module.named_parameters())
    gradient_norm_penalty(
        lambda p, x: torch.func.functional_call(module, p, (x,)), params, torch.ones(2, 3), r=r
    ).backward()
    for weight in (module[0].weight, module[2].weight):
        assert bool(weight.grad.isfinite().all())
        assert weight.grad.abs().sum() > 0
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


def test_differences_of_bfloat16_parameters_are_not_lost():
    predict, params, x = tanh_network()
    narrow = {name: value.bfloat16() for name, value in params.items()}
    found = slope_of(predict, narrow, x.bfloat16(), rho=0.05, r=1e-3)
    wanted = slope_of(predict, {k: v.double() for k, v in narrow.items()}, x.bfloat16().double(), rho=0.05)
    for name, value in found.items():
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value.double(), wanted[name], rtol=0.02, atol=2e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -1.0}, r"rho must lie in \[0, inf\); got -1"),
        ({"r": 0.0}, r"r must lie in \(0, inf\); got 0"),
        ({"params": {}}, "params must hold at least one tensor; got none"),
        ({"x": torch.zeros(0)}, r"x must hold at least one design; got shape \(0,\)"),
    ],
)
def test_what_the_penalty_does_not_take_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        gradient_norm_penalty(bowl, **{"params": {"b": torch.ones(3)}, "x": torch.zeros(2), **options})


def test_the_multiplier_climbs_above_the_bound_falls_below_it_and_stops_at_0():
    multiplier = IgniteMultiplier(start=0.3, epsilon=1.0, rate=0.25)
    seen = []
    for penalty in (2.0, 0.0, 0.0, 0.0, 5.0):
        multiplier(torch.tensor(penalty))
        seen.append(multiplier.value.item())
    assert seen == pytest.approx([0.55, 0.3, 0.05, 0.0, 1.0])


def test_the_multiplier_of_a_step_is_the_one_before_it_in_value_and_gradient():
    multiplier, penalty = IgniteMultiplier(start=0.5, epsilon=0.0, rate=1.0), torch.tensor(4.0, requires_grad=True)
    charged = multiplier(penalty)
    charged.backward()
    assert (charged.item(), penalty.grad.item(), multiplier.value.item()) == (2.0, 0.5, 4.5)


def test_the_multiplier_rests_at_rate_0_and_in_evaluation_mode():
    for multiplier in (IgniteMultiplier(start=0.5, rate=0.0), IgniteMultiplier(start=0.5).eval()):
        multiplier(torch.tensor(4.0))
        assert multiplier.value.item() == 0.5


def test_the_multiplier_keeps_types_shows_nan_and_goes_on_from_its_state():
    multiplier = IgniteMultiplier(start=0.5)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert multiplier(torch.tensor(4.0, dtype=dtype)).dtype == dtype
    twin = IgniteMultiplier()
    twin.load_state_dict(multiplier.state_dict())
    for each in (twin, pickle.loads(pickle.dumps(multiplier))):
        assert torch.equal(each(torch.tensor(2.0)), 2 * multiplier.value)
    multiplier(torch.tensor(torch.nan))
    assert bool(multiplier.value.isnan())


@pytest.mark.parametrize("name", ["start", "epsilon", "rate"])
def test_what_the_multiplier_does_not_take_is_named(name):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, inf\); got -1"):
        IgniteMultiplier(**{name: -1.0})
    with pytest.raises(ValueError, match=r"penalty must have 0 dimensions; got shape \(1,\)"):
        IgniteMultiplier()(torch.ones(1))
    with pytest.raises(TypeError, match="penalty must be a floating-point tensor; got float"):
        IgniteMultiplier()(1.0)


def peaks(x):
    return -(x**4 - 2 * x.square() + 0.3 * x).sum(1)


@pytest.mark.parametrize(
    ("rule", "peer"), [(None, torch.optim.Adam), (rules.SGD(), torch.optim.SGD)], ids=["Adam", "plain ascent"]
)
def test_ascent_is_what_torchs_optimizer_does(rule, peer):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), **FLOAT64)
    found = ascend_surrogate(peaks, x, 30, 0.02, rule)
    own = x.clone().requires_grad_()
    optimizer = peer([own], lr=0.02, maximize=True)
    for _ in range(30):
        optimizer.zero_grad()
        peaks(own).sum().backward()
        optimizer.step()
    torch.testing.assert_close(found, own.detach(), rtol=0, atol=1e-12)
    assert bool((peaks(found) > peaks(x)).all())


def test_a_design_goes_where_it_would_go_alone():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), **FLOAT64)
    alone = torch.cat([ascend_surrogate(peaks, row[None], 5) for row in x])
    assert torch.equal(ascend_surrogate(peaks, x, 5), alone)
    assert torch.equal(ascend_surrogate(peaks, x, 0), x)
    assert ascend_surrogate(peaks, x[:0], 5).shape == (0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must be at least 0; got -1"),
        ({"lr": -1.0}, r"lr must lie in \[0, inf\); got -1"),
        ({"rule": rules.Muon()}, "rule must act on elements, so that designs do not mix; got Muon"),
        ({"predict": torch.sum}, r"predict\(x\) must have shape \(2,\), one a row of x; got \(\)"),
    ],
)
def test_what_the_ascent_does_not_take_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        ascend_surrogate(**{"predict": peaks, "x": torch.zeros(2, 3), **options})
