"""Decide when to retry a failed request. Only this module does; the SDK is configured to try once.

Other packages retry only three things, each for its own reason: failed entries of a batch that AWS answered, settling
until the lease ends, and polls.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from kombu_hake.aws.clock import AwsClock
from kombu_hake.aws.concurrency import backoff_s
from kombu_hake.exceptions import BrokerUnavailable

__all__ = ["Tries", "patience"]

#: Monotonic time until which the calls of this thread are retried.
_patient_until: ContextVar[float | None] = ContextVar("kombu_hake_patient_until", default=None)


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
        now = time.monotonic()
        self._throttled_until = now + throttled_s
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
