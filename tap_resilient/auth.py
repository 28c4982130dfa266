"""Authenticators by name. Each gives the credentials of a request, and renews them once when they are refused."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from resilient_core.errors import Fault
from resilient_core.redaction import redactor
from resilient_core.secrets import Resolver, Secret, is_reference, ref_faults
from resilient_core.settings import Setting, unknown_name
from tap_resilient.blocks import read_block
from tap_resilient.exchange import PostForm
from tap_resilient.oauth2 import SETTINGS as OAUTH2_SETTINGS
from tap_resilient.oauth2 import OAuth2, oauth2_faults


@dataclass(frozen=True)
class Credentials:
    """What is added to a request: header fields and query parameters. Its repr shows no values."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict, repr=False)


class Authenticator(Protocol):
    """Gives credentials. Used by several threads at once."""

    def credentials(self) -> Credentials:
        """The credentials now; those that expire are renewed before they do."""

    def renew(self, refused: Credentials) -> bool:
        """Get other credentials than the `refused` ones; False if there are none."""


class _FromSecrets:
    """Credentials that are made of secrets: renewed by fetching these again."""

    def __init__(self, secrets: Sequence[Secret], make: Callable[[Sequence[str]], Credentials]) -> None:
        self._secrets = secrets
        self._make = make
        self._lock = threading.Lock()

    def credentials(self) -> Credentials:
        return self._make([secret.get() for secret in self._secrets])

    def renew(self, refused: Credentials) -> bool:
        with self._lock:
            if self.credentials() == refused:
                for secret in self._secrets:
                    secret.refresh()
            return self.credentials() != refused


class _FromToken:
    """A bearer token that OAuth 2.0 issues."""

    def __init__(self, source: OAuth2) -> None:
        self._source = source

    def credentials(self) -> Credentials:
        return _bearer([self._source.token()])

    def renew(self, refused: Credentials) -> bool:
        _, _, token = refused.headers["Authorization"].partition(" ")
        return self._source.renew(token)


def _bearer(values: Sequence[str]) -> Credentials:
    return Credentials({"Authorization": f"Bearer {values[0]}"})


def _basic(values: Sequence[str]) -> Credentials:
    encoded = base64.b64encode(":".join(values).encode()).decode()
    redactor.add(encoded)
    return Credentials({"Authorization": f"Basic {encoded}"})


def _none(*_: Any) -> Authenticator:
    return _FromSecrets([], lambda _: Credentials())


def _api_key(block: Mapping[str, Any], resolver: Resolver, _: PostForm) -> Authenticator:
    name, secret = block["header"] or block["param"], resolver.secret(block["value"])
    if block["header"]:
        return _FromSecrets([secret], lambda values: Credentials(headers={name: values[0]}))
    return _FromSecrets([secret], lambda values: Credentials(params={name: values[0]}))


def _bearer_token(block: Mapping[str, Any], resolver: Resolver, _: PostForm) -> Authenticator:
    return _FromSecrets([resolver.secret(block["token"])], _bearer)


def _username_password(block: Mapping[str, Any], resolver: Resolver, _: PostForm) -> Authenticator:
    username, password = block["username"], block["password"]
    if is_reference(username) or not password:  # some APIs take their key as user name
        return _FromSecrets([resolver.secret(username), resolver.secret(password)], _basic)
    return _FromSecrets([resolver.secret(password)], lambda values: _basic([username, *values]))


def _oauth2(block: Mapping[str, Any], resolver: Resolver, post: PostForm) -> Authenticator:
    return _FromToken(OAuth2(block, resolver, post))


def _api_key_faults(block: Mapping[str, Any], where: str) -> list[Fault]:
    if bool(block["header"]) != bool(block["param"]):
        return []
    return [Fault(where, "must name either a header or a param")]


def _no_faults(_: Mapping[str, Any], __: str) -> list[Fault]:
    return []


@dataclass(frozen=True)
class AuthKind:
    """An entry of the registry: its settings, further checks of its block, and how it is built."""

    settings: tuple[Setting, ...]
    build: Callable[[Mapping[str, Any], Resolver, PostForm], Authenticator]
    faults: Callable[[Mapping[str, Any], str], list[Fault]] = _no_faults


AUTHENTICATORS: dict[str, AuthKind] = {
    "none": AuthKind((), _none),
    "api_key": AuthKind(
        (
            Setting("header", "string", "Header that carries the key"),
            Setting("param", "string", "Query parameter that carries the key"),
            Setting("value", "password", "The key", required=True, sensitive=True),
        ),
        _api_key,
        _api_key_faults,
    ),
    "bearer": AuthKind(
        (Setting("token", "password", "The token", required=True, sensitive=True),),
        _bearer_token,
    ),
    "basic": AuthKind(
        (
            Setting("username", "string", "The user", required=True),
            Setting("password", "password", "The password", required=True, sensitive=True),
        ),
        _username_password,
    ),
    "oauth2": AuthKind(OAUTH2_SETTINGS, _oauth2, oauth2_faults),
}
"""The authenticators by `type`. Add an AuthKind to extend them."""


def auth_faults(value: Any, where: str) -> list[Fault]:
    """Every fault of an `auth:` block; None and an empty block mean no authentication."""
    if value is not None and not isinstance(value, Mapping):
        return [Fault(where, "must be an object")]
    block = dict(value or {"type": "none"})
    kind = AUTHENTICATORS.get(block.pop("type", ""))
    if kind is None:
        given = (value or {}).get("type")
        message = unknown_name("authentication", str(given), AUTHENTICATORS) if given else "is required"
        return [Fault(f"{where}.type", message)]
    read, faults = read_block(kind.settings, block, where)
    return faults or [*ref_faults(where, block), *kind.faults(read, where)]


def authenticator(value: Mapping[str, Any], resolver: Resolver, post: PostForm) -> Authenticator:
    """The authenticator of a faultless `auth:` block; `post` is how it asks token endpoints."""
    block = dict(value or {"type": "none"})
    kind = AUTHENTICATORS[block.pop("type")]
    return kind.build(read_block(kind.settings, block, "auth")[0], resolver, post)


def header_authenticator(headers: Mapping[str, str], resolver: Resolver) -> Authenticator:
    """The configured headers as credentials: they may hold secrets, and like these they stay with the origin."""
    secrets = {name: resolver.secret(value) for name, value in headers.items() if is_reference(value)}
    return _FromSecrets(
        list(secrets.values()), lambda values: Credentials({**headers, **dict(zip(secrets, values, strict=True))})
    )
