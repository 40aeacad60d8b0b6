"""What a Celery app declares: its queues, bindings and exchanges, as values; and what that comes to in AWS.

Queues are those of the app (``task_queues``, the default queue, the groups of its topics), and those that tasks are
routed to: by ``task_routes``, by a task's own ``queue`` option, and by the schedule of ``celery beat``. A router that
is a function can't be asked for all its answers; declare the queues that it names in ``task_queues``.

Exchanges are those of bindings and routes, and every ``Topic`` of the app, if it only publishes to it, too.

Makes no call but for the account, if that is unknown. What AWS is to have is decided in :mod:`kombu_hake.topology`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from kombu import Exchange, Queue
from kombu.transport.base import to_rabbitmq_queue_arguments

from kombu_hake.amqp import (
    PRIVATE_EXCHANGE,
    Argument,
    Binding,
    ExchangeType,
    Store,
    is_reply_exchange,
    parse_store,
)
from kombu_hake.aws import Clients
from kombu_hake.config import Settings
from kombu_hake.exceptions import TopologyError
from kombu_hake.groups import registry
from kombu_hake.topology import (
    SIZE_ARGUMENT,
    STORE_ARGUMENT,
    Auditor,
    Blueprint,
    ExchangeSpec,
    Home,
    QueueSpec,
    blueprint,
    checked_size,
    checked_store,
    same_store,
)

__all__ = ["Declared", "DeclaredExchange", "DeclaredQueue", "declared", "stores"]


@dataclass(frozen=True)
class DeclaredQueue:
    """A queue that stays.

    Attributes:
        bindings: Sorted. Those to the default exchange and to itself are among them; they need no topic.
        is_group: The app has handlers of this group.
        is_consumed: A worker without ``-Q`` consumes it. Others are only routed to.
    """

    spec: QueueSpec
    bindings: tuple[Binding, ...] = ()
    is_group: bool = False
    is_consumed: bool = True

    @property
    def name(self) -> str:
        """Logical name."""
        return self.spec.name


@dataclass(frozen=True)
class DeclaredExchange:
    """An exchange that queues are bound to, or that is published to.

    Attributes:
        type: None if the app does not tell: a route names only the exchange.
    """

    name: str
    type: ExchangeType | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> ExchangeSpec:
        """For topology.

        Raises:
            DeclarationMismatch: its size is not a number of bytes that a topic can take.
        """
        return ExchangeSpec(self.type, checked_size(self.name, self.arguments.get(SIZE_ARGUMENT)))


@dataclass(frozen=True)
class Declared:
    """All that an app declares.

    Attributes:
        queues: Those that stay, sorted by name.
        exchanges: Those that *queues* are bound to, that tasks are routed to, and topics, sorted by name.
        temporary: Names of exchanges whose queues are temporary, with ``*`` for any text: remote control, its replies,
            events, broadcasts.
        other_queues: Names of queues that the app uses, too: those that go away (exclusive, auto-delete, expiring), and
            those that it does not declare (``no_declare``).
    """

    queues: tuple[DeclaredQueue, ...] = ()
    exchanges: tuple[DeclaredExchange, ...] = ()
    temporary: tuple[str, ...] = ()
    other_queues: tuple[str, ...] = ()

    def queue(self, name: str) -> DeclaredQueue:
        """The queue of this name; KeyError where it is not declared."""
        for queue in self.queues:
            if queue.name == name:
                return queue
        raise KeyError(name)

    def blueprint(self, settings: Settings, home: Home) -> Blueprint:
        """What ``topology=auto`` makes of it, in an account that has nothing of it yet.

        Args:
            home: Tells account, region and partition: ``Topology.home`` of a connection.
        Raises:
            ConfigurationError: the account is unknown.
            TopologyError: the arguments of a queue are wrong.
        """
        return blueprint(self._queues(), self._exchanges(), settings, home)

    def auditor(self, clients: Clients, home: Home) -> Auditor:
        """What compares AWS with it, once."""
        others = [*self.temporary, *self.other_queues]
        return Auditor(clients, clients.settings, home, self._queues(), self._exchanges(), others)

    def _queues(self) -> list[tuple[QueueSpec, tuple[Binding, ...]]]:
        return [(queue.spec, queue.bindings) for queue in self.queues]

    def _exchanges(self) -> dict[str, ExchangeSpec]:
        return {exchange.name: exchange.spec for exchange in self.exchanges}


def stores(found: Declared, settings: Settings) -> tuple[Store, ...]:
    """Where large messages are kept, as the option ``large_messages`` and the exchanges say."""
    given = (one.arguments.get(STORE_ARGUMENT) for one in found.exchanges)
    named = [parse_store(url) for url in given if url]
    return tuple(dict.fromkeys([settings.large_messages, *named] if settings.large_messages else named))


def declared(app: Any) -> Declared:
    """What a Celery app declares. Its tasks must have been imported, as :func:`kombu_hake.admin.connect` does.

    Raises:
        TopologyError: a queue or binding is declared with what AMQP does not know.
    """
    known = app.amqp.queues
    consumed = set(getattr(known, "_default_consume_from", known))
    groups = set(registry.groups(app))
    queues: dict[str, DeclaredQueue] = {}
    exchanges: dict[str, DeclaredExchange] = {}
    others: dict[str, None] = {}
    temporary: dict[str, None] = dict.fromkeys(_control_exchanges(app))
    for queue in [*known.values(), *_routed_to(app)]:
        spec = _spec(queue)
        bound = [(exchange, _binding(exchange, key, arguments)) for exchange, key, arguments in _bound(queue)]
        if spec.kind or queue.no_declare:
            others[spec.name] = None
            if spec.kind:
                temporary |= dict.fromkeys(exchange.name for exchange, _ in bound if exchange.name != spec.name)
            continue
        bindings = {binding for _, binding in bound}
        bindings |= set(queues[spec.name].bindings) if spec.name in queues else set()
        queues.setdefault(spec.name, DeclaredQueue(spec))
        queues[spec.name] = DeclaredQueue(
            queues[spec.name].spec, tuple(sorted(bindings)), spec.name in groups, spec.name in consumed
        )
        for exchange, _ in bound:
            if exchange.name and exchange.name != PRIVATE_EXCHANGE:
                exchanges[exchange.name] = _merged(_exchange(exchange), exchanges.get(exchange.name))
    for exchange in _published_to(app):
        if exchange.name:
            exchanges[exchange.name] = _merged(exchanges.get(exchange.name, exchange), exchange)
    return Declared(
        tuple(queues[name] for name in sorted(queues)),
        tuple(exchanges[name] for name in sorted(exchanges) if not is_reply_exchange(name)),
        tuple(name for name in temporary if name not in exchanges),
        tuple(others),
    )


# --- kombu's objects as ours


def _spec(queue: Queue) -> QueueSpec:
    arguments = to_rabbitmq_queue_arguments(
        queue.queue_arguments or {},
        expires=queue.expires,
        message_ttl=queue.message_ttl,
        max_length=queue.max_length,
        max_length_bytes=queue.max_length_bytes,
        max_priority=queue.max_priority,
    )
    return QueueSpec(queue.name, queue.durable, queue.exclusive, queue.auto_delete, arguments)


def _bound(queue: Queue) -> Iterator[tuple[Exchange, str, Mapping[str, Any]]]:
    """What kombu binds when the queue is declared (``kombu/entity.py``, ``Queue.declare``).

    The exchange of a queue that has bindings is dropped when it is copied for a channel (``Queue.__init__``).
    """
    if queue.exchange is not None and queue.exchange.name and not queue.bindings:
        yield queue.exchange, queue.routing_key, queue.binding_arguments or {}
    for one in queue.bindings or ():
        yield one.exchange, one.routing_key, one.arguments or {}


def _binding(exchange: Exchange, key: str, arguments: Mapping[str, Any]) -> Binding:
    for name, value in arguments.items():
        if not isinstance(value, str | int | float | bool | None):
            raise TopologyError(
                f"The binding argument {name}={value!r} to exchange {exchange.name!r} must be text, a number, a truth "
                "value or None."
            )
    items = cast("tuple[tuple[str, Argument], ...]", tuple(arguments.items()))
    return Binding(exchange.name, _type(exchange), key or "", items)


def _exchange(exchange: Exchange) -> DeclaredExchange:
    return DeclaredExchange(exchange.name, _type(exchange), exchange.arguments or {})


def _merged(one: DeclaredExchange, other: DeclaredExchange | None) -> DeclaredExchange:
    """An exchange that is declared twice: of two sizes the larger one holds, as for workers.

    Raises:
        DeclarationMismatch: its large messages have two places.
    """
    if other is None:
        return one
    same_store(one.name, *(checked_store(one.name, each.arguments.get(STORE_ARGUMENT)) for each in (one, other)))
    arguments = {**other.arguments, **one.arguments}
    sizes = [checked_size(one.name, each.arguments.get(SIZE_ARGUMENT)) or 0 for each in (one, other)]
    return DeclaredExchange(
        one.name, one.type or other.type, arguments | ({SIZE_ARGUMENT: max(sizes)} if max(sizes) else {})
    )  # fmt: skip


def _type(exchange: Exchange) -> ExchangeType:
    found = exchange.type or "direct"
    if found not in get_args(ExchangeType):
        raise TopologyError(
            f"Exchange {exchange.name!r} cannot have type {found!r}: use direct, topic, fanout or headers."
        )
    return cast(ExchangeType, found)


# --- routes


def _routed_to(app: Any) -> Iterator[Queue]:
    """The queues that tasks are routed to and that the app does not have yet."""
    known = app.amqp.queues
    for options in _destinations(app):
        queue = options.get("queue")
        if isinstance(queue, Queue):
            yield queue
        elif isinstance(queue, str) and queue and known.create_missing and queue not in {*known, *known.aliases}:
            yield _missing(known, queue)


def _missing(known: Any, name: str) -> Queue:
    """As Celery makes it when something is sent there, without adding it to those that a worker consumes."""
    queue = known.new_missing(name)
    if known.default_exchange and (queue.exchange is None or queue.exchange.name == ""):
        queue.exchange = known.default_exchange
    if not queue.routing_key:
        queue.routing_key = known.default_routing_key
    if known.max_priority is not None:
        queue.queue_arguments = {"x-max-priority": known.max_priority, **(queue.queue_arguments or {})}
    return queue


def _published_to(app: Any) -> Iterator[DeclaredExchange]:
    """The exchanges that tasks are routed to by name, and the app's topics, with handlers or without."""
    for options in _destinations(app):
        exchange = options.get("exchange")
        if isinstance(exchange, Exchange):
            yield _exchange(exchange)
        elif isinstance(exchange, str) and exchange:
            found = options.get("exchange_type")
            yield DeclaredExchange(exchange, cast(ExchangeType, found) if found in get_args(ExchangeType) else None)
    for subscription in registry.all(app):
        given = {SIZE_ARGUMENT: subscription.max_size} if subscription.max_size is not None else {}
        yield DeclaredExchange(subscription.topic, "topic", given)
    for topic in registry.topics(app):
        yield _exchange(topic.exchange)


def _destinations(app: Any) -> Iterator[Mapping[str, Any]]:
    """Every route whose destination can be read, as options of ``apply_async``."""
    from celery.app.routes import MapRoute

    for router in app.amqp.routes:
        if isinstance(router, MapRoute):
            for route in [*router.map.values(), *router.patterns.values()]:
                yield route if isinstance(route, Mapping) else {"queue": route}
    for name in sorted(app.tasks):
        task = app.tasks[name]
        yield {key: getattr(task, key, None) for key in ("queue", "exchange", "exchange_type")}
    for entry in _scheduled(app):
        options = entry.get("options")
        if isinstance(options, Mapping):
            yield options


def _scheduled(app: Any) -> Iterable[Mapping[str, Any]]:
    schedule = app.conf.beat_schedule
    return [entry for entry in schedule.values() if isinstance(entry, Mapping)] if isinstance(schedule, Mapping) else []


def _control_exchanges(app: Any) -> list[str]:
    """The exchanges of remote control and events (``celery/app/control.py``, ``celery/events``)."""
    control = f"{app.conf.control_exchange}.pidbox"
    return [control, f"reply.{control}", app.conf.event_exchange]
