"""One stream's part of an epoch: frames become checked, deduplicated CSV rows; what does not fit is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

import msgspec
from singer_sdk.exceptions import MissingKeyPropertiesError

from resilient_core.contract import Policies
from resilient_core.errors import DataRefusedError
from target_resilient.columns import Refusals, encode, key_values, order_values
from target_resilient.ledger import Bounds, Counts
from target_resilient.quarantine import Refused
from target_resilient.reader import FAULTS, Frame, Unreadable
from target_resilient.table import VERSION, TablePlan
from target_resilient.validate import Absent, Validator, Violation, pointer, violation

_canonical = msgspec.json.Encoder(order="sorted", decimal_format="number")


class MissingKeyError(DataRefusedError, MissingKeyPropertiesError):
    """A record without its key, under `on_bad_record: fail`."""


@dataclass
class StreamBatch:
    """Rows of one stream for one table within one epoch. `rows[i]` is None where another row with its key won."""

    plan: TablePlan
    validator: Validator
    policies: Policies
    rows: list[str | None] = field(default_factory=list)
    frames: list[tuple[int, Frame, Sequence[int] | None]] = field(default_factory=list)  # first place, frame, its rows
    places: dict[Any, int] = field(default_factory=dict)
    beaten: dict[int, list[tuple[int, str]]] = field(default_factory=dict)  # winner's place → the rows it replaced
    orders: list[Any] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    bounds: Bounds = field(default_factory=Bounds)
    bytes: int = 0

    def add(self, frame: Frame) -> None:
        """Check, encode and keep a frame of records."""
        records = frame.records
        self.counts.received += len(records)
        self.bytes += frame.size
        bad = self._judge(frame)
        if bad:
            self._refuse(frame, bad)
            kept = [row for row in range(len(records)) if row not in bad]
            records = [records[row] for row in kept]
        if not records:
            frame.forget()
            return
        fields, refused = self._encode(records, frame, kept if bad else None)
        if refused:
            places = {(kept[row] if bad else row): found for row, found in refused.items()}
            self._refuse(frame, places)
            good = [row for row in range(len(records)) if row not in refused]
            kept = [kept[row] if bad else row for row in good]
            records = [records[row] for row in good]
            fields = [[column[row] for row in good] for column in fields]
        self._keep(records, fields, frame, kept if bad or refused else None)
        frame.forget()

    def add_unreadable(self, event: Unreadable) -> None:
        """Refuse a record that could not even be decoded."""
        self.counts.received += 1
        self.bytes += len(event.raw)
        found = [
            {
                **violation(pointer(path), rule, None, Absent()),
                "message": f"{pointer(path) or 'record'}: {FAULTS[rule]}",
            }
            for path, rule in event.faults
        ]
        self._take(Refused(self.plan.spec.stream, self._table, None, event.raw, found, self._fingerprint), event.line)

    def live_rows(self) -> list[str]:
        """The rows to stage, without those that a duplicate replaced."""
        return [row for row in self.rows if row is not None]

    def drop(self, place: int, found: Violation) -> None:
        """Refuse the row at `place` (an index into `rows`) after the database refused it."""
        frame, row = self._source(place)
        self._refuse(frame, {row: [found]})
        self.rows[place] = None
        self._bring_back(sorted(self.beaten.pop(place, [])))

    # the record is judged ------------------------------------------------------------------------------------------

    def _judge(self, frame: Frame) -> dict[int, list[Violation]]:
        records = frame.records
        if set(map(type, records)) != {dict}:
            odd = [row for row, record in enumerate(records) if type(record) is not dict]
            return {row: [violation("", "type", "object", records[row])] for row in odd} | self._judge_some(frame, odd)
        bad = self.validator.check(records)
        if self.policies.on_new_column == "freeze":
            known = self.plan.known
            for row, record in enumerate(records):
                for name in (name for name in record.keys() - known if not name.startswith("_sdc_")):
                    bad.setdefault(row, []).append(violation(pointer([name]), "new column", None, record[name]))
        return bad

    def _judge_some(self, frame: Frame, odd: list[int]) -> dict[int, list[Violation]]:
        rows = [row for row in range(len(frame.records)) if row not in set(odd)]
        found = self.validator.check([frame.records[row] for row in rows])
        return {rows[place]: violations for place, violations in found.items()}

    def _encode(
        self, records: list[dict[str, Any]], frame: Frame, kept: Sequence[int] | None
    ) -> tuple[list[list[str]], dict[int, list[Violation]]]:
        """The CSV fields by column, and the rows that a column refuses."""
        bad: dict[int, list[Violation]] = {}
        fields: list[list[str]] = []
        for column, values in zip(self.plan.columns, self._columns(records)):  # noqa: B905 one list a column
            refused: Refusals = {}
            fields.append(encode(column, values, refused))
            if column.name in self.plan.key and None in values:
                refused |= {row: "key" for row, value in enumerate(values) if value is None}
            for row, rule in refused.items():
                value = records[row].get(column.key, Absent())
                bad.setdefault(row, []).append(violation(pointer([column.key]), rule, column.kind, value))
        if self.plan.row_hash:
            fields.append(list(map(_row_hash, records)))
        if self.plan.own_columns:
            fields += self._own_fields(records, frame, kept)
        return fields, bad

    def _columns(self, records: list[dict[str, Any]]) -> Iterable[Sequence[Any]]:
        """The values of each column; in C where every record has every field."""
        keys = [column.key for column in self.plan.columns]
        if len(keys) > 1:
            try:
                return list(zip(*map(itemgetter(*keys), records)))  # noqa: B905 one tuple a record
            except KeyError:
                pass  # some record lacks a field
        return ([record.get(key) for record in records] for key in keys)

    def _own_fields(self, records: list[dict[str, Any]], frame: Frame, kept: Sequence[int] | None) -> list[list[str]]:
        """The CSV fields of the columns that the loader itself fills."""
        now = datetime.now(timezone.utc)
        messages = [frame.messages[row] for row in kept] if kept is not None else frame.messages
        fixed = self.plan.fixed_version
        values: dict[str, list[Any]] = {
            "_sdc_extracted_at": [message.time_extracted for message in messages],
            "_sdc_received_at": [now.isoformat()] * len(records),
            "_sdc_batched_at": [now.isoformat()] * len(records),
            "_sdc_sequence": [int(now.timestamp() * 1000)] * len(records),
            VERSION.name: [message.version if fixed is None else fixed for message in messages],
        }
        return [encode(column, values[column.name], {}) for column in self.plan.own_columns]

    # the record is kept --------------------------------------------------------------------------------------------

    def _keep(
        self, records: list[dict[str, Any]], fields: list[list[str]], frame: Frame, kept: Sequence[int] | None
    ) -> None:
        first = len(self.rows)
        self.frames.append((first, frame, kept))
        self.rows.extend(map(",".join, zip(*fields)))  # noqa: B905 columns of one batch have one length
        column = self.plan.replication_column
        if column is not None:
            place = self.plan.columns.index(column)
            orders = order_values(column, [record.get(column.key) for record in records], fields[place])
            self.bounds.widen(orders)
            self.orders.extend(orders)
        if self.plan.key:
            self._deduplicate(self._keys(records, fields), first)

    def _deduplicate(self, keys: Sequence[Any], first: int) -> None:
        """Keep the row with the highest replication key for each key; NULL is lowest, ties go to the last."""
        fresh = dict(zip(keys, range(first, first + len(keys))))  # noqa: B905 same length
        if len(fresh) == len(keys) and self.places.keys().isdisjoint(fresh):
            self.places.update(fresh)
            return
        for place, key in enumerate(keys, first):
            older = self.places.get(key)
            if older is None or self._replaces(older, place):
                self.places[key] = place
            if older is not None:
                self._beat(older, place, newer_wins=self.places[key] == place)

    def _beat(self, older: int, newer: int, *, newer_wins: bool) -> None:
        replaced = self.beaten.pop(older, [])
        winner, loser = (newer, older) if newer_wins else (older, newer)
        text = self.rows[loser]
        assert text is not None  # noqa: S101 it was the winner until now, or is new
        replaced.append((loser, text))
        self.beaten[winner] = replaced
        self.rows[loser] = None
        self.counts.deduplicated += 1

    def _bring_back(self, replaced: list[tuple[int, str]]) -> None:
        """Let the best of the rows that a refused one had replaced take its place."""
        if not replaced:
            return
        best = replaced[0]
        for other in replaced[1:]:
            best = other if self._replaces(best[0], other[0]) else best
        self.rows[best[0]] = best[1]
        self.counts.deduplicated -= 1
        if others := [other for other in replaced if other is not best]:
            self.beaten[best[0]] = others

    def _replaces(self, older: int, newer: int) -> bool:
        if not self.plan.ordered or not self.orders:
            return True
        old, new = self.orders[older], self.orders[newer]
        return old is None or (new is not None and bool(new >= old))

    def _keys(self, records: list[dict[str, Any]], fields: list[list[str]]) -> Sequence[Any]:
        """The typed key of each record: of one column, or a tuple of several."""
        if self.plan.row_hash:
            return fields[len(self.plan.columns)]
        found = [
            key_values(column, [record.get(column.key) for record in records], fields[place])
            for place, column in enumerate(self.plan.columns)
            if column.name in self.plan.key
        ]
        return found[0] if len(found) == 1 else list(zip(*found))  # noqa: B905 same length

    # the record is refused -----------------------------------------------------------------------------------------

    def _refuse(self, frame: Frame, bad: dict[int, list[Violation]]) -> None:
        for row, found in sorted(bad.items()):
            record = frame.record(row)
            key = None
            if isinstance(record, dict) and self.plan.spec.key_properties:
                key = _canonical.encode([record.get(name) for name in self.plan.spec.key_properties]).decode()
            refused = Refused(self.plan.spec.stream, self._table, key, frame.raw(row), found, self._fingerprint)
            self._take(refused, frame.line(row))

    def _take(self, refused: Refused, line: int) -> None:
        first = refused.errors[0]
        where = f"stream '{refused.stream}', line {line}: {first['message']}"
        if self.policies.on_bad_record == "fail":
            kind = MissingKeyError if first["rule"] == "key" else DataRefusedError
            raise kind(f"{where}; mend the source, or set on_bad_record: quarantine")
        if self.policies.on_type_change == "freeze" and first["rule"] in {"type", "precision"}:
            raise DataRefusedError(f"{where}; plan the change of type, or set on_type_change: quarantine")
        self.counts.quarantined += 1
        if self.policies.on_bad_record == "quarantine":
            self.refused.append(refused)

    # ------------------------------------------------------------------------------------------------------------------

    def _source(self, place: int) -> tuple[Frame, int]:
        first, frame, kept = next(entry for entry in reversed(self.frames) if entry[0] <= place)
        row = place - first
        return frame, kept[row] if kept is not None else row

    @property
    def _table(self) -> str:
        return ".".join(self.plan.table)

    @property
    def _fingerprint(self) -> str:
        return self.plan.spec.contract.fingerprint


def _row_hash(record: dict[str, Any]) -> str:
    """128 bits over the fields that are not null, without the tap's own `_sdc_` metadata."""
    business = {k: v for k, v in record.items() if v is not None and not k.startswith("_sdc_")}
    return hashlib.blake2b(_canonical.encode(business), digest_size=16).hexdigest()
