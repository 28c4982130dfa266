"""The backends against real databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient_core.errors import StoppedError
from target_resilient.backends import Backend, DataError, open_backend
from target_resilient.destination import parse_destination
from target_resilient.meta import META_TABLES
from target_resilient.sql import Sql, sql


@pytest.fixture
def backend(destination: str) -> Iterator[Backend]:
    opened = open_backend(parse_destination({"destination": destination}))
    yield opened
    opened.close()


def test_meta_tables_are_created_once_and_again(backend: Backend) -> None:
    backend.ensure_meta()
    backend.ensure_meta()
    for table in META_TABLES:
        assert backend.fetch("SELECT count(*) FROM {}", [("_resilient", table)]) == [(0,)]


def test_values_and_identifiers_are_never_text(backend: Backend) -> None:
    backend.execute('CREATE TABLE {} ("a" text)', [('odd "name"; drop',)])
    backend.execute("INSERT INTO {} VALUES (%s)", [('odd "name"; drop',)], ["it's 100%"])
    assert backend.fetch("SELECT {} FROM {}", [("a",), ('odd "name"; drop',)]) == [("it's 100%",)]


def test_a_failed_transaction_leaves_nothing(backend: Backend) -> None:
    backend.execute("CREATE TABLE t (a bigint)")
    with pytest.raises(RuntimeError), backend.transaction() as session:
        session.run(Sql("INSERT INTO t VALUES (1)"))
        raise RuntimeError
    assert backend.fetch("SELECT count(*) FROM t") == [(0,)]


def test_staging_keeps_null_empty_quotes_newlines_and_backslashes_apart(backend: Backend) -> None:
    backend.execute("CREATE TABLE t (a text, b bigint)")
    lines = [",1", '"",2', '"say ""hi""",3', '"two\nlines\r\n",4', '"\\.",5', '"\\N",6', '"a,b\t",7']
    with backend.transaction() as session:
        stage, arrived = session.stage((backend.default_schema, "t"), ["a", "b"], lines)
        rows = session.rows(sql("SELECT a FROM {} ORDER BY b", stage))
    assert arrived == 7
    assert [row[0] for row in rows] == [None, "", 'say "hi"', "two\nlines\r\n", "\\.", "\\N", "a,b\t"]


def test_a_value_that_does_not_fit_is_a_data_error(backend: Backend) -> None:
    backend.execute("CREATE TABLE t (a bigint)")
    with pytest.raises(DataError), backend.transaction() as session:
        session.stage((backend.default_schema, "t"), ["a"], ["1", "x"])


def test_describe_knows_kinds_and_unique_keys(backend: Backend) -> None:
    assert backend.describe((backend.default_schema, "t")) is None
    backend.execute("CREATE TABLE t (a bigint, b integer, c numeric(10, 2), d timestamptz, e text, PRIMARY KEY (a, b))")
    facts = backend.describe((backend.default_schema, "t"))
    assert facts is not None
    assert {c.name: c.kind for c in facts.columns.values()} == {
        "a": "bigint", "b": "bigint", "c": "numeric", "d": "timestamptz", "e": "text"}  # fmt: skip
    assert facts.columns["b"].high == 2**31 - 1
    assert (facts.columns["c"].precision, facts.columns["c"].scale) == (10, 2)
    assert facts.unique_keys == (frozenset({"a", "b"}),)


def test_the_incumbent_keeps_the_lease_and_the_next_gets_a_higher_fence(backend: Backend, destination: str) -> None:
    backend.ensure_meta()
    first = backend.acquire_lease("p", "one", takeover=False)
    other = open_backend(parse_destination({"destination": destination}))
    with pytest.raises(StoppedError, match="another load of pipeline 'p'"):
        other.acquire_lease("p", "two", takeover=False)
    first.release()
    second = other.acquire_lease("p", "two", takeover=False)
    assert second.fence == first.fence + 1
    second.release()
    other.close()


def test_takeover_bumps_the_fence_under_a_living_owner(backend: Backend) -> None:
    backend.ensure_meta()
    first = backend.acquire_lease("p", "one", takeover=False)
    second = backend.acquire_lease("p", "two", takeover=True)
    assert second.fence == first.fence + 1
    first.release()
    second.release()
