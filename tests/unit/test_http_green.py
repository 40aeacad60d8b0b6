"""The HTTP client where gevent or eventlet have replaced sockets: a thread is a greenlet there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PROGRAM = """
import sys
import warnings

warnings.simplefilter("error", ResourceWarning)
if sys.argv[1] == "gevent":
    import gevent
    from gevent import monkey

    monkey.patch_all()
    spawn, kill, sleep = gevent.spawn, (lambda green: green.kill()), gevent.sleep
else:
    warnings.simplefilter("ignore", DeprecationWarning)
    import eventlet

    eventlet.monkey_patch()
    spawn, kill, sleep = eventlet.spawn, (lambda green: green.kill()), eventlet.sleep

import threading

from support.http_peer import HEAD, answer, echo, serving

done = []


def work(pool, number):
    for turn in range(20):
        body = b"%d/%d" % (number, turn)
        assert pool.post(HEAD, body, 30.0).body == body
        done.append(body)


with serving(echo) as peer:
    pool = peer.pool()
    threads = [threading.Thread(target=work, args=(pool, number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(peer.requests) == 400, len(done)
    assert peer.accepted <= 20, peer.accepted
    assert not any(connection._is_native for connection in pool._idle)


def silent(connection, peer):
    peer.read(connection)
    peer.until_closed(connection)


def slow_then_echo(connection, peer):
    body = peer.read(connection)
    connection.sendall(answer(body))
    silent(connection, peer)


with serving(slow_then_echo, echo) as peer:
    pool = peer.pool()
    assert pool.post(HEAD, b"1", 30.0).body == b"1"
    green = spawn(pool.post, HEAD, b"2", 30.0)
    while len(peer.requests) < 2:
        sleep(0.001)
    kill(green)
    assert peer.was_closed.wait(10)
    assert not pool._idle
    assert pool.post(HEAD, b"3", 30.0).body == b"3"

with serving(silent) as peer:
    pool = peer.pool()
    try:
        pool.post(HEAD, b"x", 0.05)
    except TimeoutError:
        pass
    else:
        raise AssertionError("no timeout")
    assert not pool._idle
    assert peer.was_closed.wait(10)
print("all is well")
"""


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_greenlets_get_their_own_answers_and_a_killed_one_closes_its_connection(kind: str) -> None:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "all is well"
