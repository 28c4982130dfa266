"""The campaigns of benchmarks/, run as a user runs them, and what they have recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.target.zygote import ROOT


def campaign(script: str, *options: str) -> str:
    """Run a campaign; what it printed. Fails with its output where a run failed."""
    command = [sys.executable, f"benchmarks/{script}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def recorded(name: str) -> list[dict[str, Any]]:
    """The runs that stand in a results file."""
    return [json.loads(line) for line in (ROOT / "benchmarks" / "results" / name).read_text().splitlines()]


def assert_documented(script: str) -> None:
    """docs/reliability.md shows what stands in the results file, as it is."""
    block = f"```console\n$ python benchmarks/{script} --report\n{campaign(script, '--report')}```\n"
    assert block in (ROOT / "docs" / "reliability.md").read_text()
