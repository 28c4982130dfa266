"""The state of a run: checked when it comes in, written in time, and ended with the verdicts of all scans."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

from resilient_core.errors import ConfigError, Fault
from tap_resilient.jobs import job_state_faults
from tap_resilient.messages import Messages
from tap_resilient.outcome import Outcome

ROWS_BETWEEN = 1000
SECONDS_BETWEEN = 5.0


def checked_state(state: Any) -> dict[str, Any]:
    """A copy of `state`. Raises ConfigError if it has not the shape of a Singer state; None is an empty one."""
    if state is None:
        return {}
    if faults := list(_state_faults(state)):
        raise ConfigError(faults)
    return copy.deepcopy(dict(state))


def _state_faults(state: Any) -> list[Fault]:
    if not isinstance(state, Mapping):
        return [Fault("--state", "must hold one JSON object")]
    bookmarks = state.get("bookmarks", {})
    if not isinstance(bookmarks, Mapping):
        return [Fault("--state: bookmarks", "must be an object")]
    if not isinstance(state.get("resilient", {}), Mapping):
        return [Fault("--state: resilient", "must be an object")]
    return job_state_faults(state.get("resilient", {}).get("jobs", {})) + [
        Fault(f"--state: bookmarks.{stream}", "must be an object whose partitions are a list of {context, …}")
        for stream, entry in bookmarks.items()
        if not _is_bookmark(entry)
    ]


def _is_bookmark(entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        return False
    parts = entry.get("partitions", [])
    return isinstance(parts, list) and all(isinstance(part, Mapping) for part in parts)


class StateKeeper:
    """Writes STATE messages: the one that came in first, then as bookmarks move, last the end marker.

    Between two of them there are at least 1,000 rows, ten for each partition that they hold, or 5 seconds.
    """

    def __init__(
        self,
        value: dict[str, Any],
        fingerprint: str,
        messages: Messages,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.value = value
        self._came_in = bool(value)
        self._mark = {"version": 1, "source": fingerprint}
        self._messages = messages
        self._clock = clock
        self._rows = 0
        self._written_at = clock()

    def begin(self) -> None:
        """Write the state that came in, without the verdicts of the run that left it: this one has not ended.

        The jobs that it left go with them if the source is configured otherwise by now.
        """
        before = self.value.get("resilient", {})
        gone = {"scans"} if before.get("source") == self._mark["source"] else {"scans", "jobs"}
        kept = {key: item for key, item in before.items() if key not in gone}
        self.value["resilient"] = {**kept, **self._mark}
        if self._came_in:
            self._write()

    def emitted(self, rows: int) -> None:
        """Count rows that went out."""
        self._rows += rows

    def checkpoint(self, *, force: bool = False) -> None:
        """Write the state if it is time to, or `force`."""
        partitions = sum(len(entry.get("partitions", ())) for entry in self.value.get("bookmarks", {}).values())
        enough = self._rows >= max(ROWS_BETWEEN, 10 * partitions)
        late = self._clock() - self._written_at >= SECONDS_BETWEEN
        if force or enough or late:
            self._write()

    def end(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write the end marker: the state with the verdict and rows of every stream."""
        scans = {name: {"verdict": outcome.verdict, "rows": outcome.rows} for name, outcome in outcomes.items()}
        self.value["resilient"] = {**self.value.get("resilient", {}), **self._mark, "scans": scans}
        self._write()

    def _write(self) -> None:
        self._rows = 0
        self._written_at = self._clock()
        self._messages.state(self.value)
