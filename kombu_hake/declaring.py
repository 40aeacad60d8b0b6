"""The part of a channel that declares exchanges, queues and bindings, in AMQP's terms."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast, get_args
from uuid import uuid4

from kombu.transport.base import StdChannel, to_rabbitmq_queue_arguments

from kombu_hake.amqp import PRIVATE_EXCHANGE, Argument, Binding, ExchangeType, is_reply_exchange, whole
from kombu_hake.exceptions import DeclarationMismatch, InvalidName, QueueNotFound, TopicNotFound, TopologyError
from kombu_hake.quoting import guarded, quoted
from kombu_hake.temporary import Temporaries
from kombu_hake.topology import SIZE_ARGUMENT, STORE_ARGUMENT, QueueSpec, Topology, checked_size

__all__ = ["DeclaringChannel", "QueueDeclareOk"]

logger = guarded(logging.getLogger(__name__))


class QueueDeclareOk(NamedTuple):
    """AMQP's answer to ``queue.declare``."""

    queue: str
    message_count: int
    consumer_count: int


class DeclaringChannel(StdChannel):  # type: ignore[misc]
    """Declares, binds, purges and deletes. Requests counts only if the caller needs them."""

    def __init__(self, topology: Topology, temporaries: Temporaries) -> None:
        self.topology = topology
        self.temporaries = temporaries
        #: kombu's Producer adds its ``on_return`` here; a mandatory message raises instead.
        self.events: defaultdict[str, set[Callable[..., Any]]] = defaultdict(set)

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """Record an exchange; its topic is created by the first binding or publish.

        Args:
            arguments: ``x-max-message-size``: bytes of its largest messages. Its topic is raised to accept them.
        Raises:
            DeclarationMismatch: it was declared with another type, the type is not one of AMQP's, or
                ``x-max-message-size`` is not a number of bytes up to 1 MiB.
            InvalidName: its name is not text.
            TopicNotFound: ``passive``, and there is no topic. If reading it is denied, it is assumed to exist.
        """
        _require_text("exchange", exchange)
        exchange_type = type or "direct"
        name = exchange or f"amq.{exchange_type}"
        if exchange_type not in get_args(ExchangeType):
            raise DeclarationMismatch(
                f"Exchange {name!r} cannot have type {exchange_type!r}: use direct, topic, fanout or headers."
            )
        if passive:
            if self.topology.has_exchange(name) is False:
                raise TopicNotFound(f"There is no exchange {name!r}: it was not declared, and it has no topic.")
            return
        if name != PRIVATE_EXCHANGE and not is_reply_exchange(name):
            size = checked_size(name, (arguments or {}).get(SIZE_ARGUMENT))
            self.topology.declare_exchange(name, cast(ExchangeType, exchange_type), size)
            self.topology.stores.declare(name, (arguments or {}).get(STORE_ARGUMENT))

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange: its topic and all our bindings to it.

        Raises:
            DeclarationMismatch: ``if_unused``, and queues are bound to it, or its subscriptions cannot be read.
        """
        _require_text("exchange", exchange)
        self.topology.topics.forget_subscribers(exchange)
        bound = self.topology.topics.subscribers(exchange) if if_unused else 0
        if bound:
            raise DeclarationMismatch(f"Exchange {exchange!r} is in use: queues are bound to it.")
        if bound is None and self.topology.makes:
            raise DeclarationMismatch(
                f"Exchange {exchange!r} may be in use: its subscriptions cannot be read. Allow sns:GetTopicAttributes "
                "and sns:ListSubscriptionsByTopic, or delete it without if_unused."
            )
        self.topology.delete_exchange(exchange)

    def exchange_bind(self, destination: str, source: str = "", **_kwargs: Any) -> None:
        """SNS cannot send from topic to topic."""
        raise NotImplementedError(
            f"Exchange {destination!r} cannot be bound to exchange {source!r}: SNS does not deliver to topics. "
            "Bind the queues to both exchanges."
        )

    exchange_unbind = exchange_bind

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
        **_kwargs: Any,
    ) -> QueueDeclareOk:
        """Find or create a queue. The counts are 0 unless ``passive``, which makes a request.

        Raises:
            QueueNotFound: ``passive``, and it does not exist.
            DeclarationMismatch: ``x-expires``, ``x-message-ttl`` or ``x-max-priority`` is not a number.
            InvalidName: its name is not text.
        """
        _require_text("queue", queue)
        name = queue or f"amq.gen-{uuid4().hex}"
        if passive:
            self.temporaries.create()
            self.topology.queues.forget(name)
            return QueueDeclareOk(name, self.topology.queues.counts(name)[0], self._consumers_of(name))
        spec = QueueSpec(name, durable, exclusive, auto_delete, _checked(name, arguments))
        if spec.is_temporary:
            self.temporaries.declare(spec)
        else:
            self.topology.declare_queue(spec)
        return QueueDeclareOk(name, 0, 0)

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
        **_kwargs: Any,
    ) -> None:
        """Bind the queue to the exchange, for messages with a matching key.

        Raises:
            InvalidName: the name of the queue or the exchange is not text.
        """
        _require_text("queue", queue)
        binding = self._binding(exchange, routing_key, arguments)
        if self.topology.needs_topic(queue, binding):
            self.temporaries.create_fed(queue, exchange)
        else:
            self.temporaries.create()
        if not self.temporaries.is_given_up(queue):
            self.topology.bind(queue, binding)

    def queue_unbind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
        **_kwargs: Any,
    ) -> None:
        """Undo :meth:`queue_bind`."""
        _require_text("queue", queue)
        self.temporaries.create()
        self.topology.unbind(queue, self._binding(exchange, routing_key, arguments))

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, nowait: bool = False, **_kwargs: Any
    ) -> int:
        """Delete a queue and its subscriptions. Return the approximate number of ready messages; 0 for a missing queue.

        Raises:
            DeclarationMismatch: it is in use by this connection, or not empty, and the caller requires that.
        """
        _require_text("queue", queue)
        self.temporaries.create()
        if if_unused and self._consumers_of(queue):
            raise DeclarationMismatch(f"Queue {queue!r} is in use: it has consumers.")
        try:
            ready, in_flight, delayed = self.topology.queues.counts(queue)
            if if_empty and ready + in_flight + delayed:
                raise DeclarationMismatch(f"Queue {queue!r} is not empty.")
            self.topology.delete_queue(queue)
        except QueueNotFound:
            ready = 0
            self.topology.forget(queue)
        self.temporaries.forget(queue)
        return ready

    def queue_purge(self, queue: str, nowait: bool = False, **_kwargs: Any) -> int:
        """Delete the ready messages. Return their approximate number."""
        _require_text("queue", queue)
        self.temporaries.create()
        return self.topology.queues.purge(queue)

    def after_reply_message_received(self, queue: str) -> None:
        """Called when kombu's mailbox no longer needs a reply queue; it creates a new one for most commands."""
        self.temporaries.retire(queue)

    def prepare_queue_arguments(self, arguments: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """kombu's queue options as AMQP arguments (``x-expires``, ``x-message-ttl``, …)."""
        return dict(to_rabbitmq_queue_arguments(arguments, **kwargs))

    def list_bindings(self) -> list[tuple[str, str, str]]:
        """(queue, exchange, routing key) of the bindings that this process knows."""
        return self.topology.list_bindings()

    get_bindings = list_bindings

    def _binding(self, exchange: str, routing_key: str, arguments: Mapping[str, Any] | None) -> Binding:
        _require_text("exchange", exchange)
        if routing_key is not None and not isinstance(routing_key, str):
            raise TopologyError(
                f"A binding to exchange {exchange!r} must have text as routing key, not {quoted(routing_key)}."
            )
        exchange_type = self.topology.bound_type(exchange)
        items: list[tuple[str, Argument]] = []
        for name, value in sorted((arguments or {}).items()):
            if not isinstance(value, str | int | float | bool | None):
                raise TopologyError(
                    f"The binding argument {name}={value!r} to exchange {exchange!r} must be text, a number, a truth "
                    "value or None."
                )
            items.append((name, value))
        return Binding(exchange, exchange_type, routing_key or "", tuple(items))

    def _consumers_of(self, queue: str) -> int:
        """The number of this channel's consumers on the queue; SQS does not report those of other channels."""
        return 0


def _require_text(kind: str, name: object) -> None:
    if name is not None and not isinstance(name, str):
        raise InvalidName(f"The name of this {kind} must be text: {quoted(name)} is of type {type(name).__name__}.")


def _checked(queue: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    found = dict(arguments or {})
    expires = found.get("x-expires")
    is_number = isinstance(expires, int | float) and not isinstance(expires, bool) and 0 < expires < float("inf")
    if expires is not None and not is_number:
        raise DeclarationMismatch(
            f"x-expires of queue {queue!r} is {expires!r}; it must be a number of milliseconds above 0."
        )
    for name, what in (("x-message-ttl", "a number of milliseconds"), ("x-max-priority", "a number")):
        given = found.get(name)
        if given is not None and ((number := whole(given)) is None or number < 0):
            raise DeclarationMismatch(f"{name} of queue {queue!r} is {given!r}; it must be {what}, 0 or more.")
    return found
