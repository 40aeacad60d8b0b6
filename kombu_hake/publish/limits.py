"""How large a message may be for each target, and the error for one that is larger."""

from __future__ import annotations

from kombu_hake.amqp import (
    SNS_MAX_MESSAGE_BYTES,
    SNS_MAX_RAISED_BYTES,
    SQS_MAX_BATCH_BYTES,
    SQS_MAX_MESSAGE_BYTES,
)
from kombu_hake.config import Settings
from kombu_hake.exceptions import BrokerUnavailable, HakeError, MessageTooLarge
from kombu_hake.publish.routes import QueueTarget, Target
from kombu_hake.topology import SIZE_ARGUMENT, TopicLimit, Topology

__all__ = ["Limits"]


class Limits:
    """The size limits of queues and topics. One per process and settings; safe to share between threads.

    Source:
        SQS accepts 1 MiB, SNS 256 KiB or what a topic was raised to; body and attributes together (SendMessage,
        Publish). A batch request may have as many bytes as one message.
    """

    def __init__(self, settings: Settings, topology: Topology) -> None:
        self._settings = settings
        self._sizes = topology.sizes

    def of(self, target: Target, size_bytes: int) -> int:
        """The most bytes of one message, body and attributes together.

        Asks AWS only if a message of *size_bytes* is over the default limit of a topic, and remembers the answer.

        Raises:
            BrokerUnavailable: AWS does not answer.
        """
        return self._of(target, size_bytes).limit_bytes

    def of_batch(self, target: Target) -> int:
        """The most bytes of one batch request, all its messages together. No call."""
        if isinstance(target, QueueTarget):
            return SQS_MAX_BATCH_BYTES
        return self._sizes.known_bytes(target.exchange)

    def check(self, target: Target, size_bytes: int) -> None:
        """Raise for a message that AWS would refuse.

        Raises:
            MessageTooLarge: nothing was sent; it names what to do.
            BrokerUnavailable: AWS does not answer.
        """
        if size_bytes <= SNS_MAX_MESSAGE_BYTES:  # the lowest limit
            return
        limit = self._of(target, size_bytes)
        if size_bytes > limit.limit_bytes:
            raise self._too_large(target, size_bytes, limit)

    def forget(self, target: Target) -> None:
        """Read the limit again: AWS refused a batch that is not larger than one message may be."""
        if not isinstance(target, QueueTarget):
            self._sizes.forget(target.exchange)

    def refused(self, target: Target, size_bytes: int, exc: MessageTooLarge) -> HakeError:
        """The error for a message that AWS refused for its size; *exc* is AWS's error."""
        if isinstance(target, QueueTarget):
            return self._too_large(target, size_bytes, TopicLimit(exc.limit_bytes or SQS_MAX_MESSAGE_BYTES))
        exchange = target.exchange
        self._sizes.forget(exchange)
        limit = self._sizes.limit(exchange, size_bytes)
        if size_bytes > limit.limit_bytes:
            return self._too_large(target, size_bytes, limit)
        if self._sizes.is_raised_lately(exchange):
            return BrokerUnavailable(f"AWS does not apply the new size of the topic of {exchange!r} yet: {exc}")
        return self._too_large(target, size_bytes, TopicLimit(0, str(exc)))

    def _of(self, target: Target, size_bytes: int) -> TopicLimit:
        if isinstance(target, QueueTarget):
            return TopicLimit(SQS_MAX_MESSAGE_BYTES)
        if size_bytes <= SNS_MAX_MESSAGE_BYTES:
            return TopicLimit(SNS_MAX_MESSAGE_BYTES)
        return self._sizes.limit(target.exchange, size_bytes)

    def _too_large(self, target: Target, size_bytes: int, limit: TopicLimit) -> MessageTooLarge:
        """*limit*: 0 bytes if AWS refuses less than it is known, or declared, to take."""
        is_queue = isinstance(target, QueueTarget)
        where = f"queue {target.queue!r}" if isinstance(target, QueueTarget) else f"exchange {target.exchange!r}"
        takes = "the queue" if is_queue else "its topic"
        over = f"over the {limit.limit_bytes:,} bytes that {takes} takes" if limit.limit_bytes else "too large"
        why = f" ({limit.why})" if limit.why else ""
        remedies = [self._raising(target, size_bytes)]
        if self._settings.compress_above is None:
            remedies.append("Compress messages: broker_transport_options = {'compress_above': 65536}.")
        remedies.append(
            "Keep large messages in S3: broker_transport_options = {'large_messages': 's3://bucket/prefix'}."
        )
        return MessageTooLarge(
            f"A message of {size_bytes:,} bytes for {where} is {over}{why}. {' '.join(remedies)}",
            size_bytes=size_bytes,
            limit_bytes=limit.limit_bytes,
        )

    def _raising(self, target: Target, size_bytes: int) -> str:
        if size_bytes > SNS_MAX_RAISED_BYTES:
            return "AWS takes no message of more than 1 MiB."
        if isinstance(target, QueueTarget):
            return f"Raise the queue: set its attribute MaximumMessageSize to {SQS_MAX_MESSAGE_BYTES}."
        if self._settings.topology != "auto" or target.exchange in self._settings.predefined_exchanges:
            return (
                f"Raise the topic: aws sns set-topic-attributes --topic-arn {target.arn} "
                f"--attribute-name MaximumMessageSize --attribute-value {SNS_MAX_RAISED_BYTES}."
            )
        name = target.exchange
        return (
            f"Raise the topic: Topic({name!r}, max_size={SNS_MAX_RAISED_BYTES}), or "
            f"Exchange({name!r}, arguments={{{SIZE_ARGUMENT!r}: {SNS_MAX_RAISED_BYTES}}})."
        )
