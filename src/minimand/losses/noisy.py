"""Learning from labels that may be wrong: fewer features, and the samples that a second network finds easy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import floor

import torch
from torch import Tensor, nn

from minimand._checks import (
    check_class_logits,
    check_count,
    check_floating,
    check_no_nan,
    check_same_device,
    check_same_shape,
)
from minimand.hyper import HyperSpec
from minimand.source import Source, from_paper

COMPRESSED = Source(
    "Compressing Features for Learning with Noisy Labels", "Chen et al.", 2022, "2206.13140", "sections 3 and 4"
)
WIDTH = HyperSpec(100.0, low=0.0, closed="neither")
CENTRE = HyperSpec(0.0)
FORGET = HyperSpec(0.0, low=0.0, high=1.0, closed="left")
PRICE = 1e-5  # of a feature, in accuracy


@from_paper(COMPRESSED)
class NestedDropout(nn.Module):
    """Keeps the first k features and zeroes the others, with one random k for the whole batch.

    P(k = j) proportional to e^{-((j - mu) / sigma)^2},  j = 1 .. D.

    The first features are kept most often and so learn what matters most; the later ones, which would memorise
    wrong labels, are rarely trained. What is kept is not rescaled. In evaluation the first ``keep`` features pass:
    all of them until ``keep`` is set, for instance to what ``select_keep`` chooses; it is part of the state.

    Args:
        dim: D, the number of features.
        sigma: in (0, inf); the authors take 100 for 512 features. There is no factor 2 in the exponent.
        mu: the likeliest number of features.

    Features of any shape (..., D) come back in their shape and type. Under ``vmap`` with ``randomness="different"``
    every example has its own k.

    Raises:
        ValueError, TypeError: for numbers outside their range, and features that are not (..., D).

    Source: Chen et al. (2022), arXiv:2206.13140, sections 3 and 4, and their code.

    >>> layer = NestedDropout(4, sigma=2.0).eval()
    >>> layer.keep = 2
    >>> layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    tensor([[1., 2., 0., 0.]])
    """

    kept: Tensor

    def __init__(self, dim: int, sigma: float = 100.0, mu: float = 0.0) -> None:
        super().__init__()
        check_count("dim", dim)
        WIDTH.check("sigma", sigma)
        CENTRE.check("mu", mu)
        self.dim, self.sigma, self.mu = dim, sigma, mu
        self.register_buffer("kept", torch.tensor(dim))

    @property
    def keep(self) -> int:
        """How many features pass in evaluation."""
        return int(self.kept)

    @keep.setter
    def keep(self, value: int) -> None:
        if not 1 <= value <= self.dim:
            raise ValueError(f"keep must lie in [1, {self.dim}]; got {value}")
        self.kept = torch.full_like(self.kept, value)

    def probs(self, device: torch.device | None = None) -> Tensor:
        """P(k = j) for j = 1 .. D, (D,) in float32."""
        number = torch.arange(1, self.dim + 1, dtype=torch.float32, device=device)
        return (-((number - self.mu) / self.sigma).square()).softmax(0)

    def forward(self, features: Tensor) -> Tensor:
        """The features (..., D), those after the first k set to 0."""
        features = check_floating("features", features)
        if not features.ndim or features.shape[-1] != self.dim:
            raise ValueError(f"features must have shape (..., {self.dim}); got {tuple(features.shape)}")
        k = self.kept
        if self.training:
            below = self.probs(features.device).cumsum(0)[:-1]
            k = 1 + (torch.rand((), device=features.device) >= below).sum()
        number = torch.arange(1, self.dim + 1, device=features.device)
        return features * (number <= k).to(features.dtype)  # a product, so that a NaN is not dropped unseen

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"{self.dim}, sigma={self.sigma}, mu={self.mu}, keep={self.keep}"


@from_paper(COMPRESSED)
@torch.no_grad()
def select_keep(
    features: Tensor,
    head: Callable[[Tensor], Tensor],
    target: Tensor,
    candidates: Iterable[int] | None = None,
) -> int:
    """The number of first features that predicts best: argmax_k accuracy(head(first k features)) - 1e-5 k.

    Args:
        features: (N, D), of rows that were not trained on. Their labels should be right: what noisy ones choose is
            noisy too.
        head: maps features (N, D), those past the k-th zeroed, to logits (N, C).
        target: (N,) class indices.
        candidates: the k to try; 1 to D unless given.

    Returns:
        k, for ``NestedDropout.keep``.

    Raises:
        ValueError, TypeError: for shapes or labels that do not fit, no rows, or no candidates in [1, D].

    Source: Chen et al. (2022), arXiv:2206.13140, section 4, and their code.

    >>> select_keep(torch.eye(3)[:2], lambda features: features, torch.tensor([0, 1]))
    2
    """
    features = check_floating("features", features, ndim=2)
    if not len(features):
        raise ValueError(f"features must have at least one row; got shape {tuple(features.shape)}")
    numbers = list(range(1, features.shape[1] + 1) if candidates is None else candidates)
    outside = [k for k in numbers if not 1 <= k <= features.shape[1]]
    if outside or not numbers:
        got = outside[0] if outside else "none"
        raise ValueError(f"candidates must lie in [1, {features.shape[1]}]; got {got}")
    number = torch.arange(1, features.shape[1] + 1, device=features.device)
    scores: dict[int, float] = {}
    for k in numbers:
        logits, label = check_class_logits(head(features * (number <= k).to(features.dtype)), target)
        scores[k] = float((logits.argmax(1) == label).double().mean()) - PRICE * k
    return max(scores, key=lambda k: scores[k])


@from_paper(COMPRESSED)
def exchange_small_loss(loss_a: Tensor, loss_b: Tensor, forget: float) -> tuple[Tensor, Tensor]:
    """Co-teaching's exchange: each of two networks learns from the samples whose loss is small to the other.

    Args:
        loss_a, loss_b: (N,), every sample's loss to network a and to network b.
        forget: the share of the batch to leave out, in [0, 1); it rises to the share of wrong labels over the first
            epochs of training. At least one sample is kept of a batch that has any.

    Returns:
        The rows for b to learn from, which a chose, and those for a, which b chose: both (ceil((1 - forget) N),),
        the smallest loss first. Samples of equal loss stand in the batch's order.

    Raises:
        ValueError, TypeError: for shapes, types, devices or numbers that do not fit.

    Source: Chen et al. (2022), arXiv:2206.13140, section 4, after Han et al. (2018), arXiv:1804.06872.

    >>> exchange_small_loss(torch.tensor([0.3, 0.1, 0.2]), torch.tensor([1.0, 2.0, 3.0]), forget=0.4)
    (tensor([1, 2]), tensor([0, 1]))
    """
    loss_a, loss_b = check_floating("loss_a", loss_a, ndim=1), check_floating("loss_b", loss_b, ndim=1)
    check_same_shape(loss_a=loss_a, loss_b=loss_b)
    check_same_device(loss_a=loss_a, loss_b=loss_b)
    FORGET.check("forget", forget)
    check_no_nan("loss_a", loss_a)
    check_no_nan("loss_b", loss_b)
    kept = len(loss_a) - floor(forget * len(loss_a) + 1e-9)
    return loss_a.detach().argsort(stable=True)[:kept], loss_b.detach().argsort(stable=True)[:kept]
