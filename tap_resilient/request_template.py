"""A request as configured: templates and references are filled in anew for each attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient_core.secrets import Resolver
from tap_resilient.exchange import Request
from tap_resilient.templates import Scope, render, render_path

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class RequestTemplate:
    """`json` is the body of a POST; parameters that change from request to request then go into it."""

    path: str
    method: str = "GET"
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    decoder: str = "json"
    read_only: bool = True

    def filled(
        self, scope: Scope, resolver: Resolver, moving: Mapping[str, Any] = NOTHING, *, url: str | None = None
    ) -> Request:
        """The request with the `moving` parameters; at `url`, where the source gave one, instead of the path."""
        params = resolver.resolve(render(dict(self.params), scope))
        body = None
        if self.json is None:
            params |= moving
        else:
            body = _with_values(resolver.resolve(render(self.json, scope)), moving)
        place = url or render_path(self.path, scope)
        return Request(self.method, place, params, self._headers(scope, resolver), body, self.decoder, self.read_only)

    def followed(self, scope: Scope, resolver: Resolver, url: str) -> Request:
        """The request for a next URL, which brings its own parameters."""
        return Request(self.method, url, headers=self._headers(scope, resolver), decoder=self.decoder)

    def _headers(self, scope: Scope, resolver: Resolver) -> dict[str, str]:
        found = resolver.resolve(render(dict(self.headers), scope))
        return {name: str(value) for name, value in found.items() if value is not None}


def _with_values(body: Any, values: Mapping[str, Any]) -> Any:
    """`body` with `values` at their dotted names (`variables.after`)."""
    if not isinstance(body, dict):
        return body
    for name, value in values.items():
        *parents, last = name.split(".")
        place = body
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return body
