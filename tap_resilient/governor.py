"""One governor a quota scope (origin and credential): all streams and threads send through it, and wait together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from resilient_core.errors import Fault
from resilient_core.settings import Setting
from resilient_core.telemetry import facts
from tap_resilient.blocks import read_block
from tap_resilient.hints import Hints
from tap_resilient.pacing import NEVER, Pace, Probe, Quota
from tap_resilient.retry import too_long

LOGGED_WAIT_SECONDS = 5.0

SETTINGS = (
    Setting("requests", "integer", "Requests allowed in `per`; without it only the server's limits hold"),
    Setting("per", "duration", "Time for `requests`", "1s"),
    Setting("burst", "integer", "Requests that may be sent at once", 1),
    Setting("concurrency", "integer", "Requests under way at the same time", 4),
    Setting("adaptive", "boolean", "Learn a limit that nobody told from what the server refuses", True),
    Setting("headers", "options", "auto: follow the server's rate limit headers", "auto", ("auto", "none")),
)


@dataclass(frozen=True)
class RateLimit:
    """The `rate_limit:` block. `rate` is in requests a second, None for no budget of our own."""

    rate: float | None = None
    burst: int = 1
    concurrency: int = 4
    adaptive: bool = True
    headers: str = "auto"

    @classmethod
    def parse(cls, value: Any, where: str) -> tuple[RateLimit, list[Fault]]:
        """The limit of a `rate_limit:` block, with every fault found."""
        block, faults = read_block(SETTINGS, value, where)
        requests, per = block.pop("requests"), block.pop("per")
        for name, number in (("requests", requests), ("burst", block["burst"]), ("concurrency", block["concurrency"])):
            if number is not None and number < 1:
                faults.append(Fault(f"{where}.{name}", "must be at least 1"))
        if per <= 0:
            faults.append(Fault(f"{where}.per", "must be longer than 0"))
        return cls(rate=requests / per if requests and per > 0 else None, **block), faults


class Governor:
    """Lets requests through at the pace that the budget, the server's headers and its refusals allow.

    `max_wait` is the longest pause (seconds) that it sits out; a longer one raises StoppedError in every thread.
    """

    def __init__(
        self,
        limit: RateLimit,
        *,
        max_wait: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit = limit
        self._max_wait = max_wait
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(max(limit.concurrency, 1))
        self._in_flight = 0
        self._gate = NEVER
        self._budget = Pace(limit.rate, limit.burst)
        self._learned = Pace(slack=0.001)  # a sleep that overshoots a little must not lower the rate
        self._announced: float | None = None
        self._quota = Quota()
        self._probe = Probe()
        self._log = logging.getLogger("tap-resilient")

    @contextmanager
    def turn(self) -> Iterator[float]:
        """Wait for one's turn to send; gives the time of sending. The place is free again at the end of the block.

        Raises StoppedError if the pause would last longer than `max_wait`.
        """
        with self._places:
            sent_at = self._wait_for_turn()
            try:
                yield sent_at
            finally:
                with self._lock:
                    self._in_flight -= 1

    def heard(self, hints: Hints) -> None:
        """Take note of what an answer says about the quota. Call it within the turn."""
        if self._limit.headers == "none":
            return
        with self._lock:
            self._announced = hints.rate or self._announced
            if hints.remaining is not None:
                self._quota.heard(self._clock(), hints.remaining, hints.reset, self._in_flight - 1)

    def accepted(self) -> None:
        """A request was not refused for its rate."""
        with self._lock:
            self._probe.accepted(self._clock())

    def refused(self, sent_at: float, wait: float) -> None:
        """The request sent at `sent_at` was refused for its rate; nobody sends for `wait` seconds.

        Of several refusals at a time only the first one counts, so that a random wait is not the longest of many.
        """
        with self._lock:
            now = self._clock()
            counted = self._limit.adaptive and self._probe.refused(now, sent_at, wait)
            if counted or self._learned.rate is None:
                self._gate = max(self._gate, now + wait)

    def pause(self, wait: float) -> None:
        """Nobody sends for `wait` seconds: the server said so."""
        with self._lock:
            self._gate = max(self._gate, self._clock() + wait)

    def rest(self, wait: float) -> None:
        """Wait before one's own next attempt."""
        self._wait(wait, "retry")

    def _wait_for_turn(self) -> float:
        while True:
            with self._lock:
                now = self._clock()
                wait, why = self._delay(now)
                if wait <= 0:
                    self._take(now)
                    return now
            if why == "pause" and wait > self._max_wait:
                raise too_long(wait, self._max_wait)
            self._wait(wait, why)

    def _delay(self, now: float) -> tuple[float, str]:
        rates = [rate for rate in (self._announced, self._probe.rate) if rate]
        self._learned.rate = min(rates, default=None)
        pause = max(self._gate, self._quota.ready_at(now)) - now
        pace = max(self._budget.ready_at(), self._learned.ready_at()) - now
        return (pause, "pause") if pause > pace else (pace, "pace")

    def _take(self, now: float) -> None:
        self._in_flight += 1
        self._budget.take(now)
        self._learned.take(now)
        self._quota.take(now)
        self._probe.sent(now)

    def _wait(self, seconds: float, why: str) -> None:
        if seconds <= 0:
            return
        if seconds >= LOGGED_WAIT_SECONDS and why != "pace":
            self._log.info(facts("waiting", seconds=seconds, reason=why))
        self._sleep(seconds)
