"""Prometheus textfile (node_exporter's collector): written whole or not at all, and never a reason to fail."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from monitor_resilient.model import SEVERITIES, SEVERITY_OF, Finding, Load
from resilient_core.redaction import redactor

Sample = tuple[dict[str, str], float]


def write_metrics(path: Path, findings: Sequence[Finding], now: datetime, logger: logging.Logger) -> None:
    """Write the findings' metrics; a file that cannot be written is a warning."""
    try:
        write_atomically(path, findings_text(findings, now))
    except OSError as error:
        logger.warning("%s", f"metrics not written to {path}: {error.strerror}")


def findings_text(findings: Sequence[Finding], now: datetime) -> str:
    """The state of every check and probe, and when that was found, so that a dead monitor shows."""
    states = [
        ({"check": f.check, "stream": f.subject, "state": name}, float(f.outcome.state == name))
        for f in findings
        for name in (SEVERITY_OF if f.kind == "probe" else SEVERITIES)
    ]
    evaluated = [({"check": f.check, "stream": f.subject}, now.timestamp()) for f in findings]
    return _family("resilient_check_state", "1 for the state that the check is in", states) + _family(
        "resilient_check_evaluated_timestamp_seconds", "When the check was last evaluated", evaluated
    )


def loads_text(loads: Iterable[Load]) -> str:
    """The last load of every pipeline. `loads` come newest first."""
    last: dict[str, Load] = {}
    for load in loads:
        last.setdefault(load.pipeline, load)
    named = [({"pipeline": pipeline}, load) for pipeline, load in sorted(last.items())]
    return "".join(
        (
            _family("resilient_load_started_timestamp_seconds", "When the last load started",
                    [(labels, load.started_at.timestamp()) for labels, load in named]),
            _family("resilient_load_exit_code", "Exit code of the last load that ended",
                    [(labels, load.exit_code) for labels, load in named if load.exit_code is not None]),
            _family("resilient_load_received_rows", "Records that the last load received",
                    [(labels, load.received) for labels, load in named]),
            _family("resilient_load_quarantined_rows", "Records that the last load put into quarantine",
                    [(labels, load.quarantined) for labels, load in named]),
        )
    )  # fmt: skip


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at once, so that no reader sees half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(redactor.redact(text))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


def _family(name: str, help_text: str, samples: Sequence[Sample]) -> str:
    lines = [f"# HELP {name} {help_text}.", f"# TYPE {name} gauge"]
    lines += [f"{name}{{{_labels(labels)}}} {value:.16g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
