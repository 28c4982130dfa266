"""The stores that references name. Each fetches one document; none keeps it."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient_core.errors import ConfigError, CredentialsRefusedError, ResilientError, UnavailableError

CALL_SECONDS = 10
"""Longest silence of a store in one of its calls. How long a fetch may take in all, the resolver decides."""


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


def _vault(name: str, options: Mapping[str, str]) -> Document:
    """HashiCorp Vault or OpenBao: KV version 1 and 2, and whatever else can be read, such as database credentials.

    VAULT_ADDR, VAULT_NAMESPACE, VAULT_CACERT; VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID (AppRole), or the token
    that `vault login` left in ~/.vault-token.
    """
    place = f"ref+vault://{name}"
    with _needs("vault"):
        import hvac
        import requests
    if not os.environ.get("VAULT_ADDR"):
        raise ConfigError(f"{place}: set VAULT_ADDR to the address of the Vault server")
    client = hvac.Client(timeout=CALL_SECONDS, namespace=os.environ.get("VAULT_NAMESPACE"))
    try:
        _log_in_to_vault(client, place)
        return _read_vault(client, name, options.get("version"))
    except (hvac.exceptions.Unauthorized, hvac.exceptions.Forbidden):
        raise CredentialsRefusedError(f"{place}: Vault refuses our token, or there is no such mount") from None
    except (hvac.exceptions.InvalidPath, hvac.exceptions.InvalidRequest):
        raise ConfigError(f"{place}: there is no such secret, or no such version of it") from None
    except (hvac.exceptions.VaultError, requests.RequestException):
        raise UnavailableError(f"{place}: Vault cannot be reached, is sealed or fails") from None


def _log_in_to_vault(client: Any, place: str) -> None:
    role = os.environ.get("VAULT_ROLE_ID")
    if role and not os.environ.get("VAULT_TOKEN"):
        _log_in_by_role(client, role, place)
    if not client.token:
        raise ConfigError(f"{place}: set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID")


def _log_in_by_role(client: Any, role: str, place: str) -> None:
    import hvac

    try:
        client.auth.approle.login(role, os.environ.get("VAULT_SECRET_ID"))
    except hvac.exceptions.InvalidRequest:
        raise CredentialsRefusedError(f"{place}: Vault refuses VAULT_ROLE_ID and VAULT_SECRET_ID") from None


def _read_vault(client: Any, name: str, version: str | None) -> Document:
    mount = client.adapter.get(f"/v1/sys/internal/ui/mounts/{name}")["data"]  # as the vault command finds out
    if (mount.get("options") or {}).get("version") != "2":
        answer = client.adapter.get(f"/v1/{name}")
        return Document(answer["data"], answer["lease_duration"] or None)
    path = f"/v1/{mount['path']}data/{name.removeprefix(mount['path'])}"
    return Document(client.adapter.get(path, params={"version": version} if version else None)["data"]["data"])


_AWS_REFUSALS = frozenset(
    {
        "AccessDeniedException",
        "DecryptionFailure",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "UnrecognizedClientException",
    }
)
_AWS_FAULTS = frozenset({"InvalidParameterException", "InvalidRequestException", "ResourceNotFoundException"})


def _aws(name: str, options: Mapping[str, str]) -> Document:
    """AWS Secrets Manager, by name or ARN.

    Credentials, region and AWS_ENDPOINT_URL_SECRETS_MANAGER are found as boto3 finds them; AWS_REGION counts, too.
    """
    place = f"ref+awssecrets://{name}"
    with _needs("aws"):
        import boto3
        import botocore.config
        import botocore.exceptions as failures
    limits = botocore.config.Config(
        connect_timeout=5,
        read_timeout=CALL_SECONDS,
        retries={"total_max_attempts": 1},  # the resolver tries again
    )
    region = name.split(":")[3] if name.startswith("arn:") else os.environ.get("AWS_REGION")
    try:
        client = boto3.session.Session().client("secretsmanager", region_name=region, config=limits)
        answer = client.get_secret_value(SecretId=name, VersionStage=options.get("stage", "AWSCURRENT"))
    except failures.ClientError as error:
        raise _aws_error(place, error.response.get("Error", {}).get("Code", "")) from None
    except (failures.NoCredentialsError, failures.PartialCredentialsError, failures.ProfileNotFound):
        raise ConfigError(f"{place}: there are no AWS credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID") from None
    except (failures.NoRegionError, failures.InvalidRegionError, failures.ParamValidationError):
        raise ConfigError(f"{place}: no valid secret name, or no AWS region; set AWS_REGION") from None
    except failures.BotoCoreError:
        raise UnavailableError(f"{place}: AWS Secrets Manager cannot be reached") from None
    return Document(answer["SecretString"] if "SecretString" in answer else _text(answer["SecretBinary"], place))


def _aws_error(place: str, code: str) -> ResilientError:
    if code in _AWS_REFUSALS:
        return CredentialsRefusedError(f"{place}: AWS refuses our credentials ({code})")
    if code in _AWS_FAULTS:
        return ConfigError(f"{place}: there is no such secret or stage in this region ({code})")
    return UnavailableError(f"{place}: AWS Secrets Manager fails ({code})")


def _google(name: str, options: Mapping[str, str]) -> Document:
    """Google Secret Manager, with Application Default Credentials.

    CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER replaces the endpoint, as it does for gcloud.
    """
    place = f"ref+gcpsecrets://{name}"
    with _needs("gcp"):
        import google.auth
        import requests
        from google.auth.transport.requests import AuthorizedSession, Request
    project, _, secret = name.partition("/")
    if not secret:
        raise ConfigError(f"{place}: write ref+gcpsecrets://project/name")
    endpoint = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER", "https://secretmanager.googleapis.com/")
    url = f"{endpoint.rstrip('/')}/v1/projects/{project}/secrets/{secret}/versions/{options.get('version', 'latest')}"
    try:
        with requests.Session() as for_tokens:
            request = Request(for_tokens)
            credentials, _ = google.auth.default(["https://www.googleapis.com/auth/cloud-platform"], request=request)
            with AuthorizedSession(credentials, auth_request=request) as session:  # type: ignore[no-untyped-call]
                answer = session.get(f"{url}:access", timeout=CALL_SECONDS)
    except google.auth.exceptions.DefaultCredentialsError:
        message = (
            "there are no Google credentials; set GOOGLE_APPLICATION_CREDENTIALS, or run where a metadata server is"
        )
        raise ConfigError(f"{place}: {message}") from None
    except google.auth.exceptions.RefreshError as error:
        if isinstance(error.__cause__, google.auth.exceptions.TransportError):
            raise UnavailableError(f"{place}: the token server cannot be reached") from None
        raise CredentialsRefusedError(f"{place}: Google refuses our credentials") from None
    except (google.auth.exceptions.GoogleAuthError, requests.RequestException):
        raise UnavailableError(f"{place}: Google Secret Manager cannot be reached") from None
    return _google_document(place, answer)


def _google_document(place: str, answer: Any) -> Document:
    if answer.status_code in {401, 403}:
        raise CredentialsRefusedError(f"{place}: Google refuses our credentials ({answer.status_code})")
    if answer.status_code in {400, 404}:
        raise ConfigError(f"{place}: there is no such secret or version ({answer.status_code})")
    try:
        return Document(_text(base64.b64decode(answer.json()["payload"]["data"]), place))
    except (ValueError, KeyError, TypeError):
        raise UnavailableError(f"{place}: Google Secret Manager fails ({answer.status_code})") from None


def _text(content: bytes, place: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{place}: is not UTF-8 text") from None


@contextlib.contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Around lazy imports: a missing package gives the line that installs it."""
    try:
        yield
    except ModuleNotFoundError:
        raise ConfigError(f"ref+… of this store needs an extra: pip install 'singer-resilient[{extra}]'") from None


STORES: dict[str, Store] = {
    "env": Store("NAME", frozenset(), _environment),
    "file": Store("/run/secrets/name#/key", frozenset(), _file),
    "vault": Store("mount/path?version=3#/key", frozenset({"version"}), _vault),
    "awssecrets": Store("name?stage=AWSCURRENT#/key", frozenset({"stage"}), _aws),
    "gcpsecrets": Store("project/name?version=latest#/key", frozenset({"version"}), _google),
}
