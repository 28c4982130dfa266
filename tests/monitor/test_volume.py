"""The volume model on the shapes that fool the others (FIELD: monitoring)."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from monitor_resilient.checks.volume import Bounds, evaluate, judge, percentage
from monitor_resilient.model import StreamRun

MONDAY = datetime(2026, 1, 5, 3, tzinfo=timezone.utc)
Shape = Callable[[random.Random, datetime], int]


def runs_of(shape: Shape, days: int, *, every_hours: int = 24, seed: int = 1) -> list[StreamRun]:
    chance = random.Random(seed)
    moments = [MONDAY + timedelta(hours=every_hours * number) for number in range(days * 24 // every_hours)]
    return [StreamRun(str(at), at, shape(chance, at)) for at in moments]


def steady(chance: random.Random, at: datetime) -> int:
    return round(chance.gauss(10_000, 500))


def weekdays(chance: random.Random, at: datetime) -> int:
    return round(chance.gauss(1000, 100) * (0.05 if at.weekday() >= 5 else 1))


def sparse(chance: random.Random, at: datetime) -> int:
    return sum(chance.random() < 0.05 for _ in range(20))


def steady_then(rows: int, *, days: int = 14, level: int = 1000) -> list[StreamRun]:
    """`days` runs of `level` rows a day after a first one that only starts the clock, then one of `rows`."""
    return [StreamRun(str(day), MONDAY + timedelta(days=day), level) for day in range(days + 1)] + [
        StreamRun("last", MONDAY + timedelta(days=days + 1), rows)
    ]


@pytest.mark.parametrize(
    ("rows", "state"),
    [(1000, "ok"), (100, "ok"), (99, "fail"), (0, "fail"), (6000, "ok"), (6001, "fail")],
    ids=["as ever", "exactly -90 %", "below -90 %", "nothing", "exactly times 6.00", "above times 6"],
)
def test_the_bounds_themselves_are_quiet(rows: int, state: str) -> None:
    assert evaluate(steady_then(rows), Bounds()).state == state


def test_bounds_stay_exact_where_the_mean_is_no_round_number() -> None:
    runs = steady_then(0, level=7)
    thirds = [StreamRun(run.load_id, run.finished_at + timedelta(seconds=n % 3), 1000 + n % 3)
              for n, run in enumerate(runs[:-1])]  # fmt: skip
    last = judge([*thirds, runs[-1]], Bounds())[-1]
    assert last.expected is not None
    assert last.low == last.expected / 10
    assert last.high == last.expected * 6


def test_under_seven_days_the_check_learns() -> None:
    assert evaluate(steady_then(0, days=6), Bounds()).state == "learning"
    assert evaluate(steady_then(0, days=7), Bounds()).state == "fail"


def test_the_first_load_teaches_nothing_because_its_span_is_unknown() -> None:
    runs = steady_then(1000)
    backfill = [StreamRun("backfill", runs[0].finished_at, 5_000_000), *runs[1:]]
    assert [point.state for point in judge(backfill, Bounds())].count("fail") == 0


def test_no_load_at_all_is_unknown() -> None:
    assert evaluate([], Bounds()).state == "unknown"


def test_an_hourly_load_is_expected_a_24th_of_the_day() -> None:
    runs = runs_of(lambda chance, at: 40, 15, every_hours=1)
    late = StreamRun("late", runs[-1].finished_at + timedelta(hours=6), 240)
    last = judge([*runs, late], Bounds())[-1]
    assert last.expected == 240


def test_few_expected_rows_alarm_on_spikes_only() -> None:
    assert evaluate(steady_then(0, level=5), Bounds()).state == "ok"
    assert evaluate(steady_then(60, level=5), Bounds()).state == "ok"
    assert evaluate(steady_then(61, level=5), Bounds()).state == "fail"


def test_a_flagged_run_teaches_nothing() -> None:
    runs = steady_then(100_000)
    after = StreamRun("after", runs[-1].finished_at + timedelta(days=1), 1000)
    last = judge([*runs, after], Bounds())[-1]
    assert (last.expected, last.state) == (1000, "ok")


def test_a_new_level_is_learnt_once_the_old_one_has_left_the_window() -> None:
    runs = runs_of(lambda chance, at: 1000 if at < MONDAY + timedelta(days=30) else 20_000, 90)
    states = [point.state for point in judge(runs, Bounds())]
    assert states[30] == "fail"
    assert set(states[60:]) == {"ok"}


@pytest.mark.parametrize("shape", [steady, sparse], ids=["steady", "sparse"])
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_ordinary_days_raise_no_false_alarm(shape: Shape, seed: int) -> None:
    points = judge(runs_of(shape, 1000, seed=seed), Bounds())
    assert [point.run.load_id for point in points if point.state == "fail"] == [], f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_weekends_are_no_alarm_once_21_days_are_known(seed: int) -> None:
    points = judge(runs_of(weekdays, 1000, seed=seed), Bounds())
    assert [point.run.load_id for point in points[22:] if point.state == "fail"] == [], f"seed {seed}"


@pytest.mark.parametrize("shape", [steady, weekdays], ids=["steady", "weekdays"])
def test_every_day_without_rows_is_seen(shape: Shape) -> None:
    runs = runs_of(shape, 400)
    missed = [
        day
        for day in range(30, 400, 7)
        if evaluate([*runs[:day], StreamRun("none", runs[day].finished_at, 0)], Bounds()).state != "fail"
    ]
    assert missed == []


def test_a_weekend_day_without_rows_is_seen_where_weekends_have_enough() -> None:
    busy = runs_of(lambda chance, at: 20_000 if at.weekday() < 5 else 1000, 60)
    saturday = next(n for n in range(40, 60) if busy[n].finished_at.weekday() == 5)
    assert evaluate([*busy[:saturday], StreamRun("none", busy[saturday].finished_at, 0)], Bounds()).state == "fail"


@pytest.mark.parametrize("text", ["90", "-5%", "0%", "ninety%", ""])
def test_a_bound_needs_a_percent_sign(text: str) -> None:
    with pytest.raises(ValueError, match="percentage"):
        percentage(text)
