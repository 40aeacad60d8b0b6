"""A fleet of workers that start at once: how long until each has declared its queues.

``python -m support.fleet URL --workers 50 --queues 30 --kind bound`` in ``tests/`` prints one JSON line: ``ready_s``,
the seconds from the common start until each worker was ready, sorted, and ``errors``. The workers stay until its input
ends, so that nothing is removed meanwhile. It forks while it has one thread, so that fifty workers cost the memory of a
few, and start without an interpreter each: what is measured is AWS, not the start of Python.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

from kombu import Connection, Consumer, Exchange, Queue
from kombu.pidbox import Mailbox

TESTS = Path(__file__).parents[1]
KINDS = ("plain", "bound")


def queues_of(kind: str, count: int) -> list[Queue]:
    """``plain``: as Celery declares a queue; ``bound``: each fed by a topic exchange of its own, in SNS."""
    if kind == "plain":
        return [Queue(f"plain-{i}", Exchange(f"plain-{i}"), f"plain-{i}") for i in range(count)]
    return [Queue(f"bound-{i}", Exchange(f"events-{i}", "topic"), "order.*") for i in range(count)]


@contextmanager
def running(
    url: str, *, workers: int, queues: int, kind: str, timeout_s: float, remote_control: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A fleet in a process of its own, once all its workers are ready: what it printed."""
    command = ["timeout", str(timeout_s), sys.executable, "-m", "support.fleet", url]
    command += ["--workers", str(workers), "--queues", str(queues), "--kind", kind]
    command += ["--remote-control"] if remote_control else []
    process = subprocess.Popen(
        command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **(environment or {})}
    )
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the fleet ended before it was ready"
        yield json.loads(line)
    assert process.returncode == 0


def start(url: str, *, workers: int, queues: int, kind: str, timeout_s: float, **more: Any) -> dict[str, Any]:
    """Run a fleet until it is ready; what it printed. Arguments as of :func:`running`."""
    with running(url, workers=workers, queues=queues, kind=kind, timeout_s=timeout_s, **more) as found:
        return found


def _work(
    url: str, number: int, queues: list[Queue], remote_control: bool, together: Barrier, over: Event, results: Any
) -> None:
    together.wait()
    started = time.monotonic()
    try:
        connection = Connection(url)
        Consumer(connection.channel(), queues)  # declares them
        if remote_control:
            node = Mailbox("celery", type="fanout")(connection).Node(f"w{number}@fleet", channel=connection.channel())
            node.listen()
        results.put((time.monotonic() - started, None))
    except Exception as exc:
        results.put((time.monotonic() - started, f"{type(exc).__name__}: {exc}"))
    results.close()
    results.join_thread()
    over.wait()
    os._exit(0)  # as if killed: closing would remove the queue of remote control


def main() -> None:
    """Start the workers and wait for all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--queues", type=int, default=30)
    parser.add_argument("--kind", choices=KINDS, default="plain")
    parser.add_argument("--remote-control", action="store_true", help="a queue of its own for each worker")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    together, over, results = context.Barrier(options.workers), context.Event(), context.Queue()
    queues = queues_of(options.kind, options.queues)
    fleet = [
        context.Process(
            target=_work, args=(options.url, number, queues, options.remote_control, together, over, results)
        )
        for number in range(options.workers)
    ]
    for worker in fleet:
        worker.start()
    found = [results.get() for _ in fleet]
    errors = [error for _, error in found if error]
    print(json.dumps({"ready_s": sorted(round(seconds, 2) for seconds, _ in found), "errors": errors}), flush=True)
    sys.stdin.read()
    over.set()
    for worker in fleet:
        worker.join()


if __name__ == "__main__":
    main()
