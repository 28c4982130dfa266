"""The settings of monitor-resilient, declared once for validation, the README, meltano.yml and the tests."""

from __future__ import annotations

from resilient_core.settings import Setting
from target_resilient.destination import DEFAULT_DESTINATION

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "destination",
        "string",
        "What is watched: duckdb:///file.duckdb, postgresql://user@host/dbname, or a libpq DSN"
        f" (default {DEFAULT_DESTINATION})",
        sensitive=True,
    ),
    Setting("host", "string", "PostgreSQL host, instead of `destination`"),
    Setting("port", "integer", "PostgreSQL port"),
    Setting("user", "string", "PostgreSQL role"),
    Setting("password", "password", "Password of the role", sensitive=True),
    Setting("dbname", "string", "PostgreSQL database"),
    Setting("sslmode", "string", "libpq's sslmode"),
    Setting("meta_schema", "string", "Schema of the loader's own tables", "_resilient"),
    Setting("checks", "array", "What must hold: freshness, volume, zero_rows, runs, rejects, …", []),
    Setting("probes", "array", "Sources whose credentials are tried: {source, config, name}", []),
    Setting("alerts", "object", "Whom to tell and when: {channels, severities, pending_for, repeat_every, spool}", {}),
    Setting("report", "object", "The HTML report: {path, days}", {}),
    Setting("metrics", "object", "The Prometheus textfile: {path}", {}),
)

DESTINATION_SETTINGS = ("destination", "host", "port", "user", "password", "dbname", "sslmode")
"""The settings that say what is watched."""

ALERT_SETTINGS: tuple[Setting, ...] = (
    Setting("channels", "array", "Where alerts go: {type: webhook, url, headers} or {type: apprise, url}", []),
    Setting("severities", "array", "What is told: warn, fail, unknown", ["fail", "unknown"]),
    Setting("pending_for", "duration", "How long a problem must stand before it is told", "0s"),
    Setting("repeat_every", "duration", "How often a standing problem is told again", "1d"),
    Setting("spool", "string", "File that remembers while the destination is away", ".monitor-resilient.spool.json"),
)

REPORT_SETTINGS: tuple[Setting, ...] = (
    Setting("path", "string", "File that the report is written to", "monitor-report.html"),
    Setting("days", "integer", "Days that the report shows", 30),
)

METRICS_SETTINGS: tuple[Setting, ...] = (
    Setting("path", "string", "Prometheus textfile that check and probe write; by default none"),
)

PROBE_SETTINGS: tuple[Setting, ...] = (
    Setting("source", "string", "Source file of the tap", required=True),
    Setting("config", "object", "Its variables, as in the tap's `config`", {}),
    Setting("name", "string", "Name of the probe; by default that of the source file"),
)
