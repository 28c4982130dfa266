"""Error handlers: what they match, and what is wrong with them before the first request."""

import pytest

from tap_resilient.exchange import Response
from tap_resilient.handlers import ACTIONS, ErrorHandler, parse_handlers

ANSWER = Response(403, {"x-ratelimit-remaining": "0"}, {"error": {"code": 7}, "items": []}, 10, "http://x/")


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        ("status == `403`", True),
        ("status == `404`", False),
        ("headers.\"x-ratelimit-remaining\" == '0'", True),
        ("body.error", True),
        ("body.items", False),
        ("body.nothing.at.all", False),
        ("contains(body.error, 'x')", False),
        ("length(status)", False),
    ],
)
def test_predicates_over_an_answer_never_crash(when, matches):
    handler, faults = ErrorHandler.parse({"when": when, "action": "retry"}, "h")
    assert not faults
    assert handler.matches(ANSWER) is matches


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_of_the_design_is_known(action):
    assert parse_handlers([{"when": "status", "action": action}], "h")[1] == []


def test_all_faults_of_a_list_are_told_with_their_place():
    _, faults = parse_handlers(
        [{"when": "a ==", "action": "retry"}, {"wen": "a", "action": "retyr"}], "s.error_handler"
    )
    assert [str(fault) for fault in faults] == [
        "s.error_handler[0].when: is not a valid JMESPath expression",
        "s.error_handler[1].wen: unknown setting; did you mean 'when'?",
        "s.error_handler[1].when: is required",
        f"s.error_handler[1].action: must be one of: {', '.join(ACTIONS)}",
    ]
    assert parse_handlers({"when": "a"}, "h")[1][0].message == "must be a list of {when, action}"
    assert parse_handlers(None, "h") == ((), [])
