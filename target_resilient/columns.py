"""Columns: which type a JSON Schema asks for, and how a batch of values becomes CSV text for COPY, lossless or refused.

An encoder works on a whole column of a batch. It looks at the set of Python types first: what a column usually
holds takes a path that runs in C, anything else goes value by value and says which rows it refuses and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec

from target_resilient.backends import ColumnFacts

Values = Sequence[Any]
Refusals = dict[int, str]
"""Row → the rule that its value breaks."""

NUMERIC_DIGITS = 38  # DuckDB's DECIMAL; PostgreSQL would hold more, but the verdict must be the same
NUMERIC_SCALE = 18
BIGINT = (-(2**63), 2**63 - 1)
MAX_EXACT_DOUBLE = 2**53

_NUMBERS = {int, float, Decimal}
_TIMES: dict[str, Any] = {
    "timestamptz": list[datetime | None],
    "timestamp": list[datetime | None],
    "date": list[date | None],
}
_json = msgspec.json.Encoder(order="sorted", decimal_format="number")
_UNION_TEXT = {"string", "integer", "number", "boolean"}
_MARKS = itemgetter(10, -6, -1)
_LONGEST_NAIVE = len("2024-01-01T00:00:00.123456")


class RefusedValueError(Exception):
    """A value that the column cannot hold without loss; the text is the rule that it breaks."""


@dataclass(frozen=True)
class Column:
    """One column of a table plan. `key` is the record's field; low/high/scale bound what fits without loss."""

    key: str
    name: str
    kind: str
    scale: int = NUMERIC_SCALE
    digits: int = NUMERIC_DIGITS
    low: int = BIGINT[0]
    high: int = BIGINT[1]
    max_length: int | None = None
    naive: str = "utc"

    def as_found(self, facts: ColumnFacts) -> Column:
        """This column as the existing table holds it: the database's type decides what fits."""
        return replace(
            self,
            name=facts.name,
            kind=facts.kind,
            scale=self.scale if facts.scale is None else facts.scale,
            digits=facts.precision or self.digits,
            low=self.low if facts.low is None else facts.low,
            high=self.high if facts.high is None else facts.high,
            max_length=facts.max_length,
        )


def column_for(key: str, name: str, schema: Any, *, declared: bool, naive: str = "utc") -> Column:
    """The column that a property's schema asks for, wide enough that loads need not alter it."""
    column = Column(key, name, "json", naive=naive)
    types, formats, bounds = _flatten(schema if isinstance(schema, dict) else {})
    types.discard("null")
    if types == {"integer"}:
        beyond = any(not BIGINT[0] <= bound <= BIGINT[1] for bound in bounds)
        return replace(column, kind="numeric", scale=0) if beyond else replace(column, kind="bigint")
    if types and types <= {"integer", "number"}:
        return _number_column(column, schema)
    if types == {"boolean"}:
        return replace(column, kind="boolean")
    if types == {"string"}:
        return replace(column, kind=_string_kind(formats, declared))
    return replace(column, kind="text") if types and types <= _UNION_TEXT else column


def column_seen(key: str, name: str, values: Iterable[Any]) -> Column | None:
    """The column for a field that no schema names, from the values seen; None while all are null."""
    kinds = {bool: "boolean", int: "bigint", float: "double", Decimal: "numeric", str: "text"}
    seen = {kinds.get(type(value), "json") for value in values if value is not None}
    if not seen:
        return None
    if seen <= {"bigint", "double"}:
        return Column(key, name, "double" if "double" in seen else "bigint")
    return Column(key, name, seen.pop() if len(seen) == 1 else "json")


def encode(column: Column, values: Values, refused: Refusals) -> list[str]:
    """CSV fields of `values`: unquoted empty is NULL. Refused rows are added to `refused` and have any text."""
    encoder = _ENCODERS[column.kind]
    if None not in values:
        return encoder(column, values, refused)
    rows = [row for row, value in enumerate(values) if value is not None]
    found: Refusals = {}
    present = iter(encoder(column, [values[row] for row in rows], found) if rows else ())
    for place, rule in found.items():
        refused.setdefault(rows[place], rule)
    return ["" if value is None else next(present) for value in values]


def key_values(column: Column, values: Values, fields: Sequence[str]) -> Sequence[Any]:
    """What tells two keys apart as the database would: the instant, the number, else the encoded field.

    `fields` are the encoded `values`; none of them is null or refused.
    """
    if column.kind in {"bigint", "double"}:
        return values  # equal numbers are equal keys in Python too, whatever their types
    if column.kind == "timestamptz":
        return msgspec.convert(fields, list[datetime])
    if column.kind == "json":
        return [value if type(value) in _NUMBERS else field for value, field in zip(values, fields)]  # noqa: B905
    return fields


def order_values(column: Column, values: Values, fields: Sequence[str]) -> list[Any]:
    """Replication keys as comparable values of one type, None for null; `fields` are the encoded `values`."""
    if column.kind in {"bigint", "double"}:
        return list(values)
    if column.kind in _TIMES:
        found: list[Any] = msgspec.convert([field or None for field in fields], _TIMES[column.kind])
        return found
    if column.kind == "numeric":
        return [Decimal(field) if field else None for field in fields]
    return [v if v is None or type(v) is str else field for v, field in zip(values, fields)]  # noqa: B905 same length


def _flatten(schema: dict[str, Any]) -> tuple[set[str], set[str], list[float]]:
    """Types, string formats and bounds of a schema and its anyOf/oneOf branches; no types where a branch has none."""
    raw = schema.get("type")
    types = {raw} if isinstance(raw, str) else set(raw or ())
    formats = {schema["format"]} if isinstance(schema.get("format"), str) else set()
    bounds = [b for k in ("minimum", "maximum") if isinstance(b := schema.get(k), (int, float))]
    branches = [b for key in ("anyOf", "oneOf") for b in schema.get(key) or () if isinstance(b, dict)]
    if "string" in types and not formats:
        formats.add("")
    for branch in branches:
        more_types, more_formats, more_bounds = _flatten(branch)
        if not more_types:
            return set(), set(), []
        types |= more_types
        formats |= more_formats
        bounds += more_bounds
    return types, formats, bounds


def _number_column(column: Column, schema: Any) -> Column:
    multiple = schema.get("multipleOf") if isinstance(schema, dict) else None
    if multiple is None:
        return replace(column, kind="double")
    _, _, exponent = Decimal(str(multiple)).normalize().as_tuple()
    if not isinstance(exponent, int) or -exponent >= NUMERIC_DIGITS:
        return replace(column, kind="double")
    return replace(column, kind="numeric", scale=max(0, -exponent))


def _string_kind(formats: set[str], declared: bool) -> str:
    if len(formats) != 1:
        return "text"
    kinds = {"date-time": "timestamptz", "date": "date", "time": "time", "singer.decimal": "numeric"}
    if declared:
        kinds |= {"uuid": "uuid", "decimal": "numeric"}
    return kinds.get(next(iter(formats)), "text")


# Encoders ------------------------------------------------------------------------------------------------------------


def _each(values: Values, refused: Refusals, convert: Callable[[Any], str]) -> list[str]:
    """The slow path: value by value; `convert` raises RefusedValueError with the rule that the value breaks."""
    fields: list[str] = []
    for row, value in enumerate(values):
        try:
            fields.append(convert(value))
        except RefusedValueError as error:
            refused.setdefault(row, str(error))
            fields.append("")
    return fields


def _are(kind: type, values: Values) -> bool:
    """Whether every value is a string that RFC 3339 reads as `kind` (date or datetime)."""
    if set(map(type, values)) != {str}:
        return False
    try:
        msgspec.convert(values, list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError:
        return False
    return True


def _quote(text: str) -> str:
    if "\0" in text:
        raise RefusedValueError("nul")
    return '"' + text.replace('"', '""') + '"'


def _bigint(column: Column, values: Values, refused: Refusals) -> list[str]:
    if set(map(type, values)) == {int} and column.low <= min(values) and max(values) <= column.high:
        return list(map(str, values))

    def convert(value: Any) -> str:
        number = _whole(value)
        if not column.low <= number <= column.high:
            raise RefusedValueError("range")
        return str(number)

    return _each(values, refused, convert)


def _whole(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) in {float, Decimal} and abs(value) < 10**NUMERIC_DIGITS and value == (whole := int(value)):
        return whole
    raise RefusedValueError("type")


def _double(column: Column, values: Values, refused: Refusals) -> list[str]:
    types = set(map(type, values))
    if types == {float}:
        return list(map(repr, values))
    if types <= {int, float} and min(values) >= -MAX_EXACT_DOUBLE and max(values) <= MAX_EXACT_DOUBLE:
        return list(map(repr, map(float, values)))

    def convert(value: Any) -> str:
        if type(value) is float:
            return repr(value)
        if type(value) is not int:
            raise RefusedValueError("precision" if isinstance(value, Decimal) else "type")
        if abs(value) > MAX_EXACT_DOUBLE and (abs(value) > 10**308 or int(float(value)) != value):
            raise RefusedValueError("precision")
        return repr(float(value))

    return _each(values, refused, convert)


def _numeric(column: Column, values: Values, refused: Refusals) -> list[str]:
    beyond = 10 ** (column.digits - column.scale)
    if set(map(type, values)) == {int} and -beyond < min(values) and max(values) < beyond:
        return list(map(str, values))

    def convert(value: Any) -> str:
        number = _decimal(value)
        if number and number.adjusted() >= column.digits - column.scale:
            raise RefusedValueError("range")
        if number and number.adjusted() < -column.scale:
            raise RefusedValueError("precision")
        text = format(number, "f")
        whole, _, fraction = text.partition(".")
        fraction = fraction.rstrip("0")
        if len(fraction) > column.scale:
            raise RefusedValueError("precision")
        return f"{whole}.{fraction}" if fraction else whole if number else "0"

    return _each(values, refused, convert)


def _decimal(value: Any) -> Decimal:
    """The exact number: ints and decimal strings as written, floats by their shortest round trip."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        raise RefusedValueError("type")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except ArithmeticError:
        raise RefusedValueError("decimal") from None
    if not number.is_finite():
        raise RefusedValueError("decimal")
    return number


def _text(column: Column, values: Values, refused: Refusals) -> list[str]:
    if column.max_length is None and set(map(type, values)) == {str}:
        joined = "\0".join(values)
        if joined.count("\0") == len(values) - 1:
            if '"' in joined:
                joined = joined.replace('"', '""')
            return ('"' + joined.replace("\0", '"\0"') + '"').split("\0")

    def convert(value: Any) -> str:
        text = value if isinstance(value, str) else _json.encode(value).decode()
        if column.max_length is not None and len(text) > column.max_length:
            raise RefusedValueError("length")
        return _quote(text)

    return _each(values, refused, convert)


def _boolean(column: Column, values: Values, refused: Refusals) -> list[str]:
    if set(map(type, values)) == {bool}:
        return ["true" if value else "false" for value in values]

    def convert(value: Any) -> str:
        if not isinstance(value, bool):
            raise RefusedValueError("type")
        return "true" if value else "false"

    return _each(values, refused, convert)


def _timestamptz(column: Column, values: Values, refused: Refusals) -> list[str]:
    if _are(datetime, values) and (suffix := _common_zone(column, values)) is not None:
        return [f"{value}{suffix}" for value in values] if suffix else list(values)
    return _each(values, refused, lambda value: parse_timestamp(value, column.naive).isoformat())


def _common_zone(column: Column, values: Sequence[str]) -> str | None:
    """What to append so that both databases read RFC 3339 date-times as we do; None where they must be rewritten.

    They are rewritten unless all have one form of zone, `T`, at most 6 digits of a fraction, and a year within 2–9998.
    """
    marks = set(map(_MARKS, values))
    longest = max(map(len, values))
    if {mark[0] for mark in marks} != {"T"} or min(values) < "0002" or max(values) >= "9999":
        return None
    if all(mark[2] == "Z" for mark in marks):
        return "" if longest <= _LONGEST_NAIVE + 1 else None
    if all(mark[1] in "+-" for mark in marks):
        return "" if longest <= _LONGEST_NAIVE + 6 else None
    naive = all(not value[19:] or (value[19] == "." and value[20:].isdigit()) for value in values)
    return "Z" if naive and column.naive == "utc" and longest <= _LONGEST_NAIVE else None


def _timestamp(column: Column, values: Values, refused: Refusals) -> list[str]:
    """`timestamp without time zone` of a table made by others: the instant in UTC."""
    return _each(
        values,
        refused,
        lambda value: parse_timestamp(value, column.naive).replace(tzinfo=None).isoformat(),
    )


_LENIENT_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9})\d*)? ?"
    r"(?:(Z|z|[+-]\d\d(?::?\d\d)?)\4?)?)?",  # PipelineWise taps write some offsets twice: +00:00+00:00
    re.ASCII,
)


def parse_timestamp(value: Any, naive: str = "utc") -> datetime:
    """The instant, in UTC, of an ISO 8601 or RFC 3339 string, also spaced, date only, or with an offset such as +0000.

    Fractions are rounded to microseconds. A time without zone is UTC, or refused with `naive="refuse"`.
    Raises RefusedValueError with the rule that is broken.
    """
    if not isinstance(value, str):
        raise RefusedValueError("type")
    match = _LENIENT_TIMESTAMP.fullmatch(value.strip())
    if match is None:
        raise RefusedValueError("date-time")
    day, clock, fraction, zone = match.groups()
    if zone is None and naive == "refuse":
        raise RefusedValueError("date-time without zone")
    offset = "+00:00" if zone in (None, "Z", "z") else _offset(zone)
    try:
        found = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}{offset}").astimezone(timezone.utc)
        return found + timedelta(microseconds=round(int((fraction or "0").ljust(9, "0")) / 1000))
    except (ValueError, OverflowError):
        raise RefusedValueError("date-time") from None


def _offset(zone: str) -> str:
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return f"{zone[0]}{digits[:2]}:{digits[2:]}"


def _date(column: Column, values: Values, refused: Refusals) -> list[str]:
    if _are(date, values):
        return list(values)

    def convert(value: Any) -> str:
        found = parse_timestamp(value, "utc")
        if found.timetz().replace(tzinfo=None) != time():
            raise RefusedValueError("date")
        return found.date().isoformat()

    return _each(values, refused, convert)


def _time(column: Column, values: Values, refused: Refusals) -> list[str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise RefusedValueError("type")
        try:
            found = msgspec.convert(value, time)
        except msgspec.ValidationError:
            raise RefusedValueError("time") from None
        if found.tzinfo is not None and found.utcoffset():
            raise RefusedValueError("time with an offset other than UTC")
        return found.replace(tzinfo=None).isoformat()

    return _each(values, refused, convert)


def _uuid(column: Column, values: Values, refused: Refusals) -> list[str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise RefusedValueError("type")
        try:
            return str(UUID(value))
        except ValueError:
            raise RefusedValueError("uuid") from None

    return _each(values, refused, convert)


def _json_text(column: Column, values: Values, refused: Refusals) -> list[str]:
    text = _json.encode_lines(list(values)).decode()
    if "\\u0000" not in text:
        lines = text.rstrip("\n").replace('"', '""')
        return ('"' + lines.replace("\n", '"\n"') + '"').split("\n")

    def convert(value: Any) -> str:
        encoded = _json.encode(value).decode()
        if "\\u0000" in encoded.replace("\\\\", ""):
            raise RefusedValueError("nul")
        return _quote(encoded)

    return _each(values, refused, convert)


def _other(column: Column, values: Values, refused: Refusals) -> list[str]:
    """A type that we do not know: hand its text over and let the database judge."""
    return _text(replace(column, kind="text"), values, refused)


_ENCODERS: dict[str, Callable[[Column, Values, Refusals], list[str]]] = {
    "bigint": _bigint,
    "double": _double,
    "numeric": _numeric,
    "text": _text,
    "boolean": _boolean,
    "timestamptz": _timestamptz,
    "timestamp": _timestamp,
    "date": _date,
    "time": _time,
    "uuid": _uuid,
    "json": _json_text,
    "other": _other,
}
