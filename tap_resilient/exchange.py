"""What passes between the client and its users: a request, a response, and what can go wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resilient_core.errors import ResilientError, UnavailableError


@dataclass(frozen=True)
class Request:
    """One HTTP request, built anew for each attempt.

    `url` is absolute, or a path joined to `base_url`. Of `params`, None values are dropped and lists repeat.
    `json` is the body of POST reads. A POST is retried only if it is `read_only` or has an Idempotency-Key header.
    `records_at` are the names that lead to the records in the body (none: it is the body itself), so that a body which
    is too large for memory can be streamed; None decodes every body whole.
    """

    method: str
    url: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    decoder: str = "json"
    read_only: bool = True
    records_at: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Response:
    """An answer that arrived whole. Header names are lower case; `size_bytes` counts the body as decompressed.

    `body` is decoded; None where there is none (204). In it, integers are exact at any size, and a decimal that a
    float cannot hold exactly is a `decimal.Decimal`. `records` are those of a streamed body, which then has an empty
    list in their place; None where the body is whole.
    """

    status: int
    headers: Mapping[str, str]
    body: Any
    size_bytes: int
    url: str
    records: Sequence[dict[str, Any]] | None = None


@dataclass(frozen=True)
class FormAnswer:
    """The answer to a form that was posted to a token endpoint; `body` is None if it is no JSON object."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None


PostForm = Callable[[str, Mapping[str, str], "tuple[str, str] | None"], FormAnswer]
"""Posts a form to a URL, with Basic authentication if a user and password are given. Raises AttemptFailed."""

Build = Callable[[], Request]
Check = Callable[[Response], None]


class BadAnswerError(UnavailableError):
    """A 2xx that is truncated, undecodable or wrongly shaped: a failed request, not an empty page. Retried."""


class RequestRefusedError(ResilientError):
    """The server refused the request for good (an unlisted 4xx, or the `fail` action): retrying cannot help."""

    exit_code = 69

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class ActionRequested(Exception):  # noqa: N818 - no error: a handler asks the scan layer to act
    """An error handler asks for what only the scan layer can do: shrink_page, split_window, skip_page, stop, …."""

    def __init__(self, action: str, response: Response) -> None:
        self.action = action
        self.response = response
        super().__init__(f"error handler asks to {action} at status {response.status}")
