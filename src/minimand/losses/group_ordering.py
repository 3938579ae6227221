"""Group ordering: positives should come after negatives when similarities are sorted, whatever their order within."""

from __future__ import annotations

import torch
from torch import Tensor

from minimand._checks import check_count, check_floating, check_same_device, check_same_shape
from minimand._numerics import unit, upcast
from minimand.losses.loss import loss_function, module_of, narrowed, reduce, spec_of
from minimand.losses.sorting import STEEPNESS, mixed, relaxed_layers
from minimand.source import Source

GROCO = Source(
    "Learning by Sorting: Self-supervised Learning with Group Ordering Constraints",
    "Shvetsova et al.",
    2023,
    "2301.02009",
    "section 3",
)
LEAST_SHARE = 1e-7  # of an item in its own group, so that its logarithm is finite


@loss_function(GROCO, target="embeddings", steepness=STEEPNESS)
def group_ordering_loss(
    pos: Tensor, neg: Tensor, steepness: float | Tensor = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """What sorting must still change: -mean_i ln o_i, o_i the share of item i that lands among the ranks of its group.

    All similarities of an anchor are sorted as by ``soft_sort``, the negatives (themselves in order) before the
    positives; o_i sums row i of P over the first N ranks for a negative, over the last P ranks for a positive. It is
    above 0 however well the groups are apart: at a steepness of 1, and cosines, a swap is never nearly hard.

    Args:
        pos: (B, P) similarities of every anchor and its P >= 1 positives.
        neg: (B, N) those with its N >= 1 negatives.
        steepness: of the swaps, a number or 0-d tensor in (0, inf).
        reduction: "none" gives (B,), "mean" and "sum" a scalar.

    Raises:
        ValueError, TypeError: for shapes, types, devices or numbers that do not fit.

    Source: Shvetsova et al. (2023), arXiv:2301.02009, section 3, and their code: an odd-even network of Cauchy swaps
    with steepness 1. The code's two binary cross-entropies, of either group's share, are the same number.

    >>> group_ordering_loss(torch.tensor([[1.0]]), torch.tensor([[0.0]])).neg().exp()  # 1/2 + atan(1) / pi
    tensor(0.7500)
    """
    pos, neg = _checked_group("pos", pos), _checked_group("neg", neg)
    if neg.shape[0] != pos.shape[0]:
        raise ValueError(f"neg must have pos's {pos.shape[0]} rows; got shape {tuple(neg.shape)}")
    check_same_device(pos=pos, neg=neg)
    positive, negative = upcast(pos), upcast(neg)
    steepness = spec_of(group_ordering_loss).hyper("steepness", steepness, like=positive)
    both = torch.cat([negative.sort(-1).values, positive.sort(-1).values], -1)
    count = neg.shape[1]
    own = torch.arange(both.shape[1], device=both.device) < count  # P times a group's ranks, never P itself
    landed = torch.stack([own, ~own]).to(both.dtype).expand(len(both), 2, -1)
    for layer in reversed(relaxed_layers(both, steepness)[1]):
        landed = mixed(landed, layer)
    share = torch.where(own, landed[:, 0], landed[:, 1])
    return narrowed(reduce(-share.clamp(min=LEAST_SHARE).log().mean(-1), reduction), pos.dtype)


@loss_function(GROCO, target="embeddings", steepness=STEEPNESS)
def groco_loss(*views: Tensor, top_k: int = 10, steepness: float | Tensor = 1.0, reduction: str = "mean") -> Tensor:
    """GroCo: ``group_ordering_loss`` of the cosines of each view with its sample's other views and with its own batch.

    Every view of every sample is an anchor. Its positives are the other views of the sample, its negatives the
    ``top_k`` most similar samples in the same view; both are constants in the gradient, which moves the anchor alone.

    Args:
        views: two or more tensors (B, d), the embeddings of each view; a zero vector has cosine 0 with everything.
        top_k: how many negatives each anchor is sorted with, in [1, B - 1].
        steepness: see ``group_ordering_loss``.
        reduction: "none" gives (B,), the mean over a sample's views; "mean" and "sum" a scalar.

    Raises:
        ValueError, TypeError: for shapes, types, devices or numbers that do not fit.

    Source: Shvetsova et al. (2023), arXiv:2301.02009, section 3; 10 negatives as there.

    >>> views = torch.eye(2), torch.eye(2)  # each anchor: its positive at cosine 1, its negative at 0
    >>> groco_loss(*views, top_k=1).neg().exp()
    tensor(0.7500)
    """
    batches = _checked_views(views)
    count = batches[0].shape[0]
    if check_count("top_k", top_k) >= count:
        raise ValueError(f"top_k must lie in [1, {count - 1}], the other samples of the batch; got {top_k}")
    anchor = unit(torch.stack([upcast(batch) for batch in batches]))  # (V, B, d)
    constant = anchor.detach()
    others = torch.einsum("vbd,wbd->vwb", anchor, constant)
    number = len(batches)
    pos = torch.stack([others[v, [w for w in range(number) if w != v]] for v in range(number)])  # (V, V - 1, B)
    itself = torch.eye(count, dtype=torch.bool, device=anchor.device)
    neg = (anchor @ constant.mT).masked_fill(itself, -torch.inf).topk(top_k).values
    loss = group_ordering_loss(pos.mT.flatten(0, 1), neg.flatten(0, 1), steepness, reduction="none")
    return narrowed(reduce(loss.unflatten(0, (number, count)).mean(0), reduction), batches[0].dtype)


def _checked_group(name: str, value: object) -> Tensor:
    value = check_floating(name, value, ndim=2)
    if value.shape[1] == 0:
        raise ValueError(f"{name} must hold at least one similarity a row; got shape {tuple(value.shape)}")
    return value


def _checked_views(views: tuple[object, ...]) -> list[Tensor]:
    if len(views) < 2:
        raise ValueError(f"views must be at least two tensors (B, d); got {len(views)}")
    named = {f"views[{i}]": check_floating(f"views[{i}]", view, ndim=2) for i, view in enumerate(views)}
    check_same_shape(**named)
    check_same_device(**named)
    return list(named.values())


GroCoLoss = module_of(groco_loss, "GroCoLoss")
