"""A message whose header `id` is no text ends the worker.

Versions tried
    Celery 5.7.0, kombu 5.7.0, Python 3.11; pool solo, broker memory://. Any broker that carries headers does.
What happens
    The id becomes an element of a set and a key of a dict (`revoked`, `task_reserved`): `TypeError: unhashable
    type: 'dict'`. The worker ends with "Unrecoverable error", and the message ends the next one too.
Expected
    The message is rejected as invalid (`on_invalid_task`). The worker goes on.
Suggested change
    In `celery/worker/request.py`, `Request.__init__`: `if not isinstance(self._id, str): raise
    InvalidTaskError(...)`.

Run it with a limit, such as ``timeout 60``: exit code 1 and "REPRODUCED" while the fault is there.
"""

from celery import Celery
from kombu import Queue

app = Celery("demo", broker="memory://", set_as_current=True)
app.conf.update(worker_enable_remote_control=False, worker_redirect_stdouts=False)


@app.task(name="good")
def good() -> None:
    print("OK: the task after the hostile message ran")
    app.worker.stop()


HEADERS = {"lang": "py", "task": "good", "id": "1", "root_id": "1", "retries": 0, "timelimit": [None, None]}


def publish(body: str, **headers: object) -> None:
    with app.connection_for_write() as connection:
        connection.Producer().publish(
            body,
            routing_key="celery",
            headers={**HEADERS, **headers},
            content_type="application/json",
            content_encoding="utf-8",
            declare=[Queue("celery", routing_key="celery")],
        )


if __name__ == "__main__":
    publish("[[], {}, {}]", id={"a": 1})
    publish("[[], {}, {}]", id="after")
    app.worker = app.Worker(
        pool="solo", loglevel="CRITICAL", without_gossip=True, without_mingle=True, without_heartbeat=True
    )
    app.worker.start()
    # EX_FAILURE (1): the consumer's callback raised, and the worker gave up; 0 or None after the task above.
    raise SystemExit(f"REPRODUCED: the worker ended, exit code {app.worker.exitcode}" if app.worker.exitcode else 0)
