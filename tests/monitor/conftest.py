"""Fixtures of the monitor's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.monitor.support import Receiver, Warehouse, receiving


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A DuckDB file with empty meta tables."""
    return Warehouse(f"duckdb:///{tmp_path}/warehouse.duckdb")


@pytest.fixture
def any_warehouse(destination: str) -> Warehouse:
    """A database with empty meta tables, once for each backend."""
    return Warehouse(destination)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook receiver on loopback."""
    with receiving() as found:
        yield found
