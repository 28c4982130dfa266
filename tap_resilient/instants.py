"""Replication values by type: how each is read from records and state, compared, stored, and written for the API."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import msgspec

UTC = datetime.timezone.utc
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"epoch_s": 1, "epoch_ms": 1000}
_LONGEST_EXACT = len("2024-01-31T00:00:00.123456Z")  # msgspec rounds what is finer
_SUB_MICROSECONDS = re.compile(r"(\.\d{6})\d+")

DATETIME_FORMATS = ("iso8601", "epoch_s", "epoch_ms")
"""The named formats of `type: datetime`; any other format must be a strptime pattern."""


UNREADABLE = (ValueError, TypeError, OverflowError, ArithmeticError)
"""What reading a value of the wrong type or form raises."""


class Kind(Protocol):
    """One type of replication value. Values of one kind compare with each other; None is no value."""

    def read(self, raw: Any) -> Any:
        """The value of a record's field. Raises one of UNREADABLE for what is not of this kind."""
        ...

    def load(self, stored: Any) -> Any:
        """The value of a bookmark or of the configuration. Raises one of UNREADABLE."""
        ...

    def store(self, value: Any) -> Any:
        """The value as the state holds it."""
        ...

    def write(self, value: Any) -> Any:
        """The value as the API takes it."""
        ...

    def minus(self, value: Any, amount: Any) -> Any:
        """An earlier value: `amount` is seconds for instants, a count for integers."""
        ...


def read_all(kind: Kind, values: list[Any]) -> list[Any]:
    """The values of a column; None where a value is not of the kind."""
    try:
        if isinstance(kind, Integer):
            return msgspec.convert(values, list[int])
        if kind == DateTime() and max(map(len, values), default=0) <= _LONGEST_EXACT:
            return [_aware(value) for value in msgspec.convert(values, list[datetime.datetime])]
    except (msgspec.ValidationError, TypeError):
        pass
    return [_read_or_none(kind, value) for value in values]


def _read_or_none(kind: Kind, value: Any) -> Any:
    try:
        return kind.read(value)
    except UNREADABLE:
        return None


@dataclass(frozen=True)
class DateTime:
    """An instant; without a zone it is UTC. Stored as `2024-01-31T00:00:00Z`, never later than it was."""

    format: str = "iso8601"

    def read(self, raw: Any) -> datetime.datetime:
        """The instant of an ISO 8601 string, of seconds or milliseconds since the epoch, or by a strptime pattern."""
        if self.format in _UNITS:
            return _since_epoch(raw, _UNITS[self.format])
        if not isinstance(raw, str):
            raise TypeError("not a string")
        if self.format == "iso8601":
            return _aware(parse_iso(raw))
        return _aware(datetime.datetime.strptime(raw, self.format))

    def load(self, stored: Any) -> datetime.datetime:
        """The instant of an ISO 8601 string, or in the API's own format."""
        try:
            return _aware(parse_iso(stored)) if isinstance(stored, str) else self.read(stored)
        except ValueError:
            return self.read(stored)

    def store(self, value: datetime.datetime) -> str:
        """RFC 3339 in UTC."""
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")

    def write(self, value: datetime.datetime) -> Any:
        """In the API's format, rounded down."""
        if self.format in _UNITS:
            return (value - _EPOCH) // datetime.timedelta(milliseconds=1) * _UNITS[self.format] // 1000
        return self.store(value) if self.format == "iso8601" else value.astimezone(UTC).strftime(self.format)

    def minus(self, value: datetime.datetime, amount: float) -> datetime.datetime:
        """`amount` seconds earlier."""
        return value - datetime.timedelta(seconds=amount)


@dataclass(frozen=True)
class Date:
    """A day. Stored as `2024-01-31`."""

    format: str = "iso8601"

    def read(self, raw: Any) -> datetime.date:
        """The day of an ISO 8601 date (or the date part of a date-time), or by a strptime pattern."""
        if not isinstance(raw, str):
            raise TypeError("not a string")
        if self.format == "iso8601":
            return datetime.date.fromisoformat(raw[:10])
        return datetime.datetime.strptime(raw, self.format).date()

    def load(self, stored: Any) -> datetime.date:
        """The day of an ISO 8601 date, or in the API's own format."""
        try:
            return datetime.date.fromisoformat(str(stored)[:10])
        except ValueError:
            return self.read(stored)

    def store(self, value: datetime.date) -> str:
        """ISO 8601."""
        return value.isoformat()

    def write(self, value: datetime.date) -> str:
        """In the API's format."""
        return value.isoformat() if self.format == "iso8601" else value.strftime(self.format)

    def minus(self, value: datetime.date, amount: float) -> datetime.date:
        """`amount` seconds earlier, in whole days, rounded up."""
        return value - datetime.timedelta(days=-(-amount // 86400))


@dataclass(frozen=True)
class Integer:
    """A number that only grows, such as a row id."""

    def read(self, raw: Any) -> int:
        """An integer, also as text."""
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise TypeError("not an integer")
        return int(raw)

    load = read

    def store(self, value: int) -> int:
        """Itself."""
        return value

    write = store

    def minus(self, value: int, amount: int) -> int:
        """`amount` lower."""
        return value - amount


@dataclass(frozen=True)
class Text:
    """A string that the API itself orders by code point, such as a ULID."""

    def read(self, raw: Any) -> str:
        """A string."""
        if not isinstance(raw, str):
            raise TypeError("not a string")
        return raw

    load = read

    def store(self, value: str) -> str:
        """Itself."""
        return value

    write = store

    def minus(self, value: str, amount: Any) -> str:
        """Strings have no distance; a lookback is refused when the source file is loaded."""
        raise ValueError("strings have no distance")


def parse_iso(text: str) -> datetime.datetime:
    """The date-time in `text`, with or without a zone. Raises ValueError.

    Sub-microseconds are cut off, not rounded: a bookmark may never pass its row.
    """
    short = _SUB_MICROSECONDS.sub(r"\1", text)
    try:
        return msgspec.convert(short, datetime.datetime)
    except msgspec.ValidationError:
        return datetime.datetime.fromisoformat(short.replace("Z", "+00:00"))


def _aware(value: datetime.datetime) -> datetime.datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _since_epoch(raw: Any, units: int) -> datetime.datetime:
    if isinstance(raw, bool) or not isinstance(raw, int | float | Decimal | str):
        raise TypeError("not a number")
    microseconds = Decimal(str(raw)) * 1_000_000 / units
    return _EPOCH + datetime.timedelta(microseconds=int(microseconds // 1))
