"""The HTTP client of the hot calls: no request ever gets another one's answer, and no answer is half an answer."""

from __future__ import annotations

import gc
import http.client
import io
import os
import random
import signal
import socket
import subprocess
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
from support import http_peer
from support.http_peer import (
    HEAD,
    HOST,
    FakePool,
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


@pytest.fixture(autouse=True)
def close_fake_sockets() -> Iterator[None]:
    yield
    while http_peer.made:
        http_peer.made.pop().close()


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
    "continue with headers": (
        b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + answer(b"abc"), 200, b"abc", False
    ),
    "204": (b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", 204, b"", False),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b"", False),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", False),
    "line feeds alone": (b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", 200, b"abc", False),
    "line feeds alone, blank line in the body": (
        b"HTTP/1.1 200 OK\nContent-Length: 4\n\n\r\n\r\n", 200, b"\r\n\r\n", False
    ),
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
        *(b"HTTP/1.1 204 X\r\n", b"HTTP/2 200\r\n", b"HTTP/1.1 99 X\r\n", b"HTTP/1.1 2000 X\r\n"),
        b"GET / HTTP/1.1\r\n",
        *(b"Content-Length: 3\r\n", b"content-length: 0\r\n", b"Content-Length: 10\r\n", b"Content-Length: 3, 3\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n"),
        *(b"X-Amzn-Query-Error: a;b\r\n", b"no colon\r\n", b": x\r\n", b" folded\r\n", b"A : b\r\n", b"A:b\n", b"\r\n"),
        *(b"\n", b"\r", b"\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"-1\r\n", b"-5\r\nabc\r\n", b"zz\r\n"),
        *(b"{}", b"\x00"),
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


# --- exceptions at any time


def echo_in_pieces(request: bytes) -> list[bytes]:
    data = answer(body_of(request))
    return [data[:7], data[7:40], data[40:]]


def chunked_echo(request: bytes) -> list[bytes]:
    body = body_of(request)
    return [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (len(body), body), b"0\r\n\r\n"]


def assert_usable(pool: FakePool) -> None:
    """What is in the pool is open and owes no answer; the next requests get their own."""
    idle = pool.idle()
    if any(not sock.is_closed and sock not in idle for sock in pool.sockets):
        gc.collect()  # slow
    for sock in pool.sockets:
        assert sock.is_closed == (sock not in idle)
        assert sock.is_closed or not sock._pieces
    assert post(pool, b"a later request") == b"a later request"
    assert post(pool, b"the last") == b"the last"


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("script", [echo_in_pieces, chunked_echo, lambda request: list(_single_bytes(request))])
@pytest.mark.parametrize("is_reused", [False, True])
def test_an_exception_at_any_call_of_the_socket_closes_the_connection(
    exception: type[BaseException], script: Callable[[bytes], list[bytes]], is_reused: bool
) -> None:
    for number in range(1, 1_000):
        pool = FakePool(script)
        if is_reused:
            post(pool, b"before")
        calls = iter(range(1, 1_000_000))

        def fail(name: str, number: int = number, calls: Iterator[int] = calls) -> None:
            if next(calls) == number:
                raise exception("injected")

        pool.before = fail
        try:
            assert post(pool, b"interrupted") == b"interrupted"
            is_over = next(calls) <= number
        except exception:
            is_over = False
        pool.before = lambda name: None
        assert_usable(pool)
        if is_over:
            assert number > 4
            return
    pytest.fail("the calls have no end")


def _single_bytes(request: bytes) -> Iterator[bytes]:
    data = answer(body_of(request))
    return (data[at : at + 1] for at in range(len(data)))


@pytest.mark.parametrize("is_reused", [False, True])
@pytest.mark.parametrize("script", [echo_in_pieces, chunked_echo])
def test_an_exception_between_any_two_steps_closes_the_connection(
    script: Callable[[bytes], list[bytes]], is_reused: bool
) -> None:
    """A signal handler runs between any two instructions; here it raises at each of them in turn."""
    for number in range(1, 10_000):
        pool = FakePool(script)
        if is_reused:
            post(pool, b"before")
        steps = iter(range(1, 1_000_000))
        exception = EXCEPTIONS[number % len(EXCEPTIONS)]

        def trace(frame: FrameType, event: str, arg: Any, number: int = number, steps: Iterator[int] = steps) -> Any:
            if frame.f_code.co_filename != http_module.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and next(steps) == number:
                sys.settrace(None)
                raise EXCEPTIONS[number % len(EXCEPTIONS)]("injected")
            return trace

        previous = sys.gettrace()
        try:
            sys.settrace(trace)
            found = post(pool, b"interrupted")
        except exception:
            pass
        else:
            assert found == b"interrupted"
        finally:
            sys.settrace(previous)
        is_over = next(steps) <= number
        assert_usable(pool)
        if is_over:
            assert number > 200
            return
    pytest.fail("the steps have no end")


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals")
# Of a socket that urllib3 is about to return when the handler raises.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("piece_bytes", [7, 65_536])
def test_a_signal_handler_that_raises_never_shifts_the_answers(piece_bytes: int) -> None:
    class Interrupted(Exception):
        pass

    armed = [False]

    def interrupt(*_: object) -> None:
        if armed[0]:
            armed[0] = False
            raise Interrupted

    def echo_slowly(connection: socket.socket, peer: Peer) -> None:
        while (body := peer.read(connection)) is not None:
            data = answer(body)
            try:
                for at in range(0, len(data), piece_bytes):
                    connection.sendall(data[at : at + piece_bytes])
            except OSError:
                return

    main = threading.get_ident()
    is_over = threading.Event()

    def send_signals() -> None:
        chance = random.Random()
        while not is_over.wait(chance.random() / 1_000):
            signal.pthread_kill(main, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send_signals)
    try:
        with serving(echo_slowly) as peer:
            pool = peer.pool()
            sender.start()
            hits = number = 0
            while hits < 150 and number < 20_000:
                number += 1
                try:
                    armed[0] = True
                    assert post(pool, b"%d" % number) == b"%d" % number
                    armed[0] = False
                except Interrupted:
                    hits += 1
                finally:
                    armed[0] = False
            is_over.set()
            sender.join()
            assert hits
            assert post(pool, b"last") == b"last"
    finally:
        armed[0] = False
        is_over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, previous)


# --- lost answers


def echo_then(then: Callable[[socket.socket, Peer], None]) -> Callable[[socket.socket, Peer], None]:
    """Answer the first request, then something else on the same connection."""

    def handle(connection: socket.socket, peer: Peer) -> None:
        body = peer.read(connection)
        assert body is not None
        connection.sendall(answer(body))
        then(connection, peer)

    return handle


def closes_after_the_next(connection: socket.socket, peer: Peer) -> None:
    peer.read(connection)


def resets_after_the_next(connection: socket.socket, peer: Peer) -> None:
    peer.read(connection)
    reset(connection)


@pytest.mark.parametrize("then", [closes_after_the_next, resets_after_the_next])
def test_a_request_lost_on_a_used_connection_is_sent_again_at_once(then: Any) -> None:
    with serving(echo_then(then), echo) as peer:
        pool = peer.pool()
        assert post(pool, b"1") == b"1"
        assert post(pool, b"2") == b"2"
        assert peer.requests == [b"1", b"2", b"2"]
        assert peer.accepted == 2


@pytest.mark.parametrize("then", [closes_after_the_next, resets_after_the_next])
def test_a_request_is_sent_again_only_once(then: Any) -> None:
    with serving(echo_then(then), then, echo) as peer:
        pool = peer.pool()
        assert post(pool, b"1") == b"1"
        with pytest.raises(OSError, match=r"closed|reset"):
            post(pool, b"2")
        assert peer.requests == [b"1", b"2", b"2"]
        assert peer.accepted == 2
        assert not pool._idle


@pytest.mark.parametrize("first", [closes_after_the_next, resets_after_the_next])
def test_a_request_lost_on_a_new_connection_is_not_sent_again_here(first: Any) -> None:
    with serving(first, echo) as peer:
        pool = peer.pool()
        with pytest.raises(OSError, match=r"closed|reset"):
            post(pool, b"1")
        assert peer.requests == [b"1"]
        assert not pool._idle


@pytest.mark.parametrize("end", [lambda connection: None, reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("size", [1, 20, 40])
def test_a_request_whose_answer_began_is_not_sent_again_here(size: int, end: Callable[[socket.socket], None]) -> None:
    is_read = threading.Event()

    def begins(connection: socket.socket, peer: Peer) -> None:
        peer.read(connection)
        connection.sendall(answer(b"half")[:size])
        assert is_read.wait(10)
        end(connection)

    with serving(echo_then(begins), echo) as peer:
        pool = peer.pool()
        assert post(pool, b"1") == b"1"
        [connection] = pool._idle
        more = connection._more

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Connection, "_more", lambda self, *args: (is_read.set(), more(*args))[1])
            with pytest.raises(OSError, match=r"middle|reset"):
                post(pool, b"2")
        assert peer.requests == [b"1", b"2"]
        assert not pool._idle


def test_a_request_that_timed_out_is_not_sent_again_here() -> None:
    with serving(echo_then(is_silent_for_ever), echo) as peer:
        pool = peer.pool()
        assert post(pool, b"1") == b"1"
        with pytest.raises(TimeoutError):
            post(pool, b"2", 0.05)
        assert peer.was_closed.wait(10)
        assert peer.requests == [b"1", b"2"]
        assert post(pool, b"3") == b"3"


def test_connections_that_the_server_closed_while_they_were_idle_are_replaced() -> None:
    count = 5
    all_asked = threading.Barrier(count)

    def once(connection: socket.socket, peer: Peer) -> None:
        body = peer.read(connection)
        assert body is not None
        all_asked.wait(10)
        connection.sendall(answer(body))

    with serving(*[once] * count, echo) as peer:
        pool = peer.pool()
        threads = [threading.Thread(target=post, args=(pool, b"x")) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for connection in list(pool._idle):
            while connection.is_silent():
                pass  # until its FIN arrives
        assert len(pool._idle) == count
        assert post(pool, b"1") == b"1"
        assert len(pool._idle) == 1
        assert peer.accepted == count + 1


def test_an_answer_that_came_before_all_was_sent_is_an_answer() -> None:
    """AWS refuses a request that is too large before it has read it all, and closes."""

    def refuses(connection: socket.socket, peer: Peer) -> None:
        connection.recv(1)
        connection.sendall(answer(b"too large", status=b"413 X", extra=b"Connection: close\r\n"))
        connection.shutdown(socket.SHUT_WR)
        peer.until_closed(connection)

    with serving(refuses) as peer:
        pool = peer.pool()
        found = pool.post(HEAD, b"x" * 5_000_000, TIMEOUT_S)
        assert (found.status, found.body) == (413, b"too large")
        assert not pool._idle


def test_a_server_that_stopped_reading_is_asked_for_its_answer() -> None:
    pool = FakePool(lambda request: [answer(b"early", status=b"413 X")])

    def broken_pipe(name: str) -> None:
        if name == "sendall":
            pool.sockets[-1]._pieces.append(answer(b"early", status=b"413 X"))
            raise BrokenPipeError

    pool.before = broken_pipe
    found = pool.post(HEAD, b"x", TIMEOUT_S)
    assert (found.status, found.body) == (413, b"early")
    assert not pool._idle
    assert pool.sockets[0].is_closed


# --- time


def is_silent_for_ever(connection: socket.socket, peer: Peer) -> None:
    peer.read(connection)
    peer.until_closed(connection)


def in_thread(action: Callable[[], None]) -> None:
    """The system counts the time there, and Python in the main thread."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as exc:
            faults.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for fault in faults:
        raise fault


THREADS: Any = pytest.mark.parametrize("run", [lambda action: action(), in_thread], ids=["main thread", "thread"])


@THREADS
def test_a_server_that_never_answers_is_left_in_time(run: Callable[[Callable[[], None]], None]) -> None:
    def ask_twice() -> None:
        for timeout_s in (0.05, 0.2):
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                post(pool, b"x", timeout_s)
            assert time.monotonic() - started >= timeout_s * 0.9
            assert not pool._idle

    with serving(is_silent_for_ever) as peer:
        pool = peer.pool()
        run(ask_twice)
        assert peer.was_closed.wait(10)


@THREADS
@pytest.mark.parametrize("half", [b"HTTP/1.1 200 OK\r\nConten", answer(b"half")[:-1], b"HTTP/1.1 200 OK\nA: b\n\n"])
def test_a_server_that_stops_in_an_answer_is_left_in_time(
    run: Callable[[Callable[[], None]], None], half: bytes
) -> None:
    def fail() -> None:
        with pytest.raises(TimeoutError):
            post(pool, b"x", 0.05)

    with serving(says(half)) as peer:
        pool = peer.pool()
        run(fail)
        assert not pool._idle
        assert peer.was_closed.wait(10)


@THREADS
def test_a_server_that_never_reads_is_left_in_time(run: Callable[[Callable[[], None]], None]) -> None:
    def fail() -> None:
        with pytest.raises(TimeoutError):
            post(pool, b"x" * 20_000_000, 0.1)

    with serving(lambda connection, peer: peer.is_over.wait(60)) as peer:
        pool = peer.pool()
        run(fail)
        assert not pool._idle


def assert_echo(pool: HttpPool) -> None:
    assert post(pool, b"1", 30.0) == b"1"


def test_the_timeout_holds_in_whichever_thread_a_connection_is_used() -> None:
    silent = echo_then(is_silent_for_ever)

    def fail() -> None:
        with pytest.raises(TimeoutError):
            post(pool, b"2", 0.05)

    with serving(silent) as peer:
        pool = peer.pool()
        post(pool, b"1", 30.0)
        in_thread(fail)
        in_thread(lambda: assert_echo(pool))
        fail()
        assert peer.accepted == 2


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_signals_do_not_prolong_the_wait_for_an_answer() -> None:
    """Each of them interrupts a system call, which is made again: a timeout must not start anew."""
    main = threading.get_ident()
    is_over = threading.Event()

    def send_signals() -> None:
        for _ in range(600):  # twelve seconds
            if is_over.wait(0.02):
                return
            signal.pthread_kill(main, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    sender = threading.Thread(target=send_signals)
    with serving(is_silent_for_ever) as peer:
        pool = peer.pool()
        sender.start()
        try:
            with pytest.raises(TimeoutError):
                post(pool, b"x", 0.3)
            assert sender.is_alive()
        finally:
            is_over.set()
            sender.join()
            signal.signal(signal.SIGUSR1, previous)


def test_each_request_has_its_own_timeout() -> None:
    with serving(echo) as peer:
        pool = peer.pool()
        for timeout_s in (30.0, 0.5, 30.0, 25.0):
            post(pool, b"x", timeout_s)
            [connection] = pool._idle
            assert connection._timeout[0] == timeout_s
        assert peer.accepted == 1


def test_a_connection_that_is_not_accepted_is_given_up_in_time() -> None:
    with socket.create_server((HOST, 0), backlog=0) as server:
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        pool = HttpPool(HOST, server.getsockname()[1], tls=None, connect_timeout_s=0.2)
        try:
            with pytest.raises(OSError, match="timed out"):
                post(pool, b"x")
        finally:
            for filler in fillers:
                filler.close()


# --- addresses


def test_each_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo) as peer:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, peer.port)) for host in ("127.0.0.2", HOST)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)
        pool = HttpPool("aws.invalid", peer.port, tls=None, connect_timeout_s=10.0)
        assert post(pool, b"x") == b"x"


def test_a_new_connection_resolves_the_name_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo_then(lambda *_: None), echo) as old, serving(echo) as new:
        current = [old.port]
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda *_args, **_kwargs: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOST, current[0]))],
        )
        pool = HttpPool("aws.invalid", 1, tls=None, connect_timeout_s=10.0)
        assert post(pool, b"1") == b"1"
        current[0] = new.port
        assert post(pool, b"2") == b"2"
        assert (old.accepted, new.requests) == (1, [b"2"])


def test_a_name_that_does_not_exist_is_an_error_of_the_connection() -> None:
    with pytest.raises(socket.gaierror):
        post(HttpPool("aws.invalid", 1, tls=None, connect_timeout_s=1.0), b"x")


# --- many


def test_each_of_many_threads_gets_its_own_answers() -> None:
    faults: list[str] = []
    with serving(echo) as peer:
        pool = peer.pool()

        def work(thread: int) -> None:
            for number in range(60):
                body = b"%d/%d" % (thread, number)
                if post(pool, body) != body:
                    faults.append(body.decode())

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        assert len(peer.requests) == 32 * 60
        assert peer.accepted <= 32
        assert len(pool._idle) <= 32


def test_no_more_than_so_many_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "_MOST_IDLE", 3)
    all_asked = threading.Barrier(6)

    def together(connection: socket.socket, peer: Peer) -> None:
        body = peer.read(connection)
        assert body is not None
        all_asked.wait(10)
        connection.sendall(answer(body))
        peer.until_closed(connection)

    with serving(together) as peer:
        pool = peer.pool()
        threads = [threading.Thread(target=post, args=(pool, b"x")) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 3 <= len(pool._idle) < 6  # two threads may find the last room at once


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["refused", "closed", "half", "odd", "reset", "timeout"])
def test_failed_requests_leave_nothing_open(kind: str) -> None:
    handlers: dict[str, Any] = {
        "refused": echo,
        "closed": closes_after_the_next,
        "half": says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", stay=False),
        "odd": says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nA\r\n\r\nx", stay=False),
        "reset": resets_after_the_next,
        "timeout": is_silent_for_ever,
    }
    gc.collect()
    before = open_descriptors()
    with serving(handlers[kind]) as peer, socket.socket() as bound:
        bound.bind((HOST, 0))
        port = bound.getsockname()[1] if kind == "refused" else peer.port
        pool = HttpPool(HOST, port, tls=None, connect_timeout_s=10.0)
        for _ in range(1_000 if kind != "timeout" else 100):
            with pytest.raises(OSError, match=r"."):
                pool.post(HEAD, b"x", 0.002 if kind == "timeout" else TIMEOUT_S)
            assert not pool._idle
        gc.collect()
    # The server's side is closed by now too.
    assert open_descriptors() <= before


def test_connections_of_a_pool_that_is_gone_are_closed() -> None:
    with serving(echo) as peer:
        pool = peer.pool()
        post(pool, b"x")
        del pool
        gc.collect()
        assert peer.was_closed.wait(10)


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")
def test_dead_connections_are_noticed_by_the_system() -> None:
    with serving(echo) as peer:
        pool = peer.pool()
        post(pool, b"x")
        [connection] = pool._idle
        assert connection._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8_000
        assert connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


AT_EXIT = """
import atexit, sys
from kombu_hake.aws.http import HttpPool

pool = HttpPool("127.0.0.1", int(sys.argv[1]), tls=None, connect_timeout_s=10.0)
head = b"POST / HTTP/1.1\\r\\nHost: localhost"
atexit.register(lambda: print(pool.post(head, b"last", 10.0).body.decode()))
pool.post(head, b"first", 10.0)
"""


def test_connections_are_usable_while_the_process_ends() -> None:
    """Messages are given back then."""
    with serving(echo) as peer:
        done = subprocess.run(
            [sys.executable, "-c", AT_EXIT, str(peer.port)], capture_output=True, text=True, timeout=60, check=False
        )
    assert (done.stdout.strip(), done.stderr, peer.accepted) == ("last", "", 1)
