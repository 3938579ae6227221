"""Schedules: functions of (step, total) that give the learning rate's multiplier.

``step`` counts from 0 and may be a tensor; ``total`` is the number of steps of the whole run. With PyTorch:
``LambdaLR(optimizer, lambda step: linear_decay(step, total))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor


def constant(step: Any, total: int, warmup: int = 0) -> Any:
    """1 throughout, after ``warmup`` steps of linear increase.

    >>> constant(3, 10)
    1.0
    """
    return _warm(step, warmup)


def linear_decay(step: Any, total: int, warmup: int = 0) -> Any:
    """From 1 straight down to 0 at ``total``, after ``warmup`` steps of linear increase.

    Source: Defazio et al. (2023), arXiv:2310.07831: the schedule that worst-case theory gives for the last iterate.

    >>> linear_decay(5, 10)
    0.5
    """
    return _warm(step, warmup) * (1.0 - _progress(step, total))


def cosine_decay(step: Any, total: int, warmup: int = 0) -> Any:
    """Half a cosine from 1 down to 0 at ``total``, after ``warmup`` steps of linear increase.

    Source: Loshchilov & Hutter (2017), arXiv:1608.03983, equation 5, without restarts.

    >>> round(cosine_decay(5, 10), 12)
    0.5
    """
    angle = math.pi * _progress(step, total)
    cosine = angle.cos() if isinstance(angle, Tensor) else math.cos(angle)
    return _warm(step, warmup) * 0.5 * (1.0 + cosine)


def inverse_sqrt(step: Any, total: int, warmup: int = 0) -> Any:
    """sqrt(s / (step + 1)) with s = max(warmup, 1), after ``warmup`` steps of linear increase to 1.

    Source: Vaswani et al. (2017), arXiv:1706.03762, equation 3, in units of its largest value.

    >>> inverse_sqrt(3, 10)
    0.5
    """
    return _warm(step, warmup) * _falling(step, warmup) ** 0.5


def inverse_time(step: Any, total: int, warmup: int = 0) -> Any:
    """s / (step + 1) with s = max(warmup, 1), after ``warmup`` steps of linear increase to 1.

    Source: Robbins & Monro (1951), A Stochastic Approximation Method.

    >>> inverse_time(3, 10)
    0.25
    """
    return _warm(step, warmup) * _falling(step, warmup)


def step_decay(step: Any, total: int, warmup: int = 0, drops: Sequence[float] = (1 / 3, 2 / 3, 8 / 9)) -> Any:
    """Times 0.1 at each share of the run in ``drops``, after ``warmup`` steps of linear increase.

    Source: Goyal et al. (2017), arXiv:1706.02677, section 5.1: after 30, 60 and 80 of 90 epochs.

    >>> [round(step_decay(step, 90), 6) for step in (29, 30, 60, 80)]
    [1.0, 0.1, 0.01, 0.001]
    """
    if not all(0 <= drop <= 1 for drop in drops):
        raise ValueError(f"drops must lie in [0, 1]; got {drops}")
    progress, value = _progress(step, total), _warm(step, warmup)
    for drop in drops:
        past = progress >= drop
        value = value * (1.0 - 0.9 * (past.to(progress) if isinstance(past, Tensor) else past))
    return value


def _falling(step: Any, warmup: int) -> Any:
    """min(1, s / (step + 1)) with s = max(warmup, 1)."""
    return _at_most_one(max(warmup, 1) / (step + 1))


def _progress(step: Any, total: int) -> Any:
    """The share of the run that is over; a step past the end is the last."""
    _check_step(step)
    if total < 0:
        raise ValueError(f"total must be at least 0; got {total}")
    return _at_most_one(step / max(total, 1))


def _warm(step: Any, warmup: int) -> Any:
    """min(1, (step + 1) / warmup)."""
    _check_step(step)
    if warmup < 0:
        raise ValueError(f"warmup must be at least 0; got {warmup}")
    return _at_most_one((step + 1) / max(warmup, 1))


def _check_step(step: object) -> None:
    if isinstance(step, bool) or not isinstance(step, (int, float, Tensor)):
        raise TypeError(f"step must be a number or a tensor; got {type(step).__name__}")


def _at_most_one(value: Any) -> Any:
    return value.clamp(max=1.0) if isinstance(value, Tensor) else min(value, 1.0)
