"""Every public part with the inputs on which it is checked. A public name that is not here fails the suite.

A part that takes what another takes is a line of ``LOSSES``, ``DIVERGENCES``, ``RULES`` ...; the first names what it
is called with, then come the options to check beside its defaults.
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

from .declare import Inputs, Part, Takes, Wrong, part, rule

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
    *part(support("loss"), REAL_TARGET, {"two_hot": {"kind": "two_hot"}}, name="ScalarSupport.loss", **ONE_BIN, **NO_KIND),
    *part(support("encode"), REAL, {"two_hot": {"kind": "two_hot"}}, name="ScalarSupport.encode", **ONE_BIN, **NO_KIND),
    *part(support("decode"), BINS, {"two_hot": {"kind": "two_hot"}}, name="ScalarSupport.decode", **ONE_BIN, **NO_KIND),
]

# What divergences take.


def log_ratios(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {"log_ratio": normal(rows, generator=generator) / 4}  # inside what float16 holds of any divergence


def pair(first: str, second: str, shape: Callable[[Tensor], Tensor]) -> Any:
    def make(rows: int, classes: int, generator: torch.Generator) -> Inputs:
        return {name: shape(normal(rows, classes, generator=generator) / 4) for name in (first, second)}

    return make


def not_a_pair(first: str, second: str) -> list[Wrong]:
    """What two inputs (12, 5) of one shape and device must refuse."""
    return [
        *not_floating(first),
        *not_floating(second),
        Wrong(second, lambda x: x[1:], "(11, 5)"),
        Wrong(second, lambda x: x.to("meta"), "meta"),
    ]


LOG_RATIO = Takes(log_ratios, scores=("log_ratio",), wrong=not_floating("log_ratio"))
RATIO = Takes(
    lambda rows, classes, g: {"ratio": (normal(rows, generator=g) / 4).exp()},
    edges={"ratio": (0.01, 1e4, 1.0)},
    wrong=[*not_floating("ratio"), *not_inside("ratio", 0.0, float("inf"))],
)
PAIR_OF_LOGITS = Takes(
    pair("p_logits", "q_logits", lambda x: x),
    scores=("p_logits", "q_logits"),
    wrong=not_a_pair("p_logits", "q_logits"),
)
PAIR_OF_LOG_PROBS = Takes(pair("log_p", "log_q", lambda x: x.log_softmax(-1)), wrong=not_a_pair("log_p", "log_q"))
PAIR_OF_PROBS = Takes(
    pair("p", "q", lambda x: x.softmax(-1)),
    edges={"p": (1.0, 0.0, 0.0, 0.0, 0.0)},
    wrong=[*not_a_pair("p", "q"), *not_inside("p", 0.0, float("inf")), *not_inside("q", 0.0, float("inf"))],
)
SAMPLES = Takes(
    lambda rows, classes, g: {**log_ratios(rows, classes, g), "weights": uniform(rows, generator=g)},
    scores=("log_ratio",),
    wrong=[*not_floating("weights"), Wrong("weights", lambda x: x[1:], "(11,)"), *not_inside("weights", 0.0, float("inf"))],
)
CRITICS = Takes(
    lambda rows, classes, g: {"v_p": normal(rows, generator=g) / 2, "v_q": normal(rows, generator=g) / 2},
    scores=("v_p", "v_q"),
    wrong=[*not_floating("v_p"), *not_floating("v_q"), Wrong("v_q", lambda x: x.to("meta"), "meta")],
)
VALUES = Takes(
    lambda rows, classes, g: {
        "values": normal(rows, classes, generator=g),
        "strength": torch.tensor(1.25, dtype=torch.float64),
        "weights": uniform(rows, classes, generator=g),
    },
    scores=("values",),
    wrong=[
        *not_floating("values"),
        Wrong("values", lambda x: x[:, :0], "(12, 0)"),
        Wrong("strength", lambda x: 0 * x, "0"),
        Wrong("strength", lambda x: -x, "-1.25"),
        Wrong("strength", lambda x: x.expand(7), "(7,)"),
        Wrong("strength", lambda x: x.to("meta"), "meta"),
        *not_floating("weights"),
        Wrong("weights", lambda x: x[:, 1:], "(12, 4)"),
        Wrong("weights", lambda x: x.to("meta"), "meta"),
        Wrong("weights", lambda x: 0 * x, "0"),
        *not_inside("weights", 0.0, float("inf")),
    ],
)
BALL = Takes(
    lambda rows, classes, g: renamed(VALUES.make(rows, classes, g), strength="radius"),
    scores=("values",),
    wrong=[
        *(wrong for wrong in VALUES.wrong if wrong.argument != "strength"),
        Wrong("radius", lambda x: -x, "-1.25"),
        Wrong("radius", lambda x: x.expand(7), "(7,)"),
        Wrong("radius", lambda x: x.to("meta"), "meta"),
    ],
)
TILT = Takes(
    lambda rows, classes, g: {
        "reference_logits": normal(rows, classes, generator=g),
        "values": normal(rows, classes, generator=g),
        "strength": torch.tensor(1.25, dtype=torch.float64),
    },
    scores=("reference_logits", "values"),
    wrong=[*not_a_pair("reference_logits", "values"), Wrong("strength", lambda x: 0 * x, "0")],
)


def renamed(inputs: Inputs, **names: str) -> Inputs:
    return {names.get(name, name): x for name, x in inputs.items()}


def slopes_of(f: FDivergence) -> Takes:
    """Slopes that f takes; inside (-1/2, 1/2) where it has a kink."""
    make: Any = lambda *size: {"slope": f.link(log_ratios(*size)["log_ratio"])}
    if f.generator.kink is not None:
        make = lambda *size: {"slope": log_ratios(*size)["log_ratio"].tanh() / 2}
    return Takes(make, wrong=not_floating("slope"))


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


def of_kl(method: str, takes: Takes, variants: Mapping[str, Mapping[str, Any]] | None = None, **fields: Any) -> list[Part]:
    """Samples of one method of ``FDivergence``."""
    return part(getattr(divergences.kl, method), takes, variants, name=f"FDivergence.{method}", **fields)


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
        {"from_p": {"sampled_from": "p"}, "plain": {"control_variate": "none"}, "fitted": {"control_variate": "fitted"}},
        wrong_options={"sampled_from": "r", "control_variate": "k2"},
    ),
    *part(lambda x, weights: divergences.kl.estimate(x, weights=weights), SAMPLES, name="FDivergence.estimate:weighted"),
    *of_kl("score_weight", LOG_RATIO, {"of_q": {"wrt": "q"}}, wrong_options={"wrt": "r"}),
    *of_kl("variational_bound", CRITICS),
    *of_kl("regularised_expectation", VALUES, SENSE, wrong_options={"sense": "max"}),
    *of_kl("robust_expectation", BALL, SENSE, wrong_options={"sense": "max"}),
    *of_kl("tilt", TILT),
    *part(divergences.log_affinity, PAIR_OF_LOGITS, {"": {"a": 0.3}, "two": {"a": 2.0}}, plain=False),
    *part(divergences.renyi, PAIR_OF_LOGITS, {"": {"a": 0.3}, "one": {"a": 1.0}, "two": {"a": 2.0}}, plain=False),
]

PARTS = [*DIVERGENCES, *LOSSES]

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
