"""How near to a rate limit we come without hitting it, beside dlt and singer-sdk on the same server.

A server process on loopback holds a token bucket (50 requests/s, burst 10), answers 429 to what exceeds it, and counts.
3,000 requests take (3,000 - 10) / 50 s at best. The cases run at the same time, each with its own server.

    python benchmarks/governor.py                      # our cases
    python benchmarks/governor.py --peers              # also singer-sdk's RESTStream
    python benchmarks/governor.py --dlt VENV/bin/python  # also dlt, from a venv of its own
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from resilient_core.secrets import Resolver
from tap_resilient.client import Client, ClientConfig, Request

RATE, BURST, REQUESTS = 50.0, 10, 3000
HALVES_AFTER = 30.0
PEER_SECONDS = 600


@dataclass(frozen=True)
class Limit:
    """The server's limit. `announced` adds RateLimit headers (IETF draft) to every answer."""

    announced: bool = False
    halves: bool = False

    def rate(self, seconds: float) -> float:
        """Requests a second, so long after the first request."""
        return RATE / 2 if self.halves and seconds >= HALVES_AFTER else RATE

    def ideal_seconds(self) -> float:
        """The shortest time in which the limit lets all requests through."""
        seconds = (REQUESTS - BURST) / RATE
        return 2 * seconds - HALVES_AFTER if self.halves else seconds


class Server(asyncio.Protocol):
    """One keep-alive connection; the bucket and the counts are shared by all."""

    limit = Limit()
    tokens, at, started, last = float(BURST), 0.0, 0.0, 0.0
    accepted = refused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self.transport.write(self.counts() if head.startswith(b"GET /counts") else self.answer())

    def answer(self) -> bytes:
        """Take a token, or refuse."""
        now, server = time.monotonic(), Server
        server.started = server.started or now
        rate = server.limit.rate(now - server.started)
        server.tokens = min(BURST, server.tokens + (now - (server.at or now)) * rate)
        server.at = now
        allowed = server.tokens >= 1
        server.tokens -= allowed
        server.accepted += allowed
        server.refused += not allowed
        server.last = now if allowed else server.last
        headers = f'RateLimit-Policy: "default";q={rate:.0f};w=1\r\n' if server.limit.announced else ""
        return self.respond("200 OK" if allowed else "429 Too Many Requests", {"items": [1]}, headers)

    def counts(self) -> bytes:
        """What happened until now; `seconds` ends with the last accepted request."""
        seconds = Server.last - Server.started
        counts = {"seconds": seconds, "accepted": Server.accepted, "refused": Server.refused}
        return self.respond("200 OK", counts, "")

    def respond(self, status: str, content: object, headers: str) -> bytes:
        """The bytes of an answer."""
        body = json.dumps(content)
        fixed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"HTTP/1.1 {status}\r\n{fixed}{headers}\r\n{body}".encode()


def serve(limit: Limit, port: multiprocessing.Queue[int]) -> None:
    """Run the server; tell its port."""

    async def run() -> None:
        Server.limit = limit
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def ours(url: str, threads: int) -> None:
    """All requests through one client with default settings but for the number of parallel requests."""
    config, faults = ClientConfig.parse({"base_url": url, "rate_limit": {"concurrency": threads}})
    assert not faults
    client = Client(config, Resolver())
    pages = iter(range(REQUESTS))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                page = next(pages, None)
            if page is None:
                return
            request = Request("GET", "/items", params={"page": page})
            client.send(lambda request=request: request)  # type: ignore[misc]

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()
    client.close()


DLT = """
import sys
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator
client = RESTClient(sys.argv[1])
for _ in client.paginate("/items", paginator=PageNumberPaginator(total_path=None, maximum_page=int(sys.argv[2]))):
    pass
"""

SDK = """
import sys, warnings
warnings.simplefilter("ignore")
from singer_sdk import RESTStream, Tap
from singer_sdk.pagination import BasePageNumberPaginator
class Pages(BasePageNumberPaginator):
    def has_more(self, response):
        return self.current_value < int(sys.argv[2])
class Items(RESTStream):
    name, path, url_base, schema = "items", "/items", sys.argv[1], {"properties": {"n": {"type": "integer"}}}
    def get_new_paginator(self):
        return Pages(1)
    def get_url_params(self, context, token):
        return {"page": token}
    def parse_response(self, response):
        yield from ({"n": n} for n in response.json()["items"])
class Peer(Tap):
    name = "peer"
    config_jsonschema = {"properties": {}}
    def discover_streams(self):
        return [Items(self)]
Peer(config={}).sync_all()
"""


def peer(python: str, script: str) -> Callable[[str], None]:
    """A peer as a process of its own; that it fails is part of the result."""

    def run(url: str) -> None:
        command = [python, "-c", script, url, str(REQUESTS)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=PEER_SECONDS
            )

    return run


def measure(name: str, limit: Limit, send: Callable[[str], None]) -> str:
    """Run one case against a server of its own; the row is what the server counted."""
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(limit, port), daemon=True)
    server.start()
    number = port.get()
    send(f"http://127.0.0.1:{number}")
    connection = http.client.HTTPConnection("127.0.0.1", number)
    connection.request("GET", "/counts")
    counts = json.loads(connection.getresponse().read())
    connection.close()
    server.terminate()
    seconds, accepted, refused = counts["seconds"], counts["accepted"], counts["refused"]
    share = refused / max(accepted + refused, 1)
    done = "" if accepted == REQUESTS else f"  only {accepted} requests done"
    ratio = f"{seconds / limit.ideal_seconds():6.3f}" if not done else "     –"
    return f"{name:34} {seconds:7.1f} s {ratio}  {refused:5} {share:7.2%}{done}"


def case(name: str, limit: Limit, send: Callable[[str], None], results: multiprocessing.Queue[str]) -> None:
    """A case in a process of its own."""
    results.put(measure(name, limit, send))


def main() -> None:
    """Run all cases at once and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--peers", action="store_true", help="also run singer-sdk's RESTStream")
    options.add_argument("--dlt", metavar="PYTHON", help="also run dlt with this interpreter")
    chosen = options.parse_args()
    cases: list[tuple[str, Limit, Callable[[str], None]]] = [
        ("nobody told the limit", Limit(), lambda url: ours(url, 1)),
        ("nobody told, 8 threads", Limit(), lambda url: ours(url, 8)),
        ("announced by headers only", Limit(announced=True), lambda url: ours(url, 1)),
        ("nobody told, halves after 30 s", Limit(halves=True), lambda url: ours(url, 1)),
    ]
    if chosen.peers:
        cases.append(("singer-sdk RESTStream", Limit(), peer(sys.executable, SDK)))
    if chosen.dlt:
        cases.append(("dlt RESTClient", Limit(), peer(chosen.dlt, DLT)))
    results: multiprocessing.Queue[str] = multiprocessing.Queue()
    processes = [multiprocessing.Process(target=case, args=(*each, results)) for each in cases]
    for process in processes:
        process.start()
    print(f"{'case':34} {'time':>9} {'÷ ideal':>7} {'refused':>6}")
    for _ in processes:
        print(results.get(), flush=True)
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
