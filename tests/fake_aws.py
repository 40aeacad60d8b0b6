"""What the fakes of SQS and SNS share: refusals in AWS's words, how slow AWS is, and clocks.

:data:`QUICK` is an AWS where each change is seen and acts at once, as on an emulator. :data:`SLOW` is AWS: reads show
older states, changes act late, and calls are rationed. Both are deterministic: a lag is exactly as long as it says.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

__all__ = [
    "CREDENTIAL_FAILURES",
    "QUICK",
    "SIGNATURE_FAILURES",
    "SLOW",
    "AwsError",
    "Budgets",
    "Clock",
    "FakeClock",
    "Past",
    "RunningClock",
    "Timings",
]

T = TypeVar("T")
_LEGACY = "AWS.SimpleQueueService."
#: Code to HTTP status where that is not 400.
_STATUS = {
    "AccessDenied": 403,
    "AuthorizationError": 403,
    "ExpiredToken": 403,
    "FilterPolicyLimitExceeded": 403,
    "InternalError": 500,
    "InternalFailure": 500,
    "InvalidClientTokenId": 403,
    "InvalidSecurity": 403,
    "NotFound": 404,
    "OverLimit": 403,
    "RequestExpired": 403,
    "ResourceNotFoundException": 404,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SubscriptionLimitExceeded": 403,
    "Throttled": 429,
    "TopicLimitExceeded": 403,
    f"{_LEGACY}PurgeQueueInProgress": 403,
}
#: Codes of SQS to the names of their shapes, where these are not the codes without the prefix.
_SHAPES = {
    "AccessDenied": "AccessDeniedException",
    "ExpiredToken": "ExpiredTokenException",
    "InvalidClientTokenId": "UnrecognizedClientException",
    "InvalidParameterValue": "InvalidParameterValueException",
    "MissingParameter": "MissingRequiredParameterException",
    "QueueAlreadyExists": "QueueNameExists",
    "SignatureDoesNotMatch": "InvalidSignatureException",
    f"{_LEGACY}NonExistentQueue": "QueueDoesNotExist",
}


class AwsError(Exception):
    """A refusal as AWS words it.

    Args:
        code: What boto3 shows as ``Error.Code``; for SQS the legacy code.
        text: The message.
        status: HTTP status; None takes the one that belongs to the code.
    """

    def __init__(self, code: str, text: str, status: int | None = None) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.status = status or _STATUS.get(code, 400)

    @property
    def shape(self) -> str:
        """Name of the modeled error of SQS."""
        return _SHAPES.get(self.code, self.code.removeprefix(_LEGACY))

    @property
    def is_senders(self) -> bool:
        """Whether AWS blames the caller."""
        return self.status < 500

    @classmethod
    def sqs(cls, name: str, text: str) -> AwsError:
        """An error of SQS whose legacy code has the long prefix."""
        return cls(_LEGACY + name, text)


def _sts_error(code: str, status: int) -> Exception:
    from botocore.exceptions import ClientError

    answer = {
        "Error": {"Code": code, "Message": f"{code} of STS"},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "RequestId": "",
            "HostId": "",
            "HTTPHeaders": {},
            "RetryAttempts": 0,
        },
    }
    return ClientError(answer, "AssumeRole")  # type: ignore[arg-type]


def _retrieval_error() -> Exception:
    from botocore.exceptions import CredentialRetrievalError

    return CredentialRetrievalError(provider="custom-process", error_msg="exit status 1")


def _metadata_error() -> Exception:
    from botocore.exceptions import MetadataRetrievalError

    return MetadataRetrievalError(error_msg="Connect timeout on endpoint URL: http://169.254.170.2/v2/credentials")


#: What refreshing credentials raises in botocore when their source fails. Each call makes a new exception.
CREDENTIAL_FAILURES: dict[str, Callable[[], Exception]] = {
    "STS denies AssumeRole": lambda: _sts_error("AccessDenied", 403),
    "STS does not accept the web identity": lambda: _sts_error("InvalidIdentityToken", 400),
    "the web identity has expired": lambda: _sts_error("ExpiredTokenException", 400),
    "STS fails": lambda: _sts_error("InternalFailure", 500),
    "STS throttles": lambda: _sts_error("Throttling", 400),
    "the process of the profile fails": _retrieval_error,
    "the metadata service does not answer": _metadata_error,
    "the new credentials are as old as the ones before": lambda: RuntimeError(
        "Credentials were refreshed, but the refreshed credentials are still expired."
    ),
}

#: How SQS and SNS refuse a signature whose time, or whose keys, have passed.
SIGNATURE_FAILURES: dict[str, Callable[[], AwsError]] = {
    "signature expired": lambda: AwsError(
        "SignatureDoesNotMatch",
        "Signature expired: 20261127T200000Z is now earlier than 20261127T201500Z (20261127T203000Z - 15 min.)",
    ),
    "signature not yet current": lambda: AwsError(
        "SignatureDoesNotMatch",
        "Signature not yet current: 20261127T210000Z is still later than 20261127T204500Z (20261127T203000Z + 15 min.)",
    ),
    "request expired": lambda: AwsError("RequestExpired", "Request has expired."),
    "token expired": lambda: AwsError("ExpiredToken", "The security token included in the request is expired"),
    "token invalid": lambda: AwsError("InvalidClientTokenId", "The security token included in the request is invalid."),
}


@dataclass(frozen=True)
class Timings:
    """How slow AWS is, and how much it takes. Seconds, and calls per second; a budget of 0 is none.

    Attributes:
        attribute_reads_s: GetQueueAttributes shows the attributes, the policy among them, as they were so long ago.
        tag_reads_s: ListQueueTags and ListTagsForResource likewise.
        subscription_reads_s: GetSubscriptionAttributes likewise.
        attributes_act_s: An attribute of a queue acts so long after it was set. Until a policy acts, what SNS
            delivers is lost without an error.
        filters_act_s: A changed filter, scope or raw delivery of a subscription acts so late.
        subscriptions_act_s: A new subscription gets nothing before.
        control_per_s: Calls of each action per second, those that move messages excepted.
        tags_per_s: Calls per second of the account to TagQueue, UntagQueue and ListQueueTags together.
        topic_tags_per_s: Calls per second to each of SNS's TagResource, UntagResource and ListTagsForResource.
    """

    attribute_reads_s: float = 0.0
    tag_reads_s: float = 0.0
    subscription_reads_s: float = 0.0
    attributes_act_s: float = 0.0
    filters_act_s: float = 0.0
    subscriptions_act_s: float = 0.0
    control_per_s: int = 0
    tags_per_s: int = 0
    topic_tags_per_s: int = 0


QUICK = Timings()
SLOW = Timings(
    attribute_reads_s=60.0,
    tag_reads_s=60.0,
    subscription_reads_s=60.0,
    attributes_act_s=60.0,
    filters_act_s=900.0,
    subscriptions_act_s=15.0,
    control_per_s=30,
    tags_per_s=5,
    topic_tags_per_s=10,
)

_SENDING_AND_RECEIVING = frozenset(
    {
        *("send_message", "send_message_batch", "publish", "publish_batch", "receive_message"),
        *("delete_message", "delete_message_batch", "change_message_visibility", "change_message_visibility_batch"),
    }
)
_QUEUE_TAGS = frozenset({"tag_queue", "untag_queue", "list_queue_tags"})
_TOPIC_TAGS = frozenset({"tag_resource", "untag_resource", "list_tags_for_resource"})


class Budgets:
    """Counts calls of the last second, and refuses those beyond the budget."""

    def __init__(self, timings: Timings, clock: Callable[[], float]) -> None:
        self._timings = timings
        self._clock = clock
        self._spent: dict[str, deque[float]] = {}
        #: Number of calls that were refused, by operation.
        self.refused: dict[str, int] = {}

    def spend(self, service: str, operation: str) -> None:
        """Count a call; raises the throttling error of the service when the budget is used up."""
        name, per_s = self._of(service, operation)
        if not per_s:
            return
        spent, now = self._spent.setdefault(name, deque()), self._clock()
        while spent and spent[0] <= now - 1.0:
            spent.popleft()
        if len(spent) >= per_s:
            self.refused[operation] = self.refused.get(operation, 0) + 1
            raise AwsError("ThrottlingException" if service == "sqs" else "Throttling", "Rate exceeded")
        spent.append(now)

    def refill(self) -> None:
        """Forget what was spent."""
        self._spent.clear()

    def _of(self, service: str, operation: str) -> tuple[str, int]:
        if service not in ("sqs", "sns") or operation in _SENDING_AND_RECEIVING:
            return "", 0
        if operation in _QUEUE_TAGS:
            return "queue tags", self._timings.tags_per_s
        if operation in _TOPIC_TAGS:
            return f"{service}:{operation}", self._timings.topic_tags_per_s
        return f"{service}:{operation}", self._timings.control_per_s


class Past(Generic[T]):
    """What a value was before it was replaced, oldest first. The value itself is its owner's."""

    #: Enough for any lag, seconds.
    _KEPT_S = 3_600.0

    def __init__(self) -> None:
        self._entries: deque[tuple[float, T]] = deque()

    def replaced(self, old: T, now: float) -> None:
        """Remember a value that is replaced at *now*. It must not change afterwards."""
        while self._entries and self._entries[0][0] < now - self._KEPT_S:
            self._entries.popleft()
        self._entries.append((now, old))

    def seen(self, current: T, then: float) -> T:
        """The value as it was at the time *then*."""
        return next((old for at, old in self._entries if at > then), current)

    def clear(self) -> None:
        """Forget the past: readers see the current value."""
        self._entries.clear()


class Clock(Protocol):
    """What tells the time: seconds, in production since the epoch."""

    def __call__(self) -> float: ...

    def advance(self, seconds: float) -> None: ...

    def on_advance(self, listener: Callable[[], None]) -> None: ...

    def wait(self, condition: threading.Condition, until: float) -> None: ...


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self, now: float = 1_000.0) -> None:
        self._now = now
        self._listeners: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake every thread that waits for it."""
        self._now += seconds
        for listener in self._listeners:
            listener()

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Have *listener* called after each advance."""
        self._listeners.append(listener)

    def wait(self, condition: threading.Condition, until: float) -> None:
        """Wait for a notification. The main thread advances the clock instead, because no other thread would."""
        if threading.current_thread() is threading.main_thread():
            self.advance(until - self._now)
        else:
            condition.wait()


class RunningClock:
    """Seconds since the epoch that pass by themselves; :meth:`advance` makes them jump."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()
        self._listeners: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return time.monotonic() + self._offset_s

    def advance(self, seconds: float) -> None:
        """Jump, as AWS's clock does from the view of a machine that was suspended."""
        self._offset_s += seconds
        for listener in self._listeners:
            listener()

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Have *listener* called after each advance."""
        self._listeners.append(listener)

    def wait(self, condition: threading.Condition, until: float) -> None:
        """Wait for a notification, or until the time has come."""
        condition.wait(max(0.0, until - self()))
