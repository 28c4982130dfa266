"""Loads in processes of their own, started by the zygote, on a database where many tests live side by side."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
from psycopg2 import sql

from tests.target.scenarios import LONG, Scenario, Table, bookmark_of, lines
from tests.target.support import SETTINGS, Outcome, backend, load
from tests.target.zygote import Zygote, job

STOPPED = 75
_numbers = itertools.count()


@dataclass
class Place:
    """A schema of its own in a shared PostgreSQL database, or a DuckDB file, and the loads that were run there.

    `disk` is the folder of the DuckDB file, if that is to be another one.
    """

    folder: Path
    scenario: Scenario
    url: str | None
    number: int = field(default_factory=lambda: next(_numbers))
    settings: dict[str, Any] = field(default_factory=dict)
    printed: list[int] = field(default_factory=list)
    version: int = 1
    disk: Path | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def file(self) -> Path:
        """The DuckDB file."""
        return (self.disk or self.folder) / "x.duckdb"

    def job(self, bookmark: int, **hook: Any) -> dict[str, Any]:
        """The request for a load of what the tap sends from a bookmark on."""
        self.version += 1
        return self.job_of(self.scenario.messages(bookmark, self.version), **hook)

    def job_of(self, messages: list[dict[str, Any]], **hook: Any) -> dict[str, Any]:
        """The request for a load of these messages."""
        config, source = self.folder / "config.json", self.folder / "input.singer"
        config.write_text(json.dumps(self._config()))
        source.write_bytes(lines(messages))
        return job(
            "target",
            ["--config", str(config)],
            stdin=source,
            stdout=self.folder / "states",
            stderr=self.folder / "log",
            **hook,
        )

    def load(self, zygote: Zygote, bookmark: int, **hook: Any) -> int:
        """Run a load from a bookmark on; its exit code. `printed` holds the bookmarks that it wrote to stdout."""
        (self.folder / "states").unlink(missing_ok=True)
        code = zygote.run(self.job(bookmark, **hook))
        self.printed = self.states()
        return code

    def load_here(self, bookmark: int, *, messages: int | None = None, **config: Any) -> Outcome:
        """Run a load from a bookmark on in this very process; of the first `messages` only, None for all."""
        self.version += 1
        settings = {**SETTINGS, **self._config(), **config}
        data = lines(self.scenario.messages(bookmark, self.version)[:messages])
        outcome = load(settings.pop("destination"), data, **settings)
        self.printed = [bookmark_of(state) for state in outcome.states]
        return outcome

    def load_before(self, zygote: Zygote) -> None:
        """Run the load that the scenario begins from; a DuckDB file is made once and copied."""
        messages = self.scenario.first_load()
        if not messages:
            return
        made = self.folder.parents[1] / f"{self.scenario.name}.duckdb"
        if self.url is None and made.exists():
            shutil.copy(made, self.file)
            return
        assert zygote.run(self.job_of(messages)) == 0, self.log()
        (self.folder / "states").unlink()
        if self.url is None:
            shutil.copy(self.file, made)

    def twin(self, folder: Path) -> Place | None:
        """A copy of the DuckDB file as it is, log and all; None where the database is PostgreSQL."""
        if self.url is not None:
            return None
        other = Place(folder, self.scenario, None, printed=self.printed, version=self.version)
        for path in self.folder.glob("x.duckdb*"):
            shutil.copy(path, folder)
        return other

    def judge(self) -> None:
        """After a crash: the printed state is not ahead of the data, and no epoch is there in part."""
        tables, found = self.scenario.tables, self.table()
        reached = [number for number, table in enumerate(tables) if table == found]
        assert reached or (not found and not self.scenario.before), f"part of an epoch is visible: {found}"
        printed = self.scenario.behind(self.printed[-1]) if self.printed else 0
        assert max(reached, default=0) >= printed, f"printed {self.printed}, but the table is {found}"
        assert self.stored() >= (self.printed[-1] if self.printed else 0)

    def states(self) -> list[int]:
        """The bookmarks on stdout so far."""
        path = self.folder / "states"
        found = path.read_bytes().splitlines() if path.exists() else []
        return [bookmark_of(json.loads(line)) for line in found]

    def log(self) -> str:
        """What the loads said."""
        return (self.folder / "log").read_text()

    def table(self) -> Table:
        """The rows as they are, empty where there is no table."""
        return sorted(self.query(self.scenario.read, "data", "s"))

    def late_column(self) -> list[tuple[int, int, int | None]]:
        """(id, at, value) of the column that a later SCHEMA adds. Its name is cut; it must be there once."""
        schema = f"data_{self.number}" if self.url else "main"
        opened = backend(self._config()["destination"])
        try:
            facts = opened.describe((schema, "s"))
            assert facts is not None
            (column,) = [name for name in facts.columns if name.startswith(LONG[:20])]
            return opened.fetch("SELECT id, {}, {} FROM {}", [("at",), (column,), (schema, "s")])
        finally:
            opened.close()

    def stored(self) -> int:
        """The bookmark that the database holds for the pipeline; 0 without one."""
        found = self.query("SELECT CAST(value AS text) FROM {} WHERE value IS NOT NULL", "meta", "state")
        return bookmark_of(json.loads(found[0][0])) if found else 0

    def ledger(self, column: str) -> list[int]:
        """A count of the last load, by epoch."""
        last = "(SELECT load_id FROM {1} ORDER BY started_at DESC LIMIT 1)"
        text = f"SELECT coalesce({column}, 0) FROM {{0}} WHERE stream = 's' AND load_id = {last}"
        return [row[0] for row in self.query(text, "meta", "ledger", "loads")]

    def query(self, text: str, schema: str, *tables: str) -> list[tuple[Any, ...]]:
        """Rows of a query on tables of one schema; none where a table is missing."""
        if self.url is None:
            return _duckdb_rows(self.file, text, "main" if schema == "data" else "_resilient", tables)
        try:
            with closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
                cursor.execute(
                    sql.SQL(text).format(*(sql.Identifier(f"{schema}_{self.number}", table) for table in tables))
                )
                return list(cursor.fetchall())
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn):
            return []

    def _config(self) -> dict[str, Any]:
        where = {"destination": f"duckdb:///{self.file}"}
        if self.url is not None:
            schemas = {"default_target_schema": f"data_{self.number}", "meta_schema": f"meta_{self.number}"}
            where = {"destination": self.url, **schemas}
        return {"pipeline": "p", "batch_size_rows": 4, **where, **self.scenario.config, **self.settings}

    def remove(self) -> None:
        """Remove the folder; a schema goes with its database."""
        shutil.rmtree(self.folder)


def _duckdb_rows(path: Path, text: str, schema: str, tables: Sequence[str]) -> list[tuple[Any, ...]]:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:  # the crash's log is for the next load to find
            return connection.execute(text.format(*(f'"{schema}"."{table}"' for table in tables))).fetchall()
    except (duckdb.CatalogException, duckdb.BinderException):
        return []


@contextmanager
def held(place: Place, children: Zygote, point: str, nth: int) -> Iterator[int]:
    """A load that stands at a checkpoint until the block ends; its process id."""
    fifo = place.folder / "fifo"
    os.mkfifo(fifo)
    (pid,) = children.start(place.job(0, point=point, nth=nth, act="meet", fifo=str(fifo)))
    with fifo.open("wb"):
        yield pid


def beside(place: Place) -> Place:
    """The same database and pipeline from a folder of its own; the DuckDB file is linked to."""
    other = Place(place.folder / f"beside-{random.random()}", place.scenario, place.url, place.number)
    other.settings = {**place.settings}
    if place.url is None:
        other.settings["destination"] = f"duckdb:///{place.folder}/x.duckdb"
    return other


def with_takeover(request: dict[str, Any]) -> dict[str, Any]:
    """The same load, which ends the one that holds the pipeline."""
    return {**request, "args": [*request["args"], "--takeover"]}


def assert_a_second_load_stops(place: Place, children: Zygote, point: str) -> None:
    """While a load stands at a checkpoint of its first epoch, a second one stops; the first goes on to its end."""
    with held(place, children, point, 1) as pid:
        second = beside(place)
        assert second.load(children, 0) == STOPPED
        assert "another load of pipeline 'p' is at work" in second.log()
        assert second.states() == []
    assert children.wait(pid) == 0
    assert place.table() == place.scenario.tables[-1]


def assert_the_next_load_starts_at_once(place: Place, children: Zygote, point: str) -> None:
    """After a load was killed at a checkpoint of its second epoch."""
    with held(place, children, point, 2) as pid:
        os.kill(pid, signal.SIGKILL)
        assert place.load(children, 4) == 0, place.log()
        assert place.table() == place.scenario.tables[-1]
    assert children.wait(pid) == -signal.SIGKILL
    assert "retry" not in place.log()
