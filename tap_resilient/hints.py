"""What a server says about waiting, read from its headers. Negative and unreadable values count as absent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

LONGEST_PACED_WINDOW = 10.0
"""Policies with a longer window (seconds) are used up and then waited for, not spread evenly."""

_EPOCH_SECONDS = 1e9  # a smaller reset is a delta: 1e9 s would be 31 years
_EPOCH_MILLISECONDS = 1e11
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PARAMETER = re.compile(r"\b(q|w|r|t|remaining|reset)\s*=\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Hints:
    """All times are seconds from now; None means that the server did not say."""

    retry_after: float | None = None
    remaining: int | None = None
    reset: float | None = None
    rate: float | None = None

    @property
    def wait(self) -> float | None:
        """How long a refused request shall wait: Retry-After, else until the quota is reset."""
        return self.reset if self.retry_after is None else self.retry_after


def read_hints(headers: Mapping[str, str], now: float) -> Hints:
    """The hints in `headers` (lower-case names); `now` is the local epoch time, used if there is no Date header.

    Reads Retry-After (RFC 9110), RateLimit and RateLimit-Policy (IETF drafts, old and new form), X-RateLimit-*.
    """
    there = _date(headers.get("date", "")) or now
    tightest = min(_items(headers.get("ratelimit", "")), key=_tightness, default={})
    remaining = tightest.get("r", tightest.get("remaining"))
    if remaining is None:
        remaining = _first(headers, "remaining", _number)
    reset = tightest.get("t", tightest.get("reset"))
    if reset is None:
        reset = _first(headers, "reset-after", _number)
    if reset is None:
        reset = _first(headers, "reset", lambda text: _seconds(text, there))
    return Hints(
        retry_after=_seconds(headers.get("retry-after", ""), there),
        remaining=None if remaining is None else int(remaining),
        reset=reset,
        rate=_rate(headers),
    )


def _first(headers: Mapping[str, str], name: str, read: Callable[[str], float | None]) -> float | None:
    for prefix in ("ratelimit-", "x-ratelimit-", "x-rate-limit-"):
        if (value := read(headers.get(prefix + name, ""))) is not None:
            return value
    return None


def _seconds(text: str, there: float) -> float | None:
    """Seconds from now until a delta, an epoch time (s or ms) or a date on the server's clock `there`."""
    value = _number(text)
    if value is None:
        at = _date(text)
    elif value < _EPOCH_SECONDS:
        return value
    else:
        at = value / 1000 if value >= _EPOCH_MILLISECONDS else value
    return at - there if at is not None and at >= there else None


def _number(text: str) -> float | None:
    match = _NUMBER.fullmatch(text.strip())
    return float(match[0]) if match else None


def _date(text: str) -> float | None:
    """The epoch time of an HTTP-date or an ISO 8601 date-time; without a zone it is UTC."""
    for parse in (parsedate_to_datetime, lambda iso: datetime.fromisoformat(iso.replace("Z", "+00:00"))):
        try:
            moment = parse(text.strip())
        except (TypeError, ValueError, IndexError, OverflowError):
            continue
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    return None


def _items(text: str) -> Iterator[dict[str, float]]:
    """The parameters of a RateLimit header: one item each of `"a";r=1;t=2, "b";…`, or `limit=…, remaining=…` as one."""
    if "remaining" in text:
        yield _parameters(text)
    elif text:
        yield from map(_parameters, text.split(","))


def _parameters(text: str) -> dict[str, float]:
    return {key: float(value) for key, value in _PARAMETER.findall(text)}


def _tightness(item: Mapping[str, float]) -> tuple[float, float]:
    return item.get("r", item.get("remaining", float("inf"))), -item.get("t", 0.0)


def _rate(headers: Mapping[str, str]) -> float | None:
    """The lowest rate of the announced policies with a short window: `50;w=1` or `"name";q=50;w=1`."""
    text = headers.get("ratelimit-policy") or headers.get("ratelimit-limit", "")
    return min(filter(None, map(_policy_rate, text.split(","))), default=None)


def _policy_rate(text: str) -> float | None:
    parameters = _parameters(text)
    quota = parameters.get("q", _number(text.partition(";")[0]))
    window = parameters.get("w", 0.0)
    return quota / window if quota and 0 < window <= LONGEST_PACED_WINDOW else None
