"""Pages fetched ahead: the same records, bookmarks and errors as one after the other, only sooner."""

import json
import threading
import time

import pytest

from tap_resilient.background import Background
from tap_resilient.exchange import Response
from tap_resilient.fetcher import Fetcher, Ground
from tap_resilient.paging import Position
from tap_resilient.source import StreamSpec
from tap_resilient.templates import Scope
from tests.tap.support import Answer, config_for, raw_tap, run_tap, serving

ROWS = [{"id": n, "seq": n} for n in range(1, 96)]
PAGE = {"type": "page", "size_param": "limit", "page_size": 10, "total_path": "total"}
OFFSET = {"type": "offset", "limit_param": "limit", "page_size": 10, "total_path": "total"}
PAGED = pytest.mark.parametrize("paginator", [PAGE, OFFSET], ids=["page", "offset"])


def stream(paginator, **more):
    return {
        "name": "rows",
        "path": "/rows",
        "records": {"path": "data"},
        "paginator": paginator,
        "primary_keys": ["id"],
        **more,
    }


def page_of(rows, asked):
    first = int(asked.params.get("offset") or 10 * (int(asked.params.get("page", 1)) - 1))
    return rows[first : first + 10]


def honest(asked):
    return Answer({"data": page_of(ROWS, asked), "total": len(ROWS)})


class Busy:
    """Counts how many requests are under way at once."""

    def __init__(self, handle, seconds=0.03):
        self.handle = handle
        self.seconds = seconds
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, asked):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        return self.handle(asked)


def without_times(output):
    lines = [json.loads(line) for line in output.splitlines()]
    return [{key: value for key, value in line.items() if key != "time_extracted"} for line in lines]


def family(asked):
    if asked.path == "/rows":
        return honest(asked)
    return Answer([{"id": f"{asked.path}-{n}"} for n in range(3)])


CHILD = {"name": "kids", "path": "/{parent.id}/kids", "parent": {"stream": "rows", "include": ["id"]}}
LAYOUTS = {
    "page": [stream(PAGE)],
    "offset": [stream(OFFSET)],
    "bookmarks": [stream(OFFSET, incremental={"replication_key": "seq", "type": "integer", "row_order": "asc"})],
    "partitions": [stream(PAGE, partitions=[{"region": r} for r in "abc"], params={"region": "{partition.region}"})],
    "children": [stream(PAGE), CHILD],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_output_is_the_same_as_with_one_request_at_a_time(layout):
    outputs = []
    with serving(family) as api:
        for concurrency in (1, 4):
            config = config_for(api.url, *LAYOUTS[layout], concurrency=concurrency)
            config["client"]["retry"] = {**config["client"]["retry"], "max_attempts": 3}
            outputs.append(without_times(raw_tap(config)))
    for output in outputs:
        output[-1]["value"]["resilient"].pop("source", None)
    one, four = ([line for line in output if line["type"] != "STATE"] for output in outputs)
    assert one == four
    states = [[line["value"].get("bookmarks") for line in output if line["type"] == "STATE"] for output in outputs]
    assert states[0] == states[1]


@pytest.mark.parametrize("concurrency", [1, 2, 4])
@PAGED
def test_as_many_requests_are_under_way_as_the_limit_allows(paginator, concurrency):
    busy = Busy(honest)
    with serving(busy) as api:
        run = run_tap(config_for(api.url, stream(paginator), concurrency=concurrency))
    assert (run.code, len(run.records("rows")), run.verdicts) == (0, 95, {"rows": "complete"})
    assert busy.most == concurrency


@pytest.mark.parametrize("layout", ["partitions", "children"])
def test_the_next_partitions_and_children_are_asked_for_meanwhile(layout):
    small = {"partitions": [{"region": r} for r in "abcdefgh"], "params": {"region": "{partition.region}"}}
    streams = {
        "partitions": [stream({"type": "single"}, **small)],
        "children": [stream({"type": "single"}), {**CHILD, "records": {"path": "data"}}],
    }[layout]
    busy = Busy(lambda asked: Answer({"data": ROWS[:8]}))
    with serving(busy) as api:
        run = run_tap(config_for(api.url, *streams))
    assert (run.code, busy.most) == (0, 4)
    assert len(api.log) == {"partitions": 8, "children": 9}[layout]


@PAGED
def test_a_page_ahead_that_fails_leaves_what_came_before_it_bookmarked(paginator):
    def third_fails(asked):
        page = page_of(ROWS, asked)
        return Answer({}, 500) if page[0]["id"] in range(19, 31) else honest(asked)

    incremental = {"replication_key": "seq", "type": "integer", "row_order": "asc"}
    runs = []
    with serving(third_fails) as api:
        for concurrency in (1, 4):
            runs.append(
                run_tap(config_for(api.url, stream(paginator, incremental=incremental), concurrency=concurrency))
            )
    one, four = runs
    assert (four.code, str(four.error)) == (one.code, str(one.error)) == (69, str(one.error))
    assert four.records("rows") == one.records("rows")
    assert four.bookmark("rows") == one.bookmark("rows") == one.records("rows")[-1]["seq"]


@pytest.mark.parametrize(("new", "told"), [(3, True), (3, False), (25, True)])
@PAGED
def test_rows_that_come_in_while_later_pages_are_fetched_first_are_not_lost(paginator, new, told):
    rows, third_answered = list(ROWS), threading.Event()

    def inverted(asked):
        """The second page is answered after the third one, with `new` rows before them."""
        first = page_of(ROWS, asked)[:1]
        number = first[0]["id"] // 10 if first else None
        if number == 1 and not third_answered.is_set():
            third_answered.wait(5)
            rows[:0] = [{"id": -n, "seq": -n} for n in range(new)]
        answer = Answer({"data": page_of(rows, asked), "total": len(rows if told else ROWS)})
        if number == 2:
            third_answered.set()
        return answer

    with serving(inverted) as api:
        run = run_tap(config_for(api.url, stream(paginator), concurrency=4))
    lost = {row["id"] for row in ROWS} - {record["id"] for record in run.records("rows")}
    assert run.code == 65 if (paginator, new) == (OFFSET, 25) else not (run.code or lost)  # 25 are out of sight


def test_a_total_that_is_too_high_costs_a_few_requests_and_is_told():
    with serving(lambda asked: Answer({"data": page_of(ROWS, asked), "total": 5000})) as api:
        run = run_tap(config_for(api.url, stream(PAGE)))
    assert (run.code, run.verdicts) == (65, {"rows": "incomplete"})
    assert len(api.log) <= 10 + 3 + 4


def test_discovery_asks_for_one_page():
    from tap_resilient.tap import ResilientTap

    with serving(honest) as api:
        tap = ResilientTap(config=config_for(api.url, stream(PAGE)))
        assert tap.catalog_dict["streams"]
        tap.close()
        assert len(api.log) == 1


class Endless:
    """A client that never answers until it is told to."""

    def __init__(self):
        self.gate = threading.Event()
        self.sent = []

    def send(self, build, **_):
        self.sent.append(build())
        self.gate.wait(5)
        return Response(200, {}, [], 2, "")


class Plain:
    def resolve(self, value):
        return value


def test_no_more_pages_wait_than_there_are_places():
    client, background = Endless(), Background()
    fetcher = Fetcher(StreamSpec("rows", "/rows"), client, Plain(), background, places=3)
    ground = Ground(Scope(), {})
    wanted = [(ground, Position({"page": number}, index=number)) for number in range(10)]
    fetcher.expect(wanted)
    fetcher.expect(wanted)
    assert len(client.sent) == 3
    client.gate.set()
    assert fetcher.taken(*wanted[0]) is not None
    fetcher.expect(wanted[1:])
    assert fetcher.taken(ground, Position({"page": 77})) is None
    assert fetcher.taken(*wanted[1]) is None, "a wrong guess drops the others"
    background.close()


def test_an_ended_run_does_not_wait_for_what_waits_in_the_background():
    background = Background()
    waiting = background.start(lambda: background.sleep(60))
    started = time.monotonic()
    background.close()
    assert time.monotonic() - started < 1
    assert waiting.exception(0) is not None
