"""The stores that references name. Each fetches one document; none keeps it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient_core.errors import ConfigError


@dataclass(frozen=True)
class Document:
    """What a store holds under one name: text, or an object of keys. `lease_seconds` None means no lease."""

    content: str | Mapping[str, Any]
    lease_seconds: float | None = None


@dataclass(frozen=True)
class Store:
    """A secret store: how its references look, which options they take, and how one is fetched.

    `fetch(name, options)` raises ConfigError, UnavailableError or CredentialsRefusedError.
    """

    shape: str
    options: frozenset[str]
    fetch: Callable[[str, Mapping[str, str]], Document]


def _environment(name: str, _: Mapping[str, str]) -> Document:
    if (value := os.environ.get(name)) is None:
        raise ConfigError(f"ref+env://{name}: the environment variable is not set")
    return Document(value)


def _file(name: str, _: Mapping[str, str]) -> Document:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"ref+file://{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"ref+file://{name}: is not UTF-8 text") from None
    return Document(text.removesuffix("\n").removesuffix("\r"))


STORES: dict[str, Store] = {
    "env": Store("NAME", frozenset(), _environment),
    "file": Store("/run/secrets/name#/key", frozenset(), _file),
}
