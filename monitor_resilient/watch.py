"""check and probe from end to end: find, remember, tell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from monitor_resilient.alerts.outbox import inhibition, tell
from monitor_resilient.check_log import Memory
from monitor_resilient.checks import all_unknown, evaluate_all
from monitor_resilient.config import MonitorConfig
from monitor_resilient.database import Database
from monitor_resilient.metrics import write_metrics
from monitor_resilient.model import Finding
from monitor_resilient.probe import probe_destination, probe_source, streams_of
from monitor_resilient.readings import Readings
from resilient_core.errors import ConfigError, CredentialsRefusedError, ResilientError, UnavailableError
from resilient_core.secrets import Resolver

FAIL, UNKNOWN, UNDELIVERED = 1, 3, 4


@dataclass(frozen=True)
class Watched:
    """What was found, and how many alerts could not be delivered."""

    findings: list[Finding]
    undelivered: int = 0

    def exit_code(self, *, fail_on_warn: bool = False) -> int:
        """4 an alert could not be delivered, 1 a fail, 3 something is unknown, else 0."""
        severities = {finding.severity for finding in self.findings}
        if self.undelivered:
            return UNDELIVERED
        if "fail" in severities or (fail_on_warn and "warn" in severities):
            return FAIL
        return UNKNOWN if "unknown" in severities else 0


@dataclass(frozen=True)
class Watch:
    """One run of the monitor at the instant `now`."""

    config: MonitorConfig
    resolver: Resolver
    now: datetime
    logger: logging.Logger

    def check(self) -> Watched:
        """Evaluate all checks, tell what is due. Raises ConfigError for a destination that cannot be understood."""
        try:
            database = self.open_database()
        except (UnavailableError, CredentialsRefusedError) as error:
            return self._finish(all_unknown(self.config.checks, str(error)), None)
        try:
            return self._finish(evaluate_all(self.config.checks, Readings(database, self.now)), database)
        finally:
            database.close()

    def probe(self) -> Watched:
        """Try the destination and every source, tell what is due."""
        destination = probe_destination(self.open_database)
        findings = [destination, *(probe_source(probe, self.resolver) for probe in self.config.probes)]
        if destination.severity != "ok":
            return self._finish(findings, None)
        database = self.open_database()
        try:
            return self._finish(findings, database)
        finally:
            database.close()

    def open_database(self) -> Database:
        """The destination; secrets are fetched now, nothing is connected yet."""
        return Database(self.config.destination(self.resolver), meta_schema=self.config.meta_schema)

    def _finish(self, findings: Sequence[Finding], database: Database | None) -> Watched:
        alerts = self.config.alerts
        memory = Memory(database, alerts.spool, self.logger)
        history = memory.read(self.now)
        outbox = tell(
            findings,
            history,
            alerts.rules,
            lambda: alerts.open_channels(self.resolver),
            self.now,
            inhibited=inhibition(history, self._streams()),
            logger=self.logger,
        )
        memory.write(outbox.episodes)
        if self.config.metrics_path:
            write_metrics(self.config.metrics_path, findings, self.now, self.logger)
        return Watched(list(findings), outbox.undelivered)

    def _streams(self) -> dict[str, frozenset[str]]:
        streams: dict[str, frozenset[str]] = {}
        for probe in self.config.probes:
            with suppress(ConfigError, ResilientError):
                streams[probe.name] = streams_of(probe)
        return streams
