"""Fetches the pages of a stream, the ones that are read next ahead of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from resilient_core.secrets import Resolver
from tap_resilient.background import Background
from tap_resilient.client import Client, Request, Response
from tap_resilient.completeness import Page
from tap_resilient.paging import Position, Purpose
from tap_resilient.request_template import RequestTemplate
from tap_resilient.selector import Row
from tap_resilient.source import StreamSpec
from tap_resilient.templates import Scope


@dataclass(frozen=True)
class Ground:
    """What a scan covers: the values for its templates, the parameters of its window, and a URL the source gave."""

    scope: Scope
    params: Mapping[str, Any]
    url: str | None = None


@dataclass(frozen=True)
class _Ahead:
    ground: Ground
    request: Request
    purpose: Purpose
    page: Future[Page]

    def is_for(self, request: Request, purpose: Purpose) -> bool:
        return self.request == request and self.purpose == purpose


class Fetcher:
    """Fetches pages for the scans of one stream; at most `places` of them wait, fetched ahead, to be taken.

    What is fetched ahead is a guess, and costs nothing but a request if it was wrong: a page that is not taken is
    forgotten, a failure is raised only where its page is taken.
    """

    def __init__(
        self, spec: StreamSpec, client: Client, resolver: Resolver, background: Background, *, places: int = 0
    ) -> None:
        self.spec = spec
        self.places = places
        self._client = client
        self._resolver = resolver
        self._background = background
        self._template = RequestTemplate(spec.path, spec.method, spec.params, spec.headers, spec.json, spec.decoder)
        self._ahead: list[_Ahead] = []

    def expect(self, wanted: Iterable[tuple[Ground, Position]]) -> None:
        """Begin to fetch what is wanted next, the most urgent first, as far as there is room."""
        for ground, position in wanted:
            if len(self._ahead) >= self.places:
                return
            request = self._request(ground, position)
            if not any(one.is_for(request, position.purpose) for one in self._ahead):
                page = self._background.start(partial(self.fetch, ground, position))
                self._ahead.append(_Ahead(ground, request, position.purpose, page))

    def taken(self, ground: Ground, position: Position) -> Page | None:
        """The page if it was fetched ahead, else None: then what was guessed for the same ground was wrong.

        Raises what `fetch` raised.
        """
        if not self._ahead:
            return None
        request = self._request(ground, position)
        found = next((one for one in self._ahead if one.is_for(request, position.purpose)), None)
        if found is None:
            self.forget(ground)
            return None
        self._ahead.remove(found)
        return found.page.result()

    def forget(self, ground: Ground | None = None) -> None:
        """Do without the pages ahead on one ground, or on all."""
        self._ahead = [] if ground is None else [one for one in self._ahead if one.ground != ground]

    def fetch(self, ground: Ground, position: Position) -> Page:
        """One page, now. Raises what the client raises."""
        found: list[Sequence[Row]] = []
        records = self.spec.records
        names = None if self.spec.paginator.positional else records.names  # positions are told by whole pages

        def build() -> Request:
            return replace(self._request(ground, position), records_at=names)

        def check(response: Response) -> None:
            rows = records.select(response.body)
            found[:] = [rows if response.records is None else response.records]

        response = self._client.send(build, check=check, handlers=self.spec.error_handlers)
        return Page(found[0] if found else [], response)

    def _request(self, ground: Ground, position: Position) -> Request:
        if position.url is not None:
            return self._template.followed(ground.scope, self._resolver, position.url)
        moving = {**ground.params, **position.params}
        return self._template.filled(ground.scope, self._resolver, moving, url=ground.url)
