"""How far a stream has been read: typed, monotone, never past what was emitted, never ahead of the clock."""

from __future__ import annotations

import datetime
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from resilient_core.errors import Fault
from resilient_core.settings import Setting, parse_duration
from tap_resilient.blocks import read_block
from tap_resilient.instants import DATETIME_FORMATS, UNREADABLE, Date, DateTime, Integer, Kind, Text, read_all
from tap_resilient.selector import Row

SKEW_SECONDS = 60.0
"""How far the source's clock may run ahead of ours: bookmarks stay this much behind the scan's start."""

RowOrder = Literal["asc", "desc", "none"]

SETTINGS = (
    Setting("replication_key", "string", "Field that tells how new a record is", required=True),
    Setting("type", "options", "Its type", "datetime", ("datetime", "date", "integer", "string")),
    Setting("format", "string", "iso8601, epoch_s, epoch_ms or a strptime pattern", "iso8601"),
    Setting("start_param", "string", "Parameter of the lower bound (inclusive)"),
    Setting("end_param", "string", "Parameter of the upper bound"),
    Setting("initial_value", "any", "Lower bound of the first run; start_date by default"),
    Setting("step", "duration", "Read in windows of this length"),
    Setting("lookback", "any", "Read again what is this much older than the bookmark (integers: a number)"),
    Setting("row_order", "options", "How the API sorts rows by the replication key", "none", ("asc", "desc", "none")),
)


@dataclass(frozen=True)
class Incremental:
    """The `incremental:` block. `step` is seconds; `lookback` seconds, or a count for integers; None means none."""

    replication_key: str
    kind: Kind
    start_param: str | None = None
    end_param: str | None = None
    initial: Any = None
    step: float | None = None
    lookback: Any = None
    row_order: RowOrder = "none"

    @classmethod
    def parse(cls, value: Any, where: str, start_date: Any = None) -> tuple[Incremental, list[Fault]]:
        """The block with every fault found; `start_date` is the initial value of instants that have none."""
        block, faults = read_block(SETTINGS, value, where)
        kind, more = _kind(block["type"], block["format"], where)
        faults += more
        instant = isinstance(kind, DateTime | Date)
        given = block["initial_value"] if block["initial_value"] is not None or not instant else start_date
        initial = _loaded(kind, given, f"{where}.initial_value", faults)
        lookback = _lookback(kind, block["lookback"], f"{where}.lookback", faults)
        if block["step"] is not None and (not instant or given is None):
            faults.append(Fault(f"{where}.step", "needs type datetime or date, and an initial_value or start_date"))
        if block["step"] == 0:
            faults.append(Fault(f"{where}.step", "must be longer than nothing"))
        spec = cls(
            block["replication_key"] or "",
            kind,
            block["start_param"],
            block["end_param"],
            initial,
            block["step"],
            lookback,
            block["row_order"],
        )
        return spec, faults


@dataclass(frozen=True)
class Window:
    """From `start` (inclusive) to `end`, typed; None means no bound."""

    start: Any = None
    end: Any = None

    def halves(self) -> tuple[Window, Window] | None:
        """The window as two; None if it has no bounds or is too short (a second, a day)."""
        if self.start is None or self.end is None:
            return None
        middle = self.start + (self.end - self.start) / 2
        least = datetime.timedelta(days=1) if not isinstance(self.start, datetime.datetime) else SECOND
        if self.end - self.start < 2 * least:
            return None
        return Window(self.start, middle), Window(middle, self.end)


SECOND = datetime.timedelta(seconds=1)


def starting_value(spec: Incremental, bookmark: Any) -> Any:
    """Where a scan begins: the typed bookmark less the lookback, else the initial value, else None."""
    if bookmark is None:
        return spec.initial
    return bookmark if spec.lookback is None else spec.kind.minus(bookmark, spec.lookback)


def windows(spec: Incremental, start: Any, now: datetime.datetime) -> Iterator[Window]:
    """The windows from `start` to `now`: one, or as many as `step` makes. Only instants have an upper bound."""
    end = {DateTime: now, Date: now.date()}.get(type(spec.kind)) if spec.step or spec.end_param else None
    if spec.step is None or start is None or end is None or start >= end:
        yield Window(start, end)
        return
    step = datetime.timedelta(seconds=spec.step)
    if isinstance(spec.kind, Date):
        step = max(datetime.timedelta(days=step.days), datetime.timedelta(days=1))
    while start < end:
        yield Window(start, min(start + step, end))
        start += step


def ceiling(kind: Kind, now: datetime.datetime) -> Any:
    """The highest bookmark that a scan begun at `now` may set; None where the clock says nothing."""
    latest = now - datetime.timedelta(seconds=SKEW_SECONDS)
    return {DateTime: latest, Date: latest.date()}.get(type(kind))


class Watermark:
    """The bookmark of one partition while it is scanned.

    Rows in ascending order move it page by page; a row out of order, or any other order, moves it only when the
    window is drained, and takes back what the window had moved.
    """

    def __init__(self, spec: Incremental, bookmark: Any, limit: Any) -> None:
        self._spec = spec
        self._limit = limit
        self._window_start = bookmark
        self._highest: Any = None
        self._sorted = spec.row_order == "asc"
        self.value = bookmark
        self.unreadable = 0
        self.out_of_order = False

    def passed(self, rows: list[Row]) -> None:
        """`rows` have been emitted."""
        key = self._spec.replication_key
        values = read_all(self._spec.kind, [row.get(key) for row in rows])
        known = [value for value in values if value is not None]
        self.unreadable += len(values) - len(known)
        if not known:
            return
        if self._sorted and not self._in_order(known):
            self._sorted, self.out_of_order = False, True
            self.value = self._window_start
        self._highest = max(known) if self._highest is None else max(self._highest, *known)
        if self._sorted:
            self._advance()

    def drained(self) -> None:
        """The window has been read to its end."""
        self._advance()
        self._window_start = self.value

    def held(self) -> None:
        """The window cannot be trusted: back to where it began."""
        self.value = self._window_start

    def _in_order(self, known: list[Any]) -> bool:
        first = known[0] if self._highest is None else self._highest
        return first <= known[0] and all(map(operator.le, known, known[1:]))

    def _advance(self) -> None:
        if self._highest is None:
            return
        reached = self._highest if self._limit is None else min(self._highest, self._limit)
        self.value = reached if self.value is None else max(self.value, reached)


def _kind(name: str, pattern: str, where: str) -> tuple[Kind, list[Fault]]:
    if name in {"integer", "string"}:
        faults = [] if pattern == "iso8601" else [Fault(f"{where}.format", f"means nothing for type {name}")]
        return (Integer() if name == "integer" else Text()), faults
    named = DATETIME_FORMATS if name == "datetime" else ("iso8601",)
    if pattern not in named and "%" not in pattern:
        known = ", ".join(named)
        return DateTime(), [Fault(f"{where}.format", f"must be one of {known}, or a strptime pattern such as %d.%m.%Y")]
    return (DateTime(pattern) if name == "datetime" else Date(pattern)), []


def _loaded(kind: Kind, value: Any, where: str, faults: list[Fault]) -> Any:
    if value is None:
        return None
    try:
        return kind.load(value)
    except UNREADABLE:
        faults.append(Fault(where, "is not a value of the incremental type"))
        return None


def _lookback(kind: Kind, value: Any, where: str, faults: list[Fault]) -> Any:
    if value is None:
        return None
    if isinstance(kind, Integer):
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        faults.append(Fault(where, "must be a number of key values (for instants in numbers: type datetime, epoch_s)"))
    elif isinstance(kind, Text):
        faults.append(Fault(where, "means nothing for type string"))
    else:
        try:
            return parse_duration(value)
        except ValueError as error:
            faults.append(Fault(where, str(error)))
    return None


def params_of(spec: Incremental, window: Window) -> Mapping[str, Any]:
    """The parameters of a window."""
    bounds = {spec.start_param: window.start, spec.end_param: window.end}
    return {name: spec.kind.write(value) for name, value in bounds.items() if name and value is not None}
