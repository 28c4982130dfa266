"""`make demo`: a flaky API into a DuckDB file with the real commands, twice, and what happened in plain words."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaky_api import TOKEN, FlakyApi, serving

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "demo-output"
DATABASE = OUTPUT / "orders.duckdb"
STATE = OUTPUT / "state.json"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Load:
    """What one load did, as the ledger of the destination and the log of the API tell it."""

    seconds: float
    received: int
    inserted: int
    updated: int
    unchanged: int
    rejects: list[tuple[str, int]]
    answers: Counter[str]
    waited: float
    bookmark: str


def main() -> int:
    """Run both days; 0 if both loads succeeded."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    with serving(FlakyApi()) as api:
        write_configs(api.url)
        say("An orders API that misbehaves, into a DuckDB file: tap-resilient | target-resilient")
        heading("Day 1. The first load reads everything.")
        tell(load(api, day=1))
        api.shop.next_day()
        heading("Day 2. 300 new orders, 120 changed ones, an undocumented column, six broken records.")
        tell(load(api, day=2))
    where_to_look()
    return 0


def write_configs(url: str) -> None:
    """The sample configs, with the address of the API that runs now."""
    tap = json.loads((ROOT / "sample_config/tap.json").read_text())
    tap["config"]["base_url"] = url
    (OUTPUT / "tap.json").write_text(json.dumps(tap, indent=2))
    shutil.copy(ROOT / "sample_config/target.json", OUTPUT)


def load(api: FlakyApi, day: int) -> Load:
    """Run the pipe from the saved state, save the new one, and gather what happened."""
    before, started = Counter(api.log), time.monotonic()
    run_pipe(day)
    seconds = time.monotonic() - started
    waited = sum(float(wait) for wait in re.findall(r"wait_seconds=([\d.]+)", log_of("tap", day)))
    received, inserted, updated, unchanged = query(
        "SELECT sum(received), sum(inserted), sum(updated), sum(unchanged) FROM _resilient.ledger"
        " WHERE load_id = (SELECT load_id FROM _resilient.loads ORDER BY started_at DESC LIMIT 1)"
    )[0]
    bookmark = json.loads(STATE.read_text())["bookmarks"]["orders"]["replication_key_value"]
    rejects = list(rejected())
    return Load(seconds, received, inserted, updated, unchanged, rejects, Counter(api.log) - before, waited, bookmark)


def run_pipe(day: int) -> None:
    """`tap-resilient | target-resilient`, the state from and to its file; ends the demo if one of them fails."""
    env = {**os.environ, "FLAKY_TOKEN": TOKEN}
    state = ["--state", str(STATE)] if STATE.exists() else []
    with (
        (OUTPUT / f"tap-day{day}.log").open("w") as tap_log,
        (OUTPUT / f"target-day{day}.log").open("w") as target_log,
        subprocess.Popen(command("tap", *state), stdout=subprocess.PIPE, stderr=tap_log, env=env, cwd=ROOT) as tap,
    ):
        loaded = subprocess.run(
            command("target"), stdin=tap.stdout, stdout=subprocess.PIPE, stderr=target_log, cwd=ROOT, check=False
        )
    if tap.returncode or loaded.returncode:
        sys.exit(f"tap ended with {tap.returncode}, target with {loaded.returncode}:\n" + log_of("tap", day)[-2000:])
    STATE.write_bytes(loaded.stdout.splitlines()[-1])


def command(end: str, *options: str) -> list[str]:
    """The command line of the tap or the target."""
    return [str(BIN / f"{end}-resilient"), "--config", str(OUTPUT / f"{end}.json"), *options]


def log_of(end: str, day: int) -> str:
    """The log of the tap or the target."""
    return (OUTPUT / f"{end}-day{day}.log").read_text()


def rejected() -> Iterator[tuple[str, int]]:
    """Each field and reason in the quarantine of the last load, and how often it was met."""
    rows = query(
        "SELECT errors FROM _resilient.quarantine"
        " WHERE load_id = (SELECT load_id FROM _resilient.loads ORDER BY started_at DESC LIMIT 1)"
    )
    reasons = Counter(f"{e['pointer'] or '/'}: {e['message']}" for (errors,) in rows for e in json.loads(errors))
    yield from reasons.most_common()


def query(sql: str) -> list[tuple[Any, ...]]:
    """Rows of a query on the demo's database."""
    import duckdb

    with duckdb.connect(str(DATABASE), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def tell(load: Load) -> None:
    """A few lines that a person enjoys reading."""
    answers, refused = load.answers, sum(times for _, times in load.rejects)
    say(f"  rows        {load.received:,} read: {load.inserted:,} new, {load.updated:,} changed,"
        f" {load.unchanged:,} as before, {refused} refused  ({load.seconds:.1f} s)")  # fmt: skip
    say(f"  the API     {answers.total()} requests: {answers['ok']} good pages, {answers['429']}× 429 slow down,"
        f" {answers['500']}× 500, {answers['cut']} answers cut short")  # fmt: skip
    say(f"  the tap     retried each of them; it waited {load.waited:.1f} s in all, as long as it was told to")
    for reason, times in load.rejects:
        say(f"  quarantine  {times}× {reason}")
    say(f"  bookmark    {load.bookmark}")


def where_to_look() -> None:
    """What to do next."""
    (orders, columns) = query(
        "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM duckdb_columns() WHERE table_name = 'orders')"
    )[0]
    heading(f"Now {orders:,} orders with {columns} columns are in demo-output/orders.duckdb. Where to look next:")
    say("  orders.duckdb      tables orders, _resilient.ledger, _resilient.quarantine, _resilient.loads")
    say("  tap-day2.log       what the tap saw, line by line;  state.json: where a third run would start")
    say("  ../sample_config   the one YAML file that describes the API, and its contract")
    say("  ../README.md       your own API in three lines of config")


def heading(text: str) -> None:
    """A line that stands out on a terminal."""
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def say(text: str) -> None:
    """One line of the story."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
