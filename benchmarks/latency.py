"""How much sooner a slow API is read with 4 requests under way: 50 ms a page, against one request at a time.

    python benchmarks/latency.py [--pages 100] [--latency 0.05] [--rounds 3]

Four shapes of source: pages by number and rows by offset (both declare a total), partitions of one page, and children
of one page each. The ideal is 4; pages can only be fetched ahead once the first one has said how many there are.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from loopback import Answer, serving

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tap_resilient.tap import ResilientTap

PAGE_SIZE = 20


def answers(pages: int, latency: float) -> Answer:
    """Pages by number or offset; every answer takes `latency` seconds."""
    total = pages * PAGE_SIZE

    def answer(path: str, query: dict[str, int]) -> bytes:
        first = query.get("offset", PAGE_SIZE * (query.get("page", 1) - 1))
        count = pages if path == "/parents" else PAGE_SIZE
        rows = [{"id": number} for number in range(first, min(first + count, total))]
        time.sleep(latency)
        return json.dumps({"data": rows, "total": total}).encode()

    return answer


def shapes(pages: int) -> Mapping[str, list[dict[str, Any]]]:
    """The sources; each reads `pages` pages and a few more."""
    rows: dict[str, Any] = {"name": "rows", "path": "/rows", "records": {"path": "data"}, "primary_keys": ["id"]}
    limit = {"page_size": PAGE_SIZE, "total_path": "total"}
    parts = [{"part": number} for number in range(pages)]
    return {
        "page": [{**rows, "paginator": {"type": "page", **limit}}],
        "offset": [{**rows, "paginator": {"type": "offset", **limit}}],
        "partitions": [{**rows, "partitions": parts, "params": {"part": "{partition.part}"}}],
        "children": [
            {**rows, "name": "parents", "path": "/parents"},
            {**rows, "path": "/rows/{parent.id}", "parent": {"stream": "parents", "include": ["id"]}},
        ],
    }


def seconds(url: str, streams: list[dict[str, Any]], concurrency: int) -> tuple[float, int]:
    """How long one run takes, and how many records it writes."""
    limit = {"concurrency": concurrency, "adaptive": False}
    config = {"client": {"base_url": url, "rate_limit": limit}, "streams": streams}
    sink = io.BytesIO()
    started = time.perf_counter()
    with redirect_stdout(io.TextIOWrapper(sink, encoding="utf-8", write_through=True)):
        ResilientTap(config=config).sync_all()
        taken = time.perf_counter() - started
        return taken, sink.getvalue().count(b'"type":"RECORD"')


def main() -> None:
    """Run every shape with 1 and with 4 requests under way, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with serving(answers(options.pages, options.latency)) as url:
        for name, streams in shapes(options.pages).items():
            rounds = [[seconds(url, streams, concurrency) for concurrency in (1, 4)] for _ in range(options.rounds)]
            if len({records for runs in rounds for _, records in runs}) != 1:
                sys.exit(f"{name}: the number of records differs")
            one, four = (statistics.median(runs[index][0] for runs in rounds) for index in (0, 1))
            print(
                f"{name:<11} {one:6.2f} s one at a time, {four:6.2f} s with 4 under way: {one / four:.2f} times faster"
            )


if __name__ == "__main__":
    main()
