"""The tour that the README promises to those who have only the wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor_resilient.demo.flaky_api import TOKEN
from monitor_resilient.demo.tour import REVOKED, ROTATED, run_tour
from resilient_core.errors import UsageError


def test_the_tour_shows_all_seven_failures_and_ends_with_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_tour(tmp_path / "tour", rows=1500)
    said = capsys.readouterr().out
    for words in (
        "exit 75, stopped cleanly, run again later: the server asks to wait 7200 s",
        "has no records at 'data'",
        "new columns: channel",
        "/amount breaks `type`",
        "5 rows are marked as deleted",
        "refused (401); the token was fetched again, and the scan went on\n",
        "a token stands in: none",
        "0 lost, 0 doubled",
        "exit 77, credentials refused",
        "zero_rows of orders fail",
        "FIRING auth_failed: probe of shop; RESOLVED auth_failed: probe of shop\n",
    ):
        assert words in said, words
    assert [line[0] for line in said.splitlines() if line[:1].isdigit()] == list("1234567")
    page = report.read_text()
    assert "/amount" in page
    assert [secret for secret in (TOKEN, ROTATED, REVOKED) if secret in page + said] == []


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="name another --directory"):
        run_tour(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
