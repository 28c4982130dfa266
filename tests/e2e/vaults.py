"""One JSON document in each of the five secret stores: where it is, how it is replaced, how a process gets there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.core import stores

Document = Mapping[str, str]

AWS_ENV = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "eu-central-1",
           "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip


@dataclass(frozen=True)
class Vault:
    """A store with one document. `replace` is None where a running process cannot see another one."""

    reference: str
    env: Mapping[str, str] = field(default_factory=dict)
    replace: Callable[[Document], object] | None = None

    def ref(self, key: str) -> str:
        """The reference to one key of the document."""
        return f"{self.reference}#/{key}"


@contextmanager
def env_vault(document: Document, folder: Path) -> Iterator[Vault]:
    yield Vault("ref+env://EVERYTHING", {"EVERYTHING": json.dumps(document)})


@contextmanager
def file_vault(document: Document, folder: Path) -> Iterator[Vault]:
    path = folder / "vault" / "secrets.json"
    path.parent.mkdir()

    def replace(document: Document) -> None:
        whole = path.with_suffix(".new")
        whole.write_text(json.dumps(document))
        whole.replace(path)

    replace(document)
    yield Vault(f"ref+file://{path}", replace=replace)


@contextmanager
def bao_vault(document: Document, folder: Path) -> Iterator[Vault]:
    with stores.bao() as bao:
        bao.write("app", dict(document))
        env = {"VAULT_ADDR": bao.url, "VAULT_TOKEN": "root"}
        yield Vault("ref+vault://secret/app", env, lambda document: bao.write("app", dict(document)))


@contextmanager
def aws_vault(document: Document, folder: Path) -> Iterator[Vault]:
    import boto3

    with stores.moto() as url:
        client = boto3.client("secretsmanager", region_name="eu-central-1", endpoint_url=url,
                              aws_access_key_id="testing", aws_secret_access_key="testing")  # fmt: skip
        client.create_secret(Name="app", SecretString=json.dumps(document))
        env = {**AWS_ENV, "AWS_ENDPOINT_URL_SECRETS_MANAGER": url}
        yield Vault(
            "ref+awssecrets://app",
            env,
            lambda document: client.put_secret_value(SecretId="app", SecretString=json.dumps(document)),
        )
        client.close()


@contextmanager
def google_vault(document: Document, folder: Path) -> Iterator[Vault]:
    with stores.google() as fake:

        def replace(document: Document) -> None:
            fake.secrets["projects/p1/secrets/app/versions/latest"] = json.dumps(document).encode()

        replace(document)
        yield Vault("ref+gcpsecrets://p1/app", fake.environment(), replace)


VAULTS = {"env": env_vault, "file": file_vault, "vault": bao_vault, "awssecrets": aws_vault, "gcpsecrets": google_vault}
