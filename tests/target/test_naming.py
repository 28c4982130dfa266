"""Names: kept where legal, else sanitised and truncated, never colliding, and the same again on the next load."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from target_resilient.naming import MAX_BYTES, legal_name, split_stream, storable, unique_names

anything = st.text(max_size=80)


@pytest.mark.parametrize("name", ["a", "A b", "ünï", "😀", "select", 'quo"te', "x" * 63, "ä" * 31, "a.b", "%s"])
def test_a_legal_name_is_kept(name: str) -> None:
    assert legal_name(name) == name


@given(anything)
def test_every_name_becomes_legal(name: str) -> None:
    found = legal_name(name)
    assert 0 < len(found.encode()) <= MAX_BYTES
    assert all(character.isprintable() for character in found)
    assert legal_name(found) == found


@pytest.mark.parametrize(("one", "other"), [("x" * 64, "x" * 65), ("a\n", "a\t"), ("", "\0"), ("\ud800", "\ud801")])
def test_names_that_had_to_change_never_meet(one: str, other: str) -> None:
    assert legal_name(one) != legal_name(other)


@given(st.lists(anything, unique=True, max_size=20))
def test_names_of_one_table_differ_without_regard_to_case(names: list[str]) -> None:
    found = unique_names(names, {})
    assert list(found) == names
    assert len({legal.casefold() for legal in found.values()}) == len(names)


@given(st.lists(anything, unique=True, max_size=20), st.lists(anything, max_size=5))
def test_names_given_once_stay_when_fields_are_added_or_reordered(names: list[str], more: list[str]) -> None:
    first = unique_names(names, {})
    known = {storable(original): legal for original, legal in first.items()}
    again = unique_names([*more, *reversed(names)], known)
    assert {name: again[name] for name in names} == first


def test_case_folding_to_lower_keeps_names_apart() -> None:
    found = unique_names(["ID", "Id", "id"], {}, lower=True)
    assert found["ID"] == "id"
    assert len(set(found.values())) == 3


def test_a_column_of_an_existing_table_is_taken_for_the_name_that_folds_to_it() -> None:
    assert unique_names(["ID", "name"], {"id": "id", "name": "name"}, lower=True) == {"ID": "id", "name": "name"}


def test_a_column_that_another_field_has_is_not_taken_twice() -> None:
    found = unique_names(["ID", "id"], {"id": "id"}, lower=True)
    assert found["id"] == "id"
    assert found["ID"] != "id"


def test_what_a_text_column_cannot_hold_is_escaped() -> None:
    assert storable("a\0b\ud800c😀") == "a\\u0000b\\ud800c😀"


@pytest.mark.parametrize(
    ("stream", "configured", "expected"),
    [
        ("orders", None, ("main", "orders")),
        ("shop-orders", None, ("shop", "orders")),
        ("db-shop-orders", None, ("shop", "orders")),
        ("a-b-c-d", None, ("main", "a-b-c-d")),
        ("shop-orders", "raw", ("raw", "orders")),
        ("-orders", None, ("main", "-orders")),
        ("-", None, ("main", "-")),
    ],
)
def test_stream_names_are_split_as_the_sdk_does(stream: str, configured: str | None, expected: tuple[str, str]) -> None:
    assert split_stream(stream, configured, "main", "{stream}") == expected


def test_the_template_names_the_table() -> None:
    assert split_stream("orders", None, "main", "raw_{stream}") == ("main", "raw_orders")
