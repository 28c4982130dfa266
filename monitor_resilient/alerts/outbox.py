"""From findings to delivered alerts and a written check log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from monitor_resilient.alerts.channels import Channel
from monitor_resilient.alerts.lifecycle import Alert, Episode, Rules, Step, advance
from monitor_resilient.check_log import History
from monitor_resilient.model import Finding
from resilient_core.errors import ResilientError

CONSEQUENCES = frozenset({"freshness", "volume", "zero_rows", "bookmark"})
"""Kinds of check that are silent while the credentials of their source are refused: one cause, one alert."""


@dataclass(frozen=True)
class Outbox:
    """What was found, what was told, and whether telling failed."""

    episodes: list[Episode]
    sent: list[Alert]
    undelivered: int


def tell(
    findings: Sequence[Finding],
    history: History,
    rules: Rules,
    channels: Callable[[], Sequence[Channel]],
    now: datetime,
    *,
    inhibited: Callable[[Finding], bool],
    logger: logging.Logger,
) -> Outbox:
    """Send the alerts that are due. One counts as told once a channel took it, and as undelivered if any did not.

    `channels` is called only if there is something to send, so that a secret store is not asked in vain.
    """
    steps = [advance(history.get((f.check, f.subject), ()), f, now, rules, silent=inhibited(f)) for f in findings]
    if not any(step.due for step in steps):
        return Outbox([step.episode for step in steps], [], 0)
    try:
        ready = channels()
    except ResilientError as error:
        logger.error("%s", f"alerts cannot be delivered: {error}")  # noqa: TRY400
        return Outbox([step.episode for step in steps], [], sum(len(step.due) for step in steps))
    return _send(steps, ready, now, logger)


def _send(steps: Sequence[Step], channels: Sequence[Channel], now: datetime, logger: logging.Logger) -> Outbox:
    """Without channels an alert is told by the log and the exit code alone."""
    episodes: list[Episode] = []
    sent: list[Alert] = []
    undelivered = 0
    for step in steps:
        failures = [[deliver(channel, alert, logger) for channel in channels].count(False) for alert in step.due]
        reached = all(failed < len(channels) or not channels for failed in failures)
        episodes.append(step.told(now) if reached else step.episode)
        sent += step.due if reached else ()
        undelivered += sum(map(bool, failures))
    return Outbox(episodes, sent, undelivered)


def deliver(channel: Channel, alert: Alert, logger: logging.Logger) -> bool:
    """Whether the channel took the alert; why not goes into the log."""
    try:
        channel.deliver(alert)
    except ResilientError as error:
        logger.error("%s", f"alert not delivered ({alert.title}): {error}")  # noqa: TRY400
        return False
    return True


def inhibition(history: History, streams_of: Mapping[str, frozenset[str]]) -> Callable[[Finding], bool]:
    """Whether a finding is a mere consequence: its stream's source refuses the credentials now.

    `streams_of` maps a probe's subject to the streams of its source. Which pipeline reads which source is not known, so
    a pipeline's completeness is a consequence only when all sources refuse.
    """
    refusing = {
        subject
        for (check, subject), episodes in history.items()
        if check == "probe" and subject in streams_of and episodes[-1].state == "auth_failed"
    }
    streams = {stream for subject in refusing for stream in streams_of[subject]}
    all_refuse = bool(refusing) and len(refusing) == len(streams_of)

    def inhibited(finding: Finding) -> bool:
        if finding.kind == "completeness":
            return all_refuse
        return finding.kind in CONSEQUENCES and finding.subject in streams

    return inhibited
