"""The pieces of the experiment with searches that are learnt."""

import pytest
import torch

from minimand.claims import meta_bo_nap
from minimand.claims.meta_bo_nap import Functions, Learners
from minimand.optim import expected_records


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_functions_have_the_processs_mean_and_covariance():
    functions = Functions.drawn(4000, generator())
    assert functions.candidates.shape == (4000, 30, 1)
    assert functions.values.mean().item() == pytest.approx(0, abs=0.03)
    assert functions.values.square().mean().item() == pytest.approx(1, abs=0.03)
    gap = (functions.candidates[:, 0, 0] - functions.candidates[:, 1, 0]).abs()
    product = functions.values[:, 0] * functions.values[:, 1]
    wanted = (-gap.square() / 2).exp().mean().item()
    assert product.mean().item() == pytest.approx(wanted, abs=0.06)


def test_the_exact_regret_of_chance_is_that_of_random_searches():
    functions = Functions.drawn(3, generator())
    many = Functions.stacked([functions] * 2000)
    chosen = meta_bo_nap.play(many, meta_bo_nap.blindly, meta_bo_nap.gumbel(many, generator(1)))
    assert bool((chosen.sort(-1).values.diff(dim=-1) > 0).all())  # none twice
    found = many.regret(chosen)[..., -1].double().mean(0)
    torch.testing.assert_close(found, functions.random_regret(), rtol=0.08, atol=0)


def test_expected_improvement_soon_finds_the_best():
    functions = Functions.drawn(20, generator())
    regret = functions.regret(meta_bo_nap.play(functions, meta_bo_nap.by_expected_improvement))
    assert bool((regret.diff(dim=-1) <= 0).all())
    assert regret[:, -1].mean() < 0.02 < 0.2 < regret[:, 0].mean()


def test_replayed_choices_have_the_probabilities_that_they_were_drawn_with():
    learners = Learners.started([0])
    functions = Functions.stacked([Functions.drawn(2, generator())] * 2)
    seen = []

    def score(*given):
        seen.append(learners.score(*given).masked_fill(given[-1], -torch.inf).log_softmax(-1))
        return seen[-1]

    chosen = meta_bo_nap.play(functions, score, meta_bo_nap.gumbel(functions, generator()))
    policy, value, likelihood = learners.replay(functions, chosen)
    drawn = torch.stack(seen, -2).gather(-1, chosen[..., None])[..., 0]
    torch.testing.assert_close(policy.detach(), drawn, rtol=0, atol=1e-5)
    assert (policy.shape, value.shape, likelihood.shape) == ((2, 2, 8), (2, 2, 8), (2,))


def test_processes_of_a_seed_start_alike_and_the_likelihood_parts_them():
    learners = Learners.started([0, 1])
    weight = learners.params["embed_point.weight"]
    assert torch.equal(weight[:2], weight[2:])
    assert not torch.equal(weight[0], weight[1])
    assert learners.likelihoods.tolist() == [1.0, 1.0, 0.0, 0.0]
    functions = Functions.drawn(4, generator())
    learners.learn(1, lambda _: Functions.stacked([functions] * 4), generator())
    assert not torch.equal(weight[:2], weight[2:])


def test_records_of_random_orders_are_those_expected():
    found = meta_bo_nap.records(2000, seed=0)
    assert abs(found.mean - expected_records(100)) < 4 * found.error
