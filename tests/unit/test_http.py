"""The HTTP client of the hot calls: no request ever gets another one's answer, and no answer is half an answer."""

from __future__ import annotations

import gc
import http.client
import io
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from gevent import GreenletExit
from hypothesis import given
from hypothesis import strategies as st
from support.http_peer import (
    HEAD,
    HOST,
    FakePool,
    FakeSocket,
    Peer,
    answer,
    body_of,
    echo,
    reset,
    says,
    serving,
)

from kombu_hake.aws import http as http_module
from kombu_hake.aws.http import Answer, HttpPool, OddAnswer, _Connection

#: What a signal handler, a killed greenlet or the network may raise at any time.
EXCEPTIONS = [RuntimeError, KeyboardInterrupt, SoftTimeLimitExceeded, GreenletExit, TimeoutError, OSError, MemoryError]
TIMEOUT_S = 30.0


def post(pool: HttpPool, body: bytes, timeout_s: float = TIMEOUT_S) -> bytes:
    return pool.post(HEAD, body, timeout_s).body


def ask(*pieces: bytes) -> tuple[Answer, FakePool]:
    """The answer to one request, which arrives in *pieces*; then the connection is closed."""
    pool = FakePool(lambda request: list(pieces))
    return pool.post(HEAD, b"x", TIMEOUT_S), pool


def is_kept(pool: FakePool) -> bool:
    [sock] = pool.sockets
    assert sock.is_closed != bool(pool._idle)
    return bool(pool._idle)


# --- what an answer is

#: Name to an answer, its status and body, and whether its connection may be used again.
FORMS: dict[str, tuple[bytes, int, bytes, bool]] = {
    "plain": (answer(b'{"a": 1}'), 200, b'{"a": 1}', True),
    "empty": (answer(b""), 200, b"", True),
    "error": (answer(b"no", status=b"403 Forbidden"), 403, b"no", True),
    "no reason": (answer(b"no", status=b"500"), 500, b"no", True),
    "empty reason": (answer(b"no", status=b"500 "), 500, b"no", True),
    "blank lines in the body": (answer(b"\r\n\r\n\n\n"), 200, b"\r\n\r\n\n\n", True),
    "looks like an answer": (answer(answer(b"inner")), 200, answer(b"inner"), True),
    "keep-alive": (answer(b"x", extra=b"Connection: Keep-Alive\r\n"), 200, b"x", True),
    "close": (answer(b"x", extra=b"Connection: close\r\n"), 200, b"x", False),
    "upgrade": (answer(b"x", extra=b"Connection: keep-alive, Upgrade\r\n"), 200, b"x", False),
    "header without a value": (answer(b"x", extra=b"A:\r\n"), 200, b"x", True),
    "header of other bytes": (answer(b"x", extra=b"A: \xff\xfe\x00\x85\r\n"), 200, b"x", True),
    "compressed": (answer(b"\x1f\x8b", extra=b"Content-Encoding: gzip\r\n"), 200, b"\x1f\x8b", True),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n",
        200,
        b"abcde",
        False,
    ),
    "chunked with a length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        200,
        b"abc",
        False,
    ),
    "until it closes": (b"HTTP/1.1 200 OK\r\nDate: x\r\n\r\nabc", 200, b"abc", False),
    "no headers": (b"HTTP/1.1 200 OK\r\n\r\nabc", 200, b"abc", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", False),
    "HTTP/1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", False
    ),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"abc"), 200, b"abc", False),
    "continue with headers": (b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + answer(b"abc"), 200, b"abc", False),
    "204": (b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", 204, b"", False),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b"", False),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", False),
    "line feeds alone": (b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", 200, b"abc", False),
    "line feeds alone, blank line in the body": (b"HTTP/1.1 200 OK\nContent-Length: 4\n\n\r\n\r\n", 200, b"\r\n\r\n", False),
    "a line feed alone at the end": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\nabc", 200, b"abc", False),
    "folded header": (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", False),
    "folded length": (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 3\r\n\r\nabc", 200, b"abc", False),
    "repeated header": (b"HTTP/1.1 200 OK\r\nA: b\r\na: c\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", False),
    "repeated length": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", False),
    "two lengths in one header": (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabcd", 200, b"abcd", False),
    "length with a plus": (b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", 200, b"abc", False),
    "length with spaces": (b"HTTP/1.1 200 OK\r\nContent-Length: \t 3 \t\r\n\r\nabc", 200, b"abc", True),
    "length of other digits": (
        "HTTP/1.1 200 OK\r\nContent-Length: ٣\r\n\r\nabcd".encode(), 200, b"abcd", False
    ),
    "length of a superscript": (b"HTTP/1.1 200 OK\r\nContent-Length: \xb3\r\n\r\nabcd", 200, b"abcd", False),
    "negative length": (b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabcd", 200, b"abcd", False),
    "no length": (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabcd", 200, b"abcd", False),
    "more than the length": (answer(b"abc") + b"d", 200, b"abc", False),
    "two answers": (answer(b"abc") + answer(b"def"), 200, b"abc", False),
    "many headers": (answer(b"x", extra=b"".join(b"A%d: b\r\n" % i for i in range(50))), 200, b"x", True),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_an_answer_may_arrive_in_any_pieces(name: str) -> None:
    data, status, body, may_stay = FORMS[name]
    cuts = [[data[:at], data[at:]] for at in range(1, len(data))] if len(data) < 400 else []
    for pieces in [[data], *cuts, [data[at : at + 1] for at in range(len(data))]]:
        found, pool = ask(*pieces)
        assert (found.status, found.body) == (status, body)
        assert all(key == key.lower() for key in found.headers)
        if not may_stay or len(pieces) == 1:
            # What is behind an answer shows only once it arrives.
            assert is_kept(pool) is may_stay or "than the length" in name or name == "two answers"


@pytest.mark.parametrize("name", FORMS)
def test_an_answer_is_what_http_client_makes_of_it(name: str) -> None:
    data, status, body, _ = FORMS[name]
    assert read_by_http_client(data) == (status, body)


def read_by_http_client(data: bytes) -> tuple[int, bytes] | None:
    class Sock:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(data)

    response = http.client.HTTPResponse(Sock(), method="POST")  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ValueError):
        return None
    return response.status, body


#: What answers are made of, right and wrong.
_PARTS = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 403 Forbidden\r\n", b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.0 200 OK\r\n"),
        *(b"HTTP/1.1 204 X\r\n", b"HTTP/2 200\r\n", b"HTTP/1.1 99 X\r\n", b"HTTP/1.1 2000 X\r\n", b"GET / HTTP/1.1\r\n"),
        *(b"Content-Length: 3\r\n", b"content-length: 0\r\n", b"Content-Length: 10\r\n", b"Content-Length: 3, 3\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n"),
        *(b"X-Amzn-Query-Error: a;b\r\n", b"no colon\r\n", b": x\r\n", b" folded\r\n", b"A : b\r\n", b"A:b\n", b"\r\n"),
        *(b"\n", b"\r", b"\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"-1\r\n", b"-5\r\nabc\r\n", b"zz\r\n", b"{}", b"\x00"),
    ]
)


@given(start=st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 X\r\n", b""]), parts=st.lists(_PARTS, max_size=8))
def test_any_bytes_are_an_answer_or_an_error_of_the_connection(start: bytes, parts: list[bytes]) -> None:
    data = start + b"".join(parts)
    theirs = read_by_http_client(data)
    pool = FakePool(lambda request: [data])
    try:
        found = pool.post(HEAD, b"x", TIMEOUT_S)
    except OSError:
        assert pool.sockets[0].is_closed
        assert not pool._idle
        # An incomplete body is refused; http.client hands over what arrived.
        return
    if theirs is not None:
        assert (found.status, found.body) == theirs
    if is_kept(pool):
        assert data.endswith(found.body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"H",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 teapot\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4",
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999999999\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\n\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
    ids=range(20),
)
def test_half_an_answer_is_an_error_of_the_connection(data: bytes) -> None:
    pool = FakePool(lambda request: [data])
    with pytest.raises(OddAnswer):
        post(pool, b"x")
    assert [sock.is_closed for sock in pool.sockets] == [True]
    assert not pool._idle


def test_an_endless_chunk_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    # http.client takes a negative size of a chunk for "all that follows".
    monkeypatch.setattr(http_module, "MOST_BYTES", 100_000)
    pool = FakePool(
        lambda request: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", *[b"x" * 10_000] * 1_000]
    )
    with pytest.raises(OddAnswer):
        post(pool, b"x")
    [sock] = pool.sockets
    assert len(sock._pieces) > 900


def test_what_follows_an_answer_in_one_piece_or_later_is_never_the_next_answer() -> None:
    data = answer(b"mine") + answer(b"stale")
    for at in range(1, len(data)):
        pool = FakePool(lambda request, at=at: [data[:at], data[at:]] if body_of(request) == b"1" else [answer(b"2")])
        assert post(pool, b"1") == b"mine"
        if at == len(answer(b"mine")):
            continue  # the second answer had not arrived: below
        assert post(pool, b"2") == b"2", at


def test_an_answer_that_nobody_asked_for_is_never_the_next_answer() -> None:
    """A server that answers twice, the second time when the connection is in the pool."""
    is_idle = threading.Event()
    is_sent = threading.Event()

    def twice(connection: socket.socket, peer: Peer) -> None:
        peer.read(connection)
        connection.sendall(answer(b"first"))
        assert is_idle.wait(10)
        connection.sendall(answer(b"stale"))
        is_sent.set()
        peer.until_closed(connection)

    with serving(twice, echo) as peer:
        pool = peer.pool()
        assert post(pool, b"x") == b"first"
        is_idle.set()
        assert is_sent.wait(10)
        assert post(pool, b"second") == b"second"
        pool.close()
