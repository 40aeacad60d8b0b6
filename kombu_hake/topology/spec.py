"""What a queue is declared with, and what of it AWS is told when it is created. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from kombu_hake._version import __version__
from kombu_hake.amqp import (
    DEFAULT_PATTERN,
    DOCUMENT_ATTRIBUTES,
    FIFO_SUFFIX,
    IF_MADE,
    MAX_BINDING_TAGS,
    PRIVATE_EXCHANGE,
    SQS_MAX_RECEIVE_COUNT,
    SQS_MAX_REDRIVE_SOURCES,
    SQS_MAX_RETENTION_S,
    SQS_MAX_TAGS,
    SQS_MAX_WAIT_S,
    SQS_MIN_RETENTION_S,
    TAG_PREFIX,
    Binding,
    ExchangeType,
    Kind,
    QueueArn,
    in_pattern,
    is_dead_name,
    is_reply_exchange,
    main_queue,
    max_priority,
    overflow_tags,
    to_tags,
    undelivered_name,
)
from kombu_hake.config import Settings
from kombu_hake.exceptions import TopologyError

__all__ = [
    "LEVEL_TAG",
    "MADE_BY_TAG",
    "NAMESPACE_TAG",
    "OWNER_TAG",
    "TYPE_TAG",
    "ExchangeSpec",
    "Plan",
    "QueueSpec",
    "binding_priority",
    "binding_tags",
    "created_attributes",
    "is_made_by_us",
    "is_ours",
    "needs_topic",
    "own_tags",
    "plan",
    "redrive_allow_policy",
    "redrive_to",
    "retention_s",
    "undelivered_queue",
]

#: Tags of all our queues and topics: the version that made it, and the namespace (``-`` for none).
MADE_BY_TAG, NAMESPACE_TAG = "hake:made-by", "hake:namespace"
_MAKER = "kombu_hake "
#: Tag of a priority level: the physical name of the queue that it belongs to.
LEVEL_TAG = "hake:level-of"
#: Tag of a dead-letter queue that belongs to one queue, and goes with it: that queue's name in AWS.
OWNER_TAG = "hake:dead-letters-of"
#: Tag of a topic: the type of its exchange, for processes that were told only its name.
TYPE_TAG = "hake:exchange-type"
_MIN_EXPIRES_S = 600
#: Tags that are left free for exchanges that have no room for single bindings.
_OVERFLOW_TAGS = 3
#: What kombu's SQS transport gives the queues that it creates, seconds. It renews nothing while a task runs.
_SHARED_VISIBILITY_S = 1_800
#: Attributes that AWS refuses for a standard queue.
_FIFO_ONLY = {"ContentBasedDeduplication", "DeduplicationScope", "FifoQueue", "FifoThroughputLimit"}


@dataclass(frozen=True)
class QueueSpec:
    """What a queue was declared with."""

    name: str
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_temporary(self) -> bool:
        """Return True if the queue is deleted with its owner, or with its last consumer."""
        return self.exclusive or self.auto_delete

    @property
    def expires_s(self) -> int | None:
        """After how long without use it goes away, seconds; None for never. Ten minutes at least: signs of use are
        renewed every few minutes.
        """
        expires = self.arguments.get("x-expires")
        return None if expires is None else max(_MIN_EXPIRES_S, math.ceil(float(expires) / 1000))

    @property
    def kind(self) -> Kind:
        """What it goes with; false for a queue that stays."""
        return Kind(self.exclusive, self.auto_delete and not self.exclusive, self.expires_s)


class ExchangeSpec(NamedTuple):
    """What an exchange was declared with."""

    #: None if it is not known: then only its name was given.
    type: ExchangeType | None = None
    #: Bytes of its largest messages, where SNS's default is not enough.
    max_size_bytes: int | None = None


def own_tags(settings: Settings) -> dict[str, str]:
    """Tags that say who made a queue or topic, and for which namespace."""
    mine = {MADE_BY_TAG: f"{_MAKER}{__version__}", NAMESPACE_TAG: settings.namer.namespace or "-"}
    return {**settings.queue_tags, **mine}


def is_made_by_us(tags: Mapping[str, str]) -> bool:
    """Return True if the tags of a queue or topic say that this package created it, in any version."""
    return tags.get(MADE_BY_TAG, "").startswith(_MAKER)


def is_ours(tags: Mapping[str, str], settings: Settings) -> bool:
    """Return True if they also name the namespace of these settings."""
    return is_made_by_us(tags) and tags.get(NAMESPACE_TAG) == (settings.namer.namespace or "-")


def retention_s(settings: Settings, *, is_temporary: bool) -> str:
    """The ``MessageRetentionPeriod`` of a new queue, seconds, as AWS writes it.

    That of a temporary queue differs by one second. It is the proof that the queue was created as temporary: tags can
    be forged by anyone with ``sqs:TagQueue``, but attributes are changed with ``sqs:SetQueueAttributes`` only.
    """
    usual = settings.queue_attributes.get("MessageRetentionPeriod", str(SQS_MAX_RETENTION_S))
    if not is_temporary or not usual.isdecimal():
        return usual
    return str(int(usual) - 1 if int(usual) > SQS_MIN_RETENTION_S else int(usual) + 1)


def created_attributes(settings: Settings, name: str, *, is_temporary: bool) -> dict[str, str]:
    """The attributes with which a queue is created: the general ones of the option, then those of patterns that match.

    Args:
        name: Logical name.
    """
    general: dict[str, str] = {}
    special: dict[str, str] = {}
    for key, value in settings.queue_attributes.items():
        if value.startswith("{") and key not in DOCUMENT_ATTRIBUTES:
            special |= json.loads(value) if fnmatchcase(main_queue(name), key) else {}
        else:
            general[key] = value
    usual, temporary = (retention_s(settings, is_temporary=one) for one in (False, True))
    retention = special.get("MessageRetentionPeriod", usual)
    if is_temporary or retention == temporary:  # only a temporary queue may look like one
        retention = temporary if is_temporary else usual
    found = {
        # For those who name none when they receive, such as sqs:// workers. Our receives name ours.
        "VisibilityTimeout": str(max(_SHARED_VISIBILITY_S, settings.visibility_timeout)),
        "ReceiveMessageWaitTimeSeconds": str(SQS_MAX_WAIT_S),
        **general,
        **special,
        "MessageRetentionPeriod": retention,
    }
    if name.endswith(FIFO_SUFFIX):
        return {**found, "FifoQueue": "true"}
    return {key: value for key, value in found.items() if key not in _FIFO_ONLY}


class Plan(NamedTuple):
    """What a queue asked for to keep its dead letters."""

    #: Logical name of the dead-letter queue.
    name: str
    max_receives: int
    #: Whether it is this queue's alone.
    is_own: bool
    #: Whether it is a fault if infrastructure code has not made it.
    is_needed: bool


def plan(spec: QueueSpec, settings: Settings) -> Plan | None:
    """The dead-letter queue that a declared queue asks for; None for none. Pure.

    Raises:
        TopologyError: its arguments are wrong.
    """
    arguments = spec.arguments
    asked = arguments.get("x-dead-letter-queue")
    if asked is None and "x-dead-letter-exchange" not in arguments:
        by_option = settings.dead_letter_queue
        asked = None if is_dead_name(spec.name, by_option) else by_option
    if not asked or spec.is_temporary or "x-expires" in arguments:
        return None
    pattern = DEFAULT_PATTERN if asked in (True, IF_MADE) else str(asked)
    limit = arguments.get("x-delivery-limit", settings.max_receive_count)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= SQS_MAX_RECEIVE_COUNT:
        raise TopologyError(
            f"The argument x-delivery-limit={limit!r} of queue {spec.name!r} must be a whole number from 1 to "
            f"{SQS_MAX_RECEIVE_COUNT}: after so many receives AWS sets a message aside."
        )
    name = in_pattern(pattern, spec.name)
    is_fifo = spec.name.endswith(FIFO_SUFFIX)
    if not isinstance(asked, str | bool) or name == spec.name or name.endswith(FIFO_SUFFIX) != is_fifo:
        raise TopologyError(
            f"The argument x-dead-letter-queue={asked!r} of queue {spec.name!r} must be true, or the name of another "
            "queue, which is FIFO if this one is."
        )
    return Plan(name, limit, "{queue}" in pattern, asked != IF_MADE)


def redrive_to(dead_arn: str, max_receives: int) -> str:
    """The ``RedrivePolicy`` of a queue, as JSON text."""
    return json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": max_receives})


def redrive_allow_policy(sources: Iterable[QueueArn | str]) -> str:
    """The ``RedriveAllowPolicy`` of a dead-letter queue, as JSON text: AWS takes so many names, or all queues."""
    allowed = list(dict.fromkeys(map(str, sources)))
    if len(allowed) > SQS_MAX_REDRIVE_SOURCES:
        return json.dumps({"redrivePermission": "allowAll"})
    return json.dumps({"redrivePermission": "byQueue", "sourceQueueArns": allowed})


def undelivered_queue(spec: QueueSpec, settings: Settings) -> str | None:
    """The queue that is to keep what SNS can't deliver to a declared queue, if it is bound; None for none. Pure."""
    if not settings.keep_undelivered or plan(spec, settings) is None:
        return None
    return undelivered_name(spec.name)


def needs_topic(settings: Settings, queue: str, binding: Binding) -> bool:
    """Return True if a binding needs SNS. False if publishers send its messages to the queue itself."""
    exchange = binding.exchange
    if not exchange or exchange == PRIVATE_EXCHANGE or is_reply_exchange(exchange):
        return False
    is_own = binding.exchange_type == "direct" and exchange == queue == binding.routing_key
    return not (is_own and settings.direct_exchanges == "auto")


def binding_tags(tags: Mapping[str, str], binding: Binding) -> tuple[dict[str, str], bool]:
    """The tags that record a new binding, and whether they say "everything of the exchange", for lack of room.

    Args:
        tags: All that the queue has.
    """
    new = to_tags(binding)
    taken = sum(1 for key in tags if key.startswith(TAG_PREFIX))
    if taken + len(new) > MAX_BINDING_TAGS or len(tags) + len(new) > SQS_MAX_TAGS - _OVERFLOW_TAGS:
        return overflow_tags(binding.exchange, binding.exchange_type), True
    return new, False


def binding_priority(settings: Settings, queue: str, arguments: Mapping[str, Any]) -> int:
    """The ``x-max-priority`` that filters share out to levels of ours; 0 where there are none.

    A queue that others made has no levels of ours; and those of a FIFO queue would not be FIFO.
    """
    if queue.endswith(FIFO_SUFFIX) or settings.predefined_queue(queue) is not None:
        return 0
    return max_priority(arguments)
