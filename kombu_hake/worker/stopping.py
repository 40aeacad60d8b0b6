"""A Celery worker that ends gives back at once what it has received and not started.

Celery finishes its running tasks before it closes its connection, and what it had prefetched would stay invisible to
other workers for as long. So three places of the worker are looked at, all known from the signal ``worker_ready``:

* the start of a shutdown by signal (``worker_shutting_down``): polling stops, and what is buffered here is given back;
* the wait of a soft shutdown (``worker_soft_shutdown_timeout``, Celery 5.5): also what Celery holds and has not
  started, because the main thread sleeps in the signal handler until the time is over;
* the moment before the consumer forgets its reserved tasks (``Consumer.on_close``): what Celery has not started.

The first two happen in a signal handler of the main thread, which may hold any lock. So the handler only rings for a
thread, which does the work. It also wakes the event loop, which may sleep for seconds, and it does the same for the
solo pool, whose main thread is busy with a task.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from kombu_hake.aws import Background
from kombu_hake.quoting import guarded

__all__ = ["on_ready"]

logger = guarded(logging.getLogger(__name__))
#: How often the thread looks for notes without having been woken.
_LOOK_S = 60.0
#: That of this process's worker.
_bells: list[_Bell] = []


def on_ready(consumer: Any) -> None:
    """Have a worker give back what it holds when it ends."""
    from celery.signals import worker_shutting_down

    for old in _bells:  # of an earlier worker of this process
        old.stop()
    bell = _Bell(consumer)
    _bells[:] = [bell]
    worker_shutting_down.connect(_on_shutting_down, weak=False, dispatch_uid="kombu_hake.worker.stopping")
    blueprint, pool, controller = consumer.blueprint, consumer.pool, consumer.controller
    blueprint.on_close = _before(blueprint.on_close, lambda: _give_back(consumer, with_unstarted=True))
    if hasattr(pool, "executor"):
        pool.on_apply = _keeping(pool.on_apply)
    if hasattr(controller, "wait_for_soft_shutdown"):
        wait, ring = controller.wait_for_soft_shutdown, partial(bell.ring, with_unstarted=True)
        controller.wait_for_soft_shutdown = _before(wait, ring)


def _on_shutting_down(**_kwargs: Any) -> None:
    for bell in _bells:
        bell.ring(with_unstarted=False)


def _before(then: Callable[[], Any] | None, first: Callable[[], None]) -> Callable[[], Any]:
    """A function without arguments that calls one after the other."""

    def both() -> Any:
        first()
        return then() if then is not None else None

    return wraps(then)(both) if then is not None else both


def _keeping(apply: Callable[..., Any]) -> Callable[..., Any]:
    """What hands a task to the thread pool, so that it can be taken back from there: Celery's request knows the result
    by a weak reference, and nothing else refers to it (``celery/concurrency/thread.py``).
    """

    def on_apply(*args: Any, **kwargs: Any) -> Any:
        result = apply(*args, **kwargs)
        result.f.hake_result = result
        result.f.add_done_callback(_let_go)
        return result

    return on_apply


def _let_go(future: Any) -> None:
    del future.hake_result


class _Bell:
    """Has a thread give back what a worker holds; it may be rung in a signal handler."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        #: Of each ring that the thread has not heard yet: whether to give back what Celery has not started, too.
        self._rings: deque[bool] = deque()
        self._background = Background(self._work, "hake-stop", "giving back at the start of the shutdown")
        self._background.start()

    def ring(self, *, with_unstarted: bool) -> None:
        self._rings.append(with_unstarted)
        self._background.wake()

    def stop(self) -> None:
        self._background.stop(0.0)

    def _work(self) -> float:
        while self._rings:
            _give_back(self._consumer, with_unstarted=self._rings.popleft())
        return _LOOK_S


def _give_back(consumer: Any, *, with_unstarted: bool) -> None:
    """Give back what is buffered, and what Celery has not started. Never raises: the shutdown must continue."""
    try:
        channel = getattr(consumer.task_consumer, "channel", None)
        if channel is not None and getattr(channel, "connection", None) is not None:
            channel.connection.wake()
            channel.stop_receiving()
            if with_unstarted:
                channel.give_back_unstarted()
    except Exception:
        logger.exception("HAKE110 Unexpected error while releasing unstarted tasks at the start of the shutdown.")
