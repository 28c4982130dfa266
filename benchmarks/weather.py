"""What may befall a database, for real: each kind of fault strikes a load at an instant and passes, or lasts."""

from __future__ import annotations

import os
import pwd
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2

from tests.target.crashes import Place
from tests.target.midload import END_SESSIONS
from tests.target.pooler import PGBOUNCER, pooler
from tests.target.proxy import SOCKET, Proxy, proxy
from tests.target.server import Server

CONNECTIONS = 24  # that the server allows; the last three are for its superuser
DISK = "64m"
ROOM_BYTES = 8 << 20  # on it, before it is filled: enough for a load


@dataclass(frozen=True)
class Site:
    """Where loads are struck: a server, a second one to fail over to, and a small disk if this machine can have one.

    The server has a database `small` on that disk.
    """

    server: Server
    spare: Server
    disk: Path | None

    def drop(self, number: int) -> None:
        """Remove what a place left."""
        urls = [self.server.url, self.spare.url, *([self.server.database("small")] if self.disk else [])]
        for url in urls:
            with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
                cursor.execute(f"DROP SCHEMA IF EXISTS data_{number}, meta_{number} CASCADE")


@contextmanager
def open_site() -> Iterator[Site]:
    """A site for a `with` block."""
    with ExitStack() as stack:
        disk = stack.enter_context(_small_disk())
        server, spare = (stack.enter_context(closing(Server())) for _ in range(2))
        server.run(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
        server.run("CREATE ROLE loader LOGIN IN ROLE postgres")  # may do all that the superuser may, but has no slot
        server.restart()
        if disk is not None:
            owner = pwd.getpwuid(server.folder.stat().st_uid)
            (disk / "postgres").mkdir()
            os.chown(disk / "postgres", owner.pw_uid, owner.pw_gid)
            server.run(f"CREATE TABLESPACE small LOCATION '{disk}/postgres'", "CREATE DATABASE small TABLESPACE small")
        yield Site(server, spare, disk)


@contextmanager
def _small_disk() -> Iterator[Path | None]:
    """A file system in memory; None where this machine may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="weather-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and not subprocess.run(command, check=False).returncode
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def _nothing() -> None:
    """For a fault that needs no preparation."""


@dataclass(frozen=True)
class Fault:
    """A fault before one load. `strike` is given the load's process, `mend` makes it pass.

    `settings` are the load's and `hook` its zygote's. The instant is counted from a passing of a checkpoint (`since`),
    after `prepare`, which may hold the load there. `silent`: the load is not told, so that nothing shows that it hit.
    """

    strike: Callable[[int], None]
    mend: Callable[[], None]
    settings: dict[str, Any] = field(default_factory=dict)
    hook: dict[str, Any] = field(default_factory=dict)
    since: tuple[str, int] = ("ddl.before", 1)
    prepare: Callable[[], None] = _nothing
    silent: bool = False


Kind = Callable[[Site, Place, random.Random], AbstractContextManager[Fault]]


@contextmanager
def _cut(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    """Every connection is cut, and new ones are refused."""
    with proxy(site.server.url) as through:
        mend = partial(setattr, through, "refusing", False)
        yield Fault(lambda _: through.go_away(), mend, {"destination": through.url(site.server.url)})


@contextmanager
def _cut_between_bytes(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    """The same in the middle of a message, of a COPY for example, to the server or from it."""
    after = chance.randrange(6000)
    with proxy(site.server.url) as through:

        def mend() -> None:
            through.cut_after, through.refusing = None, False

        strike = partial(setattr, through, "cut_after", after)
        yield Fault(lambda _: strike(), mend, {"destination": through.url(site.server.url)})


@contextmanager
def _restart(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    yield Fault(lambda _: site.server.stop(signal.SIGQUIT), site.server.start)


@contextmanager
def _demote(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    yield Fault(lambda _: site.server.demote(), site.server.promote)


@contextmanager
def _set_read_only(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    """What hosters do when a disk is nearly full."""
    setting = "ALTER DATABASE shared {} default_transaction_read_only"
    strike = partial(site.server.run, setting.format("SET") + " = on", END_SESSIONS)
    yield Fault(lambda _: strike(), partial(site.server.run, setting.format("RESET")))


@contextmanager
def _fail_over_to_nothing(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    with proxy(site.server.url) as through:
        yield Fault(*_failing_over(site, through), {"destination": through.url(site.server.url)})


@contextmanager
def _fail_over_to_older(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    """The copy is made while the load is held between two epochs, or before its first."""
    nth = chance.randrange(4)
    since = ("epoch.committed", nth) if nth else ("start.booked", 1)
    fifo = place.folder / "fifo"
    os.mkfifo(fifo)

    def copy() -> None:
        with fifo.open("wb"):
            site.server.copy(place.number, site.spare)

    hook = {"point": since[0], "nth": since[1], "act": "meet", "fifo": str(fifo)}
    with proxy(site.server.url) as through:
        settings = {"destination": through.url(site.server.url)}
        yield Fault(*_failing_over(site, through), settings, hook, since, copy)


def _failing_over(site: Site, through: Proxy) -> tuple[Callable[[int], None], Callable[[], None]]:
    right = through.upstream

    def lead_to(upstream: str) -> None:
        through.upstream = upstream
        through.cut_all()

    return lambda _: lead_to(str(site.spare.folder / SOCKET)), lambda: lead_to(right)


@contextmanager
def _idle_in_transaction(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    """The load is too slow for the server: it is paused, again and again."""
    settings = {"destination": f"{site.server.url}&options=-c%20idle_in_transaction_session_timeout%3D60"}

    def pause(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.12)
            os.kill(pid, signal.SIGCONT)

    yield Fault(*_again_and_again(pause, 0.01), settings)


def _again_and_again(act: Callable[[int], None], pause: float) -> tuple[Callable[[int], None], Callable[[], None]]:
    """(begin to act, stop)."""
    over, threads = threading.Event(), []

    def run(pid: int) -> None:
        while not over.is_set():
            act(pid)
            over.wait(pause)

    def strike(pid: int) -> None:
        threads.append(threading.Thread(target=run, args=(pid,), daemon=True))
        threads[0].start()

    def mend() -> None:
        over.set()
        threads[0].join()

    return strike, mend


@contextmanager
def _lock(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    tables = (f"data_{place.number}.s", *(f"meta_{place.number}.{name}" for name in ("state", "lease", "ledger")))
    statement = f"LOCK TABLE {chance.choice(tables)} IN ACCESS EXCLUSIVE MODE"
    with closing(psycopg2.connect(site.server.url)) as session, session.cursor() as cursor:

        def strike(_: int) -> None:
            with suppress(psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName):  # not yet there
                cursor.execute(statement)

        yield Fault(strike, session.rollback, hook={"lock_timeout": "100ms"})


@contextmanager
def _disk_full(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    assert site.disk is not None
    filler = site.disk / "filler"
    begin, stop = _again_and_again(lambda _: _fill(filler), 0.002)
    _fill(filler, ROOM_BYTES)

    def strike(pid: int) -> None:
        _fill(filler)
        begin(pid)

    def mend() -> None:
        stop()
        filler.unlink()

    yield Fault(strike, mend)


def _fill(path: Path, room: int = 0) -> None:
    """Let a file grow until this many bytes are left, as somebody's log does."""
    with suppress(OSError), path.open("ab", buffering=0) as file:
        disk = os.statvfs(path)
        os.posix_fallocate(file.fileno(), file.tell(), disk.f_bavail * disk.f_frsize - room)


@contextmanager
def _out_of_connections(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    """Others take the slots of sessions that an administrator ends."""
    url = site.server.url.replace("postgres:@", "loader:@")
    with ExitStack() as held:

        def take(most: int) -> None:
            with suppress(psycopg2.OperationalError):
                for _ in range(most):
                    held.enter_context(closing(psycopg2.connect(url)))

        def strike(_: int) -> None:
            site.server.run(END_SESSIONS)
            take(CONNECTIONS)

        take(CONNECTIONS - 9)
        yield Fault(strike, held.close, {"destination": url})


@contextmanager
def _kill_pooler(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    with pooler(site.server.url, chance.choice(["session", "transaction"])) as between:
        yield Fault(lambda _: between.kill(), between.start, {"destination": between.url(site.server.url)})


@contextmanager
def _reset_sessions(site: Site, place: Place, chance: random.Random) -> Iterator[Fault]:
    """The pooler gives each transaction a new session, and says nothing."""
    with pooler(site.server.url, "transaction") as between:
        reset = _again_and_again(lambda _: between.console("RECONNECT"), 0.01)
        yield Fault(*reset, {"destination": between.url(site.server.url)}, silent=True)


FAILOVERS = {"failover to an empty copy": _fail_over_to_nothing, "failover to an older copy": _fail_over_to_older}
DISKS = {"disk full (PostgreSQL)": _disk_full, "disk full (DuckDB)": _disk_full}
POOLERS = {"pooler killed": _kill_pooler, "pooler resets sessions": _reset_sessions}
KINDS: dict[str, Kind] = {
    "connection cut": _cut,
    "connection cut between bytes": _cut_between_bytes,
    "PostgreSQL restarted (immediate)": _restart,
    **FAILOVERS,
    "idle-in-transaction timeout": _idle_in_transaction,
    "lock timeout": _lock,
    **DISKS,
    "demoted to a standby": _demote,
    "set to read-only": _set_read_only,
    "out of connections": _out_of_connections,
    **POOLERS,
}


def missing(kind: str, site: Site) -> str | None:
    """What a kind of fault needs that this machine does not have."""
    if kind in DISKS and site.disk is None:
        return "may not mount one"
    return "has no PgBouncer" if kind in POOLERS and PGBOUNCER is None else None
