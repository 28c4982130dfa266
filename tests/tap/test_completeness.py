"""Evidence and cycle guard as units."""

import itertools

import pytest

from tap_resilient.completeness import CycleGuard, Evidence, by_keys


@pytest.mark.parametrize(("lead_in", "length"), [(0, 1), (3, 2), (50, 7), (1000, 333)])
def test_every_cycle_is_met_with_bounded_memory(lead_in, length):
    guard = CycleGuard(remembered=10)
    tokens = itertools.chain(range(lead_in), itertools.cycle(range(lead_in, lead_in + length)))
    met = next(turn for turn, token in enumerate(tokens) if guard.repeats(token))
    assert met <= 4 * (lead_in + length) + 4
    assert len(guard._seen) <= 10


def test_without_a_cycle_nothing_repeats():
    guard = CycleGuard(remembered=10)
    assert not any(guard.repeats(token) for token in range(5000))


def test_rows_are_told_apart_by_key_or_by_all_they_hold():
    rows = [{"id": 1, "x": [1]}, {"id": 2, "x": [1]}]
    assert by_keys(("id",))(rows) == [1, 2]
    assert by_keys(("id", "x"))(rows) != []
    assert len(set(by_keys(())(rows))) == 2
    assert len(set(by_keys(("nowhere",))(rows))) == 2


def test_a_page_that_shares_rows_with_the_one_before_counts_them_once():
    seen = Evidence(identify=by_keys(("id",)), positional=True)
    seen.took([{"id": 1}, {"id": 2}])
    seen.took([{"id": 2}, {"id": 3}])
    assert (seen.rows, seen.distinct, seen.contradiction) == (4, 3, None)


def test_the_verdict_follows_the_evidence():
    assert Evidence().verdict() == (
        "unproven",
        "nothing announced the end; name what does: total_path, total_header or has_more_path",
    )
    seen = Evidence()
    seen.announce("a flag")
    assert seen.verdict() == ("complete", "a flag")
    seen.skip("a page")
    assert seen.verdict() == ("unproven", "a page")
    seen.contradict("a cycle")
    assert seen.verdict() == ("incomplete", "a cycle")
