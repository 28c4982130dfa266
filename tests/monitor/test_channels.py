"""A real webhook receiver, and Apprise talking to it."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from monitor_resilient.alerts.channels import Apprise, Webhook, parse_channels
from monitor_resilient.alerts.lifecycle import Alert
from resilient_core.errors import ConfigError, UnavailableError
from resilient_core.redaction import redactor
from tests.monitor.support import NOW, Receiver

pytestmark = pytest.mark.filterwarnings("ignore:.imghdr. is deprecated:DeprecationWarning")  # in Apprise

ALERT = Alert("firing", "freshness", "orders", "fail", NOW, "the newest row is 3d old", "3d", "2d")


def no_sleep(_: float) -> None:
    pass


def test_a_webhook_gets_one_json_object(receiver: Receiver) -> None:
    Webhook(receiver.url).deliver(ALERT)
    assert receiver.got == [
        {
            "event": "firing",
            "fingerprint": ALERT.fingerprint,
            "check": "freshness",
            "stream": "orders",
            "state": "fail",
            "since": "2026-11-24T03:00:00+00:00",
            "title": "FIRING fail: freshness of orders",
            "message": "the newest row is 3d old",
            "value": "3d",
            "threshold": "2d",
        }
    ]


def test_a_webhook_is_tried_three_times(receiver: Receiver) -> None:
    receiver.statuses = [503, 503, 200]
    Webhook(receiver.url, sleep=no_sleep).deliver(ALERT)
    assert len(receiver.got) == 3


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_webhook_that_does_not_take_it_is_a_failure(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    with pytest.raises(UnavailableError, match=f"answered {status} after 3 attempts"):
        Webhook(receiver.url, sleep=no_sleep).deliver(ALERT)


def test_a_webhook_that_nobody_serves_is_a_failure_that_does_not_tell_the_url() -> None:
    with pytest.raises(UnavailableError, match="no answer") as raised:
        Webhook("http://127.0.0.1:9/hook-with-token", sleep=no_sleep).deliver(ALERT)
    assert "token" not in str(raised.value)


def test_a_secret_in_a_message_is_masked(receiver: Receiver) -> None:
    redactor.add("s3cr3t-of-the-alert")
    Webhook(receiver.url).deliver(Alert("firing", "probe", "api", "fail", NOW, "bad s3cr3t-of-the-alert", "", ""))
    assert receiver.got[0]["message"] == "bad ***"


def test_apprise_delivers_to_a_service_that_it_knows(receiver: Receiver) -> None:
    Apprise(receiver.url.replace("http://", "json://")).deliver(ALERT)
    assert (receiver.got[0]["title"], receiver.got[0]["type"]) == ("FIRING fail: freshness of orders", "failure")


def test_apprise_that_is_not_heard_is_a_failure(receiver: Receiver) -> None:
    receiver.statuses = [500]
    with pytest.raises(UnavailableError):
        Apprise(receiver.url.replace("http://", "json://")).deliver(ALERT)


def test_a_service_that_apprise_does_not_know_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="does not know"):
        Apprise("carrier-pigeon://loft").deliver(ALERT)


def test_without_apprise_the_error_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_apprise(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "apprise":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_apprise)
    with pytest.raises(ConfigError, match=r"pip install 'singer-resilient\[alerts\]'"):
        Apprise("json://localhost").deliver(ALERT)


def test_all_faults_of_all_channels_come_at_once() -> None:
    _, faults = parse_channels([{"type": "webhok"}, {"type": "webhook"}, {"type": "apprise", "ulr": "x"}, 7], "c")
    assert [str(fault) for fault in faults] == [
        "c[0].type: unknown channel; did you mean 'webhook'?",
        "c[1].url: is required",
        "c[2].ulr: unknown setting; did you mean 'url'?",
        "c[2].url: is required",
        "c[3].type: unknown channel; known: apprise, webhook",
    ]
