"""Bodies that are too large for memory: the same records, the same refusals, in little memory, and nothing twice."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resilient_core.errors import UnavailableError
from tap_resilient import bodies, json_index, line_index, spool
from tap_resilient.decoders import decode
from tap_resilient.exchange import BadAnswerError, Request
from tap_resilient.spool import Spool
from tap_resilient.streamed import StreamedRows, open_body, slices_of
from tests.tap.support import Answer, config_for, run_tap, serving

ROWS = [{"id": number, "name": f"näme {number}", "tags": [{"a": [1, 2]}, "}, {"]} for number in range(50)]


@pytest.fixture
def small(monkeypatch):
    """Bodies count as large from 1 kB on, and every window and slice is tiny."""
    monkeypatch.setattr(bodies, "HELD_BYTES", 1000)
    monkeypatch.setattr(spool, "CHUNK_BYTES", 11)
    for module in (json_index, line_index):
        monkeypatch.setattr(module, "SLICE_BYTES", 100)
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 20_000)


def spooled(body: bytes) -> Spool:
    found = Spool()
    found.write(body)
    return found


def opened(body: bytes, path=(), decoder="json", content_type=""):
    return open_body(Request("GET", "/", decoder=decoder, records_at=path), spooled(body), content_type)


def same(left, right) -> bool:
    return repr(left) == repr(right)  # NaN is NaN, 1 is not 1.0, and a Decimal is no float


def put_back(found, path):
    """The body as it would be, had it not been streamed."""
    rows = [row for part in found.records.slices() for row in part]
    if not path:
        return rows
    place = found.body
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = rows
    return found.body


ITEMS = ("items",)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        pytest.param(json.dumps(ROWS).encode(), (), id="the whole body"),
        pytest.param(json.dumps({"items": ROWS, "total": 50, "next": None}, indent=1).encode(), ITEMS, id="indented"),
        pytest.param(json.dumps({"a": [1], "r": {"x": 1, "items": ROWS}}).encode(), ("r", "items"), id="nested"),
        pytest.param(json.dumps({"items": ROWS}, ensure_ascii=False).encode(), ITEMS, id="not ASCII"),
        pytest.param(b'\r\n {"items":[],"total":0}\n', ITEMS, id="empty list"),
        pytest.param(b"[" + b" " * 300 + b"{}" + b"\n" * 300 + b"]", (), id="much space"),
        pytest.param(b'{"items":[{"n":9007199254740993},{"n":0.1234567890123456789},{"n":1e400}]}', ITEMS, id="exact"),
        pytest.param(b'[{"n":NaN},{"n":-Infinity},{"s":"\\ud800"},{"n":1e-400}]', (), id="not strict"),
        pytest.param(b'[{"n":1e99999999999999999999}]', (), id="beyond Decimal"),
        pytest.param(b'[{"n":' + b"9" * 5000 + b"}]", (), id="long integer"),
        pytest.param(
            b'{"total":12345678901234567890123,"rate":0.12345678901234567890,"items":[{"a":1}]}', ITEMS, id="kept"
        ),
        pytest.param(b'{"items":[{"a":1}],"items":[{"a":2}]}', ITEMS, id="member twice"),
    ],
)
def test_streamed_json_is_what_the_whole_body_would_be(small, body, path):
    found = opened(body, path)
    assert isinstance(found.records, StreamedRows)
    assert same(put_back(found, path), decode("json", body))


numbers = st.integers() | st.floats() | st.decimals(allow_nan=False, allow_infinity=False).map(str)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(st.dictionaries(st.text(max_size=4), values, max_size=4), max_size=12)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=rows,
    envelope=st.dictionaries(st.text(max_size=4), values, max_size=3),
    escaped=st.booleans(),
    chunk=st.integers(1, 60),
)
@example(rows=[], envelope={"a": 0.5, "b": 1e30}, escaped=True, chunk=1)
@example(rows=[{"": '"},{"'}], envelope={"items": 1, "]": "["}, escaped=True, chunk=1)
def test_any_json_is_streamed_as_it_is(small, monkeypatch, rows, envelope, escaped, chunk):
    monkeypatch.setattr(spool, "CHUNK_BYTES", chunk)
    body = json.dumps({**envelope, "items": rows, "~": envelope}, ensure_ascii=escaped).encode("utf-8", "replace")
    assert same(put_back(opened(body, ITEMS), ITEMS), decode("json", body))


def test_every_cut_of_a_json_body_is_refused(small):
    body = json.dumps({"total": 2.5, "items": ROWS[:3], "more": True}).encode()
    opened(body, ITEMS)
    for end in range(len(body)):
        with pytest.raises(BadAnswerError, match="not valid json"):
            opened(body[:end], ITEMS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b'{"items":[{"a":1},2]}', "records that are no objects", id="a number among the records"),
        pytest.param(b'{"items":[{"a":1},[]]}', "records that are no objects", id="a list among the records"),
        pytest.param(b'{"items":[{"a":1},]}', "not valid json", id="comma before the end"),
        pytest.param(b'{"items":[{"a":1}],}', "not valid json", id="comma after the list"),
        pytest.param(b'{"items":[{"a":1} {"a":2}]}', "not valid json", id="no comma"),
        pytest.param(b'{"items":[,{"a":1}]}', "not valid json", id="comma first"),
        pytest.param(b'{,"items":[{"a":1}]}', "not valid json", id="comma before the first member"),
        pytest.param(b'{"items" [{"a":1}]}', "not valid json", id="no colon"),
        pytest.param(b'{items:[{"a":1}]}', "not valid json", id="bare name"),
        pytest.param(b'{"items":[{"a":1}]}{}', "not valid json", id="two values"),
        pytest.param(b'{"items":[{"a":"\xff"}]}', "not valid json", id="not UTF-8"),
        pytest.param(b'{"items":[{"a":\x01"b"}]}' + b" " * 90_000, "not valid json", id="a fault far from the end"),
        pytest.param(b'{"items":[' + b'{"a":' * 500_000, "nested too deeply", id="deep record"),
        pytest.param(b'{"x":' + b"[" * 500_000, "nested too deeply", id="deep envelope"),
        pytest.param(b"<!doctype html><p>Log in", "HTML page, not json", id="HTML"),
        pytest.param(b'{"items":[{"a":"%b"}]}' % (b"x" * 90_000), "over 16 MB in one record", id="huge record"),
        pytest.param(
            b'{"other":[%b{}],"items":[]}' % (b"{}," * 30_000), "or beside the records", id="huge other member"
        ),
        pytest.param(b'{%b"items":[]}' % (b'"a":1,' * 30_000), "or beside the records", id="a great many members"),
    ],
)
def test_what_cannot_be_streamed_is_a_bad_answer(small, body, message):
    with pytest.raises(BadAnswerError, match=message):
        opened(body, ITEMS)


@pytest.mark.parametrize(
    ("decoder", "body"),
    [
        pytest.param("jsonl", b"\n".join(json.dumps(row).encode() for row in ROWS), id="jsonl"),
        pytest.param("jsonl", b'{"a":1}\r\n\r\n{"a":0.12345678901234567890}\r\n' * 99, id="jsonl with blank lines"),
        pytest.param("csv", b'id,note\n1,"a\n""b"""\r\n\n2,\xc3\xa9\n' * 1, id="csv with quoted line ends"),
        pytest.param("csv", b"id,note\n" + b'1,"x\ny"\n2,5" pipe\r\n' * 200, id="csv in slices"),
        pytest.param("csv", b"id,note", id="csv without rows"),
    ],
)
def test_streamed_lines_are_what_the_whole_body_would_be(small, decoder, body):
    found = opened(body, decoder=decoder)
    assert found.body == []
    assert same(put_back(found, ()), decode(decoder, body))


@pytest.mark.parametrize(
    ("decoder", "body", "message"),
    [
        pytest.param("jsonl", b'{"a":1}\n' * 200 + b'{"a":', "not valid jsonl", id="cut jsonl"),
        pytest.param("jsonl", b'{"a":1}\n' * 200 + b"[]\n", "no objects", id="jsonl of lists"),
        pytest.param("jsonl", b'{"a":"%b"}\n' % (b"x" * 90_000), "over 16 MB in one record", id="huge line"),
        pytest.param("csv", b"a,b\n" + b"1,2\n" * 200 + b"1", "row 201 has 1 fields", id="cut csv"),
        pytest.param("csv", b"a,b\n" + b"1,2\n" * 200 + b'1,"x', "not valid csv", id="open quote"),
        pytest.param("csv", b'a,b\n1,"' + b"x\n" * 90_000, "over 16 MB in one record", id="a quote that never ends"),
        pytest.param("csv", b"a,b\n1," + b"x" * 90_000, "over 16 MB in one record", id="huge csv line"),
        pytest.param("csv", b"a,a\n1,2\n", "names a column twice", id="double column"),
    ],
)
def test_broken_lines_are_a_bad_answer(small, decoder, body, message):
    with pytest.raises(BadAnswerError, match=message):
        opened(body, decoder=decoder)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(json.dumps(ROWS, ensure_ascii=False).encode("utf-8-sig"), "", id="UTF-8 BOM"),
        pytest.param(json.dumps(ROWS, ensure_ascii=False).encode("utf-16"), "", id="UTF-16"),
        pytest.param(json.dumps(ROWS, ensure_ascii=False).encode("latin-1"), "x; charset=latin1", id="charset"),
    ],
)
def test_streamed_bodies_come_in_any_charset(small, body, content_type):
    assert put_back(opened(body, content_type=content_type), ()) == ROWS


def test_records_at_an_expression_and_xml_are_read_whole():
    assert opened(b'{"a":[{"b":1}]}', None).records is None
    assert opened(b"<a><b>1</b></a>", (), "xml").body == {"a": {"b": "1"}}


def test_streamed_rows_are_a_sequence_in_slices(small):
    found = opened(json.dumps(ROWS).encode()).records
    assert len(found) == 50
    assert [found[0], found[25], found[-1]] == [ROWS[0], ROWS[25], ROWS[-1]]
    assert list(found) == ROWS
    assert 10 < len(list(found.slices())) < 50
    with pytest.raises(IndexError):
        found[50]
    assert list(slices_of(ROWS)) == [ROWS]


def test_the_temporary_file_goes_with_the_records(small):
    found = opened(json.dumps(ROWS).encode()).records
    file = found._spool.file
    del found
    assert file.closed


def test_no_room_for_temporary_files_is_said(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(UnavailableError, match=r"No such file or directory.*TMPDIR"):
        Spool()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_said():
    full = Spool()
    full.file.close()
    with Path("/dev/full").open("wb", buffering=0) as full.file, pytest.raises(UnavailableError, match="No space left"):
        full.write(b"x")


# Zips


def zipped(*members: bytes, method=zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for number, member in enumerate(members):
            archive.writestr(f"{number}.json", member)
    return packed.getvalue()


class Raw(io.BytesIO):
    """What read_body needs of a urllib3 response."""

    headers = MappingProxyType({})

    def read1(self, size, decode_content):
        return super().read1(size)


def read(body: bytes, max_bytes=200_000_000):
    return bodies.read_body(Raw(body), max_bytes=max_bytes, deadline=1.0, clock=lambda: 0.0)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_of_one_file_is_unpacked_small_or_large(method):
    assert read(zipped(b"[1]", method=method)) == b"[1]"
    large = os.urandom(6_000_000)
    assert read(zipped(large, method=method)).read() == large


def test_a_gzip_file_is_unpacked_even_if_it_comes_byte_by_byte():
    raw = Raw(gzip.compress(b"[1]"))
    raw.read1 = lambda *_, **__: raw.read(1)
    assert bodies.read_body(raw, max_bytes=9, deadline=1.0, clock=lambda: 0.0) == b"[1]"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(zipped(b"[1]", b"[2]"), "exactly one file", id="two files"),
        pytest.param(zipped(), "not valid|exactly one file", id="no file"),
        pytest.param(zipped(b"[1]")[:-30], "cut: its zip has no end", id="cut"),
        pytest.param(zipped(b"[1]", method=zipfile.ZIP_STORED).replace(b"[1]", b"[2]"), "damaged", id="damaged"),
        pytest.param(zipped(os.urandom(99)).replace(b"\x08\x00", b"\x63\x00"), "unusual way", id="unknown method"),
        pytest.param(zipped(b" " * 50_000_000), "decompression bomb", id="bomb"),
        pytest.param(zipped(os.urandom(1000) * 1000)[:-22] + zipped(b"")[-22:], "damaged", id="wrong directory"),
    ],
)
def test_a_bad_zip_is_a_bad_answer(body, message):
    with pytest.raises(BadAnswerError, match=message):
        body = read(body)
        decode("json", body)  # a zip without files has another magic number


def test_a_zip_is_unpacked_within_the_limit():
    with pytest.raises(BadAnswerError, match="larger than max_response_bytes"):
        read(zipped(os.urandom(6_000_000)), max_bytes=5_500_000)
    with pytest.raises(BadAnswerError, match="larger than max_response_bytes"):
        read(zipped(b"ab" * 500_000), max_bytes=900_000)


# Whole runs against a server


def stream(**more):
    return {"name": "rows", "path": "/rows", "primary_keys": ["id"], "records": {"path": "items"}, **more}


GOOD = json.dumps({"items": ROWS, "total": 50, "has_more": False}).encode()
TOTAL = {"type": "single", "total_path": "total", "has_more_path": "has_more"}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(Answer(GOOD[:-900], cut=True), id="cut"),
        pytest.param(Answer(gzip.compress(GOOD)[:-9], headers={"Content-Encoding": "gzip"}), id="cut gzip"),
        pytest.param(Answer(GOOD[:-1] + b" "), id="not closed"),
        pytest.param(Answer(GOOD.replace(b'{"id": 47', b'{"id" 47')), id="broken near the end"),
        pytest.param(Answer(GOOD.replace(b'{"id": 49', b'7, {"id": 49')), id="a number near the end"),
        pytest.param(Answer(GOOD.replace(b'"items"', b'"rows"')), id="path missing"),
        pytest.param(Answer({"items": {"rows": ROWS}}), id="an object for a list"),
        pytest.param(Answer(b"<html>" + b" " * 2000), id="HTML"),
        pytest.param(Answer(GOOD, headers={"X-Fault": "1"}), id="a handler that says so"),
    ],
)
def test_a_bad_large_answer_is_retried_and_nothing_of_it_is_emitted(small, bad):
    handlers = [{"when": 'headers."x-fault" && body.total == `50`', "action": "retry"}]
    config = stream(paginator=TOTAL, error_handler=handlers)
    with serving(lambda _: Answer(GOOD) if len(api.log) > 2 else bad) as api:
        run = run_tap(config_for(api.url, config))
        assert (run.code, len(api.log)) == (0, 3)
        assert run.records("rows") == ROWS
        assert run.verdicts == {"rows": "complete"}
    with serving(lambda _: bad) as api:
        run = run_tap(config_for(api.url, config))
        assert (run.code, len(api.log), run.records("rows")) == (69, 3, [])


def test_the_envelope_of_a_large_answer_is_heard(small):
    def told(**envelope):
        with serving(lambda _: Answer({**envelope, "items": ROWS})) as api:
            return run_tap(config_for(api.url, stream(paginator=TOTAL)))

    assert told(total=50).verdicts == {"rows": "complete"}
    assert told(total=51).error.code == 65
    assert told(has_more=True).error.code == 65
    assert told().verdicts == {"rows": "unproven"}


@pytest.mark.parametrize(
    "paginator",
    [
        pytest.param({"type": "cursor", "cursor_param": "after", "cursor_path": "next"}, id="cursor"),
        pytest.param({"type": "cursor", "cursor_param": "after", "cursor_from": "last_record.id"}, id="last record"),
        pytest.param({"type": "next_url", "next_url_path": "url"}, id="next URL"),
        pytest.param({"type": "offset", "limit_param": "limit", "page_size": 30, "total_path": "total"}, id="offset"),
    ],
)
def test_large_pages_lead_on(small, paginator):
    def page(asked):
        first = int(asked.params.get("after", asked.params.get("offset", -1)))
        first = first if "offset" in asked.params else first + 1
        more = first + 30 < 50
        lead = {"next": first + 29 if more else None, "url": f"/rows?after={first + 29}" if more else None}
        return Answer({"items": ROWS[first : first + 30], "total": 50, **lead})

    with serving(page) as api:
        run = run_tap(config_for(api.url, stream(paginator=paginator)))
    assert run.records("rows") == ROWS
    assert run.verdicts == {"rows": "complete"}


def test_a_missing_path_that_means_empty_is_empty(small):
    body = {"total": 0, "note": "x" * 1500}
    with serving(lambda _: Answer(body)) as api:
        run = run_tap(
            config_for(api.url, stream(records={"path": "items", "on_missing_path": "empty"}, paginator=TOTAL))
        )
    assert (run.code, run.records("rows"), run.verdicts) == (0, [], {"rows": "complete"})


def test_the_bookmark_follows_the_slices(small):
    incremental = {"replication_key": "id", "type": "integer", "row_order": "asc"}
    with serving(lambda _: Answer(GOOD)) as api:
        run = run_tap(config_for(api.url, stream(paginator=TOTAL, incremental=incremental)))
    assert run.bookmark("rows") == 49


def test_a_large_answer_is_held_to_max_response_bytes(small):
    config = config_for("", stream())
    with serving(lambda _: Answer(GOOD)) as api:
        config["client"] |= {"base_url": api.url, "max_response_bytes": "2kB"}
        run = run_tap(config)
    assert run.code == 69
    assert "max_response_bytes" in str(run.error)


# Memory, in a process of its own

MEGABYTES = 48
PAD = "x" * 400


def generated(kind: str):
    """A body of 48 MB in blocks of a thousand rows."""
    json_row = '{"id": #, "amount": #.25, "note": "PAD", "tags": ["a", {"b": [1]}]}'.replace("PAD", PAD)
    row, head, comma, tail = {
        "json": (json_row, '{"items": [', ",\n", '], "total": %d}'),
        "array": (json_row, "[", ", ", "]"),
        "jsonl": (json_row, "", "\n", "\n"),
        "csv": ('#,"PAD\n"'.replace("PAD", PAD), "id,note\n", "\n", "\n"),
    }[kind]
    count = MEGABYTES * 1_000_000 // len(row)
    yield head.encode()
    for first in range(0, count, 1000):
        block = comma.join(row.replace("#", str(number)) for number in range(first, min(first + 1000, count)))
        yield ((comma if first else "") + block).encode()
    yield (tail % count if "%" in tail else tail).encode()


def packed(pieces, packing: str):
    if packing == "gzip":
        packer = zlib.compressobj(1, wbits=31)
        yield from map(packer.compress, pieces)
        yield packer.flush()
    elif packing == "zip":
        with tempfile.TemporaryFile() as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive, archive.open("rows", "w") as member:
                for piece in pieces:
                    member.write(piece)
            file.seek(0)
            yield from iter(lambda: file.read(1_000_000), b"")
    else:
        yield from pieces


@contextmanager
def generating():
    """A server that makes its bodies while it sends them: /<kind>/<packing>."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            _, kind, packing = self.path.split("/")
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            if packing == "gzip":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            for piece in filter(None, packed(generated(kind), packing)):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


TAP = """
from tap_resilient.tap import main
try:
    main()
finally:
    print(open("/proc/self/status").read())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux: a fork's ru_maxrss is its parent's")
@pytest.mark.parametrize(
    ("kind", "packing"),
    [("json", "plain"), ("array", "gzip"), ("jsonl", "plain"), ("jsonl", "zip"), ("csv", "gzip")],
)
def test_48_mb_are_read_in_little_memory(kind, packing, tmp_path):
    stream = {"name": "rows", "primary_keys": ["id"], "decoder": {"array": "json"}.get(kind, kind)}
    if kind == "json":
        stream |= {"records": {"path": "items"}, "paginator": {"type": "single", "total_path": "total"}}
    file = tmp_path / "config.json"
    with generating() as url:
        file.write_text(json.dumps(config_for(url, {**stream, "path": f"/{kind}/{packing}"})))
        command = [sys.executable, "-c", TAP, "--config", str(file)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    ids = [int(found) for found in re.findall(rb'^{"type":"RECORD".*?"id":"?(\d+)', done.stdout, re.MULTILINE)]
    assert ids == list(range(len(ids)))
    assert len(ids) > 50_000
    peak = int(re.search(rb"VmHWM:\s+(\d+) kB", done.stdout)[1]) / 1024
    assert peak < 110  # 65 MB of it are Python with its libraries; the body alone would be 48 MB


def test_numbers_of_a_large_answer_stay_exact_to_the_message(small):
    body = b'{"items":[%b{"id":9007199254740993,"n":0.12345678901234567890}]}' % (b'{"id":1},' * 200)
    with serving(lambda _: Answer(body)) as api:
        last = run_tap(config_for(api.url, stream())).records("rows")[-1]
    assert last["id"] == 2**53 + 1
    found = list(opened(body, ITEMS).records)[-1]["n"]
    assert found == Decimal("0.12345678901234567890")
    assert math.isclose(last["n"], found)
