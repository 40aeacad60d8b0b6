"""Results over rpc://, and a queue that every worker has its own copy of.

``python -m apps.rpc prefork 5`` is a client of its own: it prints what five additions came to.
"""

import json
import sys
import time

from celery import Celery, Task
from kombu import Queue
from kombu.common import Broadcast

from apps.notes import BROKER, facts, note

app = Celery("rpc", broker=BROKER, backend="rpc://")
app.conf.task_queues = [Queue("prefork"), Queue("solo"), Broadcast("news")]
app.conf.task_default_queue = "prefork"
app.conf.result_persistent = False


@app.task(name="add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="fail")
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(name="wait")
def wait(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@app.task(bind=True, name="hear", ignore_result=True)
def hear(self: Task, number: int) -> None:
    note(number=number, **facts(self))


def main() -> None:
    queue, count = sys.argv[1], int(sys.argv[2])
    results = [add.apply_async((number, 1), queue=queue) for number in range(count)]
    print(json.dumps([result.get(timeout=30) for result in results]))
    app.close()


if __name__ == "__main__":
    main()
