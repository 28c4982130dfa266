"""A proxy between a load and PostgreSQL, on Unix sockets: it cuts, refuses, and meddles with COMMIT."""

from __future__ import annotations

import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
SOCKET = ".s.PGSQL.5432"


@dataclass(eq=False)
class Link:
    """One connection of a client to the server, by way of the proxy."""

    client: socket.socket
    server: socket.socket
    in_epoch: bool = False
    stranded: bool = False

    @property
    def pid(self) -> int:
        """The client's process."""
        credentials = self.client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def cut(self) -> None:
        """Cut both ends."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def strand(self) -> None:
        """Cut the client off; the server never hears of it."""
        self.stranded = True
        self.cut_client()

    def cut_client(self) -> None:
        """Cut the client off; the server still reads what was sent."""
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False)
class Proxy:
    """Forwards until it is told otherwise.

    `on_commit` is called when an epoch's COMMIT (the n-th, from 1) arrives, with a function that forwards it.
    `cut_after` is how many bytes, to and from the server, still pass before it refuses and cuts; None for no end.
    """

    upstream: str
    folder: Path
    on_commit: Callable[[Link, int, Callable[[], None]], None] | None = None
    refusing: bool = False
    cut_after: int | None = None
    links: list[Link] = field(default_factory=list)
    connections: int = 0
    _commits: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def url(self, of: str) -> str:
        """The URL of a database behind this proxy."""
        return of.split("?", maxsplit=1)[0] + f"?host={self.folder}"

    def cut_all(self) -> None:
        """Cut every connection that is open now."""
        for link in [*self.links]:
            link.cut()

    def strand_all(self) -> None:
        """Cut every client off that is connected now; the server never hears of it."""
        for link in [*self.links]:
            link.strand()

    def go_away(self) -> None:
        """Refuse connections, and cut those that are open."""
        self.refusing = True
        self.cut_all()

    def serve(self, listener: socket.socket) -> None:
        """Accept until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refusing:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.upstream)
            link = Link(client, server)
            self.links.append(link)
            threading.Thread(target=self._to_server, args=(link,), daemon=True).start()
            threading.Thread(target=self._to_client, args=(link,), daemon=True).start()

    def _to_server(self, link: Link) -> None:
        with suppress(OSError):
            while data := link.client.recv(1 << 16):
                link.in_epoch |= b'"state" AS' in data
                self._forward(link, data)
        with suppress(OSError):
            if not link.stranded:
                link.server.shutdown(socket.SHUT_WR)

    def _forward(self, link: Link, data: bytes) -> None:
        if data == COMMIT and link.in_epoch:
            link.in_epoch = False
            self._commits += 1
            if self.on_commit is not None:
                self.on_commit(link, self._commits, lambda: link.server.sendall(data))
                return
        self._send(link.server, data)

    def _to_client(self, link: Link) -> None:
        with suppress(OSError):
            while data := link.server.recv(1 << 16):
                self._send(link.client, data)
        with suppress(OSError):
            link.client.shutdown(socket.SHUT_RDWR)

    def _send(self, sink: socket.socket, data: bytes) -> None:
        with self._counting:
            left = len(data) if self.cut_after is None else self.cut_after
            if self.cut_after is not None:
                self.cut_after = left - len(data) if left >= len(data) else None
        sink.sendall(data[:left])
        if left < len(data):
            self.go_away()


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """A proxy to the server of `url`, in a short folder: a socket's path has 107 bytes at most."""
    host = parse_qs(urlsplit(url).query)["host"][0]
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{folder}/{SOCKET}")
        listener.listen(64)
        running = Proxy(str(Path(host) / SOCKET), Path(folder))
        thread = threading.Thread(target=running.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield running
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()
            running.cut_all()
            for link in running.links:
                link.client.close()
                link.server.close()
