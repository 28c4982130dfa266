"""The retry policy as a value."""

import random

import pytest

from resilient_core.errors import StoppedError, UnavailableError
from tap_resilient.retry import AttemptFailed, Attempts, RetryPolicy, Verdict

ERROR = UnavailableError("down")


DEFAULTS = RetryPolicy()


def attempts(policy=DEFAULTS, clock=lambda: 0.0):
    return Attempts(policy, clock, lambda: 1.0)


def test_full_jitter_is_spread_from_zero_to_the_backoff():
    policy, source = RetryPolicy(), random.Random(1)
    waits = [policy.backoff(3, source.random) for _ in range(10_000)]
    assert 0 <= min(waits) < 0.01
    assert 3.99 < max(waits) <= 4
    assert sum(waits) / len(waits) == pytest.approx(2, rel=0.02)


def test_without_jitter_the_backoff_doubles_up_to_its_maximum():
    policy = RetryPolicy(jitter="none", max=10.0)
    assert [policy.backoff(attempt, random.random) for attempt in (1, 2, 3, 4, 5, 2000)] == [1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (401, Verdict.REFRESH_AUTH),
        (403, Verdict.FATAL),
        (404, Verdict.FATAL),
        (408, Verdict.RETRY),
        (425, Verdict.RETRY),
        (429, Verdict.RATE_LIMITED),
        (500, Verdict.RETRY),
        (501, Verdict.FATAL),
        (504, Verdict.RETRY),
    ],
)
def test_classification(status, verdict):
    assert RetryPolicy().verdict(status) is verdict


def test_a_429_that_the_policy_does_not_list_is_fatal():
    assert RetryPolicy(statuses=frozenset({503})).verdict(429) is Verdict.FATAL


def test_the_server_s_wait_and_the_backoff_the_longer_one_holds():
    run = attempts()
    assert run.wait_after(AttemptFailed(Verdict.RETRY, ERROR, 0.5)) == 1.0
    assert run.wait_after(AttemptFailed(Verdict.RETRY, ERROR, 30.0)) == 30.0
    assert run.wait_after(AttemptFailed(Verdict.RETRY, ERROR, None)) == 4.0


def test_a_wait_of_exactly_retry_after_max_is_waited_and_a_longer_one_stops():
    assert attempts().wait_after(AttemptFailed(Verdict.RATE_LIMITED, ERROR, 3600.0)) == 3600.0
    with pytest.raises(StoppedError) as caught:
        attempts().wait_after(AttemptFailed(Verdict.RATE_LIMITED, ERROR, 3600.5))
    assert caught.value.code == 75


def test_waits_that_the_server_asks_for_do_not_count_as_elapsed():
    now = [0.0]
    run = attempts(RetryPolicy(max_elapsed=10.0), clock=lambda: now[0])
    for _ in range(3):
        now[0] += run.wait_after(AttemptFailed(Verdict.RATE_LIMITED, ERROR, 600.0))
    assert now[0] == 1800.0


def test_credentials_are_renewed_only_once_a_request():
    run = attempts()
    assert run.wait_after(AttemptFailed(Verdict.REFRESH_AUTH, ERROR)) == 0.0
    with pytest.raises(UnavailableError):
        run.wait_after(AttemptFailed(Verdict.REFRESH_AUTH, ERROR))


def test_fatal_is_fatal_at_the_first_attempt():
    with pytest.raises(UnavailableError):
        attempts().wait_after(AttemptFailed(Verdict.FATAL, ERROR))


def test_one_attempt_means_no_retry():
    with pytest.raises(UnavailableError):
        attempts(RetryPolicy(max_attempts=1)).wait_after(AttemptFailed(Verdict.RETRY, ERROR))
