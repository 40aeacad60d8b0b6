"""A small HTTP/1.1 client for requests whose answers are short: one ``POST /`` after another over pooled sockets.

Why ours
    Of the CPU time of a call of :mod:`kombu_hake.aws.wire`, urllib3 and ``http.client`` took two thirds: they support
    any request, and parse the headers of an answer as an e-mail. ``benchmarks/`` has the measurement (scenario
    ``wire``).

Safety
    A connection is used by one request at a time. It returns to the pool after its answer was read to the last byte,
    and only then: any exception in between, also one that a signal handler raises, closes it, as the rest of an answer
    would be read as the answer to the next request.

    An answer of an unusual form (chunked, without a length, HTTP/1.0) is read by ``http.client``, and its connection is
    closed. Nothing is decompressed and no redirect is followed: AWS sends neither to a client that did not ask for it.
"""

from __future__ import annotations

import http.client
import io
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from kombu_hake.aws.timely import MOST_BYTES, MOST_S, TimelyReader

__all__ = ["Answer", "HttpPool", "OddAnswer"]

#: Idle connections beyond this number are closed. A poller is a thread that holds a connection for up to 20 seconds.
_MOST_IDLE = 64
_MOST_HEADER_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
#: How soon a network that drops everything is noticed: while sending a request, waiting for an answer, or idle. A long
#: poll is silent for twenty seconds by design, and dead idle connections would otherwise be noticed only on use.
_DEAD_AFTER_MS = 8_000
_PROBE_AFTER_S = 4
_PROBE_EVERY_S = 2

#: Answers with status 204 and 304 have no body, whatever their headers say.
_STATUS = re.compile(rb"HTTP/1\.1 (?!204|304)([2-5][0-9][0-9])(?: [^\r\n]*)?\r\n")
_END = b"\r\n\r\n"
#: The end of a header that was not written as the standard demands. ``http.client`` reads it.
_ODD_END = re.compile(rb"\n\r?\n")
#: A connection that AWS closed while it was idle: the request was not read.
_CLOSED = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class OddAnswer(OSError):
    """An answer that is not HTTP, or is incomplete. Like any failure of a connection, it may be retried."""


class _NoAnswer(OddAnswer):
    """The connection was closed before the first byte of the answer."""


class Answer(NamedTuple):
    """An answer of any status."""

    status: int
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes


class HttpPool:
    """Connections to one host. Safe to share between threads; after a fork the child makes a new one."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None, connect_timeout_s: float) -> None:
        """
        Args:
            host: Name or address; an IPv6 address without brackets.
            tls: How to check the certificate; None for plain HTTP.
            connect_timeout_s: Maximum time for each address that *host* has.
        """
        self._host = host
        self._port = port
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._idle: deque[_Connection] = deque()  # append and pop are atomic

    def post(self, head: bytes, body: bytes, timeout_s: float) -> Answer:
        """Send a request and return its answer.

        A connection that AWS closed while it was idle is replaced by a new one: none of its answer has arrived, so the
        request is sent again at once.

        Args:
            head: Request line and headers, except for the empty line at their end.
            timeout_s: How long AWS may be silent.
        Raises:
            OSError: no complete answer. AWS may have received the request.
        """
        request = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        connection = self._take()
        if connection is not None:
            try:
                return self._exchange(connection, request, timeout_s)
            except (_NoAnswer, *_CLOSED):
                if connection.has_answer:
                    raise
        return self._exchange(self._connect(), request, timeout_s)

    def _exchange(self, connection: _Connection, request: bytes, timeout_s: float) -> Answer:
        may_stay = False
        try:
            answer = connection.exchange(request, timeout_s)
            may_stay = connection.may_stay and len(self._idle) < _MOST_IDLE
        finally:
            if not may_stay:
                connection.close()
        if may_stay:
            self._idle.append(connection)
        return answer

    def _take(self) -> _Connection | None:
        """An idle connection, the latest used first: the others may be closed by AWS in peace.

        Each is checked, however short it was idle: what a server sends unasked would be read as the next answer.
        """
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_silent():
                return connection
            connection.close()

    def _connect(self) -> _Connection:
        from urllib3.util.connection import create_connection  # as botocore: each address, options before connecting

        sock = create_connection((self._host, self._port), self._connect_timeout_s, socket_options=_socket_options())
        try:
            if self._tls is not None:
                name = self._host.rstrip(".")  # certificates have no dot at the end
                sock = self._tls.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
                sock.do_handshake()  # here and not above, as an exception would leave no socket to close
            return _Connection(sock)
        except BaseException:
            sock.close()
            raise


class _Connection:
    """A connected socket, and how far the answer to its request has arrived."""

    __slots__ = ("__weakref__", "_is_native", "_poll", "_sock", "_timeout", "has_answer", "may_stay")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Of a pool that is no longer used, or dropped by an exception between two requests.
        # Not at exit: connections are in use while messages are given back.
        weakref.finalize(self, sock.close).atexit = False
        #: Seconds, and whether the system counts them.
        self._timeout = (-1.0, False)
        #: Whether a byte of the answer has arrived.
        self.has_answer = False
        #: Whether the answer is complete, and the connection open for another request.
        self.may_stay = False
        # Timeouts of the system take one call where Python's take two, each of which releases the interpreter lock.
        # TLS and the sockets of gevent and eventlet know only Python's. The system's have other types on 32 bits.
        self._is_native = sys.platform == "linux" and sys.maxsize > 2**32 and type(sock).__module__ == "socket"
        self._poll = _poll(sock) if self._is_native else None

    def close(self) -> None:
        self._sock.close()

    def is_silent(self) -> bool:
        """Return False if AWS has closed the connection, or has sent something that no request asked for."""
        if self._poll is None and not hasattr(select, "poll"):  # eventlet
            return not select.select([self._sock], [], [], 0)[0]
        # gevent's belongs to a thread, so it is not kept.
        return not (self._poll or _poll(self._sock)).poll(0)

    def exchange(self, request: bytes, timeout_s: float) -> Answer:
        """Send a request, and read its answer to the end. Raises as :meth:`HttpPool.post`."""
        self.has_answer = self.may_stay = False
        # Signals are the main thread's. Python makes an interrupted call again, and the system's timeout starts anew.
        timeout = (timeout_s, self._is_native and threading.current_thread() is not threading.main_thread())
        if timeout != self._timeout:
            self._set_timeout(*timeout)
        is_sent = False
        try:
            try:
                self._sock.sendall(request)
                is_sent = True
            except BrokenPipeError:
                pass  # AWS may have answered and closed before it read all
            data = self._sock.recv(_CHUNK_BYTES)
            if not data:
                raise _NoAnswer("The connection was closed without an answer.")
            self.has_answer = True
            answer = self._read(data, time.monotonic() + MOST_S)
            self.may_stay = self.may_stay and is_sent
            return answer
        except BlockingIOError:
            raise TimeoutError(f"Nothing arrived within {timeout_s:g} s.") from None

    def _read(self, data: bytes, ends_at: float) -> Answer:
        """Read the answer that begins with *data*."""
        while (end := data.find(_END)) < 0:
            if len(data) > _MOST_HEADER_BYTES:
                raise OddAnswer("The header of an answer has no end.")
            if _ODD_END.search(data):
                return self._read_odd(data, ends_at)
            data += self._more(_CHUNK_BYTES, ends_at)
        start = _STATUS.match(data)
        headers = _headers(data[start.end() : end]) if start else None
        size = _size(headers) if headers is not None else None
        if start is None or headers is None or size is None:
            return self._read_odd(data, ends_at)
        body = data[end + len(_END) :]
        if len(body) < size:
            parts, left = [body], size - len(body)
            while left > 0:
                parts.append(self._more(left + 1, ends_at))  # one byte more shows that something follows
                left -= len(parts[-1])
            body = b"".join(parts)
        # What follows the answer would be read as the next one.
        self.may_stay = len(body) == size and headers.get("connection", "keep-alive").lower() == "keep-alive"
        return Answer(int(start[1]), headers, body[:size])

    def _more(self, most: int, ends_at: float) -> bytes:
        if time.monotonic() > ends_at:
            raise OddAnswer(f"An answer took longer than {MOST_S:g} s to arrive.")
        data = self._sock.recv(min(most, MOST_BYTES))
        if not data:
            raise OddAnswer("The connection was closed in the middle of an answer.")
        return data

    def _read_odd(self, data: bytes, ends_at: float) -> Answer:
        """Read an answer of any form that ``http.client`` knows. Its connection is not used again."""
        reader = TimelyReader(_Rest(self._sock, data), ends_at)
        response = http.client.HTTPResponse(_FileOnly(io.BufferedReader(reader)), method="POST")  # type: ignore[arg-type]
        try:
            response.begin()
            if len(set(response.headers.get_all("Content-Length", ()))) > 1:
                raise OddAnswer("An answer has two lengths.")
            body = response.read(MOST_BYTES + 1)
            if response.length:  # that many bytes are missing
                raise OddAnswer("The connection was closed in the middle of an answer.")
        except (http.client.HTTPException, ValueError) as exc:  # ValueError: a chunk of negative size
            raise OddAnswer(f"The answer is not HTTP: {exc!r}") from exc
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def _set_timeout(self, timeout_s: float, is_native: bool) -> None:
        self._timeout = (-1.0, False)
        if is_native:
            if self._sock.gettimeout() is not None:
                self._sock.settimeout(None)
            span = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1_000_000))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
        else:
            self._sock.settimeout(timeout_s)
        self._timeout = (timeout_s, is_native)


class _Rest(io.RawIOBase):
    """What has been read from a socket, then the socket, as far as an answer may be long.

    ``http.client`` knows no limit: to it, a chunk of size -1 is all that follows.
    """

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        super().__init__()
        self._sock = sock
        self._data = data
        self._left = MOST_BYTES + _MOST_HEADER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._data:
            count = min(len(buffer), len(self._data))
            buffer[:count], self._data = self._data[:count], self._data[count:]
        else:
            count = self._sock.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise OddAnswer(f"An answer has more than {MOST_BYTES:,} bytes; AWS sends none that large.")
        return count


class _FileOnly:
    """What ``http.client`` takes for a socket."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def makefile(self, mode: str) -> io.BufferedReader:
        return self._file


def _poll(sock: socket.socket) -> Any:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return poll


def _headers(text: bytes) -> dict[str, str] | None:
    """The headers of an answer; None if their form is unusual, or one is repeated."""
    headers: dict[str, str] = {}
    for line in text.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name in headers or name != name.strip() or "\n" in line or "\r" in line:
            return None
        headers[name] = value.strip(" \t")
    return headers


def _size(headers: Mapping[str, str]) -> int | None:
    """The number of bytes of the body; None if ``http.client`` is to find out.

    Raises:
        OddAnswer: it is larger than any answer of AWS.
    """
    size = headers.get("content-length", "")
    if "transfer-encoding" in headers or not (size.isascii() and size.isdigit() and len(size) < 20):
        return None
    if int(size) > MOST_BYTES:
        raise OddAnswer(f"An answer has {int(size):,} bytes; AWS sends none that large.")
    return int(size)


def _socket_options() -> list[tuple[int, int, int | bytes]]:
    """The socket options of every connection, as far as the system supports them."""
    tcp = {
        "TCP_NODELAY": 1,
        "TCP_KEEPIDLE": _PROBE_AFTER_S,
        "TCP_KEEPINTVL": _PROBE_EVERY_S,
        "TCP_KEEPCNT": (_DEAD_AFTER_MS // 1000 - _PROBE_AFTER_S) // _PROBE_EVERY_S,
        "TCP_USER_TIMEOUT": _DEAD_AFTER_MS,
    }
    known = [(getattr(socket, name), value) for name, value in tcp.items() if hasattr(socket, name)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, name, value) for name, value in known)]
