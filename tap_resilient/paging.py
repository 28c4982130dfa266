"""Where a scan reads next, and what a paginator is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tap_resilient.completeness import Announcements, Evidence, Page

Purpose = Literal["read", "overlap", "seam", "behind", "fill", "front"]


@dataclass(frozen=True)
class Position:
    """Where the next request reads: parameters, or a whole `url`. `index` is the page number or the row offset.

    `read` goes on; `overlap` does so from the last row, `seam` looks for it further back; `behind` looks behind an
    empty page, `fill` reads the empty one again; `front` reads the first page again. `size` is the page size asked for,
    None without one.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    index: int = 0
    size: int | None = None
    purpose: Purpose = "read"
    first: bool = False


class Paginator(Protocol):
    """Goes from page to page."""

    @property
    def announcements(self) -> Announcements:
        """Where the answers say how much there is."""
        ...

    @property
    def positional(self) -> bool:
        """Whether places are counted in pages or rows."""
        ...

    @property
    def shrinks(self) -> bool:
        """Whether smaller pages may be asked for when one fails."""
        ...

    def start(self) -> Position:
        """Where the first request reads."""
        ...

    def fresh(self, page: Page, position: Position, seen: Evidence) -> Page:
        """The page without rows that were taken before."""
        ...

    def next(self, page: Page, position: Position, seen: Evidence) -> Position | None:
        """Where to read after `page`; None at the end, or after a contradiction."""
        ...

    def ahead(self, position: Position, seen: Evidence) -> Iterable[Position]:
        """Where to read after this place if nothing moves, as far as the declared total says that rows are."""
        ...

    def resized(self, position: Position, size: int) -> Position:
        """The same place, read in pages of `size` rows."""
        ...

    def skipping(self, position: Position, seen: Evidence) -> Position | None:
        """The place after a page that cannot be read; None where only the page itself could tell."""
        ...
