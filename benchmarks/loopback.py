"""The loopback server of the benchmarks: a process of its own, whose answers a function makes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

Answer = Callable[[str, dict[str, int]], "bytes | Iterator[bytes]"]
"""The body for a path and its numeric parameters: whole, or in blocks that are sent as they come."""


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """The URL of a forked server, which ends with the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            """Send what `answer` makes."""
            parts = urlsplit(self.path)
            body = answer(parts.path, {name: int(values[0]) for name, values in parse_qs(parts.query).items()})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            if isinstance(body, bytes):
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for block in filter(None, body):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *args: object) -> None:
            """Silent."""

    server = _Server(("127.0.0.1", 0), Handler)
    child = os.fork()
    if child == 0:
        server.serve_forever()
    server.server_close()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class _Server(ThreadingHTTPServer):
    """A server with room for many clients, some of which are killed."""

    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent."""
