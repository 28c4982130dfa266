"""The real commands, started as a shell would, and destinations read by their own clients: none of our code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TOOLS = ROOT / ".venv"  # where `make test` puts json-server and other people's plugins


def script(name: str) -> str:
    """The console script `name` of this environment."""
    path = BIN / name
    assert path.exists(), f"{path} is missing; run `make setup`"
    return str(path)


@dataclass(frozen=True)
class Outcome:
    """How one command or one pipe ended: exit codes, stdout lines, logs."""

    tap_code: int
    target_code: int
    lines: list[str]
    tap_log: str
    target_log: str

    @property
    def state(self) -> dict[str, Any] | None:
        """The last STATE that the target printed; None when it printed none."""
        return json.loads(self.lines[-1]) if self.lines else None


@dataclass
class Pipe:
    """`tap | target` in a directory of its own; keeps the last printed state, as a shell user would."""

    directory: Path
    tap: list[str]
    target: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    state: dict[str, Any] | None = None

    def run(self, *, kill: Kill | None = None) -> Outcome:
        """Run the pipe once, from the kept state, and keep the last state that it printed."""
        with self._start() as (tap, target):
            if kill:
                kill.wait_and_strike(tap, target)
            codes = tap.wait(), target.wait()
        logs = [(self.directory / name).read_text() for name in ("tap.log", "target.log")]
        outcome = Outcome(*codes, self.printed(), *logs)
        self.state = outcome.state or self.state
        return outcome

    def load(self) -> Outcome:
        """Run the pipe once; both ends must succeed."""
        outcome = self.run()
        assert (outcome.tap_code, outcome.target_code) == (0, 0), outcome.tap_log + outcome.target_log
        return outcome

    def printed(self) -> list[str]:
        """The STATE lines that the target has printed so far, whole ones only."""
        path = self.directory / "states.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith("\n")]

    @contextmanager
    def _start(self) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
        tap_command = [*self.tap]
        if self.state is not None:
            state_file = write_json(self.directory / "state.json", self.state)
            tap_command += ["--state", str(state_file)]
        env = {**os.environ, **self.env}
        with (
            (self.directory / "tap.log").open("wb") as tap_log,
            (self.directory / "target.log").open("wb") as target_log,
            (self.directory / "states.jsonl").open("wb") as states,
            subprocess.Popen(tap_command, stdout=subprocess.PIPE, stderr=tap_log, env=env, cwd=ROOT) as tap,
            subprocess.Popen(self.target, stdin=tap.stdout, stdout=states, stderr=target_log, env=env, cwd=ROOT) as tgt,
        ):
            assert tap.stdout
            tap.stdout.close()
            yield tap, tgt


@dataclass(frozen=True)
class Kill:
    """SIGKILL `who` (tap, target or both) `then_seconds` after `when` is first true."""

    who: str
    when: Callable[[], bool]
    then_seconds: float = 0.0

    def wait_and_strike(self, tap: subprocess.Popen[bytes], target: subprocess.Popen[bytes]) -> None:
        """Wait, then kill by process id."""
        while not self.when() and target.poll() is None:
            time.sleep(0.002)
        time.sleep(self.then_seconds)
        for name, process in {"tap": tap, "target": target}.items():
            if self.who in {name, "both"}:
                process.send_signal(signal.SIGKILL)


def run(command: Sequence[str], *, stdin: str = "", env: Mapping[str, str] | None = None) -> Outcome:
    """Run one command to its end with `stdin`; its code and log are in both fields of the Outcome."""
    done = subprocess.run(
        command,
        check=False,
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        timeout=120,
    )
    return Outcome(done.returncode, done.returncode, done.stdout.splitlines(), done.stderr, done.stderr)


class Warehouse(Protocol):
    """A destination as its own client sees it."""

    name: str
    config: dict[str, Any]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query."""


@dataclass
class DuckDBFile:
    """A DuckDB file."""

    path: Path
    name: str = "duckdb"

    @property
    def config(self) -> dict[str, Any]:
        """The target's settings for it."""
        return {"destination": f"duckdb:///{self.path}"}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query, by duckdb; timestamps in UTC."""
        import duckdb

        with duckdb.connect(str(self.path), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(sql).fetchall()


@dataclass
class PostgresDatabase:
    """A PostgreSQL database."""

    url: str
    name: str = "postgres"

    @property
    def config(self) -> dict[str, Any]:
        """The target's settings for it."""
        return {"destination": self.url}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query, by psycopg2; timestamps in UTC."""
        import psycopg2

        connection = psycopg2.connect(self.url)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET TIME ZONE 'UTC'")
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            connection.close()


def write_json(path: Path, content: Any) -> Path:
    """Write `content` as JSON."""
    path.write_text(json.dumps(content))
    return path


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: Sequence[str], url: str, *, log: Path) -> Iterator[str]:
    """Run a server process until the block ends; enters the block once `url` answers."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            _wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{url} did not answer within 60 s: {log.read_text()}")
