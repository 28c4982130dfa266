"""A seeded storm of faults on a real server: all data arrives once, in bounded time, and the seed replays it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from resilient_core.secrets import Resolver
from tap_resilient.client import BadAnswerError, Client, ClientConfig, Request
from tests.tap.faulty import Reply, faulty

REQUESTS = 1000
FAULTS = {
    "429": (10, lambda _: Reply({"error": "slow down"}, status=429)),
    "5xx": (10, lambda source: Reply({"error": "oops"}, status=source.choice([500, 502, 503, 504]))),
    "reset": (5, lambda _: Reply(reset=True)),
    "cut": (5, lambda source: Reply({"page": "x" * 200}, cut=True, chunked=source.random() < 0.5)),
    "html": (2, lambda _: Reply(b"<html>Down for maintenance</html>", headers={"Content-Type": "text/html"})),
    "bad json": (1, lambda _: Reply(b'{"page": 1,')),
    "slow": (1, lambda source: Reply({"page": source.random()}, drip=0.002, cut=True)),
}


def storm(seed: int):
    """The server's script: what fails is decided by the seed and the number of the request."""
    source, injected = random.Random(seed), Counter()

    def script(seen):
        dice = source.uniform(0, 100)
        for name, (percent, fault) in FAULTS.items():
            dice -= percent
            if dice < 0:
                injected[name] += 1
                return fault(source)
        return Reply({"page": int(seen.params["page"])})

    return script, injected


def is_a_page(response):
    if "page" not in response.body:
        raise BadAnswerError("no page")


def run(seed: int, requests: int = REQUESTS):
    script, injected = storm(seed)
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    with faulty(script) as server:
        config, faults = ClientConfig.parse(
            {"base_url": server.url, "retry": {"max_attempts": 12}, "rate_limit": {"adaptive": False}}
        )
        assert not faults
        client = Client(config, Resolver(), sleep=sleep, random=random.Random(seed).random, clock=lambda: now[0])
        pages = [
            client.send(lambda page=page: Request("GET", "/pages", params={"page": page}), check=is_a_page).body["page"]
            for page in range(requests)
        ]
        client.close()
        asked = [int(seen.params["page"]) for seen in server.seen]
    return pages, asked, injected, now[0], client.stats


@pytest.mark.parametrize("seed", [1, 2])
def test_chaos_loses_and_doubles_nothing(seed):
    pages, asked, injected, waited, stats = run(seed)
    assert pages == list(range(REQUESTS)), f"seed {seed}"
    assert set(injected) == set(FAULTS)
    assert stats.requests == len(asked) == REQUESTS + injected.total(), f"seed {seed}: one retry a fault, no other"
    assert stats.retries == injected.total()
    assert stats.refusals == injected["429"]
    assert waited < 2 * REQUESTS, f"seed {seed}"


def test_the_same_seed_replays_the_same_run():
    assert run(3, 300) == run(3, 300)
