"""The one place that sends HTTP for the tap: governed, authenticated, decoded, checked and retried."""

from __future__ import annotations

import http.cookiejar
import logging
import random as _random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import msgspec
import requests
import requests.adapters
import urllib3.exceptions

from resilient_core.errors import ConfigError, CredentialsRefusedError, ResilientError, UnavailableError
from resilient_core.secrets import Resolver
from resilient_core.telemetry import facts
from tap_resilient import urls
from tap_resilient.auth import Credentials, authenticator, header_authenticator
from tap_resilient.bodies import Body, read_body
from tap_resilient.client_config import ClientConfig, Timeouts, url_faults
from tap_resilient.decoders import decode
from tap_resilient.exchange import (
    ActionRequested,
    BadAnswerError,
    Build,
    Check,
    FormAnswer,
    Request,
    RequestRefusedError,
    Response,
)
from tap_resilient.governor import Governor
from tap_resilient.handlers import ErrorHandler, parse_handlers
from tap_resilient.hints import Hints, read_hints
from tap_resilient.retry import AttemptFailed, Attempts, Verdict
from tap_resilient.streamed import Opened, open_body

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

MAX_REDIRECTS = 5
MAX_ERROR_BYTES = 1_000_000

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # idempotent by RFC 9110, 9.2.2
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ACTION_VERDICTS = {
    "retry": Verdict.RETRY,
    "rate_limited": Verdict.RATE_LIMITED,
    "refresh_auth": Verdict.REFRESH_AUTH,
    "fail": Verdict.FATAL,
}

log = logging.getLogger("tap-resilient")


@dataclass
class ClientStats:
    """What the client did so far: `refusals` are the rate-limited ones of `retries`, `bytes` are decompressed."""

    requests: int = 0
    retries: int = 0
    refusals: int = 0
    wait_seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class _Answer:
    """An answer as it came, and the turn in which it came. `body` is an error for a body that did not arrive whole."""

    status: int
    headers: Mapping[str, str]
    body: Body | BadAnswerError
    url: str
    hints: Hints
    governor: Governor
    sent_at: float

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


def accept(_: Response) -> None:
    """The check that finds nothing wrong."""


class Client:
    """Sends requests for all streams and threads of a run; one governor for each origin it talks to.

    `clock` (seconds, monotonic), `sleep` and `random` (0 to 1) are replaced in tests.
    """

    def __init__(
        self,
        config: ClientConfig,
        resolver: Resolver,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.stats = ClientStats()
        self._config = config
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._lock = threading.Lock()
        self._base_url = resolver.value(config.base_url)
        if faults := list(url_faults(self._base_url, "client.base_url")):  # it may be a reference until now
            raise ConfigError(faults)
        self._origin = urls.origin(self._base_url)
        self._session = _session(config, resolver, self._base_url)
        self._auths = [
            header_authenticator(config.headers, resolver),
            authenticator(config.auth, resolver, self._post_form),
        ]
        self._governors: dict[urls.Origin, Governor] = {}

    def send(self, build: Build, *, check: Check = accept, handlers: Sequence[ErrorHandler] = ()) -> Response:
        """The answer to the request that `build` makes anew for each attempt, once `check` accepts it.

        The first of `handlers` that matches an answer decides what happens to it, else its status does. Raises
        UnavailableError (also BadAnswerError) when all attempts failed, StoppedError when the server asks for too long
        a wait, CredentialsRefusedError, RequestRefusedError, ConfigError for a URL or header that cannot be sent or a
        foreign host, and ActionRequested.
        """
        attempts = Attempts(self._config.retry, self._clock, self._random)
        while True:
            request, credentials, answer = build(), [], None
            try:
                credentials = self._credentials()
                answer = self._fetch(request, credentials)
                response = self._judged(request, answer, check, handlers)
            except AttemptFailed as failure:
                self._recover(attempts, request, failure, answer, credentials)
            else:
                answer.governor.accepted()
                return response

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _recover(
        self,
        attempts: Attempts,
        request: Request,
        failure: AttemptFailed,
        answer: _Answer | None,
        credentials: Sequence[Credentials],
    ) -> None:
        """Do what the next attempt needs, and wait for it. Raises the failure's error if there is no next attempt."""
        limited = failure.verdict is Verdict.RATE_LIMITED
        if answer and not limited:
            answer.governor.accepted()
        if failure.verdict is Verdict.RETRY and not _is_repeatable(request):
            raise failure.error
        if answer and failure.server_wait and failure.verdict is not Verdict.FATAL:
            answer.governor.pause(failure.server_wait)
        wait = attempts.wait_after(failure)  # after the pause: a wait that ends this request ends all others, too
        if failure.verdict is Verdict.REFRESH_AUTH and not self._renewed(credentials):
            raise failure.error
        if answer and limited:
            answer.governor.refused(answer.sent_at, wait)
        self._count(retries=1, refusals=int(limited))
        log.info(facts("retrying", attempt=attempts.made + 1, wait_seconds=wait, reason=str(failure.error)))
        self._rest(wait)

    def _credentials(self) -> list[Credentials]:
        try:
            return [auth.credentials() for auth in self._auths]
        except UnavailableError as error:  # a secret store that is down
            raise AttemptFailed(Verdict.RETRY, error) from None

    def _renewed(self, credentials: Sequence[Credentials]) -> bool:
        renewed = [auth.renew(refused) for auth, refused in zip(self._auths, credentials, strict=True)]
        return any(renewed)

    def _fetch(self, request: Request, credentials: Sequence[Credentials]) -> _Answer:
        """The answer to one attempt, redirects followed. Raises AttemptFailed if there is none."""
        url = urls.with_params(urls.join(self._base_url, request.url), request.params)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._hop(request, url, credentials)
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                return answer
            if request.method not in {"GET", "HEAD"} and answer.status not in {307, 308}:
                return answer
            url = urljoin(url, answer.headers["location"])
        raise AttemptFailed(Verdict.FATAL, RequestRefusedError(310, f"{_where(request, url)}: too many redirects"))

    def _hop(self, request: Request, url: str, credentials: Sequence[Credentials]) -> _Answer:
        added = credentials if self._is_home(url) else []
        url = urls.without_params(url, [name for credential in credentials for name in credential.params])
        prepared = self._prepared(request, url, added)
        governor = self._governor(url)
        with governor.turn() as sent_at:
            self._count(requests=1)
            deadline = self._clock() + self._config.timeout.total
            try:
                with self._session.send(
                    prepared, stream=True, allow_redirects=False, timeout=self._timeout()
                ) as answer:
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    hints = read_hints(headers, time.time())
                    governor.heard(hints)
                    body = self._body(answer, deadline)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise self._lost(request, url, error) from None
        return _Answer(answer.status_code, headers, body, url, hints, governor, sent_at)

    def _body(self, answer: requests.Response, deadline: float) -> Body | BadAnswerError:
        limit = self._config.max_response_bytes if answer.ok else MAX_ERROR_BYTES
        try:
            body = read_body(answer.raw, max_bytes=limit, deadline=deadline, clock=self._clock)
        except BadAnswerError as error:
            return error.with_traceback(None)  # whose frames would keep the body in memory
        except urllib3.exceptions.ReadTimeoutError:
            return BadAnswerError(f"the answer stopped for longer than timeout.read ({self._config.timeout.read:g} s)")
        except (urllib3.exceptions.HTTPError, OSError):
            return BadAnswerError("the answer was cut: the connection broke in the middle")
        self._count(bytes=len(body))
        return body

    def _post_form(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None) -> FormAnswer:
        """Post a form to a token endpoint: ungoverned, because its quota is not the API's."""
        options: dict[str, Any] = {"stream": True, "allow_redirects": False, "timeout": self._timeout()}
        deadline = self._clock() + self._config.timeout.total
        try:
            with self._session.post(url, data=form, auth=basic or _no_auth, **options) as answer:
                body = read_body(answer.raw, max_bytes=MAX_ERROR_BYTES, deadline=deadline, clock=self._clock)
                decoded = decode("json", body, answer.headers.get("content-type", ""))
        except BadAnswerError:
            decoded = None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            message = f"POST {urls.place(url)}: {_in_words(error, self._config.timeout)}"
            raise AttemptFailed(Verdict.RETRY, UnavailableError(message)) from None
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return FormAnswer(answer.status_code, headers, decoded if isinstance(decoded, Mapping) else None)

    def _judged(self, request: Request, answer: _Answer, check: Check, handlers: Sequence[ErrorHandler]) -> Response:
        """The response, if it is one to work with. Raises AttemptFailed or ActionRequested otherwise."""
        response = _decoded(request, answer)
        action = next((handler.action for handler in handlers if handler.matches(response)), None)
        if action == "success" or (action is None and answer.is_success):
            return _checked(request, response, check)
        if action is not None and action not in _ACTION_VERDICTS:
            raise ActionRequested(action, response)
        verdict = _ACTION_VERDICTS[action] if action else self._config.retry.verdict(answer.status)
        wait = answer.hints.wait if verdict is Verdict.RATE_LIMITED else answer.hints.retry_after
        raise AttemptFailed(verdict, _refusal(request, answer, verdict, action), wait)

    def _is_home(self, url: str) -> bool:
        """Whether `url` may have our credentials. Raises ConfigError if it may not even be asked."""
        try:
            there = scheme, host, port = urls.origin(url)
        except ValueError:
            raise ConfigError("the source leads to a malformed URL") from None
        if there == self._origin:
            return True
        allowed = {host, f"{host}:{port}"} & set(self._config.allowed_hosts)
        if allowed and scheme in {"https", self._origin[0]}:
            return False
        home = urls.place(self._base_url)
        raise ConfigError(
            f"the source leads away from {home} to {scheme}://{host}:{port}, which is refused; if that is right, "
            "set base_url to it, or add the host to client.allowed_hosts (no credentials are sent there)"
        )

    def _prepared(self, request: Request, url: str, credentials: Sequence[Credentials]) -> requests.PreparedRequest:
        headers = {"Accept-Encoding": "gzip", "User-Agent": self._session.headers["User-Agent"]}
        for credential in credentials:
            headers |= credential.headers
            url = urls.with_params(url, credential.params)
        body = None
        if credentials:
            headers |= request.headers
        if request.json is not None:
            body, headers["Content-Type"] = msgspec.json.encode(request.json), "application/json"
        try:
            return requests.Request(request.method, url, headers=headers, data=body, auth=_no_auth).prepare()
        except (requests.RequestException, UnicodeError):
            message = f"{_where(request, url)} cannot be sent: the URL or a header has characters that HTTP forbids"
            raise ConfigError(message) from None

    def _timeout(self) -> tuple[float, float]:
        limits = self._config.timeout
        return limits.connect, min(limits.read, limits.total)

    def _governor(self, url: str) -> Governor:
        with self._lock:
            there = urls.origin(url)
            if there not in self._governors:
                limit, longest = self._config.rate_limit, self._config.retry.retry_after_max
                self._governors[there] = Governor(limit, max_wait=longest, clock=self._clock, sleep=self._rest)
            return self._governors[there]

    def _lost(self, request: Request, url: str, error: Exception) -> AttemptFailed:
        message = f"{_where(request, url)}: {_in_words(error, self._config.timeout)}"
        return AttemptFailed(Verdict.RETRY, UnavailableError(message))

    def _rest(self, seconds: float) -> None:
        self._count(wait_seconds=seconds)
        if seconds > 0:
            self._sleep(seconds)

    def _count(self, **increments: float) -> None:
        with self._lock:
            for name, increment in increments.items():
                setattr(self.stats, name, getattr(self.stats, name) + increment)


def _session(config: ClientConfig, resolver: Resolver, base_url: str) -> requests.Session:
    """A session that keeps connections, and nothing else: no cookies, no .netrc, no retries, no redirects."""
    session = requests.Session()
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    session.headers["User-Agent"] = resolver.value(config.user_agent)
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=max(config.rate_limit.concurrency, 1))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    proxies = dict.fromkeys(("http", "https"), resolver.value(config.proxy)) if config.proxy else {}
    ca_bundle = resolver.value(config.ca_bundle) if config.ca_bundle else None
    environment = session.merge_environment_settings(base_url, proxies, True, ca_bundle, None)
    session.proxies, session.verify = environment["proxies"], environment["verify"]
    session.trust_env = False  # read once, here: .netrc must not add credentials, nor the environment beat the config
    return session


def _no_auth(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from taking credentials out of a URL that the server gave."""
    return prepared


def _is_repeatable(request: Request) -> bool:
    has_key = any(name.lower() == "idempotency-key" for name in request.headers)
    return request.read_only or has_key or request.method.upper() in _REPEATABLE


def _decoded(request: Request, answer: _Answer) -> Response:
    """The answer with its body decoded; of an error, only if that is possible. Raises AttemptFailed for a bad 2xx."""
    opened, size = Opened(None), 0
    try:
        if isinstance(answer.body, BadAnswerError):
            raise answer.body
        size = len(answer.body)
        if answer.status not in {204, 205} and request.method != "HEAD" and (size or answer.is_success):
            opened = open_body(request, answer.body, answer.headers.get("content-type", ""))
    except BadAnswerError as error:
        if answer.is_success:
            raise _bad(request, answer.url, error) from None
    return Response(answer.status, answer.headers, opened.body, size, answer.url, opened.records)


def _checked(request: Request, response: Response, check: Check) -> Response:
    try:
        check(response)
    except BadAnswerError as error:
        raise _bad(request, response.url, error) from None
    return response


def _bad(request: Request, url: str, error: BadAnswerError) -> AttemptFailed:
    return AttemptFailed(Verdict.RETRY, BadAnswerError(f"{_where(request, url)}: {error}"))


def _refusal(request: Request, answer: _Answer, verdict: Verdict, action: str | None) -> ResilientError:
    """What the user reads if this refusal is the last word."""
    where, status = _where(request, answer.url), answer.status
    by = f" (error_handler: {action})" if action else ""
    if verdict is Verdict.REFRESH_AUTH:
        message = f"{where} answers {status}{by}: credentials refused, fetched again in vain; check client.auth"
        return CredentialsRefusedError(message)
    if status == 403 and verdict is Verdict.FATAL:
        return CredentialsRefusedError(f"{where} answers 403{by}: these credentials may not read it")
    if verdict is Verdict.FATAL:
        return RequestRefusedError(
            status, f"{where} answers {status}{by}; if that is to be expected, say so by an error_handler"
        )
    return UnavailableError(f"{where} answers {status}{by}")


def _where(request: Request, url: str) -> str:
    return f"{request.method} {urls.place(url)}"


def _in_words(error: Exception, limits: Timeouts) -> str:
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
