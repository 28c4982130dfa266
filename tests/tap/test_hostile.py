"""Servers that want to hurt: each ends with one clear error, and in bounded memory."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import zlib
from contextlib import contextmanager, suppress

import pytest

CHUNK = b"f4240\r\n" + b" " * 1_000_000 + b"\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

ASK = """
import re, sys
from resilient_core.errors import ResilientError
from resilient_core.secrets import Resolver
from tap_resilient.client import Client, ClientConfig, Request
retry = {"base": "1ms", "max_attempts": 2}
client = Client(ClientConfig.parse({"base_url": sys.argv[1], "retry": retry})[0], Resolver())
try:
    client.send(lambda: Request("GET", "/"))
except ResilientError as error:
    print(error.code, error)
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def endless_body(send):
    send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        send(CHUNK)


def endless_headers(send):
    send(HEAD)
    while True:
        send(b"X-More: " + b"a" * 1000 + b"\r\n")


def endless_header_line(send):
    send(HEAD + b"X-More: ")
    while True:
        send(b"a" * 100_000)


def endless_bomb(send):
    packer = zlib.compressobj(9, wbits=31)
    send(HEAD + b"Content-Encoding: gzip\r\n\r\n")
    while True:
        send(packer.compress(b"\0" * 1_000_000))


@contextmanager
def hostile(answer):
    """A server that answers every connection by `answer(send)`, until the client is gone."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65536)
                    answer(connection.sendall)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(endless_body, "larger than max_response_bytes", id="endless body"),
        pytest.param(endless_headers, "no valid HTTP answer", id="endless headers"),
        pytest.param(endless_header_line, "no valid HTTP answer", id="endless header line"),
        pytest.param(endless_bomb, "decompression bomb", id="endless bomb"),
    ],
)
def test_a_hostile_server_ends_in_one_error_and_under_300_mb(answer, message):
    with hostile(answer) as url:
        done = subprocess.run([sys.executable, "-c", ASK, url], capture_output=True, text=True, timeout=60, check=True)
    error, megabytes = done.stdout.splitlines()
    assert error.startswith("69 GET http://127.0.0.1")
    assert message in error
    assert int(megabytes) < 300
    assert "Traceback" not in done.stderr
