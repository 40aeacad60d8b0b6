"""All error classes that kombu_hake raises, and nothing else.

Details are attributes; advice is in the text. kombu and Celery decide by the four tuples of
:class:`kombu_hake.transport.Transport` what to do with an error; ``tests/unit/test_exceptions.py`` checks the place of
each class. Every error can be pickled, because Celery sends errors between processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kombu.exceptions import ChannelError, InconsistencyError, KombuError, OperationalError

from kombu_hake.quoting import escaped, without_userinfo

__all__ = [
    "AccessDenied",
    "BrokerUnavailable",
    "ConfigurationError",
    "DeclarationMismatch",
    "DeliveryError",
    "HakeError",
    "InvalidEvent",
    "InvalidName",
    "LeaseLost",
    "MalformedMessage",
    "MessageTooLarge",
    "PayloadMissing",
    "PublishError",
    "PublishFailed",
    "PurgeInProgress",
    "QueueDeletedRecently",
    "QueueNotFound",
    "QuotaExceeded",
    "ReplyQueueNotFound",
    "TopicNotFound",
    "TopologyError",
    "TopologyIncomplete",
    "Unroutable",
]


#: Characters of an error's text.
_MOST_CHARS = 20_000


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], facts: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


def _masked(faults: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(map(without_userinfo, [faults] if isinstance(faults, str) else faults))


def _listed(faults: Sequence[str], where: str) -> str:
    """A single fault as it is; several as a list."""
    if len(faults) == 1:
        return faults[0]
    return "\n".join([f"{len(faults)} faults {where}:", *(f"  - {fault}" for fault in faults)])


class HakeError(KombuError):  # type: ignore[misc]
    """Base of every error that kombu_hake raises. Its text may contain untrusted names and answers: it is
    escaped, and the credentials of URLs in it are masked.
    """

    def __init__(self, message: str = "") -> None:
        Exception.__init__(self, escaped(without_userinfo(message), _MOST_CHARS, keep="\n"))

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigurationError(HakeError, ValueError):
    """The broker URL or an option is wrong. Lists every fault, so that one run shows them all."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        #: One sentence a fault.
        self.faults = _masked(faults)
        super().__init__(_listed(self.faults, "in the configuration"))


class BrokerUnavailable(HakeError, OperationalError):  # type: ignore[misc]
    """AWS could not be reached, answered with a server error, or throttled, after the retries.

    The only recoverable error: a retry can help.
    """

    def __init__(self, message: str = "", *, is_throttle: bool = False, is_clock_error: bool = False) -> None:
        super().__init__(message)
        #: True if AWS throttled the request.
        self.is_throttle = is_throttle
        #: True if AWS refused the time of the request.
        self.is_clock_error = is_clock_error


class AccessDenied(HakeError):
    """AWS denied an action. Never retried: the permissions have to change first."""

    def __init__(self, message: str = "", *, action: str = "", resource: str = "") -> None:
        super().__init__(message)
        #: The IAM action, such as ``sqs:SendMessage``.
        self.action = action
        #: The resource: an ARN, a URL or a name.
        self.resource = resource


class TopologyError(HakeError, ChannelError):  # type: ignore[misc]
    """A queue, exchange or binding is missing or is not what was declared."""

    #: The AMQP reply code that RabbitMQ would give.
    code = 541

    @property
    def reply_code(self) -> int:
        """py-amqp's alias of :attr:`code`."""
        return self.code

    @property
    def reply_text(self) -> str:
        """py-amqp's name for the text."""
        return str(self)


class QueueNotFound(TopologyError):
    """There is no such queue (or the account may not see it)."""

    code = 404


class ReplyQueueNotFound(QueueNotFound, InconsistencyError):  # type: ignore[misc]
    """The queue for a reply is gone: its requester no longer waits.

    kombu's mailbox expects :class:`kombu.exceptions.InconsistencyError` here; anything else can make it retry forever
    (``kombu/pidbox.py``, ``Mailbox._publish_reply``).
    """


class TopicNotFound(TopologyError):
    """There is no such SNS topic or subscription (or the account may not see it)."""

    code = 404


class InvalidName(TopologyError):
    """AWS does not allow this name."""

    code = 402


class DeclarationMismatch(TopologyError):
    """The entity exists with other properties than declared."""

    code = 406


class TopologyIncomplete(TopologyError):
    """A declared entity is missing or differs, and ``topology=verify`` creates nothing. Lists every fault."""

    def __init__(self, faults: str | Sequence[str] = ()) -> None:
        #: One sentence a fault.
        self.faults = _masked(faults)
        where = "in the declared topology; topology=verify changes nothing"
        super().__init__(_listed(self.faults, where) if self.faults else "")


class QueueDeletedRecently(TopologyError):
    """AWS refuses the name of a queue for sixty seconds after it was deleted."""

    code = 405


class PurgeInProgress(TopologyError):
    """AWS purges a queue at most once in sixty seconds."""

    code = 405


class QuotaExceeded(TopologyError):
    """A quota of the AWS account is used up, such as the number of filter policies or of messages in flight."""

    code = 506


class Unroutable(TopologyError):
    """No queue would receive a published message."""

    code = 312


class PublishError(HakeError):
    """A message was not accepted, and sending it again unchanged would fail too."""


class MessageTooLarge(PublishError):
    """The message is over the limit of SNS or SQS. Nothing was sent."""

    def __init__(self, message: str = "", *, size_bytes: int = 0, limit_bytes: int = 0) -> None:
        super().__init__(message)
        #: Size of the body and the attributes, UTF-8.
        self.size_bytes = size_bytes
        #: 0 if AWS refused it without naming a limit.
        self.limit_bytes = limit_bytes


class PublishFailed(PublishError):
    """AWS refused some messages of a batch; the others were accepted."""

    def __init__(self, message: str = "", *, failed: Sequence[tuple[Any, Exception]] = ()) -> None:
        super().__init__(message)
        #: A pair ``(published message, error)`` for each message that AWS did not accept.
        self.failed = tuple(failed)


class InvalidEvent(PublishError, ValueError):
    """The data of an event does not match the model of its event type.

    When you publish it, nothing was sent. In a handler the event is dead-lettered, as after any other exception.
    """

    def __init__(self, message: str = "", *, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        #: One text per fault; it begins with the field: ``order_id must be int, not str``.
        self.faults = tuple(faults)


class DeliveryError(HakeError):
    """Something is wrong with a received message."""


class LeaseLost(DeliveryError):
    """The visibility timeout expired (or the handle became invalid) before the message was settled.

    Acknowledging logs this and never raises it: the message is, or was, redelivered.
    """


class MalformedMessage(DeliveryError):
    """A received message cannot be understood."""

    def __init__(self, message: str = "", *, message_id: str = "") -> None:
        super().__init__(message)
        self.message_id = message_id


class PayloadMissing(DeliveryError):
    """The payload of a message is not in S3 any more: it was processed before, or the lifecycle rule deleted it."""
