"""`completeness`: did the tap prove that it read all that the source announced?"""

from __future__ import annotations

from collections.abc import Mapping

from monitor_resilient.model import Outcome

_STATES = {"complete": "ok", "unproven": "warn", "incomplete": "fail"}
_WORST_FIRST = ("incomplete", "unproven", "complete")
_WHOLE = "the load as a whole"


def evaluate(verdicts: Mapping[str, str] | None, status: str | None) -> Outcome:
    """The worst of the last scans' verdicts (stream → verdict) and of the `status` of the last load that ended.

    A foreign tap gives no verdicts; its loads are unproven. `verdicts` None means that tap-resilient ended without its
    end marker, `status` None that no load has ended yet.
    """
    if status is None:
        return Outcome("unknown", "no load of this pipeline has ended yet", threshold="complete")
    if status not in _STATES:
        return Outcome("unknown", f"the last load is {status}: its scans were not judged", status, "complete")
    if verdicts is None:
        message = "incomplete: the tap stopped or died before its end marker; see its log, and run it again"
        return Outcome("fail", message, "incomplete", "complete")
    found = {**verdicts, _WHOLE: status}
    if set(found.values()) - set(_STATES):
        return Outcome("unknown", "a scan has a verdict that this version does not know", threshold="complete")
    worst = next(verdict for verdict in _WORST_FIRST if verdict in found.values())
    streams = [name for name, verdict in sorted(verdicts.items()) if verdict == worst]
    return Outcome(_STATES[worst], f"{worst}: {', '.join(streams or [_WHOLE])}", worst, "complete")
