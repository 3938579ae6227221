"""More from hard cases: weights for hard queries, hard negatives found and made, and the loss at nested widths.

What these answer goes into ``info_nce``: ``weights=focal_weights``, ``extra=mix_negative_pairs(...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minimand._checks import (
    check_count,
    check_floating,
    check_indices,
    check_range,
    check_same_device,
    check_same_shape,
)
from minimand._numerics import unit, upcast
from minimand.hyper import HyperSpec, LogUniform, Uniform
from minimand.losses.contrastive import check_pair_of_embeddings
from minimand.losses.loss import narrowed
from minimand.source import Source, from_paper

KALM = Source(
    "KaLM-Embedding-V2: Superior Training Techniques and Data Inspire A Versatile Embedding Model",
    "Zhao et al.",
    2025,
    "2506.20923",
)
GAMMA = HyperSpec(0.5, low=0.0, closed="left", search=Uniform(0.0, 2.0))
TEMPERATURE = HyperSpec(0.01, low=0.0, closed="neither", search=LogUniform(0.01, 1.0))


@from_paper(KALM)
def focal_weights(probs: Tensor, gamma: float = 0.5) -> Tensor:
    """(1 - p)^gamma, a constant in the gradient: queries count the less the surer they find their own key.

    Args:
        probs: the probabilities p of the positives, any shape, in [0, 1].
        gamma: a number in [0, inf); 0 weighs all by 1.

    Raises:
        ValueError, TypeError: for what is no probability, or a gamma out of range.

    Source: Zhao et al. (2025), arXiv:2506.20923. That gamma is 0.5 and the weight a constant could not be confirmed.
    With gradient, a gamma below 1 would have an infinite slope at p = 1.

    >>> focal_weights(torch.tensor([0.0, 0.75, 1.0]))
    tensor([1.0000, 0.5000, 0.0000])
    """
    probs = check_floating("probs", probs)
    check_range("probs", probs.nan_to_num(0.0), 0, 1)  # NaN is answered with NaN
    GAMMA.check("gamma", gamma)
    return (1 - upcast(probs.detach())).pow(gamma).to(probs.dtype)


@from_paper(KALM)
def hardest_negatives(query: Tensor, key: Tensor, positive: Tensor | None = None, *, count: int) -> Tensor:
    """The keys (N, count, d) nearest to each query by cosine, the nearest first, its positive left out.

    Only the choice is a constant in the gradient; the keys themselves carry it.

    Args:
        query: (N, d) embeddings.
        key: (M, d).
        positive: (N,) index in [0, M) of each query's own key; None pairs row i with row i.
        count: how many, in [1, M - 1].

    Raises:
        ValueError, TypeError: for shapes, types, devices, indices or a count that do not fit.

    Source: Zhao et al. (2025), arXiv:2506.20923.

    >>> key = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> hardest_negatives(key[:1], key, torch.tensor([0]), count=1)
    tensor([[[0.8000, 0.6000]]])
    """
    query, key = check_pair_of_embeddings(query, key)
    if positive is None:
        check_same_shape(query=query, key=key)
        positive = torch.arange(len(query), device=query.device)
    positive = check_indices("positive", positive, len(key), "key", query, "query")
    if check_count("count", count) >= len(key):
        raise ValueError(f"count must be less than the number of keys, {len(key)}; got {count}")
    vectors = unit(upcast(query.detach()))
    near = vectors @ unit(key.detach().to(vectors.dtype)).mT
    own = torch.arange(len(key), device=key.device) == positive[:, None]
    chosen = key[near.masked_fill(own, -torch.inf).topk(count, dim=1).indices]
    return torch.where(near.isnan().any(1)[:, None, None], torch.nan, chosen)


@from_paper(KALM)
def mix_negative_pairs(
    negatives: Tensor, share: Tensor | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """Each negative mixed with the next: m_a = (s_a h_a + (1 - s_a) h_{a+1}) over its length, h unit vectors.

    Mixed negatives belong beside the plain ones in the denominator: ``info_nce(..., extra=m)``.

    Args:
        negatives: (N, k, d), such as ``hardest_negatives``; the last is mixed with the first.
        share: (N, k) s in [0, 1], how much of a negative stays itself; None draws from Beta(2, 2).
        generator: what ``share`` is drawn with.

    Raises:
        ValueError, TypeError: for shapes, types, devices or shares that do not fit.

    Source: Zhao et al. (2025), arXiv:2506.20923, pairwise mixing. Neither Beta(2, 2) nor which pairs the authors mix
    could be confirmed.

    >>> mix_negative_pairs(torch.eye(2)[None], torch.tensor([[1.0, 0.5]]))
    tensor([[[1.0000, 0.0000],
             [0.7071, 0.7071]]])
    """
    negatives = check_floating("negatives", negatives, ndim=3)
    vectors = unit(upcast(negatives))
    if share is None:
        # the median of three uniform numbers is Beta(2, 2); torch's own Beta takes no generator
        three = torch.rand(*negatives.shape[:2], 3, generator=generator, dtype=vectors.dtype, device=vectors.device)
        share = three.median(-1).values
    elif check_floating("share", share).shape != negatives.shape[:2]:
        raise ValueError(
            f"share must have shape {tuple(negatives.shape[:2])}, one a negative; got {tuple(share.shape)}"
        )
    check_same_device(negatives=negatives, share=share)
    check_range("share", share, 0, 1)
    share = share.to(vectors.dtype)[..., None]
    return unit(share * vectors + (1 - share) * vectors.roll(-1, 1)).to(negatives.dtype)


@from_paper(KALM)
def mix_negative_lists(query: Tensor, negatives: Tensor, temperature: float = 0.01) -> Tensor:
    """One negative (N, 1, d) of all k: sum_a softmax_a(cos(q, h_a) / tau) h_a over its length, h unit vectors.

    Args:
        query: (N, d) embeddings.
        negatives: (N, k, d), each query's own, with k of at least 1.
        temperature: tau, a number in (0, inf); the smaller, the nearer to the hardest alone.

    Raises:
        ValueError, TypeError: for shapes, types, devices or a temperature that do not fit.

    Source: Zhao et al. (2025), arXiv:2506.20923, listwise mixing. The weights' softmax could not be confirmed; its
    temperature is that of the authors' training.

    >>> mix_negative_lists(torch.ones(1, 2), torch.eye(2)[None])  # equally near: their mean
    tensor([[[0.7071, 0.7071]]])
    """
    query, negatives = check_floating("query", query, ndim=2), check_floating("negatives", negatives, ndim=3)
    if (negatives.shape[0], negatives.shape[2]) != tuple(query.shape) or not negatives.shape[1]:
        rows, width = query.shape
        raise ValueError(f"negatives must have shape ({rows}, k, {width}) with k >= 1; got {tuple(negatives.shape)}")
    check_same_device(query=query, negatives=negatives)
    TEMPERATURE.check("temperature", temperature)
    vectors = unit(upcast(negatives))
    near = torch.einsum("nd,nkd->nk", unit(upcast(query)).to(vectors.dtype), vectors)
    mixed = torch.einsum("nk,nkd->nd", (near / temperature).softmax(1), vectors)
    return unit(mixed)[:, None].to(query.dtype)


@from_paper(KALM)
def nested_dims(
    loss_fn: Callable[..., Tensor], dims: Sequence[int], weights: Sequence[float] | None = None
) -> Callable[..., Tensor]:
    """A loss at several widths at once, so that an embedding's first numbers are an embedding themselves.

    L(z, ...) = sum_m w_m loss_fn(z[..., :m] over its length, ...),  every positional argument cut so.

    Args:
        loss_fn: a loss of embeddings, such as ``nt_xent``; the options of the call are handed on as they are.
        dims: the widths m, each at least 1 and at most that of the embeddings.
        weights: the w_m, as many as widths; None for 1. The sum is not divided by theirs.

    Raises:
        ValueError, TypeError: for widths or weights that do not fit.

    Source: Zhao et al. (2025), arXiv:2506.20923; the authors train at 896, 512, 256, 128 and 64 with weights 1, 0.3,
    0.2, 0.1 and 0.1. The idea is Matryoshka learning: Kusupati et al. (2022), arXiv:2205.13147.

    >>> from minimand.losses import nt_xent
    >>> za, zb = torch.eye(4), torch.eye(4).flip(0)
    >>> both = nested_dims(nt_xent, dims=(4, 2), weights=(1.0, 0.5))(za, zb)
    >>> both == nt_xent(za, zb) + 0.5 * nt_xent(za[:, :2], zb[:, :2])
    tensor(True)
    """
    dims = tuple(dims)
    shares = (1.0,) * len(dims) if weights is None else tuple(weights)
    if not dims or min(dims) < 1:
        raise ValueError(f"dims must be widths of at least 1; got {dims}")
    if len(shares) != len(dims):
        raise ValueError(f"weights must be {len(dims)} numbers, one a width; got {len(shares)}")

    def nested(*embeddings: Tensor, **options: object) -> Tensor:
        for i, given in enumerate(embeddings):
            width = check_floating(f"embeddings[{i}]", given).shape[-1]
            if max(dims) > width:
                raise ValueError(f"dims must be at most the embeddings' width {width}; got {dims}")
        parts = [loss_fn(*(unit(upcast(z[..., :m])) for z in embeddings), **options) for m in dims]
        total = shares[0] * parts[0]
        for share, part in zip(shares[1:], parts[1:], strict=True):
            total = total + share * part
        return narrowed(total, embeddings[0].dtype)

    return nested
