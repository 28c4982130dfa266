"""A hundred random SIGKILLs over the whole pipe; thousands stand in benchmarks/results/kill_campaign.jsonl."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.target.zygote import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results" / "kill_campaign.jsonl"


@pytest.mark.timeout(900)
def test_a_hundred_kills_lose_and_double_nothing() -> None:
    command = [sys.executable, "benchmarks/campaign.py", "--kills", "100", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n100 kills, 0 failures, " in done.stdout


def test_the_recorded_campaign_has_no_failure_no_seed_twice_and_hits_in_every_phase() -> None:
    runs = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    kills = [run for run in runs if run["verdict"] != "missed"]
    assert {run["verdict"] for run in kills} == {"ok"}
    assert max(Counter(run["seed"] for run in runs).values()) == 1
    assert sum(not run.get("aim") for run in kills) >= 3000
    hits = Counter(run["phase"] for run in kills)
    assert min(hits.values()) >= 50, hits
    assert len(hits) == 13


def test_the_document_shows_the_recorded_campaign_as_it_is() -> None:
    command = [sys.executable, "benchmarks/campaign.py", "--report"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"```console\n$ python benchmarks/campaign.py --report\n{done.stdout}```\n" in DOCUMENT.read_text()
