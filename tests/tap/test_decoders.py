"""Bodies, decoded or refused."""

import math
from decimal import Decimal

import pytest

from tap_resilient.decoders import decode, decoder_faults, exact_number
from tap_resilient.exchange import BadAnswerError


@pytest.mark.parametrize(
    ("body", "content_type", "decoded"),
    [
        pytest.param(b'{"a": [1, null, true]}', "", {"a": [1, None, True]}, id="plain"),
        pytest.param(b"\xef\xbb\xbf[1]", "", [1], id="UTF-8 BOM"),
        pytest.param("[1]".encode("utf-16"), "", [1], id="UTF-16"),
        pytest.param("[1]".encode("utf-32"), "", [1], id="UTF-32"),
        pytest.param('["é"]'.encode("latin-1"), "application/json; charset=ISO-8859-1", ["é"], id="charset"),
        pytest.param('["é"]'.encode(), 'application/json; charset="utf-8"', ["é"], id="quoted charset"),
        pytest.param(b'["\\ud800"]', "", ["\ud800"], id="lone surrogate"),
        pytest.param(b"[9007199254740993, -18446744073709551617]", "", [2**53 + 1, -(2**64) - 1], id="integers"),
        pytest.param(b"[0.1, 1.50, 5e-324, 1e22]", "", [0.1, 1.5, 5e-324, 1e22], id="floats"),
        pytest.param(b"[1e400, -1e-400]", "", [Decimal("1e400"), Decimal("-1e-400")], id="beyond floats"),
        pytest.param(b"[12345678.12345678901]", "", [Decimal("12345678.12345678901")], id="long decimal"),
    ],
)
def test_json(body, content_type, decoded):
    found = decode("json", body, content_type)
    assert found == decoded
    assert [type(item) for item in found] == [type(item) for item in decoded]


def test_json_that_is_not_strict_keeps_what_it_says():
    nan, infinity, number = decode("json", b"[NaN, -Infinity, " + b"9" * 5000 + b"]")
    assert math.isnan(nan)
    assert infinity == Decimal("-Infinity")
    assert number == Decimal("9" * 5000)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        pytest.param("json", b"", "empty", id="empty json"),
        pytest.param("json", b'{"a": 1', "not valid json", id="cut json"),
        pytest.param("json", b"[1] [2]", "not valid json", id="two values"),
        pytest.param("json", b'["\xff"]', "not valid json", id="not UTF-8"),
        pytest.param("json", b'{"a":' * 500_000, "nested too deeply", id="deep json"),
        pytest.param("json", b"\n<html><body>Log in</body>", "HTML page, not json", id="html"),
        pytest.param("csv", b"<!doctype HTML><p>", "HTML page, not csv", id="html for csv"),
        pytest.param("jsonl", b'{"a": 1}\n{"a":', "not valid jsonl", id="cut jsonl"),
        pytest.param("csv", b"a,b\n1", "row 1 has 1 fields", id="cut csv"),
        pytest.param("csv", b'a,b\n1,"x', "not valid csv", id="open quote"),
        pytest.param("csv", b"a,a\n1,2", "names a column twice", id="double column"),
        pytest.param("xml", b"<a><b>", "not valid xml", id="cut xml"),
        pytest.param("xml", b"<a>" * 100_000, "nested too deeply", id="deep xml"),
        pytest.param("xml", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "DOCTYPE", id="entities"),
        pytest.param("xml", b"<html><body/></html>", "HTML page", id="html for xml"),
    ],
)
def test_what_cannot_be_decoded_is_a_bad_answer_without_its_content(name, body, message):
    with pytest.raises(BadAnswerError, match=message) as caught:
        decode(name, body)
    assert "Log in" not in str(caught.value)


def test_an_unknown_charset_is_a_bad_answer():
    with pytest.raises(BadAnswerError, match="unknown charset"):
        decode("json", b"[]", "application/json; charset=klingon")


def test_jsonl_with_blank_lines_and_windows_line_ends():
    assert decode("jsonl", b'{"a":1}\r\n\r\n{"a":2}\r\n') == [{"a": 1}, {"a": 2}]


def test_csv_keeps_text_as_it_is():
    assert decode("csv", b'id,name\r\n01,"x\r\n""y"""\r\n\r\n02,\r\n') == [
        {"id": "01", "name": 'x\r\n"y"'},
        {"id": "02", "name": ""},
    ]


def test_xml_becomes_objects_and_repeated_elements_lists():
    body = b'<?xml version="1.0"?><r n="1"><i id="1">x</i><i>y</i><z/></r>'
    assert decode("xml", body) == {"r": {"@n": "1", "i": [{"@id": "1", "#text": "x"}, "y"], "z": None}}


def test_xml_may_declare_its_encoding():
    assert decode("xml", '<?xml version="1.0" encoding="ISO-8859-1"?><r>é</r>'.encode("latin-1")) == {"r": "é"}


def test_a_decimal_is_a_float_only_if_that_is_exact():
    assert exact_number("0.30000000000000004") == 0.30000000000000004
    assert exact_number("0.30000000000000000001") == Decimal("0.30000000000000000001")


def test_an_unknown_decoder_is_a_fault():
    assert [str(fault) for fault in decoder_faults("jsnol", "streams[0].decoder")] == [
        "streams[0].decoder: unknown decoder; did you mean 'jsonl'?"
    ]
    assert decoder_faults("csv", "x") == []
