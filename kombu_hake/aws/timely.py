"""Limit the size of an answer and the total time in which it may arrive.

A socket's timeout bounds the wait for each piece of an answer. A server that sends a byte now and then, in the headers
or in the body, could block the reading thread forever. So each read also checks how long the whole answer has taken.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from kombu_hake.exceptions import BrokerUnavailable

__all__ = ["MOST_BYTES", "MOST_S", "TimelyReader", "bound_pool", "read_body"]

#: Maximum time for an answer to arrive after its first byte was due, seconds.
MOST_S = 60.0
#: Maximum size of an answer: ten messages of 1 MiB, each character escaped as ``\\u003c``.
MOST_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024


class TimelyReader(io.RawIOBase):
    """The file of a socket; reading raises once the answer is late."""

    def __init__(self, raw: Any, ends_at: float) -> None:
        super().__init__()
        self._raw = raw
        self._ends_at = ends_at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """As of a socket's file.

        Raises:
            TimeoutError: the answer is late, or nothing arrived within the timeout of the socket.
        """
        if time.monotonic() > self._ends_at:
            raise TimeoutError(f"An answer took longer than {MOST_S:g} s to arrive.")
        count: int | None = self._raw.readinto(buffer)
        return count

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimelyResponse(http.client.HTTPResponse):
    """An answer that must arrive within the timeout of its socket and :data:`MOST_S`, headers included."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        ends_at = time.monotonic() + (sock.gettimeout() or 0.0) + MOST_S
        # The class of the response is the only hook that urllib3 and botocore have here.
        self.fp = io.BufferedReader(TimelyReader(self.fp.detach(), ends_at))


@cache
def _bound_answers(connection_class: type) -> type:
    """A subclass of *connection_class* whose answers have to arrive in time."""
    return type(connection_class.__name__, (connection_class,), {"response_class": _TimelyResponse})


@cache
def bound_pool(pool_class: Any) -> type:
    """A subclass of *pool_class* with connections of :func:`_bound_answers`."""
    return type(pool_class.__name__, (pool_class,), {"ConnectionCls": _bound_answers(pool_class.ConnectionCls)})


def read_body(response: Any) -> bytes:
    """The raw body of a urllib3 response that was not preloaded. Returns its connection to the pool.

    Raises:
        BrokerUnavailable: it is larger, or takes longer, than an answer of AWS.
        urllib3.exceptions.HTTPError: the connection failed.
    """
    ends_at = time.monotonic() + MOST_S
    parts: list[bytes] = []
    size = 0
    is_read = False
    try:
        for part in _pieces(response):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise BrokerUnavailable(f"An answer has more than {MOST_BYTES:,} bytes; AWS sends none that large.")
            if time.monotonic() > ends_at:
                raise BrokerUnavailable(f"An answer took longer than {MOST_S:g} s to arrive.")
        is_read = True
    finally:
        if is_read:
            response.release_conn()
        else:  # the rest would be read as the next answer
            response.close()
    return b"".join(parts)


def _pieces(response: Any) -> Iterator[bytes]:
    """The body as it arrives. ``stream`` would wait for a full piece, however slowly a server sends."""
    if not hasattr(response, "read1"):  # urllib3 1.26
        yield from response.stream(_CHUNK_BYTES, decode_content=False)
        return
    while piece := response.read1(_CHUNK_BYTES, decode_content=False):
        yield piece
