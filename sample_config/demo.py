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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from flaky_api import TOKEN, FlakyApi, serving

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "demo-output"
DATABASE = OUTPUT / "orders.duckdb"
STATE = OUTPUT / "state.json"
BIN = Path(sys.executable).parent


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
    """Run both days, then the checks; 0 if both loads succeeded."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    with serving(FlakyApi()) as api:
        write_configs(api.url)
        say("An orders API that misbehaves, into a DuckDB file: tap-resilient | target-resilient")
        heading("Day 1: everything is new.")
        tell(load(api, day=1))
        api.shop.next_day()
        heading("Day 2: 900 orders came, 300 changed, the API grew a field, and six records are broken.")
        tell(load(api, day=2))
    heading("What monitor-resilient makes of it:")
    monitor = [BIN / "monitor-resilient", "--config", "sample_config/monitor.yaml"]
    subprocess.run([*monitor, "check"], cwd=ROOT, check=False)
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
    return Load(
        seconds=seconds,
        rows=ledger(),
        rejects=rejects(),
        new_columns=new_columns(),
        answers=Counter(api.log) - before,
        waited=sum(float(found) for found in re.findall(r" scanned .*wait_seconds=([\d.]+)", log_of("tap", day))),
        bookmark=json.loads(STATE.read_text())["bookmarks"]["orders"]["replication_key_value"],
    )


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
        sys.exit(f"tap ended with {tap.returncode}, target with {loaded.returncode}; see the logs in {OUTPUT}")
    STATE.write_bytes(loaded.stdout.splitlines()[-1])


def command(end: str, *options: str) -> list[str]:
    """The command line of the tap or the target."""
    return [str(BIN / f"{end}-resilient"), "--config", str(OUTPUT / f"{end}.json"), *options]


def log_of(end: str, day: int) -> str:
    """The log of the tap or the target."""
    return (OUTPUT / f"{end}-day{day}.log").read_text()


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
    ((orders,),) = query("SELECT count(*) FROM orders")
    heading(f"{orders:,} orders are in demo-output/orders.duckdb now. Where to look next:")
    monitor = f"{os.path.relpath(BIN)}/monitor-resilient --config sample_config/monitor.yaml"
    say(f"  the refused records   {monitor} quarantine list")
    say(f"  the runs              {monitor} runs")
    say("  the API in one file   sample_config/sources/flaky.yaml, its contract sample_config/contracts/orders.json")
    say("  what was logged       demo-output/*.log")
    say("  your own API          README.md, three lines of configuration")


def heading(text: str) -> None:
    """A line that stands out on a terminal."""
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def say(text: str) -> None:
    """One line of the story."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
