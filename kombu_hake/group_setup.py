"""What an app needs to have groups: their queues, the event task, and a step of the worker.

Done when the app is finalized, and again for handlers that are imported after that. Queues are *added* to the app's own:
setting ``task_queues`` would make Celery forget its default queue.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import Task, _state
from celery.worker.request import Request
from kombu import Exchange, Queue, binding
from kombu.utils.imports import symbol_by_name

from kombu_hake.group_registry import EVENT_TASK, Subscription, registry

__all__ = ["announce", "finalized_apps"]

_lock = threading.RLock()
_is_connected = False


class EventTask(Task):  # type: ignore[misc]
    """Stands for an event until a worker has found its handlers; see :mod:`kombu_hake.group_strategy`."""

    name = EVENT_TASK
    ignore_result = True
    Strategy = "kombu_hake.group_strategy:event_strategy"

    def run(self, *_args: Any, **_kwargs: Any) -> None:
        """Never called by a worker."""
        raise NotImplementedError("An event is published with Topic.publish, not run as a task.")


def announce(app: Any) -> None:
    """There are new subscriptions: of *app*, or of all apps."""
    global _is_connected  # noqa: PLW0603 - Celery keeps its finalizers for the life of the process too
    with _lock:
        if not _is_connected:
            _is_connected = True
            _state.connect_on_app_finalize(_on_finalize)
    for concerned in finalized_apps() if app is None else [app] if app.finalized else []:
        _install(concerned)
        _prepare_handlers(concerned)


def finalized_apps() -> list[Any]:
    """The apps of this process that have evaluated their tasks."""
    return [app for app in _state._get_active_apps() if app.finalized]


def _on_finalize(app: Any) -> None:
    if registry.all(app):
        _install(app)
    # Also where there are none yet: those of a task that is evaluated late are complete only then.
    app.on_after_finalize.connect(_after_finalize, sender=app, weak=False)


def _after_finalize(sender: Any, **_kwargs: Any) -> None:
    _prepare_handlers(sender)


def _install(app: Any) -> None:
    """Idempotent, and called for every subscription that comes late."""
    with _lock:
        if EVENT_TASK not in app._tasks:
            app.register_task(EventTask())
        app.steps["consumer"].add("kombu_hake.group_strategy:GroupStep")
        for subscription in registry.all(app):
            _add_queue(app.amqp.queues, subscription)


def _add_queue(queues: Any, subscription: Subscription) -> None:
    name = subscription.group
    if name not in queues:
        # Its own direct exchange is what makes handler.delay() a send to this queue alone.
        queue = Queue(name, Exchange(name, type="direct"), routing_key=name)
        queues.add(queue)
        # A worker without -Q consumes all queues that the app names, as with task_queues.
        queues._default_consume_from.setdefault(name, queue)
    queue = queues[name]
    if queue.exchange is not None and queue.exchange.name and not queue.bindings:
        # kombu drops the exchange of a queue that has bindings (kombu/entity.py, ``Queue.__init__``).
        queue.bindings.add(binding(queue.exchange, queue.routing_key, queue.binding_arguments))
    wanted = binding(Exchange(subscription.topic, type="topic"), subscription.key)
    if not any(_is_same(wanted, known) for known in queue.bindings):
        queue.bindings.add(wanted)


def _is_same(one: Any, other: Any) -> bool:
    return bool(one.exchange.name == other.exchange.name and one.routing_key == other.routing_key)


def _prepare_handlers(app: Any) -> None:
    """Have the handlers' failures go to the dead letters, whatever request class they have."""
    from kombu_hake.group_failures import GroupRequest

    for subscription in registry.all(app):
        task = app._tasks.get(subscription.name_in(app))
        if task is None:
            continue
        known = symbol_by_name(task.Request)
        if issubclass(known, GroupRequest):
            continue
        task.Request = GroupRequest if known is Request else type(known.__name__, (GroupRequest, known), {})
