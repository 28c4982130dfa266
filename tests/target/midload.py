"""Something happens at a checkpoint of a load that runs in this very process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2

from target_resilient import checkpoints
from tests.target.crashes import Place
from tests.target.scenarios import GROUP

Do = Callable[[], object]
ALL = [GROUP * number for number in range(1, 5)]
PATIENT = {"retry_max_elapsed": "1h"}
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'target-resilient'"


def at(point: str, nth: int, act: Do) -> None:
    """Do something at the n-th passing of a checkpoint, once."""
    passed = 0

    def hook(name: str) -> None:
        nonlocal passed
        passed += name == point
        if name == point and passed == nth:
            act()

    checkpoints.hook = hook


def run(url: str, *statements: str) -> None:
    """Execute statements, each in its own transaction."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def assert_all_is_well(place: Place, outcome: Any) -> None:
    """Every row is there once, every state was printed once, every record was counted once."""
    assert outcome.error is None
    assert place.table() == place.scenario.tables[-1]
    assert place.printed == ALL
    assert sum(place.ledger("received")) == len(place.scenario.events)


def assert_clean_stop(place: Place, outcome: Any, kind: type[Exception], mend: Do = lambda: None) -> None:
    """The load ended with this error and no lie; once the fault is mended, the next one finishes the work."""
    assert isinstance(outcome.error, kind), repr(outcome.error)
    place.judge()
    checkpoints.hook = None
    mend()
    assert place.load_here(place.printed[-1] if place.printed else 0).error is None
    assert place.table() == place.scenario.tables[-1]
