"""`drift`: has the shape of the stream changed?"""

from __future__ import annotations

from collections.abc import Sequence

from monitor_resilient.model import Outcome
from monitor_resilient.words import count


def evaluate(changes: Sequence[str], loads: int) -> Outcome:
    """The columns that loads changed after the table was made (`column: change`), and whether loads are on record."""
    if not loads:
        return Outcome("unknown", "no load of this stream is on record")
    if not changes:
        return Outcome("ok", "no column has changed", "0", "0")
    return Outcome("warn", f"{count(len(changes), 'change')}: {', '.join(changes)}", str(len(changes)), "0")
