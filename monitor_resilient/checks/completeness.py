"""`completeness`: did the tap prove that it read all that the source announced?"""

from __future__ import annotations

from collections.abc import Mapping

from monitor_resilient.model import Outcome

_STATES = {"complete": "ok", "unproven": "warn", "incomplete": "fail"}
_WORST_FIRST = ("incomplete", "unproven", "complete")


def evaluate(verdicts: Mapping[str, str]) -> Outcome:
    """The worst verdict of the last scans (stream → verdict)."""
    if not verdicts:
        return Outcome("unknown", "no verdict is on record: no load yet, or a tap that gives none")
    worst = next((verdict for verdict in _WORST_FIRST if verdict in verdicts.values()), "")
    if set(verdicts.values()) - set(_STATES):
        return Outcome("unknown", "a scan has a verdict that this version does not know", threshold="complete")
    streams = ", ".join(sorted(stream for stream, verdict in verdicts.items() if verdict == worst))
    return Outcome(_STATES[worst], f"{worst}: {streams}", worst, "complete")
