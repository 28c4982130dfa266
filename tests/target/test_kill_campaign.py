"""A hundred random SIGKILLs over the whole pipe; thousands stand in benchmarks/results/kill_campaign.jsonl."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.target.zygote import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "kill_campaign.jsonl"


@pytest.mark.timeout(900)
def test_a_hundred_kills_lose_and_double_nothing() -> None:
    command = [sys.executable, "benchmarks/campaign.py", "--runs", "100", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failures" in done.stdout


def test_the_recorded_campaign_has_no_failure_and_no_seed_twice() -> None:
    runs = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    assert {run["verdict"] for run in runs} == {"ok", "missed"}
    assert max(Counter(run["seed"] for run in runs).values()) == 1
