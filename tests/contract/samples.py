"""Every public part with the inputs on which it is checked. A public name that is not here fails the suite.

A part that takes what another takes (``takes.py``) is one entry: the part, what it is called with, and the options
to check beside its defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minimand import divergences, losses, optim
from minimand.divergences import FDivergence
from minimand.losses import ScalarSupport
from minimand.optim import rules

from .declare import Part, Wrong, part, rule
from .takes import (
    BALL,
    BINARY_LOGITS,
    BINARY_PROBS,
    BINS,
    CLASS_LOGITS,
    CRITICS,
    DIRECTION,
    GAPS,
    LOG_RATIO,
    LOGITS,
    MATRIX,
    MODEL_INPUTS,
    NORMS,
    PAIR_OF_LOG_PROBS,
    PAIR_OF_LOGITS,
    PAIR_OF_PROBS,
    RATIO,
    REAL,
    REAL_TARGET,
    REMEMBERED,
    STEP,
    TILT,
    VALUES,
    WEIGHTED_BINARY,
    WEIGHTED_CLASSES,
    WEIGHTED_SAMPLES,
    slopes_of,
)

# Losses.


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

    def built(num_bins: int, sigma_ratio: float, kind: Any) -> Callable[..., Tensor]:
        return getattr(ScalarSupport(-4.0, 4.0, num_bins, sigma_ratio, kind), method)

    def plain(*inputs: Tensor, num_bins: int = 5, sigma_ratio: float = 0.75, kind: Any = "hl_gauss") -> Tensor:
        return built(num_bins, sigma_ratio, kind)(*inputs)

    def reduced(
        *inputs: Tensor, num_bins: int = 5, sigma_ratio: float = 0.75, kind: Any = "hl_gauss", reduction: str = "mean"
    ) -> Tensor:
        return built(num_bins, sigma_ratio, kind)(*inputs, reduction=reduction)

    call: Any = reduced if method == "loss" else plain
    call.spec = ScalarSupport.spec
    return call


TWO_HOT = {"two_hot": {"kind": "two_hot"}}
BINNED = {"for_one_class": {"num_bins": 1}, "wrong_options": {"kind": "one_hot", "num_bins": 0}}
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
        {f"tau_{tau:g}" if tau else "": {"tau": tau, "num_classes": 5} for tau in (0.0, 0.5, 1.0, 1.5, 2.0)},
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
    *part(support("loss"), REAL_TARGET, TWO_HOT, name="ScalarSupport.loss", **BINNED),
    *part(support("encode"), REAL, TWO_HOT, name="ScalarSupport.encode", **BINNED),
    *part(support("decode"), BINS, TWO_HOT, name="ScalarSupport.decode", **BINNED),
]

# What is checked of every divergence: its forms, its values, its worst cases.

SMOOTH = ("f_log", "link", "conjugate_of_link", "weight", "d2f_log")
# What is long to trace because a search unrolls, and the sample whose tracing stands for it.
REPEATS = {
    "worst_case": "squared_hellinger.worst_case",
    "squared_hellinger.worst_case": "",
    "kl.worst_case": "",
    "FDivergence.inverse": "softened_kl.inverse",
}


def methods_of(make: Callable[..., FDivergence], *methods: str, **parameters: float) -> Callable[..., Any]:
    """The named methods of a divergence, as one function."""
    f = make(**parameters)
    return getattr(f, methods[0]) if len(methods) == 1 else lambda x: tuple(getattr(f, name)(x) for name in methods)


def divergence(
    make: FDivergence | Callable[..., FDivergence],
    label: str = "",
    *,
    name: str = "",
    forms: tuple[str, ...] = SMOOTH,
    inverse: tuple[str, ...] = ("inverse_link", "conjugate"),
    worst_case: tuple[str, ...] = ("regularised_expectation",),
    wrong: Mapping[str, float] | None = None,
    **parameters: float,
) -> list[Part]:
    """Samples of a divergence, or of one that ``make`` makes from ``parameters``, by the methods that it has."""
    build: Callable[..., FDivergence] = (lambda: make) if isinstance(make, FDivergence) else make
    f = build(**parameters)
    name = name or getattr(make, "__name__", str(f))
    is_first = make is divergences.kl
    bundles = {
        "forms": (forms, LOG_RATIO),
        "from_logits": (("__call__",) if forms else (), PAIR_OF_LOGITS),
        "inverse": (inverse, slopes_of(f)),
        "worst_case": (worst_case, VALUES),
    }
    return [
        Part(
            f"{name}.{bundle}" + (f":{label}" if label else ""),
            partial(methods_of, build, *methods, **parameters),
            takes,
            options=parameters,
            wrong_options=wrong or {},
            is_first=is_first,
            repeats=REPEATS.get(f"{name}.{bundle}", REPEATS.get(bundle, "")),
        )
        for bundle, (methods, takes) in bundles.items()
        if methods
    ]


def of_kl(method: str, *takes_and_variants: Any, **fields: Any) -> list[Part]:
    """Samples of one method of ``FDivergence``."""
    return part(getattr(divergences.kl, method), *takes_and_variants, name=f"FDivergence.{method}", **fields)


def weighted_estimate(log_ratio: Tensor, weights: Tensor) -> Tensor:
    return divergences.kl.estimate(log_ratio, weights=weights)


TRIANGULAR = partial(FDivergence.from_terms, "triangular", lambda p, q: (p - q) ** 2 / (p + q))
SENSE = {"least": {"sense": "inf"}}

DIVERGENCES = [
    *divergence(divergences.kl),
    *divergence(divergences.reverse_kl),
    *divergence(divergences.jeffreys),
    *divergence(divergences.pearson),
    *divergence(divergences.neyman),
    *divergence(divergences.squared_hellinger),
    *divergence(divergences.jensen_shannon),
    *divergence(divergences.softened_kl),
    *divergence(divergences.softened_reverse_kl),
    *divergence(divergences.total_variation, forms=("f_log", "link", "conjugate_of_link"), inverse=("conjugate",)),
    *divergence(divergences.alpha, a=0.5, wrong={"a": float("nan")}),
    *divergence(divergences.alpha, "cubic", a=3.0),
    *divergence(divergences.alpha, "negative", a=-2.0),
    *divergence(divergences.skew_js, beta=0.1, wrong={"beta": 1.0}),
    *divergence(divergences.skew_kl, beta=0.3, wrong={"beta": 0.0}),
    *divergence(divergences.cvar, level=0.4, forms=(), inverse=("conjugate",), wrong={"level": 0.0}),
    *divergence(2 * divergences.kl, "scaled", name="FDivergence"),
    *divergence(divergences.pearson + divergences.jensen_shannon, "sum", name="FDivergence"),
    *divergence(divergences.skew_kl(0.3).reversed(), "reversed", name="FDivergence", worst_case=()),
    *divergence(TRIANGULAR(), "from_terms", name="FDivergence", worst_case=()),
    *of_kl("f_log", LOG_RATIO),
    *of_kl("link", LOG_RATIO),
    *of_kl("conjugate_of_link", LOG_RATIO),
    *of_kl("weight", LOG_RATIO),
    *of_kl("d2f_log", LOG_RATIO),
    *of_kl("f", RATIO),
    *of_kl("df", RATIO),
    *of_kl("d2f", RATIO),
    *of_kl("conjugate", slopes_of(divergences.kl)),
    *part(
        divergences.reverse_kl.inverse_link,
        replace(slopes_of(divergences.reverse_kl), wrong=[Wrong("slope", lambda x: x + 9, "9")]),
        name="FDivergence.inverse_link",
    ),
    *of_kl("from_log_probs", PAIR_OF_LOG_PROBS),
    *of_kl("from_probs", PAIR_OF_PROBS),
    *of_kl(
        "estimate",
        LOG_RATIO,
        {
            "from_p": {"sampled_from": "p"},
            "plain": {"control_variate": "none"},
            "fitted": {"control_variate": "fitted"},
        },
        wrong_options={"sampled_from": "r", "control_variate": "k2"},
    ),
    *part(weighted_estimate, WEIGHTED_SAMPLES, name="FDivergence.estimate:weighted"),
    *of_kl("score_weight", LOG_RATIO, {"of_q": {"wrt": "q"}}, wrong_options={"wrt": "r"}),
    *of_kl("variational_bound", CRITICS),
    *of_kl("regularised_expectation", VALUES, SENSE, wrong_options={"sense": "max"}),
    *of_kl("robust_expectation", BALL, SENSE, wrong_options={"sense": "max"}),
    *of_kl("tilt", TILT),
    *part(divergences.log_affinity, PAIR_OF_LOGITS, {"": {"a": 0.3}, "two": {"a": 2.0}}, plain=False),
    *part(divergences.renyi, PAIR_OF_LOGITS, {"": {"a": 0.3}, "one": {"a": 1.0}, "two": {"a": 2.0}}, plain=False),
]

# What update rules are built from, and schedules.

WARM = {"": {"total": 50}, "warm": {"total": 50, "warmup": 20}}
AT_LEAST_0 = {"plain": False, "wrong_options": {"total": -1, "warmup": -1}}

BLOCKS = [
    *part(rules.orthogonalise, MATRIX, {"ten": {"steps": 10}}, condition=3000.0, wrong_options={"steps": 0}),
    *part(
        rules.radial_projection,
        DIRECTION,
        {"": {"delta": 0.1}, "free": {"delta": 9.0}},
        plain=False,
        wrong_options={"delta": -1.0},
    ),
    *part(
        rules.scale_invariant_norm_growth,
        NORMS,
        {"": {"lr": 0.1, "beta": 0.9}, "plain": {"lr": 0.1, "beta": 0.0}},
        plain=False,
        wrong_options={"lr": -1.0, "beta": 1.0},
    ),
    *part(optim.constant, STEP, WARM, plain=False, wrong_options={"warmup": -1}),
    *part(optim.linear_decay, STEP, WARM, **AT_LEAST_0),
    *part(optim.cosine_decay, STEP, WARM, **AT_LEAST_0),
]

PARTS = [*DIVERGENCES, *LOSSES, *BLOCKS]

# Update rules.

RULES = [
    *rule(rules.SGD, {"l2": {"decay": "l2"}}),
    *rule(rules.Momentum, {"nesterov": {"nesterov": True}}),
    *rule(rules.AdamW, {"l2": {"decay": "l2"}}),
    *rule(rules.AdaBelief),
    *rule(rules.DiffGrad),
    *rule(rules.AdamP, {"l2": {"decay": "l2"}}),
    *rule(rules.SGDP, {"nesterov": {"nesterov": True}}),
    *rule(rules.SignSGD),
    *rule(rules.Lion),
    *rule(rules.LionK, {kernel: {"kernel": kernel} for kernel in ("l2", "nuclear", "identity", "dead_zone")}),
    *rule(rules.Muon, {"plain": {"nesterov": False}, "rms": {"adjust_lr": "match_rms_adamw", "decay": "l2"}}),
    *rule(rules.AdaGradNorm),
]
