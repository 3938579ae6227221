"""Batch samplers for objectives that contrast the samples of a batch: who may stand beside whom.

Each is a ``batch_sampler`` for ``torch.utils.data.DataLoader``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from minimand._checks import check_count
from minimand.source import Source, from_paper

G_SIMCLR = Source(
    "G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via Pseudo Labelling",
    "Chakraborty et al.",
    2020,
    "2009.12007",
    "section III",
)
CODIEMB = Source(
    "CoDiEmb: A Collaborative yet Distinct Framework for Unified Representation Learning in Information Retrieval "
    "and Semantic Textual Similarity",
    "Zhang et al.",
    2025,
    "2508.11442",
)


class EpochBatchSampler(Sampler[list[int]], ABC):
    """Batches that are drawn anew in each epoch: by ``seed`` and epoch alone, wherever training resumes.

    Iterating again is the next epoch; ``set_epoch`` says which epoch the next pass is.
    """

    def __init__(self, batch_size: int, seed: int = 0) -> None:
        self.batch_size, self.seed, self.epoch = check_count("batch_size", batch_size), seed, 0

    @abstractmethod
    def __len__(self) -> int:
        """Batches an epoch."""

    @abstractmethod
    def _drawn(self, generator: torch.Generator) -> list[Tensor]:
        """One epoch's batches, in any order."""

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        )
        self.epoch += 1
        batches = self._drawn(generator)
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i].tolist()

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that of ``epoch``."""
        self.epoch = epoch


@from_paper(G_SIMCLR)
class DistinctLabelBatchSampler(EpochBatchSampler):
    """Full batches in which no label stands twice: with pseudo-labels for labels, few false negatives.

    An epoch has as many batches as can be made: the largest m with sum_k min(n_k, m) >= m * batch_size, n_k the
    samples of label k. No sample comes twice in it. What large classes have over m, and what does not fill a batch,
    is left out of this epoch; another epoch draws others.

    Args:
        labels: (N,) integers, a tensor or a sequence: the labels, or the clusters of what an encoder has learnt.
        batch_size: at most the number of different labels.
        seed: with the epoch, what the batches are drawn by.

    Raises:
        ValueError, TypeError: for labels that are not integers in one dimension, or a batch larger than their number.

    Source: Chakraborty et al. (2020), arXiv:2009.12007, section III: labels by k-means, with as many clusters as a
    batch has samples (64 in the authors' code), on the code of an autoencoder that was trained to undo noise. The
    authors sort all samples by their place within their cluster and cut; once the smallest cluster is used up, a
    label can then stand twice in a batch. Here it never does.

    >>> sampler = DistinctLabelBatchSampler([0, 0, 1, 1, 2, 2], batch_size=3)
    >>> len(sampler), sorted(i // 2 for i in next(iter(sampler)))
    (2, [0, 1, 2])
    """

    def __init__(self, labels: Tensor | Sequence[int], batch_size: int, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        found, self.label = _checked_labels("labels", labels).unique(return_inverse=True)
        if batch_size > len(found):
            raise ValueError(
                f"batch_size must be at most the number of different labels, {len(found)}; got {batch_size}"
            )
        self.counts = self.label.bincount()
        self.batches = _most_batches(self.counts, batch_size)

    def __len__(self) -> int:
        return self.batches

    def _drawn(self, generator: torch.Generator) -> list[Tensor]:
        """Samples label by label, dealt out to the m batches in turn: a label's at most m go to different ones."""
        if not self.batches:
            return []
        shuffled = torch.randperm(len(self.label), generator=generator)
        place = torch.randperm(len(self.counts), generator=generator)[self.label[shuffled]]  # labels in random order
        shuffled = shuffled[place.argsort(stable=True)]
        label = self.label[shuffled]
        first = torch.searchsorted(place.sort().values, place.sort().values)  # where each one's label begins
        kept = shuffled[torch.arange(len(label)) - first < self.batches]
        spare = torch.randperm(len(kept), generator=generator)[: self.batches * self.batch_size]
        dealt = kept[spare.sort().values]
        return list(dealt.view(self.batch_size, self.batches).T)


@from_paper(CODIEMB)
class SingleSourceBatchSampler(EpochBatchSampler):
    """Batches each from one source: one task's, one language's, one data set's.

    In an epoch every sample comes once, so sources are met in proportion to their size. The last batch of a source may
    be short.

    Args:
        sources: (N,) integers, a tensor or a sequence: where each sample comes from.
        batch_size: the samples of a batch.
        seed: with the epoch, what the batches are drawn by.
        drop_last: whether short batches are left out.

    Raises:
        ValueError, TypeError: for sources that are not integers in one dimension, or a batch of no size.

    Source: Zhang et al. (2025), arXiv:2508.11442: batches of a single task, so that each has the objective and the
    negatives of its own.

    >>> sampler = SingleSourceBatchSampler([0, 0, 0, 0, 1, 1], batch_size=2)
    >>> sorted(sorted(batch)[0] // 4 for batch in sampler)  # source 0 twice as often
    [0, 0, 1]
    """

    def __init__(
        self, sources: Tensor | Sequence[int], batch_size: int, seed: int = 0, *, drop_last: bool = False
    ) -> None:
        super().__init__(batch_size, seed)
        source = _checked_labels("sources", sources)
        self.members = [(source == each).nonzero()[:, 0] for each in source.unique()]
        self.drop_last = drop_last

    def __len__(self) -> int:
        short = 0 if self.drop_last else self.batch_size - 1
        return sum((len(rows) + short) // self.batch_size for rows in self.members)

    def _drawn(self, generator: torch.Generator) -> list[Tensor]:
        batches = []
        for rows in self.members:
            batches += rows[torch.randperm(len(rows), generator=generator)].split(self.batch_size)
        return [batch for batch in batches if len(batch) == self.batch_size or not self.drop_last]


def _most_batches(counts: Tensor, batch_size: int) -> int:
    """The largest m with sum_k min(n_k, m) >= m * batch_size, which holds up to it and for none beyond."""
    low, high = 0, int(counts.sum()) // batch_size
    while low < high:
        middle = (low + high + 1) // 2
        if int(counts.clamp(max=middle).sum()) >= middle * batch_size:
            low = middle
        else:
            high = middle - 1
    return low


def _checked_labels(name: str, labels: Tensor | Sequence[int]) -> Tensor:
    found = torch.as_tensor(labels)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"{name} must have shape (N,) with N >= 1; got {tuple(found.shape)}")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"{name} must be integers; got dtype {found.dtype}")
    return found.cpu().long()
