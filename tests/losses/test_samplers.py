"""Batch samplers: what may stand in one batch, how many batches there are, and that a seed repeats them."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from minimand.losses import DistinctLabelBatchSampler, SingleSourceBatchSampler


def most_batches(counts: list[int], batch_size: int) -> int:
    """As many batches as can be made, taking one sample each of the labels with most samples left."""
    left, batches = sorted(counts), 0
    while sum(count > 0 for count in left) >= batch_size:
        left = sorted(left[:-batch_size] + [count - 1 for count in left[-batch_size:]])
        batches += 1
    return batches


@pytest.mark.parametrize("counts", [[3, 3, 3, 3], [1, 1, 9], [5, 1, 2, 7, 7, 3], [40, 2, 2, 2, 2], [1], [4, 4]])
def test_no_batch_holds_a_label_twice_and_no_epoch_a_sample(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    for batch_size in range(1, len(counts) + 1):
        sampler = DistinctLabelBatchSampler(labels, batch_size, seed=3)
        batches = list(sampler)
        assert all(len({int(labels[i]) for i in batch}) == batch_size == len(batch) for batch in batches)
        assert len(set(itertools.chain(*batches))) == len(batches) * batch_size
        assert len(batches) == len(sampler) == most_batches(counts, batch_size)


def test_equal_classes_are_used_up_by_batches_of_them_all():
    labels = torch.arange(60) % 6
    sampler = DistinctLabelBatchSampler(labels, batch_size=6)
    assert sorted(itertools.chain(*sampler)) == list(range(60))


def test_every_sample_has_its_turn_over_epochs():
    sampler = DistinctLabelBatchSampler([0] * 20 + [1] * 3 + [2] * 3, batch_size=2)
    assert len(sampler) == 6
    assert set(itertools.chain(*(itertools.chain(*sampler) for _ in range(30)))) == set(range(26))


def test_companions_are_drawn_anew():
    labels = torch.arange(40) % 4
    sampler = DistinctLabelBatchSampler(labels, batch_size=2)
    beside_zero = {int(labels[i]) for _ in range(20) for batch in sampler if 0 in batch for i in batch} - {0}
    assert beside_zero == {1, 2, 3}


SAMPLERS = [
    lambda seed: DistinctLabelBatchSampler(torch.arange(50) % 10, batch_size=5, seed=seed),
    lambda seed: SingleSourceBatchSampler(torch.arange(50) % 3, batch_size=4, seed=seed),
]


@pytest.mark.parametrize("made", SAMPLERS)
def test_a_seed_and_an_epoch_say_all(made):
    first, second = made(1), made(1)
    epochs = [list(first) for _ in range(3)]
    assert epochs[0] != epochs[1]
    second.set_epoch(2)
    assert list(second) == epochs[2]
    assert list(made(2)) != epochs[0]


@pytest.mark.parametrize("made", SAMPLERS)
def test_the_global_generator_is_left_alone(made):
    before = torch.get_rng_state()
    list(made(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("made", SAMPLERS)
def test_a_loader_takes_it_as_its_batch_sampler(made):
    sampler = made(0)
    loader = DataLoader(TensorDataset(torch.arange(50)), batch_sampler=sampler)
    assert len(loader) == len(sampler)
    assert sum(len(rows) for (rows,) in loader) <= 50


@pytest.mark.parametrize(("drop_last", "expected"), [(False, [6, 3, 1]), (True, [5, 2, 0])])
def test_each_batch_is_of_one_source_and_sources_come_by_their_size(drop_last, expected):
    sources = torch.tensor([0] * 23 + [1] * 11 + [2] * 3)
    sampler = SingleSourceBatchSampler(sources, batch_size=4, drop_last=drop_last)
    batches = list(sampler)
    assert all(len(sources[batch].unique()) == 1 for batch in batches)
    assert [sum(int(sources[batch[0]]) == source for batch in batches) for source in range(3)] == expected
    assert len(sampler) == len(batches) == sum(expected)
    if not drop_last:
        assert sorted(itertools.chain(*batches)) == list(range(37))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: DistinctLabelBatchSampler([0, 1, 1], 3),
            ValueError,
            "batch_size must be .* different labels, 2; got 3",
        ),
        (
            lambda: DistinctLabelBatchSampler([0, 1], 0),
            ValueError,
            "batch_size must be at least 1; got 0",
        ),
        (lambda: DistinctLabelBatchSampler([0, 1], True), TypeError, "batch_size must be .*; got bool"),
        (
            lambda: DistinctLabelBatchSampler([], 1),
            ValueError,
            r"labels must have shape \(N,\) with N >= 1; got \(0,\)",
        ),
        (lambda: DistinctLabelBatchSampler([0.5], 1), TypeError, "labels must be integers; got dtype torch.float32"),
        (lambda: SingleSourceBatchSampler(torch.zeros(2, 2), 1), ValueError, r"sources must .*; got \(2, 2\)"),
    ],
)
def test_samplers_name_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
