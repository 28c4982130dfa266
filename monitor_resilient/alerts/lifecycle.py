"""When a finding is told: pending → firing → resolved. Pure; the check log is its memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from monitor_resilient.model import SEVERITY_OF, Finding

Event = Literal["firing", "resolved"]


@dataclass(frozen=True)
class Episode:
    """A stretch of time in which a check found one state: a row of `check_log`.

    `since` is the first and `at` the last time that it was found; `notified_at` is when that was told, None if never.
    """

    check: str
    subject: str
    state: str
    since: datetime
    at: datetime
    value: str = ""
    threshold: str = ""
    notified_at: datetime | None = None

    @property
    def severity(self) -> str:
        """ok, learning, warn, fail or unknown."""
        return SEVERITY_OF[self.state]


@dataclass(frozen=True)
class Alert:
    """One message to send. `fingerprint` is the same for all messages about one state of one check."""

    event: Event
    check: str
    subject: str
    state: str
    since: datetime
    message: str
    value: str
    threshold: str

    @property
    def fingerprint(self) -> str:
        """16 hex digits over check, stream and state."""
        text = "\0".join((self.check, self.subject, self.state))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """`FIRING fail: freshness of orders`."""
        return f"{self.event.upper()} {self.state}: {self.check} of {self.subject}"


@dataclass(frozen=True)
class Rules:
    """`severities` are told, once they have stood `pending_for`, and again every `repeat_every`."""

    severities: frozenset[str] = frozenset({"fail", "unknown"})
    pending_for: timedelta = timedelta(0)
    repeat_every: timedelta = timedelta(days=1)


@dataclass(frozen=True)
class Step:
    """What follows from one finding: the episode as it now is, and the alerts that are due."""

    episode: Episode
    due: tuple[Alert, ...] = ()

    def told(self, now: datetime) -> Episode:
        """The episode after its alerts have been delivered."""
        return replace(self.episode, notified_at=now) if self.due else self.episode


def advance(history: Sequence[Episode], finding: Finding, now: datetime, rules: Rules, *, silent: bool = False) -> Step:
    """The next step of one check, from its episodes (oldest first) and what it finds now.

    `silent` holds an alert back (it is inhibited) without forgetting that it is due.
    """
    told = open_alerts(history, rules)
    episode = _continued(history, finding, now)
    if episode.severity not in rules.severities:
        # Not known to be well again is not an end: what was told stays open until the check is green.
        ended = tuple(_alert("resolved", past, finding) for past in told.values())
        return Step(episode, ended)
    if before := told.get(episode.state):
        episode = replace(episode, notified_at=episode.notified_at or before.notified_at)
    due = not silent and _is_due(episode, now, rules)
    return Step(episode, (_alert("firing", episode, finding),) if due else ())


def open_alerts(history: Sequence[Episode], rules: Rules) -> dict[str, Episode]:
    """State → the episode that was told and whose end was not told yet."""
    told: dict[str, Episode] = {}
    for episode in history:
        if episode.notified_at is None:
            continue
        if episode.severity in rules.severities:
            told[episode.state] = episode
        else:
            told.clear()
    return told


def phase(episode: Episode, rules: Rules) -> str:
    """quiet, pending or firing: where the newest episode of a check stands."""
    if episode.severity not in rules.severities:
        return "quiet"
    return "firing" if episode.notified_at else "pending"


def _continued(history: Sequence[Episode], finding: Finding, now: datetime) -> Episode:
    outcome = finding.outcome
    last = history[-1] if history else None
    if last is not None and last.state == outcome.state:
        return replace(last, at=now, value=outcome.value, threshold=outcome.threshold)
    return Episode(finding.check, finding.subject, outcome.state, now, now, outcome.value, outcome.threshold)


def _is_due(episode: Episode, now: datetime, rules: Rules) -> bool:
    if episode.notified_at is None:
        return now - episode.since >= rules.pending_for
    return now - episode.notified_at >= rules.repeat_every


def _alert(event: Event, episode: Episode, finding: Finding) -> Alert:
    outcome = finding.outcome
    return Alert(
        event,
        episode.check,
        episode.subject,
        episode.state,
        episode.since,
        outcome.message,
        outcome.value,
        outcome.threshold,
    )
