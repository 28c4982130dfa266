"""The HTML report: one self-contained file."""

from __future__ import annotations

from pathlib import Path

from monitor_resilient.check_log import Memory
from monitor_resilient.metrics import write_atomically
from monitor_resilient.readings import Readings
from monitor_resilient.report.facts import gather
from monitor_resilient.report.page import render
from monitor_resilient.watch import Watch
from resilient_core.errors import ConfigError, Fault


def write_report(watch: Watch, path: Path) -> None:
    """Gather the facts and write the file whole; secrets are masked.

    Raises UnavailableError for a destination that cannot be read, ConfigError for a path that cannot be written.
    """
    config = watch.config
    database = watch.open_database()
    try:
        readings = Readings(database, watch.now)
        history = Memory(database, config.alerts.spool, watch.logger).read(watch.now)
        page = render(gather(readings, config.checks, history, config.report_days))
    finally:
        database.close()
    try:
        write_atomically(path, page)
    except OSError as error:
        raise ConfigError([Fault("report.path", f"{path} cannot be written: {error.strerror}")]) from None
