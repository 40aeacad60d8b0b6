"""The other end of a connection, for tests of ``kombu_hake/aws/http.py``: scripted, or answering with what it was sent.

A handler gets one accepted connection and the peer; the connection is closed when it returns.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

from kombu_hake.aws.http import HttpPool, _Connection

HOST = "127.0.0.1"
HEAD = b"POST / HTTP/1.1\r\nHost: localhost"
_LENGTH = re.compile(rb"Content-Length: (\d+)\r\n")

Handler = Callable[[socket.socket, "Peer"], None]


def answer(body: bytes, *, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), extra, body)


class Peer:
    """What a server saw."""

    def __init__(self, listener: socket.socket) -> None:
        self.port = int(listener.getsockname()[1])
        #: The body of each complete request.
        self.requests: list[bytes] = []
        self.accepted = 0
        #: Set when the client closed a connection on which a handler waits in :meth:`read` or :meth:`until_closed`.
        self.was_closed = threading.Event()
        self.is_over = threading.Event()
        self.faults: list[BaseException] = []

    def pool(self, tls: ssl.SSLContext | None = None, host: str = HOST) -> HttpPool:
        return HttpPool(host, self.port, tls=tls, connect_timeout_s=10.0)

    def read(self, connection: socket.socket) -> bytes | None:
        """The body of the next request, or None if the client closed instead."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not self._more(connection, piece := self._recv(connection)):
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(_LENGTH.search(head + b"\r\n")[1])  # type: ignore[index]
        while len(body) < size:
            if not self._more(connection, piece := self._recv(connection)):
                return None
            body += piece
        self.requests.append(body)
        return body

    def until_closed(self, connection: socket.socket) -> None:
        while self._more(connection, self._recv(connection)):
            pass

    def _recv(self, connection: socket.socket) -> bytes:
        with suppress(ConnectionError, ssl.SSLError):
            return connection.recv(65_536)
        return b""

    def _more(self, connection: socket.socket, piece: bytes) -> bool:
        if not piece:
            self.was_closed.set()
        return bool(piece)


def echo(connection: socket.socket, peer: Peer) -> None:
    """Answer each request with its own body."""
    while (body := peer.read(connection)) is not None:
        with suppress(ConnectionError, ssl.SSLError):
            connection.sendall(answer(body))


def says(*pieces: bytes, stay: bool = True) -> Handler:
    """Answer one request with *pieces*, then wait for the client to close, or close at once."""

    def handle(connection: socket.socket, peer: Peer) -> None:
        if peer.read(connection) is None:
            return
        for piece in pieces:
            connection.sendall(piece)
        if stay:
            peer.until_closed(connection)

    return handle


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


@contextmanager
def serving(*handlers: Handler, tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    """A server on loopback: each connection gets the next handler, and the last one all that follow."""
    threads: list[threading.Thread] = []
    open_ones: set[socket.socket] = set()
    with socket.create_server((HOST, 0), backlog=128) as listener:
        peer = Peer(listener)

        def handle(connection: socket.socket, handler: Handler) -> None:
            try:
                with connection:
                    if tls is None:
                        handler(connection, peer)
                        return
                    with suppress(OSError), tls.wrap_socket(connection, server_side=True) as secure:
                        open_ones.add(secure)
                        handler(secure, peer)
            except BaseException as exc:
                if not peer.is_over.is_set():
                    peer.faults.append(exc)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                handler = handlers[min(peer.accepted, len(handlers) - 1)]
                peer.accepted += 1
                open_ones.add(connection)
                threads.append(threading.Thread(target=handle, args=(connection, handler), daemon=True))
                threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield peer
        finally:
            peer.is_over.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(10)
            for connection in list(open_ones):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(10)
    assert peer.faults == []


class FakeSocket:
    """A socket in memory: each request brings an answer, which arrives in pieces."""

    def __init__(self, script: Callable[[bytes], list[bytes]]) -> None:
        self._script = script
        self._pieces: list[bytes] = []
        self.sent: list[bytes] = []
        self.is_closed = False
        self._pair = socket.socketpair()
        #: Called before each call of the connection; may raise.
        self.before: Callable[[str], None] = lambda name: None

    def settimeout(self, timeout_s: float | None) -> None:
        self.before("settimeout")

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def sendall(self, data: bytes) -> None:
        self.before("sendall")
        assert not self.is_closed
        self.sent.append(bytes(data))
        self._pieces += self._script(bytes(data))

    def recv(self, most: int) -> bytes:
        self.before("recv")
        assert not self.is_closed
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > most:
            self._pieces.insert(0, piece[most:])
        return piece[:most]

    def recv_into(self, buffer: memoryview) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def fileno(self) -> int:
        self.before("fileno")
        return self._pair[0].fileno()

    def close(self) -> None:
        self.is_closed = True
        for sock in self._pair:
            sock.close()


class _Handle:
    """What a connection has of a :class:`FakeSocket`; like a socket, it is closed when nothing refers to it."""

    def __init__(self, sock: FakeSocket) -> None:
        self.sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def __del__(self) -> None:
        self.sock.close()


#: The pools of a test, for their sockets to be closed when it ends.
made: list[FakePool] = []


class FakePool(HttpPool):
    """A pool whose connections are :class:`FakeSocket`."""

    def __init__(self, script: Callable[[bytes], list[bytes]]) -> None:
        super().__init__("localhost", 1, tls=None, connect_timeout_s=1.0)
        self._script = script
        self.sockets: list[FakeSocket] = []
        self.before: Callable[[str], None] = lambda name: None
        made.append(self)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def idle(self) -> list[FakeSocket]:
        return [connection._sock.sock for connection in self._idle]  # type: ignore[attr-defined]

    def _connect(self) -> _Connection:
        with mock.patch("urllib3.util.connection.create_connection", self._make):
            return super()._connect()

    def _make(self, *_: object, **__: object) -> _Handle:
        sock = FakeSocket(self._script)
        sock.before = lambda name: self.before(name)  # noqa: PLW0108 - it may be replaced later
        self.sockets.append(sock)
        return _Handle(sock)


def body_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]
