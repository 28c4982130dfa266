"""Contracts: drafted from what a tap really sends."""

from __future__ import annotations

from datetime import date
from typing import IO, Any

from monitor_resilient.contract.infer import doubts, draft, look
from monitor_resilient.contract.live import Sample, sample_of, tap_output
from resilient_core.errors import UsageError


def draft_contract(
    stream: str, tap_config: str | None, lines: IO[bytes] | None, limit: int, day: date
) -> tuple[dict[str, Any], list[str]]:
    """A draft from up to `limit` records that the tap of `tap_config` sends, or that `lines` holds, and its doubts.

    Raises UsageError unless exactly one of the two is given, and if the stream does not come.
    """
    if (tap_config is None) == (lines is None):
        raise UsageError("contract infer: give --tap or --input, one of them")
    sample = _sample(stream, tap_config, lines, limit)
    seen = look(sample.records)
    return draft(seen, sample.keys, day=day, title=stream), list(doubts(seen))


def _sample(stream: str, tap_config: str | None, lines: IO[bytes] | None, limit: int) -> Sample:
    if lines is not None:
        return sample_of(iter(lines), stream, limit)
    assert tap_config is not None  # noqa: S101 one of the two is given
    with tap_output(tap_config) as output:
        return sample_of(iter(output), stream, limit)
