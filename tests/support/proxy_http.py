"""Just enough HTTP/1.1 for a loopback reverse proxy: framing, and the two ends as asyncio protocols.

A message is a head (start line and header fields, with the blank line) and a whole body. Messages are never
streamed: an SQS or SNS message ends at one mebibyte. Bodies without a length and chunked bodies are understood;
what goes out always has a Content-Length. Clients that pipeline are not served (no AWS client does).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

BLANK_LINE = b"\r\n\r\n"
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests"}


class Message(NamedTuple):
    """A request or a response: ``head`` ends with the blank line, ``body`` is decoded from any chunking."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        """Status code; only of a response."""
        return int(self.head[9:12])


def header(head: bytes, name: bytes) -> bytes:
    """Value of the first field called ``name`` (lower case, no colon), stripped; ``b""`` when there is none."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()


def with_body(message: Message, body: bytes) -> Message:
    """The same message with another body and a Content-Length that fits it."""
    lines = [
        line
        for line in message.head[: -len(BLANK_LINE)].split(b"\r\n")
        if not line.lower().startswith((b"content-length:", b"transfer-encoding:"))
    ]
    lines.append(b"Content-Length: %d" % len(body))
    return Message(b"\r\n".join(lines) + BLANK_LINE, body)


def response(status: int, content_type: str, body: bytes, **headers: str) -> Message:
    """A response of our own; underscores in the names of ``headers`` become hyphens."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    return Message("\r\n".join(lines).encode() + BLANK_LINE, body)


class Framer:
    """Cuts one direction of a connection into messages.

    ``feed`` returns the message that the bytes complete, or None. Bytes after a complete message stay for the next.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._head = b""
        self._length = -1  # body length of the message in hand; -1: head unread, -2: chunked, -3: until close

    def feed(self, data: bytes) -> Message | None:
        """Take bytes in; a message as soon as it is whole."""
        self._buffer = self._buffer + data if self._buffer else data
        if self._length == -1 and not self._read_head():
            return None
        if self._length == -2:
            done = dechunk(self._buffer)
            return self._finish(*done) if done else None
        if 0 <= self._length <= len(self._buffer):
            return self._finish(self._buffer[: self._length], self._length)
        return None

    def at_eof(self) -> Message | None:
        """The message that the end of the connection completes, if its length was left open."""
        return self._finish(self._buffer, len(self._buffer)) if self._length == -3 else None

    def _read_head(self) -> bool:
        end = self._buffer.find(BLANK_LINE)
        if end < 0:
            return False
        end += len(BLANK_LINE)
        self._head, self._buffer = self._buffer[:end], self._buffer[end:]
        length = header(self._head, b"content-length")
        is_response = self._head.startswith(b"HTTP/")
        if length:
            self._length = int(length)
        elif header(self._head, b"transfer-encoding").lower() == b"chunked":
            self._length = -2
        else:
            self._length = -3 if is_response and self._head[9:12] != b"204" else 0
        return True

    def _finish(self, body: bytes, used: int) -> Message:
        message = Message(self._head, body)
        if self._length < 0:
            message = with_body(message, body)
        self._buffer, self._head, self._length = self._buffer[used:], b"", -1
        return message


def dechunk(data: bytes) -> tuple[bytes, int] | None:
    """Body and number of bytes used of a chunked body, or None while its last chunk is missing. No trailers."""
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(data[at:line_end].split(b";")[0], 16)
        at = line_end + 2 + size + 2
        if len(data) < at:
            return None
        if size == 0:
            return b"".join(parts), at
        parts.append(data[line_end + 2 : line_end + 2 + size])


class ClientSide(asyncio.Protocol):
    """One connection from a client. ``on_request`` gets each request and answers with ``send`` in its own time."""

    def __init__(self, on_request: Callable[[ClientSide, Message], asyncio.Task[None]], connections: set[ClientSide]):
        self._on_request = on_request
        self._connections = connections
        self._framer = Framer()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        message = self._framer.feed(data)
        if message:
            self._task = self._on_request(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._task:
            self._task.cancel()  # closes the request's upstream connection too: the emulator sees the client leave

    def send(self, message: Message) -> None:
        """Answer the request in hand; ignored when the client has gone."""
        if self._transport and not self._transport.is_closing():
            self._transport.write(message.head + message.body)

    def close(self) -> None:
        """End the connection in order (FIN)."""
        if self._transport:
            self._transport.close()

    def reset(self) -> None:
        """End the connection with a reset (RST), dropping what was not sent yet."""
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class _UpstreamSide(asyncio.Protocol):
    """One keep-alive connection to the emulator, one request at a time."""

    def __init__(self) -> None:
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Message] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._answer(self._framer.feed(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._answer(self._framer.at_eof())
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionResetError("the emulator closed the connection"))

    def _answer(self, message: Message | None) -> None:
        if message and self._waiter and not self._waiter.done():
            self._waiter.set_result(message)

    async def ask(self, message: Message) -> Message:
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(message.head + message.body)
        return await self._waiter

    def close(self) -> None:
        if self._transport:
            self._transport.abort()


class Upstream:
    """Keep-alive connections to the emulator, as many as there are requests under way."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: deque[_UpstreamSide] = deque()

    async def ask(self, message: Message) -> Message:
        """Send one request and wait for its response.

        Raises:
            OSError: the emulator cannot be reached or closed the connection instead of answering.
        """
        side = self._pop_idle() or await self._connect()
        try:
            answer = await side.ask(message)
        except BaseException:  # a cancelled request leaves a response under way: the connection is of no more use
            side.close()
            raise
        if header(answer.head, b"connection").lower() == b"close":
            side.close()
        else:
            self._idle.append(side)
        return answer

    def close(self) -> None:
        """Close the idle connections; requests under way keep theirs."""
        while self._idle:
            self._idle.pop().close()

    def _pop_idle(self) -> _UpstreamSide | None:
        while self._idle:
            side = self._idle.pop()
            if side.is_open:
                return side
        return None

    async def _connect(self) -> _UpstreamSide:
        _, side = await asyncio.get_running_loop().create_connection(_UpstreamSide, *self._address)
        return side
