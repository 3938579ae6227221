"""Focal loss: cross-entropy that looks away from what is already learnt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minimand._checks import check_class_logits, check_floating, check_range, check_same_device
from minimand._numerics import upcast
from minimand.hyper import HyperSpec, Uniform
from minimand.losses.loss import check_binary, loss_function, module_of, narrowed, reduce, spec_of
from minimand.losses.score_difference import others_log_odds
from minimand.source import Source

FOCAL = Source("Focal Loss for Dense Object Detection", "Lin et al.", 2017, "1708.02002", "equations 4 and 5")
GAMMA = HyperSpec(2.0, low=0.0, closed="left", search=Uniform(0.0, 5.0))
ALPHA = HyperSpec(0.25, low=0.0, high=1.0, search=Uniform(0.05, 0.95))


@loss_function(FOCAL, target="class", gamma=GAMMA)
def focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float | Tensor = 2.0,
    alpha: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss over classes: -alpha_y (1 - p_y)^gamma ln p_y, p the softmax of the logits; in nats.

    gamma = 0 is cross-entropy; a larger gamma weighs a sample less the better it is already classified.

    Args:
        logits: (N, C) scores.
        target: (N,) class indices.
        gamma: a number or 0-d tensor in [0, inf).
        alpha: (C,) class weights, at least 0; None for 1.
        reduction: "none" gives (N,), "mean" (over samples, whatever alpha) and "sum" a scalar.

    Raises:
        ValueError, TypeError: for shapes, types, devices, labels or numbers that do not fit.

    Source: Lin et al. (2017), arXiv:1708.02002, equations 4 and 5, in the softmax form the paper points to.

    >>> focal_loss(torch.zeros(1, 2), torch.tensor([0])) / torch.tensor(2.0).log()  # (1 - 1/2)^2
    tensor(0.2500)
    """
    logits, target = check_class_logits(logits, target)
    scores = upcast(logits)
    gamma = spec_of(focal_loss).hyper("gamma", gamma, like=scores)
    loss = _focal(-others_log_odds(scores, target), gamma)
    if alpha is not None:
        loss = _checked_class_weights(alpha, logits).to(loss.dtype)[target] * loss
    return narrowed(reduce(loss, reduction), logits.dtype)


@loss_function(FOCAL, target="binary", gamma=GAMMA, alpha=ALPHA)
def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float | Tensor = 2.0,
    alpha: float | Tensor | None = 0.25,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss of yes-or-no decisions: -alpha_t (1 - p_t)^gamma ln p_t; in nats.

    p_t = sigmoid(logit) and alpha_t = alpha where the target is 1, 1 - p and 1 - alpha where it is 0.

    Args:
        logits: any shape.
        target: the same shape, 0 and 1.
        gamma: a number or 0-d tensor in [0, inf).
        alpha: a number or 0-d tensor in [0, 1], the weight of class 1; None weighs both classes by 1.
        reduction: "none" gives the logits' shape, "mean" and "sum" a scalar. The paper divides the sum by the number
            of anchors assigned to an object: use "sum" and divide for that.

    Raises:
        ValueError, TypeError: for shapes, types, devices, labels or numbers that do not fit.

    Source: Lin et al. (2017), arXiv:1708.02002, equations 4 and 5; the defaults are the paper's best.

    >>> sigmoid_focal_loss(torch.zeros(1), torch.ones(1), gamma=0.0, alpha=None)
    tensor(0.6931)
    """
    value, label = check_binary("logits", logits, target)
    scores = upcast(value)
    spec = spec_of(sigmoid_focal_loss)
    loss = _focal((2 * label - 1) * scores, spec.hyper("gamma", gamma, like=scores))
    if alpha is not None:
        alpha = spec.hyper("alpha", alpha, like=scores)
        loss = torch.where(label == 1, alpha, 1 - alpha) * loss
    return narrowed(reduce(loss, reduction), logits.dtype)


def _focal(log_odds: Tensor, gamma: Tensor) -> Tensor:
    """-(1 - p)^gamma ln p at p = sigmoid(log_odds); through logs, so that 0 < gamma < 1 keeps its gradient at p = 1."""
    return -(gamma * F.logsigmoid(-log_odds)).exp() * F.logsigmoid(log_odds)


def _checked_class_weights(alpha: Tensor, logits: Tensor) -> Tensor:
    alpha = check_floating("alpha", alpha)
    if alpha.shape != logits.shape[1:]:
        raise ValueError(f"alpha must have shape ({logits.shape[1]},), one weight a class; got {tuple(alpha.shape)}")
    check_same_device(logits=logits, alpha=alpha)
    check_range("alpha", alpha, 0, torch.finfo(alpha.dtype).max)
    return alpha


FocalLoss = module_of(focal_loss, "FocalLoss")
SigmoidFocalLoss = module_of(sigmoid_focal_loss, "SigmoidFocalLoss")
