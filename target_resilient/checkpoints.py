"""Named points of the protocol, where a test's `hook` may kill, raise or cut the connection; unused they are free."""

from __future__ import annotations

from collections.abc import Callable

NAMES = (
    "start.meta",  # the meta tables are there
    "start.lease",  # the pipeline is ours
    "start.booked",  # the load has its row in `loads`
    "ddl.before",
    "ddl.after",
    "epoch.begun",  # the transaction is open, nothing is staged
    "epoch.copying",  # in the middle of COPY
    "epoch.copied",
    "epoch.fenced",  # the fence row is ours until the commit
    "epoch.merged",
    "epoch.booked",  # quarantine, ledger and state are written: all is done but COMMIT
    "epoch.committed",  # committed, STATE not yet written
    "epoch.acknowledged",  # STATE is on stdout
    "delete.begun",
    "delete.removed",  # rows are removed, not committed
    "close.booked",  # the load's end is in `loads`
)

hook: Callable[[str], None] | None = None


def reach(name: str) -> None:
    """Pass a named point."""
    if hook is not None:
        hook(name)
