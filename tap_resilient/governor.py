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
from tap_resilient.pacing import LATE_SECONDS, NEVER, Pace, Probe, Quota
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
        self._learned = Pace(late=LATE_SECONDS)
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
            while (wait := self.try_turn()) > 0:
                if self._pause() > self._max_wait:
                    raise too_long(self._pause(), self._max_wait)
                if wait >= LOGGED_WAIT_SECONDS:
                    self._log.info(facts("waiting for the rate limit", seconds=wait))
                self._sleep(wait)
            try:
                yield self._clock()
            finally:
                self.done()

    def try_turn(self) -> float:
        """Take a turn if it is time for one (0), else say in how many seconds to try again."""
        with self._lock:
            now = self._clock()
            rates = [rate for rate in (self._announced, self._probe.rate) if rate]
            self._learned.rate = min(rates, default=None)
            wait = max(self._pause(), self._budget.ready_at() - now, self._learned.ready_at() - now)
            if wait > 0:
                return wait
            self._in_flight += 1
            for pace in (self._budget, self._learned, self._quota, self._probe):
                pace.take(now)
            return 0.0

    def done(self) -> None:
        """The turn is over."""
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
            if counted or self._probe.rate is None:
                self._gate = max(self._gate, now + wait)

    def pause(self, wait: float) -> None:
        """Nobody sends for `wait` seconds: the server said so."""
        with self._lock:
            self._gate = max(self._gate, self._clock() + wait)

    def _pause(self) -> float:
        """Seconds for which the server wants to see nothing of us."""
        now = self._clock()
        return max(self._gate, self._quota.ready_at(now)) - now
