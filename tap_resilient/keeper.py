"""Keeps a stream's bookmarks while it is read: one watermark a partition, or one bookmark for all of them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from resilient_core.errors import ConfigError
from tap_resilient.bookmarks import Bookmarks
from tap_resilient.instants import UNREADABLE, Date, DateTime
from tap_resilient.watermark import Incremental, Watermark, Window, ceiling, starting_value, windows

Context = Mapping[str, Any]


class Keeper:
    """The bookmarks of one incremental stream in one run that began at `now`.

    `from_start` reads everything again, because children want all parents; the bookmark never goes back for it.
    """

    def __init__(self, spec: Incremental, bookmarks: Bookmarks, now: datetime.datetime, *, from_start: bool) -> None:
        self._spec = spec
        self._bookmarks = bookmarks
        self._now = now
        self._from_start = from_start
        self._reached: list[Any] = []
        self._complete = True

    def stored(self, context: Context) -> Any:
        """The bookmark as the state holds it; None without one."""
        return self._bookmarks.get(context)

    def watermark(self, context: Context) -> Watermark:
        """The watermark of a partition, at its bookmark. Raises ConfigError for a bookmark of another type."""
        stored = self.stored(context)
        try:
            bookmark = None if stored is None else self._spec.kind.load(stored)
        except UNREADABLE:
            raise ConfigError(
                f"the state's bookmark of '{self._spec.replication_key}' is not of the incremental type;"
                " reset the state of this stream"
            ) from None
        return Watermark(self._spec, bookmark, ceiling(self._spec.kind, self._now))

    def windows(self, mark: Watermark, begun: Window | None = None) -> Iterator[Window]:
        """The windows from the watermark, or from the window `begun` in an earlier run, to the start of the run."""
        if begun is None:
            bookmark = None if self._from_start else mark.value
            yield from windows(self._spec, starting_value(self._spec, bookmark), self._now)
            return
        yield begun
        if begun.end is not None:
            yield from (window for window in windows(self._spec, begun.end, self._now) if window.end > begun.end)

    def facts(self, window: Window, mark: Watermark) -> dict[str, Any]:
        """A window and the bookmark, as the state keeps them beside a job."""
        values = {"start": window.start, "end": window.end, "bookmark": mark.value}
        return {name: self._spec.kind.store(value) for name, value in values.items() if value is not None}

    def begun(self, mark: Watermark, facts: Mapping[str, Any]) -> Window | None:
        """The window of a job of an earlier run; None if the bookmark was set back since, so that it is not enough."""
        try:
            start, end, bookmark = (
                None if facts.get(name) is None else self._spec.kind.load(facts[name])
                for name in ("start", "end", "bookmark")
            )
        except UNREADABLE:
            return None
        set_back = bookmark is not None and (mark.value is None or mark.value < bookmark)
        if set_back or (self._from_start and start != self._spec.initial):
            return None
        return Window(start, end)

    def save(self, mark: Watermark, context: Context) -> None:
        """Put the watermark into the state, unless one bookmark stands for all partitions."""
        if not (context and self._bookmarks.one_for_all):
            self._bookmarks.put(context, None if mark.value is None else self._spec.kind.store(mark.value))

    def concluded(self, mark: Watermark, *, drained: bool) -> None:
        """A partition has been read; whether to its end."""
        self._complete &= drained
        if mark.value is not None:
            self._reached.append(mark.value)

    def finish(self) -> None:
        """All partitions have been read: set the bookmark that stands for all, if there is one.

        Instants are clamped to the run's start, so that their highest is safe. Other values are not: a row may have
        come to a partition after it was read, with a lower value than a later partition showed. So they stand only
        as high as the first partition reached.
        """
        if self._bookmarks.crowded and self._complete:
            self._bookmarks.join_partitions()
        if not (self._bookmarks.one_for_all and self._complete and self._reached):
            return
        instant = isinstance(self._spec.kind, DateTime | Date)
        reached = max(self._reached) if instant else self._reached[0]
        self._bookmarks.put(None, self._spec.kind.store(reached))
