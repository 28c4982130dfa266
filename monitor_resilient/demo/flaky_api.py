"""An orders API that misbehaves like real ones, on loopback, from a seed. Standard library only.

GET /orders?updated_since=…&page=1&per_page=500   needs `Authorization: Bearer <token>`
GET /me                                           the same token; a cheap request to probe with
POST /_next_day                                   new orders, changed orders, and a changed schema
GET /_log                                         what the server really did: the truth to compare with
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "demo-token"  # noqa: S105 the demo's own
STATUSES = ("new", "paid", "shipped", "returned")
TRICKS = ("", "closed", "error_body", "renamed")
"""closed: 429, come back in two hours. error_body: a 200 with an error from page 2 on. renamed: the records' key."""

Order = dict[str, Any]


@dataclass
class Faults:
    """How often the API misbehaves: probabilities a request, the rate that it tolerates, and how slow it is."""

    error_500: float = 0.10
    cut_body: float = 0.10
    requests_per_second: int = 12
    latency_seconds: float = 0.0


def _yesterday() -> datetime:
    """27 hours ago, so that the second day's newest order is fresh."""
    return datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(hours=27)


@dataclass
class Shop:
    """The orders, sorted by `updated_at`, `bad` of them broken; `next_day` is what a second run must find."""

    seed: int = 7
    rows: int = 10_000
    bad: int = 3
    start: datetime = field(default_factory=_yesterday)
    orders: list[Order] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 a seeded story
        self.orders = [self._order(n, self.start + timedelta(seconds=n * 7)) for n in range(1, self.rows + 1)]
        for order in self._random.sample(self.orders, self.bad):
            order["amount"] = f"{order['amount']:.2f} EUR"

    def next_day(self, new: int = 300, changed: int = 120) -> None:
        """Add `new` orders with an undocumented column, change `changed` old ones, and break six of all these."""
        touched = self._random.sample(self.orders, changed)
        for order in touched:
            order["status"] = "shipped"
        fresh = [self._order(self.rows + number, self.start) | {"channel": "app"} for number in range(1, new + 1)]
        arrivals = touched + fresh
        self._random.shuffle(arrivals)
        self._break(arrivals)
        self.rows += new
        self._arrive(arrivals, self.start + timedelta(days=1))

    def delete(self, count: int) -> None:
        """Mark `count` orders as deleted, as an API does that keeps them for a while."""
        gone = self._random.sample(self.orders, count)
        for order in gone:
            order["deleted"] = True
        self._arrive(gone, self.start + timedelta(days=1, hours=6))

    def _arrive(self, orders: Sequence[Order], at: datetime) -> None:
        for number, order in enumerate(orders):
            order["updated_at"] = _timestamp(at + timedelta(seconds=number * 7))
        moved = {id(order) for order in orders}
        self.orders = [order for order in self.orders if id(order) not in moved] + list(orders)

    def _break(self, arrivals: Sequence[Order]) -> None:
        bad = self._random.sample(arrivals, 6)
        for order in bad[:2]:
            order["amount"] = "n/a"
        for order in bad[2:4]:
            order.pop("status", None)
        for order in bad[4:]:
            order["currency"] = "euros"

    def _order(self, number: int, updated_at: datetime) -> Order:
        customer = self._random.randrange(1, 900)
        return {
            "order_id": number,
            "customer": {"id": customer, "email": f"customer{customer}@example.com"},
            "status": self._random.choice(STATUSES),
            "amount": self._random.randrange(500, 50_000) / 100,
            "currency": self._random.choice(("EUR", "USD", "GBP")),
            "updated_at": _timestamp(updated_at),
        }


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class FlakyApi(ThreadingHTTPServer):
    """The server: one shop, one seed, one rate limit, and a log of what it answered.

    `before` is called with the number of each request for orders, before it is answered. `trick` is one of TRICKS.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, *, shop: Shop | None = None, faults: Faults | None = None, seed: int = 7) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.shop = shop or Shop(seed)
        self.faults = faults or Faults()
        self.log: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.token = TOKEN
        self.trick = ""
        self.before: Callable[[int], None] = lambda number: None
        self._random = random.Random(seed)  # noqa: S311 a seeded story
        self._recent: deque[float] = deque()

    @property
    def url(self) -> str:
        """The base URL that clients use."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def mood(self) -> str:
        """What the next request meets: `ok`, `429`, `500` or `cut`. Also writes it into the log."""
        with self.lock:
            mood = "429" if self.trick == "closed" or self._too_fast() else self._draw()
            self.log[mood] += 1
            return mood

    def _too_fast(self) -> bool:
        now = time.monotonic()
        while self._recent and now - self._recent[0] > 1:
            self._recent.popleft()
        if len(self._recent) >= self.faults.requests_per_second:
            return True
        self._recent.append(now)
        return False

    def _draw(self) -> str:
        chance = self._random.random()
        if chance < self.faults.error_500:
            return "500"
        return "cut" if chance < self.faults.error_500 + self.faults.cut_body else "ok"


class Handler(BaseHTTPRequestHandler):
    """Routes; `server` is the FlakyApi."""

    protocol_version = "HTTP/1.1"
    server: FlakyApi

    def do_GET(self) -> None:
        """/orders, /me and /_log."""
        parts = urlsplit(self.path)
        if parts.path == "/orders":
            self.server.before(self.server.log.total())
        if parts.path == "/_log":
            self._send(200, dict(self.server.log))
        elif self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.server.log["401"] += 1
            self._send(401, {"error": "who are you?"})
        elif parts.path == "/me":
            self._send(200, {"shop": "Flaky & Sons"})
        elif parts.path == "/orders":
            self._orders({key: values[-1] for key, values in parse_qs(parts.query).items()})
        else:
            self._send(404, {"error": "no such path"})

    def do_POST(self) -> None:
        """/_next_day."""
        self.server.shop.next_day()
        self._send(200, {"orders": len(self.server.shop.orders)})

    def _orders(self, params: dict[str, str]) -> None:
        time.sleep(self.server.faults.latency_seconds)
        mood = self.server.mood()
        if mood == "429":
            self._send(429, {"error": "slow down"}, {"Retry-After": "7200" if self.server.trick == "closed" else "1"})
        elif mood == "500":
            self._send(500, {"error": "the hamster is tired"})
        else:
            self._send(200, self._page(params), cut=mood == "cut")

    def _page(self, params: dict[str, str]) -> dict[str, Any]:
        since = params.get("updated_since", "")
        page, size = int(params.get("page", 1)), min(int(params.get("per_page", 500)), 500)
        if self.server.trick == "error_body" and page >= 2:
            return {"error": "the replica is catching up"}
        found = [order for order in self.server.shop.orders if order["updated_at"] >= since]
        rows = found[(page - 1) * size : page * size]
        key = "items" if self.server.trick == "renamed" else "data"
        return {key: rows, "page": page, "total": len(found), "has_more": page * size < len(found)}

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if cut:
            self.wfile.write(payload[: len(payload) // 2])
            self.close_connection = True
        else:
            self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        """Quiet: the counters are the log."""


@contextmanager
def serving(api: FlakyApi) -> Iterator[FlakyApi]:
    """Serve `api` from a thread until the block ends."""
    threading.Thread(target=api.serve_forever, daemon=True).start()
    try:
        yield api
    finally:
        api.shutdown()
        api.server_close()
