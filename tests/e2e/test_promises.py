"""The seven promises of the README, one test each: the real commands on real servers, stores and databases."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import jsonschema
import pytest
import yaml

from monitor_resilient.demo.flaky_api import TOKEN
from tests.e2e.orders import calm_shop, expected, landed, target_command
from tests.e2e.support import (
    ROOT,
    DuckDBFile,
    Kill,
    Outcome,
    Pipe,
    PostgresDatabase,
    Warehouse,
    run,
    script,
    write_json,
)
from tests.e2e.vaults import VAULTS
from tests.monitor import support as monitoring
from tests.tap.faulty import Reply, Seen, faulty

DEMO = ROOT / "monitor_resilient/demo"
NOW = datetime.now(timezone.utc)


@pytest.fixture
def file(tmp_path: Path) -> DuckDBFile:
    return DuckDBFile(tmp_path / "warehouse.duckdb")


@pytest.fixture
def receiver() -> Iterator[monitoring.Receiver]:
    with monitoring.receiving() as found:
        yield found


def shop_source(url: str, token: str = TOKEN, **stream: Any) -> dict[str, Any]:
    """The tour's source of orders, inline; `stream` replaces keys of the stream."""
    source = yaml.safe_load((DEMO / "shop.yaml").read_text())
    source["client"] |= {"base_url": url, "auth": {"type": "bearer", "token": token}}
    source["streams"][0] |= {"schema": {"contract": str(DEMO / "orders.json")}, **stream}
    return dict(source)


def pipe_of(directory: Path, source: dict[str, Any], warehouse: Warehouse, **target: Any) -> Pipe:
    """`tap-resilient | target-resilient` with an inline source."""
    config = write_json(directory / "tap.json", source)
    return Pipe(directory, [script("tap-resilient"), "--config", str(config)],
                target_command(directory, warehouse, **target))  # fmt: skip


def monitor(directory: Path, config: dict[str, Any], *arguments: str, env: dict[str, str] | None = None) -> Outcome:
    """One call of monitor-resilient."""
    path = write_json(directory / "monitor.json", config)
    return run([script("monitor-resilient"), "--config", str(path), *arguments], env=env)


def states(outcome: Outcome) -> dict[str, str]:
    """Check or probed subject → state, as `check` and `probe` print them with `--format json`."""
    findings = json.loads("\n".join(outcome.lines))
    return {f["check"] if f["type"] != "probe" else f["stream"]: f["state"] for f in findings}


# 1


class Quota:
    """Takes `limit` requests a second and says so. The third request fails; the tenth is told to come back in 2 s."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used: Counter[int] = Counter()
        self.asked: list[float] = []
        self.closed = False

    def __call__(self, seen: Seen) -> Reply:
        self.asked.append(seen.at)
        self.used[int(seen.at)] += 1
        left = max(0, self.limit - self.used[int(seen.at)])
        headers = {"X-RateLimit-Limit": str(self.limit), "X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": "1"}
        if self.closed or len(self.asked) == 10:
            return Reply({}, 429, {"Retry-After": "7200" if self.closed else "2"})
        if len(self.asked) == 3:
            return Reply({}, 503, headers)
        page = int(seen.params["page"])
        return Reply({"data": [{"id": page}], "more": page < 6}, headers=headers)


def test_1_rate_limits(tmp_path: Path, file: DuckDBFile) -> None:
    quota, names = Quota(limit=8), ("one", "two", "three")
    paging = {"type": "page", "has_more_path": "more"}
    common = {"path": "/rows", "records": {"path": "data"}, "paginator": paging, "primary_keys": ["id"]}
    with faulty(quota) as api:
        source = {"client": {"base_url": api.url}, "defaults": common, "streams": [{"name": name} for name in names]}
        pipe = pipe_of(tmp_path, source, file)
        done = pipe.load()
        assert [file.query(f"SELECT count(*) FROM {name}") for name in names] == [[(6,)]] * 3
        assert len(quota.asked) == 3 * (6 + 1) + 2, "each page once, the first again (did rows shift?), two refused"
        assert max(quota.used.values()) <= quota.limit, "the limit that the server announced, over all streams"
        assert min(at - quota.asked[9] for at in quota.asked[10:]) >= 2.0, "Retry-After, by all streams"
        assert "503" in done.tap_log
        quota.closed = True
        stopped = pipe.run()
        assert stopped.tap_code == 75, "two hours are not sat out: a clean stop, run again later"
        assert "7200 s, longer than retry_after_max" in stopped.tap_log


# 2


def test_2_lying_documentation(tmp_path: Path, file: DuckDBFile) -> None:
    with calm_shop(600) as api:
        for number, customer in enumerate((None, "gone", [], {})):
            api.shop.orders[number]["customer"] = customer  # the docs promise {id, email}
        pipe = pipe_of(tmp_path, shop_source(api.url, schema={"mode": "infer"}), file)
        api.trick = "error_body"  # page 2 is a 200 that says {"error": …}
        lied = pipe.run()
        assert lied.tap_code == 69
        assert "the answer has no records at 'data'" in lied.tap_log
        assert pipe.state is not None
        bookmark = pipe.state["bookmarks"]["orders"]["replication_key_value"]
        assert bookmark <= api.shop.orders[249]["updated_at"], "not past the page that came"
        api.trick = ""
        pipe.load()
        assert file.query("SELECT count(*), count(customer_id) FROM orders") == [(600, 596)]


# 3


def test_3_schema_drift(tmp_path: Path, file: DuckDBFile) -> None:
    with calm_shop(1_000, bad=3) as api:
        source = shop_source(api.url)
        pipe = pipe_of(tmp_path, source, file)
        pipe.load()
        api.shop.next_day()  # brings a column that the contract does not name, and six orders that break it
        pipe.load()
        listed = monitor(tmp_path, file.config, "quarantine", "list", "--format", "json")
        refused = json.loads("\n".join(listed.lines))
        reasons = {("/amount", "type"), ("/status", "required"), ("/currency", "pattern")}
        assert {(one["pointer"], one["rule"]) for one in refused} == reasons
        kept = file.query("SELECT order_id FROM orders UNION SELECT (record::json->>'order_id')::int"
                          " FROM _resilient.quarantine ORDER BY 1")  # fmt: skip
        assert kept == sorted((order["order_id"],) for order in api.shop.orders), "nothing is lost"
        assert file.query("SELECT count(*) FROM orders WHERE channel = 'app'") != [(0,)]

        drafted = monitor(tmp_path, file.config, "contract", "infer", "orders", "--tap", str(tmp_path / "tap.json"))
        contract = json.loads("\n".join(drafted.lines))
        jsonschema.Draft7Validator.check_schema(contract)
        assert contract["required"] == ["amount", "currency", "customer", "customer_email", "customer_id", "order_id",
                                        "updated_at"]  # fmt: skip
        assert "look at /amount: string in" in drafted.tap_log


# 4


def test_4_full_refresh(tmp_path: Path, postgres: str) -> None:
    database = PostgresDatabase(postgres)
    with calm_shop(2_000) as api:
        pipe = pipe_of(tmp_path, shop_source(api.url), database)
        pipe.load()
        api.log.clear()
        pipe.load()
        assert api.log["ok"] == 1, "one page, with the row at the bookmark"
        api.shop.delete(5)
        pipe.load()
        assert api.log["ok"] == 2
        reads = "SELECT received, inserted, updated, unchanged FROM _resilient.loads ORDER BY started_at"
        assert database.query(reads) == [(2_000, 2_000, 0, 0), (1, 0, 0, 1), (6, 0, 5, 1)]
        gone = database.query("SELECT order_id FROM orders WHERE _sdc_deleted_at IS NOT NULL ORDER BY 1")
        assert gone == sorted((order["order_id"],) for order in api.shop.orders if order.get("deleted"))
        assert database.query("SELECT count(*) FROM orders") == [(2_000,)], "marked, not removed"


# 5

OLD = {"token": "old/t0ken+%Q", "password": "w0rd/ß+&=", "path": "alert-path-9f3c"}
NEW = {**OLD, "token": "new/t0ken+%Z"}


@pytest.mark.parametrize("kind", VAULTS)
def test_5_secrets(tmp_path: Path, postgres: str, receiver: monitoring.Receiver, kind: str) -> None:
    """One document of a store serves a setting of each of the three plugins; the token is rotated in mid-scan."""
    hook = {"alert": receiver.url + "/alert-path-9f3c"}
    with calm_shop(2_000) as api, VAULTS[kind]({**OLD, **hook}, tmp_path) as vault:
        api.token = OLD["token"]
        env = {**vault.env, "LOGLEVEL": "DEBUG"}
        source = shop_source(api.url, vault.ref("token"))
        password = {"password": vault.ref("password")}
        pipe = pipe_of(tmp_path, source, PostgresDatabase(postgres), **password)
        pipe.env = env

        def rotate(number: int) -> None:
            with api.lock:
                if number >= 2 and vault.replace and api.token == OLD["token"]:
                    vault.replace({**NEW, **hook})  # first the store, then the API, as a careful rotation goes
                    api.token = NEW["token"]

        api.before = rotate
        pipe.load()
        assert (api.log["401"] > 0) == bool(vault.replace), "refused once rotated, fetched again, and the scan went on"

        write_json(tmp_path / "source.json", source)
        watched = {"destination": postgres, **password, "probes": [{"source": str(tmp_path / "source.json")}],
                   "checks": [{"type": "zero_rows", "stream": "nothing"}],
                   "alerts": {"channels": [{"type": "webhook", "url": vault.ref("alert")}],
                              "spool": str(tmp_path / "spool.json")},
                   "report": {"path": str(tmp_path / "report.html")}}  # fmt: skip
        said = [monitor(tmp_path, watched, command, env=env) for command in ("probe", "check", "report")]
        assert [one.tap_code for one in said] == [0, 3, 0]
        assert len(receiver.got) == 1
    everything = "\n".join([*(str(one) for one in said), *files_of(tmp_path), *tables_of(PostgresDatabase(postgres))])
    assert len(everything) > 100_000
    assert [form for secret in {*OLD.values(), *NEW.values()} for form in forms(secret) if form in everything] == []


def files_of(folder: Path) -> list[str]:
    """All that was written: configurations, logs, states, the report."""
    return [path.read_text() for path in folder.iterdir() if path.is_file()]


def tables_of(database: PostgresDatabase) -> list[str]:
    """Every row of every table, as text."""
    tables = database.query("SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname !~ '^pg_'")
    return [str(database.query(f"SELECT t::text FROM {table} t")) for (table,) in tables]


def forms(secret: str) -> set[str]:
    """The ways in which a secret could be written."""
    raw = secret.encode()
    encoded = {base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")}
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], *encoded}


# 6


def test_6_idempotency(tmp_path: Path, warehouse: Warehouse) -> None:
    with calm_shop(4_000, latency_seconds=0.02) as api:
        source = shop_source(api.url)
        keyless = {**source["streams"][0], "name": "keyless", "primary_keys": [], "schema": {"mode": "infer"}}
        pipe = pipe_of(tmp_path, {**source, "streams": [source["streams"][0], keyless]}, warehouse, batch_size_rows=500)
        killed = pipe.run(kill=Kill("target", when=lambda: api.log["ok"] >= 24))  # of 2 × 16 pages
        assert killed.target_code == -9
        ((received,),) = warehouse.query("SELECT sum(received)::int FROM _resilient.ledger")
        assert 0 < received < 8_000
        pipe.load()
        assert landed(warehouse) == expected(api), "0 lost, 0 doubled"
        pipe.state = None
        pipe.load()  # all of it once more
        assert landed(warehouse) == expected(api)
        counts = "SELECT count(*), count(DISTINCT order_id) FROM keyless"
        assert warehouse.query(counts) == [(4_000, 4_000)], "a row without a key is its own key"


# 7


def test_7_silent_failure(tmp_path: Path, file: DuckDBFile, receiver: monitoring.Receiver) -> None:
    past = monitoring.Warehouse(file.config["destination"])
    past.daily(1_000, 10, until=NOW)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with calm_shop(50, start=NOW - timedelta(days=10)) as api:
        source = shop_source(api.url, f"ref+file://{token}")
        pipe = pipe_of(tmp_path, source, file, pipeline="shop")
        fresh = {"type": "freshness", "stream": "orders", "column": "updated_at", "error_after": "48h"}
        rows = [{"type": kind, "stream": "orders"} for kind in ("volume", "zero_rows")]
        config = {**file.config, "checks": [fresh, *rows],
                  "probes": [{"source": str(write_json(tmp_path / "source.json", source)), "name": "shop"}],
                  "alerts": {"channels": [{"type": "webhook", "url": receiver.url}],
                             "spool": str(tmp_path / "spool.json")}}  # fmt: skip

        def watch(command: str) -> tuple[int, dict[str, str]]:
            outcome = monitor(tmp_path, config, command, "--format", "json")
            return outcome.tap_code, states(outcome)

        pipe.load()  # 50 orders where 1,000 are usual, the newest ten days old
        bad = {"freshness": "fail", "volume": "fail", "zero_rows": "ok"}
        assert [watch("check"), watch("check")] == [(1, bad)] * 2
        assert titles(receiver) == ["FIRING fail: freshness of orders", "FIRING fail: volume of orders"], "each once"

        api.shop.start = NOW - timedelta(days=1, minutes=10)
        api.shop.next_day(new=20, changed=5)
        pipe.load()
        assert watch("check") == (0, dict.fromkeys(bad, "ok"))
        assert titles(receiver) == ["RESOLVED fail: freshness of orders", "RESOLVED fail: volume of orders"]

        api.token = "another-token"
        assert pipe.run().tap_code == 77
        assert [watch("probe"), watch("probe")] == [(1, {"shop": "auth_failed", "destination": "ok"})] * 2
        assert watch("check")[1]["zero_rows"] == "fail"
        assert titles(receiver) == ["FIRING auth_failed: probe of shop"], "one cause, one alert"
        token.write_text("another-token")
        assert watch("probe") == (0, {"shop": "ok", "destination": "ok"})
        assert titles(receiver) == ["RESOLVED auth_failed: probe of shop"]


def titles(receiver: monitoring.Receiver) -> list[str]:
    """What has arrived since the last call, sorted."""
    found = sorted(receiver.titles)
    receiver.got.clear()
    return found
