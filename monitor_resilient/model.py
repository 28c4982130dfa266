"""What the parts of the monitor tell each other: findings, loads, runs of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

SEVERITIES = ("ok", "learning", "warn", "fail", "unknown")

SEVERITY_OF = {**{name: name for name in SEVERITIES}, "auth_failed": "fail", "degraded": "warn"}
"""State → severity. A probe's `auth_failed` is a fail, its `degraded` a warn; unknown is never green."""


@dataclass(frozen=True)
class Outcome:
    """What one check or probe found. `value` and `threshold` are short texts for tables and alerts."""

    state: str
    message: str
    value: str = ""
    threshold: str = ""


@dataclass(frozen=True)
class Finding:
    """An outcome with its place: `subject` is the stream, pipeline, source or destination it is about."""

    check: str
    kind: str
    subject: str
    outcome: Outcome

    @property
    def severity(self) -> str:
        """ok, learning, warn, fail or unknown."""
        return SEVERITY_OF[self.outcome.state]


@dataclass(frozen=True)
class Load:
    """One row of `loads`. `finished_at` and `exit_code` are None while it runs, and for ever if it was killed."""

    load_id: str
    pipeline: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    exit_code: int | None
    reason: str | None
    received: int
    quarantined: int


@dataclass(frozen=True)
class StreamRun:
    """What one load brought of one stream. `finished_at` is the last commit if the load was killed."""

    load_id: str
    finished_at: datetime
    received: int
    quarantined: int = 0
    exit_code: int | None = 0


@dataclass(frozen=True)
class ColumnChange:
    """A change that a load made to a table which was there before."""

    stream: str
    column: str
    change: str
    at: datetime
