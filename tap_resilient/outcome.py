"""What became of each stream of a run: verdict, rows, events; told in the log, in METRIC lines, in the end marker."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient_core.errors import IncompleteScanError
from resilient_core.telemetry import facts, metric
from tap_resilient.client import ClientStats
from tap_resilient.completeness import SEVERITY, Verdict
from tap_resilient.fields import QualityLog

EXTRACTION_LOG_KEYS = ("run_id", "stream")
EXTRACTION_LOG_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "run_id": {"type": "string"},
        "stream": {"type": "string"},
        "started_at": {"type": "string", "format": "date-time"},
        "finished_at": {"type": "string", "format": "date-time"},
        "verdict": {"type": "string"},
        "reason": {"type": "string"},
        "rows": {"type": "integer"},
        "requests": {"type": "integer"},
        "retries": {"type": "integer"},
        "refusals": {"type": "integer"},
        "wait_seconds": {"type": "number"},
        "bytes": {"type": "integer"},
        "quality_events": {"type": "integer"},
        "new_fields": {"type": "integer"},
    },
}


@dataclass
class Outcome:
    """The run of one stream. `verdict` is the worst of its scans, with the reason of the first scan that had it."""

    stream: str
    started_at: str
    rows: int = 0
    verdict: Verdict = "complete"
    reason: str = "nothing to read"
    scans: int = 0
    new_fields: int = 0
    quality: QualityLog = field(default_factory=QualityLog)
    stats: dict[str, float] = field(default_factory=dict)
    finished_at: str | None = None

    def judge(self, verdict: Verdict, reason: str) -> None:
        """Add the verdict of one scan."""
        if self.scans == 0 or SEVERITY.index(verdict) > SEVERITY.index(self.verdict):
            self.verdict, self.reason = verdict, reason
        self.scans += 1

    def spent(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Add what the client did between two looks at its statistics."""
        for name, value in after.items():
            self.stats[name] = self.stats.get(name, 0) + value - before.get(name, 0)

    def record(self, run_id: str) -> dict[str, Any]:
        """The record of the stream `extraction_log`."""
        return {
            "run_id": run_id,
            "stream": self.stream,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "verdict": self.verdict,
            "reason": self.reason,
            "rows": self.rows,
            **self.stats,
            "quality_events": sum(self.quality.counts.values()),
            "new_fields": self.new_fields,
        }

    def tell(self, logger: logging.Logger) -> None:
        """Log the outcome, each kind of quality event once with its count, and the METRIC lines."""
        for event, count in self.quality.counts.items():
            logger.warning(
                facts("data quality", stream=self.stream, pointer=event.pointer, expected=event.expected,
                      seen=event.seen, count=count)
            )  # fmt: skip
        level = logging.INFO if self.verdict == "complete" else logging.WARNING
        found = {"stream": self.stream, "verdict": self.verdict, "reason": self.reason, "rows": self.rows}
        logger.log(level, facts("scanned", **found, **self.stats))
        tags = {"stream": self.stream, "verdict": self.verdict}
        metric(logger, "counter", "record_count", self.rows, tags)
        metric(logger, "counter", "quality_event_count", sum(self.quality.counts.values()), tags)
        metric(logger, "counter", "new_field_count", self.new_fields, tags)
        for name, value in self.stats.items():
            metric(logger, "counter", f"http_{name}", value, tags)

    def raise_if_incomplete(self) -> None:
        """Raise IncompleteScanError if the source did not give all that it announced."""
        if self.verdict == "incomplete":
            raise IncompleteScanError(f"stream '{self.stream}' is incomplete: {self.reason}; its bookmark is held")


def snapshot(stats: ClientStats) -> dict[str, float]:
    """The client's statistics at this moment."""
    return {name: getattr(stats, name) for name in ("requests", "retries", "refusals", "wait_seconds", "bytes")}
