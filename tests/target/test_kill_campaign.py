"""A hundred random SIGKILLs over the whole pipe; thousands stand in benchmarks/results/kill_campaign.jsonl."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.target.campaigns import assert_documented, campaign, recorded


@pytest.mark.timeout(900)
def test_a_hundred_kills_lose_and_double_nothing() -> None:
    assert "\n100 kills, 0 failures, " in campaign("campaign.py", "--kills", "100", "--seed", "5")


def test_the_recorded_campaign_has_no_failure_no_seed_twice_and_hits_in_every_phase() -> None:
    runs = recorded("kill_campaign.jsonl")
    kills = [run for run in runs if run["verdict"] != "missed"]
    assert {run["verdict"] for run in kills} == {"ok"}
    assert max(Counter(run["seed"] for run in runs).values()) == 1
    assert sum(not run.get("aim") for run in kills) >= 3000
    hits = Counter(run["phase"] for run in kills)
    assert min(hits.values()) >= 50, hits
    assert len(hits) == 13


def test_the_document_shows_the_recorded_campaign_as_it_is() -> None:
    assert_documented("campaign.py")
