"""`monitor-resilient demo`: one load, one failure of each of the seven kinds, and what the tool says about it."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import yaml

from monitor_resilient.config import load_config
from monitor_resilient.database import Database
from monitor_resilient.demo.flaky_api import TOKEN, Faults, FlakyApi, Shop, serving
from monitor_resilient.demo.pipe import Pipe, Ran
from monitor_resilient.demo.receiver import Receiver, receiving
from monitor_resilient.listings import quarantined
from monitor_resilient.readings import Readings
from monitor_resilient.report import write_report
from monitor_resilient.watch import Watch, Watched
from monitor_resilient.words import count
from resilient_core.errors import UsageError, exit_meaning
from resilient_core.redaction import redactor
from resilient_core.secrets import Resolver
from target_resilient.destination import parse_destination

ROTATED = "rotated-token-5c1f"
REVOKED = "another-token-77aa"
_PACKAGE = Path(__file__).parent
_MARKER = ".resilient-demo"


def run_tour(folder: Path, rows: int = 5000) -> Path:
    """Play all scenes in `folder`, which is made anew; the path of the report.

    Raises UsageError for a folder that holds something else.
    """
    _make_folder(folder)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    shop = Shop(rows=rows, start=now - timedelta(days=2))
    with ExitStack() as stack:
        api = stack.enter_context(serving(FlakyApi(shop=shop, faults=Faults(0.05, 0.05))))
        receiver = stack.enter_context(receiving())
        return Tour(folder, api, receiver).play()


class Tour:
    """The scenes, in order. Everything happens by the real commands on a real server and a real database."""

    def __init__(self, folder: Path, api: FlakyApi, receiver: Receiver) -> None:
        self.folder = folder
        self.api = api
        self.receiver = receiver
        self.pipe = Pipe(folder)
        self.logger = logging.getLogger("monitor-resilient.demo")
        self.logger.setLevel(logging.CRITICAL)  # the scenes say what happened

    def play(self) -> Path:
        """All scenes; the path of the report."""
        self._configure()
        for scene in (self._rate_limits, self._lies, self._drift, self._incremental, self._secrets, self._killed,
                      self._silence):  # fmt: skip
            scene()
        report = self.folder / "report.html"
        write_report(self._watch(), report)
        return report

    def _configure(self) -> None:
        for name in ("shop.yaml", "orders.json"):
            shutil.copy(_PACKAGE / name, self.folder)
        token = self.folder / "token"
        token.write_text(TOKEN)
        variables = {"base_url": self.api.url, "token": f"ref+file://{token}"}
        self.pipe.write("tap.json", {"source": str(self.folder / "shop.yaml"), "config": variables})
        self.pipe.write("target.json", self._target("shop"))
        (self.folder / "monitor.yaml").write_text(yaml.safe_dump(self._monitor(variables), sort_keys=False))

    def _target(self, name: str) -> dict[str, Any]:
        return {"destination": f"duckdb:///{self.folder}/{name}.duckdb", "pipeline": name, "batch_size_rows": 1000}

    def _monitor(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {
            "destination": self._target("shop")["destination"],
            "checks": [
                {"type": "freshness", "stream": "orders", "column": "updated_at", "warn_after": "36h",
                 "error_after": "72h"},
                {"type": "volume", "stream": "orders"},
                {"type": "zero_rows", "stream": "orders"},
                {"type": "runs", "pipeline": "shop", "every": "1h"},
                {"type": "rejects", "stream": "orders", "max_ratio": 0.05},
                {"type": "completeness", "pipeline": "shop"},
                {"type": "drift", "stream": "orders"},
            ],
            "probes": [{"source": str(self.folder / "shop.yaml"), "config": variables}],
            "alerts": {"channels": [{"type": "webhook", "url": self.receiver.url}],
                       "spool": str(self.folder / "spool.json")},
            "report": {"path": str(self.folder / "report.html")},
        }  # fmt: skip

    # The scenes

    def _rate_limits(self) -> None:
        limit = self.api.faults.requests_per_second
        _scene(1, "Rate limits", f"The API takes {limit} requests a second, answers 500 now and then, and cuts bodies.")
        before, started = Counter(self.api.log), time.monotonic()
        ran = self.pipe.run()
        answers, seconds = Counter(self.api.log) - before, time.monotonic() - started
        refused, failed = count(answers["429"], "request"), answers["500"] + answers["cut"]
        _told(f"{self._count():,} orders in {seconds:.1f} s: {answers['ok']} pages, {refused} refused (429),"
              f" {failed} failed and asked for again", ran)  # fmt: skip
        _said("Then it answers: come back in two hours.")
        self.api.faults = Faults(0, 0, limit)
        _told("", self._with_trick("closed"))

    def _lies(self) -> None:
        _scene(2, "Lying documentation", "A 200 whose body is an error, on the second page.")
        self.api.shop.next_day()
        _told("", self._with_trick("error_body"))
        _said("The records move to a key that no documentation names.")
        _told("", self._with_trick("renamed"))

    def _drift(self) -> None:
        _scene(3, "Schema drift", "300 orders come with a new field; six of the 420 that arrived break the contract.")
        ran = self.pipe.run()
        with self._database() as database:
            readings = Readings(database, datetime.now(timezone.utc))
            refused = quarantined(readings, "orders", 100)
            columns = [change.column for change in readings.changes("orders", within=timedelta(days=1))]
        reasons = Counter(f"{row['pointer'] or '/'} breaks `{row['rule']}`" for row in refused)
        _told(f"new columns: {', '.join(columns)}; refused, kept, with field and reason:", ran)
        for reason, times in reasons.most_common():
            _line(f"  {times}× {reason}")

    def _incremental(self) -> None:
        _scene(4, "Full refresh", "Five orders are deleted in the shop. Nothing else changes.")
        self.api.shop.delete(5)
        before = Counter(self.api.log)
        ran = self.pipe.run()
        pages = (Counter(self.api.log) - before)["ok"]
        gone = self._one("SELECT count(*) FROM orders WHERE _sdc_deleted_at IS NOT NULL")
        _told(
            f"{pages} page read instead of {len(self.api.shop.orders) // 250}; {gone} rows are marked as deleted", ran
        )

    def _secrets(self) -> None:
        _scene(5, "Secrets", "The token is a reference to a file. In the middle of a scan the API gets a new one.")
        first = self.api.log.total()

        def rotate(number: int) -> None:
            with self.api.lock:
                if number >= first + 2 and self.api.token != ROTATED:
                    (self.folder / "token.new").write_text(ROTATED)
                    (self.folder / "token.new").replace(self.folder / "token")  # nobody reads half of it
                    self.api.token = ROTATED

        (self.folder / "state.json").unlink()
        before, self.api.before = Counter(self.api.log), rotate
        ran = self.pipe.run()
        self.api.before = lambda number: None
        refused = (Counter(self.api.log) - before)["401"]
        _told(f"{count(refused, 'request')} refused (401); the token was fetched again, and the scan went on", ran)
        written = [path for path in sorted(self.folder.iterdir()) if path.is_file() and path.name != "token"]
        found = [path.name for path in written if _holds(path, TOKEN, ROTATED)]
        _line(f"of the {len(written)} files in {self.folder}, a token stands in: {', '.join(found) or 'none'}")

    def _killed(self) -> None:
        _scene(6, "Idempotency", "A loader is killed (SIGKILL) as soon as it has acknowledged a first state.")
        self.pipe.write("twin.json", self._target("twin"))
        lines = self.pipe.extract()
        self.pipe.load_and_kill("twin.json", lines)
        query = "SELECT count(*) FROM orders"
        _line(f"after the kill: {self._one(query, 'twin'):,} orders, whole epochs only")
        code = self.pipe.load("twin.json", lines)
        orders = self._one(query, "twin")
        distinct = self._one("SELECT count(DISTINCT order_id) FROM orders", "twin")
        refused = self._one("SELECT count(*) FROM _resilient.quarantine", "twin")
        lost = len(self.api.shop.orders) - distinct - refused
        _line(f"after a second run (exit {code}): {orders:,} orders and {refused} refused;"
              f" {lost} lost, {orders - distinct} doubled")  # fmt: skip

    def _silence(self) -> None:
        _scene(7, "Silent failure", "The token is revoked. Nothing arrives any more.")
        self.api.token = REVOKED
        _told("", self.pipe.run())
        for words in ("probe", "probe, five minutes later"):
            self._tell(words, self._watch().probe(), {"auth_failed"})
        self._tell("check", self._watch().check(), {"fail", "warn", "unknown"})
        _said("The token is put right.")
        (self.folder / "token").write_text(REVOKED)
        ran = self.pipe.run()
        self._tell("probe", self._watch().probe(), {"ok"})
        self._tell("check", self._watch().check(), {"fail", "unknown"})
        _told(f"alerts that arrived: {'; '.join(self.receiver.titles)}", ran)

    # What the scenes need

    def _with_trick(self, trick: str) -> Ran:
        self.api.trick = trick
        try:
            return self.pipe.run()
        finally:
            self.api.trick = ""

    def _watch(self) -> Watch:
        config = load_config(str(self.folder / "monitor.yaml"), {})
        return Watch(config, Resolver(), datetime.now(timezone.utc), self.logger)

    def _tell(self, command: str, watched: Watched, states: set[str]) -> None:
        found = [f for f in watched.findings if f.outcome.state in states and f.subject != "destination"]
        words = "; ".join(f"{f.check} of {f.subject} {f.outcome.state}: {f.outcome.message}" for f in found)
        _line(f"{command} (exit {watched.exit_code()}): {words or 'nothing to complain about'}")

    @contextmanager
    def _database(self, name: str = "shop") -> Iterator[Database]:
        database = Database(parse_destination(self._target(name)))
        try:
            yield database
        finally:
            database.close()

    def _one(self, query: str, name: str = "shop") -> int:
        with self._database(name) as database:
            return int(database.fetch(query)[0][0])

    def _count(self) -> int:
        return self._one("SELECT count(*) FROM orders")


def _make_folder(folder: Path) -> None:
    """An empty folder. Only one that an earlier tour made is emptied."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise UsageError(f"demo: {folder} is not empty and not of an earlier tour; name another --directory")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()


def _holds(path: Path, *secrets: str) -> bool:
    content = path.read_bytes()
    return any(secret.encode() in content for secret in secrets)


def _scene(number: int, title: str, what: str) -> None:
    click.secho(f"\n{number}  {title}", bold=True)
    _said(what)


def _said(what: str) -> None:
    click.echo(f"   {what}")


def _told(what: str, ran: Ran) -> None:
    """What a load did, or how it ended if it did not end well."""
    code = ran.tap_code or ran.target_code
    end = f"exit {code}, {exit_meaning(code)}: {ran.said}" if code else ""
    _line("; ".join(part for part in (what, end) if part))


def _line(text: str) -> None:
    click.secho(f"   → {redactor.redact(text)}", fg="cyan")
