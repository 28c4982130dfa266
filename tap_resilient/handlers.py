"""Error handlers: predicates over an answer (JMESPath over status, headers, body) that name an action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jmespath
import jmespath.exceptions
from jmespath.parser import ParsedResult

from resilient_core.errors import Fault
from resilient_core.settings import Setting
from tap_resilient.blocks import read_block
from tap_resilient.exchange import Response

ACTIONS = (
    "retry",
    "rate_limited",
    "refresh_auth",
    "shrink_page",
    "split_window",
    "skip_page",
    "skip_partition",
    "stop",
    "fail",
    "success",
)

SETTINGS = (
    Setting("when", "string", "JMESPath over {status, headers (lower case), body}; true selects", required=True),
    Setting("action", "options", "What to do with such an answer", options=ACTIONS, required=True),
)


@dataclass(frozen=True)
class ErrorHandler:
    """Names the action for the answers that its predicate selects. The first handler that matches decides."""

    when: ParsedResult
    action: str

    @classmethod
    def parse(cls, value: Any, where: str) -> tuple[ErrorHandler, list[Fault]]:
        """The handler of `{when, action}`, with every fault found; a faulty one matches nothing."""
        block, faults = read_block(SETTINGS, value, where)
        try:
            when = jmespath.compile(block["when"] or "`false`")
        except jmespath.exceptions.JMESPathError:
            faults.append(Fault(f"{where}.when", "is not a valid JMESPath expression"))
            when = jmespath.compile("`false`")
        return cls(when, block["action"] or "fail"), faults

    def matches(self, response: Response) -> bool:
        """Whether the predicate holds (JMESPath truth; an expression that meets a wrong type is false)."""
        facts = {"status": response.status, "headers": response.headers, "body": response.body}
        try:
            found = self.when.search(facts)
        except jmespath.exceptions.JMESPathError:
            return False
        return found not in (None, False, "", [], {})


def parse_handlers(value: Any, where: str) -> tuple[tuple[ErrorHandler, ...], list[Fault]]:
    """The handlers of a list, in order, with every fault found. None means no handlers."""
    if value is None:
        return (), []
    if not isinstance(value, Sequence) or isinstance(value, str | Mapping):
        return (), [Fault(where, "must be a list of {when, action}")]
    parsed = [ErrorHandler.parse(item, f"{where}[{index}]") for index, item in enumerate(value)]
    return tuple(handler for handler, _ in parsed), [fault for _, faults in parsed for fault in faults]
