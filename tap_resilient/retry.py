"""Whether, when and how often a failed request is sent again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resilient_core.errors import Fault
from resilient_core.settings import Setting
from tap_resilient.blocks import read_block

SETTINGS = (
    Setting("statuses", "array", "Statuses that are retried", [408, 425, 429, 500, 502, 503, 504]),
    Setting("max_attempts", "integer", "Attempts in all, the first one included", 6),
    Setting("base", "duration", "Backoff before the second attempt; doubles with each further one", "1s"),
    Setting("max", "duration", "Longest backoff", "60s"),
    Setting(
        "jitter", "options", "full: a random wait from 0 to the backoff; none: the backoff", "full", ("full", "none")
    ),
    Setting("max_elapsed", "duration", "Time for all attempts together", "15m"),
    Setting("retry_after_max", "duration", "Longest wait a server may ask for; beyond it the run stops (75)", "1h"),
)


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
