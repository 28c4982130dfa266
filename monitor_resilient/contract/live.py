"""Live records: a tap's own messages, read until there are enough."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

from resilient_core.errors import NotSingerError, UnavailableError, UsageError

_TAP = "from tap_resilient.tap import main; main()"


@dataclass
class Sample:
    """Records of one stream, and the keys that its SCHEMA names."""

    records: list[dict[str, Any]] = field(default_factory=list)
    keys: tuple[str, ...] = ()
    others: set[str] = field(default_factory=set)


def sample_of(lines: Iterator[bytes], stream: str, limit: int) -> Sample:
    """Up to `limit` records of `stream`. Raises NotSingerError, UsageError if the stream does not come."""
    sample = Sample()
    for message in islice(_messages(lines, stream, sample), limit):
        sample.records.append(message["record"])
    if not sample.records:
        known = f"; there are: {', '.join(sorted(sample.others))}" if sample.others else ""
        raise UsageError(f"no record of stream '{stream}' came{known}")
    return sample


@contextmanager
def tap_output(config_path: str) -> Iterator[IO[bytes]]:
    """What tap-resilient writes. Its log goes to our stderr; it is ended once we have read enough.

    Raises UnavailableError if nothing usable came because the tap failed.
    """
    command = [sys.executable, "-c", _TAP, "--config", config_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 our own command
        assert process.stdout is not None  # noqa: S101 a pipe was asked for
        try:
            yield process.stdout
        except UsageError:
            if code := process.wait():
                raise UnavailableError(f"the tap ended with exit code {code}; its own message is above") from None
            raise
        finally:
            process.kill()  # it holds nothing: the messages are ours already


def _messages(lines: Iterator[bytes], stream: str, sample: Sample) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        message = _message(line, number)
        kind, name = message.get("type"), message.get("stream")
        if name != stream:
            sample.others.update({str(name)} if kind == "RECORD" else ())
        elif kind == "SCHEMA":
            sample.keys = _keys(message.get("key_properties"))
        elif kind == "RECORD" and isinstance(message.get("record"), dict):
            yield message


def _message(line: bytes, number: int) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        raise NotSingerError(f"line {number} is not a Singer message") from None
    if not isinstance(message, dict):
        raise NotSingerError(f"line {number} is not a Singer message")
    return message


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else ()
