"""Secret stores to test with: OpenBao, moto's AWS, and a fake of Google's two servers."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: list[str], url: str, **options: Any):
    """A server process that answers at `url`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        _wait_for(url, process)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, f"{process.args} ended"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{process.args} does not answer")


class Bao:
    """OpenBao in development mode: KV version 2 at secret/, version 1 at kv1/."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.call("sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
        self.call("sys/auth/approle", {"type": "approle"})

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/{path}", data, {"X-Vault-Token": "root"})
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or b"{}")

    def write(self, path: str, secret: dict[str, str]) -> None:
        self.call(f"secret/data/{path}", {"data": secret})


@contextmanager
def bao():
    port = free_port()
    command = [str(Path(sys.executable).parent / "bao"), "server", "-dev", "-dev-root-token-id=root"]
    command += [f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token"]
    with running(command, f"http://127.0.0.1:{port}/v1/sys/health"):
        yield Bao(f"http://127.0.0.1:{port}")


@contextmanager
def moto():
    port = free_port()
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, f"http://127.0.0.1:{port}/moto-api/data.json"):
        yield f"http://127.0.0.1:{port}"


class Google:
    """The metadata server and Secret Manager in one: tokens for everybody, secrets for those with a token."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}
        self.status = 200
        self.asked: list[str] = []
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                google.asked.append(self.path)
                self.answer(*google.answer(self.path, self.headers))

            def answer(self, status: int, body: Any) -> None:
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Metadata-Flavor", "Google")
                self.send_header("Content-Type", "application/json" if content[:1] == b"{" else "text/plain")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"

    def answer(self, path: str, headers: Any) -> tuple[int, Any]:
        if path == "/":
            return 200, b"computeMetadata/"
        if path.startswith("/computeMetadata") and "/token" in path:
            return 200, {"access_token": "google-token", "expires_in": 3600, "token_type": "Bearer"}
        if path.startswith("/computeMetadata"):
            return 200, {"email": "me@x", "scopes": ["a"], "aliases": []} if "recursive" in path else b"project-1"
        if headers.get("Authorization") != "Bearer google-token" or self.status != 200:
            return (self.status if self.status != 200 else 401), {}
        found = self.secrets.get(path.removeprefix("/v1/").removesuffix(":access"))
        return (404, {}) if found is None else (200, {"payload": {"data": base64.b64encode(found).decode()}})

    def environment(self) -> dict[str, str]:
        return {
            "GCE_METADATA_HOST": self.host,
            "GCE_METADATA_IP": self.host,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"http://{self.host}/",
        }


@contextmanager
def google():
    fake = Google()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        fake.server.server_close()
        thread.join()
