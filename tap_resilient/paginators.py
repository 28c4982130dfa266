"""How each API goes from page to page. A paginator says where to read next, and what spoke for or against the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin

from requests.utils import parse_header_links

from resilient_core.errors import Fault
from resilient_core.settings import Setting, unknown_name
from tap_resilient.blocks import read_block
from tap_resilient.completeness import Announcements, Evidence, Page
from tap_resilient.paging import Paginator, Position, Purpose
from tap_resilient.paths import MISSING, Path
from tap_resilient.selector import parse_path


@dataclass(frozen=True)
class Base:
    """What all paginators share."""

    announcements: Announcements
    positional = False
    shrinks = False

    def start(self) -> Position:
        """Where the first request reads."""
        return Position(first=True)

    def fresh(self, page: Page, position: Position, seen: Evidence) -> Page:
        """All rows are new here."""
        return page

    def ahead(self, position: Position, seen: Evidence) -> Iterable[Position]:
        """Nobody knows where the next page is before this one has come."""
        return ()

    def resized(self, position: Position, size: int) -> Position:
        """Pages cannot be resized in general."""
        return position

    def skipping(self, position: Position, seen: Evidence) -> Position | None:
        """Only a page itself tells where the next one is."""
        return None


@dataclass(frozen=True)
class Single(Base):
    """One request; nothing in it says that it was all, unless a total is declared."""

    def next(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """No next page; a next link or `has_more` contradicts the configuration."""
        if seen.has_more or "next" in _links(page):
            seen.contradict("the answer says that more pages follow, but the paginator is `single`")
        if seen.has_more is False:
            seen.announce("has_more is false")
        return None


@dataclass(frozen=True)
class Numbered(Base):
    """Pages by number. A short page ends nothing: the end is a flag, or an empty page with nothing behind it."""

    page_param: str = "page"
    first_number: int = 1
    size_param: str | None = None
    page_size: int | None = None
    positional = True

    def start(self) -> Position:
        """The first page."""
        return replace(self._page(self.first_number), first=True)

    def fresh(self, page: Page, position: Position, seen: Evidence) -> Page:
        """The first page, read again at the end, brings nothing; if its rows moved forward, others were missed."""
        if position.purpose != "front":
            return page
        shift = seen.front_shift(page.rows)
        if shift is None or shift < 0:
            seen.contradict(MOVED)
        return replace(page, rows=[])

    def next(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """The next page; after the last one, the checks that it was the last."""
        if position.purpose == "front":
            return None
        if position.purpose == "fill":
            return self._after_fill(page, position, seen)
        if seen.has_more is False:
            return self._end(seen, "has_more is false")
        if page.rows:
            return self._after_rows(position, seen)
        return self._after_empty(page, position, seen)

    def ahead(self, position: Position, seen: Evidence) -> Iterable[Position]:
        """The next numbers, unless the total changes: many rows that come in at once show in nothing else."""
        if position.purpose != "read" or seen.has_more is False or seen.unsteady:
            return ()
        pages = seen.total_pages or -(-(seen.last_total or 0) // max(seen.largest_page, 1))
        return (self._page(number) for number in range(position.index + 1, self.first_number + pages))

    def skipping(self, position: Position, seen: Evidence) -> Position | None:
        """The next number."""
        return self._page(position.index + 1)

    def _after_rows(self, position: Position, seen: Evidence) -> Position | None:
        if position.purpose == "behind":
            return self._page(position.index - 1, "fill")
        if seen.pages == 1 and seen.reached_total and _short(seen, self.page_size):
            return self._end(seen, "the declared total")
        return self._page(position.index + 1)

    def _after_empty(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """An empty page is the end if nothing is behind it, or if the page before it was short."""
        if seen.has_more:
            if page.past_end:
                seen.contradict("has_more was true, but there is no further page")
            return self._page(position.index, "fill")
        sure = not seen.rows or seen.reached_total or _short(seen, self.page_size) or position.purpose == "behind"
        return self._end(seen, "an empty page after the last") if sure else self._page(position.index + 1, "behind")

    def _after_fill(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """The page that was empty, asked for again: it must not be, for there are rows behind it."""
        if not page.rows:
            seen.contradict(f"page {position.index} is empty, but more is said to follow")
        return self._page(position.index + 1 if seen.has_more else position.index + 2)

    def _end(self, seen: Evidence, how: str) -> Position | None:
        """The announced end. Without a total to watch, the first page tells whether rows moved in mid-scan."""
        seen.announce(how)
        watched = seen.pages < 2 or seen.last_total is not None
        return None if watched else self._page(self.first_number, "front")

    def _page(self, number: int, purpose: Purpose = "read") -> Position:
        params = {self.page_param: number, self.size_param or "": self.page_size}
        return Position(_given(params), index=number, size=self.page_size, purpose=purpose)


@dataclass(frozen=True)
class Offset(Base):
    """Rows by offset, which advances by the rows received, whatever page size the server keeps to.

    Each request begins at the last row that was received. If that row is not there any more, rows have moved: then the
    seam is read again further back, and the scan goes on behind the last row that is known there.
    """

    offset_param: str = "offset"
    limit_param: str | None = None
    page_size: int | None = None
    shrinks: bool = False
    positional = True

    def start(self) -> Position:
        """The first row."""
        return replace(self._at(0, self.page_size), first=True)

    def fresh(self, page: Page, position: Position, seen: Evidence) -> Page:
        """What follows the last row, wherever it is by now."""
        if position.purpose == "read":
            return self._unseen(page, seen)
        if position.purpose == "seam":
            return self._behind_seam(page, position, seen)
        shift = seen.shift(page.rows, seen.last_size - 1)
        if shift is None:
            seen.adrift = bool(page.rows) or not seen.reached_total
        elif shift == seen.last_size - 1 and shift > 0:
            seen.aligned = True
        elif shift > 0:
            seen.base += shift
        return replace(page, rows=page.rows[1:] if shift == 0 else [])

    def next(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """From the last row on; the end is where nothing follows it."""
        if seen.adrift:
            seen.adrift = False
            return self._at(max(position.index - seen.last_size, 0), position.size, "seam")
        if seen.has_more is False:
            seen.announce("has_more is false")
            return None
        if page.rows and seen.pages == 1 and seen.reached_total and _short(seen, self.page_size):
            seen.announce("the declared total")
            return None
        after = self._after(position, seen)
        if page.rows or (seen.rows and after.index > position.index):
            return after
        if position.purpose == "overlap" and not seen.reached_total:
            return self._at(position.index + 1, position.size)
        if seen.has_more:
            seen.contradict("has_more is true, but no row follows the last one")
        seen.announce("an empty page after the last")
        return None

    def ahead(self, position: Position, seen: Evidence) -> Iterable[Position]:
        """The next offsets, as far apart as full pages reach, less the row that two pages share."""
        after = self._after(position, seen)
        shared = int(after.purpose == "overlap")
        if after.index <= position.index or seen.has_more is False or seen.largest_page <= shared:
            return ()
        offsets = range(after.index, (seen.last_total or 0) - shared, seen.largest_page - shared)
        return (self._at(offset, position.size, after.purpose) for offset in offsets)

    def resized(self, position: Position, size: int) -> Position:
        """The same offset with another limit."""
        return replace(self._at(position.index, size, position.purpose), first=position.first)

    def skipping(self, position: Position, seen: Evidence) -> Position | None:
        """Past the rows of one page, if its size is known."""
        seen.base += position.size or 0
        seen.aligned = True
        return self._after(position, seen) if position.size else None

    def _behind_seam(self, page: Page, position: Position, seen: Evidence) -> Page:
        """What follows the rows of the last page, which went forward as far as `base` says from now on."""
        known = seen.last_known(page.rows)
        if known is None:
            seen.contradict(MOVED)
            return replace(page, rows=[])
        rows, base = page.rows[known + 1 :], position.index + known + 1 - seen.rows
        if base == seen.base and not rows:
            seen.contradict("a page is empty where a row was, and still is")
        seen.base = base
        return replace(page, rows=rows)

    def _unseen(self, page: Page, seen: Evidence) -> Page:
        """The page without rows of the last one. All of a full page again: the server ignores the offset."""
        rows = seen.after_last(page.rows)
        if page.rows and not rows and not _short(seen, self.page_size):
            seen.contradict("the same rows came again: the source goes in a circle, or ignores the offset")
        return replace(page, rows=rows)

    def _after(self, position: Position, seen: Evidence) -> Position:
        """Where the last row is; just behind it if pages hold one row, or offsets count only in whole pages."""
        if seen.aligned or seen.last_size < 2 or position.size == 1:
            return self._at(seen.base + seen.rows, position.size)
        return self._at(seen.base + seen.rows - 1, position.size, "overlap")

    def _at(self, offset: int, size: int | None, purpose: Purpose = "read") -> Position:
        params = {self.offset_param: offset, self.limit_param or "": size}
        return Position(_given(params), index=offset, size=size, purpose=purpose)


@dataclass(frozen=True)
class Cursor(Base):
    """A token from each answer, or from its last record, leads to the next."""

    cursor_param: str = "cursor"
    cursor_path: Path | None = None
    cursor_from: Path | None = None
    limit_param: str | None = None
    page_size: int | None = None

    def start(self) -> Position:
        """No cursor yet."""
        return replace(self._at(None, 0), first=True)

    def next(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """After the cursor; a null one, an absent one after others, `has_more: false` or an empty page is the end."""
        if seen.has_more is False:
            seen.announce("has_more is false")
            return None
        if not page.rows and position.purpose == "read" and not position.first:
            return replace(position, purpose="fill")
        if self.cursor_from and not page.rows:
            if seen.has_more:
                seen.contradict("has_more is true, but there are no records")
            seen.announce("an empty page after the last")
            return None
        token = self._token(page)
        if token in (MISSING, None, "", False):
            _lead_ended(token, position, seen, "cursor", of_record=self.cursor_from is not None)
            return None
        _doubt_empty(page, seen)
        seen.follow(str(token))
        return self._at(token, position.index + 1)

    def _token(self, page: Page) -> Any:
        if self.cursor_path:
            return self.cursor_path.find(page.response.body)
        facts = {"last_record": page.rows[-1], "body": page.response.body, "headers": page.response.headers}
        return self.cursor_from.find(facts) if self.cursor_from else MISSING

    def _at(self, token: Any, index: int) -> Position:
        params = {self.cursor_param: token, self.limit_param or "": self.page_size}
        return Position(_given(params), index=index, size=self.page_size)


@dataclass(frozen=True)
class NextUrl(Base):
    """The body holds the URL of the next page."""

    next_url_path: Path | None = None

    def next(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """The next URL, resolved against the page's own (RFC 3986); a null or absent one is the end."""
        if seen.has_more is False:
            seen.announce("has_more is false")
            return None
        if not page.rows and position.purpose == "read" and not position.first:
            return replace(position, purpose="fill")
        url = self.next_url_path.find(page.response.body) if self.next_url_path else MISSING
        if url in (MISSING, None, "", False):
            _lead_ended(url, position, seen, "next URL")
            return None
        return _follow_url(str(url), page, position, seen)


@dataclass(frozen=True)
class HeaderLink(Base):
    """The Link header (RFC 8288) holds the URL of the next page."""

    rel: str = "next"

    def next(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """The link's URL; other links without it are the end, no Link header after rich ones is a contradiction."""
        if seen.has_more is False:
            seen.announce("has_more is false")
            return None
        if not page.rows and position.purpose == "read" and not position.first:
            return replace(position, purpose="fill")
        links = _links(page)
        if self.rel in links:
            seen.other_links = seen.other_links or len(links) > 1
            return _follow_url(links[self.rel], page, position, seen)
        if not links and seen.other_links:
            seen.contradict("the Link header vanished in mid-scan")
        _lead_ended(None if links else MISSING, position, seen, "next link")
        return None


MOVED = "rows moved to earlier pages while they were read, so that some may be missing"


def _lead_ended(lead: Any, position: Position, seen: Evidence, what: str, *, of_record: bool = False) -> None:
    """There is no cursor or link: the end if it is null or was there before; unproven if it was never seen."""
    if seen.has_more:
        seen.contradict(f"has_more is true, but there is no {what}")
    elif of_record:
        seen.contradict(f"the last record has no {what}")
    elif lead is not MISSING:
        seen.announce(f"the {what} is empty")
    elif not position.first:
        seen.announce(f"there is no further {what}")


def _doubt_empty(page: Page, seen: Evidence) -> None:
    """Some APIs have empty pages that lead on: no fault, but only a total proves that nothing is missing."""
    if not page.rows:
        seen.doubt("an empty page led on to further ones")


def _follow_url(url: str, page: Page, position: Position, seen: Evidence) -> Position:
    _doubt_empty(page, seen)
    absolute = urljoin(page.response.url, url)
    seen.follow(absolute)
    return Position(url=absolute, index=position.index + 1)


def _links(page: Page) -> dict[str, str]:
    """The URLs of a Link header by relation; a relation list counts for each of its names."""
    header = page.response.headers.get("link", "")
    parsed = parse_header_links(header) if header else []
    return {rel: link["url"] for link in parsed for rel in link.get("rel", "").split() if link.get("url")}


def _short(seen: Evidence, page_size: int | None) -> bool:
    """Whether the last page held fewer rows than a full one. Never an end by itself."""
    full = seen.largest_page if seen.pages > 1 else page_size or 0
    return seen.last_size < full


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name and value is not None}


_COMMON = (
    Setting("type", "string", "How the API goes from page to page", required=True),
    Setting("total_path", "string", "JMESPath of the declared number of rows"),
    Setting("total_header", "string", "Header with the declared number of rows"),
    Setting("has_more_path", "string", "JMESPath of the flag that more follows"),
)
_PAGE_SIZE = Setting("page_size", "integer", "Rows to ask for; None asks for the server's own size")

SETTINGS: dict[str, tuple[Setting, ...]] = {
    "single": _COMMON,
    "page": (
        *_COMMON,
        Setting("page_param", "string", "Parameter of the page number", "page"),
        Setting("start", "integer", "Number of the first page", 1),
        Setting("size_param", "string", "Parameter of the page size"),
        _PAGE_SIZE,
        Setting("total_pages_path", "string", "JMESPath of the declared number of pages"),
    ),
    "offset": (
        *_COMMON,
        Setting("offset_param", "string", "Parameter of the row offset", "offset"),
        Setting("limit_param", "string", "Parameter of the page size"),
        _PAGE_SIZE,
        Setting(
            "on_error", "options", "shrink_page: ask for half when a page fails for good", options=("shrink_page",)
        ),
    ),
    "cursor": (
        *_COMMON,
        Setting("cursor_param", "string", "Parameter of the cursor", required=True),
        Setting("cursor_path", "string", "JMESPath of the next cursor in the body"),
        Setting("cursor_from", "string", "JMESPath of the next cursor in {last_record, body, headers}"),
        Setting("limit_param", "string", "Parameter of the page size"),
        _PAGE_SIZE,
    ),
    "next_url": (*_COMMON, Setting("next_url_path", "string", "JMESPath of the next page's URL", required=True)),
    "header_link": (*_COMMON, Setting("rel", "string", "Link relation that leads on", "next")),
}
"""The keys of each paginator, by its type."""


def parse_paginator(value: Any, where: str) -> tuple[Paginator, list[Fault]]:
    """The paginator of a `paginator:` block, with every fault found; None means one request without paging."""
    if value is None:
        return Single(Announcements()), []
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind not in SETTINGS:
        message = unknown_name("paginator", kind, SETTINGS) if isinstance(kind, str) else f"names one of: {_types()}"
        return Single(Announcements()), [Fault(f"{where}.type", message)]
    block, faults = read_block(SETTINGS[kind], value, where)
    paths = {}
    for name in [name for name in block if name.endswith("_path") or name == "cursor_from"]:
        paths[name], more = parse_path(block[name], f"{where}.{name}")
        faults += more
    return _BUILDERS[kind](block, paths), faults + _size_faults(kind, block, where)


def _types() -> str:
    return ", ".join(sorted(SETTINGS))


def _size_faults(kind: str, block: Mapping[str, Any], where: str) -> list[Fault]:
    size_param = "size_param" if kind == "page" else "limit_param"
    faults = []
    if block.get("page_size") is not None and block["page_size"] < 1:
        faults.append(Fault(f"{where}.page_size", "must be at least 1"))
    if block.get(size_param) and block.get("page_size") is None:
        faults.append(Fault(f"{where}.page_size", f"is required beside {size_param}"))
    if kind == "offset" and block["on_error"] and not (block["limit_param"] and block["page_size"]):
        faults.append(Fault(f"{where}.on_error", "shrink_page needs limit_param and page_size"))
    if kind == "cursor" and bool(block["cursor_path"]) == bool(block["cursor_from"]):
        faults.append(Fault(where, "needs cursor_path or cursor_from, one of them"))
    return faults


def _announcements(block: Mapping[str, Any], paths: Mapping[str, Path | None]) -> Announcements:
    header = block["total_header"]
    return Announcements(
        total=paths["total_path"],
        total_header=header.lower() if header else None,
        total_pages=paths.get("total_pages_path"),
        has_more=paths["has_more_path"],
    )


Builder = Callable[[Mapping[str, Any], Mapping[str, Path | None]], Paginator]

_BUILDERS: dict[str, Builder] = {
    "single": lambda block, paths: Single(_announcements(block, paths)),
    "page": lambda block, paths: Numbered(
        _announcements(block, paths), block["page_param"], block["start"], block["size_param"], block["page_size"]
    ),
    "offset": lambda block, paths: Offset(
        _announcements(block, paths),
        block["offset_param"],
        block["limit_param"],
        block["page_size"],
        block["on_error"] is not None,
    ),
    "cursor": lambda block, paths: Cursor(
        _announcements(block, paths),
        block["cursor_param"],
        paths["cursor_path"],
        paths["cursor_from"],
        block["limit_param"],
        block["page_size"],
    ),
    "next_url": lambda block, paths: NextUrl(_announcements(block, paths), paths["next_url_path"]),
    "header_link": lambda block, paths: HeaderLink(_announcements(block, paths), block["rel"]),
}
