"""Whether a scan got all that there was: what the source announced, held against what arrived."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

import msgspec

from tap_resilient.exchange import Response
from tap_resilient.paths import MISSING, Path
from tap_resilient.selector import Row

Verdict = Literal["complete", "unproven", "incomplete"]

SEVERITY: tuple[Verdict, ...] = ("complete", "unproven", "incomplete")
"""The verdicts, the best first; a stream's verdict is the worst of its scans."""

REMEMBERED_TOKENS = 100_000
MAX_EMPTY_PAGES = 100

_encoder = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True)
class Page:
    """One answer of a scan. `past_end` marks an answer that says that nothing is there (404 after the last page)."""

    rows: Sequence[Row]
    response: Response
    past_end: bool = False


@dataclass(frozen=True)
class Announcements:
    """Where the source says how much there is and whether more follows. None means that it does not say."""

    total: Path | None = None
    total_header: str | None = None
    total_pages: Path | None = None
    has_more: Path | None = None

    def read_total(self, response: Response) -> int | None:
        """The declared number of rows; None where it is not declared, or no number."""
        found: Any = self.total.get(response.body) if self.total else None
        if found is None and self.total_header:
            found = response.headers.get(self.total_header)
        return _count(found)

    def read_total_pages(self, response: Response) -> int | None:
        """The declared number of pages; None where it is not declared, or no number."""
        return _count(self.total_pages.get(response.body)) if self.total_pages else None

    def read_has_more(self, response: Response) -> bool | None:
        """Whether more follows; None where the answer does not say."""
        found = self.has_more.find(response.body) if self.has_more else MISSING
        if found is MISSING or found is None:
            return None
        return found.lower() in {"true", "1", "yes"} if isinstance(found, str) else bool(found)


def whole_rows(rows: Sequence[Row]) -> list[Hashable]:
    """What identifies rows without a key: all that they hold."""
    return [_encoder.encode(row) for row in rows]


def by_keys(names: tuple[str, ...]) -> Callable[[Sequence[Row]], list[Hashable]]:
    """What identifies rows with the key fields `names`; rows that lack one are identified by all that they hold."""
    if not names:
        return whole_rows
    key = itemgetter(*names)

    def identify(rows: Sequence[Row]) -> list[Hashable]:
        try:
            keys = list(map(key, rows))
            hash(tuple(keys))
        except (KeyError, TypeError):
            return whole_rows(rows)
        return keys

    return identify


class CycleGuard:
    """Tells whether a token came before: exactly for the first 100,000, by Brent's algorithm beyond them.

    Brent (1980): one anchor, moved at powers of two, meets every cycle in time; memory stays bounded.
    """

    def __init__(self, remembered: int = REMEMBERED_TOKENS) -> None:
        self._remembered = remembered
        self._seen: set[int] = set()
        self._anchor: int | None = None
        self._count = 0

    def repeats(self, token: Hashable) -> bool:
        """Whether `token` was seen before; remembers it."""
        mark = hash(token)
        if mark in self._seen or mark == self._anchor:
            return True
        self._count += 1
        if len(self._seen) < self._remembered:
            self._seen.add(mark)
        if self._count & (self._count - 1) == 0:
            self._anchor = mark
        return False


@dataclass
class Evidence:
    """What one scan saw: the rows, what the source announced, and where the two contradict each other.

    `identify` gives what tells rows from one another (their keys; the whole rows without any). `positional` paging
    (page, offset) loses rows when others vanish before them in mid-scan, so that a shrinking total is a fault.
    """

    announcements: Announcements = field(default_factory=Announcements)
    identify: Callable[[Sequence[Row]], list[Hashable]] = whole_rows
    positional: bool = False
    rows: int = 0
    pages: int = 0
    overlaps: int = 0
    largest_page: int = 0
    empty_in_a_row: int = 0
    first_total: int | None = None
    last_total: int | None = None
    total_pages: int | None = None
    has_more: bool | None = None
    announced: str | None = None
    contradiction: str | None = None
    skipped: str | None = None
    doubted: str | None = None
    base: int = 0
    aligned: bool = False
    adrift: bool = False
    unsteady: bool = False
    first_places: dict[Hashable, int] = field(default_factory=dict)
    places: dict[Hashable, int] = field(default_factory=dict)
    last_size: int = 0
    other_links: bool = False

    def __post_init__(self) -> None:
        self._tokens = CycleGuard()
        self._prints = CycleGuard()

    def saw(self, page: Page) -> None:
        """Take in what a page announces, before its rows are taken."""
        if page.past_end:
            return
        total = self.announcements.read_total(page.response)
        if total is not None:
            self.unsteady |= self.last_total not in {None, total}
            self.first_total = total if self.first_total is None else self.first_total
            self.last_total = total
        pages = self.announcements.read_total_pages(page.response)
        self.unsteady |= bool(pages) and self.total_pages not in {None, pages}
        self.total_pages = pages or self.total_pages
        self.has_more = self.announcements.read_has_more(page.response)
        self.empty_in_a_row = 0 if page.rows else self.empty_in_a_row + 1
        if self.empty_in_a_row >= MAX_EMPTY_PAGES:
            self.contradict(f"{MAX_EMPTY_PAGES} empty pages in a row")

    def took(self, rows: Sequence[Row]) -> None:
        """Count the rows of a page; find a page that came before, or shares rows with the last one."""
        if not rows:
            return
        if self._prints.repeats(_fingerprint(rows)):
            self.contradict("a page came twice: the source goes in a circle, or ignores the paging parameters")
        if self.positional:
            places = dict(zip(self.identify(rows), range(len(rows)), strict=True))
            self.overlaps += len(places.keys() & self.places.keys())
            self.places = places
            self.first_places = self.first_places or places
        self.last_size = len(rows)
        self.largest_page = max(self.largest_page, len(rows))
        self.rows += len(rows)
        self.pages += 1

    def shift(self, rows: Sequence[Row], at: int) -> int | None:
        """How far the rows of the last page have moved since, when the first of `rows` is read at its place `at`.

        Above 0, rows came in before them; below 0, rows went away before them; None: none of them is there.
        """
        return _shift(self.identify(rows), self.places, at)

    def front_shift(self, rows: Sequence[Row]) -> int | None:
        """How far the rows of the first page have moved since, when it is read again."""
        return _shift(self.identify(rows), self.first_places, 0)

    def after_last(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The members of `rows` behind those that were taken before; all of them if none was."""
        known = [place for place, key in enumerate(self.identify(rows)) if key in self.places]
        return rows[known[-1] + 1 :] if known else rows

    def last_known(self, rows: Sequence[Row]) -> int | None:
        """The place in `rows` of the last one that was on the last page, too; None if none was."""
        known = [place for place, key in enumerate(self.identify(rows)) if key in self.places]
        return known[-1] if known else None

    def follow(self, token: Hashable) -> None:
        """Take note of the cursor or URL that is read next; one that came before is a cycle."""
        if self._tokens.repeats(token):
            self.contradict("a cursor or next link came twice: the source goes in a circle")

    def announce(self, how: str) -> None:
        """The source said that this was the end."""
        self.announced = self.announced or how

    def contradict(self, what: str) -> None:
        """The source does not agree with itself; the first contradiction is kept."""
        self.contradiction = self.contradiction or what

    def skip(self, what: str) -> None:
        """Something was left out because the configuration says so."""
        self.skipped = self.skipped or what

    def doubt(self, what: str) -> None:
        """Something looks odd; only a total that agrees can dispel it."""
        self.doubted = self.doubted or what

    @property
    def distinct(self) -> int:
        """Rows, without those that a page shares with the page before it."""
        return self.rows - self.overlaps

    @property
    def reached_total(self) -> bool:
        """Whether as many rows, or pages, came as were declared."""
        rows = self.last_total is not None and self.distinct >= self.last_total
        return rows or (self.total_pages is not None and self.pages >= self.total_pages)

    def verdict(self) -> tuple[Verdict, str]:
        """The verdict and its reason."""
        if problem := self.contradiction or self._count_problem():
            return "incomplete", problem
        doubts = self.skipped or (self.doubted if self.last_total is None else None) or self._total_fell()
        if doubts:
            return "unproven", doubts
        if self.announced or self.last_total is not None:
            return "complete", self.announced or "the declared total"
        return "unproven", "nothing announced the end; name what does: total_path, total_header or has_more_path"

    def _total_fell(self) -> str | None:
        if self.first_total is None or self.last_total is None or self.distinct >= self.first_total:
            return None
        return f"the declared total fell from {self.first_total} to {self.last_total} during the scan"

    def _count_problem(self) -> str | None:
        if self.skipped:
            return None
        if self.total_pages is not None and self.pages < self.total_pages and self.rows:
            return f"{self.total_pages} pages were declared, {self.pages} came"
        if self.first_total is None or self.last_total is None:
            return None
        if self.positional and self._total_fell():
            return f"{self._total_fell()}: rows moved"
        expected = min(self.first_total, self.last_total)
        if self.distinct < expected:
            return f"{expected} rows were declared, {self.distinct} came"
        return None


def _shift(keys: list[Hashable], places: Mapping[Hashable, int], at: int) -> int | None:
    return next((place + at - places[key] for place, key in enumerate(keys) if key in places), None)


def _count(found: Any) -> int | None:
    if isinstance(found, str) and found.isdecimal():
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _fingerprint(rows: Sequence[Row]) -> bytes:
    """First, middle and last row stand for the page: pages of distinct rows never share all three."""
    sample = [len(rows), rows[0], rows[len(rows) // 2], rows[-1]]
    return _encoder.encode(sample)
