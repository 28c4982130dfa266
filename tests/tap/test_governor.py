"""The governor: on a simulated clock for what takes minutes, with real threads for what needs them."""

from __future__ import annotations

import statistics
import threading
import time

import pytest

from resilient_core.errors import StoppedError
from tap_resilient.governor import Governor, RateLimit
from tap_resilient.hints import Hints
from tests.tap.simulation import Bucket, Window, policy, simulate, tokens_left, window_left

SEEDS = range(6)
HALVING = 30.0


def outcomes(make_server, requests=3000, **options):
    found = [simulate(make_server(), requests, seed=seed, **options) for seed in SEEDS]
    return statistics.mean(outcome.excess for outcome in found), max(outcome.refused for outcome in found)


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize(
    ("make_server", "announce"),
    [
        pytest.param(lambda: Bucket(50, 10), None, id="nobody told"),
        pytest.param(lambda: Bucket(50, 10, HALVING), None, id="nobody told, halves"),
        pytest.param(lambda: Bucket(50, 10), policy, id="policy header"),
        pytest.param(lambda: Bucket(50, 10, HALVING), policy, id="policy header, halves"),
        pytest.param(lambda: Bucket(50, 10), tokens_left, id="remaining header"),
        pytest.param(lambda: Bucket(50, 10, HALVING), tokens_left, id="remaining header, halves"),
    ],
)
def test_fifty_a_second_are_used_to_within_8_percent_with_under_1_percent_refused(make_server, announce, workers):
    excess, refused = outcomes(make_server, announce=announce, workers=workers)
    assert excess <= 0.08
    assert refused <= 0.01


@pytest.mark.parametrize(
    ("make_server", "requests", "workers", "most_excess", "most_refused"),
    [
        pytest.param(lambda: Bucket(10, 1), 3000, 1, 0.15, 0.01, id="no burst"),
        pytest.param(lambda: Bucket(5, 50), 2000, 1, 0.05, 0.02, id="slow with a large burst"),
        pytest.param(lambda: Bucket(300, 30), 12000, 8, 0.12, 0.01, id="fast"),
        pytest.param(lambda: Bucket(1, 1), 600, 1, 0.30, 0.02, id="one a second"),
        pytest.param(lambda: Window(100, 10.0), 3000, 1, 0.30, 0.02, id="fixed window"),
    ],
)
def test_other_limits_that_nobody_told_are_found(make_server, requests, workers, most_excess, most_refused):
    excess, refused = outcomes(make_server, requests, workers=workers)
    assert excess <= most_excess
    assert refused <= most_refused


@pytest.mark.parametrize("workers", [1, 8])
def test_a_window_whose_rest_is_told_is_used_up_and_never_exceeded(workers):
    excess, refused = outcomes(lambda: Window(100, 10.0), announce=window_left, workers=workers)
    assert excess <= 0.01
    assert refused == 0


def test_the_probe_does_not_saw_deep():
    times = []

    def watch(_, now):
        times.append(now)
        return Hints()

    simulate(Bucket(50, 10), 3000, announce=watch)
    seconds = [sum(1 for at in times if second <= at < second + 1) for second in range(15, 55)]
    assert sum(1 for count in seconds if count < 46) <= 2  # the pauses after a refusal
    assert statistics.mean(seconds) >= 47


def test_the_same_seed_replays_the_same_run():
    assert simulate(Bucket(50, 10), 500, seed=7) == simulate(Bucket(50, 10), 500, seed=7)


def test_a_budget_of_our_own_is_never_exceeded():
    now = [0.0]
    sent: list[float] = []
    limit, faults = RateLimit.parse({"requests": 10, "per": "1s", "burst": 3}, "rate_limit")
    assert not faults
    governor = Governor(limit, clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    for _ in range(100):
        with governor.turn() as sent_at:
            sent.append(sent_at)
    for start in sent:
        assert sum(1 for at in sent if start <= at < start + 0.999) <= 10 + 3
    assert sent[-1] == pytest.approx((100 - 3) / 10)


def test_a_pause_closes_the_gate_for_all_threads():
    governor = Governor(RateLimit(concurrency=8))
    governor.pause(0.2)
    started, sent = time.monotonic(), []

    def work():
        with governor.turn() as at:
            sent.append(at)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 8
    assert min(sent) - started >= 0.2


def test_a_pause_that_is_too_long_stops_every_thread():
    governor = Governor(RateLimit(), max_wait=60)
    governor.pause(61)
    with pytest.raises(StoppedError), governor.turn():
        pass


def test_a_quota_used_up_until_too_late_stops_before_it_is_exceeded():
    governor = Governor(RateLimit(), max_wait=60)
    with governor.turn():
        governor.heard(Hints(remaining=0, reset=3000.0))
    with pytest.raises(StoppedError, match="3000 s"), governor.turn():
        pass


def test_no_more_requests_are_under_way_than_allowed():
    governor, under_way, most = Governor(RateLimit(concurrency=2)), [0], [0]

    def work():
        with governor.turn():
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
            time.sleep(0.01)
            under_way[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 2


def test_headers_none_ignores_what_the_server_says_about_its_quota():
    governor = Governor(RateLimit(headers="none"), max_wait=60)
    with governor.turn():
        governor.heard(Hints(remaining=0, reset=3000.0))
    assert governor.try_turn() == 0


def test_without_adaptive_nothing_is_learned_but_the_refused_wait_holds_for_all():
    now = [0.0]
    governor = Governor(RateLimit(adaptive=False), clock=lambda: now[0])
    governor.try_turn()
    governor.accepted()
    governor.refused(0.0, 5.0)
    assert governor.try_turn() == 5.0
    now[0] = 5.0
    assert [governor.try_turn() for _ in range(3)] == [0, 0, 0]
