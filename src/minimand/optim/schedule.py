"""Schedules: functions of (step, total) that give the learning rate's multiplier.

``step`` counts from 0 and may be a tensor; ``total`` is the number of steps of the whole run. With PyTorch:
``LambdaLR(optimizer, lambda step: linear_decay(step, total))``.
"""

from __future__ import annotations

import math
from typing import Any


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
    return _warm(step, warmup) * (1.0 - step / max(total, 1))


def cosine_decay(step: Any, total: int, warmup: int = 0) -> Any:
    """Half a cosine from 1 down to 0 at ``total``, after ``warmup`` steps of linear increase.

    Source: Loshchilov & Hutter (2017), arXiv:1608.03983, equation 5, without restarts.

    >>> round(cosine_decay(5, 10), 12)
    0.5
    """
    angle = math.pi * step / max(total, 1)
    cosine = angle.cos() if hasattr(angle, "cos") else math.cos(angle)
    return _warm(step, warmup) * 0.5 * (1.0 + cosine)


def _warm(step: Any, warmup: int) -> Any:
    """min(1, (step + 1) / warmup)."""
    ramp = (step + 1) / max(warmup, 1)
    return ramp.clamp(max=1.0) if hasattr(ramp, "clamp") else min(1.0, ramp)
