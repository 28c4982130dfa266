"""Random faults of the database under a load, each judged as the kills of campaign.py are.

A fault of the kinds of weather.py strikes at an instant drawn uniformly between the first frame and the last commit,
and passes after a drawn while or outlasts the load's patience. The load ends by itself: either all is well (every row,
every state printed once and in order, every record booked once), or it stopped with 69 or 79 and told no lie, and once
the fault is mended the next run ends equal. Never a traceback, never a quarantined row. Only faults that the load met
count. The same seed gives the same draws; the kinds take turns.

    python benchmarks/faults.py [--faults 60] [--seed 1] [--kind KIND] [--record]
    python benchmarks/faults.py --report

`--record` appends each run to results/database_faults.jsonl, `--report` prints what stands there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from campaign import PHASES, START, environment, record, recorded  # noqa: E402
from weather import DISKS, FAILOVERS, KINDS, Fault, Site, missing, open_site  # noqa: E402

from tests.target.crashes import Place  # noqa: E402
from tests.target.scenarios import GROUP, SCENARIOS  # noqa: E402
from tests.target.zygote import Zygote, await_passing, read_trace, zygote  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "database_faults.jsonl"
BOUND_SECONDS = 60.0  # within which a load must end, whatever befalls it
LASTING = {"retry_max_elapsed": "1s"}
PASSING = {"retry_max_elapsed": "50s"}
HELD = 79
UNAVAILABLE = 69

Trace = list[tuple[float, str]]
"""(monotonic time, checkpoint)."""


@dataclass(frozen=True)
class Run:
    """One fault and what came of it. `verdict` is `ok`, `missed` (the load did not meet it), or what was wrong.

    `seconds` is the instant, `lasted` how long the fault lasted; None if it outlasted the load.
    """

    seed: int
    kind: str
    scenario: str
    seconds: float
    lasted: float | None
    phase: str
    code: int
    verdict: str


def trace(place: Place) -> Path:
    """The file of the checkpoints that the load passed."""
    return place.folder / "trace"


def course(place: Place, children: Zygote) -> Trace:
    """How a load goes that nothing befalls: its trace. Raises RuntimeError when it fails."""
    place.load_before(children)
    code = place.load(children, 0, trace=str(trace(place)))
    if (verdict := f"ended with {code}" if code else done(place)) != "ok":
        raise RuntimeError(f"a load that nothing befell: {verdict}\n{place.log()}")
    return read_trace(trace(place))


def left(usual: Trace, name: str, nth: int) -> float:
    """Seconds from a passing of a checkpoint to the last commit."""
    since = [at for at, passed in usual if passed == name][nth - 1]
    return max(at for at, passed in usual if passed == "epoch.committed") - since


def ended(children: Zygote, pid: int) -> int:
    """Wait for a load; its exit code, or minus SIGKILL if it had to be ended."""
    watch = threading.Timer(BOUND_SECONDS, os.kill, (pid, signal.SIGKILL))
    watch.start()
    try:
        return children.wait(pid)
    finally:
        watch.cancel()


def one(site: Site, place: Place, seed: int, chance: random.Random, kind: str, usual: Trace, children: Zygote) -> Run:
    """Start, strike, judge."""
    place.load_before(children)
    with KINDS[kind](site, place, chance) as fault:
        lasts = kind in FAILOVERS or chance.random() < 0.4
        lasted = None if lasts else round(chance.uniform(0, 1), 4)
        after = chance.uniform(0, left(usual, *fault.since))
        place.settings = {**fault.settings, **(LASTING if lasts and kind not in FAILOVERS else PASSING)}
        pid = children.start(place.job(0, trace=str(trace(place)), **fault.hook))[0]
        await_passing(trace(place), *fault.since, BOUND_SECONDS)
        fault.prepare()
        time.sleep(after)
        struck = time.monotonic()
        fault.strike(pid)
        if lasted is not None:
            time.sleep(lasted)
            fault.mend()
        code = ended(children, pid)
        place.printed = place.states()
        passed = [PHASES.get(name, START) for at, name in read_trace(trace(place)) if at < struck]
        met = code != 0 or "retry" in place.log() or (fault.silent and passed[-1] != "closing")
        verdict = judged(site, place, kind, fault, code, lasted, children, chance)
        if verdict == "ok" and not met:
            verdict = "missed"
    return Run(seed, kind, place.scenario.name, round(after, 4), lasted, passed[-1], code, verdict)


def judged(
    site: Site, place: Place, kind: str, fault: Fault, code: int, lasted: float | None, children: Zygote,
    chance: random.Random,
) -> str:  # fmt: skip
    """Judge how a load ended; if it stopped, mend the fault, run again and judge the end."""
    place.settings.update(PASSING)
    if place.printed != states(place)[: len(place.printed)]:
        return f"printed {place.printed}"
    if kind in FAILOVERS:
        return judged_after_failover(site, place, fault, code, children, chance)
    if lasted is None:
        fault.mend()
    if code == 0:
        return harm(place) or done(place)
    if code != UNAVAILABLE or lasted is not None:
        return f"ended with {code}"
    return harm(place) or again(place, children, bookmark(place))


def judged_after_failover(
    site: Site, place: Place, fault: Fault, code: int, children: Zygote, chance: random.Random
) -> str:
    """The same where another server answers: the load goes on there if nothing is lacking, and is held if it is."""
    here, older = place.url, bool(fault.hook)
    if code == 0 and "retry" not in place.log():
        return harm(place) or done(place)
    place.url = site.spare.url
    if code == 0 and done(place) == "ok":
        return harm(place) or "ok"
    epochs = fault.since[1] if fault.since[0] == "epoch.committed" else 0
    lacking = [name for _, name in read_trace(trace(place))].count("epoch.committed") - epochs
    if code not in {0, HELD} and (code != UNAVAILABLE or lacking):  # 69: it lacks a table, but no epoch
        return f"ended with {code}"
    found, copied = place.table(), place.scenario.tables[epochs] if older else []
    if code == HELD and (found != copied or len(place.ledger("epoch")) != epochs):
        return "something was written to the copy"
    if older and (code != HELD or chance.random() < 0.5):  # the copy stays; what it lacks shows at the next start
        if bookmark(place) > place.stored() and (code := place.load(children, bookmark(place))) != HELD:
            return f"a start ahead of the copy ended with {code}"
        return again(place, children, place.stored())
    place.url = here
    fault.mend()
    return harm(place) or again(place, children, bookmark(place))


def bookmark(place: Place) -> int:
    """What was printed last."""
    return place.printed[-1] if place.printed else 0


def harm(place: Place) -> str | None:
    """What is wrong with the tables beside the states that were printed, or with what was said; None if all is well."""
    try:
        place.judge()
    except AssertionError as error:
        return str(error)
    if place.query("SELECT 1 FROM {}", "meta", "quarantine"):
        return "a row was quarantined"
    return "a traceback" if "Traceback" in place.log() else None


def done(place: Place) -> str:
    """Judge the end of a load that succeeded."""
    if place.table() != place.scenario.tables[-1]:
        return f"wrong at the end: {place.table()}"
    if len(place.printed) != len(states(place)):
        return f"printed {place.printed}"
    received = sum(place.ledger("received"))
    return "ok" if received == len(place.scenario.events) else f"{received} records booked"


def states(place: Place) -> list[int]:
    """The bookmarks that a load from the beginning prints, in order."""
    return [event["at"] for event in place.scenario.events if event["at"] % GROUP == 0]


def again(place: Place, children: Zygote, start: int) -> str:
    """Run again from a bookmark, and judge the end."""
    code = place.load(children, start)
    if code:
        return f"the next run ended with {code}"
    found = place.table()
    return harm(place) or ("ok" if found == place.scenario.tables[-1] else f"wrong after the next run: {found}")


def campaign(site: Site, faults: int, seed: int, kinds: Sequence[str]) -> Iterator[Run]:
    """Run after run, until so many faults have been met; a kind has its turn until it is.

    How a load usually goes is measured again every hundred runs, since the machine's load changes.
    """
    met = 0
    with zygote() as children, tempfile.TemporaryDirectory(prefix="faults-") as name:
        usual: dict[tuple[str | None, str], Trace] = {}
        for number in itertools.count():
            if met == faults:
                return
            if number % 100 == 0:
                usual.clear()
            kind = kinds[met % len(kinds)]
            chance = random.Random(seed * 1_000_000 + number)
            scenario = SCENARIOS[chance.choice(list(SCENARIOS))]
            url = None if "DuckDB" in kind else site.server.database("small" if kind in DISKS else "shared")
            folder = Path(name) / str(number)
            if (url, scenario.name) not in usual:
                usual[url, scenario.name] = course(Place(folder / "measured", scenario, url), children)
            place = Place(folder / "struck", scenario, url, disk=site.disk if url is None else None)
            run = one(site, place, seed * 1_000_000 + number, chance, kind, usual[url, scenario.name], children)
            clear(site, place)
            met += run.verdict != "missed"
            yield run


def clear(site: Site, place: Place) -> None:
    """Remove what a run left."""
    site.drop(place.number)
    if place.url is None:
        for path in place.file.parent.glob(f"{place.file.name}*"):
            path.unlink()


def summary(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The table by kind and the verdict, as lines."""
    hits = [run for run in runs if run["verdict"] != "missed"]
    failures = [run for run in hits if run["verdict"] != "ok"]
    table = Counter((run["kind"], "retried" if run["code"] == 0 else "stopped") for run in hits if run not in failures)
    table.update((run["kind"], "failed") for run in failures)
    names = ("retried", "stopped", "failed")
    lines = [f"{'what befell the load':<36}" + "".join(f"{name:>9}" for name in names)]
    lines += [f"{kind:<36}" + "".join(f"{table[kind, name]:>9}" for name in names) for kind in KINDS]
    lines += [f"FAILED seed {run['seed']} ({run['kind']}, {run['scenario']}, {run['phase']}): {run['verdict']}"
              for run in failures]  # fmt: skip
    lines.append(f"{len(hits)} faults, {len(failures)} failures, {len(runs) - len(hits)} that the load did not meet")
    if hits and not failures:
        lines.append(f"so fewer than {3 / len(hits):.2%} of such faults do harm, at 95 % confidence (rule of three)")
    return lines


def main() -> None:
    """Run a campaign; exits 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60, help="how many the load shall meet")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, help="this kind only")
    parser.add_argument("--record", action="store_true", help=f"append each run to {RESULTS.name}")
    parser.add_argument("--report", action="store_true", help=f"print what {RESULTS.name} holds, and run nothing")
    options = parser.parse_args()
    if options.report:
        print("\n".join(summary(recorded(RESULTS))))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the site is cleared away
    started, runs, versions = time.monotonic(), [], environment()
    with open_site() as site:
        left_out = {kind: why for kind in KINDS if (why := missing(kind, site))}
        kinds = [kind for kind in KINDS if kind not in left_out and options.kind in {None, kind}]
        for run in campaign(site, options.faults, options.seed, kinds):
            runs.append(asdict(run))
            if options.record:
                record(runs[-1], versions, RESULTS)
    notes = [f"left out: {kind}, since this machine {why}" for kind, why in left_out.items()]
    print("\n".join([*summary(runs), *notes]), f"{time.monotonic() - started:.0f} s", sep="\n")
    sys.exit(any(run["verdict"] not in {"ok", "missed"} for run in runs))


if __name__ == "__main__":
    main()
