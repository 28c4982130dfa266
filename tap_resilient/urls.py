"""URLs: joined, compared by origin, and shown without what may be secret."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int | None]


def join(base_url: str, url: str) -> str:
    """`url` if it is absolute, else its path below `base_url` (`/orders` too: it does not replace the base's path)."""
    return url if "://" in url.partition("?")[0] else f"{base_url.rstrip('/')}/{url.lstrip('/')}"


def origin(url: str) -> Origin:
    """Scheme, host and port (RFC 6454). Raises ValueError for a URL that has none."""
    parts = urlsplit(url)
    return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())


def place(url: str) -> str:
    """The URL for messages: without user, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def with_params(url: str, params: Mapping[str, Any]) -> str:
    """`url` with `params` in place of those of the same name. None is left out, lists repeat, booleans as in JSON."""
    pairs = [(name, _text(item)) for name, value in params.items() for item in _items(value)]
    if not pairs:
        return url
    bare = without_params(url, params)
    return f"{bare}{'&' if urlsplit(bare).query else '?'}{urlencode(pairs)}"


def without_params(url: str, names: Collection[str]) -> str:
    """`url` without the query parameters `names`; unchanged, byte for byte, if it has none of them."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if name not in names]
    return url if len(kept) == len(pairs) else urlunsplit(parts._replace(query=urlencode(kept)))


def _items(value: Any) -> list[Any]:
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if item is not None]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
