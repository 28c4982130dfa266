"""Logs, METRIC lines and progress: one redacted line an event on stderr, a live line on a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from resilient_core.redaction import redactor

PROGRESS_EVERY_SECONDS = 10.0


SDK_NOISE = ("Skipping parse of env var", "Parsing env var for settings", "An unhandled error occurred while syncing")
"""What the SDK logs under our names and what our own lines say better."""


class RedactingFormatter(logging.Formatter):
    """`2026-11-24T03:00:00Z INFO tap-resilient message`, secrets masked, tracebacks too."""

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """The record as one redacted line (a traceback adds lines)."""
        return redactor.redact(super().format(record))


def setup_logging(plugin: str) -> None:
    """Log to stderr at the level of `<PLUGIN>_LOGLEVEL`, else `LOGLEVEL`, else INFO."""
    prefix = plugin.upper().replace("-", "_")
    level = os.environ.get(f"{prefix}_LOGLEVEL") or os.environ.get("LOGLEVEL") or "INFO"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter())
    handler.addFilter(lambda record: not str(record.msg).startswith(SDK_NOISE))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("urllib3", "botocore", "google", "singer_sdk"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def facts(message: str, **fields: Any) -> str:
    """`message key=value …`: the one shape of a structured line. Values with spaces are quoted, None is left out."""
    return " ".join([message, *(f"{key}={_plain(value)}" for key, value in fields.items() if value is not None)])


def _plain(value: Any) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


def metric(logger: logging.Logger, kind: str, name: str, value: float, tags: Mapping[str, Any]) -> None:
    """A Singer METRIC line (`counter` or `timer`), as the SDK and Meltano read it."""
    point = {"type": kind, "metric": name, "value": value, "tags": dict(tags)}
    logger.info("METRIC: %s", json.dumps(point))


class Progress:
    """Shows long work: one live line on a terminal (rich), a structured line every 10 s elsewhere."""

    def __init__(self, logger: logging.Logger, what: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._what = what
        self._clock = clock
        self._started = self._shown = clock()
        self._status: Any = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(what)
            self._status.start()

    def show(self, rows: int, **fields: Any) -> None:
        """Report `rows` done in all and further facts; cheap when it is not yet time to show."""
        now = self._clock()
        if now - self._shown < (0.2 if self._status else PROGRESS_EVERY_SECONDS):
            return
        self._shown = now
        rate = int(rows / max(now - self._started, 1e-9))
        line = facts(self._what, rows=rows, rows_per_second=rate, **fields)
        if self._status:
            self._status.update(redactor.redact(line))
        else:
            self._logger.info(line)

    def close(self) -> None:
        """Remove the live line."""
        if self._status:
            self._status.stop()
            self._status = None
