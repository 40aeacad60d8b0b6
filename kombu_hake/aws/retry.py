"""Decide when to retry a failed request. Only this module does; the SDK is configured to try once, except for S3: only
it can try a single part of an upload again.

Above this package only three things are tried again, each for a reason of its own: entries that failed inside a batch
that AWS answered, settling until the lease ends, and polls.

AWS may not know a queue everywhere in the first second after CreateQueue. A process that creates thirty queues does not
wait thirty seconds for that: it uses them at once, and repeats what AWS answers with "no such queue" in that time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from kombu_hake.amqp import SQS_QUEUE_READY_S
from kombu_hake.aws.clock import AwsClock
from kombu_hake.aws.concurrency import backoff_s
from kombu_hake.exceptions import BrokerUnavailable

__all__ = ["NewQueues", "Tries", "patience"]

#: Monotonic time until which the calls of this thread are retried.
_patient_until: ContextVar[float | None] = ContextVar("kombu_hake_patient_until", default=None)
#: How long "no such queue" is not believed of a queue that this process created, and the pause between two tries.
_NEW_QUEUE_S = 3.0 * SQS_QUEUE_READY_S
_NEW_QUEUE_PAUSE_S = 0.25


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Inside the block, retry calls that fail for transient reasons until *seconds* have passed.

    This replaces the number of tries and the ninety seconds for throttled control calls. A request in progress at that
    time still gets its answer or its own timeout.
    """
    token = _patient_until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _patient_until.reset(token)


class Tries:
    """The tries of one call. Create it when the call begins."""

    def __init__(self, most: int, clock: AwsClock, *, throttled_s: float = 0.0, is_patient: bool = True) -> None:
        """
        Args:
            most: Maximum number of tries, outside of :func:`patience`.
            clock: After a refusal for the time of the request that corrected it, the request is signed again at once.
            throttled_s: How long a throttled call is retried, regardless of the number of tries.
            is_patient: False if :func:`patience` does not apply, because the caller has its own back-off.
        """
        self._most = most
        self._clock = clock
        self._throttled_until = time.monotonic() + throttled_s if throttled_s else float("-inf")
        self._ends_at = _patient_until.get() if is_patient else None
        self._made = 0
        self._clock_changes = clock.changes
        self._may_sign_again = True

    def pause_s(self, error: BrokerUnavailable) -> float | None:
        """Seconds to wait before the next try after *error*; None to raise it."""
        if error.is_clock_error and self._may_sign_again and self._clock.changes != self._clock_changes:
            self._may_sign_again = False
            return 0.0
        first_s, most_s = (0.5, 8.0) if error.is_throttle else (0.1, 5.0)
        pause_s = backoff_s(self._made, first_s=first_s, most_s=most_s)
        self._made += 1
        now = time.monotonic()
        if self._ends_at is not None:
            return pause_s if now + pause_s <= self._ends_at else None
        if self._made < self._most or (error.is_throttle and now + pause_s <= self._throttled_until):
            return pause_s
        return None


class NewQueues:
    """Queues that this process created just now. Safe to share between threads."""

    def __init__(self) -> None:
        #: URL to the monotonic second at which CreateQueue returned, oldest first.
        self._created: dict[str, float] = {}

    def created(self, url: str) -> None:
        """Record a queue, and forget those that are no longer new."""
        oldest = time.monotonic() - _NEW_QUEUE_S
        for old in [old for old, at in list(self._created.items()) if at < oldest]:
            self._created.pop(old, None)
        self._created[url] = time.monotonic()

    def deleted(self, url: str) -> None:
        """From now on "no such queue" is the truth."""
        self._created.pop(url, None)

    def pause_s(self, url: str | None) -> float | None:
        """Seconds to wait before the next try after "no such queue"; None to believe it."""
        at = self._created.get(url or "")
        return None if at is None or time.monotonic() - at > _NEW_QUEUE_S else _NEW_QUEUE_PAUSE_S
