"""Pieces of the claims on online mirror descent and on TrAct."""

import numpy as np
import pytest
import torch

from minimand.claims import optimistic_omd, tract


def test_the_epochs_needed_are_counted_from_one_and_a_run_that_never_gets_there_counts_one_more():
    curves = np.array([[0.9, 0.96, 0.94], [0.5, 0.6, 0.7], [0.95, 0.99, 0.99]])
    assert tract.epochs_needed(curves).tolist() == [2, 4, 1]


def test_every_epoch_sees_each_row_at_most_once():
    order = tract.data_order(200, epochs=2, steps=3, seed=0)
    assert order.shape == (6, tract.BATCH)
    for epoch in order.view(2, -1):
        assert len(epoch.unique()) == 3 * tract.BATCH


def test_both_first_layers_start_alike():
    with_tract, without = tract.network(True, 5), tract.network(False, 5)
    for ours, theirs in zip(with_tract.parameters(), without.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(tract.network(False, 6)[0].weight, without[0].weight)


def test_the_best_point_in_hindsight_leaves_a_regret_that_no_other_exceeds():
    generator = torch.Generator().manual_seed(0)
    centers = optimistic_omd.CENTER * optimistic_omd.on_sphere((3, optimistic_omd.DIM), generator)
    quiet = optimistic_omd.regret_at((5, 20), 0.0, centers, generator)
    assert quiet.shape == (2, 3)
    assert (quiet > 0).all()
    np.testing.assert_allclose(quiet[:, 0], quiet[:, 1])  # no direction is another's better


def test_the_bound_without_noise_does_not_depend_on_the_horizon():
    assert optimistic_omd.bound(0.0, 500) == optimistic_omd.bound(0.0, 8000)
    grown = optimistic_omd.bound(0.5, 800) - optimistic_omd.bound(0.5, 0)
    assert grown == pytest.approx(200.0)  # 10 sqrt(2 * 800 / 4)
