"""Fairness: a penalty on predictions that depend on protected attributes, and a measure of how far groups differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from minimand._checks import (
    check_choice,
    check_count,
    check_floating,
    check_no_nan,
    check_same_device,
    check_tensor,
    is_concrete,
)
from minimand._numerics import upcast
from minimand.divergences.distance_covariance import MULTITYPE, WEIGHT, as_matrices, mean_product
from minimand.hyper import HyperSpec
from minimand.losses.loss import narrowed
from minimand.source import from_paper

PenaltyKind = Literal["concatenated", "joint", "marginal"]
KINDS = ("concatenated", "joint", "marginal")
BANDWIDTH = HyperSpec(0.15, low=0.0, closed="neither")
REACH = 4.0  # bandwidths by which the grid goes past the outermost predictions; a kernel has 6e-5 beyond


@from_paper(MULTITYPE)
def fairness_penalty(
    pred: Tensor, attributes: Tensor | Sequence[Tensor], kind: PenaltyKind = "concatenated", *, c: float = 1.0
) -> Tensor:
    """How much predictions depend on protected attributes, as an unbiased squared distance covariance.

    ============ =================================================================================================
    kind         the penalty
    ============ =================================================================================================
    concatenated dCov^2(pred, [S_1, ..., S_d]): dependence on any combination of attributes (CCdCov)
    joint        JdCov^2(pred, S_1, ..., S_d; c): the same, and the dependence among attributes, a constant
    marginal     sum_i dCov^2(pred, S_i): blind to what only a combination of attributes shows
    ============ =================================================================================================

    It is added to a loss of the same batch, with a weight of the order of 1 to 100 that trades accuracy for parity::

        loss = cross_entropy(logits, target) + 20.0 * fairness_penalty(logits.softmax(1)[:, 1], [sex, age])

    Standardise numeric attributes over the training rows, not the batch, and give a category one column a value
    (one-hot): an attribute counts by its scale. What is penalised is demographic parity of what is given as ``pred``:
    probabilities or logits, which are not penalised alike. Being unbiased it may be negative, and its mean over
    batches is the penalty of all rows whatever the batch size; its noise is not, so batches of a hundred and more
    work better. Works under ``torch.compile`` and ``vmap``.

    Args:
        pred: (n,) or (n, p) predictions, n >= 4.
        attributes: one tensor or several, each (n,) or (n, q), of any real type.
        kind: which dependence.
        c: of "joint", see ``joint_distance_covariance``.

    Returns:
        A scalar in pred's type.

    Raises:
        ValueError, TypeError: for shapes, types, devices or options that do not fit.

    Source: Lee et al. (2025), arXiv:2509.08163.

    >>> z, w = torch.tensor([0, 0, 1, 1] * 25), torch.tensor([0, 1, 0, 1] * 25)
    >>> pred = (z ^ w).float()  # independent of either bit, given by both
    >>> [round(float(fairness_penalty(pred, [z, w], kind)), 2) for kind in ("concatenated", "joint", "marginal")]
    [0.07, 0.12, -0.01]
    """
    check_choice("kind", kind, KINDS)
    WEIGHT.check("c", c)
    pred = check_floating("pred", pred)
    given = [attributes] if isinstance(attributes, Tensor) else list(attributes)
    if not given:
        raise ValueError("attributes must hold one or more tensors; got none")
    named = {f"attributes[{i}]": attribute for i, attribute in enumerate(given)}
    numeric = {name: _numeric(name, attribute, pred) for name, attribute in named.items()}
    scores, *columns = as_matrices(True, pred=pred, **numeric)
    if kind == "concatenated":
        value = mean_product([scores, torch.cat(columns, 1)], c, unbiased=True)
    elif kind == "joint":
        value = mean_product([scores, *columns], c, unbiased=True)
    else:
        value = torch.stack([mean_product([scores, each], c, unbiased=True) for each in columns]).sum()
    return narrowed(value, pred.dtype)


@from_paper(MULTITYPE)
def group_prediction_jsd(
    pred: Tensor, groups: Tensor, num_groups: int, bandwidth: float = 0.15, points: int = 1000
) -> Tensor:
    """The generalised Jensen-Shannon divergence of the groups' prediction densities, in bits.

    H(sum_g w_g p_g) - sum_g w_g H(p_g), w_g the share of group g and p_g the Gaussian kernel density of its
    predictions on an even grid, which reaches 4 bandwidths past them: 0 where all groups are predicted alike, at most
    the entropy of the shares. It chooses the weight of a ``fairness_penalty`` on validation rows; gradients flow.

    Args:
        pred: (n,) predictions.
        groups: (n,) integers in [0, num_groups): for intersections, one a combination of attributes.
        num_groups: how many groups there may be; one without rows counts nothing.
        bandwidth: the kernel's standard deviation, in pred's units, in (0, inf).
        points: of the grid, at least 2.

    Returns:
        A scalar in pred's type.

    Raises:
        ValueError, TypeError: for shapes, types, groups or numbers that do not fit.

    Source: Lee et al. (2025), arXiv:2509.08163, whose bandwidth and number of points are the defaults. That they
    weigh the groups by their shares and take the bandwidth in the prediction's units could not be confirmed.

    >>> jsd = group_prediction_jsd(torch.tensor([0.0, 0.0, 9.0, 9.0]), torch.tensor([0, 0, 1, 1]), num_groups=2)
    >>> round(jsd.item(), 4)
    1.0
    """
    pred, groups = _checked_groups(pred, groups, num_groups)
    BANDWIDTH.check("bandwidth", bandwidth)
    check_count("points", points, least=2)
    scores = upcast(pred)
    low, high = scores.amin() - REACH * bandwidth, scores.amax() + REACH * bandwidth
    grid = low + (high - low) * torch.linspace(0, 1, points, dtype=scores.dtype, device=scores.device)
    # each prediction has mass 1 on the grid: where that is coarser than the kernel, on its nearest point
    mass = (-0.5 * ((grid[:, None] - scores) / bandwidth) ** 2).softmax(0)
    belongs = (groups[:, None] == torch.arange(num_groups, device=groups.device)).to(scores.dtype)
    share, density = belongs.mean(0), mass @ belongs / belongs.sum(0).clamp(min=1)
    return narrowed(_entropy(density @ share) - (share * _entropy(density)).sum(), pred.dtype)


def _numeric(name: str, attribute: object, pred: Tensor) -> Tensor:
    """An attribute of any real type as a floating-point tensor."""
    attribute = check_tensor(name, attribute)
    if attribute.is_complex():
        raise TypeError(f"{name} must be a boolean, integer or floating-point tensor; got dtype {attribute.dtype}")
    return upcast(attribute) if attribute.is_floating_point() else attribute.to(upcast(pred).dtype)


def _checked_groups(pred: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    pred = check_floating("pred", pred, ndim=1)
    groups = check_tensor("groups", groups, "an integer tensor")
    if groups.is_floating_point() or groups.is_complex() or groups.dtype == torch.bool:
        raise TypeError(f"groups must be an integer tensor; got dtype {groups.dtype}")
    if len(pred) == 0:
        raise ValueError("pred must hold at least one prediction; got none")
    if groups.shape != pred.shape:
        raise ValueError(f"groups must have shape ({len(pred)},) to match pred; got {tuple(groups.shape)}")
    check_same_device(pred=pred, groups=groups)
    check_no_nan("pred", pred)
    check_count("num_groups", num_groups)
    if is_concrete(groups):
        outside = (groups < 0) | (groups >= num_groups)
        if bool(outside.any()):
            where = int(outside.nonzero()[0])
            raise ValueError(f"groups must lie in [0, {num_groups}); got {int(groups[where])} at position {where}")
    return pred, groups


def _entropy(mass: Tensor) -> Tensor:
    """-sum p log2 p over the first dimension; a point without mass adds nothing."""
    return -(mass * torch.where(mass == 0, 1, mass).log2()).sum(0)
