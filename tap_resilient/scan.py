"""One scan: the pages of one window of one partition, from the first request to the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from resilient_core.errors import UnavailableError
from tap_resilient.client import ActionRequested, RequestRefusedError, Response
from tap_resilient.completeness import Evidence, Page, Verdict, by_keys
from tap_resilient.fetcher import Fetcher, Ground
from tap_resilient.paging import Position
from tap_resilient.selector import Row
from tap_resilient.source import StreamSpec
from tap_resilient.streamed import slices_of

MAX_SKIPPED_PAGES = 100

_NOTHING = Response(404, {}, None, 0, "")


class Scan:
    """Reads the pages of one stream over one ground."""

    def __init__(self, fetcher: Fetcher, ground: Ground) -> None:
        spec = fetcher.spec
        self._fetcher = fetcher
        self._ground = ground
        self._paginator = spec.paginator
        self._skipped_pages = 0
        self.stopped = False
        self.seen = Evidence(
            announcements=spec.paginator.announcements,
            identify=by_keys(_raw_keys(spec)),
            positional=spec.paginator.positional,
        )

    def pages(self) -> Iterator[list[Row]]:
        """The rows, page by page (a streamed page in slices), until the end or a contradiction.

        Raises what the client raises, and ActionRequested for `split_window`.
        """
        position: Position | None = self._paginator.start()
        while position is not None and not self.seen.contradiction:
            try:
                page, position = self._fetch(position)
            except ActionRequested as asked:
                position = self._obey(asked, position)
                continue
            rows = self._take(page, position)
            if not self.seen.contradiction:
                self._look_ahead(position)
                yield from slices_of(rows)
                position = self._paginator.next(Page(rows, page.response, page.past_end), position, self.seen)

    def verdict(self) -> tuple[Verdict, str]:
        """The verdict and its reason."""
        return self.seen.verdict()

    @property
    def overlaps(self) -> int:
        """Rows that came again on the next page, because others moved."""
        return self.seen.overlaps

    @property
    def drained(self) -> bool:
        """Whether the window was read to its end, with nothing left out."""
        return not self.stopped and not self.seen.contradiction and self.verdict()[0] != "incomplete"

    def _take(self, page: Page, position: Position) -> Sequence[Row]:
        self.seen.saw(page)
        fresh = self._paginator.fresh(page, position, self.seen)
        self.seen.took(fresh.rows)
        return fresh.rows

    def _fetch(self, position: Position) -> tuple[Page, Position]:
        """The page at `position`, and the position it was read at: smaller pages are asked for where that may help."""
        try:
            return self._page(position), position
        except RequestRefusedError as refusal:
            if self._is_past_end(refusal, position):
                return Page([], _NOTHING, past_end=True), position
            raise
        except UnavailableError:
            if not (self._paginator.shrinks and (position.size or 1) > 1):
                raise
            return self._fetch(self._halved(position))

    def _page(self, position: Position) -> Page:
        page = self._fetcher.taken(self._ground, position)
        return page or self._fetcher.fetch(self._ground, position)

    def _look_ahead(self, position: Position) -> None:
        """Fetch the next pages ahead; but behind an empty one, and where rows move, only one after the other is safe.

        A page that was fetched before the one in front of it may show rows where they were earlier.
        """
        uneven = self.seen.overlaps or self.seen.base or self.seen.empty_in_a_row
        wanted = [] if uneven else list(islice(self._paginator.ahead(position, self.seen), self._fetcher.places))
        if not wanted:
            self._fetcher.forget(self._ground)
        self._fetcher.expect((self._ground, after) for after in wanted)

    def _is_past_end(self, refusal: RequestRefusedError, position: Position) -> bool:
        """404 after the first page; any refusal of a request that only looks whether anything is left."""
        if not self._paginator.positional or position.first:
            return False
        return refusal.status == 404 or position.purpose != "read" or self.seen.reached_total

    def _halved(self, position: Position) -> Position:
        return self._paginator.resized(position, max((position.size or 1) // 2, 1))

    def _obey(self, asked: ActionRequested, position: Position) -> Position | None:
        """Do what an error handler asks of the scan; the place to go on from, None to end here."""
        if asked.action == "shrink_page" and (smaller := self._halved(position)) != position:
            return smaller
        if asked.action in {"stop", "skip_partition"}:
            self.stopped = True
            self.seen.skip(f"ended by an error handler ({asked.action})")
            return None
        if asked.action == "skip_page":
            return self._skip(position)
        raise asked

    def _skip(self, position: Position) -> Position | None:
        self._skipped_pages += 1
        after = self._paginator.skipping(position, self.seen)
        if after is None or self._skipped_pages > MAX_SKIPPED_PAGES:
            self.seen.contradict("a page had to be skipped, and nothing tells where the next one is")
            return None
        self.seen.skip("pages were skipped by an error handler")
        return after


def _raw_keys(spec: StreamSpec) -> tuple[str, ...]:
    """The key fields as the API names them; none if one of them is nested or computed."""
    sources = {field.name: field.source for field in spec.fields}
    paths = [sources[key].names if key in sources else (key,) for key in spec.primary_keys]
    return tuple(names[0] for names in paths if names) if all(names and len(names) == 1 for names in paths) else ()
