"""`rejects`: what share of the records was refused?"""

from __future__ import annotations

from monitor_resilient.model import Outcome, StreamRun
from monitor_resilient.words import count


def evaluate(last: StreamRun | None, max_ratio: float) -> Outcome:
    """The records that the last load put into quarantine, against those that it received."""
    if last is None:
        return Outcome("unknown", "no load of this stream is on record")
    ratio = last.quarantined / last.received if last.received else 0.0
    value, threshold = f"{ratio:.2%}", f"{max_ratio:.2%}"
    message = f"{count(last.quarantined, 'record')} of {last.received:,} refused ({value})"
    if ratio > max_ratio:
        return Outcome("fail", f"{message}; allowed are {threshold}", value, threshold)
    return Outcome("ok", message, value, threshold)
