"""Names of queues and topics in AWS, of dead-letter queues, of kombu's mailboxes, and in metrics; ARNs. Pure.

Logical names (what kombu declares) become physical names (what AWS stores).
AWS allows ``[A-Za-z0-9_-]`` only: 80 characters for a queue, 256 for a topic, ``.fifo`` as the one legal suffix.
The mapping is one-to-one over (namespace, logical name):

* a legal name is unchanged;
* any other name keeps a readable prefix and ends in ``_x`` and a hash of the whole name;
* a legal name that *looks* like a hashed one, or like one with a namespace, is hashed too, so that the two cannot be
  confused.

With a namespace the physical name is ``<namespace>__<name>``. A namespace contains no double underscore and does not
end in an underscore, so the first ``__`` always ends it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from functools import lru_cache
from typing import NamedTuple, NewType
from uuid import UUID

from kombu_hake.amqp.limits import FIFO_SUFFIX, SNS_MAX_TOPIC_NAME_CHARS, SQS_MAX_QUEUE_NAME_CHARS
from kombu_hake.amqp.priorities import main_queue
from kombu_hake.exceptions import InvalidName

__all__ = [
    "DEFAULT_PATTERN",
    "IF_MADE",
    "REPLY_POLL_S",
    "REPLY_PREFIX",
    "TEMPORARY",
    "Arn",
    "Namer",
    "QueueArn",
    "QueueUrl",
    "SubscriptionArn",
    "TopicArn",
    "dead_name",
    "has_uuid",
    "in_pattern",
    "is_command_queue",
    "is_dead_name",
    "is_event_queue",
    "is_incarnation",
    "is_mailbox",
    "is_reply_exchange",
    "is_reply_queue",
    "label",
    "parse_arn",
    "queue_account",
    "queue_name",
    "reply_queue",
    "undelivered_name",
    "valid_namespace",
]

QueueUrl = NewType("QueueUrl", str)
QueueArn = NewType("QueueArn", str)
TopicArn = NewType("TopicArn", str)
SubscriptionArn = NewType("SubscriptionArn", str)

NAMESPACE_MAX_CHARS = 32
#: 20 characters of base 32 are 100 bits: no two names of one account will ever collide.
_HASH_CHARS = 20
_HASH_ALPHABET = "0123456789abcdefghijklmnopqrstuv"

_INCARNATION_CODE_CHARS, _INCARNATION_PROOF_CHARS = 20, 12
_INCARNATION_CHARS = 1 + _INCARNATION_CODE_CHARS + _INCARNATION_PROOF_CHARS
_INCARNATION = re.compile(
    rf"(?P<stem>[A-Za-z0-9_-]+-[0-9a-f]{{{_INCARNATION_CODE_CHARS}}})"
    rf"(?P<proof>[0-9a-f]{{{_INCARNATION_PROOF_CHARS}}})(?:\.fifo)?\Z"
)
_LEGAL = re.compile(r"[A-Za-z0-9_-]+\Z")
_LOOKS_HASHED = re.compile(rf".*_x[0-9a-v]{{{_HASH_CHARS}}}\Z", re.DOTALL)
_NAMESPACE = re.compile(r"[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*\Z")
_LOOKS_NAMESPACED = re.compile(r"[A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*__")
_ODD_RUN = re.compile(r"[^A-Za-z0-9-]+")
#: How kombu's SQS transport changes names (``kombu/transport/SQS/__init__.py``, ``CHARS_REPLACE_TABLE``).
_KOMBU_TABLE = {ord(c): "_" for c in string.punctuation if c not in "-_."} | {ord("."): "-"}


def valid_namespace(namespace: str) -> bool:
    """Return True if *namespace* may be used: letters, digits, ``-`` and single ``_`` inside, at most 32 characters."""
    return not namespace or (len(namespace) <= NAMESPACE_MAX_CHARS and _NAMESPACE.match(namespace) is not None)


class Namer(NamedTuple):
    """Map logical names to physical ones; nothing else does.

    Attributes:
        namespace: Keeps several environments of one account apart; ``""`` for none.
        prefix: Prepended to each logical name unchanged (``queue_name_prefix`` of ``sqs://``).
        style: ``"hake"``, or ``"kombu"`` for the names of ``sqs://``, which are not one-to-one.
    """

    namespace: str = ""
    prefix: str = ""
    style: str = "hake"

    def queue(self, name: str) -> str:
        """Physical name of a queue: 1..80 characters.

        Raises:
            InvalidName: *name* is empty, or ``style="kombu"`` gives a name that AWS refuses.
        """
        return self._physical(name, SQS_MAX_QUEUE_NAME_CHARS)

    def topic(self, exchange: str) -> str:
        """Physical name of an exchange's topic: 1..256 characters. Raises as :meth:`queue`."""
        return self._physical(exchange, SNS_MAX_TOPIC_NAME_CHARS)

    def topic_pattern(self) -> str:
        """A pattern with ``*`` that matches every topic of this namespace."""
        return f"{self.namespace}__*" if self.namespace else "*"

    def incarnation(self, queue: str) -> str:
        """A name of 1..80 characters for a queue that is never used again: AWS refuses a deleted name for a minute.

        Raises: as :meth:`queue`.
        """
        name = self.queue(queue)
        stem, suffix = _split_fifo(name)
        code = secrets.token_hex(_INCARNATION_CODE_CHARS // 2)
        stem = f"{stem[: SQS_MAX_QUEUE_NAME_CHARS - _INCARNATION_CHARS - len(suffix)]}-{code}"
        return f"{stem}{_proof(stem)}{suffix}"

    def incarnation_pattern(self) -> str:
        """A pattern with ``*`` and ``?`` that matches every name of :meth:`incarnation` in this namespace."""
        return f"{self.queue_prefix()}*-{'?' * (_INCARNATION_CHARS - 1)}"

    def uuid_pattern(self, template: str) -> str:
        """A pattern with ``?`` that matches the physical names of queues whose names differ in a UUID.

        Args:
            template: The name of such a queue, with ``{uuid}`` in place of the UUID.
        Raises: as :meth:`queue`.
        """
        low, high = (self.queue(template.replace("{uuid}", str(UUID(digit * 32)))) for digit in "0f")
        shown = "".join(one if one == other else "?" for one, other in zip(low, high, strict=True))
        is_hashed = self.style == "hake" and _LOOKS_HASHED.match(low) is not None
        return shown[:-_HASH_CHARS] + "?" * _HASH_CHARS if is_hashed else shown

    def owns(self, physical: str) -> bool:
        """Return True if a queue or topic with this name in AWS belongs to this namespace."""
        if self.namespace:
            return physical.startswith(f"{self.namespace}__")
        return _LOOKS_NAMESPACED.match(physical) is None

    def queue_prefix(self) -> str:
        """The prefix of all queue names of this namespace; foreign queues may share it."""
        return f"{self.namespace}__" if self.namespace else ""

    def _physical(self, name: str, max_chars: int) -> str:
        if not name:
            raise InvalidName("The name of a queue or an exchange cannot be empty.")
        name = self.prefix + name
        stem, suffix = _split_fifo(name)
        space = f"{self.namespace}__" if self.namespace else ""
        room = max_chars - len(suffix) - len(space)
        if self.style == "kombu":
            main = main_queue(stem)
            found = _kombu_stem(main, main + suffix, room)
            if main != stem:  # sqs:// has no name for a priority level
                found = _hashed(found + stem[len(main) :], room)
            return space + found + suffix
        odd = not _LEGAL.match(stem) or len(stem) > room or _LOOKS_HASHED.match(stem)
        if odd or (not space and _LOOKS_NAMESPACED.match(stem)):
            stem = _hashed(stem, room)
        return space + stem + suffix


def is_incarnation(physical: str) -> bool:
    """Return True if :meth:`Namer.incarnation` made this name; also works after the queue is gone."""
    match = _INCARNATION.match(physical)
    return match is not None and _proof(match["stem"]) == match["proof"]


def _split_fifo(name: str) -> tuple[str, str]:
    """A name without the suffix of a FIFO queue or topic, and the suffix."""
    return (name[: -len(FIFO_SUFFIX)], FIFO_SUFFIX) if name.endswith(FIFO_SUFFIX) else (name, "")


def _proof(stem: str) -> str:
    return hashlib.sha256(f"kombu_hake {stem}".encode()).hexdigest()[:_INCARNATION_PROOF_CHARS]


def _kombu_stem(stem: str, name: str, room: int) -> str:
    stem = stem.translate(_KOMBU_TABLE)
    if not _LEGAL.match(stem) or len(stem) > room:
        raise InvalidName(
            f"name_style=kombu maps {name!r} to {stem!r}, which AWS refuses: at most {room} letters, digits, "
            "'-' and '_'. Rename it, or use name_style=hake."
        )
    return stem


def _hashed(stem: str, room: int) -> str:
    # surrogatepass: a lone surrogate is a legal Python string, and therefore a possible name.
    digest = int.from_bytes(hashlib.sha256(stem.encode("utf-8", "surrogatepass")).digest(), "big")
    code = "".join(_HASH_ALPHABET[(digest >> (5 * i)) & 31] for i in range(_HASH_CHARS))
    head = _ODD_RUN.sub("_", stem).strip("_")[: room - _HASH_CHARS - 2].rstrip("_")
    return f"{head}_x{code}"


class Arn(NamedTuple):
    """The parts of an ARN of SNS or SQS: ``arn:partition:service:region:account:name``."""

    partition: str
    service: str
    region: str
    account: str
    name: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:{self.service}:{self.region}:{self.account}:{self.name}"


def parse_arn(text: str) -> Arn:
    """Parse an ARN.

    Raises:
        InvalidName: *text* is not an ARN of six parts.
    """
    parts = text.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn" or not all((parts[1], parts[2], parts[3], parts[5])):
        raise InvalidName(f"{text!r} is not an ARN of the form arn:partition:service:region:account:name.")
    return Arn(*parts[1:])


def queue_account(url: str) -> str:
    """The account in a queue URL, its last but one path segment; ``""`` if there is none.

    AWS does not guarantee the form of queue URLs: use this as a hint that saves a call, never as authoritative.
    """
    parts = url.rstrip("/").split("/")
    account = parts[-2] if len(parts) >= 2 else ""
    return account if account.isdigit() else ""


def queue_name(url: str) -> str:
    """The name in a queue URL, its last path segment."""
    return url.rstrip("/").rpartition("/")[2]


# --- dead-letter queues

#: Value of the queue argument ``x-dead-letter-queue``: like True, but a missing one is no fault where infrastructure
#: code creates the queues.
IF_MADE = "?"
DEFAULT_PATTERN = "{queue}-dead"
UNDELIVERED_PATTERN = "{queue}-undelivered"


def in_pattern(pattern: str, queue: str) -> str:
    """The name of a queue's dead-letter queue; that of a FIFO queue is FIFO.

    Args:
        pattern: ``{queue}`` in it stands for the queue's name.
    """
    name = pattern.replace("{queue}", queue.removesuffix(FIFO_SUFFIX))
    return name + FIFO_SUFFIX if queue.endswith(FIFO_SUFFIX) and not name.endswith(FIFO_SUFFIX) else name


def is_dead_name(queue: str, pattern: str | None) -> bool:
    """Return True if the name is that of a dead-letter queue, which must not be given a dead-letter queue itself."""
    stem = queue.removesuffix(FIFO_SUFFIX)
    patterns = [DEFAULT_PATTERN, UNDELIVERED_PATTERN, pattern or DEFAULT_PATTERN]
    return any(re.fullmatch(re.escape(p).replace(re.escape("{queue}"), ".+"), stem) for p in patterns)


def dead_name(queue: str) -> str:
    """The default name of a queue's own dead-letter queue: ``email-dead``, ``email-dead.fifo``."""
    return in_pattern(DEFAULT_PATTERN, queue)


def undelivered_name(queue: str) -> str:
    """The name of the undelivered queue: it keeps messages that SNS could not deliver to a queue."""
    return in_pattern(UNDELIVERED_PATTERN, queue)


# --- mailboxes of remote control, queues of events
#
# kombu/pidbox.py: a command is published to "<namespace>.pidbox", and each answer to "reply.<namespace>.pidbox", with
# the id of the asking mailbox as routing key. That mailbox receives from the queue "<id>.reply.<namespace>.pidbox".
# Each worker receives its commands from the queue "<hostname>.<namespace>.pidbox".

_MAILBOX_SUFFIX = ".pidbox"
REPLY_PREFIX = "reply."
#: Queues of events are called ``<event_queue_prefix>.<id>``; this is Celery's default.
_EVENT_QUEUES = "celeryev."
#: Length of a long poll of a reply queue, seconds. A caller waits about a second for replies, and the poll that is open
#: then keeps its thread and its connection for this long.
REPLY_POLL_S = 2


def is_mailbox(exchange: str) -> bool:
    """Return True if commands or replies of remote control go through this exchange."""
    return exchange.endswith(_MAILBOX_SUFFIX)


def is_reply_exchange(exchange: str) -> bool:
    """Return True if replies are published to this exchange: they go straight to a queue, without SNS."""
    return exchange.startswith(REPLY_PREFIX) and is_mailbox(exchange)


def reply_queue(exchange: str, routing_key: str) -> str:
    """The queue that receives replies published to *exchange* (``Mailbox.get_reply_queue``)."""
    return f"{routing_key}.{exchange}"


def is_reply_queue(queue: str) -> bool:
    """Return True if a queue receives replies."""
    owner, _, exchange = queue.partition(".")
    return "@" not in owner and is_reply_exchange(exchange)  # w@one.reply.example.celery.pidbox: a worker's commands


def is_command_queue(queue: str) -> bool:
    """Return True if a queue holds commands for one worker."""
    return is_mailbox(queue) and not is_reply_queue(queue)


def is_event_queue(queue: str) -> bool:
    """Return True if a queue receives Celery's events, judging by its name."""
    return queue.startswith(_EVENT_QUEUES)


# --- in metrics and spans

#: Stands for all queues that come and go: a name for each would be a time series for each.
TEMPORARY = "(temporary)"
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32}", re.ASCII | re.IGNORECASE)


@lru_cache(maxsize=1_000)
def label(queue: str) -> str:
    """What a queue is called in metrics and spans: its name, without the priority level."""
    return TEMPORARY if is_mailbox(queue) or is_event_queue(queue) or has_uuid(queue) else main_queue(queue)


def has_uuid(queue: str) -> bool:
    """Return True if a name holds a UUID, as those of queues that are never used again do."""
    return _UUID.search(queue) is not None
