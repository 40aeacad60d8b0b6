"""Decides in the consuming thread about a received message: hand it over, defer it, set it aside, or drop it.

:mod:`kombu_hake.amqp.admission` decides, as pure functions. This module collects what they need to know, and carries
out the decision. It keeps no state.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from kombu_hake.amqp import Envelope, Verdict, decode, due_ms, has_pointer, hide_s, needs_binding, opaque, verdict
from kombu_hake.aws import Clients
from kombu_hake.exceptions import HakeError
from kombu_hake.quoting import fields, guarded, quoted
from kombu_hake.receive.dead_letters import DeadLetter, DeadLetters, SourceQueue
from kombu_hake.receive.deferring import Deferring
from kombu_hake.receive.deliveries import Deliveries, How
from kombu_hake.receive.delivery import Delivery, Outcome
from kombu_hake.receive.messages import receive_count, sent_ms
from kombu_hake.receive.stored import Stored
from kombu_hake.topology import Topology

__all__ = ["Admitted", "Gate", "summary"]

logger = guarded(logging.getLogger(__name__))
#: Precision of AWS's clock, which has whole seconds.
_CLOCK_MS = 2_000
#: Of an attribute of the dead letter.
MAX_REASON_CHARS = 256
MAX_TEXT_CHARS = 200
MAX_TRACEBACK_CHARS = 4_000


class Admitted(NamedTuple):
    """A message to hand over."""

    envelope: Envelope
    #: True if its queue has bindings to exchanges other than the direct one of its own name.

    is_bound: bool
    #: When SQS accepted it, ms since the epoch; None if unknown.
    sent_ms: int | None


class Gate:
    """Checks every received message of a channel before it is handed over."""

    def __init__(
        self,
        clients: Clients,
        topology: Topology,
        deliveries: Deliveries,
        dead_letters: DeadLetters,
        deferring: Deferring,
    ) -> None:
        self._clients = clients
        self._topology = topology
        self._deliveries = deliveries
        self._dead_letters = dead_letters
        self._deferring = deferring

    def admit(self, delivery: Delivery) -> Admitted | None:
        """The message to hand over, or None. A message that is not handed over is settled here."""
        if delivery.stored is not None:
            found_envelope = self._stored(delivery, delivery.stored)
            if found_envelope is None:
                return None
            envelope = found_envelope
        else:
            envelope = decode(delivery.message.get("Body", ""), delivery.queue)
            if not envelope.is_kombu and has_pointer(delivery.message):
                self.quarantine(delivery, "its payload is in S3: set the option large_messages")
                return None
        now_ms, sent = self._clients.now_ms(), sent_ms(delivery.message)
        arguments = self._topology.queues.arguments(delivery.queue)
        bindings = self._topology.known_bindings(delivery.queue)
        found = verdict(envelope, bindings, queue=delivery.queue, arguments=arguments, sent_ms=sent, now_ms=now_ms)
        read_at, again_s = 0, 0.0
        if found is Verdict.NOT_BOUND or (bindings is None and needs_binding(envelope, delivery.queue)):
            # Another process may have bound more, or this one never bound.
            bindings, read_at, again_s = self._topology.read_bindings(delivery.queue, sent)
            found = verdict(envelope, bindings, queue=delivery.queue, arguments=arguments, sent_ms=sent, now_ms=now_ms)
        if found is Verdict.DELIVER:
            due = due_ms(envelope.headers)
            if due is not None and self._deferring.defer(delivery, self._deliveries, due, sent, now_ms):
                return None
            return Admitted(envelope, bool(bindings and bindings.exchanges()), sent)
        if found is Verdict.EXPIRED:
            self.set_aside(delivery, envelope, "expired")
        elif sent is not None and read_at > sent + max(_CLOCK_MS, self._topology.timings.tags_s * 1000):
            logger.debug("Queue %s has no binding for a message that its filter passed.", delivery.queue)
            delivery.lease.outcome = Outcome.DROPPED
            self._deliveries.finish(delivery, How.ACK)
        else:
            # A binding may have been added between the reading and the sending: decide again after the next reading.
            self._deliveries.finish(delivery, How.HIDE, round(again_s))
        return None

    def _stored(self, delivery: Delivery, stored: Stored) -> Envelope | None:
        """The message with its payload from S3; None if that cannot be read: then the message is settled."""
        if stored.fault:
            self.quarantine(delivery, stored.fault)
            return None
        return stored.take(delivery.queue)

    def quarantine(self, delivery: Delivery, fault: str, exc: Exception | None = None) -> None:
        """Settle a message that cannot be handled, so that it is not redelivered immediately. Never raises.

        It goes to the dead letters of its queue. If there are none, or after an error of AWS or the network, it stays
        in the queue, hidden for longer after each receive.

        Args:
            fault: What is wrong with it; the reason in the dead letter.
            exc: The error that handling it raised.
        """
        what = fault if exc is None else f"{fault}; {summary(exc)}"
        message_id = delivery.message.get("MessageId")
        where = ""
        if not delivery.lease.is_lost and not isinstance(exc, HakeError | OSError):
            try:
                where = self._place(delivery, fault)
            except Exception as failure:  # the fault of the message may make this fail too
                what = f"{what}; it could not be dead-lettered: {summary(failure)}"
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
            envelope = self.outline(delivery)
        except Exception:
            envelope = opaque(text, delivery.queue)
        return self._placing(delivery, envelope, quoted(reason, MAX_REASON_CHARS))()

    def outline(self, delivery: Delivery) -> Envelope:
        """The received message; without its body if that is in S3."""
        if delivery.stored is not None and delivery.stored.outline is not None:
            return delivery.stored.outline
        return decode(delivery.message.get("Body", ""), delivery.queue)

    def set_aside(self, delivery: Delivery, envelope: Envelope, reason: str) -> None:
        """Dead-letter a message, and settle it.

        If it cannot be sent now, the settle path retries; if it cannot be sent at all, it is redelivered.

        Args:
            reason: ``rejected`` or ``expired``.
        """
        placing = self._placing(delivery, envelope, reason)
        letter = DeadLetter(placing, delivery.queue, delivery.message.get("MessageId"), reason)
        if delivery.stored is not None and "x-dead-letter-exchange" in self._arguments(delivery):
            self._deliveries.finish(delivery, How.ACK, first=letter)  # not in this thread: it downloads and uploads
        else:
            self._deliveries.finish_after(delivery, letter)

    def _placing(self, delivery: Delivery, envelope: Envelope, reason: str) -> Callable[[], str]:
        """A function that dead-letters a message; see :meth:`DeadLetters.place`."""
        raw, stored = delivery.message, delivery.stored
        source = SourceQueue(delivery.queue, delivery.lease.url, self._arguments(delivery))
        place = partial(self._dead_letters.place, source=source, reason=reason, lease=delivery.lease)
        if stored is None or stored.outline is None:
            delivery.lease.owned = None  # not read: the dead letter has the pointer
            return partial(place, envelope, raw)
        if "x-dead-letter-exchange" in source.arguments:
            return lambda: place(self._deliveries.read_again(delivery), raw)
        attributes = {**raw["MessageAttributes"], **stored.attributes(stored.telling())}
        return partial(place, envelope, {**raw, "MessageAttributes": attributes})

    def _arguments(self, delivery: Delivery) -> Mapping[str, Any]:
        return self._topology.queues.arguments(delivery.queue)


def summary(exc: Exception) -> str:
    """An exception for the log: its class, the start of its text in ASCII, and where it was raised."""
    try:
        text = ascii(str(exc))[:MAX_TEXT_CHARS]
    except Exception:  # a foreign exception may have a text that raises
        text = ""
    frames = "".join(traceback.format_tb(exc.__traceback__))[-MAX_TRACEBACK_CHARS:]
    return f"{type(exc).__name__} {text}\n{frames}".rstrip()
