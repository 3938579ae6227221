"""What parts take: the inputs of losses and of divergences, at any size, and what must be refused of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minimand.divergences import FDivergence

from .declare import Inputs, Takes, Wrong

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


# What update rules are built from.

MATRIX = Takes(
    lambda rows, classes, g: {"matrix": normal(rows, classes, generator=g)},
    scores=("matrix",),
    wrong=[
        *not_floating("matrix"),
        Wrong("matrix", lambda x: x[0], "(5,)"),
        Wrong("matrix", lambda x: x[None], "(1, 12, 5)"),
    ],
)
DIRECTION = Takes(
    lambda rows, classes, g: {name: normal(rows, classes, generator=g) for name in ("u", "weight", "grad")},
    scores=("u", "weight", "grad"),
    wrong=[
        *(wrong for name in ("u", "weight", "grad") for wrong in not_floating(name)),
        Wrong("weight", lambda x: x[1:], "(11, 5)"),
        Wrong("grad", lambda x: x[:, 1:], "(12, 4)"),
        Wrong("grad", lambda x: x.to("meta"), "meta"),
    ],
)
NORMS = Takes(
    lambda rows, classes, g: {"p_norms": uniform(rows, classes, generator=g)},
    edges={"p_norms": (0.0, 1e-12, 100.0)},
    wrong=[*not_floating("p_norms"), Wrong("p_norms", lambda x: x[0, 0], "()")],
)
STEP = Takes(
    lambda rows, classes, g: {"step": 40 * uniform(rows, generator=g)},
    edges={"step": (0.0, 49.0, 50.0, 1e4)},
    wrong=[Wrong("step", lambda x: x.tolist(), "list", TypeError)],
)


# What divergences take.


def log_ratios(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {"log_ratio": normal(rows, generator=generator) / 4}  # inside what float16 holds of any divergence


def pair(first: str, second: str, shape: Callable[[Tensor], Tensor]) -> Callable[[int, int, torch.Generator], Inputs]:
    """Makes two inputs of scores, given ``shape``."""

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
WEIGHTED_SAMPLES = Takes(
    lambda rows, classes, g: {**log_ratios(rows, classes, g), "weights": uniform(rows, generator=g)},
    scores=("log_ratio",),
    wrong=[
        *not_floating("weights"),
        Wrong("weights", lambda x: x[1:], "(11,)"),
        *not_inside("weights", 0.0, float("inf")),
    ],
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

    def make(rows: int, classes: int, generator: torch.Generator) -> Inputs:
        log_ratio = log_ratios(rows, classes, generator)["log_ratio"]
        return {"slope": log_ratio.tanh() / 2 if f.generator.kink is not None else f.link(log_ratio)}

    return Takes(make, wrong=not_floating("slope"))
