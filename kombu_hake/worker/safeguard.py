"""Keeps what a task message says from ending a Celery worker.

Celery trusts the headers and the body of a task: an exception that they cause in the main process is not the task's but
the worker's, and ends it. So a worker of ours looks at each task before Celery does
(:mod:`kombu_hake.amqp.tasks`), and catches what is raised where Celery hands a task to its pool. The message is
then quarantined, see :meth:`kombu_hake.receive.gate.Gate.quarantine`. Exceptions out of Celery's callback are caught in
:meth:`kombu_hake.channel.Channel.deliver`.

Hooks, as of Celery 5.7
    ``Consumer.create_task_handler`` (``celery/worker/consumer/consumer.py``) makes the callback for task messages.
    ``WorkController._process_task`` (``celery/worker/worker.py``) hands a request to the pool. With prefork, whatever
    frees a process calls it, outside of any callback of ours.
    ``Consumer.on_task_request`` does so for other pools; timers call it when an ETA has come or a rate limit allows.
    ``Consumer.add_task_queue`` and ``cancel_task_queue`` are called by the event loop after a command of remote
    control, where anything but a connection error ends the worker, such as an exchange that has another type.

Protocol 1
    The name and id of such a task are in its body. :func:`kombu_hake.receive.messages.to_message` knows tasks by their
    headers, so it is here, where the body is decoded, that a retry of one is kept in its own queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from kombu_hake.amqp import MAX_NESTING, PRIVATE_EXCHANGE, fault_of, is_json, is_nested_too_deep, is_plain, is_task
from kombu_hake.quoting import fields, guarded, quoted
from kombu_hake.receive import HakeMessage, summary
from kombu_hake.worker.hooks import replace_once

__all__ = ["check_tasks", "fault_in", "on_ready"]

logger = guarded(logging.getLogger(__name__))


def on_ready(consumer: Any) -> None:
    """Have a worker that consumes already check its tasks, and survive those that its pool refuses. Idempotent."""
    if check_tasks(consumer):
        task_consumer = getattr(consumer, "task_consumer", None)
        if task_consumer is not None and task_consumer.on_message is not None:
            task_consumer.on_message = consumer.create_task_handler()  # the loop has started with Celery's own
    controller = consumer.controller
    for owner, name in ((controller, "_process_task"), (consumer, "on_task_request")):
        replace_once(owner, name, partial(_guarded, controller))
    for name in ("add_task_queue", "cancel_task_queue"):
        replace_once(consumer, name, partial(_survived, consumer, name))


def check_tasks(consumer: Any) -> bool:
    """Have a worker's consumer check each task before Celery reads it.

    Returns:
        Whether this is new: False when it does so already.
    """
    if getattr(consumer, "hake_checks_tasks", False):
        return False
    consumer.hake_checks_tasks = True
    consumer.create_task_handler = _checked(consumer.create_task_handler)
    return True


def _checked(create: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(create)
    def create_task_handler(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        on_task_received = create(*args, **kwargs)

        def on_message(message: Any) -> Any:
            if isinstance(message, HakeMessage):
                fault = fault_in(message)
                if fault is not None:
                    message.quarantine(f"malformed: {fault}")
                    return None
                _stay_in_own_queue(message)
            return on_task_received(message)

        return on_message

    return create_task_handler


def fault_in(message: Any) -> str | None:
    """What is wrong with a message that a Celery worker is about to get; None for nothing, or for no task.

    A body that cannot be decoded is left to Celery's ``on_decode_error`` (:mod:`kombu_hake.worker.rejections`).
    """
    if is_json(message.content_type) and is_nested_too_deep(message.body):
        return f"its body is nested deeper than {MAX_NESTING} levels"
    headers = message.headers
    try:
        payload = message.payload
    except Exception:
        return None
    if is_plain(headers, message.properties, payload):
        return None
    if "task" not in headers:
        if not isinstance(payload, dict) or "task" not in payload:
            return None
        headers = payload
    elif isinstance(payload, dict):  # between the protocols: what the headers lack is in the body
        if "args" not in payload:
            return "its body is of type dict, not [args, kwargs, embed]"
        headers = {**payload, **headers}
    return fault_of(headers, message.properties, payload)


def _stay_in_own_queue(message: HakeMessage) -> None:
    """Have a task of protocol 1 retried in the queue that it lies in; before Celery makes a request of the message.

    Does nothing to other messages, nor to one whose body cannot be decoded.
    """
    if is_task(message.headers):
        return
    about = message.lease.about if message.lease is not None else None
    if about is not None and ("task" in message.headers or _names_a_task(message)):
        message.delivery_info.update(exchange=PRIVATE_EXCHANGE, routing_key=about.queue)


def _names_a_task(message: HakeMessage) -> bool:
    try:
        payload = message.payload
    except Exception:
        return False
    return isinstance(payload, dict) and "task" in payload


def _guarded(controller: Any, process: Callable[[Any], Any]) -> Callable[[Any], None]:
    def process_task(request: Any) -> None:
        try:
            process(request)
        except MemoryError:
            raise
        except Exception as exc:
            if not isinstance(request.message, HakeMessage):
                raise
            _undo_handing_over(controller, request)
            request.message.quarantine(f"the pool does not take it: {type(exc).__name__}", exc)

    return process_task


def _survived(consumer: Any, name: str, change: Callable[..., Any]) -> Callable[..., None]:
    """A change of what a worker consumes that fails without ending the worker, and leaves no queue behind."""

    def change_queue(queue: Any, *args: Any, **options: Any) -> None:
        queues = consumer.app.amqp.queues
        known, consumed = set(queues), set(queues.consume_from)
        try:
            change(queue, *args, **options)
        except (MemoryError, *consumer.connection_errors):
            raise
        except Exception as exc:
            logger.error(
                "HAKE014 Remote control: %s of queue %s failed and changed nothing: %s",
                name, quoted(queue), summary(exc), extra=fields(queue=queue),
            )  # fmt: skip
            if isinstance(queue, str) and queue not in consumed:
                # Else the next connection would consume from it, and fail in the same way.
                queues.consume_from.pop(queue, None)
                if queue not in known:
                    queues.pop(queue, None)
                consumer.task_consumer.cancel_by_queue(queue)

    return change_queue


def _undo_handing_over(controller: Any, request: Any) -> None:
    """Undo what Celery noted for a request before handing it to the pool failed."""
    from celery.worker.state import task_ready

    task_ready(request)
    pool = getattr(controller.pool, "_pool", None)
    for job in list(getattr(pool, "_cache", {}).values()):
        if getattr(job, "correlation_id", None) == request.id and getattr(job, "_payload", None) is None:
            job.discard()  # it was never written to a process; a warm shutdown would wait for it
    release = getattr(controller, "_quick_release", None)
    if release is not None:
        # Not here: it calls the next request that waits, which may fail too.
        controller.hub.call_soon(release) if controller.hub is not None else release()
