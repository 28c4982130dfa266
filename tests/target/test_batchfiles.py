"""BATCH files are judged as records are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from resilient_core.errors import NotSingerError
from tests.target.support import load, quarantined, rows, schema

ANNOUNCED = schema({"id": {"type": "integer"}, "v": {"type": "string"}}, ["id"])


@pytest.fixture
def destination(tmp_path: Path) -> str:
    return f"duckdb:///{tmp_path}/test.duckdb"


def message(*paths: Any, compression: str | None = None, **encoding: Any) -> dict[str, Any]:
    told = {"format": "jsonl", "compression": compression, **encoding}
    return {"type": "BATCH", "stream": "s", "encoding": told, "manifest": [str(path) for path in paths]}


def write(path: Path, *records: Any, compress: bool = False) -> Path:
    data = b"".join(json.dumps(one).encode() + b"\n" for one in records)
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


@pytest.mark.parametrize("compression", [None, "none", "gzip"])
def test_plain_and_gzip_files_are_loaded_and_a_replay_adds_nothing(
    compression: str | None, destination: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a b.jsonl", {"id": 1, "v": "x"}, {"id": 2, "v": "y"}, compress=compression == "gzip")
    for manifest in (path.as_uri(), path):
        assert load(destination, [ANNOUNCED, message(manifest, compression=compression)]).error is None
        assert rows(destination, "s") == [(1, "x"), (2, "y")]


def test_bad_lines_of_a_file_are_quarantined_as_they_came(destination: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"id": 1, "v": "x"}, {"id": "x"}, 7)
    path.write_bytes(path.read_bytes() + b'{"id": 3, "v": NaN}')
    assert load(destination, [ANNOUNCED, message(path)]).error is None
    assert rows(destination, "s") == [(1, "x")]
    assert [record for record, _ in quarantined(destination)] == ["7", '{"id": "x"}', '{"id": 3, "v": NaN}']


@pytest.mark.parametrize("encoding", [{"format": "parquet"}, {"format": None}, {"compression": "zstd"}])
def test_an_unknown_encoding_is_refused(encoding: dict[str, Any], destination: str, tmp_path: Path) -> None:
    outcome = load(destination, [ANNOUNCED, message(tmp_path / "a", **encoding)])
    assert isinstance(outcome.error, NotSingerError)
    assert "known: jsonl, plain or gzip" in str(outcome.error)


@pytest.mark.parametrize("kind", ["missing", "folder", "no gzip", "cut gzip"])
def test_a_file_that_cannot_be_read_is_refused_by_name(kind: str, destination: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    if kind == "no gzip":
        path.write_bytes(b"{}")
    if kind == "cut gzip":
        path.write_bytes(gzip.compress(b'{"id": 1}\n' * 1000)[:-20])
    outcome = load(destination, [ANNOUNCED, message(path, compression="gzip")])
    assert isinstance(outcome.error, NotSingerError)
    assert "line 2" in str(outcome.error)
    assert str(path) in str(outcome.error)
