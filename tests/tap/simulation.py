"""Servers with a limit and workers under a governor, on a simulated clock: minutes of traffic in milliseconds."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from tap_resilient.governor import Governor, RateLimit
from tap_resilient.hints import Hints
from tap_resilient.retry import RetryPolicy


class Bucket:
    """A token bucket, full at the start; its rate halves at `halves_at`."""

    def __init__(self, rate: float, burst: float, halves_at: float = math.inf) -> None:
        self.full_rate, self.burst, self.halves_at = rate, burst, halves_at
        self.tokens, self.at = burst, 0.0

    def rate(self, now: float) -> float:
        return self.full_rate if now < self.halves_at else self.full_rate / 2

    def allows(self, now: float) -> bool:
        self.tokens, self.at = min(self.burst, self.tokens + (now - self.at) * self.rate(now)), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def ideal_seconds(self, requests: int) -> float:
        seconds = (requests - self.burst) / self.full_rate
        return seconds if seconds <= self.halves_at else 2 * seconds - self.halves_at


class Window:
    """A fixed window: so many requests in each."""

    def __init__(self, requests: int, seconds: float) -> None:
        self.requests, self.seconds = requests, seconds
        self.window, self.used = -1, 0

    def allows(self, now: float) -> bool:
        window = int(now // self.seconds)
        if window != self.window:
            self.window, self.used = window, 0
        self.used += 1
        return self.used <= self.requests

    def ideal_seconds(self, requests: int) -> float:
        return (requests // self.requests - 1) * self.seconds


Announce = Callable[..., Hints]


def policy(server: Bucket, now: float) -> Hints:
    return Hints(rate=server.rate(now))


def tokens_left(server: Bucket, now: float) -> Hints:
    return Hints(remaining=int(server.tokens), reset=1.0)


def window_left(server: Window, now: float) -> Hints:
    left = max(server.requests - server.used, 0)
    return Hints(remaining=left, reset=float(math.ceil(server.seconds - now % server.seconds)))


@dataclass
class Outcome:
    """`excess` is the time beyond the ideal one, `refused` the share of requests that were refused."""

    excess: float
    refused: float


def simulate(
    server: Bucket | Window,
    requests: int,
    *,
    workers: int = 1,
    seed: int = 0,
    announce: Announce | None = None,
    limit: RateLimit | None = None,
) -> Outcome:
    """Send `requests` through one governor by `workers`, each with about 2 ms of latency."""
    source, policy, now = random.Random(seed), RetryPolicy(), [0.0]
    governor = Governor(limit or RateLimit(concurrency=workers), clock=lambda: now[0])
    events = [(0.0, worker, "next", 0.0, 0) for worker in range(workers)]
    left, done, refused, finished, number = requests, 0, 0, 0.0, workers
    while events:
        now[0], _, what, sent_at, attempt = heapq.heappop(events)
        number += 1
        if what == "next" and not left:
            continue
        if what in ("next", "again"):
            wait = governor.try_turn()
            if wait > 0:
                late = source.uniform(0, 0.0005)
                heapq.heappush(events, (now[0] + wait + late, number, what, 0.0, attempt))
                continue
            left -= what == "next"
            heapq.heappush(events, (now[0] + source.uniform(0.001, 0.003), number, "answer", now[0], attempt + 1))
            continue
        allowed = server.allows(now[0])
        hints = announce(server, now[0]) if announce else Hints()
        governor.heard(hints)
        governor.done()
        if allowed:
            governor.accepted()
            done, finished = done + 1, now[0]
            heapq.heappush(events, (now[0], number, "next", 0.0, 0))
        else:
            refused += 1
            if hints.wait:
                governor.pause(hints.wait)
            wait = max(hints.wait or 0.0, policy.backoff(attempt, source.random))
            governor.refused(sent_at, wait)
            heapq.heappush(events, (now[0] + wait, number, "again", 0.0, attempt))
    assert done == requests
    return Outcome(finished / server.ideal_seconds(requests) - 1, refused / requests)
