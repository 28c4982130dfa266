"""The companion stream `<stream>__keys`: all keys that the source has, so that the target finds what was deleted."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from tap_resilient.deletes import Reconcile
from tap_resilient.instants import UNREADABLE, DateTime
from tap_resilient.selector import Row


class KeyStream:
    """The keys of one stream. When they were last read whole stands in the state at `resilient.reconciled.<stream>`."""

    def __init__(self, stream: str, keys: Sequence[str], spec: Reconcile, state: dict[str, Any]) -> None:
        self.name = f"{stream}__keys"
        self._stream = stream
        self._keys = keys
        self._spec = spec
        self._state = state

    def is_due(self, now: datetime.datetime) -> bool:
        """Whether `every` has passed since all keys were read."""
        last = self._state.get("resilient", {}).get("reconciled", {}).get(self._stream)
        try:
            return last is None or now - DateTime().load(last) >= datetime.timedelta(seconds=self._spec.every)
        except UNREADABLE:
            return True

    def done(self, now: datetime.datetime) -> None:
        """All keys were read at `now`."""
        self._state.setdefault("resilient", {}).setdefault("reconciled", {})[self._stream] = DateTime().store(now)

    def schema(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """The key fields of the stream's schema; `x-reconciles` names the stream."""
        properties = {name: whole["properties"].get(name, {}) for name in self._keys}
        schema = {"type": "object", "properties": properties, "required": list(self._keys)}
        limit = self._spec.max_delete_ratio
        return {
            **schema,
            "x-reconciles": self._stream,
            **({} if limit is None else {"x-max-delete-ratio": limit}),
        }

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """The keys of `rows`."""
        return [{name: row.get(name) for name in self._keys} for row in rows]
