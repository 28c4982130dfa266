"""Is the state that a run starts from the one that this pipeline committed? Ahead of it means that data were lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from target_resilient.columns import RefusedValueError, parse_timestamp

Verdict = Literal["same", "ahead", "behind", "different"]


def compare_states(start: bytes, stored: str | None) -> Verdict:
    """How a starting state stands to the stored one: bookmark by bookmark, typed.

    `ahead` if any bookmark of tap-resilient is beyond the stored one, `different` where nothing can be said.
    """
    begun, held = json.loads(start), json.loads(stored or "{}")
    if begun == held:
        return "same"
    if not (isinstance(begun, dict) and isinstance(held, dict) and "resilient" in begun):
        return "different"
    old, new = dict(_bookmarks(held)), dict(_bookmarks(begun))
    orders = {_order(value, old.get(key)) for key, value in new.items()}
    if "ahead" in orders:
        return "ahead"
    return "behind" if "behind" in orders or old.keys() - new.keys() else "same"


def resumed_streams(start: bytes) -> set[str]:
    """The streams that a run which starts from this state does not read from their beginning."""
    state = json.loads(start)
    return {key.partition(" ")[0] for key, _ in _bookmarks(state)} if isinstance(state, dict) else set()


def _bookmarks(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(stream and partition, replication key value) of every bookmark."""
    streams = state.get("bookmarks")
    for stream, bookmark in (streams if isinstance(streams, dict) else {}).items():
        entries = [bookmark, *bookmark.get("partitions", [])] if isinstance(bookmark, dict) else []
        for entry in entries:
            if isinstance(entry, dict) and entry.get("replication_key_value") is not None:
                context = json.dumps(entry.get("context"), sort_keys=True)
                yield f"{stream} {context}", entry["replication_key_value"]


def _order(value: Any, stored: Any) -> Verdict:
    if stored is None:
        return "ahead"
    if value == stored:
        return "same"
    new, old = _typed(value), _typed(stored)
    if type(new) is not type(old):
        return "different"
    return "ahead" if new > old else "behind"


def _typed(value: Any) -> Any:
    """A number, an instant, or text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        return parse_timestamp(value)
    except RefusedValueError:
        return str(value)
