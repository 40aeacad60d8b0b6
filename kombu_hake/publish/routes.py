"""Route published messages: from exchange and routing key to queues and topics.

A producer needs to know only the exchange's name. Answers of AWS are cached; there is no request per message. Questions
that affect only a warning, or whether more queues receive the message, are asked in the background
(:mod:`kombu_hake.publish.advice`). ``mandatory`` and ``unroutable=raise`` need the answer, and wait some seconds.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from kombu_hake.amqp import PRIVATE_EXCHANGE, QueueUrl, TopicArn, is_mailbox, is_reply_exchange, reply_queue
from kombu_hake.aws import TtlCache, patience
from kombu_hake.config import Settings
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    InvalidName,
    QueueNotFound,
    ReplyQueueNotFound,
    Unroutable,
)
from kombu_hake.publish.advice import Advice, Ask
from kombu_hake.publish.listeners import Listeners
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology import Topology

__all__ = ["QueueTarget", "Routes", "Target", "TopicTarget"]

logger = guarded(logging.getLogger(__name__))
#: How long "there is no such queue" (or topic) is valid if both are possible.
_ABSENT_TTL_S = 60.0
#: How often to check an exchange that no queue is bound to.
_ROUTABLE_TTL_S = 600.0
#: How long an old answer is used if AWS does not answer.
_OLD_ANSWER_S = 600.0
#: How long a publish that has to know whether it reaches a queue keeps asking.
_MUST_KNOW_S = 5.0


class QueueTarget(NamedTuple):
    """Send to a queue."""

    queue: str
    url: QueueUrl


class TopicTarget(NamedTuple):
    """Publish to a topic."""

    exchange: str
    arn: TopicArn
    #: False if it is not yet known whether queues are subscribed or the topic exists: then neither is an error.
    is_needed: bool = True


Target = QueueTarget | TopicTarget


class Routes:
    """Resolves publishes against a :class:`Topology`. Safe to share between threads."""

    def __init__(self, topology: Topology, settings: Settings, ask: Ask | None = None) -> None:
        """*ask* asks a question in the background; tests ask at once."""
        self._ask = ask or Advice().ask
        self._topology = topology
        self._settings = settings
        self._own_queue: TtlCache[str, QueueUrl | None] = TtlCache(_ABSENT_TTL_S)
        self._routable: TtlCache[str, bool] = TtlCache(_ROUTABLE_TTL_S)
        self._checked: TtlCache[str, None] = TtlCache(_ABSENT_TTL_S)
        self._had_topic: TtlCache[str, bool] = TtlCache(_OLD_ANSWER_S)
        self._warned: TtlCache[str, None] = TtlCache(_ABSENT_TTL_S)
        self.listeners = Listeners(self._count_listeners, self._ask)

    def resolve(self, exchange: str, routing_key: str, *, mandatory: bool = False) -> list[Target]:
        """The targets of a publish; ``[]`` if there is none and that is not an error.

        Raises:
            Unroutable: no queue would receive it, and ``mandatory`` or ``unroutable=raise`` requires an error.
            ReplyQueueNotFound: the reply queue is gone.
            AccessDenied: the exchange's topic was denied to this process before; or the message may be for the queue
                with the exchange's name, and finding that is denied.
            BrokerUnavailable: AWS could not answer a necessary question. Nothing was sent; the next publish asks again.
        """
        if not exchange or exchange == PRIVATE_EXCHANGE:
            return self._direct(routing_key, mandatory)
        if is_reply_exchange(exchange):
            return [self._reply(exchange, routing_key)]
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
        """The new targets after AWS reported that the queue does not exist; recreates it if it was declared here."""
        self._own_queue.forget(queue)
        url = self._topology.make_again(queue)
        if url is None:
            return self._unroutable("", queue, mandatory=mandatory)
        return [QueueTarget(queue, url)]

    def topic_is_gone(self, exchange: str, routing_key: str, *, mandatory: bool = False) -> list[Target]:
        """The new targets after AWS reported that the topic does not exist; creates the topic."""
        if self._settings.is_best_effort(exchange):
            self._topology.topics.is_gone(exchange)
            self.listeners.none_listens(exchange)
            return []
        self._routable.forget(exchange)
        self._checked.forget(exchange)
        arn = self._topology.topics.create(exchange, self._topology.exchange_type(exchange))
        logger.info("Created the topic of exchange %s on its first publish.", exchange)
        self._check(exchange, routing_key, mandatory)
        return [TopicTarget(exchange, arn)]

    def topic_is_absent(self, exchange: str) -> None:
        """Record that a topic that is not needed does not exist."""
        self._topology.topics.is_gone(exchange)

    def is_topic_needed(self, exchange: str) -> bool:
        """Return True if queues are subscribed to a topic, after publishing to it failed.

        Raises:
            BrokerUnavailable: AWS does not answer.
        """
        with patience(_MUST_KNOW_S):
            return bool(self._topology.topics.subscribers(exchange))

    def is_event_exchange(self, exchange: str) -> bool:
        """Return True if publishing is skipped while nothing listens.

        Celery sends a heartbeat event every two seconds, whether anything listens or not. Remote control is the other
        best-effort exchange, and rare: it is always sent, because the count of listeners may be minutes old.
        """
        return self._settings.is_best_effort(exchange) and not is_mailbox(exchange)

    def _count_listeners(self, exchange: str) -> int | None:
        self._topology.topics.forget_subscribers(exchange)
        try:
            return self._topology.topics.subscribers(exchange)
        except BrokerUnavailable as exc:
            logger.debug("Cannot count the listeners of exchange %s, so events are sent: %s", exchange, exc)
            return None

    def _reply(self, exchange: str, routing_key: str) -> QueueTarget:
        queue = reply_queue(exchange, routing_key)
        try:
            return QueueTarget(queue, self._topology.queues.url(queue))
        except QueueNotFound as exc:
            raise ReplyQueueNotFound(f"The queue for this reply is gone: {exc}") from exc

    def _direct(self, queue: str, mandatory: bool) -> list[Target]:
        if not queue:
            raise InvalidName(
                "A message to the default exchange needs a queue's name as routing key. For a Celery route: "
                "Celery ignores the exchange of a route without a routing_key, so add one to the route."
            )
        try:
            return [QueueTarget(queue, self._topology.queues.url(queue))]
        except QueueNotFound:
            return self._unroutable("", queue, mandatory=mandatory)

    def _own(self, exchange: str) -> QueueUrl | None:
        """The queue with the exchange's own name, if publishing with that name as key means that queue.

        That is the case for a direct exchange (``direct_exchanges=auto``). An exchange that this process did not
        declare may have any type: then it is the case if it has no topic, because any other binding would have created
        one.

        Raises:
            AccessDenied: finding the queue is denied. Publishing to its topic may or may not reach it, since a queue is
                not subscribed to the topic of its own name. So the user has to decide.
            BrokerUnavailable: AWS does not answer.
        """
        if self._settings.direct_exchanges != "auto":
            return None
        exchange_type = self._topology.exchange_type(exchange)
        if exchange_type not in (None, "direct"):
            return None
        if exchange_type is None and self._has_topic(exchange):
            return None
        if self._topology.queues.spec(exchange) is not None:  # declared here since
            return self._topology.queues.find(exchange)
        try:
            return self._own_queue.get(exchange, lambda: self._topology.queues.find(exchange))
        except AccessDenied as exc:
            raise AccessDenied(
                f"A message to exchange {exchange!r} with the same routing key is for queue {exchange!r}, if there is "
                f"one, and finding it is denied. Allow {exc.action}, name the queue in predefined_queues, declare "
                f"the exchange with its type (topic, fanout or headers), or use direct_exchanges=topic: {exc}",
                action=exc.action,
                resource=exc.resource,
            ) from exc

    def _has_topic(self, exchange: str) -> bool:
        """Wait only for the first answer, which decides about the routing."""
        if self._had_topic.has(exchange):
            self._count_in_background(exchange)
            if not self._topology.topics.knows_subscribers(exchange):
                return self._had_topic.get(exchange, lambda: True)
        with patience(_MUST_KNOW_S):
            found = self._topology.has_topic(exchange)
        self._had_topic.forget(exchange)
        return self._had_topic.get(exchange, lambda: found)

    def _topic_too(self, exchange: str, allowed: bool) -> list[Target]:
        if not allowed:
            return []
        self._count_in_background(exchange)
        topics = self._topology.topics
        if not topics.knows_subscribers(exchange):
            return [TopicTarget(exchange, topics.arn(exchange), is_needed=False)]
        return [TopicTarget(exchange, topics.arn(exchange))] if topics.subscribers(exchange) else []

    def _count_in_background(self, exchange: str) -> None:
        topics = self._topology.topics
        if self._settings.topology == "assume":
            topics.subscribers(exchange)  # makes no call in this case
        elif not topics.knows_subscribers(exchange):
            self._ask(("topic", exchange), lambda: _discard(topics.subscribers(exchange)))

    def _topic(self, exchange: str, routing_key: str, mandatory: bool) -> Target:
        target = TopicTarget(exchange, self._topology.topics.arn(exchange))
        if mandatory or (self._settings.unroutable != "ignore" and not self._settings.is_best_effort(exchange)):
            self._check(exchange, routing_key, mandatory)
        return target

    def _check(self, exchange: str, routing_key: str, mandatory: bool) -> None:
        """Raise, or log a warning soon, if no queue is bound to the exchange.

        Raises:
            Unroutable: as :meth:`resolve`.
            BrokerUnavailable: AWS does not answer, and an error would be required.
        """
        if self._routable.has(exchange):
            return
        if mandatory or self._settings.unroutable == "raise":
            with patience(_MUST_KNOW_S):
                self._look_for_queue(exchange, routing_key, mandatory)
        elif self._settings.unroutable == "warn" and not self._checked.has(exchange):
            self._checked.get(exchange, lambda: None)
            self._ask(("queue", exchange), lambda: self._look_for_queue(exchange, routing_key, False))

    def _look_for_queue(self, exchange: str, routing_key: str, mandatory: bool) -> None:
        """If reading the bindings is denied, a queue counts as bound."""
        if not self._routable.get(exchange, lambda: self._topology.topics.subscribers(exchange) != 0):
            self._routable.forget(exchange)  # do not cache a negative answer
            self._unroutable(exchange, routing_key, mandatory=mandatory)

    def _unroutable(self, exchange: str, routing_key: str, *, mandatory: bool) -> list[Target]:
        where = f"exchange {exchange!r} with routing key {routing_key!r}" if exchange else f"queue {routing_key!r}"
        if exchange:
            why = "no queue is bound to the exchange. Start (or declare) its consumers first"
        elif self._settings.predefined_queue(routing_key) is not None:
            why = "AWS has no queue at its address in predefined_queues. Correct the address, or create the queue"
        else:
            why = "there is no such queue. Start (or declare) its consumers first"
        text = f"Unroutable message to {where}: {why}; the option unroutable sets what happens to such messages."
        if mandatory or self._settings.unroutable == "raise":
            raise Unroutable(text)
        if self._settings.unroutable == "warn":
            names = fields(queue=None if exchange else routing_key, exchange=exchange or None)
            self._warned.get(where, lambda: logger.warning("HAKE201 %s", text, extra=names))
        return []


def _discard(answer: object) -> None:
    """Ignore an answer that is cached where it was found."""
