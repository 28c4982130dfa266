"""How the monitor says times and counts."""

from __future__ import annotations

from datetime import timedelta

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def span(duration: timedelta) -> str:
    """A duration in its two largest units: `2d 3h`, `15m`, `0s`."""
    rest = round(duration.total_seconds())
    parts: list[str] = []
    for unit, seconds in _UNITS:
        count, rest = divmod(rest, seconds)
        if count or (parts and len(parts) < 2 and rest):
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0")) or "0s"


def age(duration: timedelta) -> str:
    """How old something is; what lies in the future (clock skew) is 0s old."""
    return span(max(duration, timedelta(0)))


def count(number: int, noun: str) -> str:
    """`1 row`, `1,234 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def in_words(value: object) -> str:
    """What a rule expects: a list as its items, nothing as nothing."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
