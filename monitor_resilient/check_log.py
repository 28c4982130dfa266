"""The memory of checks and probes: `check_log` in the destination, or a spool file while that cannot be reached."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from monitor_resilient.alerts.lifecycle import Episode
from monitor_resilient.database import TIMESTAMP, Database, moment, seconds
from resilient_core.errors import ResilientError, UnavailableError
from resilient_core.redaction import redactor
from target_resilient.backends import Session
from target_resilient.sql import Name, sql

MEMORY = timedelta(days=90)

History = dict[tuple[str, str], list[Episode]]
"""(check, subject) → its episodes, oldest first."""

_COLUMNS = '"check", stream, state, since, value, threshold, notified_at, "at"'
_READ = (
    f'SELECT "check", stream, state, {seconds("since")}, {seconds("at")}, value, threshold,'  # noqa: S608
    f" {seconds('notified_at')} FROM {{}} AS check_log WHERE check_log.at >= {TIMESTAMP} ORDER BY since"
)
_SAME = f'"check" = %s AND stream = %s AND since = {TIMESTAMP}'
_UPDATE = (
    f'UPDATE {{}} SET state = %s, value = %s, threshold = %s, notified_at = {TIMESTAMP}, "at" = {TIMESTAMP}'  # noqa: S608
    f" WHERE {_SAME}"
)
_INSERT = f"INSERT INTO {{}} ({_COLUMNS}) VALUES (%s, %s, %s, {TIMESTAMP}, %s, %s, {TIMESTAMP}, {TIMESTAMP})"  # noqa: S608


def read_log(database: Database, now: datetime) -> History:
    """The episodes of the last 90 days; none where there is no check log yet."""
    table = database.meta("check_log")
    if database.columns(table) is None:
        return {}
    episodes = [
        Episode(check, subject, state, cast("datetime", moment(since)), cast("datetime", moment(at)),
                value or "", threshold or "", moment(told))
        for check, subject, state, since, at, value, threshold, told in database.fetch(
            _READ, [table], [(now - MEMORY).isoformat()]
        )
    ]  # fmt: skip
    return _grouped(episodes)


def write_log(database: Database, episodes: Sequence[Episode]) -> None:
    """Insert new episodes, bring standing ones up to date, in one transaction."""
    table = database.meta("check_log")
    if database.columns(table) is None:  # creating needs rights that a monitor's role may lack
        database.ensure_meta()

    def write(session: Session) -> None:
        for episode in episodes:
            _write(session, table, episode)

    database.transact(write)


def _write(session: Session, table: Name, episode: Episode) -> None:
    key = [episode.check, episode.subject, _iso(episode.since)]
    value, threshold = redactor.redact(episode.value), redactor.redact(episode.threshold)
    told, at = _iso(episode.notified_at), _iso(episode.at)
    if not session.run(sql(_UPDATE, table), [episode.state, value, threshold, told, at, *key]):
        row = [*key[:2], episode.state, key[2], value, threshold, told, at]
        session.run(sql(_INSERT, table), row)


@dataclass(frozen=True)
class Memory:
    """Reads and writes the history. What the destination cannot take goes to the spool, and from there later."""

    database: Database | None
    spool: Path
    logger: logging.Logger

    def read(self, now: datetime) -> History:
        """The history of both places."""
        episodes = [episode for known in self._log(now).values() for episode in known]
        spooled = _read_spool(self.spool)
        known = {(e.check, e.subject, e.since): e for e in (*episodes, *spooled)}
        return _grouped(sorted(known.values(), key=lambda episode: episode.since))

    def write(self, episodes: Sequence[Episode]) -> None:
        """Keep the episodes, in the destination if it can be reached."""
        spooled = _read_spool(self.spool)
        pending = {(e.check, e.subject, e.since): e for e in (*spooled, *episodes)}
        try:
            if self.database is None:
                raise UnavailableError("the destination cannot be reached")
            write_log(self.database, list(pending.values()))
        except ResilientError as error:
            self.logger.warning("%s", f"check log kept in {self.spool}: {error}")
            _write_spool(self.spool, list(pending.values()))
        else:
            self.spool.unlink(missing_ok=True)

    def _log(self, now: datetime) -> History:
        if self.database is None:
            return {}
        with suppress(ResilientError):
            return read_log(self.database, now)
        return {}


def _grouped(episodes: Sequence[Episode]) -> History:
    history: History = defaultdict(list)
    for episode in episodes:
        history[episode.check, episode.subject].append(episode)
    return dict(history)


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def _read_spool(path: Path) -> list[Episode]:
    try:
        return [_episode(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _write_spool(path: Path, episodes: Sequence[Episode]) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redactor.redact(json.dumps([asdict(e) for e in episodes], default=_iso)), encoding="utf-8")


def _episode(row: dict[str, Any]) -> Episode:
    moments = {"since", "at", "notified_at"}
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(Episode)}
    for name in moments & {name for name, value in values.items() if value}:
        values[name] = datetime.fromisoformat(values[name])
    return Episode(**values)
