"""What a lost connection means, in words that name neither URL nor header."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import requests
import urllib3.exceptions

from tap_resilient.client_config import Timeouts


def in_words(error: Exception, limits: Timeouts) -> str:
    """Why there was no answer. The messages of the HTTP libraries are not used: they quote the URL with its query."""
    if isinstance(error, requests.ConnectTimeout | urllib3.exceptions.ConnectTimeoutError):
        return f"no connection within timeout.connect ({limits.connect:g} s)"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"no answer within timeout.read ({limits.read:g} s)"
    if isinstance(error, requests.exceptions.SSLError):
        return "the TLS connection failed; if the server has a private CA, set client.ca_bundle"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached or refuses; check client.proxy"
    return _cause(error)


def _cause(error: Exception) -> str:
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror | urllib3.exceptions.NameResolutionError):
            return "the host name is not known; check client.base_url"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused; is the server running?"
        if isinstance(cause, ConnectionResetError | BrokenPipeError):
            return "the server closed the connection without an answer"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
    return "the server gave no valid HTTP answer"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps: urllib3 and requests put causes into args, reason and __context__."""
    seen: list[BaseException] = [error]
    for current in seen:
        yield current
        nested = [*current.args, getattr(current, "reason", None), current.__cause__, current.__context__]
        seen += [cause for cause in nested if isinstance(cause, BaseException) and cause not in seen]
