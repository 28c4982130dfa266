"""What servers say about waiting, in every form that is about."""

import pytest

from tap_resilient.hints import Hints, read_hints

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        pytest.param({"retry-after": "120"}, 120, id="seconds"),
        pytest.param({"retry-after": "1.5"}, 1.5, id="fraction"),
        pytest.param({"retry-after": "0"}, 0, id="zero"),
        pytest.param({"retry-after": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60, id="HTTP-date"),
        pytest.param({"retry-after": "Tue, 14 Nov 2023 22:13:19 GMT"}, None, id="past date"),
        pytest.param({"retry-after": "-5"}, None, id="negative"),
        pytest.param({"retry-after": "soon"}, None, id="garbage"),
        pytest.param({"retry-after": ""}, None, id="empty"),
        pytest.param({"retry-after": "Tue, 14 Nov 2023 99:99:99 GMT"}, None, id="impossible date"),
        pytest.param({"ratelimit-reset": "7"}, 7, id="draft 3 reset"),
        pytest.param({"ratelimit": "limit=100, remaining=0, reset=9"}, 9, id="draft 7"),
        pytest.param({"ratelimit": '"default";r=0;t=11'}, 11, id="draft 9"),
        pytest.param({"ratelimit": '"a";r=5;t=1, "b";r=0;t=60, "c";r=0;t=30'}, 60, id="the tightest of several"),
        pytest.param({"x-ratelimit-reset": "30"}, 30, id="delta"),
        pytest.param({"x-ratelimit-reset": "1700000045"}, 45, id="epoch seconds"),
        pytest.param({"x-ratelimit-reset": "1700000045500"}, 45.5, id="epoch milliseconds"),
        pytest.param({"x-ratelimit-reset": "2023-11-14T22:13:50Z"}, 30, id="ISO date"),
        pytest.param({"x-ratelimit-reset": "Tue, 14 Nov 2023 22:13:40 GMT"}, 20, id="reset as HTTP-date"),
        pytest.param({"x-ratelimit-reset": "1699999999"}, None, id="past epoch"),
        pytest.param({"x-ratelimit-reset-after": "0.75"}, 0.75, id="reset-after"),
        pytest.param({"x-rate-limit-reset": "12"}, 12, id="other spelling"),
        pytest.param({"retry-after": "60", "x-ratelimit-reset": "3000"}, 60, id="Retry-After wins"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_waits(headers, wait):
    assert read_hints(headers, NOW).wait == wait


def test_the_date_header_corrects_a_clock_that_is_ten_minutes_off():
    headers = {"x-ratelimit-reset": "1700000045", "date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    assert read_hints(headers, NOW + 600).wait == 45
    headers = {"retry-after": "Tue, 14 Nov 2023 22:14:20 GMT", "date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    assert read_hints(headers, NOW - 600).wait == 60


@pytest.mark.parametrize(
    ("headers", "remaining"),
    [
        pytest.param({"x-ratelimit-remaining": "7"}, 7, id="x"),
        pytest.param({"ratelimit-remaining": "7"}, 7, id="draft 3"),
        pytest.param({"ratelimit": "limit=100, remaining=7, reset=9"}, 7, id="draft 7"),
        pytest.param({"ratelimit": '"a";r=70;t=1, "b";r=7;t=60'}, 7, id="draft 9"),
        pytest.param({"x-ratelimit-remaining": "-1"}, None, id="negative"),
        pytest.param({"x-ratelimit-remaining": "many"}, None, id="garbage"),
    ],
)
def test_remaining(headers, remaining):
    assert read_hints(headers, NOW).remaining == remaining


@pytest.mark.parametrize(
    ("headers", "rate"),
    [
        pytest.param({"ratelimit-policy": "50;w=1"}, 50, id="draft 7"),
        pytest.param({"ratelimit-policy": '"burst";q=50;w=2, "day";q=10000;w=86400'}, 25, id="draft 9"),
        pytest.param({"ratelimit-limit": "50, 50;w=1"}, 50, id="draft 3"),
        pytest.param({"ratelimit-policy": "5000;w=3600"}, None, id="a long window is not spread"),
        pytest.param({"ratelimit-limit": "50"}, None, id="no window"),
        pytest.param({"ratelimit-policy": "50;w=0"}, None, id="no time"),
    ],
)
def test_announced_rates(headers, rate):
    assert read_hints(headers, NOW).rate == rate


def test_no_header_of_any_kind_crashes():
    for text in ("\x00", "1e9", "∞", "NaN", ";;;", "=", ",", "9" * 400, "q=;w=", "Mon, 1 Jan 99999 00:00:00 GMT"):
        names = ("retry-after", "ratelimit", "ratelimit-policy", "ratelimit-limit", "x-ratelimit-reset", "date")
        for name in names:
            assert isinstance(read_hints({name: text}, NOW), Hints)
