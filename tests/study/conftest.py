"""A study as it could have come out: six methods, ten seeds, trials that failed, and names that mean harm."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from minimand.study.result import CandidateResult, MethodResult, StudyResult
from minimand.study.statistics import holm, interquartile_mean, interval, paired_comparison, verdict
from minimand.study.task import Metric, Split, Task
from minimand.study.trial import Budget, CurvePoint

NASTY = "<script>alert(1)</script>"
SEEDS = 10
STEPS = tuple(range(30, 601, 30))


def split(rows: int) -> Split:
    return Split(torch.zeros(rows, 64), torch.zeros(rows, dtype=torch.int64))


def digits(higher_is_better: bool) -> Task:
    return Task(
        name=f"digits {NASTY}",
        kind="classification",
        train=split(1078),
        validation=split(359),
        test=split(360),
        model=lambda features, outputs: nn.Linear(features, outputs),
        metric=Metric(
            "accuracy" if higher_is_better else "log_loss", "classification", higher_is_better, lambda t, p: 0.0
        ),
        num_classes=10,
        labels=("0", NASTY, "<img src=x onerror=alert(2)>", '"><svg onload=alert(3)>'),
        facts={
            "Inputs": "1,797 hand-written digits, 8 x 8 pixels",
            "Training labels": "60% replaced by a random other class",
            f"Column {NASTY}": "'; alert(4); //",
            "Source": "UCI optical recognition of handwritten digits (test part), through scikit-learn",
        },
    )


def learning(
    level: float, start: float, loss: float, rng: np.random.Generator, stop: int | None
) -> tuple[CurvePoint, ...]:
    """A learning curve from ``start`` to ``level``; one that diverges is NaN from the point ``stop`` on."""
    points = []
    for i, step in enumerate(STEPS):
        progress = 1 - math.exp(-4 * (i + 1) / len(STEPS))
        metric = start + (level - start) * progress + 0.012 * rng.normal()
        falling = loss * (0.25 + 0.75 * math.exp(-3 * step / 600)) * math.exp(0.05 * rng.normal())
        broken = stop is not None and i >= stop
        points.append(CurvePoint(step, math.nan if broken else falling, math.nan if broken else metric))
        if broken:
            break
    return tuple(points)


# name: (axis choices, level, noise, loss at the start, ranges of numbers, final trials that diverge)
METHODS = {
    "cross_entropy": ({"loss": "cross_entropy"}, 0.652, 0.016, 2.3, {"rule.lr": (1e-4, 1e-1)}, 0),
    "ldr_kl": ({"loss": "ldr_kl"}, 0.871, 0.012, 1.4, {"rule.lr": (1e-4, 1e-1), "loss.temperature": (0.1, 10)}, 0),
    "gce": ({"loss": "gce"}, 0.79, 0.02, 0.9, {"rule.lr": (1e-4, 1e-1), "loss.q": (0.05, 0.95)}, 1),
    "focal": ({"loss": "focal"}, 0.645, 0.017, 1.7, {"rule.lr": (1e-4, 1e-1), "loss.gamma": (0.5, 5)}, 0),
    "mae": ({"loss": "mae"}, 0.55, 0.03, 0.95, {"rule.lr": (1e-4, 1e-1)}, 0),
    f"any_loss {NASTY}": (
        {"loss": f"any_loss {NASTY}"}, 0.658, 0.015, 0.5, {"rule.lr": (1e-4, 1e-1), "loss.beta": (0.5, 50)}, 0,
    ),
}  # fmt: skip


def example(higher_is_better: bool = True, seeds: int = SEEDS, only: int = len(METHODS)) -> StudyResult:
    """The study, with the first ``only`` methods; cross_entropy, the first, is the baseline."""
    rng = np.random.default_rng(3)
    shared = rng.normal(size=SEEDS)
    scores: dict[str, np.ndarray] = {}
    for name, (_, level, noise, _, _, failing) in list(METHODS.items())[:only]:
        scores[name] = level + noise * (0.6 * shared + 0.8 * rng.normal(size=SEEDS))
        scores[name][:failing] = 0.1
        scores[name] = (scores[name] if higher_is_better else 2.0 - 1.5 * scores[name])[:seeds].round(4)
    base = scores["cross_entropy"]
    compared = {n: paired_comparison(s, base, higher_is_better) for n, s in scores.items() if n != "cross_entropy"}
    corrected = dict(zip(compared, holm([c.p_value for c in compared.values()]), strict=True))

    rows = []
    for name, (choices, level, _, loss, ranges, failing) in list(METHODS.items())[:only]:
        candidates = []
        for i in range(8):
            hypers = {key: float(low * (high / low) ** ((i * 0.618 + 0.3) % 1)) for key, (low, high) in ranges.items()}
            far = abs(math.log10(hypers["rule.lr"] / 3e-3))
            status = "diverged" if hypers["rule.lr"] > 0.05 and failing else "finished"
            validation = math.nan if status == "diverged" else level - 0.09 * far**2 + 0.01 * rng.normal()
            candidates.append(CandidateResult({**hypers, "rule.beta1": 0.9}, validation, status))
        best = max((c for c in candidates if c.status == "finished"), key=lambda c: c.validation)
        curves = tuple(learning(level, 0.1, loss, rng, 6 if i < failing else None) for i in range(seeds))
        lost = sum(c.status == "diverged" for c in candidates) + failing
        crashed = name == "mae"
        rows.append(
            MethodResult(
                name=name,
                choices={**choices, "rule": "adamw"},
                scores=tuple(scores[name].tolist()),
                mean=float(scores[name].mean()),
                interval=interval(scores[name]),
                iqm=float(interquartile_mean(scores[name])),
                iqm_interval=interval(scores[name], statistic=interquartile_mean),
                difference=compared.get(name),
                corrected_p=float(corrected[name]) if name in corrected else None,
                verdict=verdict(compared[name], float(corrected[name])) if name in compared else "baseline",
                hypers=best.hypers,
                candidates=tuple(candidates),
                diverged=lost,
                crashed=int(crashed),
                errors=(f"RuntimeError: bad column {NASTY}",) if crashed else (),
                seconds=0.4 * 18 * rng.uniform(0.9, 1.3),
                seconds_per_trial=0.4 * rng.uniform(0.9, 1.3),
                parameters=8970,
                memory_bytes=8970 * 4 * 4,
                curves=curves,
            )
        )
    rows.sort(key=lambda row: row.mean, reverse=higher_is_better)
    return StudyResult(
        task=digits(higher_is_better),
        budget=Budget(steps=600, batch_size=64, candidates=8),
        baseline="cross_entropy",
        seeds=tuple(range(1000, 1000 + seeds)),
        rows=tuple(rows),
        started="2025-03-01T09:05:00+00:00",
        finished="2025-03-01T09:05:48+00:00",
        seconds=48.2,
        engine="batched",
        notes=("The scheduled rule has no batched form, so 2 methods ran in the process engine.", f"A note {NASTY}"),
        versions={"minimand": "0.1.0", "torch": "2.13.0", "numpy": "2.3.1", "python": "3.12.4", "cpu": "2 cores"},
        command=f"minimand compare digits --target '{NASTY}' --try loss=cross_entropy,ldr_kl,gce,focal,mae --seeds 10",
        test_uses=2,
        master_seed=0,
    )


@pytest.fixture(scope="session")
def make_result() -> Callable[..., StudyResult]:
    """Makes example studies: ``make_result(higher_is_better=True, seeds=10, only=6)``."""
    return example
