"""AnyLoss: on imbalanced data, training on a soft metric raises that metric on rows that were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import make_classification
from torch import Tensor, nn

from minimand import losses
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.losses import metric_loss
from minimand.optim import BatchedTrainer, rules, schedule, stack_modules
from minimand.study.metrics import metric
from minimand.study.task import split_rows

DATA_SETS = {"smoke": 2, "small": 60, "full": 200}
STEPS = {"smoke": 20, "small": 300, "full": 300}
TUNED = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
RATES = {"smoke": TUNED[2:4], "small": TUNED, "full": TUNED}
ROWS, FEATURES, POSITIVES = 3000, 20, 0.05
METRICS = ("f1", "balanced_accuracy")
TRAINED_TOGETHER = 40


def squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """The mean of (p - y)^2, p the probability of class 1."""
    return F.mse_loss(logits.sigmoid(), target)


RIVALS = {"cross_entropy": F.binary_cross_entropy_with_logits, "squared_error": squared_error}
LOSSES = {**{name: partial(metric_loss, metric=name) for name in METRICS}, **RIVALS}


def run(scale: Scale, seed: int) -> Measured:
    """Linear models on many data sets; every loss has its learning rate tuned for the metric, on each data set.

    Tuning can choose a low rate for cross-entropy: it then stops with its probabilities near one half, which does for
    F1 what a lower threshold would. The figure shows what each rate gives by itself.
    """
    count, rates = DATA_SETS[scale], RATES[scale]
    inputs, target = imbalanced(count, seed)
    parts = [split_rows(each.numpy(), "classification", 0.2, 0.2, 1000 * seed + i) for i, each in enumerate(target)]
    logits = {name: trained(name, inputs, target, parts, STEPS[scale], rates, seed) for name in LOSSES}
    rows, effects, lines = [], {}, {}
    for name in METRICS:
        by_rate = {loss: scored(name, logits[loss], target, parts) for loss in (name, *RIVALS)}
        scores = {loss: tuned(*found) for loss, found in by_rate.items()}
        best = max(RIVALS, key=lambda loss: np.mean(scores[loss]))
        effects[name] = Effect.gain(scores[name], scores[best])
        effects[f"{name}, mean"] = Effect.exact(effects[name].value)
        rows += [(name, loss, float(np.mean(found)), min(found), max(found)) for loss, found in scores.items()]
        if name == "f1":
            lines = {loss: tuple(zip(rates, test.mean(0).tolist(), strict=True)) for loss, (_, test) in by_rate.items()}
    return Measured(
        effects,
        Table(("test metric", "trained on", "mean", "lowest", "highest"), tuple(rows)),
        Figure(
            "Test F1 by what was trained on, where the learning rate is not tuned", "learning rate", "F1", lines, True
        ),
        (
            f"{count} data sets; each has its learning rate chosen on its validation rows, from {_listed(rates)}.",
            "Gain in mean F1 over cross-entropy where both have the same learning rate: "
            + ", ".join(
                f"{mine - other:+.3f} at {rate:g}"
                for (rate, mine), (_, other) in zip(lines["f1"], lines["cross_entropy"], strict=True)
            )
            + ".",
        ),
    )


def imbalanced(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Data sets of two classes, one of them 5%, that overlap: inputs (D, N, features), target (D, N) of 0 and 1."""
    made = [
        make_classification(
            ROWS, FEATURES, weights=[1 - POSITIVES], class_sep=0.8, flip_y=0.02, random_state=1000 * seed + i
        )
        for i in range(count)
    ]
    inputs, target = (torch.from_numpy(np.stack(each)).float() for each in zip(*made, strict=True))
    return inputs, target


def trained(
    loss: str,
    inputs: Tensor,
    target: Tensor,
    parts: Sequence[Mapping[str, np.ndarray]],
    steps: int,
    rates: Sequence[float],
    seed: int,
) -> Tensor:
    """Logits (D, rates, N) of linear models after ``steps`` of Adam on all training rows of their data set.

    The models of one data set start alike, whatever the loss and the rate.
    """
    count, rows = target.shape
    generator = torch.Generator().manual_seed(seed)
    params, call = stack_modules([nn.Linear(FEATURES, 1) for _ in range(count)])
    bound = FEATURES**-0.5
    params = {name: value.uniform_(-bound, bound, generator=generator) for name, value in params.items()}
    params = {name: value.repeat_interleave(len(rates), 0) for name, value in params.items()}

    def charged(own: dict[str, Tensor], batch: tuple[Tensor, ...], _: dict[str, Tensor]) -> Tensor:
        return LOSSES[loss](call(own, batch[0])[:, 0], batch[1])

    trainer = BatchedTrainer(charged, rules.AdamW(), schedule.cosine_decay, chunk_size=TRAINED_TOGETHER)
    state = trainer.init(params, {"lr": torch.tensor(rates).repeat(count), "weight_decay": 0.0})
    training = torch.stack([torch.from_numpy(part["train"]) + i * rows for i, part in enumerate(parts)])
    index = training.repeat_interleave(len(rates), 0)[:, None].expand(-1, steps, -1)
    params, _, _ = trainer.run(params, state, (inputs.flatten(0, 1), target.flatten()), index)
    weight, bias = (params[name].unflatten(0, (count, len(rates))) for name in ("weight", "bias"))
    return torch.einsum("dnf,drf->drn", inputs, weight[:, :, 0]) + bias


def scored(
    name: str, logits: Tensor, target: Tensor, parts: Sequence[Mapping[str, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The metric (D, rates) on each data set's validation and test rows."""
    measured, probs, truth = metric(name), logits.double().sigmoid().numpy(), target.long().numpy()
    found = [
        [
            [measured.score(of[rows], np.stack([1 - own[rows], own[rows]], -1)) for own in each]
            for each, of, rows in zip(probs, truth, (part[split] for part in parts), strict=True)
        ]
        for split in ("validation", "test")
    ]
    return np.array(found[0]), np.array(found[1])


def tuned(validation: np.ndarray, test: np.ndarray) -> list[float]:
    """Each data set's test score at the learning rate with the best validation score, the first of equals."""
    return test[np.arange(len(test)), validation.argmax(1)].tolist()


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


CLAIM = Claim(
    statement="On data with 5% positives, a linear model trained on soft F1 (soft balanced accuracy) has a higher "
    "test F1 (balanced accuracy) than one trained on cross-entropy or squared error.",
    refuted_by="a 95% interval of the paired gain over the better of the two that reaches 0, or a mean gain of "
    "less than 0.05",
    thresholds={
        "f1": Threshold("gain in test F1 over the better of cross-entropy and squared error", above=0.0),
        "f1, mean": Threshold("mean gain in test F1", above=0.05),
        "balanced_accuracy": Threshold("gain in test balanced accuracy over the better of the two", above=0.0),
        "balanced_accuracy, mean": Threshold("mean gain in test balanced accuracy", above=0.05),
    },
    parts=(losses.metric_loss, losses.soft_confusion),
    run=run,
    full="200 data sets; ten minutes",
)
