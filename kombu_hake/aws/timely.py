"""Limit the total time in which an answer may arrive.

A socket's timeout bounds the wait for each piece of an answer. A server that sends a byte now and then, in the headers
or in the body, could block the reading thread forever. So each read also checks how long the whole answer has taken.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from functools import cache
from typing import Any

__all__ = ["MOST_S", "bound_answers", "bound_pool"]

#: Maximum time for an answer to arrive after its first byte was due, seconds.
MOST_S = 60.0


class _TimelyReader(io.RawIOBase):
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
        self.fp = io.BufferedReader(_TimelyReader(self.fp.detach(), ends_at))


@cache
def bound_answers(connection_class: type) -> type:
    """A subclass of *connection_class* whose answers have to arrive in time."""
    return type(connection_class.__name__, (connection_class,), {"response_class": _TimelyResponse})


@cache
def bound_pool(pool_class: Any) -> type:
    """A subclass of *pool_class* with connections of :func:`bound_answers`."""
    return type(pool_class.__name__, (pool_class,), {"ConnectionCls": bound_answers(pool_class.ConnectionCls)})
