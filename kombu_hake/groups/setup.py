"""Set up an app for groups: their queues, the event task, and a step of the worker.

Runs when the app is finalized, and again for handlers that are imported later. Queues are *added* to the app's
own: with ``task_queues`` set, Celery would drop its default queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Task, _state
from kombu import Exchange, Queue, binding

from kombu_hake.amqp import EVENT_TASK, IF_MADE
from kombu_hake.aws import SingleFlight
from kombu_hake.groups.registry import Subscription, registry
from kombu_hake.topology import SIZE_ARGUMENT, STORE_ARGUMENT

__all__ = ["announce", "exchange_of", "finalized_apps", "have_event_task", "route"]

#: Only one thread at a time changes apps.
_one_at_a_time = SingleFlight()
_connected: list[Any] = []
_ROUTER = "kombu_hake.groups.setup:route"


class _TopicExchange(Exchange):  # type: ignore[misc]
    """The exchange of a topic.

    ``opentelemetry-instrumentation-celery`` assumes that a publish declares queues, and reads their exchange.
    """

    @property
    def exchange(self) -> Exchange:
        """Itself."""
        return self


class EventTask(Task):  # type: ignore[misc]
    """The placeholder task of an event until a worker has found its handlers; see :mod:`kombu_hake.groups.worker`."""

    name = EVENT_TASK
    ignore_result = True
    Strategy = "kombu_hake.groups.worker:event_strategy"

    def run(self, *_args: Any, **_kwargs: Any) -> None:
        """Never called by a worker."""
        raise NotImplementedError("An event is published with Topic.publish, not run as a task.")


def announce(app: Any) -> None:
    """Set up apps after new subscriptions were added: *app*, or all apps if it is None."""
    with _one_at_a_time("setup"):
        if not _connected:
            _connected.append(_on_finalize)
            _state.connect_on_app_finalize(_on_finalize)
    for concerned in finalized_apps() if app is None else [app] if app.finalized else []:
        _install(concerned)


def finalized_apps() -> list[Any]:
    """The apps of this process that have evaluated their tasks."""
    return [app for app in _state._get_active_apps() if app.finalized]


def _on_finalize(app: Any) -> None:
    if registry.all(app):
        _install(app)


def have_event_task(app: Any) -> None:
    """Register the placeholder task of events in an app that may have no handlers."""
    with _one_at_a_time("setup"):
        if EVENT_TASK not in app._tasks:
            app.register_task(EventTask())


def _install(app: Any) -> None:
    """Idempotent: called again for every subscription that is added later."""
    have_event_task(app)
    with _one_at_a_time("setup"):
        routes = _as_list(app.conf.task_routes)
        if _ROUTER not in routes:
            # By update(), which also replaces a router that Celery has already created for an earlier publish.
            app.conf.update(task_routes=[_ROUTER, *routes])
        app.steps["consumer"].add("kombu_hake.groups.worker:GroupStep")
        for subscription in registry.all(app):
            _add_queue(app.amqp.queues, subscription)


def route(name: str, _args: Any, _kwargs: Any, _options: Any, task: Any = None) -> dict[str, str] | None:
    """A router of ``task_routes``: a handler that is called like a task goes to its group's queue."""
    if task is None:  # not registered in this app, so not one of its handlers
        return None
    groups = (item.group for item in registry.all(task.app) if item.name_in(task.app) == name)
    group = next(groups, None)
    return {"queue": group} if group else None


def _as_list(routes: Any) -> list[Any]:
    """As Celery reads ``task_routes`` (``celery/app/routes.py``, ``prepare``)."""
    if routes is None:
        return []
    return list(routes) if isinstance(routes, list | tuple) else [routes]


def _add_queue(queues: Any, subscription: Subscription) -> None:
    name = subscription.group
    if name not in queues:
        # Its own direct exchange makes handler.delay() a send to this queue alone.
        queue = Queue(name, Exchange(name, type="direct"), routing_key=name)
        queues.add(queue)
        # A worker without -Q consumes all queues that the app names, as with task_queues; older Celery does this
        # without our help.
        getattr(queues, "_default_consume_from", {}).setdefault(name, queue)
    queue = queues[name]
    if subscription.dead_letters:
        queue.queue_arguments = _with_dead_letters(queue.queue_arguments or {})
    if queue.exchange is not None and queue.exchange.name and not queue.bindings:
        # kombu drops the exchange of a queue that has bindings (kombu/entity.py, ``Queue.__init__``).
        queue.bindings.add(binding(queue.exchange, queue.routing_key, queue.binding_arguments))
    if not any(_is_of(subscription, known) for known in queue.bindings):
        exchange = exchange_of(subscription.topic, subscription.max_size, subscription.large_messages)
        queue.bindings.add(binding(exchange, subscription.key))


def exchange_of(topic: str, max_size: int | None, large_messages: str | None) -> Exchange:
    """The exchange of a topic, for kombu."""
    given = {SIZE_ARGUMENT: max_size, STORE_ARGUMENT: large_messages}
    arguments = {name: value for name, value in given.items() if value is not None}
    return _TopicExchange(topic, type="topic", arguments=arguments or None)


def _with_dead_letters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a queue, with a dead-letter queue unless they specify otherwise."""
    says = "x-dead-letter-exchange" in arguments or "x-dead-letter-queue" in arguments
    return dict(arguments) if says else {**arguments, "x-dead-letter-queue": IF_MADE}


def _is_of(subscription: Subscription, known: Any) -> bool:
    return bool(known.exchange.name == subscription.topic and known.routing_key == subscription.key)
