"""Where a published message goes: exchange and routing key to queues and topics.

A producer needs to know only the exchange's name. What is found out once is remembered; nothing is asked per message.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from kombu_hake.amqp import PRIVATE_EXCHANGE, QueueUrl, TopicArn, is_mailbox, is_reply_exchange, reply_queue
from kombu_hake.aws import TtlCache
from kombu_hake.config import Settings
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    InvalidName,
    QueueNotFound,
    ReplyQueueNotFound,
    Unroutable,
)
from kombu_hake.publish.events import Listeners
from kombu_hake.quoting import guarded
from kombu_hake.topology import Topology

__all__ = ["QueueTarget", "Routes", "Target", "TopicTarget"]

logger = guarded(logging.getLogger(__name__))
#: How long "there is no such queue" (or topic) is believed where both are possible.
_ABSENT_TTL_S = 60.0
#: How often an exchange is looked at for having no queue at all.
_ROUTABLE_TTL_S = 600.0


class QueueTarget(NamedTuple):
    """Send to a queue."""

    queue: str
    url: QueueUrl


class TopicTarget(NamedTuple):
    """Publish to a topic."""

    exchange: str
    arn: TopicArn


Target = QueueTarget | TopicTarget


class Routes:
    """Resolves publishes against a :class:`Topology`. Safe to share between threads."""

    def __init__(self, topology: Topology, settings: Settings) -> None:
        self._topology = topology
        self._settings = settings
        self._own_queue: TtlCache[str, QueueUrl | None] = TtlCache(_ABSENT_TTL_S)
        self._routable: TtlCache[str, bool] = TtlCache(_ROUTABLE_TTL_S)
        self._unchecked: TtlCache[str, None] = TtlCache(_ABSENT_TTL_S)
        self._warned: TtlCache[str, None] = TtlCache(_ABSENT_TTL_S)
        self.listeners = Listeners(self._count_listeners)

    def resolve(self, exchange: str, routing_key: str, *, mandatory: bool = False) -> list[Target]:
        """The targets of a publish; ``[]`` when it reaches nobody and that is all right.

        Raises:
            Unroutable: it would reach nobody, and ``mandatory`` or ``unroutable=raise`` asks for an error.
            ReplyQueueNotFound: nobody waits for this reply any more.
            AccessDenied: the exchange's topic was denied to this process before; or the message may be for the queue of
                the exchange's name, and looking for that is denied.
            BrokerUnavailable: AWS could not be asked what is needed to decide. Nothing was sent; the next publish asks.
        """
        if is_reply_exchange(exchange):
            return [self._reply(exchange, routing_key)]
        if not exchange or exchange == PRIVATE_EXCHANGE:
            return self._direct(routing_key, mandatory)
        denied = self._topology.denied(exchange)
        own = self._own(exchange) if exchange == routing_key else None
        if self.is_event_exchange(exchange) and (
            denied is not None or not self.listeners.is_heard(exchange, routing_key)
        ):
            return []
        if denied is not None and own is None:
            raise denied
        if own is not None:
            return [QueueTarget(exchange, own), *self._topic_too(exchange, denied is None)]
        return [self._topic(exchange, routing_key, mandatory)]

    def queue_is_gone(self, queue: str, *, mandatory: bool = False) -> list[Target]:
        """Where to send instead, after AWS said that the queue does not exist: made again if it was declared here."""
        self._own_queue.forget(queue)
        url = self._topology.make_again(queue)
        if url is None:
            return self._unroutable("", queue, mandatory=mandatory)
        return [QueueTarget(queue, url)]

    def topic_is_gone(self, exchange: str, routing_key: str, *, mandatory: bool = False) -> list[Target]:
        """Where to publish instead, after AWS said that the topic does not exist: it is created."""
        if self._settings.is_best_effort(exchange):
            self._topology.topics.is_gone(exchange)
            self.listeners.nobody(exchange)
            return []
        self._routable.forget(exchange)
        arn = self._topology.topics.create(exchange, self._topology.exchange_type(exchange))
        logger.info("Created the topic of exchange %s on its first publish.", exchange)
        must_know = mandatory or self._settings.unroutable == "raise"
        if not self._has_queue(exchange, must_know=must_know):
            return self._unroutable(exchange, routing_key, mandatory=mandatory)
        return [TopicTarget(exchange, arn)]

    def is_event_exchange(self, exchange: str) -> bool:
        """Whether publishing is skipped while nobody listens.

        Celery sends a heartbeat event every two seconds, listened to or not. Remote control is the other best-effort
        exchange, and rare: it is always sent, because "nobody listens" may be minutes old.
        """
        return self._settings.is_best_effort(exchange) and not is_mailbox(exchange)

    def _count_listeners(self, exchange: str) -> int | None:
        self._topology.topics.forget_subscribers(exchange)
        try:
            return self._topology.topics.subscribers(exchange)
        except BrokerUnavailable as exc:
            logger.debug("The listeners of exchange %s can't be counted, so events are sent: %s", exchange, exc)
            return None

    def _reply(self, exchange: str, routing_key: str) -> QueueTarget:
        queue = reply_queue(exchange, routing_key)
        try:
            return QueueTarget(queue, self._topology.queues.url(queue))
        except QueueNotFound as exc:
            raise ReplyQueueNotFound(f"Nobody waits for this reply any more: {exc}") from exc

    def _direct(self, queue: str, mandatory: bool) -> list[Target]:
        if not queue:
            raise InvalidName(
                "A message to the default exchange needs a queue's name as routing key. If a Celery route led here: "
                "Celery drops the exchange of a route that has no routing_key, so give the route one."
            )
        try:
            return [QueueTarget(queue, self._topology.queues.url(queue))]
        except QueueNotFound:
            return self._unroutable("", queue, mandatory=mandatory)

    def _own(self, exchange: str) -> QueueUrl | None:
        """The queue of the exchange's own name, where publishing with that name as key means that queue.

        That is so for a direct exchange (``direct_exchanges=auto``). An exchange that this process did not declare may
        be of any type: then it is so when it has no topic, because any other binding would have made one.

        Raises:
            AccessDenied: looking for the queue is denied. Its topic may be another way, or lead nowhere: a queue is not
                subscribed to the topic of its own name. So that is for the user to decide.
            BrokerUnavailable: AWS could not be asked.
        """
        if self._settings.direct_exchanges != "auto":
            return None
        exchange_type = self._topology.exchange_type(exchange)
        if exchange_type not in (None, "direct"):
            return None
        if exchange_type is None and self._topology.has_topic(exchange):
            return None
        if self._topology.queues.spec(exchange) is not None:  # declared here since
            return self._topology.queues.find(exchange)
        try:
            return self._own_queue.get(exchange, lambda: self._topology.queues.find(exchange))
        except AccessDenied as exc:
            raise AccessDenied(
                f"A message to exchange {exchange!r} with the same routing key is for queue {exchange!r}, if there is "
                f"one, and looking for it is denied. Allow {exc.action}, name the queue in predefined_queues, declare "
                f"the exchange with its type (topic, fanout or headers), or use direct_exchanges=topic: {exc}",
                action=exc.action,
                resource=exc.resource,
            ) from exc

    def _topic_too(self, exchange: str, allowed: bool) -> list[Target]:
        if not allowed or not self._topology.topics.subscribers(exchange):
            return []
        return [TopicTarget(exchange, self._topology.topics.arn(exchange))]

    def _topic(self, exchange: str, routing_key: str, mandatory: bool) -> Target:
        target = TopicTarget(exchange, self._topology.topics.arn(exchange))
        heeded = mandatory or (self._settings.unroutable != "ignore" and not self._settings.is_best_effort(exchange))
        if heeded and not self._has_queue(exchange, must_know=mandatory or self._settings.unroutable == "raise"):
            self._unroutable(exchange, routing_key, mandatory=mandatory)
        return target

    def _has_queue(self, exchange: str, *, must_know: bool) -> bool:
        """Whether a queue is bound to the exchange; yes where that may not be read.

        Args:
            must_know: Raise BrokerUnavailable where AWS can't be asked. Otherwise only a warning depends on it: yes,
                and not asked again for a minute.
        """
        if not must_know and self._unchecked.has(exchange):
            return True
        try:
            found = self._routable.get(exchange, lambda: self._topology.topics.subscribers(exchange) != 0)
        except BrokerUnavailable as exc:
            if must_know:
                raise
            logger.debug("Whether a queue is bound to exchange %s can't be seen: %s", exchange, exc)
            self._unchecked.get(exchange, lambda: None)
            return True
        if not found:  # believe the bad news for a minute only
            self._routable.forget(exchange)
        return found

    def _unroutable(self, exchange: str, routing_key: str, *, mandatory: bool) -> list[Target]:
        where = f"exchange {exchange!r} with routing key {routing_key!r}" if exchange else f"queue {routing_key!r}"
        text = (
            f"A message to {where} reaches nobody: "
            + ("no queue is bound to the exchange" if exchange else "there is no such queue")
            + ". Start (or declare) its consumers first; the option unroutable says what happens to such messages."
        )
        if mandatory or self._settings.unroutable == "raise":
            raise Unroutable(text)
        if self._settings.unroutable == "warn":
            self._warned.get(where, lambda: logger.warning("%s", text))
        return []
