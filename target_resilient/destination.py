"""Where to load: a DuckDB file or a PostgreSQL database, from one URL, a libpq DSN, or separate settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from resilient_core.errors import ConfigError, Fault
from resilient_core.redaction import redactor

DEFAULT_DESTINATION = "duckdb:///resilient.duckdb"
_POSTGRES_URL = re.compile(r"postgres(?:ql)?(?:\+\w+)?://")
_DSN_PAIR = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S*)")
_PARTS = ("host", "port", "user", "dbname", "sslmode")


@dataclass(frozen=True)
class Destination:
    """A parsed destination. `path` is the DuckDB file; `dsn` and `password` are PostgreSQL's and may hold secrets."""

    kind: Literal["duckdb", "postgres"]
    path: str = ""
    dsn: str = field(default="", repr=False)
    password: str | None = field(default=None, repr=False)
    parts: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """The destination in words, without secrets."""
        if self.kind == "duckdb":
            return f"DuckDB file {self.path}"
        host, port = self.parts.get("host", "localhost"), self.parts.get("port", "5432")
        return f"PostgreSQL database {self.parts.get('dbname', '')} on {host}:{port}"


def parse_destination(config: Mapping[str, Any]) -> Destination:
    """The destination that `destination` or `host`, `port`, `user`, `password`, `dbname`, `sslmode` name.

    Raises ConfigError when they contradict each other or the URL cannot be read.
    """
    url = config.get("destination")
    parts = {name: str(config[name]) for name in _PARTS if config.get(name) is not None}
    password = config.get("password")
    if password:
        redactor.add(password)
    if url and parts:
        raise ConfigError([Fault("destination", f"give either `destination` or {', '.join(parts)}, not both")])
    if parts:
        return Destination("postgres", password=password, parts=parts)
    return _from_url(url or DEFAULT_DESTINATION, password)


def _from_url(url: str, password: str | None) -> Destination:
    if url.startswith("duckdb://"):
        return _duckdb(url)
    if _POSTGRES_URL.match(url):
        return _postgres_url(_POSTGRES_URL.sub("postgresql://", url), password)
    if pairs := dict(_DSN_PAIR.findall(url)):
        redactor.add(pairs.get("password", "").strip("'"))
        return Destination("postgres", dsn=url, password=password, parts=pairs)
    hint = "use duckdb:///file.duckdb, postgresql://user@host/dbname, or a libpq DSN such as 'service=warehouse'"
    raise ConfigError([Fault("destination", f"is no known URL or DSN; {hint}")])


def _duckdb(url: str) -> Destination:
    path = unquote(url.removeprefix("duckdb://").removeprefix("/"))
    if path in {"", ":memory:"}:
        raise ConfigError([Fault("destination", "must name a DuckDB file, such as duckdb:///file.duckdb")])
    return Destination("duckdb", path=path)


def _postgres_url(url: str, password: str | None) -> Destination:
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        raise ConfigError([Fault("destination", "is no valid URL")]) from None
    if split.password:
        redactor.add(split.password)
        redactor.add(unquote(split.password))
    host = split.hostname or dict(parse_qsl(split.query)).get("host")
    parts = {"host": host, "port": port and str(port), "dbname": split.path.lstrip("/") or None}
    return Destination("postgres", dsn=url, password=password, parts={k: v for k, v in parts.items() if v})
