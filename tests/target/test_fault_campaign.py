"""Thirty random faults of the database; hundreds stand in benchmarks/results/database_faults.jsonl."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.target.campaigns import assert_documented, campaign, recorded
from tests.target.pooler import PGBOUNCER

KINDS = 14


@pytest.mark.timeout(600)
def test_thirty_faults_of_every_kind_lose_and_double_nothing() -> None:
    printed = campaign("faults.py", "--faults", "30", "--seed", "5")
    assert "\n30 faults, 0 failures, " in printed
    if PGBOUNCER is not None and os.geteuid() == 0:
        assert "left out" not in printed


def test_the_recorded_faults_have_no_failure_no_seed_twice_and_are_of_every_kind() -> None:
    runs = recorded("database_faults.jsonl")
    faults = [run for run in runs if run["verdict"] != "missed"]
    assert {run["verdict"] for run in faults} == {"ok"}
    assert max(Counter(run["seed"] for run in runs).values()) == 1
    assert len(faults) >= 500
    met = Counter(run["kind"] for run in faults)
    assert len(met) == KINDS
    assert min(met.values()) >= 30, met


def test_the_document_shows_the_recorded_faults_as_they_are() -> None:
    assert_documented("faults.py")
