"""`freshness`: how old is the newest row of the destination table?"""

from __future__ import annotations

from datetime import datetime, timedelta

from monitor_resilient.model import Outcome
from monitor_resilient.words import age, span


def evaluate(newest: datetime | None, now: datetime, warn_after: timedelta | None, error_after: timedelta) -> Outcome:
    """The age of `newest`, the largest value of the column that is not in the future; None means an empty table."""
    threshold = span(error_after)
    if newest is None:
        return Outcome("fail", "the table holds no row with a value that is not in the future", "no rows", threshold)
    old = now - newest
    value = age(old)
    message = f"the newest row is {value} old"
    if old > error_after:
        return Outcome("fail", f"{message}; allowed are {threshold}", value, threshold)
    if warn_after is not None and old > warn_after:
        return Outcome("warn", f"{message}; from {span(warn_after)} on that is late", value, threshold)
    return Outcome("ok", message, value, threshold)
