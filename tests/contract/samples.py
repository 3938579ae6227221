"""Every public part with the inputs on which it is checked. A public name that is not here fails the suite.

A part that takes what another takes is a line of ``LOSSES``, ``DIVERGENCES``, ``RULES`` ...; the first names what it
is called with, then come the options to check beside its defaults.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from minimand import losses, optim
from minimand.losses import ScalarSupport
from minimand.optim import rules

from .declare import Inputs, Takes, Wrong, part, rule

# Numbers and refusals that several inputs share.


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers of a few units."""
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers well inside (0, 1)."""
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 0.9 + 0.05


def replaced(x: Tensor, position: int, value: float) -> Tensor:
    """``x`` with another value at one place."""
    x = x.clone()
    x.view(-1)[position] = value
    return x


def not_floating(name: str) -> list[Wrong]:
    """What a floating-point input must refuse."""
    return [
        Wrong(name, lambda x: x.long(), "torch.int64", TypeError),
        Wrong(name, lambda x: x.to(torch.complex128), "torch.complex128", TypeError),
        Wrong(name, lambda x: x.tolist(), "list", TypeError),
    ]


def not_inside(name: str, low: float, high: float) -> list[Wrong]:
    """What an input of numbers in [low, high] must refuse."""
    return [
        Wrong(name, partial(replaced, position=2, value=value), f"{value:g} at flat position 2")
        for value in (low - 0.25, high + 0.25)
        if abs(value) < float("inf")
    ]


def not_indices(name: str, size: int) -> list[Wrong]:
    """What an input of indices (12,) in [0, size) must refuse."""
    return [
        Wrong(name, lambda x: x.double(), "torch.float64", TypeError),
        Wrong(name, lambda x: x.bool(), "torch.bool", TypeError),
        Wrong(name, lambda x: x.tolist(), "list", TypeError),
        Wrong(name, lambda x: x[1:], "(11,)"),
        Wrong(name, lambda x: x[:, None], "(12, 1)"),
        Wrong(name, lambda x: x.to("meta"), "meta"),
        Wrong(name, lambda x: replaced(x, 3, -1), "-1 at"),
        Wrong(name, lambda x: replaced(x, 1, size), f"{size} at"),
    ]


def not_binary(name: str) -> list[Wrong]:
    """What an input (12,) of 0 and 1 must refuse."""
    return [
        Wrong(name, lambda x: x.to(torch.complex64), "torch.complex64", TypeError),
        Wrong(name, lambda x: x.tolist(), "list", TypeError),
        Wrong(name, lambda x: x[1:], "(11,)"),
        Wrong(name, lambda x: x.to("meta"), "meta"),
        Wrong(name, lambda x: replaced(x, 3, 2), "2 at flat position 3"),
        Wrong(name, lambda x: replaced(x.double(), 3, 0.5), "0.5 at flat position 3"),
        Wrong(name, lambda x: replaced(x.double(), 3, torch.nan), "nan at flat position 3"),
    ]


# What losses take.


def class_scores(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {"logits": normal(rows, classes, generator=generator), "target": torch.arange(rows) % classes}


def binary_scores(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {"logits": normal(rows, generator=generator), "target": torch.arange(rows) % 2}


CLASS_LOGITS = Takes(
    class_scores,
    scores=("logits",),
    labels="target",
    wrong=[
        *not_floating("logits"),
        Wrong("logits", lambda x: x[0], "(5,)"),
        Wrong("logits", lambda x: x[None], "(1, 12, 5)"),
        Wrong("logits", lambda x: x[:, :0], "(12, 0)"),
        *not_indices("target", 5),
    ],
)
WEIGHTED_CLASSES = Takes(
    lambda rows, classes, g: {**class_scores(rows, classes, g), "alpha": uniform(classes, generator=g)},
    scores=("logits",),
    labels="target",
    wrong=[
        *not_floating("alpha"),
        Wrong("alpha", lambda x: x[1:], "(4,)"),
        Wrong("alpha", lambda x: x.to("meta"), "meta"),
        *not_inside("alpha", 0.0, float("inf")),
    ],
)
REMEMBERED = Takes(
    lambda rows, classes, g: {**class_scores(rows, classes, g), "index": torch.arange(rows) * 3 % 20},
    scores=("logits",),
    labels="target",
    wrong=[*CLASS_LOGITS.wrong, *not_indices("index", 20), Wrong("index", lambda x: None, "None", TypeError)],
)
LOGITS = Takes(
    lambda rows, classes, g: {"logits": normal(rows, classes, generator=g)},
    scores=("logits",),
    wrong=[
        *not_floating("logits"),
        Wrong("logits", lambda x: x[0, 0], "()"),
        Wrong("logits", lambda x: x[:, :0], "(12, 0)"),
    ],
)
BINARY_LOGITS = Takes(
    binary_scores, scores=("logits",), labels="target", wrong=[*not_floating("logits"), *not_binary("target")]
)
BINARY_PROBS = Takes(
    lambda rows, classes, g: {"probs": uniform(rows, generator=g), "target": torch.arange(rows) % 2},
    edges={"probs": (0.0, 1.0, 1.0, 0.0, 0.5)},
    labels="target",
    wrong=[*not_floating("probs"), *not_inside("probs", 0.0, 1.0), *not_binary("target")],
)
WEIGHTED_BINARY = Takes(
    lambda rows, classes, g: {**binary_scores(rows, classes, g), "weights": uniform(rows, generator=g)},
    scores=("logits",),
    edges={"weights": (0.0, 1e4, 1.0)},
    labels="target",
    wrong=[
        *not_floating("weights"),
        Wrong("weights", lambda x: x[1:], "(11,)"),
        Wrong("weights", lambda x: x.to("meta"), "meta"),
        *not_inside("weights", 0.0, float("inf")),
    ],
)
REAL_TARGET = Takes(
    lambda rows, classes, g: {"logits": normal(rows, classes, generator=g), "target": normal(rows, generator=g) / 2},
    scores=("logits", "target"),
    wrong=[
        *not_floating("logits"),
        Wrong("logits", lambda x: x[:, 1:], "(12, 4)"),
        *not_floating("target"),
        Wrong("target", lambda x: x[1:], "(11,)"),
        Wrong("target", lambda x: x[:, None], "(12, 1)"),
        Wrong("target", lambda x: x.to("meta"), "meta"),
    ],
)
REAL = Takes(
    lambda rows, classes, g: {"value": normal(rows, generator=g) / 2}, scores=("value",), wrong=not_floating("value")
)
BINS = Takes(LOGITS.make, scores=("logits",), wrong=[*LOGITS.wrong, Wrong("logits", lambda x: x[:, 1:], "(12, 4)")])
GAPS = Takes(
    lambda rows, classes, g: {"gap": uniform(rows, generator=g) / 4},
    edges={"gap": (0.0, 1e-12, 1.0, 1e4)},
    wrong=[Wrong("gap", lambda x: replaced(x, 2, -0.5), "-0.5")],
)
MODEL_INPUTS = Takes(
    lambda rows, classes, g: {"inputs": normal(rows, classes, generator=g), "target": torch.arange(rows) % classes},
    scores=("inputs",),
    labels="target",
    wrong=[*not_floating("inputs"), *not_indices("target", 5)],
)


def weighted_focal_loss(logits: Tensor, target: Tensor, alpha: Tensor, **options: Any) -> Tensor:
    return losses.focal_loss(logits, target, alpha=alpha, **options)


def weighted_metric_loss(logits: Tensor, target: Tensor, weights: Tensor, **options: Any) -> Tensor:
    return losses.metric_loss(logits, target, weights=weights, **options)


def jaccard(counts: losses.SoftConfusion) -> Tensor:
    return counts.tp / (counts.tp + counts.fn + counts.fp + 1e-3)


def linear_adversarial(inputs: Tensor, target: Tensor, **options: Any) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return losses.smooth_adversarial_comp_sum(lambda x: x * 0.5, inputs, target, generator=random, **options)


def support(method: str) -> Any:
    """A method of ``ScalarSupport`` as a function that takes what the support is built from by keyword."""

    def call(*inputs: Tensor, num_bins: int = 5, sigma_ratio: Any = 0.75, kind: Any = "hl_gauss", **options: Any) -> Any:
        return getattr(ScalarSupport(-4.0, 4.0, num_bins, sigma_ratio, kind), method)(*inputs, **options)

    call.spec = ScalarSupport.spec  # type: ignore[attr-defined]
    return call


ONE_BIN = {"for_one_class": {"num_bins": 1}}
NO_KIND = {"wrong_options": {"kind": "one_hot", "num_bins": 0}}
ANYLOSS = {"hypers": ["amplification"], "wrong_options": {"metric": "f3", "empty": "ignore", "beta": 2.0}}

LOSSES = [
    *part(
        losses.comp_sum_loss,
        CLASS_LOGITS,
        {"sum_exponential": {"tau": 0.0}, "between": {"tau": 0.6}, "mean_absolute_error": {"tau": 2.0}},
    ),
    *part(losses.CompSumLoss, CLASS_LOGITS, {"sum_exponential": {"tau": 0.0}}),
    *part(losses.generalised_cross_entropy_loss, CLASS_LOGITS, {"mean_absolute_error": {"q": 1.0}}),
    *part(losses.GeneralisedCrossEntropyLoss, CLASS_LOGITS),
    *part(
        losses.ldr_loss,
        CLASS_LOGITS,
        {"maximum": {"lam": 0.0, "margin": 1.0}, "cold": {"lam": 1e-3, "margin": 1.0}, "hot": {"lam": 30.0}},
    ),
    *part(losses.LDRLoss, CLASS_LOGITS, {"hot": {"lam": 30.0, "margin": 0.1}}),
    *part(losses.adaptive_ldr_loss, CLASS_LOGITS, {"quick": {"lam0": 0.5, "alpha": 1.2}}),
    *part(losses.AdaptiveLDRLoss, CLASS_LOGITS, {"normalised": {"normalise": True}}),
    *part(losses.AdaptiveLDRLoss, REMEMBERED, {"remembers": {"num_samples": 20}}, plain=False),
    *part(losses.normalise_logits, LOGITS),
    *part(losses.score_differences, CLASS_LOGITS, {"margin": {"margin": 0.5}}),
    *part(
        losses.comp_sum_bound,
        GAPS,
        {f"tau_{tau:g}": {"tau": tau, "num_classes": 5} for tau in (0.0, 0.5, 1.0, 1.5, 2.0)},
        plain=False,
        wrong_options={"tau": -1.0, "num_classes": 1},
    ),
    *part(
        linear_adversarial,
        MODEL_INPUTS,
        {"": {"radius": 0.5}, "box": {"radius": 0.5, "norm": "linf"}, "no_ball": {"radius": 0.0, "tau": 0.5}},
        name="smooth_adversarial_comp_sum",
        plain=False,
        wrong_options={"radius": -1.0, "rho": 0.0, "nu": -1.0, "steps": 0, "norm": "l1"},
    ),
    *part(losses.focal_loss, CLASS_LOGITS, {"gentle": {"gamma": 0.5}, "cross_entropy": {"gamma": 0.0}}),
    *part(weighted_focal_loss, WEIGHTED_CLASSES, name="focal_loss:weighted"),
    *part(losses.FocalLoss, CLASS_LOGITS, {"weighted": {"alpha": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])}}),
    *part(losses.sigmoid_focal_loss, BINARY_LOGITS, {"gentle": {"gamma": 0.5, "alpha": None}}),
    *part(losses.SigmoidFocalLoss, BINARY_LOGITS),
    *part(
        losses.metric_loss,
        BINARY_LOGITS,
        {name: {"metric": name} for name in ("accuracy", "g_mean", "balanced_accuracy", "mcc", "iou")},
        **ANYLOSS,
    ),
    *part(losses.metric_loss, BINARY_LOGITS, {"f_beta": {"metric": "f_beta", "beta": 2.0}}, plain=False),
    *part(losses.metric_loss, BINARY_LOGITS, {"callable": {"metric": jaccard}}, plain=False, hypers=["amplification"]),
    *part(weighted_metric_loss, WEIGHTED_BINARY, name="metric_loss:weighted"),
    *part(losses.MetricLoss, BINARY_LOGITS, {"mcc": {"metric": "mcc"}}, hypers=["amplification"]),
    *part(losses.metric_loss_from_probs, BINARY_PROBS, {"g_mean": {"metric": "g_mean"}}, **ANYLOSS),
    *part(losses.soft_confusion, BINARY_LOGITS, {"soft": {"amplification": 5.0}}),
    *part(losses.soft_confusion_from_probs, BINARY_PROBS, {"soft": {"amplification": 5.0}}),
    *part(support("loss"), REAL_TARGET, {"two_hot": {"kind": "two_hot"}}, name="ScalarSupport.loss", **ONE_BIN, **NO_KIND),
    *part(support("encode"), REAL, {"two_hot": {"kind": "two_hot"}}, name="ScalarSupport.encode", **ONE_BIN, **NO_KIND),
    *part(support("decode"), BINS, {"two_hot": {"kind": "two_hot"}}, name="ScalarSupport.decode", **ONE_BIN, **NO_KIND),
]

PARTS = [*LOSSES]

# Update rules.

RULES = [
    *rule(rules.SGD, {"l2": {"decay": "l2"}}),
    *rule(rules.Momentum, {"nesterov": {"nesterov": True}}),
    *rule(rules.AdamW, {"l2": {"decay": "l2"}}),
    *rule(rules.AdaBelief),
    *rule(rules.DiffGrad),
    *rule(rules.AdamP, {"l2": {"decay": "l2"}}),
    *rule(rules.SignSGD),
    *rule(rules.Lion),
    *rule(rules.LionK, {kernel: {"kernel": kernel} for kernel in ("l2", "nuclear", "identity", "dead_zone")}),
    *rule(rules.Muon, {"plain": {"nesterov": False}, "rms": {"adjust_lr": "match_rms_adamw", "decay": "l2"}}),
    *rule(rules.AdaGradNorm),
]
