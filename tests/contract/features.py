"""What each leg of the contract suite can do, declared once.

A test names what it takes (``@needs(Can.…)``); on a leg that lacks it the test is skipped with the reason given here.
A leg that can do everything has nothing to declare.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import pytest
from fake_aws import QUICK, SLOW, Timings


class Can(Enum):
    """Parts of AMQP, or of our promises beyond it, that a leg may lack."""

    EXACT_TOPICS = "topic patterns match as AMQP says, word by word"
    HEADERS_EXCHANGE = "exchanges of type headers"
    REPORTS_UNROUTABLE = "mandatory, and the option unroutable"
    SCOPED_REQUEUE = "what is requeued goes back to one queue only"
    RECEIVE_COUNT = "the number of receives is a property of the message"
    ACK_MULTIPLE = "one ack for all messages up to it"
    SHARED_QUEUE = "several consumers of one queue on one channel take turns"
    RETURNS_ON_CLOSE = "a channel or connection that closes gives back what it has not settled"
    DELETE_UNBINDS = "a queue deleted and declared again has none of its old bindings"
    REFUSES_DELETE = "delete with if_empty, if_unused raises where it must not delete"
    KNOWS_MISSING = "purging or consuming a queue that does not exist raises"
    OWNED_QUEUES = "exclusive and auto-delete queues go with their connection"
    KEEPS_STRANGERS_APART = "processes that share no memory"
    SIZE_LIMIT = "a largest message"
    RAISED_TOPICS = "topics that take messages of more than 256 KiB"
    BATCHES = "publishing in batches"
    AWS = "topics, subscriptions and policies that can be looked at"
    EXACT_COUNTS = "the number of messages in a queue is right at once"
    OTHER_ACCOUNTS = "queues of other accounts may be subscribed, without asking these accounts"


@dataclass(frozen=True)
class Features:
    """One leg.

    Attributes:
        leg: Its name.
        lacks: What it cannot do, and why.
        faults: Faults of ours that only this leg shows, each with the tests that fail for it. A test that passes
            although it is listed fails the run, so that it is taken off the list.
    """

    leg: str
    lacks: Mapping[Can, str] = field(default_factory=dict)
    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def known_fault(self, test: str) -> str:
        """Why a test, by the name of its function, fails on this leg; ``""`` where it does not."""
        return next((why for why, tests in self.faults.items() if test in tests), "")


_IN_MEMORY = "everything is in the memory of one process"
_NO_AWS = "there is no AWS behind it"
_LATE_DELETE = "AWS may answer for a deleted queue for up to a minute"
#: Faults that do not show each time.
SOMETIMES = {_LATE_DELETE}

MEMORY = Features(
    "memory",
    {
        Can.EXACT_TOPICS: "kombu's virtual exchange: '*' takes several words, '#' never none",
        Can.HEADERS_EXCHANGE: "kombu's virtual transports have none",
        Can.REPORTS_UNROUTABLE: "kombu's virtual transports drop what they can't route",
        Can.SCOPED_REQUEUE: "kombu's virtual transports publish a requeued message anew, to all queues of its exchange",
        Can.RECEIVE_COUNT: "not counted",
        Can.SHARED_QUEUE: "kombu's virtual transports keep one callback a queue, that of the last consumer",
        Can.ACK_MULTIPLE: "kombu's virtual transports ack one message at a time",
        Can.RETURNS_ON_CLOSE: "kombu's memory transport restores nothing",
        Can.DELETE_UNBINDS: "kombu's virtual transports keep the bindings of a deleted queue",
        Can.REFUSES_DELETE: "kombu's virtual transports return instead of raising",
        Can.KNOWS_MISSING: "kombu's memory transport makes a missing queue",
        Can.OWNED_QUEUES: "kombu's memory transport knows no owners of queues",
        Can.KEEPS_STRANGERS_APART: _IN_MEMORY,
        Can.SIZE_LIMIT: _IN_MEMORY,
        Can.RAISED_TOPICS: _IN_MEMORY,
        Can.BATCHES: "kombu publishes at once where a transport has no batches",
        Can.AWS: _NO_AWS,
    },
)
_256_KIB = "it takes 256 KiB, whatever MaximumMessageSize says"
MOTO = Features("moto", {Can.RAISED_TOPICS: _256_KIB})
MINISTACK = Features("ministack", {Can.RAISED_TOPICS: _256_KIB})

FAKE = Features("fake")
SLOW_FAKE = Features("slow")

#: A real account, which only ``make aws`` runs on.
AWS = Features(
    "aws",
    {
        Can.EXACT_COUNTS: "counts of AWS are approximate for a minute",
        Can.OTHER_ACCOUNTS: "SNS would ask the owner of the account to confirm",
    },
    faults={
        _LATE_DELETE: (
            "test_deleted_queue_is_gone",
            "test_if_empty_deletes_an_empty_queue",
            "test_exclusive_queue_goes_with_its_connection",
            "test_auto_delete_queue_goes_after_its_consumer",
        ),
    },
)

LEGS: dict[str, Features] = {features.leg: features for features in (MEMORY, MOTO, MINISTACK, FAKE, SLOW_FAKE)}

#: The fake over HTTP. Publishing through a topic waits, in no time, until what was declared acts. On the slow leg the
#: package takes it for AWS, and all its waiting is in the time of that AWS.
STAND_INS: dict[str, Timings] = {"fake": QUICK, "slow": SLOW}


def needs(*what: Can) -> pytest.MarkDecorator:
    """Run the test only on legs that can do this."""
    return pytest.mark.needs(*what)
