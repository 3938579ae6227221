"""Schedules: functions of (step, total) that give the learning rate's multiplier.

``step`` counts from 0 and may be a tensor; ``total`` is the number of steps of the whole run. With PyTorch:
``LambdaLR(optimizer, lambda step: linear_decay(step, total))``.
"""

from __future__ import annotations

import math
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
