"""Bookmarks: typed, monotone, never past what was emitted, never ahead of the clock."""

import datetime

import pytest

from tap_resilient.instants import Date, DateTime, Integer, Text, read_all
from tap_resilient.watermark import Incremental, Watermark, Window, ceiling, starting_value, windows

UTC = datetime.timezone.utc
NOW = datetime.datetime(2024, 6, 1, 12, tzinfo=UTC)


def at(text):
    return DateTime().load(text)


def spec(kind=None, **more):
    return Incremental("at", kind or DateTime(), **more)


def rows(*values):
    return [{"at": value} for value in values]


@pytest.mark.parametrize(
    ("kind", "raw", "stored", "written"),
    [
        (DateTime(), "2024-01-31T01:00:00+02:00", "2024-01-30T23:00:00Z", "2024-01-30T23:00:00Z"),
        (DateTime(), "2024-01-31 01:00:00", "2024-01-31T01:00:00Z", "2024-01-31T01:00:00Z"),
        (DateTime(), "2024-01-31T00:00:00.123456789Z", "2024-01-31T00:00:00.123456Z", "2024-01-31T00:00:00.123456Z"),
        (DateTime("epoch_s"), 1706659200, "2024-01-31T00:00:00Z", 1706659200),
        (DateTime("epoch_s"), 1706659200.5, "2024-01-31T00:00:00.500000Z", 1706659200),
        (DateTime("epoch_ms"), "1706659200123", "2024-01-31T00:00:00.123000Z", 1706659200123),
        (DateTime("%d.%m.%Y %H:%M"), "31.01.2024 10:30", "2024-01-31T10:30:00Z", "31.01.2024 10:30"),
        (Date(), "2024-01-31", "2024-01-31", "2024-01-31"),
        (Date("%d/%m/%Y"), "31/01/2024", "2024-01-31", "31/01/2024"),
        (Integer(), "12", 12, 12),
        (Integer(), 10**20, 10**20, 10**20),
        (Text(), "01HV", "01HV", "01HV"),
    ],
)
def test_values_are_read_stored_and_written_by_type(kind, raw, stored, written):
    value = kind.read(raw)
    assert (kind.store(value), kind.write(value)) == (stored, written)
    assert kind.load(stored) == kind.read(raw)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (DateTime(), ["2024-01-01T00:00:00Z", None, 5, "yesterday"]),
        (DateTime("epoch_s"), [1704067200, None, True, "soon", 1e300]),
        (Integer(), [1, None, True, "one"]),
        (Date(), ["2024-01-01", None, 5, "2024-13-01"]),
        (Text(), ["a", None, 5, []]),
    ],
)
def test_values_of_another_type_are_none_and_no_crash(kind, values):
    read = read_all(kind, values)
    assert read[0] is not None
    assert read[1:] == [None] * (len(values) - 1)


def test_zones_are_compared_as_instants_not_as_strings():
    mark = Watermark(spec(row_order="asc"), None, None)
    mark.passed(rows("2024-01-01T12:00:00+05:00", "2024-01-01T08:00:00Z"))
    assert (mark.value, mark.out_of_order) == (at("2024-01-01T08:00:00Z"), False)


def test_sorted_rows_move_the_bookmark_page_by_page():
    mark = Watermark(spec(Integer(), row_order="asc"), 1, None)
    mark.passed(rows(1, 2, 2))
    assert mark.value == 2
    mark.passed(rows(2, 5))
    assert mark.value == 5


def test_rows_out_of_order_take_back_what_the_window_moved_until_it_is_drained():
    mark = Watermark(spec(Integer(), row_order="asc"), 1, None)
    mark.passed(rows(3, 4))
    mark.passed(rows(2, 9))
    assert (mark.value, mark.out_of_order) == (1, True)
    mark.drained()
    assert mark.value == 9


@pytest.mark.parametrize("order", ["desc", "none"])
def test_other_orders_move_the_bookmark_only_when_the_window_is_drained(order):
    mark = Watermark(spec(Integer(), row_order=order), 1, None)
    mark.passed(rows(9, 4))
    assert mark.value == 1
    mark.drained()
    assert mark.value == 9


def test_a_held_window_goes_back_to_where_it_began():
    mark = Watermark(spec(Integer(), row_order="asc"), 1, None)
    mark.passed(rows(2))
    mark.drained()
    mark.passed(rows(3))
    mark.held()
    assert mark.value == 2


def test_the_bookmark_never_goes_back():
    mark = Watermark(spec(Integer()), 10, None)
    mark.passed(rows(3))
    mark.drained()
    assert mark.value == 10


def test_a_row_from_2099_does_not_freeze_the_stream():
    mark = Watermark(spec(row_order="asc"), None, ceiling(DateTime(), NOW))
    mark.passed(rows("2024-05-01T00:00:00Z", "2099-01-01T00:00:00Z"))
    assert mark.value == NOW - datetime.timedelta(minutes=1)


def test_rows_without_a_readable_value_are_counted_and_pass():
    mark = Watermark(spec(Integer(), row_order="asc"), None, None)
    mark.passed([{"at": 1}, {}, {"at": None}, {"at": "x"}, {"at": 2}])
    assert (mark.value, mark.unreadable) == (2, 3)


@pytest.mark.parametrize(
    ("kind", "lookback", "bookmark", "start"),
    [
        (DateTime(), 600.0, "2024-01-01T00:10:00Z", "2024-01-01T00:00:00Z"),
        (Date(), 86400.0 * 1.5, "2024-01-03", "2024-01-01"),
        (Integer(), 100, 150, 50),
        (Integer(), None, 150, 150),
    ],
)
def test_the_lookback_has_the_unit_of_the_key(kind, lookback, bookmark, start):
    assert starting_value(spec(kind, lookback=lookback), kind.load(bookmark)) == kind.load(start)


def test_the_first_run_begins_at_the_initial_value_without_lookback():
    assert starting_value(spec(Integer(), initial=7, lookback=5), None) == 7


def test_a_step_cuts_the_time_up_to_now_into_windows_that_touch():
    start = NOW - datetime.timedelta(hours=5)
    cut = list(windows(spec(step=7200.0), start, NOW))
    assert [window.start for window in cut] == [start + datetime.timedelta(hours=h) for h in (0, 2, 4)]
    assert [window.end for window in cut][:-1] == [window.start for window in cut][1:]
    assert cut[-1].end == NOW


def test_without_step_and_end_param_there_is_one_open_window():
    assert list(windows(spec(start_param="since"), at("2024-01-01T00:00:00Z"), NOW)) == [
        Window(at("2024-01-01T00:00:00Z"), None)
    ]


def test_a_window_splits_in_two_that_touch_until_it_is_too_short():
    first, second = Window(at("2024-01-01T00:00:00Z"), at("2024-01-01T01:00:00Z")).halves()
    assert first.end == second.start == at("2024-01-01T00:30:00Z")
    assert Window(at("2024-01-01T00:00:00Z"), at("2024-01-01T00:00:01Z")).halves() is None
    assert Window(1, None).halves() is None
