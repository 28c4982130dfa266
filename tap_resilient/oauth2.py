"""Access tokens by OAuth 2.0 (RFC 6749): client credentials, and refresh tokens, also ones that work only once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from resilient_core.errors import ConfigError, CredentialsRefusedError, Fault, UnavailableError
from resilient_core.redaction import redactor
from resilient_core.secrets import Resolver, Secret, is_reference
from resilient_core.settings import Setting
from tap_resilient.exchange import PostForm
from tap_resilient.hints import read_hints
from tap_resilient.retry import AttemptFailed, Verdict

RENEW_BEFORE_SECONDS = 60.0
"""A token is renewed this long before it expires, or at a tenth of its life if that is shorter."""

SETTINGS = (
    Setting("grant", "options", "How tokens are got", "client_credentials", ("client_credentials", "refresh_token")),
    Setting("token_url", "string", "Token endpoint", required=True),
    Setting("client_id", "string", "Client identifier", required=True),
    Setting("client_secret", "password", "Client secret", sensitive=True),
    Setting("client_auth", "options", "Where client_id and client_secret are sent", "body", ("body", "basic")),
    Setting("refresh_token", "password", "Refresh token to start with", sensitive=True),
    Setting("scope", "string", "Scope to ask for"),
    Setting("token_store", "string", "File that keeps refresh tokens which the server replaces"),
)


def oauth2_faults(block: Mapping[str, Any], where: str) -> list[Fault]:
    """What the settings of one grant demand of each other."""
    faults = []
    if block["grant"] == "refresh_token" and not block["refresh_token"]:
        faults.append(Fault(f"{where}.refresh_token", "is required for grant refresh_token"))
    if block["grant"] == "client_credentials" and not block["client_secret"]:
        faults.append(Fault(f"{where}.client_secret", "is required for grant client_credentials"))
    return faults


@dataclass(frozen=True)
class Tokens:
    """What the server issued last. `renew_at` is in epoch seconds; `seed` marks the configuration it was issued for."""

    access_token: str
    refresh_token: str | None
    renew_at: float
    seed: str

    def __repr__(self) -> str:
        return "Tokens(***)"


class OAuth2:
    """Keeps one access token valid. Raises AttemptFailed if the token endpoint gives none; several threads may ask."""

    def __init__(
        self,
        block: Mapping[str, Any],
        resolver: Resolver,
        post: PostForm,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._block = block
        self._post_form = post
        self._wall_clock = wall_clock
        self._secrets: dict[str, Secret] = {
            name: resolver.secret(block[name])
            for name in ("client_id", "client_secret", "refresh_token")
            if block[name] and (name != "client_id" or is_reference(block[name]))
        }
        self._store = TokenStore(Path(block["token_store"])) if block["token_store"] else None
        self._tokens: Tokens | None = None
        self._lock = threading.Lock()

    def token(self) -> str:
        """A token that is valid for a while yet."""
        with self._lock:
            if self._tokens is None or self._wall_clock() >= self._tokens.renew_at:
                self._tokens = self._obtain(refused=None)
            return self._tokens.access_token

    def renew(self, refused: str) -> bool:
        """Get another token than the `refused` one; False if the server issues the same again."""
        with self._lock:
            if self._tokens is None or self._tokens.access_token == refused:
                self._tokens = self._obtain(refused)
            return self._tokens.access_token != refused

    def _obtain(self, refused: str | None) -> Tokens:
        """New tokens; under the store's lock, because another process may just have used up the refresh token."""
        with self._store.locked() if self._store else contextlib.nullcontext():
            kept = self._kept()
            if kept and kept.access_token != refused and self._wall_clock() < kept.renew_at:
                return kept
            tokens = self._request(kept)
            if self._store:
                self._store.write(tokens)
            return tokens

    def _kept(self) -> Tokens | None:
        """The last tokens, unless the configured client or refresh token has been replaced since."""
        kept = self._store.read() if self._store else self._tokens
        if kept is None or kept.seed != self._seed():
            return None
        for value in filter(None, (kept.access_token, kept.refresh_token)):
            redactor.add(value)
        return kept

    def _seed(self) -> str:
        """Marks tokens as issued for the configured client and refresh token, without telling them."""
        values = self._values()
        mark = json.dumps([values["client_id"], values.get("refresh_token")])
        return hashlib.sha256(mark.encode()).hexdigest()[:16]

    def _values(self) -> dict[str, str]:
        return {"client_id": self._block["client_id"]} | {name: secret.get() for name, secret in self._secrets.items()}

    def _request(self, kept: Tokens | None) -> Tokens:
        try:
            return self._post(kept)
        except AttemptFailed as failure:
            if failure.verdict is not Verdict.FATAL or not self._refresh_secrets():
                raise
            return self._post(None)

    def _refresh_secrets(self) -> bool:
        changed = [secret.refresh() for secret in self._secrets.values()]
        return any(changed)

    def _post(self, kept: Tokens | None) -> Tokens:
        form, basic = self._form(kept)
        answer = self._post_form(self._block["token_url"], form, basic)
        if answer.status == 429 or answer.status >= 500:
            wait = read_hints(answer.headers, self._wall_clock()).retry_after
            raise AttemptFailed(Verdict.RETRY, UnavailableError(f"{self._where} answers {answer.status}"), wait)
        if answer.status != 200:
            raise AttemptFailed(Verdict.FATAL, self._refused(answer.status))
        return self._tokens_of(answer.body, kept)

    def _refused(self, status: int) -> CredentialsRefusedError:
        again = ", or authorise again for a new refresh_token" if self._block["grant"] == "refresh_token" else ""
        return CredentialsRefusedError(
            f"{self._where} refuses the credentials ({status}); check client.auth: client_id and client_secret{again}"
        )

    def _form(self, kept: Tokens | None) -> tuple[dict[str, str], tuple[str, str] | None]:
        grant, values = self._block["grant"], self._values()
        form = {"grant_type": grant, **({"scope": self._block["scope"]} if self._block["scope"] else {})}
        if grant == "refresh_token":
            form["refresh_token"] = (kept.refresh_token if kept else None) or values["refresh_token"]
        client_id, client_secret = values["client_id"], values.get("client_secret")
        if self._block["client_auth"] == "basic":
            return form, (client_id, client_secret or "")
        return {**form, "client_id": client_id, **({"client_secret": client_secret} if client_secret else {})}, None

    def _tokens_of(self, body: Mapping[str, Any] | None, kept: Tokens | None) -> Tokens:
        try:
            body = body or {}
            access_token, life = str(body["access_token"]), float(body.get("expires_in") or 3600)
        except (ValueError, KeyError, TypeError):
            raise AttemptFailed(Verdict.RETRY, UnavailableError(f"{self._where} gives no access_token")) from None
        refresh_token = body.get("refresh_token") or (kept.refresh_token if kept else None)
        for value in filter(None, (access_token, refresh_token)):
            redactor.add(value)
        self._warn_of_rotation(body, kept)
        renew_at = self._wall_clock() + life - min(RENEW_BEFORE_SECONDS, life / 10)
        return Tokens(access_token, refresh_token, renew_at, self._seed())

    def _warn_of_rotation(self, body: Mapping[str, Any], kept: Tokens | None) -> None:
        issued = body.get("refresh_token")
        if issued and not self._store and not kept and issued != self._secrets["refresh_token"].get():
            logging.getLogger("tap-resilient").warning(
                "the server replaces the refresh token, and without auth.token_store the next run may be refused"
            )

    @property
    def _where(self) -> str:
        return f"the token endpoint at {urlsplit(self._block['token_url']).hostname}"


class TokenStore:
    """Tokens in a file of mode 0600, replaced atomically, guarded by a lock file beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store against other processes. Raises ConfigError if the place is not writable."""
        try:
            lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise _unwritable(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def read(self) -> Tokens | None:
        """The stored tokens; None if there are none yet, or the file is not ours."""
        try:
            return Tokens(**json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            message = "is not a token store of ours, or cannot be read; move it away"
            raise ConfigError([Fault("client.auth.token_store", message)]) from None

    def write(self, tokens: Tokens) -> None:
        """Replace the stored tokens; a crash leaves the old or the new file whole. Raises ConfigError if it cannot."""
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump(asdict(tokens), file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise _unwritable(error) from None


def _unwritable(error: OSError) -> ConfigError:
    return ConfigError([Fault("client.auth.token_store", f"cannot be written: {error.strerror}")])
