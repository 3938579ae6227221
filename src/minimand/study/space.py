"""Which hyperparameters a study tries: its defaults first, then quasi-random points over the declared space."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from minimand._checks import check_count
from minimand.hyper import LogUniform, Uniform
from minimand.study.method import Method

MAX_DIMENSIONS = 32  # the sequence is always drawn in this many and cut, so that a method's points are its own alone
FIRST_AXES = ("rule", "loss")  # the sequence is evenest in its first dimensions, and learning rates matter most


def searched(method: Method) -> dict[str, Uniform | LogUniform]:
    """The numbers that are tuned, by qualified name: those with a search range that the user did not fix.

    The rule's come first, so that methods which differ in their loss alone try the same learning rates.
    """
    axes = [*FIRST_AXES, *(axis for axis in method.choices if axis not in FIRST_AXES)]
    return {
        f"{axis}.{name}": spec.search
        for axis in axes
        if axis in method.choices
        for name, spec in method.choices[axis].hypers.items()
        if spec.search is not None and f"{axis}.{name}" not in method.fixed
    }


def candidates(method: Method, count: int, seed: int) -> list[dict[str, float]]:
    """``count`` settings of what the method tunes, together with what it fixes.

    The first is the defaults: a budget of one candidate means no tuning, and no method loses to its own defaults
    on the validation split. The others are a scrambled Sobol sequence over the search ranges, the same points of the
    unit cube for every method. A method that tunes nothing has one candidate.

    ValueError for a fixed number that the method does not have or that lies outside its range.
    Source: Dahl et al. (2023), arXiv:2306.07179 (AlgoPerf), section 4: quasi-random search with equal budgets.

    >>> from minimand.study.choices import pick
    >>> method = Method("sgd", {"rule": pick("rule", "sgd").choice}, fixed={"rule.weight_decay": 0.0})
    >>> [sorted(point) for point in candidates(method, 2, seed=0)]
    [['rule.lr', 'rule.weight_decay'], ['rule.lr', 'rule.weight_decay']]
    >>> candidates(method, 2, seed=0)[0]["rule.lr"]  # its default
    0.01
    """
    check_count("count", count)
    hypers = method.hypers
    for name, value in method.fixed.items():
        if name not in hypers:
            raise ValueError(f"fixed must name hypers of {method.name!r} ({', '.join(hypers)}); got {name!r}")
        hypers[name].check(name, value)
    ranges = searched(method)
    if not ranges:
        return [dict(method.fixed)]
    if len(ranges) > MAX_DIMENSIONS:
        raise ValueError(f"{method.name!r} must tune at most {MAX_DIMENSIONS} numbers; it has {len(ranges)}")
    defaults = {name: hypers[name].default for name in ranges}
    return [{**defaults, **method.fixed}, *(placed(method, unit_points(count - 1, seed)) if count > 1 else ())]


def placed(method: Method, points: Tensor) -> list[dict[str, float]]:
    """The settings that points (n, d) of the unit cube stand for; a point's first numbers are the method's own."""
    ranges = searched(method)
    return [
        {**{name: range_.at(x) for (name, range_), x in zip(ranges.items(), point, strict=False)}, **method.fixed}
        for point in points.tolist()
    ]


@functools.lru_cache(maxsize=8)  # scrambling takes tens of milliseconds, and every method asks for the same
def unit_points(count: int, seed: int) -> Tensor:
    """Points (count, 32) of a scrambled Sobol sequence in the unit cube; the first k are those of any longer run.

    >>> bool((unit_points(3, seed=1) == unit_points(9, seed=1)[:3]).all())
    True
    """
    return SobolEngine(MAX_DIMENSIONS, scramble=True, seed=seed).draw(count, dtype=torch.float64)
