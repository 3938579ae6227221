"""The pieces of the experiment with surrogates of logged designs."""

import pytest
import torch

from minimand.claims import ignite


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [("Styblinski-Tang", -2.903534, 6 * 39.16616570), ("Ackley", 0.0, 0.0), ("Rastrigin", 0.0, 0.0)],
)
def test_functions_are_largest_where_they_are_known_to_be(name, at, value):
    function, best = ignite.FUNCTIONS[name], torch.full((ignite.DIM,), at, dtype=torch.float64)
    near = best + 0.05 * torch.randn(200, ignite.DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert function(best).item() == pytest.approx(value, abs=1e-6)
    assert bool((function(near) < function(best)).all())


def test_a_log_holds_worse_designs_alone_in_order_and_standardised():
    log = ignite.Log.drawn(ignite.rastrigin, seed=0)
    assert log.designs.shape == (1000, 6)
    assert bool((log.values.diff() >= 0).all())
    for each in (log.designs, log.values[:, None]):
        torch.testing.assert_close(each.mean(0), torch.zeros(each.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(each.std(0), torch.ones(each.shape[1]), rtol=0, atol=1e-5)
    assert log.score(log.designs).max() < 0.1  # deviations above the mean, which is near the median
    assert torch.corrcoef(torch.stack([log.score(log.designs), log.values]))[0, 1].item() == pytest.approx(1, abs=1e-5)


def test_designs_outside_the_box_are_scored_on_its_surface():
    log = ignite.Log.drawn(ignite.styblinski_tang, seed=0)
    outside = (torch.full((6,), 7.0) - log.center) / log.spread
    corner = (torch.full((6,), 5.0) - log.center) / log.spread
    torch.testing.assert_close(log.score(outside), log.score(corner))


def test_surrogates_of_a_log_start_alike_and_the_multiplier_parts_them():
    logs = [ignite.Log.drawn(ignite.ackley, seed=0)]
    for steps, alike in ((0, True), (2, False)):
        params, _ = ignite.trained(logs, 900, steps, [0])
        assert torch.equal(params["0.weight"][0], params["0.weight"][-1]) == alike
