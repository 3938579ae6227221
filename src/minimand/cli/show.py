"""What a study says on a terminal: its header, its table and its conclusions in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from minimand.cli.terminal import plain
from minimand.study import numerals
from minimand.study.metrics import unit
from minimand.study.result import MethodResult, StudyResult
from minimand.study.statistics import Interval
from minimand.study.task import Task

NOT_WHEN_NARROW = ("parameters", "time", "p (Holm)")  # dropped from a narrow terminal's table, in this order
COLOURS = {"better": "bold green", "worse": "bold red", "undecided": "yellow", "baseline": "dim"}
COVERED = "Intervals cover the training seeds: not the split of the rows, nor the luck of tuning."
FACTS_IN_HEADER = (
    "Kind",
    "Target",
    "Rows",
    "Columns",
    "Dropped columns",
    "Rows without target",
    "Inputs",
    "Label noise",
)


def header(task: Task, decided: Iterable[tuple[str, str]]) -> Table:
    """What was read, and what was decided about it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    facts = [(name, str(task.facts[name])) for name in FACTS_IN_HEADER if name in task.facts]
    for name, value in (("Data", task.name), *facts, *decided):
        grid.add_row(plain(name), plain(value))
    return grid


@dataclass(frozen=True)
class _Column:
    title: str
    justify: Literal["left", "right"]
    cells: list[Text]


@dataclass(frozen=True)
class View:
    """A study's result in the units people talk about: shares are in percent, their differences in points."""

    study: StudyResult

    @property
    def percent(self) -> bool:
        """Whether the metric is a share of 1."""
        try:
            return unit(self.study.task.metric.name) == "share"
        except KeyError:  # a metric of the user's own
            return False

    @cached_property
    def decimals(self) -> int:
        """Decimals that leave two digits of a middling interval's half-width."""
        halves = sorted(self._scaled(row.interval.high - row.interval.low) / 2 for row in self.study.rows)
        sizes = [half for half in halves if 0 < half < math.inf]
        typical = sizes[len(sizes) // 2] if sizes else (1.0 if self.percent else 0.01)
        return min(6, max(0, 1 - math.floor(math.log10(typical))))

    def _scaled(self, value: float) -> float:
        return 100 * value if self.percent else value

    def score(self, value: float) -> str:
        """A score."""
        return numerals.number(self._scaled(value), self.decimals)

    def gain(self, value: float) -> str:
        """A difference of scores, with its sign."""
        return numerals.signed(self._scaled(value), self.decimals)

    def between(self, interval: Interval, signed: bool = False) -> str:
        """An interval in brackets."""
        write = self.gain if signed else self.score
        return f"[{write(interval.low)}, {write(interval.high)}]"

    @property
    def metric(self) -> str:
        """The metric with its unit, as a column's title."""
        return self.study.task.metric.name + (" in %" if self.percent else "")

    def table(self, out: Console) -> Table:
        """The ranked table; what a narrow terminal has no room for is left to the report."""
        columns = self._columns()
        for dropped in range(len(NOT_WHEN_NARROW) + 1):
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
            shown = [column for column in columns if column.title not in NOT_WHEN_NARROW[:dropped]]
            for column in shown:
                table.add_column(column.title, justify=column.justify, overflow="fold")
            for cells in zip(*(column.cells for column in shown), strict=True):
                table.add_row(*cells)
            if Measurement.get(out, out.options.update(max_width=10_000), table).maximum <= out.width:
                break
        return table

    def _columns(self) -> list[_Column]:
        rows = self.study.rows
        interval = "mean [95% interval]"
        columns = [
            _Column("", "right", [Text(str(rank), style="dim") for rank in range(1, len(rows) + 1)]),
            _Column("method", "left", [_method(row) for row in rows]),
            _Column(
                f"{self.metric}\n{interval}",
                "right",
                [Text(f"{self.score(row.mean)} {self.between(row.interval)}") for row in rows],
            ),
            _Column(
                f"gain over {plain(self.study.baseline)}\n{interval}",
                "right",
                [Text(self._difference(row)) for row in rows],
            ),
            _Column(
                "p (Holm)",
                "right",
                [Text("" if row.difference is None else numerals.p_value(row.corrected_p)) for row in rows],
            ),
            _Column("verdict", "left", [Text(row.verdict, style=COLOURS[row.verdict]) for row in rows]),
            _Column("time", "right", [Text(numerals.duration(row.seconds)) for row in rows]),
            _Column("parameters", "right", [Text(numerals.number(row.parameters, 0)) for row in rows]),
        ]
        lost = [row.diverged + row.crashed for row in rows]
        if any(lost):
            columns.append(_Column("lost", "right", [Text(str(n) if n else "", style="bold red") for n in lost]))
        return columns

    def _difference(self, row: MethodResult) -> str:
        if row.difference is None:
            return ""
        return f"{self.gain(row.difference.mean)} {self.between(row.difference.interval, signed=True)}"

    def conclusions(self) -> list[Text]:
        """One line a conclusion: what is resolved and by how much, what is not, what failed, what to know."""
        lines = [self._resolved(row) for row in self.study.rows if row.verdict in ("better", "worse")]
        open_ = [row for row in self.study.rows if row.verdict == "undecided"]
        if open_:
            named = ", ".join(f"{plain(row.name)} ({self._difference(row)})" for row in open_)
            lines.append(Text.assemble(("Not resolved: ", "yellow"), f"{named}{self._points}."))
        for row in self.study.rows:
            if row.diverged + row.crashed:
                lines.append(self._unfinished(row))
        lines.extend(Text.assemble(("Note: ", "dim"), plain(note)) for note in self.study.notes)
        return lines

    @property
    def _points(self) -> str:
        return " points" if self.percent else ""

    def _resolved(self, row: MethodResult) -> Text:
        assert row.difference is not None, "only what was compared with the baseline is better or worse"
        low, high = sorted(abs(end) for end in (row.difference.interval.low, row.difference.interval.high))
        by = f"by {self.score(abs(row.difference.mean))}{self._points} [{self.score(low)}, {self.score(high)}]"
        return Text.assemble(
            ("Resolved: ", COLOURS[row.verdict]),
            (plain(row.name), "bold"),
            f" is {row.verdict} than {plain(self.study.baseline)} {by}, p {_equals(row.corrected_p)}.",
        )

    def _unfinished(self, row: MethodResult) -> Text:
        parts = [(row.diverged, "diverged"), (row.crashed, "crashed")]
        counts = " and ".join(f"{numerals.plural(count, 'trial')} {what}" for count, what in parts if count)
        why = f": {plain(row.errors[0])}" if row.errors else ""
        return Text.assemble((f"{counts}: ", "red"), f"{plain(row.name)}; they count against it{why}")


def _equals(p: float | None) -> str:
    written = numerals.p_value(p)
    return written if written.startswith("<") else f"= {written}"


def show(result: StudyResult, out: Console) -> None:
    """The table and the conclusions."""
    view = View(result)
    out.print()
    out.print(view.table(out))
    out.print()
    for line in [*view.conclusions(), Text(COVERED, style="dim")]:
        out.print(line)


def _method(row: MethodResult) -> Text:
    on_validation = " (validation score)" if row.scored_on == "validation" else ""
    return Text.assemble((plain(row.name), _weight(row)), (on_validation, "dim"))


def _weight(row: MethodResult) -> str:
    return "bold" if row.verdict == "better" else ""
