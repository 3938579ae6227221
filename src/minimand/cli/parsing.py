"""What is written on the command line, taken apart: ``--budget`` and ``--try``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from minimand.study.names import unknown
from minimand.study.trial import Budget

PRESETS = {
    "quick": Budget(steps=300, candidates=4),
    "standard": Budget(),
    "thorough": Budget(steps=2000, candidates=16),
}
_COUNT = re.compile(r"0*[1-9][0-9]{0,8}")
_FIELDS = {"steps": "steps", "batch": "batch_size", "candidates": "candidates", "points": "curve_points"}


def parse_budget(text: str) -> Budget:
    """A budget: a preset (quick, standard, thorough), numbers that change it, or both.

    The numbers are ``steps``, ``batch``, ``candidates`` and ``points`` (on learning curves).

    >>> parse_budget("quick,steps=500,batch=32")
    Budget(steps=500, batch_size=32, candidates=4, curve_points=20)
    """
    preset: str | None = None
    numbers: dict[str, int] = {}
    for part in _split(text, "--budget"):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            if key not in PRESETS:
                raise ValueError(unknown("--budget", key, [*PRESETS, *(f"{name}=N" for name in _FIELDS)]))
            if preset is not None:
                raise ValueError(f"--budget takes one preset; got {preset!r} and {key!r}")
            preset = key
            continue
        if key not in _FIELDS:
            raise ValueError(unknown("--budget: what is set", key, _FIELDS))
        if _FIELDS[key] in numbers:
            raise ValueError(f"--budget sets {key} twice in {text!r}")
        if not _COUNT.fullmatch(value):
            raise ValueError(f"--budget: {key} must be a whole number from 1 to 999999999; got {value!r}")
        numbers[_FIELDS[key]] = int(value)
    return replace(PRESETS[preset or "standard"], **numbers)


def parse_try(texts: Sequence[str]) -> dict[str, list[str]]:
    """What to try on each axis, from texts such as ``loss=cross_entropy,ldr:lam=10``; several make a grid.

    ``ldr(lam=10)`` is another way to write ``ldr:lam=10``. An axis that comes again gets more choices.

    >>> parse_try(["loss=gce,ldr(lam=10, margin=0)", "rule=adamw,lion"])
    {'loss': ['gce', 'ldr:lam=10:margin=0'], 'rule': ['adamw', 'lion']}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        axis, equals, choices = text.partition("=")
        axis = axis.strip()
        if not equals or not axis or any(sign in axis for sign in ",:()"):
            raise ValueError(f"--try must be written AXIS=a,b,c, as in loss=cross_entropy,gce; got {text!r}")
        for choice in _split(choices, f"--try {axis}"):
            choice = _with_colons(choice)
            if choice in found.setdefault(axis, []):
                raise ValueError(f"--try {axis} has {choice!r} twice")
            found[axis].append(choice)
    return found


def _split(text: str, option: str) -> list[str]:
    """``text`` at its commas, but for those in parentheses."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            break
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    if depth != 0:
        raise ValueError(f"{option} must have matching parentheses; got {text!r}")
    parts = [part.strip() for part in parts]
    if not all(parts):
        raise ValueError(f"{option} must have something between its commas; got {text!r}")
    return parts


def _with_colons(choice: str) -> str:
    """``ldr(lam=10, margin=0)`` as ``ldr:lam=10:margin=0``."""
    name, opened, rest = choice.partition("(")
    if not opened:
        return choice
    if not rest.endswith(")") or "(" in rest or not name.strip():
        raise ValueError(f"--try: a choice is written name, name:hyper=value or name(hyper=value); got {choice!r}")
    return ":".join([name.strip(), *_split(rest[:-1], f"--try {choice}")])
