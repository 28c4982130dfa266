"""The pipe `tap-resilient | target-resilient | shell` that the campaigns break, and what its tables must hold."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import psycopg2

from tests.target.zygote import Zygote, job

ROWS, PAGE = 240, 20
GONE = 20  # rows that the source of `deleting` no longer has
LATENCY_SECONDS = 0.03  # of a page, so that the tap is at work while the target commits
STREAMS = ("keyed", "keyless", "deleting")

Table = list[tuple[int, str]]


def answer(path: str, query: dict[str, int]) -> bytes:
    """Rows by id, from `since` on, a page of them; `/before` has older values, and rows that `/rows` has no longer."""
    count, word = (ROWS + GONE, "old") if path == "/before" else (ROWS, "row")
    if path == "/rows":
        time.sleep(LATENCY_SECONDS)
    first = query.get("since", 1) + (query["page"] - 1) * PAGE
    rows = [{"id": number, "v": f"{word} {number}"} for number in range(first, min(first + PAGE, count + 1))]
    return json.dumps({"total": count + 1 - query.get("since", 1), "data": rows}).encode()


def tables(stream: str) -> list[Table]:
    """The table before the load and after each of its epochs; the last one is the goal."""
    fresh = [(number, f"row {number}") for number in range(1, ROWS + 1)]
    old = [(number, f"old {number}") for number in range(1, ROWS + GONE + 1)] if stream == "deleting" else []
    found = [fresh[:done] + old[done:] for done in range(0, ROWS + 1, PAGE)]
    return [*found, fresh] if old else found


@dataclass
class Pipe:
    """One pipe in a folder and a schema of its own, with the states that it has printed so far."""

    folder: Path
    url: str
    database: str | None
    number: int
    stream: str
    printed: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()

    def prepare(self, children: Zygote) -> None:
        """Load what is in the table beforehand. Raises RuntimeError when the pipe fails."""
        if self.stream == "deleting":
            codes = self.wait(children, self.start(children, None, path="/before"))
            if codes != [0, 0, 0]:
                raise RuntimeError(f"a run that nobody disturbed ended with {codes}\n{self.log()}")
            (self.folder / "states").unlink()

    def start(self, children: Zygote, state: Any, path: str = "/rows") -> list[int]:
        """Start tap, target and the keeper of the states; their process ids."""
        self._configure(state, path)
        self.trace.unlink(missing_ok=True)
        log, states = self.folder / "log", self.folder / "states"
        states.touch()
        state_args = ["--state", f"{self.folder}/state.json"] if state is not None else []
        tap = job("tap", ["--config", f"{self.folder}/tap.json", *state_args], stdin=Path(os.devnull), stdout=None,
                  stderr=log, state_rows=PAGE)  # fmt: skip
        target = job("target", ["--config", f"{self.folder}/target.json"], stdout=None, stderr=log,
                     trace=str(self.trace))  # fmt: skip
        return children.start(tap, target, job("shell", [], stdout=states, stderr=log))

    def _configure(self, state: Any, path: str) -> None:
        stream = {
            "name": "s",
            "path": path,
            "records": {"path": "data"},
            "paginator": {"type": "page", "page_size": PAGE, "total_path": "total"},
            "primary_keys": [] if self.stream == "keyless" else ["id"],
            "incremental": {"replication_key": "id", "type": "integer", "row_order": "asc", "start_param": "since"},
            "deletes": {"mode": "reconcile" if self.stream == "deleting" else "none"},
        }
        client = {"base_url": self.url, "rate_limit": {"adaptive": False, "concurrency": 1}}
        source = {"client": client, "streams": [stream]}
        where = {"destination": f"duckdb:///{self.folder}/x.duckdb"}
        if self.database:
            where = {
                "destination": self.database,
                "default_target_schema": f"data_{self.number}",
                "meta_schema": f"meta_{self.number}",
            }
        target = {"pipeline": "p", "batch_size_rows": PAGE, "hard_delete": True, **where}
        (self.folder / "tap.json").write_text(json.dumps(source))
        (self.folder / "target.json").write_text(json.dumps(target))
        (self.folder / "state.json").write_text(json.dumps(state))

    def wait(self, children: Zygote, pids: list[int]) -> list[int]:
        """Exit codes, once all have ended; reads what was printed."""
        codes = [children.wait(pid) for pid in pids]
        whole = (self.folder / "states").read_bytes().rpartition(b"\n")[0].splitlines()
        self.printed = [json.loads(line) for line in whole]
        return codes

    @property
    def trace(self) -> Path:
        """The file of the checkpoints that the target passed."""
        return self.folder / "trace"

    def log(self) -> str:
        """What tap and target said."""
        return (self.folder / "log").read_text()

    def rows(self) -> Table:
        """The table; empty where there is none."""
        try:
            if self.database is None:
                with duckdb.connect(f"{self.folder}/x.duckdb") as connection:
                    return connection.execute('SELECT id, v FROM "s" ORDER BY id').fetchall()
            with closing(psycopg2.connect(self.database)) as session, session.cursor() as cursor:
                cursor.execute(f"SELECT id, v FROM data_{self.number}.s ORDER BY id")
                return list(cursor.fetchall())
        except (duckdb.CatalogException, psycopg2.errors.UndefinedTable):
            return []

    def harm(self) -> str | None:
        """What is wrong with the table as it is, beside the states that were printed; None if all is well."""
        found, last = self.rows(), (self.printed[-1] if self.printed else {}) or {}
        bookmark = int((last.get("bookmarks", {}).get("s") or {}).get("replication_key_value") or 0)
        reconciled = "s" in last.get("resilient", {}).get("reconciled", {})
        states = tables(self.stream)
        reached = [place for place, table in enumerate(states) if table == found]
        if not reached:
            return f"a partial epoch: {len(found)} rows"
        promised = bookmark // PAGE + reconciled
        if reached[-1] < promised:
            return f"state ahead of data: it stands for epoch {promised}, the table holds epoch {reached[-1]}"
        return None
