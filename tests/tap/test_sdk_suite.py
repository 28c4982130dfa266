"""The SDK's standard tap suite, against a loopback server."""

import pytest
from singer_sdk.testing import SuiteConfig, get_tap_test_class

from tap_resilient.tap import ResilientTap
from tests.tap.support import Answer, Api, Asked, config_for, serving

CUSTOMERS = [{"id": n, "name": f"customer {n}", "changed_at": f"2024-01-0{n}T00:00:00Z"} for n in range(1, 6)]
ORDERS = [{"order": f"{c}-{n}", "amount": n * 1.5} for c in range(1, 6) for n in range(1, 4)]


def handle(asked: Asked) -> Answer:
    if asked.path == "/customers":
        page = int(asked.params["page"])
        return Answer({"items": CUSTOMERS[(page - 1) * 2 : page * 2], "total": len(CUSTOMERS)})
    customer = asked.path.split("/")[2]
    return Answer([order for order in ORDERS if order["order"].startswith(f"{customer}-")])


CUSTOMER_STREAM = {
    "name": "customers",
    "path": "/customers",
    "records": {"path": "items"},
    "paginator": {"type": "page", "total_path": "total"},
    "primary_keys": ["id"],
    "incremental": {"replication_key": "changed_at", "start_param": "since", "row_order": "asc"},
    "fields": {"title": {"from": "name", "type": "string"}},
}
ORDER_STREAM = {
    "name": "orders",
    "path": "/customers/{parent.id}/orders",
    "primary_keys": ["order"],
    "parent": {"stream": "customers", "include": ["id"]},
}

_context = serving(handle)
_api: Api = _context.__enter__()

TestResilientTap = get_tap_test_class(
    ResilientTap,
    config=config_for(_api.url, CUSTOMER_STREAM, ORDER_STREAM),
    suite_config=SuiteConfig(max_records_limit=20),
)


@pytest.fixture(scope="module", autouse=True)
def _server():
    yield
    _context.__exit__(None, None, None)
