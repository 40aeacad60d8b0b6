"""One message in flight: its record, and the life of its lease as a table. Pure.

====================  =========  ========  ========  ========  =======
state / event         ack        release   refused   run out   renewed
====================  =========  ========  ========  ========  =======
HELD                  SETTLED    RELEASED  LOST      LAPSED    HELD
LAPSED                SETTLED    RELEASED  LOST      (none)    HELD
SETTLED               (none)     (none)    LOST      (none)    (none)
RELEASED              (none)     (none)    (none)    (none)    (none)
LOST                  (none)     (none)    (none)    (none)    (none)
====================  =========  ========  ========  ========  =======

*refused* means that AWS reports the handle as invalid, or that twelve hours have passed, the longest that AWS allows.
*run out* means that the visibility timeout has ended without a confirmed renewal: another consumer may have the
message. From then on the lease is **lost** for all code outside the settle path, and reported once.

A second settle is ignored: Celery may ack from a pool thread while the connection is being closed. A lost message is
not made visible (another consumer may hold it now) and not sent to a dead-letter queue (it is redelivered anyway). Only
for a lapsed lease, an ack still deletes the message: the work is done, and if no other consumer has received the
message since, this prevents a second run.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kombu_hake.amqp import Pointer, QueueUrl
from kombu_hake.quoting import quoted
from kombu_hake.receive.stored import Stored

__all__ = ["About", "Delivery", "Event", "Lease", "LeaseState", "LostLease", "Why", "after", "lost_text"]


class LeaseState(enum.Enum):
    """The state of a lease; see the table in the module's docstring."""

    __hash__ = object.__hash__  # enum's own hash is slow, and each settle uses the table

    HELD = "held"
    LAPSED = "lapsed"
    SETTLED = "settled"
    RELEASED = "released"
    LOST = "lost"


class Event(enum.Enum):
    """What happens to a lease."""

    __hash__ = object.__hash__

    ACK = "ack"
    RELEASE = "release"
    REFUSED = "refused"
    RUN_OUT = "run out"
    RENEWED = "renewed"


class Why(enum.Enum):
    """Why a lease is lost: the text for signal receivers and the log."""

    #: AWS did not answer in time. Another consumer may have received the message.
    LAPSED = "it could not be renewed in time"
    #: AWS reports that the handle is no longer valid: another consumer has, or had, the message.
    REFUSED = "it could not be renewed"
    #: The queue was deleted, and the message with it: it will not be redelivered.
    GONE = "its queue is gone"
    #: The end of twelve hours.
    CAP = "AWS holds a message for at most twelve hours"
    #: The delete failed: the message is redelivered, or was deleted and the answer was lost.
    ACK_FAILED = "its ack failed"


class Outcome(enum.Enum):
    """How a received message ends."""

    __hash__ = object.__hash__

    #: It was processed.
    ACK = "ack"
    DEAD_LETTER = "dead_letter"
    #: It was deleted and not processed: expired, not bound, or rejected without a dead-letter queue.

    DROPPED = "dropped"
    #: It is received again at a later time: its ETA, or the end of a back-off.
    DEFERRED = "deferred"
    #: It was made visible at once.
    RELEASED = "released"
    #: It is received again after its visibility timeout.
    ABANDONED = "abandoned"


_H, _P, _S, _R, _L = LeaseState
_NEXT: Mapping[tuple[LeaseState, Event], LeaseState] = {
    (_H, Event.ACK): _S,
    (_H, Event.RELEASE): _R,
    (_H, Event.REFUSED): _L,
    (_H, Event.RUN_OUT): _P,
    (_H, Event.RENEWED): _H,
    (_P, Event.ACK): _S,
    (_P, Event.RELEASE): _R,
    (_P, Event.REFUSED): _L,
    (_P, Event.RENEWED): _H,
    (_S, Event.REFUSED): _L,
}


def after(state: LeaseState, event: Event) -> LeaseState | None:
    """The state after an event; None where the event is ignored."""
    return _NEXT.get((state, event))


_LOST = frozenset({LeaseState.LAPSED, LeaseState.LOST})


class About(NamedTuple):
    """Identifies a message that was handed over."""

    channel_id: int
    delivery_tag: int
    queue: str
    #: Of a Celery task.
    task: str | None
    task_id: str | None
    #: The publisher's id, of any type; otherwise that of SQS.
    message_id: Any = None

    def __str__(self) -> str:
        """What the message is, for a log line."""
        if self.task is not None:
            return f"task {quoted(self.task)}[{quoted(self.task_id)}]"
        return f"message {quoted(self.message_id)}"


class Lease:
    """Our hold on one received message."""

    __slots__ = (
        "about",
        "deadline",
        "held_until",
        "hide_s",
        "is_renewed",
        "is_reported",
        "outcome",
        "owned",
        "queue",
        "receipt_handle",
        "received_at",
        "state",
        "url",
    )

    def __init__(
        self, url: QueueUrl, receipt_handle: str, received_at: float, visibility_s: float, queue: str = ""
    ) -> None:
        self.url = url
        #: What its queue is called in metrics.
        self.queue = queue
        #: What a delete of the message means: for metrics.
        self.outcome = Outcome.ACK
        self.receipt_handle = receipt_handle
        #: Monotonic seconds, as all times here.
        self.received_at = received_at
        #: The deadline for renewals; a renewal in progress counts as done.
        self.deadline = received_at + visibility_s
        #: Until then no other consumer can have the message: the end of the last visibility timeout that AWS confirmed.
        self.held_until = received_at + visibility_s
        self.state = LeaseState.HELD
        self.is_reported = False
        #: False if it must not be renewed any more; see :meth:`kombu_hake.receive.leases.Leases.stop_renewing`.
        self.is_renewed = True
        #: For how long :meth:`kombu_hake.receive.leases.Leases.hide` hides it.
        self.hide_s = 0
        #: Set when the message is handed over.
        self.about: About | None = None
        #: The object in S3 that is deleted once the ack is accepted; see :mod:`kombu_hake.receive.payloads`.
        self.owned: Pointer | None = None

    @property
    def label(self) -> str:
        """The message's name for a log line; empty before it is handed over."""
        return "" if self.about is None else f"{self.about} from queue {self.about.queue}"

    @property
    def keeps_payload(self) -> bool:
        """Return True if other messages may still point to its payload in S3: not after an ack that deletes it."""
        return self.owned is None or self.state is not LeaseState.SETTLED

    @property
    def is_lost(self) -> bool:
        """True if another consumer may have the message."""
        return self.state in _LOST


def lost_text(lease: Lease, why: Why, detail: Any = "") -> str:
    """The line for the log."""
    then = "it will not be redelivered" if why is Why.GONE else "it will be, or was, redelivered"
    return f"Lost the lease of {lease.label or 'a message'} ({why.value}): {then}. {detail}".rstrip()


class Delivery:
    """One message in flight; the only record of it (:mod:`kombu_hake.receive.deliveries`)."""

    __slots__ = ("channel_id", "credit", "lease", "message", "queue", "source", "stored", "tag")

    def __init__(
        self,
        channel_id: int,
        queue: str,
        source: str,
        message: dict[str, Any],
        lease: Lease,
        credit: Callable[[str], None] | None = None,
    ) -> None:
        """Args:
        queue: Logical name of the queue that is consumed.
        source: Logical name of the SQS queue it came from: the same, or a priority level of it.
        message: As boto3 gives it: ``MessageId``, ``Body``, ``Attributes`` …
        credit: Called with *source* to return its credit; None if it takes none.
        """
        self.channel_id = channel_id
        self.queue = queue
        self.source = source
        self.message = message
        self.lease = lease
        self.credit = credit
        #: Its delivery tag; 0 until it is handed over.
        self.tag = 0
        #: Its payload, if that is in S3.
        self.stored: Stored | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.message.get('MessageId')} of {self.source} tag={self.tag} {self.lease.state.value}>"


class LostLease(NamedTuple):
    """Reports from the settle path that a lease is lost."""

    lease: Lease
    why: Why
