"""The canary: one cheap authenticated request a source through the tap's own client, and one to the destination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from monitor_resilient.config import Probe
from monitor_resilient.database import Database
from monitor_resilient.model import Finding, Outcome
from resilient_core.errors import CredentialsRefusedError, ResilientError, StoppedError, UnavailableError
from resilient_core.secrets import Resolver
from tap_resilient.client import Client
from tap_resilient.client_config import ClientConfig, Timeouts
from tap_resilient.exchange import ActionRequested, BadAnswerError, Request, RequestRefusedError
from tap_resilient.handlers import parse_handlers
from tap_resilient.source import SourceSpec, StreamSpec, load_source
from tap_resilient.templates import template_faults

KIND = "probe"
PATIENCE = Timeouts(connect=5.0, read=10.0, total=15.0)

# Every refusal shows its status at once, instead of being waited out as a load would do.
_AT_ONCE, _ = parse_handlers([{"when": "status == `429` || status >= `500`", "action": "fail"}], "probe")

_STATES: tuple[tuple[type[Exception], str], ...] = (
    (CredentialsRefusedError, "auth_failed"),
    (BadAnswerError, "degraded"),
    (StoppedError, "degraded"),
)


def probe_destination(open_database: Callable[[], Database]) -> Finding:
    """Whether the destination can be reached and takes our credentials."""
    try:
        database = open_database()
        try:
            database.fetch("SELECT 1")
            outcome = Outcome("ok", f"{database.destination.describe()} answers")
        finally:
            database.close()
    except CredentialsRefusedError as error:
        outcome = Outcome("auth_failed", str(error))
    except UnavailableError as error:
        outcome = Outcome("unknown", str(error))
    return Finding(KIND, KIND, "destination", outcome)


def probe_source(probe: Probe, resolver: Resolver) -> Finding:
    """Whether the source takes our credentials. On a 401 the client fetches the secret again once.

    Raises ConfigError for a source file that is wrong.
    """
    source = load_source({"source": probe.source, "config": probe.config})
    client = Client(_hasty(source.client), resolver)
    try:
        outcome = ask(client, canary(source))
    finally:
        client.close()
    return Finding(KIND, KIND, probe.name, outcome)


def streams_of(probe: Probe) -> frozenset[str]:
    """The names of the streams that depend on this probe's credentials."""
    source = load_source({"source": probe.source, "config": probe.config})
    return frozenset(stream.name for stream in source.streams)


def canary(source: SourceSpec) -> Request | None:
    """The request of the first stream's `probe:`, else one record of the first stream that needs no variables."""
    for stream in source.streams:
        if stream.probe:
            return Request(stream.probe.method, stream.probe.path, stream.probe.params)
    plain = (stream for stream in source.streams if not (stream.job or _needs_variables(stream)))
    return next((_first_record(stream) for stream in plain), None)


def ask(client: Client, request: Request | None) -> Outcome:
    """Send one request and say what the answer means for the credentials."""
    if request is None:
        return Outcome("unknown", "every stream needs variables; give one a `probe: {path: …}`")
    try:
        response = client.send(lambda: request, handlers=_AT_ONCE)
    except RequestRefusedError as error:
        return _refused(error)
    except (ActionRequested, ResilientError) as error:
        state = next((state for kind, state in _STATES if isinstance(error, kind)), "unknown")
        timed_out = "timeout." in str(error)  # the client names the limit that was reached
        return Outcome("degraded" if timed_out else state, str(error))
    return Outcome("ok", f"answered {response.status}", str(response.status))


def _refused(error: RequestRefusedError) -> Outcome:
    if error.status in (401, 403):
        state = "auth_failed"
    else:
        state = "degraded" if error.status == 429 or error.status >= 500 else "unknown"
    return Outcome(state, f"answered {error.status}", str(error.status))


def _hasty(config: ClientConfig) -> ClientConfig:
    """The source's client, with one attempt and short timeouts: a probe tells how things are now."""
    return replace(config, timeout=PATIENCE, retry=replace(config.retry, max_attempts=1))


def _needs_variables(stream: StreamSpec) -> bool:
    return bool(
        template_faults([stream.path, stream.params, stream.headers, stream.json], "", allowed=(), strict=False)
    )


def _first_record(stream: StreamSpec) -> Request:
    params: dict[str, Any] = dict(stream.params)
    if stream.paginator:
        start = stream.paginator.start()
        params |= stream.paginator.resized(start, 1).params if start.size else start.params
    return Request(stream.method, stream.path, params, stream.headers, stream.json, stream.decoder)
