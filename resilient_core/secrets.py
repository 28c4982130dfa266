"""Secrets by reference: `ref+<store>://<name>?<option>=…#/<json pointer>` as a whole value; kept in memory only."""

from __future__ import annotations

import json
import queue
import random as _random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from resilient_core.errors import ConfigError, Fault, UnavailableError
from resilient_core.redaction import MASK, redactor
from resilient_core.secret_stores import STORES, Document, Store
from resilient_core.settings import unknown_name

MAX_TTL_SECONDS = 3600.0
FETCH_ATTEMPTS = 3
FETCH_SECONDS = 20.0

_REFERENCE = re.compile(r"ref\+([A-Za-z0-9_-]*)://([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_INSIDE = re.compile(r"ref\+[A-Za-z0-9_-]+://")

T = TypeVar("T")


@dataclass(frozen=True)
class Reference:
    """A parsed reference. `pointer` (RFC 6901) selects within a JSON document; "" means the whole value."""

    scheme: str
    name: str
    options: tuple[tuple[str, str], ...]
    pointer: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference in `text`. Raises ValueError with a message that says what is wrong."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError("is not a secret reference; write ref+<store>://<name>#/<key>")
        scheme, name, query, pointer = match.groups()
        if scheme not in STORES:
            raise ValueError(unknown_name("secret store", scheme, STORES))
        if not name:
            raise ValueError(f"names no secret; write ref+{scheme}://{STORES[scheme].shape}")
        if pointer and not pointer.startswith("/"):
            raise ValueError("must select a key by a JSON pointer, such as #/password")
        options = tuple(parse_qsl(query or "", keep_blank_values=True))
        for key, _ in options:
            if key not in STORES[scheme].options:
                known = ", ".join(sorted(STORES[scheme].options)) or "none"
                raise ValueError(f"has an unknown option '{key}'; ref+{scheme} takes: {known}")
        return cls(scheme, name, options, pointer or "")

    @property
    def place(self) -> str:
        """Where the secret is, for messages: never its value."""
        return f"ref+{self.scheme}://{self.name}" + (f"#{self.pointer}" if self.pointer else "")


def is_reference(value: object) -> bool:
    """Whether `value` is a string that refers to a secret."""
    return isinstance(value, str) and value.startswith("ref+") and "://" in value


def ref_faults(where: str, config: Any) -> list[Fault]:
    """Every malformed reference in a JSON-like `config`, without resolving any."""
    return [Fault(place, problem) for place, text in _strings(where, config) if (problem := _problem(text))]


class Secret:
    """A value that may change while the process runs. It shows itself as `***`."""

    def __init__(self, resolver: Resolver, text: str) -> None:
        self._resolver = resolver
        self._text = text

    def get(self) -> str:
        """The current value; from now on it is redacted everywhere.

        Raises ConfigError (no such secret), UnavailableError (store down), CredentialsRefusedError (store refuses us).
        """
        value = self._resolver.value(self._text)
        redactor.add(value)
        return value

    def refresh(self) -> bool:
        """Fetch the value again, once; True if it changed."""
        before = self.get()
        self._resolver.invalidate(self._text)
        return self.get() != before

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__


@dataclass
class _Entry:
    lock: threading.Lock
    document: Document | None = None
    expires: float = 0.0


class Resolver:
    """Resolves references, one a process: cached in memory for min(lease, 1 h), each fetched by one thread only.

    A store that is down is asked up to three times; one that does not answer in 20 s counts as down.
    """

    def __init__(
        self,
        stores: Mapping[str, Store] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._stores = STORES if stores is None else stores
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._lock = threading.Lock()
        self._entries: dict[Reference, _Entry] = {}

    def secret(self, value: str) -> Secret:
        """The secret behind a literal or a reference; nothing is fetched yet."""
        return Secret(self, value)

    def resolve(self, config: T) -> T:
        """A deep copy of a JSON-like `config` with every reference replaced by its value now."""
        return _resolved(self, config)  # type: ignore[no-any-return]

    def value(self, text: str) -> str:
        """The value of a literal (itself) or of a reference."""
        if not is_reference(text):
            return text
        reference = _parsed(text)
        return _select(self._document(reference), reference)

    def invalidate(self, text: str) -> None:
        """Forget what was fetched for this reference."""
        if is_reference(text):
            self._entry(_parsed(text)).expires = float("-inf")

    def _document(self, reference: Reference) -> Document:
        entry = self._entry(reference)
        with entry.lock:
            if entry.document is None or self._clock() >= entry.expires:
                entry.document = self._fetch(reference)
                entry.expires = self._clock() + min(entry.document.lease_seconds or MAX_TTL_SECONDS, MAX_TTL_SECONDS)
            return entry.document

    def _fetch(self, reference: Reference) -> Document:
        store, options = self._stores[reference.scheme], dict(reference.options)
        for attempt in range(1, FETCH_ATTEMPTS + 1):
            try:
                return _within(FETCH_SECONDS, lambda: store.fetch(reference.name, options), reference)
            except UnavailableError:
                if attempt == FETCH_ATTEMPTS:
                    raise
                self._sleep(2.0**attempt * self._random())
        raise AssertionError("unreachable")

    def _entry(self, reference: Reference) -> _Entry:
        whole = Reference(reference.scheme, reference.name, reference.options, "")
        with self._lock:
            return self._entries.setdefault(whole, _Entry(threading.Lock()))


def _within(seconds: float, fetch: Callable[[], Document], reference: Reference) -> Document:
    """What `fetch` returns or raises, if it ends in time: the stores' own clients keep to no deadline.

    Google's hung for 27 s with a timeout of 2 s. The thread that is left behind dies with the process.
    """
    done: queue.SimpleQueue[Document | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(fetch())
        except Exception as error:
            done.put(error)

    threading.Thread(target=run, daemon=True, name=f"secret store {reference.scheme}").start()
    try:
        result = done.get(timeout=seconds)
    except queue.Empty:
        raise UnavailableError(f"{reference.place}: the store gave no answer within {seconds:.0f} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def _parsed(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise ConfigError(f"a secret reference {error}") from None


def _resolved(resolver: Resolver, config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _resolved(resolver, value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [_resolved(resolver, value) for value in config]
    return resolver.secret(config).get() if is_reference(config) else config


def _select(document: Document, reference: Reference) -> str:
    """The string that the reference's pointer selects. Raises ConfigError; never quotes the document."""
    if not reference.pointer:
        if isinstance(document.content, str):
            return document.content
        raise ConfigError(f"{reference.place} holds several keys; select one, as in {reference.place}#/password")
    found = _json(document, reference)
    for step in reference.pointer.split("/")[1:]:
        found = _step(found, step.replace("~1", "/").replace("~0", "~"), reference)
    if isinstance(found, str):
        return found
    if isinstance(found, int | float):
        return json.dumps(found)
    raise ConfigError(f"{reference.place} does not select a string")


def _json(document: Document, reference: Reference) -> Any:
    if not isinstance(document.content, str):
        return document.content
    try:
        return json.loads(document.content)
    except ValueError:
        raise ConfigError(
            f"{reference.place}: the secret is not JSON, so #{reference.pointer} selects nothing"
        ) from None


def _step(found: Any, step: str, reference: Reference) -> Any:
    if isinstance(found, Mapping) and step in found:
        return found[step]
    if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
        return found[int(step)]
    raise ConfigError(f"{reference.place}: there is no such key in the secret")


def _problem(text: str) -> str | None:
    if is_reference(text):
        try:
            Reference.parse(text)
        except ValueError as error:
            return str(error)
        return None
    return "a secret reference must be the whole value" if _INSIDE.search(text) else None


def _strings(where: str, config: Any) -> Iterator[tuple[str, str]]:
    if isinstance(config, str):
        yield where, config
    elif isinstance(config, Mapping):
        for key, value in config.items():
            yield from _strings(f"{where}.{key}" if where else str(key), value)
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            yield from _strings(f"{where}[{index}]", value)
