"""A loopback HTTP server that fails as it is told to; its own log is the truth about what was sent."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Seen:
    """One request as the server saw it."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float
    connection: int


@dataclass
class Reply:
    """What to send. Faults: `cut` leaves out the second half, `reset` sends RST instead, `drip` is seconds per byte.

    `chunked` sends chunks instead of a Content-Length; with `cut` the last one never comes.
    """

    body: bytes | Any = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    reset: bool = False
    chunked: bool = False
    drip: float = 0.0
    slow: float = 0.0


Script = Callable[[Seen], Reply]


class FaultyServer:
    def __init__(self, script: Script) -> None:
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, script))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]


@contextmanager
def faulty(script: Script | list[Reply]):
    """Serve `script`: a function, or the replies in order (the last one again and again)."""
    server = FaultyServer(script if callable(script) else in_order(script))
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
        thread.join()


def in_order(replies: list[Reply]) -> Script:
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def _handler(server: FaultyServer, script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an ACK

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            params = dict(parse_qsl(parts.query, keep_blank_values=True))
            seen = Seen(self.command, parts.path, params, headers, body, time.monotonic(), self.client_address[1])
            with server.lock:
                server.seen.append(seen)
                reply = script(seen)
            self.reply(reply)

        do_POST = do_GET
        do_HEAD = do_GET

        def reply(self, reply: Reply) -> None:
            if reply.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            time.sleep(reply.slow)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            kind = {} if "Content-Type" in reply.headers else {"Content-Type": "application/json"}
            framing = {"Transfer-Encoding": "chunked"} if reply.chunked else {"Content-Length": str(len(body))}
            for name, value in {**kind, **framing, **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.write(reply, body)

        def write(self, reply: Reply, body: bytes) -> None:
            sent = body[: len(body) // 2] if reply.cut else body
            if reply.chunked:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) + (b"" if reply.cut else b"0\r\n\r\n"))
            elif reply.drip:
                for byte in sent:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(reply.drip)
            elif self.command != "HEAD":
                self.wfile.write(sent)
            if reply.cut:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
