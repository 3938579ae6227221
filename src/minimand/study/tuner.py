"""How a method's candidates are chosen: all at once, or in rounds that learn from the scores of those before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch

from minimand._checks import check_choice
from minimand.optim.search import BayesianSearch, CoveringDirectSearch, RandomSearch, Search
from minimand.study.method import Method
from minimand.study.space import MAX_DIMENSIONS, candidates, placed, searched

Tuner = Literal["quasirandom", "random", "bayesian", "direct"]

# What the report says of a method's candidates: that they were ...
TUNERS: Mapping[str, str] = {
    "quasirandom": "spread evenly over its search ranges",
    "random": "drawn at random from its search ranges",
    "bayesian": "half spread evenly over its search ranges, half where Bayesian optimisation expected most of them",
    "direct": "half spread evenly over its search ranges, half around the best of them",
}
TOGETHER = 2  # candidates of a later round: fewer learn more from one another, more train faster together


@final
class Tuning:
    """One method's candidates, round by round, as many in all under every tuner.

    "quasirandom" gives :func:`~minimand.study.space.candidates` in one round; "random" has the defaults and then
    points drawn at random, the same of the unit cube for every method. The others begin with half of the
    quasi-random candidates, and in rounds of two ask a :mod:`minimand.optim.search` that has been told all scores so
    far: "bayesian" a :class:`~minimand.optim.BayesianSearch` for noisy values (the extra ``bo``), "direct" a
    :class:`~minimand.optim.CoveringDirectSearch`. A method that tunes nothing has one candidate.

    Args:
        method: whose numbers are tuned.
        tuner: one of the four.
        count: candidates in all, at least 1.
        seed: of all that is random.

    Raises:
        ModuleNotFoundError: for "bayesian" without its extra.
        ValueError: as ``candidates``.
    """

    def __init__(self, method: Method, tuner: Tuner, count: int, seed: int) -> None:
        check_choice("tuner", tuner, TUNERS)
        self.method, self.tuner, self.seed = method, tuner, seed
        self.ranges = searched(method)
        self.left = len(candidates(method, count, seed))
        self.asked = 0
        self._search = self._made() if self.ranges else None

    def ask(self) -> list[dict[str, float]]:
        """The next round's settings; none where all have been asked for."""
        if self.asked == 0:
            count = self.left if self._search is None else math.ceil(self.left / 2)
            found = self._first(count)
        elif self._search is None or self.left == 0:
            found = []
        else:
            found = placed(self.method, self._search.ask(min(TOGETHER, self.left)))
        self.asked, self.left = self.asked + len(found), self.left - len(found)
        return found

    def tell(self, settings: Sequence[Mapping[str, float]], scores: Sequence[float]) -> None:
        """Learn the scores of a round's settings: higher is better, NaN says that a trial did not finish."""
        if self._search is None or not settings:
            return
        points = [[range_.fraction(setting[name]) for name, range_ in self.ranges.items()] for setting in settings]
        values = [score if math.isfinite(score) else math.nan for score in scores]
        self._search.tell(torch.tensor(points, dtype=torch.float64), torch.tensor(values, dtype=torch.float64))

    def _first(self, count: int) -> list[dict[str, float]]:
        if self.tuner != "random" or count == 1:
            return candidates(self.method, count, self.seed)
        drawn = RandomSearch(MAX_DIMENSIONS, self.seed).ask(count - 1)
        return [*candidates(self.method, 1, self.seed), *placed(self.method, drawn)]

    def _made(self) -> Search | None:
        if self.tuner == "bayesian":
            return BayesianSearch(len(self.ranges), "noisy_expected_improvement", seed=self.seed, initial=2)
        if self.tuner == "direct":
            return CoveringDirectSearch(len(self.ranges), self.seed)
        return None
