"""A thousand clients are knocked out at the same instant: how hard do they hit the server when it is back?

A server that serves 100 requests/s is down for ten seconds; every client fails in the same moment and retries until it
is served. What comes beyond its capacity after the recovery is refused with 503 again. Simulated, from a seed.

    python benchmarks/herd.py            # the table
    python benchmarks/herd.py --plot docs/herd.svg
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tap_resilient.retry import RetryPolicy

CLIENTS, CAPACITY, OUTAGE_SECONDS = 1000, 100, 10.0
BIN_SECONDS = 0.1
PLOTTED_SECONDS = 90

Backoff = Callable[[int, random.Random], float]


def no_jitter(attempt: int, _: random.Random) -> float:
    """1, 2, 4, … s (dlt, Airbyte)."""
    return RetryPolicy(jitter="none").backoff(attempt, random.random)


def additive_jitter(attempt: int, source: random.Random) -> float:
    """2, 4, 8, … s and up to one second more (singer-sdk)."""
    return float(2**attempt) + source.random()


def full_jitter(attempt: int, source: random.Random) -> float:
    """Ours: a random wait from 0 to 1, 2, 4, … s."""
    return RetryPolicy().backoff(attempt, source.random)


STRATEGIES: dict[str, Backoff] = {
    "no jitter": no_jitter,
    "additive jitter": additive_jitter,
    "full jitter (ours)": full_jitter,
}


@dataclass
class Herd:
    """What the server saw: requests in each tenth of a second, and when the last client was served."""

    load: Counter[int]
    last_served: float
    requests: int

    def peak_after_recovery(self) -> int:
        """The most requests in a tenth of a second once the server is back."""
        return max(count for index, count in self.load.items() if index >= OUTAGE_SECONDS / BIN_SECONDS)


def stampede(backoff: Backoff, seed: int = 1) -> Herd:
    """Simulate the clients until all are served."""
    source = random.Random(seed)
    events = [(0.0, client, 1) for client in range(CLIENTS)]
    load: Counter[int] = Counter()
    tokens, at, served, requests = 0.0, OUTAGE_SECONDS, 0.0, 0
    while events:
        now, client, attempt = heapq.heappop(events)
        load[int(now / BIN_SECONDS)] += 1
        requests += 1
        if now >= OUTAGE_SECONDS:
            tokens, at = min(CAPACITY * BIN_SECONDS, tokens + (now - at) * CAPACITY), now
        if tokens >= 1:
            tokens, served = tokens - 1, now
        else:
            heapq.heappush(events, (now + backoff(attempt, source), client, attempt + 1))
    return Herd(load, served, requests)


def plot(herds: dict[str, Herd], path: str) -> None:
    """Requests a second over time, one line a strategy, as SVG."""
    import altair

    rows = [
        {"strategy": name, "second": second, "requests": _second(herd, second)}
        for name, herd in herds.items()
        for second in range(PLOTTED_SECONDS)
    ]
    chart = (
        altair.Chart(altair.Data(values=rows), title=f"{CLIENTS} clients, server back after {OUTAGE_SECONDS:.0f} s")
        .mark_line(interpolate="step-after")
        .encode(
            x=altair.X("second:Q", title="seconds after the outage began"),
            y=altair.Y("requests:Q", title="requests in the second", scale=altair.Scale(type="symlog")),
            color=altair.Color("strategy:N", title=None, sort=list(herds)),
        )
        .properties(width=640, height=280)
    )
    chart.save(path)


def _second(herd: Herd, second: int) -> int:
    bins = round(1 / BIN_SECONDS)
    return sum(herd.load[index] for index in range(second * bins, (second + 1) * bins))


def main() -> None:
    """Print the table, and plot if asked to."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--plot", metavar="FILE", help="write a plot of the load (SVG)")
    chosen = options.parse_args()
    herds = {name: stampede(backoff) for name, backoff in STRATEGIES.items()}
    print(f"{'strategy':20} {'peak in 0.1 s':>13} {'÷ capacity':>10} {'requests':>9} {'all served after':>16}")
    for name, herd in herds.items():
        peak = herd.peak_after_recovery()
        share = peak / (CAPACITY * BIN_SECONDS)
        print(f"{name:20} {peak:13} {share:10.1f} {herd.requests:9} {herd.last_served:14.1f} s")
    if chosen.plot:
        plot(herds, chosen.plot)


if __name__ == "__main__":
    main()
