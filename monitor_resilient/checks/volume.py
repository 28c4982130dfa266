"""`volume`: did the last load bring about as many rows as such loads bring?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from statistics import median

from monitor_resilient.model import Outcome, StreamRun
from monitor_resilient.words import count

LEARNING = timedelta(days=7)
WINDOW_DAYS = 14
WEEKDAY_DAYS = 21
WEEKDAY_FACTOR = 3
MEMORY_DAYS = 56
FEW_ROWS = 10
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Bounds:
    """Alarm below (1 - drop) and above (1 + rise) times the expected rows; the bounds themselves are quiet."""

    drop: Fraction = Fraction(9, 10)
    rise: Fraction = Fraction(5)

    @classmethod
    def of(cls, drop: str, rise: str) -> Bounds:
        """The bounds of two percentages such as `90%` and `500%`. Raises ValueError for anything else."""
        return cls(percentage(drop), percentage(rise))

    def low(self, expected: Fraction) -> Fraction:
        """Fewer rows alarm. Under 10 expected rows nothing is too few."""
        return expected * (1 - self.drop) if expected >= FEW_ROWS else Fraction(0)

    def high(self, expected: Fraction) -> Fraction:
        """More rows alarm. Under 10 expected rows the bound is that of 10."""
        return max(expected, Fraction(FEW_ROWS)) * (1 + self.rise)


@dataclass(frozen=True)
class Point:
    """One run against its expectation. `expected` is None while the model learns."""

    run: StreamRun
    expected: Fraction | None
    low: Fraction | None = None
    high: Fraction | None = None

    @property
    def state(self) -> str:
        """ok, fail or learning."""
        if self.expected is None or self.low is None or self.high is None:
            return "learning"
        return "ok" if self.low <= self.run.received <= self.high else "fail"


@dataclass
class _Day:
    rows: int = 0
    covered: timedelta = timedelta(0)

    @property
    def daily(self) -> Fraction:
        return _daily(self.rows, self.covered)


@dataclass
class _Model:
    """Rows and covered time a day of the runs that were not flagged. Days are UTC."""

    days: dict[date, _Day] = field(default_factory=lambda: defaultdict(_Day))

    def learn(self, run: StreamRun, covered: timedelta) -> None:
        today = run.finished_at.date()
        if today not in self.days:
            self._forget(today - timedelta(days=MEMORY_DAYS))
        self.days[today].rows += run.received
        self.days[today].covered += covered

    def _forget(self, before: date) -> None:
        for old in [day for day in self.days if day < before]:
            del self.days[old]

    def expected(self, at: datetime, covered: timedelta) -> Fraction | None:
        """The rows that a run which covers `covered` should bring; None while under 7 days are known."""
        start = at.date() - timedelta(days=WINDOW_DAYS)
        recent = [day for when, day in self.days.items() if when >= start]
        known = sum((day.covered for day in recent), timedelta(0))
        if known < LEARNING:
            self._forget(start)  # a new level is being learnt; weekdays of the old one would mislead
            return None
        daily = self._weekday(at)
        if daily is None:
            daily = _daily(sum(day.rows for day in recent), known)
        return daily * _ratio(covered, _DAY)

    def _weekday(self, at: datetime) -> Fraction | None:
        """The median of this weekday, if at least 21 days are known and the weekdays differ by more than 3 times."""
        rates: dict[int, list[Fraction]] = defaultdict(list)
        for when, day in self.days.items():
            if when < at.date() and day.covered:
                rates[when.weekday()].append(day.daily)
        if sum(map(len, rates.values())) < WEEKDAY_DAYS or at.weekday() not in rates:
            return None
        medians = {weekday: median(found) for weekday, found in rates.items()}
        apart = max(medians.values()) > WEEKDAY_FACTOR * min(medians.values())
        return medians[at.weekday()] if apart else None


def percentage(text: str) -> Fraction:
    """The share that `90%` means. Raises ValueError for anything but a positive number and a percent sign."""
    if not re.fullmatch(r"\d+(\.\d+)?%", text) or not (share := Fraction(text[:-1]) / 100):
        raise ValueError("must be a percentage above 0, such as 90%")
    return share


def judge(runs: Sequence[StreamRun], bounds: Bounds) -> list[Point]:
    """Every run against what the runs before it led to expect, oldest first.

    A flagged run teaches the model nothing. The first run does neither: how much time it covers is unknown.
    A lasting change of level is flagged until the old level has left the 14 days, and is learnt then.
    """
    model = _Model()
    points = [Point(runs[0], None)] if runs else []
    for before, run in pairwise(runs):
        covered = max(run.finished_at - before.finished_at, timedelta(microseconds=1))
        point = _point(run, model.expected(run.finished_at, covered), bounds)
        points.append(point)
        if point.state != "fail":
            model.learn(run, covered)
    return points


def evaluate(runs: Sequence[StreamRun], bounds: Bounds) -> Outcome:
    """The newest run against its expectation."""
    if not runs:
        return Outcome("unknown", "no successful load of this stream is on record")
    point = judge(runs, bounds)[-1]
    value = count(point.run.received, "row")
    if point.expected is None:
        return Outcome("learning", f"{value}; under 7 days of loads are known, so nothing is expected yet", value)
    threshold = f"{float(point.low or 0):,.0f} to {float(point.high or 0):,.0f} rows"
    words = {"ok": "as expected", "fail": "far from what is expected"}[point.state]
    message = f"{value}, {words} (about {float(point.expected):,.0f}; quiet from {threshold})"
    return Outcome(point.state, message, value, threshold)


def _point(run: StreamRun, expected: Fraction | None, bounds: Bounds) -> Point:
    if expected is None:
        return Point(run, None)
    return Point(run, expected, bounds.low(expected), bounds.high(expected))


def _daily(rows: int, covered: timedelta) -> Fraction:
    return rows / _ratio(covered, _DAY)


def _ratio(part: timedelta, whole: timedelta) -> Fraction:
    microsecond = timedelta(microseconds=1)
    return Fraction(part // microsecond, whole // microsecond)
