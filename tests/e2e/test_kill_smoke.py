"""Twenty seeded SIGKILLs in mid-load on each backend: 0 rows lost, 0 doubled, state never ahead of data."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.e2e.orders import calm_shop, expected, landed, orders_pipe
from tests.e2e.support import Kill, Warehouse

ROWS, PAGE, BATCH = 8_000, 250, 800


@pytest.mark.parametrize("seed", range(20))
def test_a_load_killed_in_the_middle_and_run_again_ends_equal(tmp_path: Path, warehouse: Warehouse, seed: int) -> None:
    chance = random.Random(seed)
    who = chance.choice(["tap", "target", "both"])
    page = chance.randrange(1, ROWS // PAGE - 6)
    with calm_shop(ROWS, latency_seconds=0.02) as api:
        pipe = orders_pipe(tmp_path, api, warehouse, batch_size_rows=BATCH)
        killed = pipe.run(kill=Kill(who, lambda: api.log["ok"] >= page, then_seconds=chance.uniform(0, 0.08)))
        assert -9 in (killed.tap_code, killed.target_code), f"seed {seed}: nothing was killed"
        assert_state_is_not_ahead(warehouse, pipe.state, seed)
        again = pipe.run()
        assert (again.tap_code, again.target_code) == (0, 0), f"seed {seed} ({who}): {again.tap_log}{again.target_log}"
        assert landed(warehouse) == expected(api), f"seed {seed} ({who} after page {page})"


def assert_state_is_not_ahead(warehouse: Warehouse, state: dict | None, seed: int) -> None:
    """The bookmark that was printed has its row in the table."""
    bookmark = ((state or {}).get("bookmarks", {}).get("orders") or {}).get("replication_key_value")
    if bookmark:
        (count,) = warehouse.query(f"SELECT count(*) FROM orders WHERE updated_at >= '{bookmark}'")[0]
        assert count >= 1, f"seed {seed}: the state is ahead of the data"
