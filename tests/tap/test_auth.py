"""Authenticators, and OAuth 2.0 against a token endpoint on loopback."""

from __future__ import annotations

import base64
import json
import logging
import stat
import threading
from urllib.parse import parse_qsl

import pytest

from resilient_core.errors import ConfigError, CredentialsRefusedError, UnavailableError
from resilient_core.redaction import redactor
from resilient_core.secrets import Resolver
from tap_resilient.auth import auth_faults, authenticator
from tap_resilient.client import Client, ClientConfig, Request
from tap_resilient.exchange import FormAnswer
from tap_resilient.oauth2 import OAuth2
from tests.tap.faulty import Reply, faulty

GET = Request("GET", "/orders")


def no_post(*_):
    raise AssertionError("no token endpoint is asked")


def credentials(**block):
    assert not auth_faults(block, "client.auth")
    return authenticator(block, Resolver(), no_post).credentials()


def test_every_kind_of_credentials():
    assert credentials() == credentials(type="none")
    assert credentials(type="none").headers == {}
    assert credentials(type="bearer", token="tok-1").headers == {"Authorization": "Bearer tok-1"}
    assert credentials(type="api_key", header="X-Key", value="key-1").headers == {"X-Key": "key-1"}
    assert credentials(type="api_key", param="key", value="key-1").params == {"key": "key-1"}
    encoded = base64.b64encode("üser:pä:ss".encode()).decode()
    assert credentials(type="basic", username="üser", password="pä:ss").headers == {"Authorization": f"Basic {encoded}"}


def test_credentials_are_redacted_in_every_form_and_shown_nowhere():
    found = credentials(type="basic", username="ordinary", password="s3cr3t-one")
    assert "***" in redactor.redact(found.headers["Authorization"])
    assert redactor.redact("the password is s3cr3t-one") == "the password is ***"
    assert redactor.redact("ordinary words stay") == "ordinary words stay"
    assert "s3cr3t" not in repr(found)
    credentials(type="basic", username="key-as-user-name", password="")
    assert redactor.redact("key-as-user-name") == "***"


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        pytest.param({"type": "bearrer"}, "auth.type: unknown authentication; did you mean 'bearer'?", id="typo"),
        pytest.param({"token": "x"}, "auth.type: is required", id="no type"),
        pytest.param({"type": "bearer"}, "auth.token: is required", id="no token"),
        pytest.param(
            {"type": "bearer", "tokn": "x", "token": "y"}, "auth.tokn: unknown setting; did", id="unknown key"
        ),
        pytest.param({"type": "api_key", "value": "x"}, "auth: must name either a header or a param", id="neither"),
        pytest.param(
            {"type": "api_key", "value": "x", "header": "a", "param": "b"}, "auth: must name either", id="both"
        ),
        pytest.param({"type": "bearer", "token": "ref+vualt://a/b#/c"}, "auth.token: unknown secret store", id="ref"),
        pytest.param(
            {"type": "oauth2", "token_url": "https://x/t", "client_id": "a"},
            "client_secret: is required",
            id="no secret",
        ),
        pytest.param(
            {"type": "oauth2", "grant": "refresh_token", "token_url": "https://x/t", "client_id": "a"},
            "refresh_token: is required",
            id="no refresh token",
        ),
        pytest.param("bearer", "auth: must be an object", id="no object"),
    ],
)
def test_faults_of_an_auth_block(block, fault):
    assert any(fault in str(found) for found in auth_faults(block, "auth"))


def test_the_registry_can_be_extended(monkeypatch):
    from resilient_core.settings import Setting
    from tap_resilient import auth

    class Signed:
        def __init__(self, key):
            self.key = key

        def credentials(self):
            return auth.Credentials(headers={"X-Signature": self.key[::-1]})

        def renew(self, refused):
            return False

    kind = auth.AuthKind((Setting("key", "password", "Key", required=True),), lambda block, *_: Signed(block["key"]))
    monkeypatch.setitem(auth.AUTHENTICATORS, "signed", kind)
    assert credentials(type="signed", key="abc").headers == {"X-Signature": "cba"}


class TokenServer:
    """An API and its token endpoint: tokens last `life` seconds by its own clock, refresh tokens work once."""

    def __init__(self, life=3600):
        self.life, self.issued, self.refresh, self.revoked = life, 0, "refresh-0", set()
        self.fails: list[Reply] = []

    def __call__(self, seen):
        if seen.path == "/token":
            return self.token(dict(parse_qsl(seen.body.decode())))
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        current = f"access-{self.issued}"
        return Reply({"ok": 1}) if token == current and token not in self.revoked else Reply(status=401)

    def token(self, form):
        if self.fails:
            return self.fails.pop(0)
        if form["grant_type"] == "refresh_token" and form["refresh_token"] != self.refresh:
            return Reply({"error": "invalid_grant"}, status=400)
        if form.get("client_secret") != "client-s3cret":
            return Reply({"error": "invalid_client"}, status=401)
        self.issued += 1
        self.refresh = f"refresh-{self.issued}"
        body = {"access_token": f"access-{self.issued}", "expires_in": self.life, "token_type": "bearer"}
        return Reply(body | ({"refresh_token": self.refresh} if form["grant_type"] == "refresh_token" else {}))


def oauth_client(url, **auth):
    block = {"type": "oauth2", "token_url": f"{url}/token", "client_id": "me", "client_secret": "client-s3cret", **auth}
    config, faults = ClientConfig.parse({"base_url": url, "auth": block, "retry": {"base": "1ms", "max_attempts": 3}})
    assert not faults
    return Client(config, Resolver(), sleep=lambda _: None)


def test_client_credentials_are_exchanged_once_for_many_requests():
    with faulty(TokenServer()) as server:
        client = oauth_client(server.url, scope="read")
        assert [client.send(lambda: GET).body for _ in range(3)] == [{"ok": 1}] * 3
        assert server.paths == ["/token", "/orders", "/orders", "/orders"]
        form = dict(parse_qsl(server.seen[0].body.decode()))
        assert form == {
            "grant_type": "client_credentials",
            "scope": "read",
            "client_id": "me",
            "client_secret": "client-s3cret",
        }
        client.close()


def test_client_credentials_may_go_by_basic_authentication():
    with faulty([Reply({"access_token": "access-1"}), Reply({"ok": 1})]) as server:
        client = oauth_client(server.url, client_auth="basic")
        client.send(lambda: GET)
        assert server.seen[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:client-s3cret").decode()
        assert b"client" not in server.seen[0].body.replace(b"client_credentials", b"")
        client.close()


def test_a_revoked_token_is_renewed_once():
    script = TokenServer()
    with faulty(script) as server:
        client = oauth_client(server.url)
        client.send(lambda: GET)
        script.revoked.add("access-1")
        assert client.send(lambda: GET).body == {"ok": 1}
        assert server.paths == ["/token", "/orders", "/orders", "/token", "/orders"]
        script.revoked |= {"access-2", "access-3"}
        with pytest.raises(CredentialsRefusedError):
            client.send(lambda: GET)
        client.close()


def test_threads_that_are_refused_together_renew_once():
    script = TokenServer()
    with faulty(script) as server:
        client = oauth_client(server.url)
        client.send(lambda: GET)
        script.revoked.add("access-1")
        threads = [threading.Thread(target=lambda: client.send(lambda: GET)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.paths.count("/token") == 2
        client.close()


def test_a_failing_token_endpoint_is_retried_and_a_dead_one_is_named():
    script = TokenServer()
    with faulty(script) as server:
        script.fails = [Reply(status=503), Reply(b"<html>")]
        client = oauth_client(server.url)
        assert client.send(lambda: GET).body == {"ok": 1}
        client.close()
        script.fails = [Reply(status=500)] * 9
        client = oauth_client(server.url)
        with pytest.raises(UnavailableError, match=r"token endpoint at 127\.0\.0\.1 answers 500"):
            client.send(lambda: GET)
        client.close()


def test_refused_client_credentials_are_77():
    with faulty(TokenServer()) as server:
        client = oauth_client(server.url, client_secret="wrong-s3cret")
        with pytest.raises(CredentialsRefusedError, match=r"refuses the credentials \(401\)"):
            client.send(lambda: GET)
        client.close()


def test_a_rotated_client_secret_is_picked_up(monkeypatch):
    monkeypatch.setenv("CLIENT_SECRET", "old-s3cret")
    with faulty(TokenServer()) as server:
        client = oauth_client(server.url, client_secret="ref+env://CLIENT_SECRET")
        with pytest.raises(CredentialsRefusedError):
            client.send(lambda: GET)
        monkeypatch.setenv("CLIENT_SECRET", "client-s3cret")
        assert client.send(lambda: GET).body == {"ok": 1}
        client.close()


def test_single_use_refresh_tokens_survive_in_the_token_store(tmp_path):
    store = tmp_path / "tokens.json"
    script = TokenServer()
    with faulty(script) as server:
        for _ in range(3):
            client = oauth_client(server.url, grant="refresh_token", refresh_token="refresh-0", token_store=str(store))
            client.send(lambda: GET)
            script.revoked.add(f"access-{script.issued}")
            client.send(lambda: GET)
            client.close()
        assert script.issued == 4  # the second and third process start with the stored access token
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert "refresh-4" in store.read_text()
    assert redactor.redact("refresh-4 access-4") == "*** ***"


def test_a_newly_configured_refresh_token_beats_the_stored_one(tmp_path):
    script = TokenServer()
    auth = {"grant": "refresh_token", "token_store": str(tmp_path / "tokens.json")}
    with faulty(script) as server:
        client = oauth_client(server.url, refresh_token="refresh-0", **auth)
        client.send(lambda: GET)
        client.close()
        script.refresh = "authorised-again"
        client = oauth_client(server.url, refresh_token="authorised-again", **auth)
        script.revoked.add("access-1")
        assert client.send(lambda: GET).body == {"ok": 1}
        client.close()


def test_a_rotating_server_without_a_token_store_is_warned_about(caplog):
    with faulty(TokenServer()) as server:
        client = oauth_client(server.url, grant="refresh_token", refresh_token="refresh-0")
        client.send(lambda: GET)
        client.close()
    assert [record.levelno for record in caplog.records if "token_store" in record.message] == [logging.WARNING]


@pytest.mark.parametrize("content", ["not json", '{"other": 1}', "[]"])
def test_a_token_store_that_is_not_ours_is_left_alone(tmp_path, content):
    store = tmp_path / "tokens.json"
    store.write_text(content)
    with faulty(TokenServer()) as server:
        client = oauth_client(server.url, token_store=str(store))
        with pytest.raises(ConfigError, match="not a token store of ours"):
            client.send(lambda: GET)
        client.close()
    assert store.read_text() == content


def test_a_token_store_that_cannot_be_written_is_a_configuration_error(tmp_path):
    with faulty(TokenServer()) as server:
        client = oauth_client(server.url, token_store=str(tmp_path / "nowhere" / "tokens.json"))
        with pytest.raises(ConfigError, match=r"token_store: cannot be written"):
            client.send(lambda: GET)
        client.close()


def test_a_token_is_renewed_before_it_expires():
    now, asked = [1000.0], []

    def post(*_):
        asked.append(now[0])
        return FormAnswer(200, {}, {"access_token": f"access-{len(asked)}", "expires_in": 600})

    block = dict.fromkeys(("scope", "refresh_token", "token_store")) | {
        "grant": "client_credentials",
        "token_url": "https://x/t",
        "client_id": "me",
        "client_secret": "client-s3cret",
        "client_auth": "body",
    }
    source = OAuth2(block, Resolver(), post, wall_clock=lambda: now[0])
    for moment in (1000.0, 1539.0, 1541.0, 2000.0):
        now[0] = moment
        source.token()
    assert asked == [1000.0, 1541.0]


def test_the_token_server_s_answer_is_never_quoted():
    with faulty([Reply({"error_description": "secret words"}, status=400)]) as server:
        client = oauth_client(server.url)
        with pytest.raises(CredentialsRefusedError) as caught:
            client.send(lambda: GET)
        assert "secret words" not in json.dumps([str(caught.value), repr(caught.value)])
        client.close()
