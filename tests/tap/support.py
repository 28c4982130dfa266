"""A loopback API whose own log is the truth, and a way to run the tap against it in this process."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from resilient_core.errors import ResilientError
from tap_resilient.tap import ResilientTap

QUICK_RETRIES = {"base": "1ms", "max": "2ms", "max_attempts": 3}


@dataclass
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: Any = None


@dataclass
class Answer:
    """What the server sends. `cut` announces more bytes than it sends."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False

    def payload(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Handle = Callable[[Asked], Answer]


class Api:
    """The server; `log` holds every request."""

    def __init__(self, handle: Handle) -> None:
        self.log: list[Asked] = []
        self.handle = handle
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                params = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
                asked = Asked(self.command, parts.path, params, dict(self.headers.items()), body)
                api.log.append(asked)
                self._send(api.handle(asked))

            do_POST = do_DELETE = do_GET

            def _send(self, answer: Answer) -> None:
                payload = b"" if answer.status == 204 else answer.payload()
                self.send_response(answer.status)
                headers = {"Content-Type": "application/json", **answer.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload) + (50 if answer.cut else 0)))
                self.end_headers()
                self.wfile.write(payload)
                self.wfile.flush()
                if answer.cut:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def params(self, name: str) -> list[str | None]:
        """The values of one parameter, request by request."""
        return [asked.params.get(name) for asked in self.log]


@contextmanager
def serving(handle: Handle):
    api = Api(handle)
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.server.shutdown()
        api.server.server_close()
        thread.join()


def config_for(url: str, *streams: dict[str, Any], concurrency: int | None = None, **more: Any) -> dict[str, Any]:
    limit = {} if concurrency is None else {"rate_limit": {"concurrency": concurrency}}
    return {"client": {"base_url": url, "retry": QUICK_RETRIES, **limit}, "streams": list(streams), **more}


@dataclass
class Run:
    """What the tap wrote, and how it ended."""

    code: int
    error: ResilientError | None
    messages: list[dict[str, Any]]

    def of(self, kind: str, stream: str | None = None) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["type"] == kind and (stream is None or m["stream"] == stream)]

    def records(self, stream: str) -> list[dict[str, Any]]:
        return [message["record"] for message in self.of("RECORD", stream)]

    def schema(self, stream: str) -> dict[str, Any]:
        return self.of("SCHEMA", stream)[-1]["schema"]

    @property
    def state(self) -> dict[str, Any]:
        states = self.of("STATE")
        return states[-1]["value"] if states else {}

    @property
    def verdicts(self) -> dict[str, str]:
        return {name: scan["verdict"] for name, scan in self.state["resilient"].get("scans", {}).items()}

    def bookmark(self, stream: str) -> Any:
        return self.state.get("bookmarks", {}).get(stream, {}).get("replication_key_value")


def raw_tap(config: dict[str, Any]) -> bytes:
    """What the tap writes, byte for byte."""
    sink = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(sink, encoding="utf-8", write_through=True)):
        ResilientTap(config=config).sync_all()
        return sink.getvalue()


def run_tap(config: dict[str, Any], *, state: Any = None, catalog: Any = None) -> Run:
    """Run the tap to its end in this process."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    error: ResilientError | None = None
    with redirect_stdout(out):
        try:
            ResilientTap(config=config, state=state, catalog=catalog).sync_all()
        except ResilientError as raised:
            error = raised
    out.seek(0)
    return Run(error.code if error else 0, error, [json.loads(line) for line in out])
