"""The `client:` block of a source file as a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from resilient_core.errors import Fault
from resilient_core.secrets import is_reference, ref_faults
from resilient_core.settings import Setting
from tap_resilient.auth import auth_faults
from tap_resilient.blocks import read_block
from tap_resilient.governor import RateLimit
from tap_resilient.retry import RetryPolicy

SETTINGS = (
    Setting("base_url", "string", "URL that relative paths are joined to", required=True),
    Setting("headers", "object", "Headers of every request", {}),
    Setting("auth", "object", "How requests are authenticated", {}),
    Setting("allowed_hosts", "array", "Further hosts that may be asked, without credentials", []),
    Setting("timeout", "object", "connect, read and total time of one request", {}),
    Setting("rate_limit", "object", "Budget of requests, concurrency, adaptive probing", {}),
    Setting("retry", "object", "Retry policy", {}),
    Setting(
        "max_response_bytes",
        "size",
        "Largest body that is accepted, decompressed; from 5 MB on it lies on disk",
        "256MB",
    ),
    Setting("user_agent", "string", "User-Agent header", "singer-resilient"),
    Setting("proxy", "string", "Proxy URL; the environment's proxies otherwise"),
    Setting("ca_bundle", "string", "File of CA certificates to trust instead of the usual ones"),
)

TIMEOUT_SETTINGS = (
    Setting("connect", "duration", "Longest time to connect", "10s"),
    Setting("read", "duration", "Longest silence while an answer is read", "60s"),
    Setting("total", "duration", "Longest time of one attempt, the body included", "5m"),
)


@dataclass(frozen=True)
class Timeouts:
    """Limits of one attempt, in seconds; always set."""

    connect: float = 10.0
    read: float = 60.0
    total: float = 300.0

    @classmethod
    def parse(cls, value: Any, where: str) -> tuple[Timeouts, list[Fault]]:
        """The timeouts of a `timeout:` block, with every fault found."""
        block, faults = read_block(TIMEOUT_SETTINGS, value, where)
        return cls(**block), faults


@dataclass(frozen=True)
class ClientConfig:
    """The `client:` block. String values may be `ref+…` secrets; they are resolved when they are used."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    auth: Mapping[str, Any] = field(default_factory=dict)
    allowed_hosts: tuple[str, ...] = ()
    timeout: Timeouts = field(default_factory=Timeouts)
    rate_limit: RateLimit = field(default_factory=RateLimit)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_response_bytes: int = 256_000_000
    user_agent: str = "singer-resilient"
    proxy: str | None = None
    ca_bundle: str | None = None

    @classmethod
    def parse(cls, value: Any, where: str = "client") -> tuple[ClientConfig, list[Fault]]:
        """The configuration of a `client:` block, with every fault found."""
        block, faults = read_block(SETTINGS, value, where)
        timeout, timeout_faults = Timeouts.parse(block["timeout"], f"{where}.timeout")
        limit, limit_faults = RateLimit.parse(block["rate_limit"], f"{where}.rate_limit")
        retry, retry_faults = RetryPolicy.parse(block["retry"], f"{where}.retry")
        faults += [*timeout_faults, *limit_faults, *retry_faults, *auth_faults(block["auth"], f"{where}.auth")]
        faults += _faults(block, where)
        parts = {"timeout": timeout, "rate_limit": limit, "retry": retry, "base_url": block["base_url"] or ""}
        return cls(**{**block, **parts, "allowed_hosts": tuple(block["allowed_hosts"])}), faults


def _faults(block: Mapping[str, Any], where: str) -> Iterator[Fault]:
    yield from url_faults(block["base_url"], f"{where}.base_url")
    for name in ("base_url", "headers", "user_agent", "proxy", "ca_bundle"):
        yield from ref_faults(f"{where}.{name}", block[name])
    for name, value in block["headers"].items():
        if not isinstance(value, str):
            yield Fault(f"{where}.headers.{name}", "must be a string")
    bundle = block["ca_bundle"]
    if bundle and not is_reference(bundle) and not Path(bundle).exists():
        yield Fault(f"{where}.ca_bundle", "is no file or directory")
    if not all(isinstance(host, str) and "/" not in host for host in block["allowed_hosts"]):
        yield Fault(f"{where}.allowed_hosts", "must be host names, such as files.example.com")


def url_faults(url: str | None, where: str) -> Iterator[Fault]:
    """The fault of a base URL, if it has one; a reference is not judged before it is resolved."""
    if url is None or is_reference(url):
        return
    try:
        parts = urlsplit(url)
        absolute = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        absolute = False
    if not absolute:
        yield Fault(where, "must be an absolute http or https URL")
    elif parts.username or parts.password:
        yield Fault(where, "must not hold credentials; use auth: {type: basic, …}")
