"""A task argument that is nested a few hundred levels deep ends a worker with the prefork pool.

Versions tried
    Celery 5.7.0, kombu 5.7.0, billiard 4.3.2, Python 3.11; pool prefork; a broker with an event loop (amqp://,
    redis://), here memory:// with one.
What happens
    JSON of 900 levels is decoded without an error. To hand the task to a process of the pool, the main process pickles
    it (`send_job` in `celery/concurrency/asynpool.py`), and that raises `RecursionError` in the consumer's callback:
    the worker ends with "Unrecoverable error". The message is not acknowledged, so it ends the next worker, too.
Expected
    The task fails, or its message is rejected. The worker goes on.
Suggested change
    In `WorkController._process_task` (`celery/worker/worker.py`), treat an exception that `execute_using_pool` raises
    as the failure of this task: `req.on_failure(...)` and acknowledge or reject it.

Run it with a limit, such as ``timeout 60``: exit code 1 and "REPRODUCED" while the fault is there.
"""

import os
from contextlib import suppress
from queue import Empty
from typing import Any

from celery import Celery
from kombu import Connection, Queue
from kombu.transport import TRANSPORT_ALIASES, memory

LEVELS = 900


class AsyncMemory(memory.Transport):
    """Memory, with the event loop of Celery's worker, as amqp:// and redis:// have it."""

    implements = memory.Transport.implements.extend(asynchronous=True)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        readable, writable = os.pipe()
        os.write(writable, b"x")  # always readable
        loop.add_reader(readable, self.on_readable, connection)

    def on_readable(self, connection: Any) -> None:
        with suppress(Empty, TimeoutError):
            self.drain_events(connection, timeout=0.05)


TRANSPORT_ALIASES["asyncmemory"] = f"{__name__}:AsyncMemory"
app = Celery("demo", broker="asyncmemory://", set_as_current=True)
app.conf.update(worker_enable_remote_control=False, worker_redirect_stdouts=False)


@app.task(name="good")
def good(*_args: object) -> None:
    """What the message names."""


def publish(body: str) -> None:
    headers = {"lang": "py", "task": "good", "id": "1", "root_id": "1", "retries": 0, "timelimit": [None, None]}
    with Connection("asyncmemory://") as connection:
        connection.Producer().publish(
            body,
            routing_key="celery",
            headers=headers,
            content_type="application/json",
            content_encoding="utf-8",
            declare=[Queue("celery", routing_key="celery")],
        )


if __name__ == "__main__":
    publish(f"[[{'[' * LEVELS}{']' * LEVELS}], {{}}, {{}}]")
    worker = app.Worker(
        pool="prefork",
        concurrency=1,
        loglevel="CRITICAL",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    raise SystemExit(f"REPRODUCED: the worker ended, exit code {worker.exitcode}" if worker.exitcode else 0)
