"""Consumer groups in Celery's idiom: "this group does that when this happens".

    orders = Topic("orders")

    @orders.on("placed", group="email", autoretry_for=(SMTPError,), max_retries=5)
    def send_receipt(order_id): ...

    @orders.on("placed", group="inventory")
    def reserve_stock(order_id): ...

    event = orders.publish("placed", order_id=7)

A handler is an ordinary Celery task. A group is a queue, bound to the keys that it has handlers for: its workers are
``celery -A shop worker -Q email``. An event is one message to the topic; each handler runs it under its own task id
(:func:`kombu_hake.groups.registry.run_id`), so results, retries and revokes of one never affect another.
:mod:`kombu_hake.groups.worker` describes how a worker handles an event.

An event may have a model, against which type checkers and :meth:`Topic.send` check publishers:

    placed = orders.event_type("placed", OrderPlaced)  # a dataclass, a TypedDict or a pydantic model

    @placed.on(group="email")
    def send_receipt(order: OrderPlaced) -> None: ...

    placed.publish(order_id=7)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload
from uuid import uuid4

from celery import Task, current_app, shared_task
from celery._state import connect_on_app_finalize
from celery.local import Proxy
from celery.result import AsyncResult
from kombu import Exchange

from kombu_hake.amqp import EVENT_TASK
from kombu_hake.groups import setup as group_setup
from kombu_hake.groups.models import Model
from kombu_hake.groups.registry import Subscription, registry, run_id
from kombu_hake.groups.setup import exchange_of
from kombu_hake.groups.signatures import SEND_OPTIONS, BoundDecorator, Decorator, Handler, SendOptions
from kombu_hake.telemetry import is_celery_instrumented
from kombu_hake.topology import checked_size, checked_store

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Event", "EventType", "Topic"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


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
            handler: The handler, or the name of its task if this process has not imported it.
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

    def __init__(
        self,
        name: str,
        *,
        app: Any = None,
        dead_letters: bool = True,
        max_size: int | None = None,
        large_messages: str | None = None,
    ) -> None:
        """Define a topic. It is declared when it is first used.

        Args:
            name: Name of the exchange, and so of the SNS topic.
            app: The app that handlers and events belong to; None means shared tasks and the current app, as with
                :func:`celery.shared_task`.
            dead_letters: Give groups that handle its events a dead-letter queue.
            max_size: Bytes of its largest events, envelope included: more than 262,144, and up to 1,048,576. Its SNS
                topic is raised to accept them, and may then have 100 subscriptions.
            large_messages: Location of events that are too large for SNS, ``s3://bucket/prefix``; None for the option
                ``large_messages``.
        Raises:
            DeclarationMismatch: ``max_size`` is not a number of bytes that a topic can be raised to, or
                ``large_messages`` is not the URL of a bucket.
            ConfigurationError: the app has a topic of this name with another ``large_messages``.
            TypeError: the name is not text, or empty.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f'a topic needs a name, such as Topic("orders"), not {name!r}')
        self.name = name
        self.max_size = checked_size(name, max_size)
        self.dead_letters = dead_letters
        checked_store(name, large_messages)
        self.large_messages = large_messages
        self._app = app
        self._event_types: dict[str, EventType[..., Any]] = {}
        registry.add_topic(self)

    def __repr__(self) -> str:
        return f"<Topic {self.name}>"

    @property
    def app(self) -> Any:
        """The Celery app that events are published with."""
        return self._app if self._app is not None else current_app._get_current_object()

    @property
    def exchange(self) -> Exchange:
        """The exchange, for kombu."""
        return exchange_of(self.name, self.max_size, self.large_messages)

    def event_type(self, key: str, model: Callable[P, T]) -> EventType[P, T]:
        """Give the events of a key a model. Each later publish of this key through this object is checked.

        Args:
            key: A routing key, without ``*`` and ``#``.
            model: A dataclass, a TypedDict, or a pydantic model. Its fields are the payload.
        Raises:
            TypeError: the model has another type or a field that JSON cannot represent, or the key has another model.
        """
        if not isinstance(key, str) or not key or {"*", "#"} & set(key.split(".")):
            raise TypeError(f"the key of an event type must be text without wildcards, not {key!r}")
        known = self._event_types.get(key)
        if known is not None and known.model != model:
            raise TypeError(f"the events {key!r} of topic {self.name!r} have the model {known.model!r} already")
        made = EventType(self, key, model)
        self._event_types.setdefault(key, made)
        return made

    @overload
    def on(
        self, *keys: str, group: str, as_mapping: bool = False, bind: Literal[True], **options: Any
    ) -> BoundDecorator: ...
    @overload
    def on(
        self, *keys: str, group: str, as_mapping: bool = False, bind: Literal[False] = False, **options: Any
    ) -> Decorator: ...
    def on(self, *keys: str, group: str, as_mapping: bool = False, **options: Any) -> Any:
        """Make a function, or a task class, the handler of a group for some keys; a decorator.

        Args:
            keys: Binding keys: ``"placed"``, ``"order.*"`` (one word), ``"order.#"`` (any number of words).
            group: The group, which is the name of its queue: ``celery worker -Q <group>``.
            as_mapping: Call it with the payload as one positional mapping, not as keyword arguments.
            options: Options of the task, as for ``@shared_task``. ``acks_late`` is True unless you or the base class
                set it, so that an event is deleted only after its handler has finished.
        Returns:
            A decorator that returns the task. For an existing task it only adds the subscription. For type checkers
            the task has the parameters of the function, so they find a wrong ``handler.delay()``.
        Raises:
            TypeError: no key, an option that the group decides, or options for an existing task.
        """
        return self._on(keys, group, options, as_mapping=as_mapping)

    def _on(
        self, keys: tuple[str, ...], group: str, options: dict[str, Any], *, as_mapping: bool = False, model: Any = None
    ) -> Callable[[Any], Any]:
        if not keys or not all(isinstance(key, str) for key in keys):
            raise TypeError('name at least one key as text: @topic.on("placed", group="email")')
        if not isinstance(group, str) or not group:
            raise TypeError("group must be the name of a queue")
        for option in ("queue", "exchange", "routing_key"):
            if option in options:
                raise TypeError(f"option {option!r} is decided by the group: its tasks are in queue {group!r}")

        def register(handler: Any) -> Any:
            task, name_in = self._task(handler, options, model)
            for key in keys:
                subscription = Subscription(
                    self.name, key, group, name_in, as_mapping, self.dead_letters, self.max_size, self.large_messages
                )
                registry.add(subscription, self._app)
            group_setup.announce(self._app)
            return task

        return register

    def publish(self, key: str, /, **payload: Any) -> Event:
        """Publish an event: one request, for any number of groups. Returns when AWS has accepted it.

        Inside ``kombu_hake.batch()`` it is collected. Any process with the app's settings can publish, even without the
        handlers.

        Args:
            payload: The keyword arguments of the handlers.
        Raises:
            InvalidEvent: the key has a model (:meth:`event_type`), which the payload does not match.
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
        **options: Unpack[SendOptions],
    ) -> Event:
        """Publish an event with options.

        Args:
            payload: The keyword arguments of the handlers.
            event_id: Text that identifies the event; if it is published again with this id, its runs have the same ids.
            on_commit: Wait for Django's transaction to commit; the alias of a database, or True for the default one.
            options: Those of ``apply_async``: ``countdown``, ``eta``, ``expires``, ``priority``, ``headers``,
                ``serializer``, ``compression``, ``retry``, ``retry_policy``, ``producer``, ``connection``, ``tenant``,
                ``message_attributes``; and for FIFO topics ``MessageGroupId`` and ``MessageDeduplicationId``.

        Raises:
            InvalidEvent: the key has a model (:meth:`event_type`), which the payload does not match.
            TypeError: the key is not text, or an unknown option.
        """
        if not isinstance(key, str):
            raise TypeError(f'the key of an event must be text, as in orders.publish("placed"), not {key!r}')
        known = self._event_types.get(key)
        data = dict(payload or {}) if known is None else known._model.dump(payload or {})
        return self._publish(key, data, event_id, on_commit, dict(options))

    def _publish(
        self, key: str, payload: dict[str, Any], event_id: str | None, on_commit: bool | str, options: dict[str, Any]
    ) -> Event:
        unknown = sorted(set(options) - SEND_OPTIONS)
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r} of an event: options of tasks belong to its handlers")
        event = self.event(key, event_id or str(uuid4()))
        send = partial(self._send, event, payload, options)
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
        if is_celery_instrumented():  # which loses the span of a task that is not registered
            group_setup.have_event_task(app)
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

    def _task(self, handler: Any, options: dict[str, Any], model: Any) -> tuple[Any, Callable[[Any], str]]:
        """The handler as a task, and a function for its name in an app.

        Args:
            model: The :class:`Model` that it gets instances of; None for keyword arguments.
        """
        if isinstance(handler, Proxy | Task):
            if model is not None and not any(task is handler and cls is model.cls for task, cls in _typed):
                raise TypeError(f"the handler is a task already, but not one that gets a {model.cls.__name__}")
            if options:
                raise TypeError(f"the handler is a task already: set {', '.join(sorted(options))} where it is defined")
            return handler, lambda app: str(handler.name)
        base = handler if inspect.isclass(handler) else options.get("base")
        own: dict[str, Any] = {"acks_late": True} if getattr(base, "acks_late", None) is None else {}
        if model is not None:
            own["apply_async"] = _apply_async_of(model)
        task, name_in = self._new_task(handler, own | options, model)
        if model is not None:
            _typed.append((task, model.cls))
        return task, name_in

    def _new_task(self, handler: Any, options: dict[str, Any], model: Any) -> tuple[Any, Callable[[Any], str]]:
        if inspect.isclass(handler):
            return self._class_task(handler, options, model)
        name_in = partial(_function_name, handler, options.get("name"))
        function = handler if model is None else _run_of(handler, model, is_bound=bool(options.get("bind")))
        if self._app is None:
            return shared_task(**options)(function), name_in
        app = self._app
        app.task(**{"shared": False} | options)(function)
        # Not Celery's own lazy task: using this one finalizes the app, which creates its queues and routes.
        return Proxy(lambda: app.tasks[name_in(app)]), name_in

    def _class_task(self, cls: Any, options: dict[str, Any], model: Any) -> tuple[Any, Callable[[Any], str]]:
        if not issubclass(cls, Task):
            raise TypeError(f"{cls.__name__} must be a function or a subclass of celery.Task")
        name_in = partial(_class_name, cls, options.get("name"))
        # Celery registers instances; the options become attributes, as with the decorator for functions.
        own = {**options, "__module__": cls.__module__, "__doc__": cls.__doc__}
        if model is not None:
            own["run"] = _run_of(cls.run, model, is_bound=True)
        made = type(cls.__name__, (cls,), own)

        def register(app: Any) -> None:
            task = made()
            task.name = name_in(app)
            if task.name not in app._tasks:
                app.register_task(task, **options)

        _for_each_app(self._app, register)
        return Proxy(lambda: self.app.tasks[name_in(self.app)]), name_in


class EventType(Generic[P, T]):
    """The events of one key of a topic, with their model; see :meth:`Topic.event_type`.

    On the wire the payload is a JSON object with the fields of the model, so handlers with keyword arguments
    (:meth:`Topic.on`) can read it too. ``datetime``, ``date``, ``time``, ``UUID`` and ``Decimal`` become text, and an
    ``Enum`` becomes its value.

    Attributes:
        topic: The :class:`Topic`.
        key: The routing key.
        model: The class.
    """

    def __init__(self, topic: Topic, key: str, model: Callable[P, T]) -> None:
        self.topic = topic
        self.key = key
        self.model = model
        self._model: Model[T] = Model(model, f"event {key!r} of topic {topic.name!r}")

    def __repr__(self) -> str:
        return f"<EventType {self.key} of {self.topic!r}>"

    def publish(self, /, *args: P.args, **fields: P.kwargs) -> Event:
        """Publish an event from the arguments of the model, as :meth:`Topic.publish` does.

        Raises:
            InvalidEvent: the model does not allow these fields; nothing was sent.
            kombu.exceptions.OperationalError: AWS did not answer, after the retries of ``task_publish_retry_policy``.
        """
        return self.send(self._model.make(*args, **fields))

    def publish_on_commit(self, /, *args: P.args, **fields: P.kwargs) -> Event:
        """As :meth:`publish`, after Django's transaction has committed. The fields are checked immediately."""
        return self.send(self._model.make(*args, **fields), on_commit=True)

    def send(
        self, payload: T, *, event_id: str | None = None, on_commit: bool | str = False, **options: Unpack[SendOptions]
    ) -> Event:
        """Publish an instance of the model with options, those of :meth:`Topic.send`.

        Raises:
            InvalidEvent: a field has another type than the model says; nothing was sent.
            TypeError: an unknown option.
        """
        return self.topic._publish(self.key, self._model.dump(payload), event_id, on_commit, dict(options))

    @overload
    def on(
        self, *, group: str, bind: Literal[True], **options: Any
    ) -> Callable[[Callable[[Any, T], R]], Handler[[T], R]]: ...
    @overload
    def on(
        self, *, group: str, bind: Literal[False] = False, **options: Any
    ) -> Callable[[Callable[[T], R]], Handler[[T], R]]: ...
    def on(self, *, group: str, **options: Any) -> Any:
        """As :meth:`Topic.on`, for a handler that gets an instance of the model as its only argument.

        If an event does not match the model, the handler's task fails with :class:`InvalidEvent`, and the event is
        dead-lettered as after any other exception. Fields that the model does not have are ignored.

        Args:
            group: The group, which is the name of its queue.
            options: Options of the task, as for ``@shared_task``.
        Raises:
            TypeError: as :meth:`Topic.on`, or the handler is a task that does not get instances of this model.
        """
        return self.topic._on((self.key,), group, options, model=self._model)


#: The tasks that get instances of a model, and its class.
_typed: list[tuple[Any, Any]] = []


def _run_of(function: Callable[..., Any], model: Model[Any], *, is_bound: bool) -> Callable[..., Any]:
    """The function of a task whose message has the payload as keyword arguments, or as one mapping."""

    def instance(args: tuple[Any, ...], payload: dict[str, Any]) -> Any:
        if args and (payload or len(args) > 1):
            raise TypeError(f"{function.__name__} takes one argument, an instance of {model.cls.__name__}")
        return model.parse(args[0] if args else payload)

    if is_bound:

        @wraps(function)
        def run(self: Any, /, *args: Any, **payload: Any) -> Any:
            return function(self, instance(args, payload))

    else:

        @wraps(function)
        def run(*args: Any, **payload: Any) -> Any:
            return function(instance(args, payload))

    return run


def _apply_async_of(model: Model[Any]) -> Callable[..., Any]:
    """``Task.apply_async`` that sends an instance of the model as keyword arguments, like an event.

    It also sends retries, with the keyword arguments that were received: these are not checked again.
    """

    def apply_async(self: Any, args: Any = None, kwargs: Any = None, *others: Any, **options: Any) -> Any:
        if args and len(args) == 1 and not kwargs:
            args, kwargs = (), model.dump(args[0])
        # The class of the task is one that Celery makes, with this function among its attributes.
        mine = next(cls for cls in type(self).__mro__ if cls.__dict__.get("apply_async") is apply_async)
        return super(mine, self).apply_async(args, kwargs, *others, **options)  # type: ignore[arg-type]

    return apply_async


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
