"""The bookmarks of one stream within the state, in the SDK's shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_PARTITIONS = 1000

Context = Mapping[str, Any]


class Bookmarks:
    """Reads and writes the bookmarks of a stream: one for each partition, or `one_for_all`.

    Beyond 1,000 partitions it is `crowded`, and stores no further ones: whoever reads on must join them at the end.
    A bookmark of another replication key than `replication_key` counts as none.
    """

    def __init__(self, state: dict[str, Any], stream: str, replication_key: str, *, one_for_all: bool = False) -> None:
        self._state = state
        self._stream = stream
        self._key = replication_key
        entry = state.get("bookmarks", {}).get(stream, {})
        self._partitions = {_mark(part["context"]): part for part in entry.get("partitions", []) if "context" in part}
        self.one_for_all = one_for_all or (self._value(entry) is not None and not self._partitions)
        self.crowded = False

    def get(self, context: Context | None) -> Any:
        """The bookmark of a partition; None if it has none."""
        entry = self._entry()
        if not context or self.one_for_all:
            return self._value(entry)
        return self._value(self._partitions.get(_mark(context), {}))

    def put(self, context: Context | None, value: Any) -> None:
        """Set the bookmark of a partition; None removes it."""
        if context and not self.one_for_all:
            self._put_partition(context, value)
        else:
            self._write(self._entry(), value)

    def _put_partition(self, context: Context, value: Any) -> None:
        mark = _mark(context)
        if mark not in self._partitions:
            self.crowded |= len(self._partitions) >= MAX_PARTITIONS
            if value is None or self.crowded:
                return
            self._partitions[mark] = {"context": dict(context)}
            self._entry().setdefault("partitions", []).append(self._partitions[mark])
        self._write(self._partitions[mark], value)

    def join_partitions(self) -> None:
        """From now on one bookmark stands for all partitions."""
        self.one_for_all = True
        self._partitions = {}
        self._entry().pop("partitions", None)

    def _entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = self._state.setdefault("bookmarks", {}).setdefault(self._stream, {})
        return entry

    def _value(self, entry: Mapping[str, Any]) -> Any:
        return entry.get("replication_key_value") if entry.get("replication_key", self._key) == self._key else None

    def _write(self, entry: dict[str, Any], value: Any) -> None:
        if value is None:
            entry.pop("replication_key", None)
            entry.pop("replication_key_value", None)
        else:
            entry.update(replication_key=self._key, replication_key_value=value)


def _mark(context: Context) -> str:
    return json.dumps(context, sort_keys=True, default=str)
