"""Pieces of the claim on boosted networks."""

import numpy as np

from minimand.claims.boosted_networks import Split, root_mean_square


def test_a_split_is_two_halves_standardised_by_the_first():
    x = np.arange(40.0).reshape(20, 2)
    split = Split.drawn(x, np.arange(20) % 2, seed=0, classes=True)
    assert [len(split.train[0]), len(split.test[0])] == [10, 10]
    np.testing.assert_allclose(split.train[0].mean(0), 0, atol=1e-12)
    assert split.train[1].sum() == split.test[1].sum() == 5


def test_the_root_mean_square_of_three_and_four():
    assert root_mean_square(np.array([3.0, -4.0])) == np.sqrt(12.5)
