"""How fast to send: a known rate, a quota that the server counts down, and a limit that nobody told.

All are plain state machines on one clock (seconds), without locks or sleep; the governor drives them.
"""

from __future__ import annotations

from collections import deque

NEVER = float("-inf")


LATE_SECONDS = 0.02
"""What sleeping too long may cost a request; the next one makes up for it, so that the rate is kept."""


class Pace:
    """A token bucket as the generic cell rate algorithm (ITU-T I.371).

    `rate` is in requests a second, None for no limit; `late` is the lateness in seconds that the next request makes up.
    """

    def __init__(self, rate: float | None = None, burst: int = 1, *, late: float = 0.0) -> None:
        self.rate = rate
        self._burst = burst
        self._late = late
        self._full_at = NEVER

    def ready_at(self) -> float:
        """The time from which a request may be sent."""
        return self._full_at - (self._burst - 1) / self.rate if self.rate else NEVER

    def take(self, now: float) -> None:
        """A request is sent now."""
        if self.rate:
            is_just_late = now - self.ready_at() <= self._late
            self._full_at = (self._full_at if is_just_late else max(self._full_at, now)) + 1 / self.rate


class Quota:
    """Requests that the server says are left until a reset, and how fast it refills them.

    A quota is used up at full speed and its reset awaited; but one that refills all the time (a token bucket) is paced
    by its refill once it runs low, because waiting for a reset in whole seconds would waste it.
    """

    LOW = 4
    SHORTEST_MEASURE = 0.1
    LONGEST_MEASURE = 2.0

    def __init__(self) -> None:
        self._left: float | None = None
        self._reset_at = NEVER
        self._pace = Pace(late=LATE_SECONDS)
        self._full = 0
        self._refill = 0.0
        self._answers = 0
        self._measure_from = (NEVER, 0, 0)  # when, answers until then, left at that time

    def heard(self, now: float, remaining: int, reset: float | None, in_flight: int) -> None:
        """The server answered now with `remaining` requests left until `reset` seconds from now (None: unknown)."""
        self._answers += 1
        self._left = remaining - in_flight
        self._reset_at = NEVER if reset is None else now + reset
        self._measure(now, remaining)
        # In proportion to what is left it settles at half of LOW, instead of drifting to zero or away.
        self._pace.rate = self._refill * remaining / (self.LOW / 2) or None

    def ready_at(self, now: float) -> float:
        """The time from which a request may be sent."""
        if self._left is None or now >= self._reset_at:
            return NEVER
        if self._left <= 0:
            return self._reset_at
        return min(self._pace.ready_at(), self._reset_at) if self._left <= self.LOW else NEVER

    def take(self, now: float) -> None:
        """A request is sent now."""
        self._pace.take(now)
        if self._left is not None:
            self._left -= 1

    def _measure(self, now: float, remaining: int) -> None:
        self._full = max(self._full, remaining)
        since, answers, left = self._measure_from
        seconds, is_full = now - since, remaining >= self._full - 1
        if self.SHORTEST_MEASURE <= seconds < 2 * self.LONGEST_MEASURE:
            refill = max(remaining - left + self._answers - answers, 0) / seconds
            self._refill = max(refill, self._refill) if is_full else refill  # a full bucket hides what it gains
        if is_full or seconds >= self.LONGEST_MEASURE:
            self._measure_from = (now, self._answers, remaining)


class Probe:
    """Learns a limit that nobody told from what is refused.

    Nothing holds it back until the first refusal. Then it starts from what was accepted until then, doubles every
    second until the next refusal, and from there on measures: at a refusal the server's bucket is empty, so what it
    accepted since is what it refilled. That is a lower bound of the limit, hence the slow growth that follows: cubic
    as in CUBIC (RFC 9438), but up from the measured rate; there is no multiplicative decrease, which saws too deep.
    What was measured over a short time is less certain, and grows faster.
    """

    GROWTH_SECONDS = (30.0, 80.0)  # until the rate has doubled, at least and at most
    GROWTH_REQUESTS = (200, 500)
    CERTAINTY = 4  # the growth takes so many times as long as the measure did
    LARGEST_CUT = 0.5
    MEASURABLE = 5
    SHORT_SECONDS = 0.25
    SAMPLES = 4096

    def __init__(self) -> None:
        self.rate: float | None = None
        self._plateau: float | None = None
        self._since: float | None = None  # the last counted refusal; at first, the first request
        self._resumed = NEVER
        self._accepted = 0
        self._samples: deque[tuple[float, int]] = deque(maxlen=self.SAMPLES)
        self._growth: tuple[float, float] = (self.GROWTH_SECONDS[1], self.GROWTH_REQUESTS[1])
        self._burst: tuple[int, float] | None = None  # accepted until the first refusal, and in how many seconds

    def take(self, now: float) -> None:
        """A request is sent now."""
        if self._since is None:
            self._since = now

    def accepted(self, now: float) -> None:
        """A request was accepted now."""
        self._accepted += 1
        if self.rate is None:
            return
        self._samples.append((now, self._accepted))
        if self._plateau is None:
            self.rate *= min(2 ** (1 / self.rate), 1.25)
        else:
            seconds, requests = (now - self._resumed) / self._growth[0], self._accepted / self._growth[1]
            self.rate = self._plateau * (1 + max(0.0, min(seconds, requests)) ** 3)

    def refused(self, now: float, sent_at: float, wait: float) -> bool:
        """A request sent at `sent_at` was refused now; the next one is `wait` seconds away.

        False if it belongs to a refusal already counted (it was sent before the pace changed).
        """
        if sent_at < self._resumed or not self._accepted or self._since is None:
            return False
        self._resumed = now + wait
        if self.rate and self._accepted < self.MEASURABLE:
            self.rate /= 2  # too fast, and too little to measure: go on counting
            return True
        self.rate = self._first_guess(now, wait) if self.rate is None else self._measured(now)
        self._since, self._accepted = now, 0
        self._samples.clear()
        return True

    def _first_guess(self, now: float, wait: float) -> float:
        elapsed = now - (self._since or now)
        self._burst = (self._accepted, elapsed)
        return self._accepted / max(elapsed + wait, self.SHORT_SECONDS)

    def _measured(self, now: float) -> float:
        elapsed = max(now - (self._since or now), 0.001)
        refill = max(self._accepted / elapsed, self._refill_beyond_burst(now, elapsed))
        at_most = self.rate or refill
        self._plateau = min(max(refill, self.LARGEST_CUT * at_most), at_most)
        self._growth = (
            _within(self.GROWTH_SECONDS, self.CERTAINTY * elapsed),
            _within(self.GROWTH_REQUESTS, self.CERTAINTY * self._accepted),
        )
        return self._plateau

    def _refill_beyond_burst(self, now: float, elapsed: float) -> float:
        """The best lower bound of the refill: over any past stretch, what was accepted beyond a full bucket."""
        accepted, seconds = self._burst or (0, 0.0)
        burst = accepted - self._accepted / elapsed * seconds
        stretches = ((self._accepted - count + 1 - burst, now - at) for at, count in self._samples)
        return max((surplus / seconds for surplus, seconds in stretches if seconds > self.SHORT_SECONDS), default=0.0)


def _within(limits: tuple[float, float], value: float) -> float:
    return min(max(value, limits[0]), limits[1])
