"""Whatever an API does against its docs: all rows, or a non-zero exit with the bookmark held. Never a silent part."""

import threading
import time
from email.utils import formatdate

import pytest

from tests.tap.liar import FAULTS, PAGINATORS, ROWS, Liar, stream
from tests.tap.support import Answer, config_for, run_tap, serving

LEADS = ("cursor", "cursor_more", "next_url", "header_link")

AHEAD = ("page", "page_no_size", "page_pages", "offset", "offset_no_size")
"""Paginators that fetch ahead up to a declared total."""

PRODUCT = [
    pytest.param(fault, paginator, total, id=f"{fault}-{paginator}-{'total' if total else 'no_total'}")
    for fault in FAULTS
    for paginator in PAGINATORS
    for total in (False, True)
]


def looks_honest(fault: str, paginator: str, *, total: bool) -> bool:
    """Lies that no client can tell from the truth: nothing in any answer contradicts another."""
    if fault.startswith("empty_middle_page") and paginator == "single":
        return not total
    if fault == "empty_middle_page":
        return not total and (paginator in LEADS or paginator == "last_record")
    if fault == "rows_removed_before":  # behind a cursor that is an offset in disguise
        return paginator in LEADS
    return fault == "has_more_without_lead" and not total and paginator in ("cursor", "next_url")


@pytest.mark.parametrize(("fault", "paginator", "total"), PRODUCT)
def test_every_lie_ends_with_all_rows_or_nonzero_with_the_bookmark_held(fault, paginator, total):
    check(fault, paginator, total=total, order="none" if total else "asc")


@pytest.mark.parametrize("order", ["asc", "none"])
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("paginator", AHEAD)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_lie_passes_more_easily_where_pages_are_fetched_ahead(fault, paginator, concurrency, order):
    check(fault, paginator, total=True, order=order, concurrency=concurrency)


def check(fault, paginator, *, total, order, concurrency=None):
    liar = Liar(paginator, FAULTS[fault])
    with serving(liar) as api:
        run = run_tap(config_for(api.url, stream(paginator, total=total, row_order=order), concurrency=concurrency))
    missing = set(range(1, ROWS + 1)) - liar.ever_removed - {record["id"] for record in run.records("rows")}
    bookmark = run.bookmark("rows")
    if run.code == 0:
        assert not missing or looks_honest(fault, paginator, total=total), f"{len(missing)} rows silently missing"
        assert not missing or not total or run.verdicts != {"rows": "complete"}
    else:
        assert run.code in (65, 69)
        assert bookmark is None or not missing or bookmark < min(missing), "the bookmark passed rows that are missing"
        assert order == "asc" or bookmark is None, "an unsorted scan that failed moved the bookmark"
    assert len(api.log) < 200


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("paginator", PAGINATORS)
def test_an_honest_api_is_complete_and_a_single_answer_without_total_unproven(paginator, total):
    with serving(Liar(paginator, FAULTS["honest"])) as api:
        run = run_tap(config_for(api.url, stream(paginator, total=total, row_order="asc")))
    assert run.code == 0
    assert [record["id"] for record in run.records("rows")] == list(range(1, ROWS + 1))
    assert run.verdicts == {"rows": "unproven" if paginator == "single" and not total else "complete"}
    assert run.bookmark("rows") == ROWS


# The seven probes that peers fail (1,000 true rows, plain documented configurations)

THOUSAND = [{"id": number, "seq": number} for number in range(1, 1001)]


def probe_stream(paginator):
    return {
        "name": "rows",
        "path": "/rows",
        "records": {"path": "data"},
        "paginator": paginator,
        "primary_keys": ["id"],
    }


def pages_of(size, change=lambda asked, page: Answer({"data": page, "total": 1000})):
    def handle(asked):
        start = int(asked.params.get("offset") or (int(asked.params.get("page", 1)) - 1) * size)
        return change(asked, THOUSAND[start : start + size])

    return handle


PAGED = [
    {"type": "offset", "limit_param": "limit", "page_size": 500},
    {"type": "offset", "limit_param": "limit", "page_size": 500, "total_path": "total"},
    {"type": "page", "size_param": "limit", "page_size": 500},
    {"type": "page", "size_param": "limit", "page_size": 500, "total_path": "total"},
]


@pytest.mark.parametrize("paginator", PAGED, ids=["offset", "offset_total", "page", "page_total"])
def test_a_server_that_caps_the_page_size_still_gives_all_rows(paginator):
    with serving(pages_of(100)) as api:
        run = run_tap(config_for(api.url, probe_stream(paginator)))
    assert (run.code, run.verdicts) == (0, {"rows": "complete"})
    assert [record["id"] for record in run.records("rows")] == list(range(1, 1001))


@pytest.mark.parametrize("paginator", PAGED, ids=["offset", "offset_total", "page", "page_total"])
def test_a_renamed_records_key_is_a_failure_not_an_empty_stream(paginator):
    with serving(pages_of(100, lambda asked, page: Answer({"results": page, "total": 1000}))) as api:
        run = run_tap(config_for(api.url, probe_stream(paginator)))
    assert (run.code, run.records("rows")) == (69, [])
    assert "no records at 'data'" in str(run.error)


@pytest.mark.parametrize("paginator", PAGED, ids=["offset", "offset_total", "page", "page_total"])
def test_an_error_in_a_200_is_a_failed_request(paginator):
    def third_fails(asked, page):
        return Answer({"error": "quota"}) if page and page[0]["id"] > 200 else Answer({"data": page, "total": 1000})

    with serving(pages_of(100, third_fails)) as api:
        run = run_tap(config_for(api.url, probe_stream(paginator)))
    assert (run.code, run.verdicts) == (69, {"rows": "incomplete"})


def test_a_cursor_cycle_of_two_ends_after_one_round():
    leads = {None: "A", "A": "B", "B": "A"}

    def handle(asked):
        lead = asked.params.get("cursor")
        first = {None: 0, "A": 100, "B": 200}[lead]
        return Answer({"data": THOUSAND[first : first + 100], "next": leads[lead]})

    with serving(handle) as api:
        run = run_tap(
            config_for(api.url, probe_stream({"type": "cursor", "cursor_param": "cursor", "cursor_path": "next"}))
        )
    assert (run.code, run.verdicts, len(api.log)) == (65, {"rows": "incomplete"}, 3)
    assert "circle" in str(run.error)


def test_one_truncated_body_is_asked_for_again():
    cut = iter([True])

    def cut_once(asked, page):
        return Answer({"data": page, "total": 1000}, cut=bool(page and page[0]["id"] > 200 and next(cut, False)))

    with serving(pages_of(100, cut_once)) as api:
        run = run_tap(config_for(api.url, probe_stream(PAGED[1])))
    assert (run.code, len(run.records("rows"))) == (0, 1000)


def retry_after(value):
    refused = iter([True])
    times = []

    def handle(asked):
        times.append(time.monotonic())
        if next(refused, False):
            return Answer({}, 429, {"Retry-After": value()})
        return Answer({"data": THOUSAND})

    with serving(handle) as api:
        run = run_tap(config_for(api.url, probe_stream({"type": "single"})))
    return run, times[1] - times[0]


def test_a_retry_after_date_is_waited_for():
    run, waited = retry_after(lambda: formatdate(time.time() + 2, usegmt=True))
    assert run.code == 0
    assert 0.9 <= waited < 4  # a date has whole seconds


def test_a_fractional_retry_after_is_waited_for():
    run, waited = retry_after(lambda: "1.5")
    assert run.code == 0
    assert 1.5 <= waited < 3


# Rows that move while they are read


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("gone", [1, 3, 9, 25])
def test_rows_that_vanish_in_front_lose_no_others_behind_them(gone, total, concurrency):
    """Behind offsets the seam is read again; if it cannot be found any more, that is said."""
    rows, asked_for, lock = list(THOUSAND[:53]), [], threading.Lock()

    def handle(asked):
        with lock:
            start = int(asked.params["offset"])
            if start > 25 and len(rows) == 53:
                del rows[:gone]
            asked_for.append(start)
            return Answer({"data": rows[start : start + 10], **({"total": len(rows)} if total else {})})

    paginator = {
        "type": "offset",
        "limit_param": "limit",
        "page_size": 10,
        **({"total_path": "total"} if total else {}),
    }
    with serving(handle) as api:
        run = run_tap(config_for(api.url, probe_stream(paginator), concurrency=concurrency))
    ids = {record["id"] for record in run.records("rows")}
    assert ids >= {row["id"] for row in rows} or run.code == 65
    assert (run.code == 0) == (gone < 10), f"exit {run.code} after {asked_for}"


def test_rows_that_vanish_at_the_end_of_a_scan_do_not_hide_the_last_ones():
    rows = list(THOUSAND[:23])

    def handle(asked):
        start = int(asked.params["offset"])
        if start == 18:
            del rows[:5]  # of the 18 rows left, 3 have not been read, and nothing is at offset 18 any more
        return Answer({"data": rows[start : start + 10]})

    with serving(handle) as api:
        run = run_tap(config_for(api.url, probe_stream({"type": "offset", "limit_param": "n", "page_size": 10})))
    assert (run.code, [record["id"] for record in run.records("rows")]) == (0, list(range(1, 24)))
