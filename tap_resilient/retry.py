"""Whether, when and how often a failed request is sent again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from resilient_core.errors import Fault, ResilientError, StoppedError
from resilient_core.settings import Setting
from tap_resilient.blocks import read_block

SETTINGS = (
    Setting("statuses", "array", "Statuses that are retried", [408, 425, 429, 500, 502, 503, 504]),
    Setting("max_attempts", "integer", "Attempts in all, the first one included", 6),
    Setting("base", "duration", "Backoff before the second attempt; doubles with each further one", "1s"),
    Setting("max", "duration", "Longest backoff", "60s"),
    Setting("jitter", "options", "full: a random wait up to the backoff; none: the backoff", "full", ("full", "none")),
    Setting("max_elapsed", "duration", "Time for all attempts, without the waits that the server asks for", "15m"),
    Setting("retry_after_max", "duration", "Longest wait a server may ask for; beyond it the run stops (75)", "1h"),
)


class Verdict(Enum):
    """What a failed attempt calls for."""

    RETRY = "retry"
    RATE_LIMITED = "rate_limited"
    REFRESH_AUTH = "refresh_auth"
    FATAL = "fatal"


class AttemptFailed(Exception):  # noqa: N818 - carries an error, is none that a user sees
    """One attempt failed. `error` is what the user sees if it was the last one.

    `server_wait` is in seconds, None if the server said nothing.
    """

    def __init__(self, verdict: Verdict, error: ResilientError, server_wait: float | None = None) -> None:
        self.verdict = verdict
        self.error = error
        self.server_wait = server_wait
        super().__init__(str(error))


@dataclass(frozen=True)
class RetryPolicy:
    """The policy as a value. All times are seconds; `max_attempts` counts the first attempt."""

    statuses: frozenset[int] = frozenset({408, 425, 429, 500, 502, 503, 504})
    max_attempts: int = 6
    base: float = 1.0
    max: float = 60.0
    jitter: str = "full"
    max_elapsed: float = 900.0
    retry_after_max: float = 3600.0

    @classmethod
    def parse(cls, value: Any, where: str) -> tuple[RetryPolicy, list[Fault]]:
        """The policy of a `retry:` block, with every fault found."""
        block, faults = read_block(SETTINGS, value, where)
        if not all(isinstance(status, int) and 400 <= status <= 599 for status in block["statuses"]):
            faults.append(Fault(f"{where}.statuses", "must be a list of HTTP error statuses, such as [429, 503]"))
            block["statuses"] = ()
        if block["max_attempts"] < 1:
            faults.append(Fault(f"{where}.max_attempts", "must be at least 1"))
        return cls(**{**block, "statuses": frozenset(block["statuses"])}), faults

    def verdict(self, status: int) -> Verdict:
        """What an answer with this error status calls for, if no error handler says otherwise."""
        if status == 401:
            return Verdict.REFRESH_AUTH
        if status not in self.statuses:
            return Verdict.FATAL
        return Verdict.RATE_LIMITED if status == 429 else Verdict.RETRY

    def backoff(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after the `attempt`-th attempt (starts at 1); `random` gives a number from 0 to 1."""
        ceiling = min(self.max, self.base * 2.0 ** min(attempt - 1, 60))
        return ceiling * random() if self.jitter == "full" else ceiling


class Attempts:
    """Counts the attempts of one request against its policy."""

    def __init__(self, policy: RetryPolicy, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self.made = 0
        self._policy = policy
        self._clock = clock
        self._random = random
        self._started = clock()
        self._told = 0.0
        self._renewed = False

    def wait_after(self, failure: AttemptFailed) -> float:
        """Seconds to wait before the next attempt: never less than the server said.

        Raises the failure's own error if there is no next attempt, StoppedError if the server asks for too long a wait.
        """
        self.made += 1
        if failure.verdict is Verdict.FATAL:
            raise failure.error
        if failure.verdict is Verdict.REFRESH_AUTH:
            return self._once(failure)
        told = failure.server_wait or 0.0
        if told > self._policy.retry_after_max:
            raise too_long(told, self._policy.retry_after_max)
        backoff = self._policy.backoff(self.made, self._random)
        if self.made >= self._policy.max_attempts or self._own_time() + backoff > self._policy.max_elapsed:
            raise failure.error
        self._told += told
        return max(told, backoff)

    def _once(self, failure: AttemptFailed) -> float:
        if self._renewed:
            raise failure.error
        self._renewed = True
        return 0.0

    def _own_time(self) -> float:
        return self._clock() - self._started - self._told


def too_long(wait: float, limit: float) -> StoppedError:
    """The clean stop for a wait that is longer than `retry_after_max`."""
    return StoppedError(
        f"the server asks to wait {wait:.0f} s, longer than retry_after_max ({limit:.0f} s): run again after that time"
    )
