"""The bundled orders API without its faults, as a source for kills and peers, and its rows as the truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from monitor_resilient.demo.flaky_api import TOKEN, Faults, FlakyApi, Shop, serving
from tests.e2e.support import ROOT, Pipe, Warehouse, script, write_json

COLUMNS = ["order_id", "customer_id", "customer_email", "status", "amount", "currency", "updated_at"]
ENV = {"FLAKY_TOKEN": TOKEN}


@contextmanager
def calm_shop(
    rows: int, latency_seconds: float = 0.0, *, bad: int = 0, start: datetime | None = None
) -> Iterator[FlakyApi]:
    """The API with so many orders, `bad` of them broken, and no faults. `start` None means yesterday."""
    calm = Faults(error_500=0, cut_body=0, requests_per_second=10**6, latency_seconds=latency_seconds)
    shop = Shop(rows=rows, bad=bad, start=start) if start else Shop(rows=rows, bad=bad)
    with serving(FlakyApi(shop=shop, faults=calm)) as api:
        yield api


def tap_command(directory: Path, url: str) -> list[str]:
    """tap-resilient on the API at `url`."""
    source = str(ROOT / "sample_config/sources/flaky.yaml")
    config = write_json(directory / "tap.json", {"source": source, "config": {"base_url": url}})
    return [script("tap-resilient"), "--config", str(config)]


def target_command(directory: Path, warehouse: Warehouse, **settings: Any) -> list[str]:
    """target-resilient into `warehouse`."""
    config = write_json(directory / "target.json", {**warehouse.config, "pipeline": "orders", **settings})
    return [script("target-resilient"), "--config", str(config)]


def orders_pipe(directory: Path, api: FlakyApi, warehouse: Warehouse, **settings: Any) -> Pipe:
    """`tap-resilient | target-resilient` from the API into `warehouse`."""
    return Pipe(directory, tap_command(directory, api.url), target_command(directory, warehouse, **settings), env=ENV)


def expected(api: FlakyApi) -> list[tuple[Any, ...]]:
    """The API's orders as rows, by order_id."""
    return sorted(_row(order) for order in api.shop.orders)


def landed(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """The destination's orders as rows, by order_id."""
    rows = warehouse.query(f"SELECT {', '.join(COLUMNS)} FROM orders ORDER BY order_id")
    return [tuple(map(_plain, row)) for row in rows]


def _row(order: dict[str, Any]) -> tuple[Any, ...]:
    customer = order["customer"]
    flat = {**order, "customer_id": customer["id"], "customer_email": customer["email"]}
    return tuple(flat[name] for name in COLUMNS)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return value if isinstance(value, (int, str)) or value is None else float(value)
