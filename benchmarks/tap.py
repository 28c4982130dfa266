"""How close tap-resilient comes to a bare requests + orjson loop: 200,000 rows in pages of 1,000 from loopback.

Both contenders run in turns as processes of their own against one forked server with prebuilt pages, each reading all
pages and writing one RECORD line a row to a file. Prints the median of the ratios and the peak RSS.

    python benchmarks/tap.py [--rows 200000] [--page 1000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loopback import Answer, serving

ROOT = Path(__file__).resolve().parents[1]

BARE = """
import sys, orjson, requests
url, pages = sys.argv[1], int(sys.argv[2])
session, out = requests.Session(), sys.stdout.buffer
for page in range(1, pages + 1):
    rows = orjson.loads(session.get(url, params={"page": page}).content)["data"]
    out.write(b"".join(b'{"type":"RECORD","stream":"rows","record":' + orjson.dumps(row) + b"}\\n" for row in rows))
"""


def rows(first: int, count: int) -> list[dict[str, object]]:
    """Narrow records of eight columns."""
    return [
        {
            "id": number,
            "customer_id": number % 9973,
            "status": ("new", "paid", "shipped")[number % 3],
            "amount": number * 0.25,
            "currency": "EUR",
            "note": f"order number {number}",
            "express": number % 2 == 0,
            "updated_at": f"2024-01-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z",
        }
        for number in range(first, first + count)
    ]


def answers(total: int, page_size: int) -> Answer:
    """Prebuilt pages by number, empty behind the last."""
    pages = [
        json.dumps({"data": rows(first, page_size), "total": total}).encode() for first in range(0, total, page_size)
    ]
    empty = json.dumps({"data": [], "total": total}).encode()
    return lambda _, query: pages[query["page"] - 1] if query["page"] <= len(pages) else empty


def tap_config(url: str, page_size: int) -> dict[str, object]:
    """The source: pages by number, a declared total, an incremental key, an inferred schema."""
    stream = {
        "name": "rows",
        "path": "/rows",
        "records": {"path": "data"},
        "paginator": {"type": "page", "page_size": page_size, "total_path": "total"},
        "primary_keys": ["id"],
        "incremental": {"replication_key": "id", "type": "integer", "row_order": "asc"},
    }
    return {"client": {"base_url": url, "rate_limit": {"adaptive": False}}, "streams": [stream]}


def run(command: list[str], expected: int, workdir: Path) -> tuple[float, int]:
    """Seconds and peak RSS in MB of one contender; its RECORD lines are counted."""
    out = workdir / "out.jsonl"
    with out.open("wb") as sink, (workdir / "log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=sink, stderr=log, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    with out.open("rb") as lines:
        records = sum(line.startswith(b'{"type":"RECORD"') for line in lines)
    if process.returncode or records != expected:
        sys.exit(f"{command[:3]}: exit {process.returncode}, {records} records\n{(workdir / 'log').read_text()}")
    return seconds, usage.ru_maxrss // (1024 if sys.platform != "darwin" else 1024**2)


def main() -> None:
    """Run both contenders in turns and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--page", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with serving(answers(options.rows, options.page)) as url, tempfile.TemporaryDirectory() as name:
        compare(options, url, Path(name))


def compare(options: argparse.Namespace, url: str, workdir: Path) -> None:
    """Interleaved rounds, then the medians: of whole processes, and of the reading without Python's imports."""
    config = workdir / "config.json"
    config.write_text(json.dumps(tap_config(url, options.page)))
    bare = [sys.executable, "-c", BARE, f"{url}/rows", str(options.rows // options.page)]
    tap = [sys.executable, "-m", "tap_resilient.tap", "--config", str(config)]
    idle = ([sys.executable, "-c", BARE, f"{url}/rows", "0"], [*tap, "--about"])
    rounds = []
    for _ in range(options.rounds):
        starts = [run(command, 0, workdir)[0] for command in idle]
        runs = [run(command, options.rows, workdir) for command in (bare, tap)]
        rounds.append((runs[0][0], runs[1][0], runs[0][0] - starts[0], runs[1][0] - starts[1], runs[1][1]))
    whole_bare, whole_tap, read_bare, read_tap = (
        statistics.median(column) for column in list(zip(*rounds, strict=True))[:4]
    )
    for name, seconds, reading in (("bare loop", whole_bare, read_bare), ("tap-resilient", whole_tap, read_tap)):
        rate, reading_rate = options.rows / seconds, options.rows / reading
        print(f"{name:<14} {rate:>9,.0f} rows/s as a whole process, {reading_rate:>9,.0f} without start-up")
    whole = statistics.median(one[0] / one[1] for one in rounds)
    reading = statistics.median(one[2] / one[3] for one in rounds)
    print(f"ratio {whole:.2f} as a whole process, {reading:.2f} without start-up (medians of {options.rounds} rounds)")
    print(f"peak RSS {max(one[4] for one in rounds)} MB")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
