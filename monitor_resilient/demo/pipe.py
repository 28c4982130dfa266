"""Runs the real commands of the tour and keeps what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TAP = "from tap_resilient.tap import main; main()"
_TARGET = "from target_resilient.target import main; main()"
_SAID = re.compile(r"\S+Z (?:ERROR|WARNING) [\w.-]+ (?:[A-Z]\w+: )?(.*)")


@dataclass(frozen=True)
class Ran:
    """How `tap | target` ended. `said` is what the one that failed said last; empty if none did."""

    tap_code: int
    target_code: int
    said: str


@dataclass
class Pipe:
    """`tap-resilient | target-resilient`, state from and to a file, in one folder."""

    folder: Path

    def run(self) -> Ran:
        """Load from the saved state on; the new state is saved if one came."""
        with (
            self._open("tap.log") as tap_log,
            self._open("target.log") as target_log,
            subprocess.Popen(self._tap(), stdout=subprocess.PIPE, stderr=tap_log) as tap,  # noqa: S603 our own
        ):
            command, pipe = self._target("target.json"), subprocess.PIPE
            target = subprocess.run(command, stdin=tap.stdout, stdout=pipe, stderr=target_log, check=False)  # noqa: S603
        if lines := target.stdout.splitlines():
            (self.folder / "state.json").write_bytes(lines[-1])
        failed = "tap" if tap.returncode else "target" if target.returncode else ""
        return Ran(tap.returncode, target.returncode, self._said(failed) if failed else "")

    def extract(self) -> list[bytes]:
        """All messages of a tap that knows no state."""
        with self._open("tap.log") as log:
            done = subprocess.run(self._tap(fresh=True), stdout=subprocess.PIPE, stderr=log, check=True)  # noqa: S603
        return done.stdout.splitlines(keepends=True)

    def load_and_kill(self, config: str, lines: list[bytes]) -> None:
        """Feed `lines` to a target and SIGKILL it as soon as it has acknowledged a first STATE."""
        command = self._target(config)
        with (
            self._open("killed.log") as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as target,  # noqa: S603
        ):
            assert target.stdin is not None  # noqa: S101 a pipe was asked for
            assert target.stdout is not None  # noqa: S101
            target.stdin.writelines(lines)
            target.stdin.flush()
            target.stdout.readline()
            target.kill()

    def load(self, config: str, lines: list[bytes]) -> int:
        """Feed `lines` to a target; its exit code."""
        with self._open("target.log") as log:
            command, data = self._target(config), b"".join(lines)
            return subprocess.run(command, input=data, stdout=subprocess.DEVNULL, stderr=log, check=False).returncode  # noqa: S603

    def write(self, name: str, config: Mapping[str, Any]) -> None:
        """Write a configuration file."""
        (self.folder / name).write_text(json.dumps(config, indent=2), encoding="utf-8")

    def _tap(self, *, fresh: bool = False) -> list[str]:
        state = self.folder / "state.json"
        options = ["--state", str(state)] if state.exists() and not fresh else []
        return [sys.executable, "-c", _TAP, "--config", str(self.folder / "tap.json"), *options]

    def _target(self, config: str) -> list[str]:
        return [sys.executable, "-c", _TARGET, "--config", str(self.folder / config)]

    def _open(self, name: str) -> Any:
        return (self.folder / name).open("ab")

    def _said(self, end: str) -> str:
        lines = (self.folder / f"{end}.log").read_text(encoding="utf-8").splitlines()
        told = [match[1] for line in lines if (match := _SAID.match(line))]
        return next((line for line in reversed(told) if not line.startswith("finished")), "")
