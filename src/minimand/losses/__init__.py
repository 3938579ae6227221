"""Supervised objectives. A loss is a function of scores and target; its module is derived from it."""

from minimand.losses.adversarial import smooth_adversarial_comp_sum
from minimand.losses.confusion import (
    MetricLoss,
    SoftConfusion,
    metric_loss,
    metric_loss_from_probs,
    soft_confusion,
    soft_confusion_from_probs,
)
from minimand.losses.consistency import comp_sum_bound
from minimand.losses.focal import FocalLoss, SigmoidFocalLoss, focal_loss, sigmoid_focal_loss
from minimand.losses.loss import LossModule, LossSpec, loss_function, module_of, spec_of
from minimand.losses.scalar_support import ScalarSupport
from minimand.losses.score_difference import (
    CompSumLoss,
    GeneralisedCrossEntropyLoss,
    LDRLoss,
    comp_sum_loss,
    generalised_cross_entropy_loss,
    ldr_loss,
    score_differences,
)
from minimand.losses.temperature import AdaptiveLDRLoss, adaptive_ldr_loss, normalise_logits

__all__ = [
    "comp_sum_loss",
    "CompSumLoss",
    "generalised_cross_entropy_loss",
    "GeneralisedCrossEntropyLoss",
    "ldr_loss",
    "LDRLoss",
    "adaptive_ldr_loss",
    "AdaptiveLDRLoss",
    "normalise_logits",
    "score_differences",
    "comp_sum_bound",
    "smooth_adversarial_comp_sum",
    "focal_loss",
    "FocalLoss",
    "sigmoid_focal_loss",
    "SigmoidFocalLoss",
    "metric_loss",
    "MetricLoss",
    "metric_loss_from_probs",
    "soft_confusion",
    "soft_confusion_from_probs",
    "SoftConfusion",
    "ScalarSupport",
    "loss_function",
    "module_of",
    "spec_of",
    "LossModule",
    "LossSpec",
]
