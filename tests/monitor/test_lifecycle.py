"""pending → firing → resolved, told once each."""

from __future__ import annotations

from datetime import datetime, timedelta

from monitor_resilient.alerts.lifecycle import Episode, Rules, advance, open_alerts, phase
from monitor_resilient.model import Finding, Outcome
from tests.monitor.support import DAY, HOUR, NOW

MINUTE = timedelta(minutes=1)
RULES = Rules()


class Timeline:
    """Plays states one after the other, as runs of the check would, and keeps what was told."""

    def __init__(self, rules: Rules = RULES, *, delivers: bool = True) -> None:
        self.rules, self.delivers = rules, delivers
        self.history: list[Episode] = []
        self.told: list[str] = []

    def play(self, state: str, now: datetime, *, silent: bool = False) -> list[str]:
        finding = Finding("freshness", "freshness", "orders", Outcome(state, "…"))
        step = advance(self.history, finding, now, self.rules, silent=silent)
        episode = step.told(now) if self.delivers else step.episode
        if self.history and self.history[-1].since == episode.since:
            self.history.pop()
        self.history.append(episode)
        events = [f"{alert.event} {alert.state}" for alert in step.due]
        self.told += events
        return events


def test_a_standing_problem_alarms_once_and_its_end_is_told() -> None:
    timeline = Timeline()
    for minute, state in enumerate(["ok", "fail", "fail", "fail", "ok", "ok"]):
        timeline.play(state, NOW + minute * MINUTE)
    assert timeline.told == ["firing fail", "resolved fail"]


def test_a_problem_that_stays_is_told_again_after_the_repeat_interval() -> None:
    timeline = Timeline()
    for hour in range(0, 50):
        timeline.play("fail", NOW + hour * HOUR)
    assert timeline.told == ["firing fail"] * 3


def test_a_problem_is_pending_until_it_has_stood_long_enough() -> None:
    timeline = Timeline(Rules(pending_for=10 * MINUTE))
    assert timeline.play("fail", NOW) == []
    assert phase(timeline.history[-1], timeline.rules) == "pending"
    assert timeline.play("ok", NOW + 5 * MINUTE) == []
    assert timeline.play("fail", NOW + 6 * MINUTE) == []
    assert timeline.play("fail", NOW + 16 * MINUTE) == ["firing fail"]
    assert phase(timeline.history[-1], timeline.rules) == "firing"


def test_an_alert_that_was_not_delivered_stays_due() -> None:
    timeline = Timeline(delivers=False)
    timeline.play("fail", NOW)
    assert timeline.play("fail", NOW + MINUTE) == ["firing fail"]
    timeline.delivers = True
    assert timeline.play("fail", NOW + 2 * MINUTE) == ["firing fail"]
    assert timeline.play("fail", NOW + 3 * MINUTE) == []
    timeline.delivers = False
    assert timeline.play("ok", NOW + 4 * MINUTE) == ["resolved fail"]
    timeline.delivers = True
    assert timeline.play("ok", NOW + 5 * MINUTE) == ["resolved fail"]
    assert timeline.play("ok", NOW + 6 * MINUTE) == []


def test_unknown_is_no_end_of_a_failure() -> None:
    timeline = Timeline()
    for minute, state in enumerate(["fail", "unknown", "fail", "unknown", "ok"]):
        timeline.play(state, NOW + minute * MINUTE)
    assert timeline.told[:2] == ["firing fail", "firing unknown"]
    assert sorted(timeline.told[2:]) == ["resolved fail", "resolved unknown"]


def test_warn_and_learning_are_not_told_by_default() -> None:
    timeline = Timeline()
    for minute, state in enumerate(["learning", "warn", "degraded", "ok"]):
        timeline.play(state, NOW + minute * MINUTE)
    assert timeline.told == []
    assert Timeline(Rules(severities=frozenset({"warn"}))).play("degraded", NOW) == ["firing degraded"]


def test_a_failure_that_eases_to_a_warning_has_ended() -> None:
    timeline = Timeline()
    timeline.play("fail", NOW)
    assert timeline.play("warn", NOW + MINUTE) == ["resolved fail"]


def test_an_inhibited_alert_is_due_once_it_is_no_longer_silent() -> None:
    timeline = Timeline()
    assert timeline.play("fail", NOW, silent=True) == []
    assert timeline.play("fail", NOW + MINUTE, silent=True) == []
    assert timeline.play("fail", NOW + 2 * MINUTE) == ["firing fail"]


def test_one_fingerprint_a_check_stream_and_state() -> None:
    fail = advance((), Finding("freshness", "freshness", "orders", Outcome("fail", "a")), NOW, RULES).due[0]
    later = advance((), Finding("freshness", "freshness", "orders", Outcome("fail", "b")), NOW + DAY, RULES).due[0]
    other = advance((), Finding("freshness", "freshness", "charges", Outcome("fail", "a")), NOW, RULES).due[0]
    assert fail.fingerprint == later.fingerprint != other.fingerprint


def test_nothing_is_open_after_an_end_that_was_told() -> None:
    fail = Episode("c", "s", "fail", NOW, NOW, notified_at=NOW)
    untold = Episode("c", "s", "ok", NOW + HOUR, NOW + HOUR)
    assert list(open_alerts([fail, untold], RULES)) == ["fail"]
    assert open_alerts([fail, Episode("c", "s", "ok", NOW + HOUR, NOW + HOUR, notified_at=NOW + HOUR)], RULES) == {}
