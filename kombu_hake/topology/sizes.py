"""How large the messages of a topic may be: what was declared, what AWS shows, and raising topics of ours.

A topic takes 256 KiB, or what its attribute ``MaximumMessageSize`` says: up to 1 MiB. The attribute is read when a
message needs more than 256 KiB, or when a queue is bound to an exchange that was declared with more, and remembered.

A topic is only ever raised. So of two processes that declare different sizes the larger one holds, and what an operator
has raised stays. Predefined topics, and those of remote control and events, are left alone: a raised topic has at most
100 subscriptions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kombu_hake.amqp import (
    SNS_MAX_MESSAGE_BYTES,
    SNS_MAX_RAISED_BYTES,
    SNS_RAISED_MAX_SUBSCRIPTIONS,
    is_mailbox,
    whole,
)
from kombu_hake.aws import Clients, Once, SingleFlight
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, DeclarationMismatch, HakeError, TopicNotFound, TopologyError
from kombu_hake.quoting import fields, guarded, quoted
from kombu_hake.topology import lookups
from kombu_hake.topology.topics import Topics

__all__ = [
    "SIZE_ARGUMENT",
    "SIZE_ATTRIBUTE",
    "TopicLimit",
    "TopicSizes",
    "checked_size",
    "raised",
    "size_of",
]

logger = guarded(logging.getLogger(__name__))
#: Argument of an exchange: bytes of its largest message.
SIZE_ARGUMENT = "x-max-message-size"
#: Of a topic, and of a queue.
SIZE_ATTRIBUTE = "MaximumMessageSize"
#: How long a limit that is too small for a message is believed; an operator may raise it.
_SMALL_S = 60.0


class TopicLimit(NamedTuple):
    """How large a message a topic takes, and why."""

    limit_bytes: int
    #: Why that is not known, or could not be raised; empty where it is known.
    why: str = ""


class _Shown(NamedTuple):
    limit: TopicLimit
    read_at: float


def checked_size(exchange: str, value: object) -> int | None:
    """The value of :data:`SIZE_ARGUMENT`, None for none. Pure.

    Raises:
        DeclarationMismatch: it is not a number of bytes that a topic can be raised to.
    """
    if value is None:
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, int) or not is_whole or not SNS_MAX_MESSAGE_BYTES <= value <= SNS_MAX_RAISED_BYTES:
        raise DeclarationMismatch(
            f"{SIZE_ARGUMENT} of exchange {exchange!r} is {quoted(value)}; it must be a whole number of bytes from "
            f"{SNS_MAX_MESSAGE_BYTES} to {SNS_MAX_RAISED_BYTES}."
        )
    return value


def size_of(attributes: Mapping[str, str]) -> int:
    """How large a message a topic takes, by its attributes. Pure."""
    size = whole(attributes.get(SIZE_ATTRIBUTE))
    return size if size is not None and 0 < size <= SNS_MAX_RAISED_BYTES else SNS_MAX_MESSAGE_BYTES


def raised(declared_bytes: int | None, shown_bytes: int) -> int | None:
    """The size to raise a topic to; None to leave it as it is. Pure."""
    return declared_bytes if declared_bytes is not None and declared_bytes > shown_bytes else None


class TopicSizes:
    """Knows and raises the sizes of topics. One per process and settings; safe to share between threads."""

    def __init__(
        self, clients: Clients, settings: Settings, topics: Topics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clients = clients
        self._settings = settings
        self._topics = topics
        self._clock = clock
        self._flights = SingleFlight()
        self._first = Once()
        self._declared: dict[str, int] = {}
        self._shown: dict[str, _Shown] = {}
        self._raised_at: dict[str, float] = {}

    def declare(self, exchange: str, size_bytes: int) -> None:
        """Record the size that an exchange was declared with. No call."""
        if self._settings.is_best_effort(exchange) or is_mailbox(exchange):
            logger.info("Not raising the topic of exchange %s: monitors and workers subscribe to it.", exchange)
            return
        if size_bytes > self._declared.get(exchange, 0):
            self._declared[exchange] = size_bytes
            self._shown.pop(exchange, None)

    def declared(self, exchange: str) -> int | None:
        """The largest size that this process declared the exchange with; None for none."""
        return self._declared.get(exchange)

    def known_bytes(self, exchange: str) -> int:
        """The limit as far as this process has read it; the default limit otherwise. No call."""
        shown = self._shown.get(exchange)
        return shown.limit.limit_bytes if shown is not None else SNS_MAX_MESSAGE_BYTES

    def is_raised_lately(self, exchange: str) -> bool:
        """Return True if this process raised the topic so recently that AWS may not apply it yet."""
        return self._clock() - self._raised_at.get(exchange, float("-inf")) < _SMALL_S

    def limit(self, exchange: str, wanted_bytes: int) -> TopicLimit:
        """How large a message the topic takes, after raising it if it was declared with more. Asks AWS once.

        Args:
            wanted_bytes: Size of a message. If the known limit is smaller, it is read again after a minute.
        Raises:
            BrokerUnavailable: AWS does not answer.
        """
        found = self._believed(exchange, wanted_bytes)
        if found is None:
            with self._flights(exchange):
                found = self._believed(exchange, wanted_bytes) or self._find(exchange)
        return found

    def make(self, exchange: str) -> None:
        """Raise a topic that exists, if it was declared with a size. No call otherwise, or if that was done before."""
        declared = self._declared.get(exchange)
        if declared is not None and self._may_raise(exchange):
            self.limit(exchange, declared)

    def created(self, exchange: str) -> None:
        """The topic was created, or was found by creating it."""
        self._shown.pop(exchange, None)
        self.make(exchange)

    def faults(self, exchange: str) -> list[str]:
        """What is wrong with a topic that is not ours to raise, in sentences. One request, if a size was declared.

        Raises:
            AccessDenied: it may not be read.
        """
        declared = self._declared.get(exchange)
        if declared is None:
            return []
        try:
            shown, _ = self._read(exchange)
        except TopicNotFound:
            return []
        if raised(declared, shown) is None:
            return []
        return [
            f"The topic of exchange {exchange!r} ({self._topics.arn(exchange)}) takes messages of {shown} bytes, and "
            f"the exchange was declared with {declared}: set its attribute {SIZE_ATTRIBUTE}."
        ]

    def explained(self, queue: str, exchange: str, exc: TopologyError) -> TopologyError:
        """The error for a subscription that AWS refused: it says so where the size of the topic may be the reason."""
        try:
            limit_bytes, subscriptions = self._read(exchange)
        except HakeError:
            return exc
        if limit_bytes <= SNS_MAX_MESSAGE_BYTES or subscriptions < SNS_RAISED_MAX_SUBSCRIPTIONS:
            return exc
        return TopologyError(
            f"Queue {queue!r} cannot be subscribed to the topic of exchange {exchange!r}: AWS allows a topic with "
            f"messages of more than {SNS_MAX_MESSAGE_BYTES} bytes {SNS_RAISED_MAX_SUBSCRIPTIONS} subscriptions, and "
            f"this one, with {limit_bytes} bytes, has {subscriptions}. Unsubscribe queues that are not used, or bind "
            f"the queue to a second exchange. Or set {SIZE_ATTRIBUTE} of {self._topics.arn(exchange)} back to "
            f"{SNS_MAX_MESSAGE_BYTES}, declare the exchange without a size, and use compress_above or large_messages. "
            f"{exc}"
        )

    def forget(self, exchange: str) -> None:
        """Read the limit again when it is needed next: AWS refused a message, or the topic is gone."""
        self._shown.pop(exchange, None)

    # --- inside

    def _believed(self, exchange: str, wanted_bytes: int) -> TopicLimit | None:
        shown = self._shown.get(exchange)
        if shown is None:
            return None
        is_small = wanted_bytes > shown.limit.limit_bytes
        return None if is_small and self._clock() - shown.read_at >= _SMALL_S else shown.limit

    def _may_raise(self, exchange: str) -> bool:
        return self._settings.topology == "auto" and not self._topics.is_predefined(exchange)

    def _find(self, exchange: str) -> TopicLimit:
        declared = self._declared.get(exchange)
        if self._settings.topology == "assume":
            return TopicLimit(declared or SNS_MAX_MESSAGE_BYTES, "" if declared else "topology=assume does not read it")
        try:
            shown, subscriptions = self._read(exchange)
        except TopicNotFound:  # not remembered: another process may create it
            will_be = declared if self._may_raise(exchange) else None
            return TopicLimit(will_be or SNS_MAX_MESSAGE_BYTES)
        except AccessDenied as exc:
            # As declared: a process that may only publish relies on others to raise the topic.
            found = TopicLimit(declared or SNS_MAX_MESSAGE_BYTES, f"{exc.action} is denied")
        else:
            if shown > SNS_MAX_MESSAGE_BYTES and subscriptions > SNS_RAISED_MAX_SUBSCRIPTIONS and self._first(
                ("full", exchange)
            ):  # fmt: skip
                logger.warning(
                    "HAKE323 The topic of exchange %s takes messages of %d bytes and has %d subscriptions, and AWS "
                    "supports %d for such a topic: its size cannot be set again. Remove subscriptions.",
                    exchange, shown, subscriptions, SNS_RAISED_MAX_SUBSCRIPTIONS, extra=fields(exchange=exchange),
                )  # fmt: skip
            wanted = raised(declared, shown) if self._may_raise(exchange) else None
            found = TopicLimit(shown) if wanted is None else self._raise(exchange, wanted, shown, subscriptions)
        self._shown[exchange] = _Shown(found, self._clock())
        return found

    def _read(self, exchange: str) -> tuple[int, int]:
        """The topic's limit, and how many subscriptions it has."""
        attributes = lookups.topic_attributes(self._clients, self._topics.arn(exchange))
        return size_of(attributes), whole(attributes.get("SubscriptionsConfirmed")) or 0

    def _raise(self, exchange: str, wanted: int, shown: int, subscriptions: int) -> TopicLimit:
        arn = self._topics.arn(exchange)
        try:
            self._clients.sns(
                "set_topic_attributes", TopicArn=arn, AttributeName=SIZE_ATTRIBUTE, AttributeValue=str(wanted)
            )
        except TopicNotFound:
            raise
        except (AccessDenied, TopologyError) as exc:
            if subscriptions > SNS_RAISED_MAX_SUBSCRIPTIONS:
                why = (
                    f"it has {subscriptions} subscriptions, and AWS allows a raised topic "
                    f"{SNS_RAISED_MAX_SUBSCRIPTIONS}"
                )
            else:
                why = str(exc)
            if self._first(("size", exchange)):
                logger.warning(
                    "HAKE321 The topic of exchange %s was declared with messages of up to %d bytes, but still takes "
                    "%d: %s",
                    exchange, wanted, shown, why, extra=fields(exchange=exchange),
                )  # fmt: skip
            return TopicLimit(shown, f"it cannot be raised: {why}")
        self._raised_at[exchange] = self._clock()
        logger.info("Raised the topic of exchange %s to messages of %d bytes.", exchange, wanted)
        return TopicLimit(wanted)
