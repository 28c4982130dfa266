"""Other people's taps and targets from PyPI, each in a venv of its own, piped to and from ours."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.orders import ENV, calm_shop, expected, tap_command
from tests.e2e.support import TOOLS, Pipe, Warehouse, script, write_json


def peer(name: str) -> str:
    path = TOOLS / "peers" / name / "bin" / name
    assert path.exists(), f"{path} is missing; run `make test`"
    return str(path)


def test_tap_resilient_feeds_target_jsonl(tmp_path: Path) -> None:
    config = write_json(tmp_path / "jsonl.json", {"destination_path": str(tmp_path), "do_timestamp_file": False})
    with calm_shop(1_200) as api:
        pipe = Pipe(tmp_path, tap_command(tmp_path, api.url), [peer("target-jsonl"), "--config", str(config)], env=ENV)
        pipe.load()
        rows = [json.loads(line) for line in (tmp_path / "orders.jsonl").read_text().splitlines()]
        assert sorted((row["order_id"], row["customer_id"], row["amount"]) for row in rows) == [
            (row[0], row[1], row[4]) for row in expected(api)
        ]
    assert pipe.state
    assert pipe.state["bookmarks"]["orders"]["replication_key_value"]


def test_tap_jsonl_feeds_target_resilient(tmp_path: Path, warehouse: Warehouse) -> None:
    planets = [{"id": number, "name": f"planet {number}", "moons": number * 2} for number in range(1, 501)]
    (tmp_path / "planets.jsonl").write_text("".join(json.dumps(planet) + "\n" for planet in planets))
    tap = write_json(
        tmp_path / "tap.json",
        {"path": str(tmp_path / "planets.jsonl"), "stream_name": "planets", "primary_keys": ["id"]},
    )
    target = write_json(tmp_path / "target.json", {**warehouse.config, "pipeline": "planets"})
    command = [script("target-resilient"), "--config", str(target)]
    pipe = Pipe(tmp_path, [peer("tap-jsonl"), "--config", str(tap)], command)
    for _ in range(2):
        pipe.load()
        rows = warehouse.query("SELECT id, name, moons FROM planets ORDER BY id")
        assert rows == [tuple(planet.values()) for planet in planets]
