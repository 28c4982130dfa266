"""Bytes in, frames out: grouping, lines, chunk borders, and what strict JSON refuses."""

from __future__ import annotations

import io
import json
import os
import threading
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_core.errors import NotSingerError
from target_resilient import reader
from target_resilient.reader import Control, Event, Frame, Idle, MappedFrame, Torn, Unreadable, exact_float, read_events
from tests.target.support import line_of, raw_record, record, schema


def events(*lines: Any) -> list[Event]:
    return list(read_events(io.BytesIO(b"".join(map(line_of, lines)))))


def told(found: list[Event]) -> list[Any]:
    """Events as plain values: (stream, records) of frames, the type of controls."""
    return [(e.stream, e.records) if isinstance(e, Frame) else getattr(e, "message", e).type for e in found]


STATE = {"type": "STATE", "value": 1}


def test_consecutive_records_of_one_stream_are_one_frame() -> None:
    found = events(record({"a": 1}, "x"), record({"a": 2}, "x"), record({"a": 3}, "y"), STATE, record({"a": 4}, "y"))
    assert told(found) == [("x", [{"a": 1}, {"a": 2}]), ("y", [{"a": 3}]), "STATE", ("y", [{"a": 4}])]


def test_blank_lines_and_windows_line_ends_do_not_shift_line_numbers() -> None:
    data = b'\r\n{"type":"STATE","value":1}\r\n \n' + raw_record('{"a": 1}')[:-1] + b"\r\n"
    state, frame = read_events(io.BytesIO(data))
    assert isinstance(state, Control)
    assert isinstance(frame, Frame)
    assert (state.line, frame.line(0)) == (2, 4)
    assert frame.raw(0) == '{"a": 1}'


def test_a_byte_order_mark_is_skipped() -> None:
    assert told(list(read_events(io.BytesIO(b"\xef\xbb\xbf" + line_of(STATE))))) == ["STATE"]


def test_a_text_stream_is_read_as_the_sdk_s_runner_gives_it() -> None:
    assert told(list(read_events(io.StringIO(json.dumps(record({"a": "ä"})) + "\n")))) == [("s", [{"a": "ä"}])]


@given(st.lists(st.sampled_from(["x", "y", "STATE"]), max_size=30), st.integers(1, 200))
def test_where_chunks_end_makes_no_difference(kinds: list[str], size: int) -> None:
    lines = [line_of(STATE if kind == "STATE" else record({"n": n}, kind)) for n, kind in enumerate(kinds)]
    data = b"".join(lines)

    class Dribble:
        def __init__(self) -> None:
            self.at = 0

        def read(self, _: int) -> bytes:
            self.at += size
            return data[self.at - size : self.at]

    def flat(found: list[Event]) -> list[Any]:
        return [r for e in found for r in (e.records if isinstance(e, Frame) else ["state"])]

    found = list(read_events(Dribble()))
    assert flat(found) == flat(list(read_events(io.BytesIO(data))))
    assert [e.line(row) for e in found if isinstance(e, Frame) for row in range(len(e.records))] == [
        number for number, kind in enumerate(kinds, 1) if kind != "STATE"
    ]


def test_a_pipe_gives_idle_events_and_then_its_lines() -> None:
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as source:
        found = read_events(source, idle_seconds=0.01)
        assert isinstance(next(found), Idle)
        writer = threading.Thread(target=lambda: (os.write(sending, line_of(STATE)), os.close(sending)))
        writer.start()
        rest = [event for event in found if not isinstance(event, Idle)]
        writer.join()
    assert told(rest) == ["STATE"]


def test_a_forgotten_frame_gives_its_records_again() -> None:
    (frame,) = events(record({"a": 1}), record({"a": 2}))
    assert isinstance(frame, Frame)
    head, rest = frame.split(1)
    assert rest is not None
    head.forget()
    rest.forget()
    assert (head.record(0), rest.record(0)) == ({"a": 1}, {"a": 2})
    assert (rest.line(0), rest.raw(0)) == (2, '{"a": 2}')
    assert head.split(5) == (head, None)


def test_a_mapped_frame_keeps_its_records_and_the_lines_they_came_from() -> None:
    (frame,) = events(record({"a": 1}), record({"a": 2}), record({"a": 3}))
    assert isinstance(frame, Frame)
    mapped = MappedFrame("m", frame.messages[1:], frame.chunk, frame.offset, [1, 2])
    head, rest = mapped.split(1)
    assert rest is not None
    rest.forget()
    assert (rest.record(0), rest.line(0), json.loads(rest.raw(0))) == ({"a": 3}, 3, {"a": 3})
    assert head.line(0) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5", 1.5), ("1.50", 1.5), ("1e3", 1000.0), ("-0.0", -0.0), ("0.1", 0.1),
     ("0.10000000000000001", Decimal("0.10000000000000001")), ("9007199254740993.0", Decimal("9007199254740993.0")),
     ("1e400", Decimal("1e400")), ("1e-400", Decimal("1e-400"))],
)  # fmt: skip
def test_a_decimal_is_a_float_only_where_nothing_is_lost(text: str, expected: Any) -> None:
    found = exact_float(text)
    assert (type(found), repr(found)) == (type(expected), repr(expected))


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_no_decimal_changes_its_value_on_the_way(value: Decimal) -> None:
    text = str(value) if "E" in str(value) or "." in str(value) else f"{value}.0"
    found = exact_float(text)
    assert (Decimal(repr(found)) if isinstance(found, float) else found) == Decimal(text)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(), min_size=1), st.integers(0, 16))
def test_the_plain_decoder_is_chosen_only_where_it_is_exact(numbers: list[float], exponent: int) -> None:
    texts = [json.dumps(number) for number in numbers]
    texts += [f"{text}e{exponent}" for text in texts if text.lstrip("-").isdigit()]
    (frame,) = events(*(raw_record(f'{{"v": {text}}}') for text in texts))
    assert isinstance(frame, Frame)
    for text, one in zip(texts, frame.records, strict=True):
        found = one["v"]
        assert (Decimal(repr(found)) if isinstance(found, float) else Decimal(found)) == Decimal(text)


@pytest.mark.parametrize("text", ["1e4400", "-1e-4400", "1e99999999999999999999", "0." + "1" * 4400])
def test_a_number_that_no_database_holds_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        exact_float(text)


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ("NaN", [(("v",), "finite")]),
        ("[1, -Infinity, {\"k\": NaN}]", [(("v", 1), "finite"), (("v", 2, "k"), "finite")]),
        ('"\\ud800"', [(("v",), "surrogate")]),
        ('{"\\ud800": 1}', [(("v",), "surrogate")]),
        ("9" * 5000, [(("v",), "digits")]),
        ("1e5000", [(("v",), "digits")]),
        ("[" * 3000 + "]" * 3000, [((), "depth")]),
        ("1,", [((), "json")]),
        ('1}, "version": "x", "w": {', [((), "envelope")]),
    ],
    ids=lambda case: str(case)[:30],
)  # fmt: skip
def test_an_unreadable_record_says_where_and_why_and_its_neighbours_are_read(value: str, faults: Any) -> None:
    bad = raw_record(f'{{"id": 2, "v": {value}}}')
    found = events(record({"id": 1}), bad, record({"id": 3}))
    assert [type(event) for event in found] == [Frame, Unreadable, Frame]
    unreadable = found[1]
    assert isinstance(unreadable, Unreadable)
    assert (unreadable.stream, unreadable.line, list(unreadable.faults)) == ("s", 2, faults)
    assert told([found[0], found[2]]) == [("s", [{"id": 1}]), ("s", [{"id": 3}])]


def test_an_unreadable_record_is_kept_as_it_came() -> None:
    (found,) = events(raw_record(b'{"v": "a\xffb\x00c"}'))
    assert isinstance(found, Unreadable)
    assert found.raw == '{"v": "a\\xffb\\x00c"}'
    assert found.faults == (((), "utf-8"),)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"<html>", "no JSON"),
        (b"[]", "wrong type"),
        (b'{"type": "NEWS"}', "unknown message type 'NEWS'"),
        (b'{"type": "RECORD", "stream": "s"}', "RECORD lacks record"),
        (b'{"type": "RECORD", "record": {}}', "RECORD lacks stream"),
        (b'{"type": "SCHEMA", "stream": "s"}', "SCHEMA lacks schema"),
        (b'{"type": "STATE"}', "STATE lacks value"),
        (b'{"type": "ACTIVATE_VERSION", "stream": "s"}', "lacks version"),
        (b'{"type": "BATCH", "stream": "s"}', "lacks encoding, manifest"),
        (b'{"type": "STATE", "value": "\xff"}', "STATE is no UTF-8"),
        (b'{"type": "STATE", "value": NaN}', "NaN"),
        (b'{"type": "SCHEMA", "stream": "a\\u0000", "schema": {}}', "holds NUL"),
        (b'{"type":"STATE","value":1} {"type":"STATE","value":2}', "no JSON"),
        (b'{"type":"RECORD","stream":"s","record":{}}{"type":"RECORD","stream":"s","record":{}}', "no JSON"),
        (b'{"type":"STATE",', "no JSON"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_message_is_refused_by_its_line(line: bytes, why: str) -> None:
    with pytest.raises(NotSingerError, match="line 2") as caught:
        events(STATE, line, STATE)
    assert why in str(caught.value)


def test_a_message_over_several_lines_is_refused() -> None:
    with pytest.raises(NotSingerError, match="line 1"):
        events(b'{"type":\n"STATE", "value": 1}')


def test_an_input_that_ends_within_a_line_is_torn() -> None:
    found = list(read_events(io.BytesIO(line_of(record({"a": 1})) + b'{"type": "RECORD", "str')))
    assert told(found[:1]) == [("s", [{"a": 1}])]
    assert found[1:] == [Torn(2)]


def test_an_input_that_ends_without_newline_after_a_whole_line_is_whole() -> None:
    assert told(list(read_events(io.BytesIO(line_of(STATE).strip())))) == ["STATE"]


@given(st.binary(max_size=80))
def test_any_bytes_are_events_or_a_clear_refusal(data: bytes) -> None:
    with suppress(NotSingerError):
        list(read_events(io.BytesIO(data)))


@given(st.binary(max_size=40))
def test_any_bytes_as_a_record_are_events_or_a_clear_refusal(data: bytes) -> None:
    with suppress(NotSingerError):
        list(read_events(io.BytesIO(raw_record(data))))


def test_every_rule_of_the_reader_has_words() -> None:
    assert set(reader.FAULTS) == {"utf-8", "json", "depth", "finite", "digits", "surrogate", "envelope"}
    assert told(events(schema({}))) == ["SCHEMA"]
