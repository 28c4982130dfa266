"""Is the state that a run starts from the one that this pipeline committed? Ahead of it means that data were lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Literal

from target_resilient.columns import RefusedValueError, parse_timestamp

Verdict = Literal["same", "ahead", "behind", "different"]

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_BELOW_MICROSECONDS = re.compile(r"\.[0-9]{6}([0-9]+)")


def compare_states(start: bytes, stored: str | None) -> Verdict:
    """How a starting state stands to the stored one: bookmark by bookmark, typed.

    `ahead` if any bookmark of tap-resilient is beyond the stored one, `different` where nothing can be said.
    """
    begun, held = (json.loads(text, parse_float=Decimal) for text in (start, stored or "{}"))
    if begun == held:
        return "same"
    if not (isinstance(begun, dict) and isinstance(held, dict) and "resilient" in begun):
        return "different"
    old, new = dict(_bookmarks(held)), dict(_bookmarks(begun))
    orders = {_order(value, old.get(key)) for key, value in new.items()}
    for verdict in ("ahead", "different"):
        if verdict in orders:
            return verdict
    return "behind" if "behind" in orders or old.keys() - new.keys() else "same"


def resumed_streams(start: bytes) -> set[str]:
    """The streams that a run which starts from this state does not read from their beginning."""
    state = json.loads(start)
    bookmarks = state.get("bookmarks") if isinstance(state, dict) else None
    found = bookmarks.items() if isinstance(bookmarks, dict) else ()
    return {stream for stream, mark in found if _says_something(mark)}


def _says_something(mark: Any) -> bool:
    """Whether a bookmark of any tap holds a value; the name of the replication key alone is none."""
    if isinstance(mark, dict):
        return any(_says_something(value) for name, value in mark.items() if name not in {"replication_key", "context"})
    return any(map(_says_something, mark)) if isinstance(mark, list) else mark is not None


def _bookmarks(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(stream and partition, replication key value) of every bookmark."""
    streams = state.get("bookmarks")
    for stream, bookmark in (streams if isinstance(streams, dict) else {}).items():
        entries = [bookmark, *bookmark.get("partitions", [])] if isinstance(bookmark, dict) else []
        for entry in entries:
            if isinstance(entry, dict) and entry.get("replication_key_value") is not None:
                context = json.dumps(entry.get("context"), sort_keys=True, default=str)
                yield f"{stream} {context}", entry["replication_key_value"]


def _order(value: Any, stored: Any) -> Verdict:
    if stored is None:
        return "ahead"
    (kind, new), (stored_kind, old) = _typed(value), _typed(stored)
    if kind != stored_kind:
        return "different"
    if new == old:
        return "same"
    return "ahead" if new > old else "behind"


def _typed(value: Any) -> tuple[str, Any]:
    """What a bookmark is (a number, an instant, text), and what it is compared by, exactly."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return "number", value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return "number", Decimal(value)
    try:
        instant = parse_timestamp(value)
    except RefusedValueError:
        return "text", str(value)
    finer = _BELOW_MICROSECONDS.search(value)
    return "instant", (instant, finer[1].rstrip("0") if finer else "")
