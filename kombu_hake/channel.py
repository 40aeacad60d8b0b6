"""A kombu channel: publish, consume and settle, in AMQP's terms. It has no AWS logic and only connects the parts.

Only the consuming thread creates and cancels consumers and receives deliveries. Any thread may publish, ack and reject.
"""

from __future__ import annotations

import itertools
import logging
import time
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from kombu_hake.amqp import TEMPORARY, QueueUrl, is_task, label
from kombu_hake.aws import Clients, Vital, forksafe
from kombu_hake.config import Settings
from kombu_hake.declaring import DeclaringChannel
from kombu_hake.exceptions import AccessDenied, HakeError
from kombu_hake.publish import Dispatcher, Session
from kombu_hake.quoting import fields, guarded
from kombu_hake.receive import (
    Admitted,
    CommandMessage,
    DeadLetters,
    Deferring,
    Deliveries,
    Delivery,
    Gate,
    HakeMessage,
    How,
    Inbox,
    Lease,
    Leases,
    Receiver,
    about,
    receive_count,
    receive_params,
    report_poll,
    summary,
    to_message,
)
from kombu_hake.telemetry import Received, Telemetry
from kombu_hake.temporary import Temporaries
from kombu_hake.topology import Topology
from kombu_hake.worker import state as worker

__all__ = ["Channel", "Parts"]

logger = guarded(logging.getLogger(__name__))
#: basic.get queries all hosts of SQS; a short poll would sample a few and could miss messages.
_GET_WAIT_S = 1


@dataclass(frozen=True)
class Parts:
    """The parts that the channels of a connection share."""

    settings: Settings
    clients: Clients
    topology: Topology
    temporaries: Temporaries
    dispatcher: Dispatcher
    dead_letters: DeadLetters
    deferring: Deferring
    inbox: Inbox
    leases: Leases
    deliveries: Deliveries


class Connection(Protocol):
    """The part of its connection that a channel uses."""

    def close_channel(self, channel: Channel) -> None:
        """Remove a channel that has closed itself."""

    def wake(self) -> None:
        """Make the event loop run its next iteration now."""


class _Consumer(NamedTuple):
    """One ``basic_consume`` registration."""

    tag: str
    queue: str
    no_ack: bool
    callback: Callable[[Any], Any]


class Channel(DeclaringChannel):
    """One AMQP channel on a connection; its prefetch count is its own."""

    Message = HakeMessage
    #: kombu reads this from every channel (``kombu/messaging.py``, ``Producer.supports_batch_publish``).
    supports_batch_publish = True

    def __init__(self, connection: Connection, channel_id: int, parts: Parts) -> None:
        super().__init__(parts.topology, parts.temporaries)
        self.connection: Connection | None = connection
        self.channel_id = channel_id
        self.closed = False
        self.no_ack_consumers: set[str] = set()
        self._dispatcher = parts.dispatcher
        self._clients = parts.clients
        self._settings = parts.settings
        self._leases = parts.leases
        self._deliveries = parts.deliveries
        self._gate = Gate(parts.clients, parts.topology, parts.deliveries, parts.dead_letters, parts.deferring)
        self._tags = itertools.count(1)
        self._consumers: dict[str, _Consumer] = {}
        self._turns: dict[str, itertools.cycle[_Consumer]] = {}
        self._receiver = Receiver(
            channel_id,
            clients=parts.clients,
            settings=parts.settings,
            inbox=parts.inbox,
            deliveries=parts.deliveries,
            on_gone=parts.temporaries.make_again,
            on_check=parts.topology.check_bindings,
            is_best_effort=parts.topology.is_best_effort,
        )
        # Pollers refer to the receiver and not to the channel, so that a garbage-collected channel stops them.
        weakref.finalize(self, self._receiver.stop).atexit = False
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The consumers and deliveries belong to the parent."""
        self._consumers = {}
        self._turns = {}
        self.no_ack_consumers = set()

    # --- publish

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Build the message that kombu passes to :meth:`basic_publish`."""
        properties = dict(properties or {})
        properties.setdefault("delivery_info", {})
        properties.setdefault("priority", priority or 0)
        return {
            "body": body,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers or {},
            "properties": properties,
        }

    def basic_publish(
        self, message: dict[str, Any], exchange: str = "", routing_key: str = "", mandatory: bool = False, **_kw: Any
    ) -> None:
        """Publish; returns when AWS has accepted the message.

        Raises:
            MessageTooLarge: nothing was sent.
            Unroutable: no queue would receive it, and ``mandatory`` or the option ``unroutable`` requires an error.
            BrokerUnavailable: AWS did not answer; kombu retries by its policy.
        """
        self.temporaries.create()
        self.topology.verify()
        self._dispatcher.publish(message, exchange or "", routing_key or "", mandatory=mandatory)

    def create_publish_batch(self, max_size: int) -> Session:
        """The batch for kombu's ``Producer.batch`` (kombu 5.7)."""
        return Session(self, self.basic_publish, max_size)

    # --- consume

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit how many messages may be unsettled on this channel; 0 is no limit. Sizes are not supported."""
        self._receiver.set_prefetch(prefetch_count or 0)

    def basic_consume(
        self,
        queue: str,
        no_ack: bool = False,
        callback: Callable[[Any], Any] | None = None,
        consumer_tag: str | None = None,
        **_kwargs: Any,
    ) -> str:
        """Start consuming. Several consumers of one queue take turns.

        Raises:
            QueueNotFound: there is no such queue.
        """
        self.temporaries.create()
        self.topology.verify()
        tag = consumer_tag or uuid4().hex
        self.basic_cancel(tag)  # a reused tag names the new consumer
        if self.temporaries.is_given_up(queue):
            return tag
        try:
            levels = self._levels(queue)
        except AccessDenied as exc:
            if not self.topology.is_best_effort(queue):
                raise
            logger.warning("HAKE011 Not consuming from queue %s: %s", queue, exc, extra=fields(queue=queue))
            return tag
        self.temporaries.consumed(queue)
        is_first = not self._consumers_of(queue)
        self._consumers[tag] = _Consumer(tag, queue, no_ack, callback or _no_callback)
        if no_ack:
            self.no_ack_consumers.add(tag)
        self._take_turns(queue)
        try:
            if is_first:
                self._receiver.add(queue, levels)
        except RuntimeError:  # no thread for polling: the consumer would wait forever
            self.basic_cancel(tag)
            raise
        return tag

    def basic_cancel(self, consumer_tag: str, **_kwargs: Any) -> None:
        """Stop consuming. Messages that are buffered for a queue without consumers are released."""
        consumer = self._consumers.pop(consumer_tag, None)
        if consumer is None:
            return
        self.no_ack_consumers.discard(consumer_tag)
        self._take_turns(consumer.queue)
        self.temporaries.cancelled(consumer.queue)
        if not self._consumers_of(consumer.queue):
            self._receiver.remove(consumer.queue)
            self._deliveries.release_buffered(self.channel_id, consumer.queue)

    def basic_get(self, queue: str, no_ack: bool = False, **_kwargs: Any) -> HakeMessage | None:
        """Receive one message, or None if there is none; may take a second."""
        self.temporaries.create()
        self.topology.verify()
        for source, url in reversed(self._levels(queue)):
            self.temporaries.got(queue, url)
            while (delivery := self._get_one(queue, source, url)) is not None:
                message = self._take_in(delivery, "", no_ack)
                if message is not None:
                    return message
        return None

    def _get_one(self, queue: str, source: str, url: QueueUrl) -> Delivery | None:
        """Receive one message; None if there is none."""
        visibility_s = self._settings.visibility_timeout
        started, telemetry = time.perf_counter(), self._clients.telemetry
        answer = self._clients.sqs("receive_message", **receive_params(url, 1, _GET_WAIT_S, visibility_s))
        if telemetry is not None:
            report_poll(telemetry, label(queue), started, answer, None, self._clients.now_ms())
        for raw in answer.get("Messages") or ():
            lease = Lease(url, raw["ReceiptHandle"], self._leases.now(), visibility_s, label(queue))
            self._leases.hold([lease])
            delivery = Delivery(self.channel_id, queue, source, raw, lease)
            try:
                self._deliveries.fetch(delivery)
            except BaseException:
                self._deliveries.finish(delivery, How.RELEASE)
                raise
            return delivery
        return None

    def _take_in(self, delivery: Delivery, consumer_tag: str, no_ack: bool) -> HakeMessage | None:
        """The message to deliver; None if it has been handled here.

        A message that makes our own code fail is dead-lettered or hidden, so that it cannot end the consumer. An error
        of AWS is raised; in a Celery worker only one that makes Celery reconnect.
        """
        try:
            admitted = self._gate.admit(delivery)
            if admitted is None:
                return None
            return self._hand_over(admitted, delivery, consumer_tag, no_ack)
        except BaseException as exc:  # no consumer holds it yet: it must not stay leased for hours
            is_of_worker = worker.is_of_worker(self.connection)
            passes = (MemoryError, *_connection_errors(self.connection), *(() if is_of_worker else (HakeError,)))
            if isinstance(exc, passes) or not isinstance(exc, Exception):
                self._deliveries.finish(delivery, How.RELEASE)
                raise
            self._gate.quarantine(delivery, f"malformed: it cannot be read, {type(exc).__name__}", exc)
            return None

    def deliver(self, delivery: Delivery) -> bool:
        """Call the consumer whose turn it is, in the consuming thread. Return True if the message was delivered.

        An exception of the callback propagates, and the message is redelivered after its visibility timeout. In a
        Celery worker only connection errors do; after any other the message is dead-lettered or hidden, and the worker
        continues.
        """
        turn = self._turns.get(delivery.queue)
        if delivery.lease.is_lost:  # another consumer may have it
            self._deliveries.finish(delivery, How.ABANDON)
            return False
        if turn is None:  # cancelled in an earlier callback
            self._deliveries.finish(delivery, How.RELEASE)
            return False
        consumer = next(turn)
        transport = self.connection
        message = self._take_in(delivery, consumer.tag, consumer.no_ack)
        if message is None:
            return False
        try:
            telemetry = self._clients.telemetry
            if telemetry is None or is_task(message.headers) or worker.is_of_worker(transport):  # it runs later
                consumer.callback(message)
            else:
                self._process(telemetry, consumer.callback, message, delivery.queue)
        except Exception as exc:
            if isinstance(exc, (MemoryError, *_connection_errors(transport))):
                raise
            if not worker.is_of_worker(transport):
                self._leases.stop_renewing(delivery.lease)  # the caller that gets the error may still settle it
                raise
            self._after_failure(delivery, message, exc)
        if delivery.stored is not None:
            message.forget_decoded()
        return True

    @staticmethod
    def _process(telemetry: Telemetry, callback: Callable[[Any], Any], message: HakeMessage, queue: str) -> None:
        """Call a consumer that is not Celery's, with a span around it, and measure it."""
        destination, properties = label(queue), message.properties
        if destination == TEMPORARY or not telemetry.is_on():  # replies, events, commands
            callback(message)
            return
        running = None
        if telemetry.traces.is_on():
            received = Received(destination, properties.get("message_id"), properties.get("receive_count"))
            running = telemetry.traces.processing(received, message.headers)
        started, error = time.perf_counter(), None
        try:
            callback(message)
        except BaseException as exc:
            error = exc
            raise
        finally:
            name = "" if error is None else type(error).__name__
            if running is not None:
                running.end(name, error)
            telemetry.metrics.processed(destination, time.perf_counter() - started, name)

    def _after_failure(self, delivery: Delivery, message: HakeMessage, exc: Exception) -> None:
        """Dead-letter or hide a message that made a Celery worker's callback fail. The worker continues."""
        worker.drop_request(message)
        if not message.quarantine(f"error: {type(exc).__name__}", exc):
            message_id = delivery.message.get("MessageId")
            logger.error(
                "HAKE015 The consumer failed on message %s of queue %s after the message was settled: %s",
                message_id, delivery.queue, summary(exc), extra=fields(queue=delivery.queue, message_id=message_id),
            )  # fmt: skip

    # --- settle

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Delete the message. Never raises an error of AWS: a failure is retried, then logged."""
        for delivery in self._deliveries.claim(self.channel_id, delivery_tag, multiple=multiple):
            self._deliveries.finish(delivery, How.ACK)

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Make the message visible again immediately, or move it to the dead-letter queue, if there is one."""
        for delivery in self._deliveries.claim(self.channel_id, delivery_tag):
            if requeue or delivery.lease.is_lost:  # a lost message is redelivered: it must not be dead-lettered too
                self._deliveries.finish(delivery, How.RELEASE)
            elif (wait_s := self._backoff_s(delivery)) is not None:
                self._deliveries.finish(delivery, How.HIDE, wait_s)
            else:
                try:
                    self._gate.set_aside(delivery, self._gate.outline(delivery), "rejected")
                except BaseException as exc:
                    if isinstance(exc, Exception) and worker.is_of_worker(self.connection):
                        # Celery rejects in its event loop, which ends with any error except a connection error.
                        self._gate.quarantine(delivery, f"error: {type(exc).__name__}", exc)
                    else:  # as with a known error: it is redelivered after the visibility timeout
                        self._deliveries.finish(delivery, How.ABANDON)
                        raise

    def _backoff_s(self, delivery: Delivery) -> int | None:
        """Seconds until a rejected task is redelivered, by the ``backoff_policy`` of its queue; None without one."""
        if self._settings.backoff_of(delivery.queue) is None:
            return None
        task = self._gate.outline(delivery).headers.get("task")
        return self._settings.backoff_s(
            delivery.queue, task if isinstance(task, str) else None, receive_count(delivery.message)
        )

    def basic_recover(self, requeue: bool = False) -> None:
        """Make every unsettled message of this channel visible again."""
        self._deliveries.release(self._deliveries.claim(self.channel_id, 0, multiple=True))

    def stop_receiving(self) -> None:
        """Stop receiving, and release messages that wait for delivery. For any thread; the channel stays open."""
        self._receiver.stop()
        self._deliveries.release_buffered(self.channel_id)

    def give_back_unstarted(self) -> None:
        """Release messages that a stopping Celery worker has received on this channel and not started."""
        tags = worker.unstarted_tags(self)
        claimed = [delivery for tag in tags for delivery in self._deliveries.claim(self.channel_id, tag)]
        self._deliveries.release(claimed)
        if claimed:
            logger.info("Released %d tasks that were received and not started.", len(claimed))

    def quarantine(self, delivery_tag: int, fault: str, exc: Exception | None = None) -> bool:
        """Settle a message that cannot be handled; see :meth:`kombu_hake.receive.gate.Gate.quarantine`.

        Returns:
            False if it was settled before.
        """
        claimed = self._deliveries.claim(self.channel_id, delivery_tag)
        for delivery in claimed:
            self._gate.quarantine(delivery, fault, exc)
        return bool(claimed)

    def abandon(self, delivery_tag: int) -> None:
        """Stop renewing a message: it is redelivered when its lease expires."""
        for delivery in self._deliveries.claim(self.channel_id, delivery_tag):
            self._deliveries.finish(delivery, How.ABANDON)

    @property
    def unsettled(self) -> dict[int, Delivery]:
        """The delivered, unsettled messages by delivery tag; a copy."""
        return self._deliveries.unsettled(self.channel_id)

    # --- the rest of kombu's interface

    def message_to_python(self, raw_message: Any) -> Any:
        """Messages are built once, when they are delivered."""
        return raw_message

    def flow(self, active: bool = True) -> None:
        """Not supported: the prefetch count is the flow control."""
        raise NotImplementedError("hake:// has no flow control; use the prefetch count (basic_qos).")

    def close(self) -> None:
        """Cancel the consumers and release unsettled messages. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._receiver.stop()
        for consumer in self._consumers.values():
            self.temporaries.cancelled(consumer.queue)
        self._consumers.clear()
        self._turns.clear()
        self._deliveries.release_buffered(self.channel_id)
        self.basic_recover(requeue=True)
        if self.connection is not None:
            self.connection.close_channel(self)

    def look_after_pollers(self) -> None:
        """Restart pollers that have ended unexpectedly; the consuming thread calls it regularly."""
        self._receiver.look_after_pollers()

    def vitals(self) -> list[Vital]:
        """The pollers that a worker needs."""
        return self._receiver.vitals()

    def wait_for_open_polls(self, urls: Collection[QueueUrl], timeout_s: float) -> None:
        """After :meth:`close`; see :meth:`kombu_hake.receive.receiver.Receiver.wait_for_open_polls`."""
        self._receiver.wait_for_open_polls(urls, timeout_s)

    # --- inside

    def _levels(self, queue: str) -> list[tuple[str, QueueUrl]]:
        """The SQS queues behind a queue, lowest priority first."""
        queues = self.topology.queues
        return [(name, queues.url(name)) for name in queues.levels(queue)]

    def _consumers_of(self, queue: str) -> int:
        return sum(1 for consumer in self._consumers.values() if consumer.queue == queue)

    def _take_turns(self, queue: str) -> None:
        consumers = [consumer for consumer in self._consumers.values() if consumer.queue == queue]
        if consumers:
            self._turns[queue] = itertools.cycle(consumers)
        else:
            self._turns.pop(queue, None)

    def _hand_over(self, admitted: Admitted, delivery: Delivery, consumer_tag: str, no_ack: bool) -> HakeMessage:
        tag = next(self._tags)
        message = to_message(
            admitted.envelope, delivery, self, tag, consumer_tag, is_bound=admitted.is_bound, sent_ms=admitted.sent_ms
        )
        message.lease = delivery.lease
        delivery.lease.about = about(message, self.channel_id, tag, delivery.queue)
        if isinstance(message, CommandMessage):
            self._dispatcher.command_came()
        if no_ack:
            self._deliveries.finish(delivery, How.ACK)
        else:
            self._deliveries.hand_over(delivery, tag, keeps_credit=self._receiver.is_limited)
        return message


def _no_callback(message: HakeMessage) -> None:
    raise NotImplementedError("A message arrived for a consumer without a callback.")


def _connection_errors(transport: Any) -> tuple[type[BaseException], ...]:
    """The errors on which Celery reconnects; none once the channel is closed."""
    return tuple(getattr(transport, "connection_errors", ()))
