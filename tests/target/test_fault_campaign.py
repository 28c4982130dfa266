"""Thirty random faults of the database; hundreds stand in benchmarks/results/database_faults.jsonl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.target.pooler import PGBOUNCER
from tests.target.zygote import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results" / "database_faults.jsonl"
KINDS = 14


@pytest.mark.timeout(600)
def test_thirty_faults_of_every_kind_lose_and_double_nothing() -> None:
    command = [sys.executable, "benchmarks/faults.py", "--faults", "30", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n30 faults, 0 failures, " in done.stdout
    if PGBOUNCER is not None and os.geteuid() == 0:
        assert "left out" not in done.stdout


def test_the_recorded_faults_have_no_failure_no_seed_twice_and_are_of_every_kind() -> None:
    runs = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    faults = [run for run in runs if run["verdict"] != "missed"]
    assert {run["verdict"] for run in faults} == {"ok"}
    assert max(Counter(run["seed"] for run in runs).values()) == 1
    assert len(faults) >= 500
    met = Counter(run["kind"] for run in faults)
    assert len(met) == KINDS
    assert min(met.values()) >= 30, met


def test_the_document_shows_the_recorded_faults_as_they_are() -> None:
    command = [sys.executable, "benchmarks/faults.py", "--report"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"```console\n$ python benchmarks/faults.py --report\n{done.stdout}```\n" in DOCUMENT.read_text()
