"""The report's page: what it says in words, and what its templates are given to draw."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from minimand.study import numerals
from minimand.study.charts import Band, Plot, Scale
from minimand.study.result import CandidateResult, MethodResult, StudyResult
from minimand.study.statistics import Interval, seeds_needed, smallest_p
from minimand.study.tuner import TUNERS

TEMPLATES = Path(__file__).parent / "templates"
METRIC_PLOT = (270.0, 130.0)  # width and height in the units of a panel's drawing
LOSS_PLOT = (270.0, 70.0)


def page(study: StudyResult) -> str:
    """The report as one HTML document that asks for nothing outside itself.

    All text of the study passes Jinja's escaping. Should any of it become markup nonetheless, the page's policy
    forbids every script but the page's own and every request.
    """
    style, script = ((TEMPLATES / file).read_text(encoding="utf-8") for file in ("report.css", "report.js"))
    return (
        _environment()
        .get_template("report.html")
        .render(
            view=View(study),
            study=study,
            style=Markup(style),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    """Jinja with escaping on and the report's words and numbers at hand."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        plural=numerals.plural,
        p_value=numerals.p_value,
        duration=numerals.duration,
        size=numerals.size,
        moment=numerals.moment,
        short=numerals.short,
        name=_name,
    )
    return environment


@dataclass(frozen=True)
class Panel:
    """One method's learning curves: SVG paths, in ``metric`` with those of the others behind, and in ``loss``."""

    row: MethodResult
    metric: Plot
    line: str
    area: str
    others: tuple[str, ...]
    baseline: str
    loss: Plot
    loss_line: str
    loss_area: str


@dataclass(frozen=True)
class Search:
    """What was tried for one of a method's numbers: its axis and the candidates that have it."""

    name: str
    axis: Scale
    candidates: tuple[CandidateResult, ...]


class View:
    """A study's result as the templates draw it."""

    def __init__(self, study: StudyResult) -> None:
        self.study = study
        self.metric = study.task.metric
        self.rivals = tuple(row for row in study.rows if row.difference is not None)
        self.baseline = next((row for row in study.rows if row.name == study.baseline), study.rows[0])
        means = [row.mean for row in study.rows]
        self.decimals = _decimals([row.interval for row in study.rows], means)
        gains = [row.difference.interval for row in self.rivals if row.difference is not None]
        self.gain_decimals = max(self.decimals, _decimals(gains, means))

    def number(self, value: float) -> str:
        """A score, to the decimals its interval makes sense of."""
        return numerals.number(value, self.decimals)

    def signed(self, value: float) -> str:
        """A gain over the baseline, to the decimals its interval makes sense of."""
        return numerals.signed(value, self.gain_decimals)

    def count(self, value: int) -> str:
        """A whole number."""
        return numerals.number(value, 0)

    # What the page says

    @cached_property
    def headline(self) -> Markup:
        """The one thing to know."""
        better, worse = self._ruled("better"), self._ruled("worse")
        where = {"baseline": _name(self.study.baseline), "task": self.study.task.name}
        if not self.rivals:
            score = f"{self.number(self.baseline.mean)} {self.metric.name}"
            return _say("{baseline} scores {score} on {task}", score=score, **where)
        if len(better) in (1, 2):
            verb = "is" if len(better) == 1 else "are"
            names = _list(_name(row.name) for row in better)
            return _say("{names} {verb} better than {baseline} on {task}", names=names, verb=verb, **where)
        if better:
            of, all_ = numerals.in_words(len(better)), numerals.in_words(len(self.rivals))
            share = f"All {all_} others" if len(better) == len(self.rivals) else f"{of.capitalize()} of {all_} others"
            return _say("{share} are better than {baseline} on {task}", share=share, **where)
        if worse:
            return _say("Nothing is shown to be better than {baseline} on {task}", **where)
        return _say("No difference from {baseline} is resolved on {task}", **where)

    @cached_property
    def findings(self) -> list[Markup]:
        """What is behind the headline: by how much, how sure, what stays open, what failed."""
        found = [self._change(row) for row in (*self._ruled("better")[:3], *self._ruled("worse")[:3])]
        undecided = self._ruled("undecided")
        if undecided:
            names = _list(_name(row.name) for row in undecided)
            found.append(_say("Not resolved: {names}. {why}", names=names, why=self._why_open(len(undecided))))
        failed = [row for row in self.study.rows if row.diverged + row.crashed]
        if failed:
            found.append(
                _say(
                    "{count} of {trials} trials did not finish ({names}); they count against their method.",
                    count=sum(row.diverged + row.crashed for row in failed),
                    trials=self.trials,
                    names=_list(_say("{name} {n}", name=_name(r.name), n=r.diverged + r.crashed) for r in failed),
                )
            )
        return found

    def _ruled(self, verdict: str) -> list[MethodResult]:
        return [row for row in self.study.rows if row.verdict == verdict]

    def _why_open(self, undecided: int) -> Markup:
        """Why differences are not resolved: too few seeds for any, or too much noise for these."""
        seeds = len(self.study.seeds)
        if seeds < seeds_needed(len(self.rivals)):
            return _say("No difference is, however large, with {seeds}.", seeds=numerals.plural(seeds, "seed"))
        if any(row.scored_on == "validation" for row in self.study.rows):
            return _say("The test split's budget was spent before it had answered for all methods.")
        if self.through_thresholdout:
            return _say("The reusable holdout tells no differences as small, however many seeds are run.")
        return _say(
            "{what} from {baseline} may be due to the training seeds alone.",
            what="Its difference" if undecided == 1 else "Their differences",
            baseline=_name(self.study.baseline),
        )

    def _change(self, row: MethodResult) -> Markup:
        """By how much a resolved method moves the metric."""
        if row.difference is None:
            raise ValueError(f"row must have a difference from the baseline to be {row.verdict}; got {row.name!r}")
        low, high = sorted(abs(end) for end in (row.difference.interval.low, row.difference.interval.high))
        return _say(
            "{name} {moves} {metric} by {gain} (95% interval {low} to {high}), from {before} to {after}.",
            name=_name(row.name),
            moves="raises" if (row.verdict == "better") == self.metric.higher_is_better else "lowers",
            metric=self.metric.name,
            gain=Markup("<strong>{}</strong>").format(numerals.number(abs(row.difference.mean), self.gain_decimals)),
            low=numerals.number(low, self.gain_decimals),
            high=numerals.number(high, self.gain_decimals),
            before=self.number(self.baseline.mean),
            after=self.number(row.mean),
        )

    @property
    def through_thresholdout(self) -> bool:
        """Whether test scores were told by the reusable holdout."""
        return self.study.holdout is not None and self.study.holdout.kind == "thresholdout"

    @cached_property
    def decided_on(self) -> str:
        """Which rows decide."""
        return "on the test split" + (", through Thresholdout" if self.through_thresholdout else "")

    @cached_property
    def test_split(self) -> str:
        """How often the test split has been asked, and what that means."""
        uses = self.study.test_uses if self.study.holdout is None else self.study.holdout.uses
        times = "once" if uses == 1 else numerals.plural(uses, "time")
        use = self.study.holdout
        if use is not None and use.kind == "thresholdout":
            return f"consulted {times}, through Thresholdout: {use.remaining} of {use.budget} answers remain"
        return f"scored {times}" + (": each further look makes its scores less fresh" if uses > 1 else "")

    # What it counts

    @cached_property
    def trials(self) -> int:
        """How many trials were run."""
        return sum(len(row.candidates) + len(row.scores) for row in self.study.rows)

    @cached_property
    def shared(self) -> dict[str, str]:
        """The choices that all methods have in common: axis to choice."""
        first, *others = (row.choices for row in self.study.rows)
        return {axis: choice for axis, choice in first.items() if all(o.get(axis) == choice for o in others)}

    def own(self, row: MethodResult) -> dict[str, str]:
        """The choices that set a method apart, unless its name says as much."""
        apart = {axis: choice for axis, choice in row.choices.items() if axis not in self.shared}
        return {} if list(apart.values()) == [row.name] else apart

    @cached_property
    def smallest_p(self) -> float:
        """The smallest p-value within reach, before Holm's correction."""
        return smallest_p(len(self.study.seeds))

    def unfinished(self, row: MethodResult) -> list[bool]:
        """For each seed, whether its final trial broke off: its curve ends before the others' or is not finite."""
        last = max((p.step for other in self.study.rows for curve in other.curves for p in curve), default=None)
        if last is None or len(row.curves) != len(row.scores):
            return [False] * len(row.scores)
        return [not curve or curve[-1].step < last or not math.isfinite(curve[-1].loss) for curve in row.curves]

    @cached_property
    def broken(self) -> bool:
        """Whether any final trial broke off."""
        return any(any(self.unfinished(row)) for row in self.study.rows)

    def chosen(self, row: MethodResult, candidate: CandidateResult) -> bool:
        """Whether the final trials took this candidate's numbers."""
        return all(row.hypers.get(name) == value for name, value in candidate.hypers.items())

    @property
    def chosen_how(self) -> str:
        """How each method's candidates were chosen, in words."""
        return TUNERS[self.study.tuner]

    # What it draws

    @cached_property
    def means(self) -> Scale:
        """The axis of mean scores and their intervals."""
        return Scale.of(chain.from_iterable((r.interval.low, r.mean, r.interval.high) for r in self.study.rows))

    @cached_property
    def scores(self) -> Scale:
        """The axis of single scores."""
        return Scale.of(chain.from_iterable((row.mean, *row.scores) for row in self.study.rows))

    @cached_property
    def differences(self) -> Scale:
        """The axis of differences from the baseline, zero on it."""
        found = [row.difference for row in self.rivals if row.difference is not None]
        return Scale.of(chain.from_iterable((d.interval.low, d.mean, d.interval.high) for d in found), always=[0.0])

    @cached_property
    def validation(self) -> Scale:
        """The axis of validation scores."""
        return Scale.of(candidate.validation for row in self.study.rows for candidate in row.candidates)

    def scored(self, candidate: CandidateResult) -> bool:
        """Whether a candidate has a validation score; one that finished may lack it where the metric is undefined."""
        return candidate.status == "finished" and math.isfinite(candidate.validation)

    def merit(self, candidate: CandidateResult) -> float:
        """Where a candidate's validation score lies on its axis, turned so that 100 is the best; -1 without one."""
        if not self.scored(candidate):
            return -1.0
        place = self.validation.at(candidate.validation)
        return place if self.metric.higher_is_better else 100.0 - place

    def searches(self, row: MethodResult) -> list[Search]:
        """One for each number that varies among the method's candidates."""
        found = []
        for name in dict.fromkeys(name for candidate in row.candidates for name in candidate.hypers):
            having = tuple(candidate for candidate in row.candidates if name in candidate.hypers)
            values = {candidate.hypers[name] for candidate in having}
            if len(values) > 1:
                found.append(Search(name, Scale.of(values, always=values, log=True, margin=0.08), having))
        return found

    def ranked(self, row: MethodResult) -> list[CandidateResult]:
        """The method's candidates, best first and those without a score last."""
        return sorted(row.candidates, key=self.merit, reverse=True)

    @cached_property
    def panels(self) -> list[Panel]:
        """Learning curves, a panel a method; none if no curve was recorded."""
        metric = {row.name: Band.of(row.curves, "metric") for row in self.study.rows}
        loss = {row.name: Band.of(row.curves, "loss") for row in self.study.rows}
        last = max((step for band in (*metric.values(), *loss.values()) for step in band.steps), default=0)
        if last == 0:
            return []
        steps = Scale(0.0, float(last))
        plot = Plot(steps, Scale.of(_heights(metric.values())), *METRIC_PLOT)
        lines = {name: plot.line(band) for name, band in metric.items()}

        def panel(row: MethodResult) -> Panel:
            own = Plot(steps, Scale.of(_heights([loss[row.name]]), log=True), *LOSS_PLOT)
            return Panel(
                row=row,
                metric=plot,
                line=lines[row.name],
                area=plot.area(metric[row.name]),
                others=tuple(line for name, line in lines.items() if name not in (row.name, self.baseline.name)),
                baseline=lines[self.baseline.name] if row.name != self.baseline.name else "",
                loss=own,
                loss_line=own.line(loss[row.name]),
                loss_area=own.area(loss[row.name]),
            )

        return [panel(row) for row in self.study.rows]


def _say(sentence: str, **parts: Any) -> Markup:
    """``sentence`` with its parts put in, escaped unless they are markup made here."""
    return Markup(sentence).format(**parts)


def _name(text: str) -> Markup:
    """A method's name, set apart from the prose and from its direction of writing."""
    return Markup('<bdi class="name">{}</bdi>').format(text)


def _list(items: Iterable[Markup]) -> Markup:
    """Items as a sentence lists them: a, b and c."""
    *most, last = items
    return Markup("{} and {}").format(Markup(", ").join(most), last) if most else last


def _heights(bands: Iterable[Band]) -> Iterable[float]:
    return chain.from_iterable((*band.low, *band.middle, *band.high) for band in bands)


def _decimals(intervals: Iterable[Interval], scores: Iterable[float]) -> int:
    """Decimals that leave a middling interval's half-width 4 to 39 units long; without one, four of the scores.

    Fewer would round the interval away, more would be false precision.
    """
    halves = sorted((interval.high - interval.low) / 2 for interval in intervals)
    sizes = [half for half in halves if 0.0 < half < math.inf]
    unit = sizes[len(sizes) // 2] / 4 if sizes else (max(map(abs, scores), default=0.0) or 1.0) / 1000
    return min(numerals.MOST_DECIMALS, max(0, -math.floor(math.log10(unit))))
