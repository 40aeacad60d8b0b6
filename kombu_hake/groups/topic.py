"""Consumer groups in Celery's idiom: "this group does that when this happens".

    orders = Topic("orders")

    @orders.on("placed", group="email", autoretry_for=(SMTPError,), max_retries=5)
    def send_receipt(order_id): ...

    @orders.on("placed", group="inventory")
    def reserve_stock(order_id): ...

    event = orders.publish("placed", order_id=7)

A handler is an ordinary Celery task. A group is a queue, bound to the keys that it has handlers for: its workers are
``celery -A shop worker -Q email``. An event is one message to the topic; each handler runs it under a task id of its
own (:func:`kombu_hake.groups.registry.run_id`), so results, retries and revokes of one never affect another. How a
worker handles an event is in :mod:`kombu_hake.groups.worker`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

from celery import Task, current_app, shared_task
from celery._state import connect_on_app_finalize
from celery.local import Proxy
from celery.result import AsyncResult
from kombu import Exchange

from kombu_hake.amqp import EVENT_TASK
from kombu_hake.groups import setup as group_setup
from kombu_hake.groups.registry import Subscription, registry, run_id

__all__ = ["Event", "Topic"]

#: Options that :meth:`Topic.send` passes on to Celery. All others belong to the handlers, not to an event.
SEND_OPTIONS = frozenset(
    {"countdown", "eta", "expires", "priority", "headers", "serializer", "compression", "retry", "retry_policy"}
    | {"producer", "connection", "MessageGroupId", "MessageDeduplicationId"}
)


@dataclass(frozen=True)
class Event:
    """A published event.

    Attributes:
        topic: The :class:`Topic` that it was published to.
        key: Its routing key.
        id: Its id; the task ids of its handlers' runs are derived from it.
    """

    topic: Topic
    key: str
    id: str

    def result(self, group: str, handler: Any) -> AsyncResult:
        """The result of one handler's run.

        Args:
            handler: The handler, or the name of its task, which this process need not have.
        """
        name = handler if isinstance(handler, str) else handler.name
        return self.topic.app.AsyncResult(run_id(self.id, group, name))

    def results(self) -> dict[str, dict[str, AsyncResult]]:
        """The results by group and name of the handler's task: for the handlers that this process has imported."""
        app = self.topic.app
        app.finalize()
        found: dict[str, dict[str, AsyncResult]] = {}
        for subscription in registry.matching(app, self.topic.name, self.key):
            name = subscription.name_in(app)
            found.setdefault(subscription.group, {})[name] = self.result(subscription.group, name)
        return found

    def revoke(self, **options: Any) -> None:
        """Tell the workers not to start any handler of this event; *options* as of ``app.control.revoke``."""
        known = [result.id for group in self.results().values() for result in group.values()]
        self.topic.app.control.revoke([self.id, *known], **options)


class Topic:
    """A topic that events are published to, and groups listen to."""

    def __init__(self, name: str, *, app: Any = None, dead_letters: bool = True) -> None:
        """Declares nothing before it is needed.

        Args:
            name: Of the exchange, and so of the SNS topic.
            app: The app that handlers and events belong to; None means shared tasks and the current app, as with
                :func:`celery.shared_task`.
            dead_letters: Whether groups that listen to it get a dead-letter queue.
        """
        self.name = name
        self.dead_letters = dead_letters
        self._app = app

    def __repr__(self) -> str:
        return f"<Topic {self.name}>"

    @property
    def app(self) -> Any:
        """The Celery app that events are published with."""
        return self._app if self._app is not None else current_app._get_current_object()

    @property
    def exchange(self) -> Exchange:
        """The exchange, for kombu."""
        return Exchange(self.name, type="topic")

    def on(self, *keys: str, group: str, as_mapping: bool = False, **options: Any) -> Callable[[Any], Any]:
        """Make a function, or a task class, the handler of a group for some keys; a decorator.

        Args:
            keys: Binding keys: ``"placed"``, ``"order.*"`` (one word), ``"order.#"`` (any number of words).
            group: The group, which is the name of its queue: ``celery worker -Q <group>``.
            as_mapping: Call it with the payload as one positional mapping, not as keyword arguments.
            options: Of the task, as of ``@shared_task``. ``acks_late`` is True unless you or the base class set it,
                so that an event is deleted only after its handler has finished.
        Returns:
            A decorator that returns the task. For an existing task it only adds the subscription.
        Raises:
            TypeError: no key, an option that the group decides, or options for an existing task.
        """
        if not keys or not all(isinstance(key, str) for key in keys):
            raise TypeError('name at least one key as text: @topic.on("placed", group="email")')
        if not isinstance(group, str) or not group:
            raise TypeError("group must be the name of a queue")
        for option in ("queue", "exchange", "routing_key"):
            if option in options:
                raise TypeError(f"option {option!r} is decided by the group: its tasks are in queue {group!r}")

        def register(handler: Any) -> Any:
            task, name_in = self._task(handler, options)
            for key in keys:
                subscription = Subscription(self.name, key, group, name_in, as_mapping, self.dead_letters)
                registry.add(subscription, self._app)
            group_setup.announce(self._app)
            return task

        return register

    def publish(self, key: str, /, **payload: Any) -> Event:
        """Publish an event: one request, whatever the number of groups. Returns when AWS has accepted it.

        Inside ``kombu_hake.batch()`` it is collected. Any process that has the app's settings can publish, without any
        of the handlers.

        Args:
            payload: The keyword arguments of the handlers.
        Raises:
            kombu.exceptions.OperationalError: AWS did not answer, after the retries of ``task_publish_retry_policy``.
        """
        return self.send(key, payload)

    def publish_on_commit(self, key: str, /, **payload: Any) -> Event:
        """As :meth:`publish`, after Django's transaction has committed, and not if it is rolled back."""
        return self.send(key, payload, on_commit=True)

    def send(
        self,
        key: str,
        payload: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
        on_commit: bool | str = False,
        **options: Any,
    ) -> Event:
        """Publish an event with options.

        Args:
            event_id: Text that identifies the event; publishing it again with the same id gives its runs the same ids.
            on_commit: Wait for Django's transaction to commit; the alias of a database, or True for the default one.
            options: Of ``apply_async``: ``countdown``, ``eta``, ``expires``, ``priority``, ``headers``, ``serializer``,
                ``compression``, ``retry``, ``retry_policy``, ``producer``, ``connection``; and for FIFO topics
                ``MessageGroupId`` and ``MessageDeduplicationId``.
        Raises:
            TypeError: an unknown option.
        """
        unknown = sorted(set(options) - SEND_OPTIONS)
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r} of an event: options of tasks belong to its handlers")
        event = self.event(key, event_id or str(uuid4()))
        send = partial(self._send, event, dict(payload or {}), options)
        if on_commit:
            from django.db import transaction

            transaction.on_commit(send, using=on_commit if isinstance(on_commit, str) else None)
        else:
            send()
        return event

    def event(self, key: str, event_id: str) -> Event:
        """An event that was published earlier, to read its results."""
        return Event(self, key, event_id)

    def _send(self, event: Event, payload: dict[str, Any], options: dict[str, Any]) -> None:
        app = self.app
        if app.conf.task_always_eager:
            self._run_here(event, payload)
            return
        app.send_task(
            EVENT_TASK,
            kwargs=payload,
            task_id=event.id,
            exchange=self.name,
            routing_key=event.key,
            declare=[self.exchange],
            ignore_result=True,
            add_to_parent=False,
            **options,
        )

    def _run_here(self, event: Event, payload: dict[str, Any]) -> None:
        """``task_always_eager``: run every handler of this process, one after the other."""
        app = self.app
        app.finalize()
        for subscription in registry.matching(app, self.name, event.key):
            name = subscription.name_in(app)
            args, kwargs = ((payload,), {}) if subscription.as_mapping else ((), payload)
            app.tasks[name].apply(args, kwargs, task_id=run_id(event.id, subscription.group, name))

    def _task(self, handler: Any, options: dict[str, Any]) -> tuple[Any, Callable[[Any], str]]:
        """The handler as a task, and a function for its name in an app."""
        if isinstance(handler, Proxy | Task):
            if options:
                raise TypeError(f"the handler is a task already: set {', '.join(sorted(options))} where it is defined")
            return handler, lambda app: str(handler.name)
        base = handler if inspect.isclass(handler) else options.get("base")
        own = {"acks_late": True} if getattr(base, "acks_late", None) is None else {}
        if inspect.isclass(handler):
            return self._class_task(handler, own | options)
        name_in = partial(_function_name, handler, options.get("name"))
        if self._app is None:
            return shared_task(**own | options)(handler), name_in
        app = self._app
        app.task(**{"shared": False} | own | options)(handler)
        # Not Celery's own lazy task: using this one finalizes the app, which creates its queues and routes.
        return Proxy(lambda: app.tasks[name_in(app)]), name_in

    def _class_task(self, cls: type, options: dict[str, Any]) -> tuple[Any, Callable[[Any], str]]:
        if not issubclass(cls, Task):
            raise TypeError(f"{cls.__name__} must be a function or a subclass of celery.Task")
        name_in = partial(_class_name, cls, options.get("name"))
        # Celery registers instances; the options become attributes, as with the decorator for functions.
        made = type(cls.__name__, (cls,), {**options, "__module__": cls.__module__, "__doc__": cls.__doc__})

        def register(app: Any) -> None:
            task = made()
            task.name = name_in(app)
            if task.name not in app._tasks:
                app.register_task(task, **options)

        _for_each_app(self._app, register)
        return Proxy(lambda: self.app.tasks[name_in(self.app)]), name_in


def _for_each_app(app: Any, register: Callable[[Any], None]) -> None:
    """As Celery does with shared tasks: now, and for later apps."""
    if app is not None:
        register(app)
        return
    connect_on_app_finalize(register)
    for known in group_setup.finalized_apps():
        register(known)


def _function_name(fun: Any, name: str | None, app: Any) -> str:
    return name or str(app.gen_task_name(fun.__name__, fun.__module__))


def _class_name(cls: Any, name: str | None, app: Any) -> str:
    return name or cls.name or str(app.gen_task_name(cls.__name__, cls.__module__))
