"""`make demo`: Meltano loads a flaky API into a DuckDB file, twice; and what happened, in plain words."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from monitor_resilient.demo.flaky_api import TOKEN, FlakyApi, serving

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "demo-output"
DATABASE = OUTPUT / "orders.duckdb"
MELTANO = ROOT / ".venv/meltano/bin/meltano"
RUN = ["run", "tap-resilient", "target-resilient", "monitor-resilient:check"]
LAST_LOAD = "(SELECT load_id FROM _resilient.loads ORDER BY started_at DESC LIMIT 1)"


@dataclass(frozen=True)
class Load:
    """What one load did, as the destination's own tables, the log of the API and that of the tap tell it."""

    seconds: float
    rows: dict[str, int]
    rejects: list[tuple[str, int]]
    new_columns: list[str]
    answers: Counter[str]
    waited: float
    bookmark: str


def main() -> int:
    """Run both days; 0 if both loads and the checks succeeded."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    say(f"An orders API that misbehaves, into a DuckDB file: meltano {' '.join(RUN)}")
    with serving(FlakyApi()) as api:
        heading("Day 1: everything is new.")
        tell(load(api, day=1))
        api.shop.next_day(new=900, changed=300)
        heading("Day 2: 900 orders came, 300 changed, the API grew a field, and six records are broken.")
        tell(load(api, day=2))
    heading("What monitor-resilient made of day 2:")
    say("\n".join(re.findall(r"\] monitor-resilient (.*\S)", log_of(day=2))))
    where_to_look()
    return 0


def load(api: FlakyApi, day: int) -> Load:
    """Run Meltano, which keeps the state, and gather what happened."""
    before, started = Counter(api.log), time.monotonic()
    run_meltano(api.url, day)
    seconds = time.monotonic() - started
    ((state,),) = query("SELECT value FROM _resilient.state")
    return Load(
        seconds=seconds,
        rows=ledger(),
        rejects=rejects(),
        new_columns=new_columns(),
        answers=Counter(api.log) - before,
        waited=sum(float(found) for found in re.findall(r" scanned .*wait_seconds=([\d.]+)", log_of(day))),
        bookmark=json.loads(state)["bookmarks"]["orders"]["replication_key_value"],
    )


def run_meltano(url: str, day: int) -> None:
    """`meltano run …` with meltano.yml; only the API's address and token and Meltano's own database are the demo's."""
    env = {
        **os.environ,
        "FLAKY_TOKEN": TOKEN,
        "TAP_RESILIENT_CONFIG": json.dumps({"base_url": url}),
        "MELTANO_DATABASE_URI": f"sqlite:///{OUTPUT}/meltano.db",
    }
    with log_path(day).open("w") as log:
        done = subprocess.run([MELTANO, *RUN], stdout=log, stderr=log, env=env, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"meltano ended with {done.returncode}; see {log_path(day)}")


def log_path(day: int) -> Path:
    """Where the log of a day is."""
    return OUTPUT / f"day{day}.log"


def log_of(day: int) -> str:
    """What was logged on a day."""
    return log_path(day).read_text()


def ledger() -> dict[str, int]:
    """What the last load did with the rows."""
    names = ("received", "inserted", "updated", "unchanged", "quarantined")
    sums = ", ".join(f"sum({name})" for name in names)
    (row,) = query(f"SELECT {sums} FROM _resilient.ledger WHERE load_id = {LAST_LOAD}")
    return dict(zip(names, row, strict=True))


def rejects() -> list[tuple[str, int]]:
    """Each field and reason in the quarantine of the last load, and how often it was met."""
    rows = query(f"SELECT errors FROM _resilient.quarantine WHERE load_id = {LAST_LOAD}")
    return Counter(reason(error) for (errors,) in rows for error in json.loads(errors)).most_common()


def reason(error: dict[str, Any]) -> str:
    """One reason in words: the field, the rule of the contract, what it wants and what came."""
    if error["rule"] == "required":
        return f"{error['pointer']} is missing"
    expected = error["expected"]
    wants = " or ".join(expected) if isinstance(expected, list) else expected
    return f"{error['pointer']} breaks `{error['rule']}` {wants}; it is of type {error['actual_type']}"


def new_columns() -> list[str]:
    """Columns that the last load added to a table that was there."""
    rows = query(f"SELECT column_name FROM _resilient.schema_log WHERE change = 'add column' AND load_id = {LAST_LOAD}")
    return [name for (name,) in rows]


def query(sql: str) -> list[tuple[Any, ...]]:
    """Rows of a query on the demo's database."""
    with duckdb.connect(str(DATABASE), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def tell(load: Load) -> None:
    """A few lines that a person enjoys reading."""
    rows, answers = load.rows, load.answers
    trouble = {"× 429 slow down": answers["429"], "× 500": answers["500"], " cut short": answers["cut"]}
    told = ", ".join(f"{times}{what}" for what, times in trouble.items() if times) or "no trouble"
    say(f"  rows        {rows['received']:,} read: {rows['inserted']:,} new, {rows['updated']:,} changed,"
        f" {rows['unchanged']:,} as before, {rows['quarantined']} refused  ({load.seconds:.1f} s)")  # fmt: skip
    say(f"  the API     {answers.total()} requests, {answers['ok']} of them good ({told})")
    say(f"  the tap     asked again and waited {load.waited:.1f} s in all, as long as it was told to and no longer")
    for why, times in load.rejects:
        say(f"  quarantine  {times}× {why}")
    for column in load.new_columns:
        say(f"  new column  {column}")
    say(f"  bookmark    {load.bookmark}")


def where_to_look() -> None:
    """What to do next."""
    ((orders,),) = query("SELECT count(*) FROM tap_resilient.orders")
    heading(f"{orders:,} orders are in demo-output/orders.duckdb now, table tap_resilient.orders. Where to look next:")
    monitor = f"{MELTANO.relative_to(ROOT)} invoke monitor-resilient"
    say(f"  the refused records   {monitor} quarantine list")
    say(f"  a report              {monitor} report")
    say("  the API in one file   sample_config/sources/flaky.yaml; its contract: sample_config/contracts/orders.json")
    say("  the pipeline          meltano.yml")
    say("  what was logged       demo-output/day1.log, day2.log")
    say("  your own API          README.md, three lines of configuration")


def heading(text: str) -> None:
    """A line that stands out on a terminal."""
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def say(text: str) -> None:
    """One line of the story."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
