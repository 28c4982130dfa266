"""A destination with a past: loads, ledger rows, columns and refused records, written as target-resilient does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from monitor_resilient.database import Database
from monitor_resilient.readings import Readings
from target_resilient.backends import closing_backend
from target_resilient.destination import parse_destination
from target_resilient.meta import insert_into

NOW = datetime(2026, 11, 24, 3, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Warehouse:
    """Writes what a loader would have written. A DuckDB file is made on the first write."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.destination = parse_destination({"destination": url})
        self._loads = 0
        with closing_backend(self.destination) as backend:
            backend.ensure_meta()
            self.default_schema = backend.default_schema

    def insert(self, table: str, **row: Any) -> None:
        values = [v.isoformat() if isinstance(v, datetime) else v for v in row.values()]
        with closing_backend(self.destination) as backend, backend.transaction() as session:
            session.run(insert_into("_resilient", table, list(row)), values)

    def load(self, ended_at: datetime, streams: Mapping[str, int] | None = None, *, quarantined: int = 0,
             exit_code: int | None = 0, pipeline: str = "shop", reason: str | None = None,
             bookmark: str | None = None, status: str | None = None) -> str:  # fmt: skip
        """One load of a minute; `streams` maps names to the rows received. exit_code None means that it still runs."""
        self._loads += 1
        load_id = f"load-{self._loads:05d}"
        rows = streams or {}
        started_at, finished_at = ended_at - timedelta(minutes=1), None if exit_code is None else ended_at
        status = status or ("complete" if exit_code == 0 else "failed")
        self.insert("loads", load_id=load_id, pipeline=pipeline, status=status,
                    started_at=started_at, finished_at=finished_at,
                    exit_code=exit_code, reason=reason, received=sum(rows.values()),
                    quarantined=quarantined)  # fmt: skip
        for stream, received in rows.items():
            self.insert("ledger", load_id=load_id, pipeline=pipeline, epoch=1, stream=stream, received=received,
                        quarantined=quarantined, bookmark_max=bookmark, committed_at=ended_at)  # fmt: skip
        return load_id

    def daily(self, rows: int, days: int, *, stream: str = "orders", until: datetime = NOW) -> None:
        """`days` daily loads before `until`, the last one a day before it."""
        for day in range(days, 0, -1):
            self.load(until - day * DAY, {stream: rows})

    def execute(self, statement: str) -> None:
        with closing_backend(self.destination) as backend:
            backend.execute(statement)

    def database(self) -> Database:
        return Database(self.destination, patience=0.0)

    @contextmanager
    def readings(self, now: datetime = NOW) -> Iterator[Readings]:
        database = self.database()
        try:
            yield Readings(database, now)
        finally:
            database.close()


@dataclass
class Receiver:
    """What a real webhook receiver got, and the statuses that it answers with (the last one for good)."""

    url: str
    got: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=lambda: [200])

    @property
    def titles(self) -> list[str]:
        return [alert["title"] for alert in self.got]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A webhook receiver on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
            self.answer(status)

        def do_GET(self) -> None:
            self.answer(200)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}/alert")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
