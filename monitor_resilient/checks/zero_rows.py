"""`zero_rows`: did anything arrive at all?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from monitor_resilient.model import Outcome, StreamRun
from monitor_resilient.words import count, span


def evaluate(runs: Sequence[StreamRun], now: datetime, within: timedelta | None) -> Outcome:
    """Fails when no row was received by the successful loads `within` that time; None means by the last load alone."""
    if not runs:
        return Outcome("unknown", "no successful load of this stream is on record")
    seen = [run for run in runs if run.finished_at >= now - within] if within else runs[-1:]
    rows = sum(run.received for run in seen)
    where = f"the loads of the last {span(within)}" if within else "the last load"
    return Outcome("ok" if rows else "fail", f"{where} brought {count(rows, 'row')}", count(rows, "row"), "1 row")
