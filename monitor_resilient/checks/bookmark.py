"""`bookmark`: does the bookmark move?"""

from __future__ import annotations

from datetime import datetime, timedelta

from monitor_resilient.model import Outcome
from monitor_resilient.words import age, span


def evaluate(moved_at: datetime | None, now: datetime, stalled_after: timedelta) -> Outcome:
    """How long ago the bookmark reached its present value; None means that there is none."""
    threshold = span(stalled_after)
    if moved_at is None:
        return Outcome("unknown", "no bookmark of this stream is on record", threshold=threshold)
    value = age(now - moved_at)
    if now - moved_at > stalled_after:
        return Outcome("fail", f"the bookmark has not moved for {value}; allowed are {threshold}", value, threshold)
    return Outcome("ok", f"the bookmark moved {value} ago", value, threshold)
