"""A fleet of workers that start at once: how long until each has declared its queues.

``python -m support.fleet URL --workers 50 --queues 30 --kind bound`` in ``tests/`` prints one JSON line: ``ready_s``,
the seconds from the common start until each worker was ready, sorted, and ``errors``. It forks while it has one
thread, so that fifty workers cost the memory of a few.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from kombu import Connection, Consumer, Exchange, Queue

TESTS = Path(__file__).parents[1]
KINDS = ("plain", "bound")


def queues_of(kind: str, count: int) -> list[Queue]:
    """``plain``: as Celery declares a queue; ``bound``: each fed by a topic exchange of its own, in SNS."""
    if kind == "plain":
        return [Queue(f"plain-{i}", Exchange(f"plain-{i}"), f"plain-{i}") for i in range(count)]
    return [Queue(f"bound-{i}", Exchange(f"events-{i}", "topic"), "order.*") for i in range(count)]


def start(url: str, *, workers: int, queues: int, kind: str, timeout_s: float) -> dict[str, Any]:
    """Run a fleet in a process of its own; what it printed."""
    command = [sys.executable, "-m", "support.fleet", url]
    command += ["--workers", str(workers), "--queues", str(queues), "--kind", kind]
    done = subprocess.run(command, cwd=TESTS, stdout=subprocess.PIPE, timeout=timeout_s, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _work(url: str, queues: list[Queue], together: Barrier, results: Any) -> None:
    together.wait()
    started = time.monotonic()
    try:
        with Connection(url) as connection:
            Consumer(connection.channel(), queues)  # declares them
            results.put((time.monotonic() - started, None))
    except Exception as exc:
        results.put((time.monotonic() - started, f"{type(exc).__name__}: {exc}"))


def main() -> None:
    """Start the workers and wait for all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--queues", type=int, default=30)
    parser.add_argument("--kind", choices=KINDS, default="plain")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    together, results = context.Barrier(options.workers), context.Queue()
    queues = queues_of(options.kind, options.queues)
    fleet = [
        context.Process(target=_work, args=(options.url, queues, together, results)) for _ in range(options.workers)
    ]
    for worker in fleet:
        worker.start()
    found = [results.get() for _ in fleet]
    for worker in fleet:
        worker.join()
    errors = [error for _, error in found if error]
    print(json.dumps({"ready_s": sorted(round(seconds, 2) for seconds, _ in found), "errors": errors}))


if __name__ == "__main__":
    main()
