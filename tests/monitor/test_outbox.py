"""What is a consequence of refused credentials, and what is not."""

from __future__ import annotations

import pytest

from monitor_resilient.alerts.lifecycle import Episode
from monitor_resilient.alerts.outbox import inhibition
from monitor_resilient.model import Finding, Outcome
from tests.monitor.support import NOW

STREAMS = {"shop": frozenset({"orders"}), "bank": frozenset({"payments"})}


def refused(*subjects: str) -> dict[tuple[str, str], list[Episode]]:
    states = {subject: "auth_failed" if subject in subjects else "ok" for subject in STREAMS}
    return {("probe", subject): [Episode("probe", subject, state, NOW, NOW)] for subject, state in states.items()}


def silent(kind: str, subject: str, *subjects: str) -> bool:
    return inhibition(refused(*subjects), STREAMS)(Finding(kind, kind, subject, Outcome("fail", "…")))


@pytest.mark.parametrize(
    ("kind", "subject", "refusing", "expected"),
    [
        ("freshness", "orders", ["shop"], True),
        ("freshness", "payments", ["shop"], False),
        ("rejects", "orders", ["shop"], False),
        ("completeness", "nightly", ["shop"], False),
        ("completeness", "nightly", ["shop", "bank"], True),
        ("completeness", "nightly", [], False),
    ],
)
def test_only_consequences_of_refused_credentials_are_silent(
    kind: str, subject: str, refusing: list[str], expected: bool
) -> None:
    assert silent(kind, subject, *refusing) is expected
