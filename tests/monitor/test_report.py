"""The report: whole in one file, readable without charts, silent in a real browser."""

from __future__ import annotations

import builtins
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from monitor_resilient.alerts.lifecycle import Episode
from monitor_resilient.check_log import write_log
from monitor_resilient.config import load_config
from monitor_resilient.report import write_report
from monitor_resilient.watch import Watch
from resilient_core.errors import ConfigError
from resilient_core.redaction import redactor
from resilient_core.secrets import Resolver
from tests.monitor.support import DAY, HOUR, NOW, Warehouse

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def filled(warehouse: Warehouse) -> None:
    """A month with a dip, refused records, a new column, a probe and an incident."""
    schema = warehouse.default_schema
    warehouse.execute("CREATE TABLE orders (updated_at timestamptz)")
    warehouse.execute("INSERT INTO orders VALUES ('2026-11-23T01:00:00Z')")
    warehouse.daily(1000, 20)
    warehouse.load(NOW - HOUR, {"orders": 3}, quarantined=2, bookmark="<b>&")
    errors = [{"pointer": "/amount", "rule": "type", "expected": "number", "actual_type": "string"}]
    warehouse.insert("quarantine", id="a" * 32, stream="orders", record="{}", errors=json.dumps(errors),
                     first_seen_at=NOW, last_seen_at=NOW, times_seen=2)  # fmt: skip
    for load_id, column, change in (("load-00001", None, "create table"), ("load-00021", "<channel>", "add column")):
        warehouse.insert("schema_log", load_id=load_id, stream="orders", table_name=f"{schema}.orders",
                         column_name=column, change=change, at=NOW)  # fmt: skip
    write_log(warehouse.database(), [Episode("probe", "shop", "auth_failed", NOW - HOUR, NOW, notified_at=NOW)])


def written(warehouse: Warehouse, tmp_path: Path) -> Path:
    config = tmp_path / "monitor.yaml"
    config.write_text(
        f"destination: {warehouse.url}\n"
        "checks:\n"
        "- {type: freshness, stream: orders, column: updated_at, warn_after: 1d, error_after: 2d}\n"
        "- {type: volume, stream: orders}\n"
    )
    path = tmp_path / "report.html"
    watch = Watch(load_config(str(config), {}), Resolver(), NOW, logging.getLogger("test"))
    write_report(watch, path)
    return path


def test_the_report_shows_every_part(any_warehouse: Warehouse, tmp_path: Path) -> None:
    filled(any_warehouse)
    page = written(any_warehouse, tmp_path).read_text()
    for words in ("Something is wrong", "auth_failed", "3 rows in the last load, expected about", "1d 2h old",
                  "/amount", "&lt;channel&gt;", "21 loads by start and duration"):  # fmt: skip
        assert words in page
    assert page.count("<svg ") == page.count('<svg role="img" aria-label="') == 4


def test_an_empty_destination_gives_an_empty_report(any_warehouse: Warehouse, tmp_path: Path) -> None:
    page = written(any_warehouse, tmp_path).read_text()
    assert "Something could not be evaluated" in page
    assert "<svg" not in page


def test_a_secret_is_masked_in_the_report(warehouse: Warehouse, tmp_path: Path) -> None:
    redactor.add("s3cr3t-in-a-reason")
    warehouse.load(NOW - HOUR, {"orders": 1}, exit_code=69, reason="refused s3cr3t-in-a-reason")
    page = written(warehouse, tmp_path).read_text()
    assert "s3cr3t" not in page
    assert "refused ***" in page


def test_the_report_names_no_other_place(warehouse: Warehouse, tmp_path: Path) -> None:
    filled(warehouse)
    page = written(warehouse, tmp_path).read_text()
    assert set(re.findall(r"https?://[^\"'\s<>]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "<script" not in page


def test_without_the_chart_library_the_figures_stay(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_altair(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "altair":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_altair)
    filled(warehouse)
    page = written(warehouse, tmp_path).read_text()
    assert "pip install &#x27;singer-resilient[report]&#x27;" in page
    assert page.count("<details open>") == 4


def test_a_path_that_cannot_be_written_is_a_fault_of_the_configuration(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ConfigError, match=r"report\.html cannot be written"):
        written(warehouse, tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH (Debian: apt-get install chromium)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_opens_it_without_error_and_without_request(
    warehouse: Warehouse, tmp_path: Path, scheme: Any
) -> None:
    from playwright.sync_api import sync_playwright

    filled(warehouse)
    path = written(warehouse, tmp_path)
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert (said, asked, width) == ([], [path.as_uri()], 400)


def test_days_limits_what_is_shown(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load(NOW - 40 * DAY, {"orders": 77_777})
    warehouse.load(NOW - HOUR, {"orders": 5})
    assert "77,777" not in written(warehouse, tmp_path).read_text()
