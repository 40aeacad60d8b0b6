"""Lasting faults: how long to wait between attempts, what to log, and how to notice the end soon.

If AWS refuses, resets or answers with an error, the poller knows immediately, and retries after a pause. If AWS does
not answer at all, only the timeout ends the request, even if the network works again before that. Short timeouts would
treat a slow AWS as an outage. So during a fault, if an attempt is not answered for a while, another one is started
beside it, and then another. The first answer ends the fault; messages that the others receive later are not lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from kombu_hake.aws import backoff_s, start_thread
from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.quoting import fields, guarded

__all__ = ["Hedge", "Trouble"]

logger = guarded(logging.getLogger(__name__))
T = TypeVar("T")
#: Longest pause between two attempts, seconds; longer if AWS throttles. Together with
#: :data:`_SILENCE_S` it bounds how long after the end of an outage messages arrive again.
_PAUSE_S = 2.0
_THROTTLED_PAUSE_S = 5.0
#: How long to wait for an answer before another attempt is started.
_SILENCE_S = 2.0
#: Maximum number of concurrent attempts: with a read timeout of 15 s, one of them is always recent.
_MOST_TRIES = 10
#: How often a lasting fault is logged again.
_REMIND_S = 60.0


class Trouble:
    """The state of a fault, as one poller sees it."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._count = 0
        self._since = 0.0
        self._warned_at = 0.0
        #: When the last pause ended, monotonic.
        self._tried_at = time.monotonic()
        #: True if AWS could not be reached at the last attempt; False if it answered with an error.
        self.is_outage = False

    def pause_s(self, exc: Exception) -> float:
        """Seconds to wait before the next attempt; 0 if the last one took longer than the pause."""
        now = time.monotonic()
        if not self._count:
            self._since = now
        if not self._count or now - self._warned_at > _REMIND_S:
            logger.warning(
                "HAKE001 Cannot receive from queue %s; retrying: %s", self._queue, exc, extra=fields(queue=self._queue)
            )
            self._warned_at = now
        self._count += 1
        throttled = isinstance(exc, BrokerUnavailable) and exc.is_throttle
        self.is_outage = isinstance(exc, BrokerUnavailable) and not throttled
        pause_s = backoff_s(self._count - 1, most_s=_THROTTLED_PAUSE_S if throttled else _PAUSE_S)
        if self.is_outage:
            pause_s = max(0.0, pause_s - max(0.0, now - self._tried_at))
        self._tried_at = now + pause_s
        return pause_s

    def over(self) -> None:
        """Record that a poll succeeded."""
        if self._count:
            logger.warning(
                "HAKE002 Receiving from queue %s again, after %d failures in %.0f s.",
                self._queue, self._count, time.monotonic() - self._since, extra=fields(queue=self._queue),
            )  # fmt: skip
            self._count = 0
            self.is_outage = False


class _Race(Generic[T]):
    """The attempts of one :meth:`Hedge.first`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_decided = threading.Event()
        self.winner: T | None = None
        self.error: Exception | None = None


class Hedge(Generic[T]):
    """Starts further attempts, up to a limit, while earlier ones are not answered."""

    def __init__(self, name: str, *, silence_s: float = _SILENCE_S, most: int = _MOST_TRIES) -> None:
        """Args:
        name: Name of the threads.
        silence_s: How long the latest attempt may take before another one is started.
        most: Maximum number of concurrent attempts, over all calls of :meth:`first`.
        """
        self._name = name
        self._silence_s = silence_s
        self._slots = threading.BoundedSemaphore(most)

    def first(self, attempt: Callable[[], T], *, late: Callable[[T], None], is_over: Callable[[], bool]) -> T | None:
        """The result of the first attempt that ends; None if *is_over* returns True before.

        Args:
            attempt: One attempt; called in separate threads.
            late: Gets the results of attempts that end after the first; called in their threads.

        Raises:
            Exception: what the first attempt that ends raised.
        """
        race: _Race[T] = _Race()
        while not is_over():
            if self._slots.acquire(blocking=False):
                if race.is_decided.is_set():  # the free slot may be that of the attempt that decided it
                    self._slots.release()
                    break
                one_try = partial(self._try, race, attempt, late)
                if start_thread(one_try, f"hake-probe-{self._name}") is None:  # no thread can be started
                    one_try()
            if race.is_decided.wait(self._silence_s):
                break
        with race.lock:  # from here on every result is a late one
            race.is_decided.set()
        if race.error is not None:
            raise race.error
        return race.winner

    def _try(self, race: _Race[T], attempt: Callable[[], T], late: Callable[[T], None]) -> None:
        result, error = None, None
        try:
            try:
                result = attempt()
            except Exception as exc:
                error = exc
            with race.lock:
                is_first = not race.is_decided.is_set()
                if is_first:
                    race.winner, race.error = result, error
                    race.is_decided.set()
        finally:
            self._slots.release()  # when the race is decided, or it would begin one more try
        if not is_first and error is None:
            late(result)  # type: ignore[arg-type]
