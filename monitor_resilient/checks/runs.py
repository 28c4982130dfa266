"""`runs`: does the pipeline run as often as it should, and does it end well?"""

from __future__ import annotations

from datetime import datetime, timedelta

from monitor_resilient.model import Load, Outcome
from monitor_resilient.words import age, span
from resilient_core.errors import StoppedError, exit_meaning


def evaluate(last: Load | None, now: datetime, every: timedelta, grace: timedelta) -> Outcome:
    """The newest load of the pipeline. One that never started is a fail, as is one that neither ended nor failed."""
    threshold = f"every {span(every)}, grace {span(grace)}"
    if last is None:
        return Outcome("fail", "no load of this pipeline has ever started", "never", threshold)
    ago = age(now - last.started_at)
    if now - last.started_at > every + grace:
        what = "it has not ended" if last.finished_at is None else "none since"
        return Outcome("fail", f"the last load started {ago} ago, {what}; expected {threshold}", ago, threshold)
    return _ended(last, ago, threshold)


def _ended(last: Load, ago: str, threshold: str) -> Outcome:
    if last.exit_code is None:
        return Outcome("ok", f"a load started {ago} ago and runs", ago, threshold)
    if last.exit_code == 0:
        return Outcome("ok", f"the last load started {ago} ago and is done", ago, threshold)
    why = last.reason or exit_meaning(last.exit_code)
    state = "warn" if last.exit_code == StoppedError.exit_code else "fail"
    return Outcome(state, f"the last load ended with {last.exit_code}: {why}", f"exit {last.exit_code}", threshold)
