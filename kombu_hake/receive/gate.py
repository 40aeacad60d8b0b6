"""Decides in the consuming thread what becomes of a received message: hand it over, park it, set it aside, or drop it.

The judgement is pure (:mod:`kombu_hake.amqp.admission`, :mod:`kombu_hake.amqp.deferral`); here is what it needs to
know, and what follows from it. Keeps no state.
"""

from __future__ import annotations

import logging
import traceback
from functools import partial

from kombu_hake.amqp import (
    EARLY_S,
    FIFO_SUFFIX,
    Envelope,
    Verdict,
    decode,
    due_ms,
    hide_s,
    needs_binding,
    opaque,
    plan,
    verdict,
    with_first_sent,
)
from kombu_hake.amqp import How as Wait
from kombu_hake.aws import Clients, Once
from kombu_hake.exceptions import HakeError
from kombu_hake.publish import Dispatcher, QueueTarget
from kombu_hake.quoting import fields, guarded
from kombu_hake.receive.dead_letters import DeadLetters
from kombu_hake.receive.deliveries import Deliveries, How
from kombu_hake.receive.in_flight import InFlight
from kombu_hake.receive.inbox import Delivery
from kombu_hake.receive.messages import receive_count, sent_ms
from kombu_hake.topology import Topology

__all__ = ["Gate", "told"]

logger = guarded(logging.getLogger(__name__))
#: Of the clock that AWS's answers tell, which has whole seconds.
_CLOCK_MS = 2_000
#: Of an attribute of the dead letter.
MAX_REASON_CHARS = 256
MAX_TEXT_CHARS = 200
MAX_TRACEBACK_CHARS = 4_000


class Gate:
    """What every received message of a channel goes through before it is handed over."""

    def __init__(
        self,
        clients: Clients,
        topology: Topology,
        deliveries: Deliveries,
        dead_letters: DeadLetters,
        dispatcher: Dispatcher,
        in_flight: InFlight,
    ) -> None:
        self._clients = clients
        self._topology = topology
        self._deliveries = deliveries
        self._dead_letters = dead_letters
        self._dispatcher = dispatcher
        self._in_flight = in_flight
        self._is_new_retention = Once()

    def admit(self, delivery: Delivery) -> Envelope | None:
        """The message, if it is to be handed over; what is not is settled here."""
        envelope = decode(delivery.message.get("Body", ""), delivery.queue)
        now_ms, sent = self._clients.now_ms(), sent_ms(delivery.message)
        arguments = self._topology.queues.arguments(delivery.queue)
        judge = partial(verdict, queue=delivery.queue, arguments=arguments, sent_ms=sent, now_ms=now_ms)
        bindings = self._topology.known_bindings(delivery.queue)
        found = judge(envelope, bindings)
        read_at, again_s = 0, 0.0
        if found is Verdict.NOT_BOUND or (bindings is None and needs_binding(envelope, delivery.queue)):
            # Another process may have bound more, or this one never bound.
            bindings, read_at, again_s = self._topology.read_bindings(delivery.queue, sent)
            found = judge(envelope, bindings)
        if found is Verdict.DELIVER:
            return None if self._defer(delivery, envelope, sent, now_ms) else envelope
        if found is Verdict.EXPIRED:
            self.set_aside(delivery, envelope, "expired")
        elif sent is not None and read_at > sent + max(_CLOCK_MS, self._topology.timings.tags_s * 1000):
            logger.debug("Queue %s has no binding for a message that its filter passed.", delivery.queue)
            self._deliveries.finish(delivery, How.ACK)
        else:
            # A binding may have been added between the reading and the sending: judge again after the next reading.
            self._deliveries.finish(delivery, How.HIDE, round(again_s))
        return None

    def _defer(self, delivery: Delivery, envelope: Envelope, sent: int | None, now_ms: int) -> bool:
        """Let a task that is not due yet wait in SQS; whether it does."""
        due = due_ms(envelope.headers)
        url = delivery.lease.url
        if due is None or due - now_ms < (EARLY_S + 1) * 1000 or url.endswith(FIFO_SUFFIX):
            return False
        reading, max_receives = self._in_flight.reading(url), self._dead_letters.max_receives(url)
        retention_s = self._dead_letters.retention_s(url)
        if retention_s is not None and (due - now_ms) / 1000 > retention_s and self._is_new_retention(url):
            logger.warning(
                "HAKE108 Queue %s keeps messages for %d s, but a task in it is due in %d s. The task waits as copies "
                "that are renewed in time; a longer MessageRetentionPeriod of the queue avoids the copies.",
                delivery.queue, retention_s, (due - now_ms) // 1000, extra=fields(queue=delivery.queue),
            )  # fmt: skip
        found = plan(
            due,
            now_ms,
            sent=sent,
            receives=receive_count(delivery.message),
            max_receives=max_receives,
            hidden=self._deliveries.hidden() if reading.in_flight is None else reading.hidden_since,
            in_flight=reading.in_flight,
            retention_s=retention_s,
        )
        if found is None:
            return False
        if found.how is Wait.HIDE:
            self._deliveries.finish(delivery, How.HIDE, found.seconds)
            self._in_flight.hid(url)
            return True
        text = with_first_sent(delivery.message["Body"], sent or now_ms)
        try:
            self._dispatcher.send_copy(QueueTarget(delivery.source, url), text, found.seconds)
        except HakeError as exc:
            logger.warning(
                "HAKE107 Cannot defer a task that is not due yet; it is redelivered after its visibility timeout: %s",
                exc,
                extra=fields(
                    queue=delivery.queue,
                    task_id=envelope.headers.get("id"),
                    message_id=delivery.message.get("MessageId"),
                ),
            )
            self._deliveries.finish(delivery, How.ABANDON)
        else:
            self._deliveries.finish(delivery, How.ACK)
        return True

    def quarantine(self, delivery: Delivery, fault: str, exc: Exception | None = None) -> None:
        """Keep a message that cannot be handled from coming straight back. Settles it; never raises.

        It goes to the dead letters of its queue. Where there are none, or after an error that is not the message's (of
        AWS, of the network), it stays in the queue, hidden for longer after each receive.

        Args:
            fault: What is wrong with it; the reason that the dead letter carries.
            exc: What it made this process raise.
        """
        what = fault if exc is None else f"{fault}; {told(exc)}"
        message_id = delivery.message.get("MessageId")
        where = ""
        if not delivery.lease.is_lost and not isinstance(exc, HakeError | OSError):
            try:
                where = self._place(delivery, fault)
            except Exception as failure:  # whatever is wrong with it may be wrong for this too
                what = f"{what}; it could not be dead-lettered: {told(failure)}"
        if where:
            self._deliveries.finish(delivery, How.ACK)
            logger.error(
                "HAKE403 Message %s of queue %s cannot be handled (%s). It was moved to %s.",
                message_id, delivery.queue, what, where, extra=fields(queue=delivery.queue, message_id=message_id),
            )  # fmt: skip
            return
        age_s = self._deliveries.now() - delivery.lease.received_at
        seconds = hide_s(receive_count(delivery.message), self._clients.settings.visibility_timeout, age_s)
        self._deliveries.finish(delivery, How.HIDE, seconds)
        logger.error(
            "HAKE404 Message %s of queue %s cannot be handled (%s). It stays in %s and is redelivered in %d s. Give "
            "the queue a dead-letter queue (the queue argument x-dead-letter-queue) to keep such messages out of it.",
            message_id, delivery.queue, what, delivery.lease.url, seconds,
            extra=fields(queue=delivery.queue, message_id=message_id),
        )  # fmt: skip

    def _place(self, delivery: Delivery, reason: str) -> str:
        text = delivery.message.get("Body", "")
        try:
            envelope = decode(text, delivery.queue)
        except Exception:
            envelope = opaque(text, delivery.queue)
        return self._dead_letters.place(
            envelope,
            delivery.message,
            queue=delivery.queue,
            url=delivery.lease.url,
            arguments=self._topology.queues.arguments(delivery.queue),
            reason=reason[:MAX_REASON_CHARS],
        )

    def set_aside(self, delivery: Delivery, envelope: Envelope, reason: str) -> None:
        """Move a message to its dead-letter queue, and settle it; if it cannot be sent, it is redelivered."""
        arguments = self._topology.queues.arguments(delivery.queue)
        done = self._dead_letters.set_aside(
            envelope, delivery.message, queue=delivery.queue, url=delivery.lease.url, arguments=arguments, reason=reason
        )
        if done:
            self._deliveries.finish(delivery, How.ACK)
        else:
            self._deliveries.finish(delivery, How.ABANDON)


def told(exc: Exception) -> str:
    """An exception for the log: its class, the start of its text in ASCII, and where it was raised."""
    try:
        text = ascii(str(exc))[:MAX_TEXT_CHARS]
    except Exception:  # a foreign exception may have a text that raises
        text = ""
    frames = "".join(traceback.format_tb(exc.__traceback__))[-MAX_TRACEBACK_CHARS:]
    return f"{type(exc).__name__} {text}\n{frames}".rstrip()
