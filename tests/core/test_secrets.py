"""References to secrets: resolved from real stores, refreshed, redacted, and refused with a clear word."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from resilient_core.errors import ConfigError, CredentialsRefusedError, UnavailableError
from resilient_core.redaction import redactor
from resilient_core.secret_stores import STORES, Document, Store
from resilient_core.secrets import Resolver, ref_faults
from tests.core import stores


class FakeStore:
    """Counts what it is asked; `answers` are documents or errors, the last one again and again."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0

    def fetch(self, name, options):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def resolver(self, **options):
        store = Store("NAME", frozenset(), self.fetch)
        return Resolver({"env": store}, sleep=lambda _: None, **options)


def value_of(text):
    return Resolver(sleep=lambda _: None).secret(text).get()


def test_a_literal_is_its_own_value():
    assert value_of("plain") == "plain"


def test_environment_and_files(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKEN", "from-environment")
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "all.json").write_text('{"db": {"pass/word": "p~1"}, "ports": [5432]}')
    assert value_of("ref+env://TOKEN") == "from-environment"
    assert value_of(f"ref+file://{tmp_path}/token") == "from-file"
    assert value_of(f"ref+file://{tmp_path}/all.json#/db/pass~1word") == "p~1"
    assert value_of(f"ref+file://{tmp_path}/all.json#/ports/0") == "5432"


def test_resolve_replaces_references_in_a_copy(monkeypatch):
    monkeypatch.setenv("TOKEN", "from-environment")
    config = {"a": ["ref+env://TOKEN", 1, None], "b": {"c": "plain"}}
    assert Resolver().resolve(config) == {"a": ["from-environment", 1, None], "b": {"c": "plain"}}
    assert config["a"][0] == "ref+env://TOKEN"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ref+env://NOT_SET_ANYWHERE", "the environment variable is not set"),
        ("ref+file:///nowhere/at/all", "cannot be read: No such file or directory"),
        ("ref+env://JSON#/other", "there is no such key in the secret"),
        ("ref+env://JSON#/list/7", "there is no such key in the secret"),
        ("ref+env://JSON#/list", "does not select a string"),
        ("ref+env://TEXT#/key", "the secret is not JSON"),
        ("ref+nope://x", "unknown secret store"),
    ],
)
def test_what_cannot_be_resolved_is_a_configuration_error_without_the_value(monkeypatch, text, message):
    monkeypatch.setenv("JSON", '{"list": ["hidden-value"]}')
    monkeypatch.setenv("TEXT", "hidden-value")
    with pytest.raises(ConfigError, match=message) as caught:
        value_of(text)
    assert "hidden" not in str(caught.value)


def test_faults_are_found_without_resolving():
    config = {
        "good": ["ref+env://A", "ref+vault://secret/a?version=3#/b", "no reference", 5],
        "store": "ref+vualt://secret/a",
        "part": "Bearer ref+env://A",
        "name": "ref+env://",
        "pointer": "ref+file:///x#key",
        "option": ["ref+awssecrets://x?version=3#/k"],
    }
    assert [str(fault) for fault in ref_faults("config", config)] == [
        "config.store: unknown secret store; did you mean 'vault'?",
        "config.part: a secret reference must be the whole value",
        "config.name: names no secret; write ref+env://NAME",
        "config.pointer: must select a key by a JSON pointer, such as #/password",
        "config.option[0]: has an unknown option 'version'; ref+awssecrets takes: stage",
    ]


def test_a_secret_shows_itself_as_stars_and_is_redacted_once_got():
    resolver = FakeStore(Document("quite+secret")).resolver()
    secret = resolver.secret("ref+env://A")
    assert f"{secret} {secret!r}" == "*** ***"
    secret.get()
    assert redactor.redact("quite+secret quite%2Bsecret") == "*** ***"


def test_a_value_is_kept_for_its_lease_and_an_hour_at_most():
    for lease, seconds in ((60.0, 60.0), (None, 3600.0), (90_000.0, 3600.0)):
        now = [0.0]
        store = FakeStore(Document("value-1", lease))
        secret = store.resolver(clock=lambda now=now: now[0]).secret("ref+env://A")
        for moment in (0.0, seconds - 1, seconds, seconds + 1):
            now[0] = moment
            secret.get()
        assert store.asked == 2


def test_several_keys_of_a_document_cost_one_fetch():
    store = FakeStore(Document({"user": "user-1", "password": "pass-1"}))
    assert store.resolver().resolve(["ref+env://A#/user", "ref+env://A#/password"]) == ["user-1", "pass-1"]
    assert store.asked == 1


def test_threads_wait_for_one_fetch():
    store = FakeStore(Document("value-1"))
    fetch = store.fetch

    def slow(name, options):
        time.sleep(0.05)
        return fetch(name, options)

    store.fetch = slow
    secret = store.resolver().secret("ref+env://A")
    threads = [threading.Thread(target=secret.get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.asked == 1


def test_refresh_tells_whether_the_value_changed():
    store = FakeStore(Document("value-1"), Document("value-1"), Document("value-2"))
    secret = store.resolver().secret("ref+env://A")
    assert secret.get() == "value-1"
    assert [secret.refresh(), secret.refresh(), secret.get()] == [False, True, "value-2"]
    assert Resolver().secret("literal").refresh() is False


def test_a_store_that_is_down_is_asked_three_times():
    down = UnavailableError("down")
    store = FakeStore(down, down, Document("value-1"))
    assert store.resolver().secret("ref+env://A").get() == "value-1"
    store = FakeStore(down)
    with pytest.raises(UnavailableError):
        store.resolver().secret("ref+env://A").get()
    assert store.asked == 3


def test_a_store_that_hangs_counts_as_down(monkeypatch):
    monkeypatch.setattr("resilient_core.secrets.FETCH_SECONDS", 0.05)
    released = threading.Event()
    hanging = Store("NAME", frozenset(), lambda *_: Document(str(released.wait(10))))
    with pytest.raises(UnavailableError, match="gave no answer"):
        Resolver({"env": hanging}, sleep=lambda _: None).secret("ref+env://A").get()
    released.set()


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("vault", "hvac", "vault"), ("awssecrets", "boto3", "aws"), ("gcpsecrets", "google.auth", "gcp")],
)
def test_a_missing_extra_gives_the_line_that_installs_it(monkeypatch, scheme, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'singer-resilient\[{extra}\]'"):
        STORES[scheme].fetch("a/b", {})


# Vault: a real server


@pytest.fixture(scope="module")
def bao_server():
    with stores.bao() as server:
        server.write("app/db", {"password": "first-password"})
        server.write("app/db", {"password": "second-password", "user": "me"})
        server.call("kv1/old", {"password": "kv1-password", "ttl": "90s"})
        yield server


@pytest.fixture
def vault(bao_server, monkeypatch):
    monkeypatch.setenv("VAULT_ADDR", bao_server.url)
    monkeypatch.setenv("VAULT_TOKEN", "root")
    return bao_server


def test_vault_reads_both_versions_of_kv_and_old_versions_of_a_secret(vault):
    assert value_of("ref+vault://secret/app/db#/password") == "second-password"
    assert value_of("ref+vault://secret/app/db?version=1#/password") == "first-password"
    assert value_of("ref+vault://kv1/old#/password") == "kv1-password"


def test_a_lease_of_vault_is_kept(vault):
    assert STORES["vault"].fetch("kv1/old", {}).lease_seconds == 90
    assert STORES["vault"].fetch("secret/app/db", {}).lease_seconds is None


def test_a_secret_that_is_rotated_in_vault_is_picked_up_by_a_refresh(vault):
    vault.write("rotating", {"token": "token-one"})
    secret = Resolver().secret("ref+vault://secret/rotating#/token")
    assert secret.get() == "token-one"
    vault.write("rotating", {"token": "token-two"})
    assert [secret.get(), secret.refresh(), secret.get()] == ["token-one", True, "token-two"]


def test_vault_logs_in_by_approle(vault, monkeypatch):
    policy = 'path "secret/data/app/*" { capabilities = ["read"] }'
    vault.call("sys/policies/acl/app", {"policy": policy})
    vault.call("auth/approle/role/tap", {"token_policies": "app"})
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("VAULT_ROLE_ID", vault.call("auth/approle/role/tap/role-id")["data"]["role_id"])
    monkeypatch.setenv("VAULT_SECRET_ID", vault.call("auth/approle/role/tap/secret-id", {})["data"]["secret_id"])
    assert value_of("ref+vault://secret/app/db#/user") == "me"
    with pytest.raises(CredentialsRefusedError):
        value_of("ref+vault://secret/other#/x")
    monkeypatch.setenv("VAULT_SECRET_ID", "wrong")
    with pytest.raises(CredentialsRefusedError, match="VAULT_SECRET_ID"):
        value_of("ref+vault://secret/app/db#/user")


def test_what_vault_does_not_have_or_refuses(vault, monkeypatch):
    with pytest.raises(ConfigError, match="no such secret"):
        value_of("ref+vault://secret/none#/x")
    with pytest.raises(ConfigError, match="no such secret, or no such version"):
        value_of("ref+vault://secret/app/db?version=99#/password")
    with pytest.raises(ConfigError, match="several keys"):
        value_of("ref+vault://secret/app/db")
    monkeypatch.setenv("VAULT_TOKEN", "wrong")
    with pytest.raises(CredentialsRefusedError):
        value_of("ref+vault://secret/app/db#/password")


def test_vault_that_is_down_or_not_configured(monkeypatch):
    monkeypatch.setenv("VAULT_TOKEN", "root")
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    with pytest.raises(ConfigError, match="VAULT_ADDR"):
        value_of("ref+vault://secret/app/db#/password")
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{stores.free_port()}")
    with pytest.raises(UnavailableError):
        value_of("ref+vault://secret/app/db#/password")
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("HOME", "/nowhere")
    with pytest.raises(ConfigError, match="VAULT_TOKEN"):
        value_of("ref+vault://secret/app/db#/password")


# AWS: moto's server


@pytest.fixture(scope="module")
def moto_url():
    with stores.moto() as url:
        yield url


@pytest.fixture
def aws(moto_url, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": moto_url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    return boto3.client("secretsmanager", region_name="eu-central-1", endpoint_url=moto_url)


def test_aws_reads_the_current_and_the_previous_stage_by_name_and_arn(aws):
    arn = aws.create_secret(Name="app/api", SecretString='{"token": "token-one"}')["ARN"]
    aws.put_secret_value(SecretId="app/api", SecretString='{"token": "token-two"}')
    assert value_of("ref+awssecrets://app/api#/token") == "token-two"
    assert value_of("ref+awssecrets://app/api?stage=AWSPREVIOUS#/token") == "token-one"
    assert value_of(f"ref+awssecrets://{arn}#/token") == "token-two"


def test_aws_reads_binary_secrets_that_are_text(aws):
    aws.create_secret(Name="binary", SecretBinary=b"binary-token")
    assert value_of("ref+awssecrets://binary") == "binary-token"


def test_what_aws_does_not_have(aws, monkeypatch):
    with pytest.raises(ConfigError, match="ResourceNotFoundException"):
        value_of("ref+awssecrets://none")
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ConfigError, match="set AWS_REGION"):
        value_of("ref+awssecrets://none")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="no AWS credentials"):
        value_of("ref+awssecrets://none")


def test_aws_that_is_down(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{stores.free_port()}")
    with pytest.raises(UnavailableError):
        value_of("ref+awssecrets://app/api")


def test_aws_errors_are_told_apart():
    from resilient_core.secret_stores import _aws_error

    assert isinstance(_aws_error("x", "AccessDeniedException"), CredentialsRefusedError)
    assert isinstance(_aws_error("x", "InternalServiceError"), UnavailableError)


# Google: a fake server, but the real Application Default Credentials. They read GCE_METADATA_HOST when they are
# imported, hence a process of their own.

ASK = """
import sys
from resilient_core.errors import ResilientError
from resilient_core.secrets import Resolver
for text in sys.argv[1:]:
    try:
        print(Resolver(sleep=lambda _: None).secret(text).get())
    except ResilientError as error:
        print(error.code, error)
"""


def ask_google(fake, *texts, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", ASK, *texts],
        env=clean | {"HOME": "/nowhere"} | fake.environment() | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_google_reads_versions_with_application_default_credentials():
    with stores.google() as fake:
        fake.secrets["projects/p1/secrets/token/versions/latest"] = b"token-two"
        fake.secrets["projects/p1/secrets/token/versions/1"] = b'{"key": "token-one"}'
        found = ask_google(
            fake,
            "ref+gcpsecrets://p1/token",
            "ref+gcpsecrets://p1/token?version=1#/key",
            "ref+gcpsecrets://p1/none",
            "ref+gcpsecrets://p1",
        )
        assert found[:2] == ["token-two", "token-one"]
        assert found[2] == "78 ref+gcpsecrets://p1/none: there is no such secret or version (404)"
        assert found[3] == "78 ref+gcpsecrets://p1: write ref+gcpsecrets://project/name"


def test_google_that_refuses_or_fails():
    with stores.google() as fake:
        fake.status = 403
        assert ask_google(fake, "ref+gcpsecrets://p1/x")[0].startswith("77 ")
        fake.status = 500
        assert ask_google(fake, "ref+gcpsecrets://p1/x")[0].startswith("69 ")


def test_google_without_credentials_or_server_ends_in_bounded_time():
    with stores.google() as fake:
        nobody = f"127.0.0.1:{stores.free_port()}"
        started = time.monotonic()
        nothing = ask_google(fake, "ref+gcpsecrets://p1/x", GCE_METADATA_HOST=nobody, GCE_METADATA_IP=nobody)
        assert nothing[0].startswith("78 ref+gcpsecrets://p1/x: there are no Google credentials")
        endpoint = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"http://{nobody}/"}
        assert ask_google(fake, "ref+gcpsecrets://p1/x", **endpoint)[0].startswith("69 ")
        assert time.monotonic() - started < 60
