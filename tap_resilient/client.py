"""The one place that sends HTTP for the tap."""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

import msgspec
import requests

from resilient_core.errors import UnavailableError
from tap_resilient.client_config import ClientConfig
from tap_resilient.exchange import (
    ActionRequested,
    BadAnswerError,
    Build,
    Check,
    Request,
    RequestRefusedError,
    Response,
)
from tap_resilient.handlers import ErrorHandler, parse_handlers

__all__ = [
    "ActionRequested",
    "BadAnswerError",
    "Client",
    "ClientConfig",
    "ClientStats",
    "ErrorHandler",
    "Request",
    "RequestRefusedError",
    "Response",
    "parse_handlers",
]


@dataclass
class ClientStats:
    """What the client did so far, for telemetry."""

    requests: int = 0
    retries: int = 0
    refusals: int = 0
    wait_seconds: float = 0.0
    bytes: int = 0


def accept(response: Response) -> None:
    """The check that finds nothing wrong."""


class Client:
    """Sends requests under one governor, authenticated, decoded, checked and retried."""

    def __init__(
        self,
        config: ClientConfig,
        resolver: object,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.stats = ClientStats()
        self._config = config
        self._session = requests.Session()

    def send(self, build: Build, *, check: Check = accept, handlers: Sequence[ErrorHandler] = ()) -> Response:
        """The answer to the request that `build` makes anew for each attempt."""
        request = build()
        url = urljoin(self._config.base_url.rstrip("/") + "/", request.url.lstrip("/"))
        params = {key: value for key, value in request.params.items() if value is not None}
        self.stats.requests += 1
        try:
            answer = self._session.request(
                request.method,
                url,
                params=params,
                headers={**self._config.headers, **request.headers},
                json=request.json,
                timeout=(self._config.timeout.connect, self._config.timeout.read),
            )
        except requests.RequestException:
            raise UnavailableError(f"{request.method} {url}: no answer") from None
        response = Response(
            answer.status_code,
            {name.lower(): value for name, value in answer.headers.items()},
            msgspec.json.decode(answer.content),
            len(answer.content),
            url,
        )
        check(response)
        return response

    def close(self) -> None:
        """Close all connections."""
        self._session.close()
