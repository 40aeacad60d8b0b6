"""One publish from start to end: envelope, targets, send; and what to do when a target is gone.

Between the channel, which speaks AMQP, and the publisher, which speaks AWS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from kombu_hake.envelope import Wire, encode
from kombu_hake.exceptions import AccessDenied, QueueNotFound, ReplyQueueNotFound, TopicNotFound
from kombu_hake.messages import send_parameters
from kombu_hake.publisher import Outgoing, Publisher, outgoing
from kombu_hake.routes import QueueTarget, Routes, Target
from kombu_hake.routing import message_attributes
from kombu_hake.settings import Settings
from kombu_hake.topology import Topology, is_reply_exchange

__all__ = ["Dispatcher"]


class Dispatcher:
    """Publishes messages. One per process and settings; safe to share between threads."""

    def __init__(self, topology: Topology, routes: Routes, publisher: Publisher, settings: Settings) -> None:
        self._topology = topology
        self._routes = routes
        self._publisher = publisher
        self._settings = settings

    def publish(self, message: Mapping[str, Any], exchange: str, routing_key: str, *, mandatory: bool) -> None:
        """Send a message wherever exchange and routing key lead; returns when AWS has accepted it everywhere.

        Raises: as :meth:`kombu_hake.channel.Channel.basic_publish`.
        """
        targets = self._routes.resolve(exchange, routing_key, mandatory=mandatory)
        if not targets:
            return
        wire = encode(message, exchange, routing_key, uuid4().hex)
        for target in targets:
            self._send(target, wire, message, exchange, routing_key, mandatory)

    def _send(
        self, target: Target, wire: Wire, message: Mapping[str, Any], exchange: str, routing_key: str, mandatory: bool
    ) -> None:
        prepared = self._prepare(target, wire, message, routing_key)
        try:
            self._publisher.send(target, prepared)
        except (QueueNotFound, TopicNotFound) as exc:
            for instead in self._instead(target, exc, exchange, routing_key, mandatory):
                self._publisher.send(instead, prepared)
        except AccessDenied as exc:
            if isinstance(target, QueueTarget) or not self._can_do_without(exchange):
                raise
            self._topology.give_up(exchange, exc)

    def _prepare(self, target: Target, wire: Wire, message: Mapping[str, Any], routing_key: str) -> Outgoing:
        if isinstance(target, QueueTarget):
            return outgoing(wire.text, {}, send_parameters(message, target.queue, to_queue=True))
        is_headers = self._topology.exchange_type(target.exchange) == "headers"
        attributes = message_attributes(routing_key, message.get("headers") if is_headers else None)
        return outgoing(wire.text, attributes, send_parameters(message, target.exchange, to_queue=False))

    def _instead(
        self, target: Target, exc: Exception, exchange: str, routing_key: str, mandatory: bool
    ) -> list[Target]:
        if not isinstance(target, QueueTarget):
            return self._routes.topic_is_gone(target.exchange, routing_key, mandatory=mandatory)
        if is_reply_exchange(exchange):
            self._topology.queues.forget(target.queue)
            raise ReplyQueueNotFound(f"Nobody waits for this reply any more: {exc}") from exc
        return self._routes.queue_is_gone(target.queue)

    def _can_do_without(self, exchange: str) -> bool:
        # An event that nobody gets is no loss; a command that somebody gave is.
        return self._settings.is_best_effort(exchange) and not exchange.endswith(".pidbox")
