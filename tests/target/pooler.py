"""A real PgBouncer between a load and PostgreSQL, on Unix sockets: it is killed, restarted, and told what to do."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="needs PgBouncer (Debian: apt-get install pgbouncer)")


class Pooler:
    """PgBouncer in a folder of its own, before the server of `url`."""

    def __init__(self, url: str, folder: Path, mode: str, **settings: object) -> None:
        self._folder = folder
        host = parse_qs(urlsplit(url).query)["host"][0]
        facts = {
            "pool_mode": mode,
            "listen_addr": "",
            "unix_socket_dir": folder,
            "listen_port": 5432,
            "auth_type": "any",
            "admin_users": "pgbouncer",
            "logfile": folder / "log",
            "server_reset_query": "DISCARD ALL",
            "server_login_retry": 0.1,
            **settings,
        }
        config = folder / "pgbouncer.ini"
        lines = ["[databases]", f"* = host={host} user=postgres", "[pgbouncer]", *(f"{k} = {facts[k]}" for k in facts)]
        config.write_text("\n".join(lines))
        # PgBouncer refuses to run as root, as PostgreSQL does: the wheel has made a user for that.
        self._user = "pgserver" if os.geteuid() == 0 else None
        if self._user is not None:
            for path in (folder, config):
                os.chown(path, pwd.getpwnam(self._user).pw_uid, -1)
        self.start()

    def url(self, of: str) -> str:
        """The URL of a database behind this pooler."""
        return of.split("?", maxsplit=1)[0] + f"?host={self._folder}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert PGBOUNCER is not None
        command = [PGBOUNCER, "-q", str(self._folder / "pgbouncer.ini")]
        self._process = subprocess.Popen(command, user=self._user, stderr=subprocess.DEVNULL)
        for _ in range(500):
            with suppress(psycopg2.OperationalError):
                return self.console("SHOW VERSION")
            assert self._process.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(self.log())

    def kill(self) -> None:
        """SIGKILL; the pooler stays away."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """SIGKILL, and a new one in its place."""
        self.kill()
        self.start()

    def console(self, command: str) -> None:
        """Give a command to PgBouncer itself, such as RECONNECT."""
        with closing(psycopg2.connect(host=self._folder, user="pgbouncer", dbname="pgbouncer")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(command)

    def log(self) -> str:
        """What it said."""
        path = self._folder / "log"
        return path.read_text() if path.exists() else ""


@contextmanager
def pooler(url: str, mode: str, **settings: object) -> Iterator[Pooler]:
    """A pooler before the server of `url`, in a short folder: a socket's path has 107 bytes at most.

    `mode` is `session` or `transaction`.
    """
    with tempfile.TemporaryDirectory(prefix="pooler-") as folder:
        running = Pooler(url, Path(folder), mode, **settings)
        try:
            yield running
        finally:
            running.kill()
