"""Peak memory of tap-resilient on answers of 2 GB, each whole and unpaged: a JSON array, JSON lines, CSV.

A forked server on loopback makes each body while it sends it. The tap runs as a process of its own, into a pipe where
its RECORD lines are counted: there must be one for each of the ids, which run from 0.

    python benchmarks/memory.py [--bytes 2000000000] [--kinds json jsonl csv]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from loopback import serving

ROOT = Path(__file__).resolve().parents[1]
BLOCK_ROWS = 1000
LIMIT_MB = 150

ROW = '{{"id": {0}, "customer_id": {1}, "status": "paid", "amount": {0}.25, "note": "order number {0}", "tags": ["a"]}}'
SHAPES = {  # head, row, separator, tail
    "json": ('{"items": [', ROW, ",", "]"),
    "jsonl": ("", ROW, "\n", "\n"),
    "csv": ("id,customer_id,status,amount,note\n", '{0},{1},paid,{0}.25,"order number {0}"', "\n", "\n"),
}


def body(kind: str, size: int) -> Iterator[bytes]:
    """The body in blocks of rows, until it has `size` bytes; JSON declares the number of its rows behind them."""
    head, row, separator, tail = SHAPES[kind]
    sent, count = 0, 0
    yield head.encode()
    while sent < size:
        block = separator.join(row.format(number, number % 9973) for number in range(count, count + BLOCK_ROWS))
        yield (data := (separator * bool(count) + block).encode())
        sent, count = sent + len(data), count + BLOCK_ROWS
    yield tail.encode()
    if kind == "json":
        yield f', "total": {count}, "has_more": false}}'.encode()


def config(url: str, kind: str, size: int) -> dict[str, object]:
    """The source: one answer, with its total where the format can declare one."""
    stream: dict[str, object] = {
        "name": "rows",
        "path": f"/{kind}",
        "params": {"bytes": size},
        "decoder": kind,
        "primary_keys": ["id"],
    }
    if kind == "json":
        paginator = {"type": "single", "total_path": "total", "has_more_path": "has_more"}
        stream |= {"records": {"path": "items"}, "paginator": paginator}
    client = {"base_url": url, "max_response_bytes": f"{2 * size}B", "timeout": {"total": "30m"}}
    return {"client": client, "streams": [stream]}


def measure(url: str, kind: str, size: int, workdir: Path) -> int:
    """Run the tap once, print what it took, and return its peak RSS in MB."""
    (workdir / "config.json").write_text(json.dumps(config(url, kind, size)))
    command = [sys.executable, "-m", "tap_resilient.tap", "--config", str(workdir / "config.json")]
    started, records, last, line = time.perf_counter(), 0, b"", b""
    with (workdir / "log").open("wb") as log, subprocess.Popen(command, stdout=-1, stderr=log, cwd=ROOT) as process:
        for line in process.stdout or ():
            if line.startswith(b'{"type":"RECORD"'):
                records, last = records + 1, line
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode or records != int(json.loads(last)["record"]["id"]) + 1:
        sys.exit(f"{kind}: exit {process.returncode}, {records} records\n{(workdir / 'log').read_text()}")
    verdict = json.loads(line)["value"]["resilient"]["scans"]["rows"]["verdict"]
    peak = usage.ru_maxrss // (1024 if sys.platform != "darwin" else 1024**2)
    print(
        f"{kind:<6} {size / 1e6:>6,.0f} MB  {records:>11,} rows  {verdict:<9} {seconds:>5.0f} s"
        f"  {records / seconds:>8,.0f} rows/s  peak RSS {peak} MB",
        flush=True,
    )
    return peak


def main() -> None:
    """Measure every kind; exit 1 if one is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--kinds", nargs="+", choices=SHAPES, default=["json", "jsonl"])
    options = parser.parse_args()
    with serving(lambda path, query: body(path[1:], query["bytes"])) as url, tempfile.TemporaryDirectory() as name:
        peaks = [measure(url, kind, options.bytes, Path(name)) for kind in options.kinds]
    sys.exit(int(max(peaks) > LIMIT_MB))


if __name__ == "__main__":
    main()
