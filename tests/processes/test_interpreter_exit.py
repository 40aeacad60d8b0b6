"""Processes that end without closing their connections, or closing them: quickly, acks sent, nothing held."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.celery_workers import unfinished
from support.emulators import ROOT, Emulator

#: Connects, sends two messages, receives both, acknowledges the first.
START = """
import atexit
import os
import signal
import sys
import threading
import time
from kombu import Connection, Consumer, Producer, Queue
import kombu_hake

connection = Connection(sys.argv[1])
channel = connection.default_channel
queue = Queue("q")(channel)
queue.declare()
for number in range(2):
    Producer(channel).publish({"number": number}, routing_key="q")
received = []
consumer = Consumer(channel, [queue], on_message=received.append, prefetch_count=2)
consumer.consume()
while len(received) < 2:
    connection.drain_events(timeout=20)
received[0].ack()
"""
ENDS = {
    "falls off the end": "",
    "close": "connection.close()",
    "close twice": "connection.close(); connection.close()",
    "release": "connection.release()",
    "with": "with connection: pass",
    "sys.exit": "sys.exit(0)",
    "sys.exit in a thread": "thread = threading.Thread(target=sys.exit); thread.start(); thread.join()",
    "while a thread waits for messages": (
        "threading.Thread(target=lambda: connection.drain_events(), daemon=True).start(); time.sleep(0.2)"
    ),
    "a handler that runs before ours acknowledges": "atexit.register(received[0].channel.basic_qos, 0, 1)",
    "after a child that was forked has ended": (
        "pid = os.fork()\nif not pid: os._exit(0)\nassert os.waitpid(pid, 0)[1] == 0"
    ),
    "after a child that was forked has fallen off its end": (
        "pid = os.fork()\nif not pid: sys.exit(0)\nassert os.waitpid(pid, 0)[1] == 0"
    ),
    "after a child of multiprocessing": (
        "import multiprocessing\n"
        "child = multiprocessing.get_context('fork').Process(target=connection.close)\n"
        "child.start(); child.join(); assert child.exitcode == 0"
    ),
}
USUAL = ("falls off the end", "close", "sys.exit in a thread", "after a child that was forked has fallen off its end")


def run(aws: Emulator, script: str) -> float:
    """Run a script to its end; seconds from its last line to the end of the process."""
    path = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    last = "\nprint(time.monotonic(), flush=True)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + last + "\n" + script, aws.url()],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ended_at = time.monotonic()  # of the same clock: the time since the machine was started
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return ended_at - float(done.stdout.split()[-1])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("end", [end if end in USUAL else pytest.param(end, marks=pytest.mark.slow) for end in ENDS])
def test_a_process_that_ends_sends_its_acks_and_holds_nothing(aws: Emulator, end: str) -> None:
    took_s = run(aws, ENDS[end])
    assert unfinished(aws, "q") == (1, 0)
    assert took_s < 15.0, "it waits for the end of a long poll"


@pytest.mark.timeout(120)
def test_a_process_that_is_killed_leaves_it_to_the_visibility_timeout(aws: Emulator) -> None:
    path = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", START + "time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)", aws.url()],
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
        check=False,
    )
    assert done.returncode == -9
    assert unfinished(aws, "q") == (0, 1)
