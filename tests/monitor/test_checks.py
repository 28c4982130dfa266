"""Each check judges plain values; none is green for want of an answer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from monitor_resilient.checks import bookmark, completeness, drift, freshness, parse_checks, rejects, runs, zero_rows
from monitor_resilient.model import Load, StreamRun
from tests.monitor.support import DAY, HOUR, NOW


def load(started_ago: timedelta, exit_code: int | None = 0, reason: str | None = None) -> Load:
    finished = None if exit_code is None else NOW - started_ago + timedelta(minutes=1)
    return Load("load", "shop", "done", NOW - started_ago, finished, exit_code, reason, 10, 0)


@pytest.mark.parametrize(
    ("hours", "state"), [(0, "ok"), (24, "ok"), (24.1, "warn"), (48, "warn"), (48.1, "fail"), (-0.1, "ok")]
)
def test_freshness_is_the_age_of_the_newest_row(hours: float, state: str) -> None:
    assert freshness.evaluate(NOW - hours * HOUR, NOW, DAY, 2 * DAY).state == state


def test_a_row_from_a_clock_that_goes_ahead_is_0s_old() -> None:
    assert freshness.evaluate(NOW + timedelta(minutes=2), NOW, None, DAY).value == "0s"


def test_freshness_of_an_empty_table_fails() -> None:
    assert freshness.evaluate(None, NOW, None, DAY).state == "fail"


def test_freshness_without_warn_after_is_ok_until_it_fails() -> None:
    assert freshness.evaluate(NOW - 23 * HOUR, NOW, None, DAY).state == "ok"


def test_zero_rows_looks_at_the_last_load_unless_told_a_time() -> None:
    some_then_none = [StreamRun("a", NOW - 3 * HOUR, 5), StreamRun("b", NOW - HOUR, 0)]
    assert zero_rows.evaluate(some_then_none, NOW, None).state == "fail"
    assert zero_rows.evaluate(some_then_none, NOW, 4 * HOUR).state == "ok"
    assert zero_rows.evaluate(some_then_none, NOW, 2 * HOUR).state == "fail"
    assert zero_rows.evaluate([], NOW, None).state == "unknown"


@pytest.mark.parametrize(
    ("last", "state", "words"),
    [
        (None, "fail", "ever started"),
        (load(30 * HOUR), "fail", "none since"),
        (load(30 * HOUR, None), "fail", "has not ended"),
        (load(HOUR, None), "ok", "runs"),
        (load(HOUR), "ok", "done"),
        (load(HOUR, 65, "too many refused"), "fail", "65: too many refused"),
        (load(HOUR, 77), "fail", "credentials refused"),
        (load(HOUR, 75), "warn", "run again later"),
        (load(24.2 * HOUR), "ok", "done"),
    ],
    ids=["never", "late", "hangs", "at work", "done", "refused data", "no reason", "stopped", "within grace"],
)
def test_runs_hears_a_load_that_never_started(last: Load | None, state: str, words: str) -> None:
    found = runs.evaluate(last, NOW, DAY, timedelta(minutes=15))
    assert (found.state, words in found.message) == (state, True), found.message


@pytest.mark.parametrize(
    ("received", "quarantined", "state"), [(100, 1, "ok"), (100, 2, "fail"), (0, 0, "ok"), (3, 3, "fail")]
)
def test_rejects_compares_the_share_of_the_last_load(received: int, quarantined: int, state: str) -> None:
    assert rejects.evaluate(StreamRun("load", NOW, received, quarantined), 0.01).state == state


def test_rejects_without_a_load_is_unknown() -> None:
    assert rejects.evaluate(None, 0.01).state == "unknown"


@pytest.mark.parametrize(
    ("verdicts", "status", "state"),
    [
        ({"a": "complete", "b": "complete"}, "complete", "ok"),
        ({"a": "complete", "b": "unproven"}, "unproven", "warn"),
        ({"a": "unproven", "b": "incomplete"}, "incomplete", "fail"),
        ({"a": "complete", "b": "complete"}, "incomplete", "fail"),
        ({}, "unproven", "warn"),
        ({"a": "complete", "b": "sideways"}, "complete", "unknown"),
        ({"a": "complete"}, "failed", "unknown"),
        ({}, None, "unknown"),
    ],
    ids=["all", "one unproven", "one incomplete", "torn input", "foreign tap", "from the future", "failed", "no load"],
)
def test_completeness_is_the_worst_verdict(verdicts: dict[str, str], status: str | None, state: str) -> None:
    assert completeness.evaluate(verdicts, status).state == state


def test_a_tap_that_ended_without_its_end_marker_is_incomplete() -> None:
    assert completeness.evaluate(None, "unproven").state == "fail"


def test_completeness_names_the_streams() -> None:
    assert completeness.evaluate({"a": "complete", "b": "incomplete"}, "incomplete").message == "incomplete: b"
    assert completeness.evaluate({}, "unproven").message == "unproven: the load as a whole"


def test_bookmark_fails_once_it_stands_too_long() -> None:
    assert bookmark.evaluate(NOW - DAY, NOW, DAY).state == "ok"
    assert bookmark.evaluate(NOW - 2 * DAY, NOW, DAY).state == "fail"
    assert bookmark.evaluate(None, NOW, DAY).state == "unknown"


def test_drift_warns_with_the_columns() -> None:
    assert drift.evaluate([], 3).state == "ok"
    assert drift.evaluate([], 0).state == "unknown"
    found = drift.evaluate(["channel (add column)"], 3)
    assert (found.state, found.message) == ("warn", "1 change: channel (add column)")


def test_all_faults_of_all_checks_come_at_once() -> None:
    _, faults = parse_checks(
        [
            {"type": "freshness", "stream": "orders"},
            {"type": "volum", "stream": "orders"},
            {"type": "runs", "pipeline": "shop", "every": 60},
            {"type": "zero_rows", "stream": "orders", "whithin": "1h"},
            {"type": "volume", "stream": "orders", "drop": "0.9"},
            {"stream": "orders"},
            "freshness",
        ]
    )
    assert [str(fault).split(";")[0] for fault in faults] == [
        "checks[0].column: is required",
        "checks[0].error_after: is required",
        "checks[1].type: unknown check",
        "checks[2].every: must be a duration with a unit, such as 500ms, 10s, 5m, 1h or 7d",
        "checks[3].whithin: unknown setting",
        "checks[4].drop: must be a percentage above 0, such as 90%",
        "checks[5].type: must be one of: freshness, volume, zero_rows, runs, rejects, completeness, bookmark, drift",
        "checks[6]: must be an object with a `type`",
    ]


def test_two_checks_of_one_kind_and_stream_need_names() -> None:
    block = {"type": "zero_rows", "stream": "orders"}
    assert len(parse_checks([block, block])[1]) == 1
    assert parse_checks([block, {**block, "name": "zero_rows_day", "within": "1d"}])[1] == []
