"""What the listings show, as rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitor_resilient.alerts.lifecycle import Alert, Event, phase
from monitor_resilient.alerts.outbox import deliver
from monitor_resilient.check_log import History, Memory
from monitor_resilient.database import moment, seconds
from monitor_resilient.model import Finding, Outcome
from monitor_resilient.readings import Readings, parsed
from monitor_resilient.watch import UNDELIVERED, Watch
from monitor_resilient.words import in_words
from resilient_core.errors import ConfigError, Fault, ResilientError, UsageError
from resilient_core.settings import unknown_name

Row = dict[str, Any]

REASON = ("pointer", "rule", "expected", "actual_type")
_QUARANTINE = (
    f"SELECT id, pipeline, load_id, stream, table_name, key, record, errors, {seconds('first_seen_at')},"  # noqa: S608
    f" {seconds('last_seen_at')}, times_seen, {seconds('replayed_at')} FROM {{}}"
)
_FIELDS = ("id", "pipeline", "load_id", "stream", "table_name", "key", "record", "errors", "first_seen_at",
           "last_seen_at", "times_seen", "replayed_at")  # fmt: skip


def runs(readings: Readings, pipeline: str | None, limit: int) -> list[Row]:
    """The newest loads. `seconds` is None while a load runs."""
    return [
        {
            "load_id": load.load_id,
            "pipeline": load.pipeline,
            "status": load.status,
            "started_at": load.started_at,
            "finished_at": load.finished_at,
            "seconds": round((load.finished_at - load.started_at).total_seconds(), 1) if load.finished_at else None,
            "exit_code": load.exit_code,
            "received": load.received,
            "quarantined": load.quarantined,
            "reason": load.reason,
        }
        for load in readings.loads(pipeline, limit=limit)
    ]


def states(readings: Readings, pipeline: str | None) -> list[Row]:
    """The committed state of every pipeline. Raises UsageError for one that is not there."""
    query = f"SELECT pipeline, value, load_id, epoch, {seconds('committed_at')} FROM {{}} ORDER BY pipeline"  # noqa: S608
    rows = [
        {"pipeline": name, "value": parsed(value), "load_id": load, "epoch": epoch, "committed_at": moment(at)}
        for name, value, load, epoch, at in readings.meta(query, ["state"])
    ]
    found = [row for row in rows if pipeline in (None, row["pipeline"])]
    if pipeline and not found:
        raise UsageError(f"state show: {unknown_name('pipeline', pipeline, [row['pipeline'] for row in rows])}")
    return found


def bookmarks(states: list[Row]) -> list[Row]:
    """One row a stream of every state."""
    return [
        {"pipeline": row["pipeline"], "stream": stream, "bookmark": _bookmark(bookmark),
         "verdict": _verdict(row["value"], stream), "committed_at": row["committed_at"]}
        for row in states
        for stream, bookmark in _mapping(_mapping(row["value"]).get("bookmarks")).items()
    ]  # fmt: skip


def quarantined(readings: Readings, stream: str | None, limit: int) -> list[Row]:
    """The newest refused records: the first reason of each, and how many it has. No values."""
    where, params = (" WHERE stream = %s", [stream]) if stream else ("", [])
    rows = readings.meta(f"{_QUARANTINE}{where} ORDER BY last_seen_at DESC LIMIT {limit:d}", ["quarantine"], params)
    return [_without_values(_quarantine_row(row)) for row in rows]


def one_quarantined(readings: Readings, identifier: str) -> Row:
    """The one refused record whose id begins with `identifier`. Raises UsageError if there is not exactly one."""
    query = f"{_QUARANTINE} WHERE substr(id, 1, {len(identifier):d}) = %s LIMIT 2"
    rows = readings.meta(query, ["quarantine"], [identifier])
    if len(rows) != 1:
        raise UsageError(f"quarantine show: {'no' if not rows else 'more than one'} record has an id that begins so")
    row = _quarantine_row(rows[0])
    return {**row, "record": _readable(row["record"])}


def alerts(watch: Watch, *, everything: bool) -> list[Row]:
    """The newest episode of every check that is pending or firing; with `everything` all episodes of all checks."""
    rules = watch.config.alerts.rules
    listed = [
        episode
        for episodes in history(watch).values()
        for episode in (episodes if everything else episodes[-1:])
        if everything or phase(episode, rules) != "quiet"
    ]
    return [
        {
            "check": episode.check,
            "stream": episode.subject,
            "state": episode.state,
            "phase": phase(episode, rules),
            "since": episode.since,
            "value": episode.value,
            "threshold": episode.threshold,
            "notified_at": episode.notified_at,
            "at": episode.at,
        }
        for episode in sorted(listed, key=lambda episode: episode.since)
    ]


def last_findings(watch: Watch) -> list[Finding]:
    """What checks and probes found last."""
    kinds = {(check.name, check.subject): check.type for check in watch.config.checks}
    return [
        Finding(check, kinds.get((check, subject), check), subject, Outcome(e[-1].state, "", e[-1].value))
        for (check, subject), e in sorted(history(watch).items())
    ]


def history(watch: Watch) -> History:
    """The check log, from the destination and the spool."""
    database = watch.open_database()
    try:
        return Memory(database, watch.config.alerts.spool, watch.logger).read(watch.now)
    finally:
        database.close()


def test_alert(watch: Watch) -> int:
    """Send a firing and a resolved test alert to every channel; the exit code."""
    channels = watch.config.alerts.open_channels(watch.resolver)
    if not channels:
        raise ConfigError([Fault("alerts.channels", "there is none; add {type: webhook, url: …}")])
    events: tuple[Event, ...] = ("firing", "resolved")
    message = "A test of the alert channel. Nothing is wrong."
    tests = [Alert(event, "test", "monitor-resilient", "fail", watch.now, message, "", "") for event in events]
    delivered = [deliver(channel, alert, watch.logger) for channel in channels for alert in tests]
    return 0 if all(delivered) else UNDELIVERED


def _quarantine_row(row: tuple[Any, ...]) -> Row:
    found = dict(zip(_FIELDS, row, strict=True))
    found["errors"] = parsed(found["errors"]) or []
    for name in ("first_seen_at", "last_seen_at", "replayed_at"):
        found[name] = moment(found[name])
    return found


def _without_values(row: Row) -> Row:
    errors = row["errors"]
    first = errors[0] if errors else {}
    shown = {name: row[name] for name in _FIELDS if name not in ("key", "record", "errors")}
    return {**shown, **{name: in_words(first.get(name)) for name in REASON},
            "errors": len(errors)}  # fmt: skip


def _readable(record: str) -> Any:
    """The record parsed where it is JSON; a refused record may be none."""
    try:
        return parsed(record)
    except ResilientError:
        return record


def _bookmark(bookmark: Any) -> Any:
    """The bookmark's value; with partitions how many there are."""
    facts = _mapping(bookmark)
    if partitions := facts.get("partitions"):
        return f"{len(partitions)} partitions"
    return facts.get("replication_key_value")


def _verdict(state: Any, stream: str) -> Any:
    scans = _mapping(_mapping(_mapping(state).get("resilient")).get("scans"))
    return _mapping(scans.get(stream)).get("verdict")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
