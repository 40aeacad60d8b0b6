"""Where tasks write down that they ran: one line in one write, so that no two processes mix theirs."""

import json
import os
import time

from celery import Task

BROKER = os.environ.get("HAKE_TEST_BROKER", "hake://")


def note(**fields: object) -> None:
    line = json.dumps({**fields, "pid": os.getpid(), "at": time.time()}) + "\n"
    with open(os.environ["HAKE_TEST_RUNS"], "ab", buffering=0) as runs:
        runs.write(line.encode())


def facts(task: Task) -> dict[str, object]:
    """What a task sees of its own message."""
    request = task.request
    return {
        "id": request.id,
        "queue": ",".join(sorted(task.app.amqp.queues.consume_from)),
        "worker": str(request.hostname).partition("@")[0],
        "retries": request.retries,
        "exchange": request.delivery_info.get("exchange"),
        "routing_key": request.delivery_info.get("routing_key"),
        "redelivered": request.delivery_info.get("redelivered"),
        "receives": (request.properties or {}).get("receive_count"),
        "origin": request.get("hake-origin"),
    }
