"""Where alerts go: a plain webhook (JSON), or anything that Apprise knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import requests

from monitor_resilient.alerts.lifecycle import Alert
from resilient_core.errors import ConfigError, Fault, UnavailableError
from resilient_core.redaction import redactor
from resilient_core.settings import Setting, unknown_name
from tap_resilient.blocks import read_block

ATTEMPTS = 3
TIMEOUT_SECONDS = 10.0


class Channel(Protocol):
    """Delivers one alert. Raises UnavailableError if it cannot."""

    def deliver(self, alert: Alert) -> None:
        """Send it, or raise."""


@dataclass(frozen=True)
class Webhook:
    """POSTs one JSON object an alert; tries three times, a second apart."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    sleep: Callable[[float], None] = time.sleep

    def deliver(self, alert: Alert) -> None:
        """Send it, or raise."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self.sleep(1.0)
            problem = self._post(alert)
            if not problem:
                return
        raise UnavailableError(f"webhook: {problem} after {ATTEMPTS} attempts")

    def _post(self, alert: Alert) -> str:
        """What went wrong; empty if nothing did. A redirect is a fault: the alert would go to a host nobody named."""
        try:
            with requests.post(
                self.url, json=body(alert), headers=dict(self.headers), timeout=TIMEOUT_SECONDS, allow_redirects=False
            ) as answer:
                return "" if answer.status_code < 300 else f"answered {answer.status_code}"
        except requests.RequestException as error:
            return f"no answer ({type(error).__name__})"


@dataclass(frozen=True)
class Apprise:
    """Any service that Apprise knows, by its URL (https://github.com/caronc/apprise/wiki)."""

    url: str = field(repr=False)

    def deliver(self, alert: Alert) -> None:
        """Send it, or raise."""
        apprise = _import_apprise()
        sender = apprise.Apprise()
        if not sender.add(self.url):
            raise ConfigError([Fault("alerts.channels", "Apprise does not know the service of this `url`")])
        kind = apprise.NotifyType.SUCCESS if alert.event == "resolved" else apprise.NotifyType.FAILURE
        text = redactor.redact(alert.message)
        if not sender.notify(title=alert.title, body=text, notify_type=kind):
            raise UnavailableError("apprise: the service did not take the alert")


def body(alert: Alert) -> dict[str, Any]:
    """The JSON object that a webhook receives; secrets are masked."""
    facts = {
        "event": alert.event,
        "fingerprint": alert.fingerprint,
        "check": alert.check,
        "stream": alert.subject,
        "state": alert.state,
        "since": alert.since.isoformat(),
        "title": alert.title,
        "message": alert.message,
        "value": alert.value,
        "threshold": alert.threshold,
    }
    return {name: redactor.redact(text) for name, text in facts.items()}


def make_channel(settings: Mapping[str, Any], sleep: Callable[[float], None] = time.sleep) -> Channel:
    """The channel of one `channels` entry whose secrets are resolved."""
    if settings["type"] == "apprise":
        return Apprise(settings["url"])
    return Webhook(settings["url"], settings["headers"], sleep)


CHANNELS: dict[str, tuple[Setting, ...]] = {
    "webhook": (
        Setting("url", "string", "Where alerts are POSTed", required=True, sensitive=True),
        Setting("headers", "object", "Further headers, such as Authorization", {}, sensitive=True),
    ),
    "apprise": (Setting("url", "string", "Apprise URL of the service", required=True, sensitive=True),),
}


def parse_channels(value: Any, where: str) -> tuple[list[dict[str, Any]], list[Fault]]:
    """The settings of every channel, with every fault found; None means no channels."""
    channels: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for index, block in enumerate(value or []):
        place = f"{where}[{index}]"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind not in CHANNELS:
            faults.append(Fault(f"{place}.type", unknown_name("channel", str(kind), CHANNELS)))
            continue
        settings, found = read_block((Setting("type", "string", "Kind of channel"), *CHANNELS[kind]), block, place)
        channels.append(settings)
        faults += found
    return channels, faults


def _import_apprise() -> Any:
    try:
        import apprise
    except ImportError:
        raise ConfigError(
            [Fault("alerts.channels", "apprise is not installed: pip install 'singer-resilient[alerts]'")]
        ) from None
    return apprise
