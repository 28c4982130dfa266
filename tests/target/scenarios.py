"""Five kinds of streams whose table is known after every epoch: what a crash may leave behind, and what it may not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

GROUP = 4
"""Events between two STATEs, and `batch_size_rows`: each STATE closes an epoch."""

Row = tuple[Any, ...]
Table = list[Row]
Event = dict[str, Any]

LONG = "a_name_that_postgresql_would_cut_at_its_sixty_third_byte_and_that_must_not_split"
FIELDS = {
    "id": {"type": "integer"},
    "at": {"type": "integer"},
    "v": {"type": ["string", "null"]},
    LONG: {"type": ["integer", "null"]},
}
DELETED = {"_sdc_deleted_at": {"type": ["string", "null"], "format": "date-time"}}


@dataclass(frozen=True)
class Scenario:
    """A stream: what the tap sends from a bookmark on, and the tables that its epochs leave, in order.

    `before` is loaded beforehand and never killed. `tables[0]` is what it leaves; every later one ends an epoch.
    """

    name: str
    config: dict[str, Any]
    events: Sequence[Event]
    table_of: Callable[[Sequence[Event]], Table]
    read: str
    before: Sequence[Event] = ()
    gone: Sequence[int] = ()

    def messages(self, bookmark: int, version: int) -> list[dict[str, Any]]:
        """What the tap sends from a bookmark on: ties are read again."""
        return list(_messages(self, self.events, bookmark, version))

    def first_load(self) -> list[dict[str, Any]]:
        """What the load before sends."""
        return list(_messages(self, self.before, 0, 1)) if self.before else []

    @property
    def full(self) -> bool:
        """Whether every run sends the whole table under a new version."""
        return self.name == "full"

    @property
    def closes(self) -> bool:
        """Whether a run ends with the removal of what the source no longer has."""
        return self.gone != ()

    @property
    def tables(self) -> list[Table]:
        """The table before the load and after each of its epochs; the last one is the goal."""
        groups = len(self.events) // GROUP
        prefixes = [self.events[: GROUP * number] for number in range(groups + 1)]
        living = [self.table_of([*self.before, *prefix]) for prefix in prefixes]
        if self.full:
            living.append([(*row[:-1], row[0] in self.gone) for row in living[-1]])
        elif self.closes:
            living.append([row for row in living[-1] if row[0] not in self.gone])
        return living

    def behind(self, bookmark: int) -> int:
        """The first of `tables` that holds all that a printed bookmark stands for."""
        return len(self.tables) - 1 if self.closes and bookmark == self.events[-1]["at"] else bookmark // GROUP


def _messages(scenario: Scenario, events: Sequence[Event], bookmark: int, version: int) -> Iterator[dict[str, Any]]:
    versioned = {"version": version} if scenario.full else {}
    marked = DELETED if scenario.name == "deleting" else {}
    if bookmark:
        yield state(bookmark)
    yield _schema(scenario, {name: FIELDS[name] for name in ("id", "at", "v")} | marked)
    for event in events:
        if event["at"] == 2 * GROUP + 1:
            yield _schema(scenario, FIELDS | marked)
        if event["at"] >= bookmark or scenario.full:
            yield {"type": "RECORD", "stream": "s", "record": event, **versioned}
        if event["at"] % GROUP == 0 and event is not events[-1]:
            yield state(event["at"])
    if scenario.full:
        yield {"type": "ACTIVATE_VERSION", "stream": "s", "version": version}
    end = state(events[-1]["at"])
    if scenario.name == "reconciled" and events is scenario.events:
        yield from _all_keys(scenario)
        end["value"]["resilient"]["scans"] = {stream: {"verdict": "complete"} for stream in ("s", "s__keys")}
    yield end


def _all_keys(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """The companion stream: every key that the source still has."""
    schema = {"type": "object", "properties": {"id": FIELDS["id"]}, "x-reconciles": "s"}
    yield {"type": "SCHEMA", "stream": "s__keys", "schema": schema, "key_properties": ["id"]}
    for key in sorted({event["id"] for event in (*scenario.before, *scenario.events)} - {*scenario.gone}):
        yield {"type": "RECORD", "stream": "s__keys", "record": {"id": key}}


def _schema(scenario: Scenario, fields: dict[str, Any]) -> dict[str, Any]:
    key = [] if scenario.name == "keyless" else ["id"]
    return {"type": "SCHEMA", "stream": "s", "schema": {"type": "object", "properties": fields}, "key_properties": key}


def state(bookmark: int) -> dict[str, Any]:
    """The STATE of tap-resilient at a bookmark."""
    mark = {"replication_key": "at", "replication_key_value": bookmark}
    return {"type": "STATE", "value": {"bookmarks": {"s": mark} if bookmark else {}, "resilient": {"version": 1}}}


def bookmark_of(value: Any) -> int:
    """The bookmark in a state's value."""
    return int(value["bookmarks"].get("s", {}).get("replication_key_value", 0))


def lines(messages: Sequence[dict[str, Any]]) -> bytes:
    """Messages as a tap writes them."""
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def _event(at: int, key: int, **more: Any) -> Event:
    extra = {LONG: key * 10} if at > 2 * GROUP else {}
    return {"id": key, "at": at, "v": f"{key} at {at}", **extra, **more}


def _row(event: Event) -> Row:
    return (event["id"], event["at"], event["v"])


def _upserted(events: Sequence[Event]) -> Table:
    return sorted({event["id"]: _row(event) for event in events}.values())


def _flagged(events: Sequence[Event]) -> Table:
    return [(*row, False) for row in _upserted(events)]


def _collapsed(events: Sequence[Event]) -> Table:
    return sorted({_row(event) for event in events})


def _surviving(events: Sequence[Event]) -> Table:
    last = {event["id"]: event for event in events}
    return sorted(_row(event) for event in last.values() if event.get("_sdc_deleted_at") is None)


_KEYS = (1, 2, 3, 4, 2, 5, 6, 7, 5, 2, 8, 9, 1, 10, 9, 11)
_CHANGES = [_event(at, key) for at, key in enumerate(_KEYS, 1)]
_DELETING = [
    {**event, "_sdc_deleted_at": "2024-01-01T00:00:00Z" if event["at"] in (7, 10, 13) else None} for event in _CHANGES
]
_REPEATED = [{**event, "v": "again", "at": event["at"]} for event in _CHANGES]
_WHOLE = [_event(at, at + 1) for at in range(1, 17)]  # keys 2 to 17; the load before had 0 to 15

_BEFORE = [_event(0, key) for key in range(16)]

SCENARIOS = {
    "keyed": Scenario("keyed", {}, _CHANGES, _upserted, 'SELECT id, "at", v FROM {}'),
    "keyless": Scenario("keyless", {}, _REPEATED, _collapsed, 'SELECT id, "at", v FROM {}'),
    "full": Scenario(
        "full", {}, _WHOLE, _flagged, 'SELECT id, "at", v, _sdc_deleted_at IS NOT NULL FROM {}',
        before=_BEFORE, gone=(0, 1),
    ),
    "reconciled": Scenario(
        "reconciled", {"hard_delete": True}, _CHANGES, _upserted, 'SELECT id, "at", v FROM {}', _BEFORE, gone=(0, 13)
    ),
    "deleting": Scenario("deleting", {"hard_delete": True}, _DELETING, _surviving, 'SELECT id, "at", v FROM {}'),
}  # fmt: skip
