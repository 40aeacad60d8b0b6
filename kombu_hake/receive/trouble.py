"""A fault that lasts: how long to wait between tries, what to log, and how not to miss its end.

If AWS refuses, resets or answers with an error, the poller knows at once, and tries again after a pause. If AWS does
not answer at all, only the timeout ends the request, even if the network works again before that. Short timeouts would
take an AWS that is merely slow for dead. So during a fault, a try that is not answered for a while gets another one
beside it, and another. Whichever is answered first ends the fault; what the others bring later is not lost.
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
#: Longest pause between two tries, seconds. AWS that throttles is left alone for longer. Together with
#: :data:`_SILENCE_S` it bounds how long after the end of an outage messages arrive again.
_PAUSE_S = 2.0
_THROTTLED_PAUSE_S = 5.0
#: How long a try may be silent before another one is made beside it.
_SILENCE_S = 2.0
#: Most tries at once: with a read timeout of 15 s there is always one that is young.
_MOST_TRIES = 10
#: How often a fault that lasts is logged again.
_REMIND_S = 60.0


class Trouble:
    """What one poller knows of the fault that it meets."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._count = 0
        self._since = 0.0
        self._warned_at = 0.0
        #: When the last pause was over, monotonic.
        self._tried_at = time.monotonic()
        #: Whether AWS could not be reached at the last try; False if it answered with an error.
        self.is_outage = False

    def pause_s(self, exc: Exception) -> float:
        """Seconds to wait before the next try: none after one that took longer than the pause would."""
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
        """A poll went well."""
        if self._count:
            logger.warning(
                "HAKE002 Receiving from queue %s again, after %d failures in %.0f s.",
                self._queue, self._count, time.monotonic() - self._since, extra=fields(queue=self._queue),
            )  # fmt: skip
            self._count = 0
            self.is_outage = False


class _Race(Generic[T]):
    """The tries of one :meth:`Hedge.first`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_decided = threading.Event()
        self.winner: T | None = None
        self.error: Exception | None = None


class Hedge(Generic[T]):
    """Tries beside silent tries, a bounded number of them."""

    def __init__(self, name: str, *, silence_s: float = _SILENCE_S, most: int = _MOST_TRIES) -> None:
        """Args:
        name: Of the threads.
        silence_s: How long the youngest try may take before there is another one.
        most: Tries under way at once, over all calls of :meth:`first`.
        """
        self._name = name
        self._silence_s = silence_s
        self._slots = threading.BoundedSemaphore(most)

    def first(self, attempt: Callable[[], T], *, late: Callable[[T], None], is_over: Callable[[], bool]) -> T | None:
        """The result of the first try to come back; None if *is_over* reports that it is no longer needed.

        Args:
            attempt: One try; called in threads of its own.
            late: Takes the results of tries that came back after the first; called in their threads.
        Raises:
            Exception: what the first try to come back raised.
        """
        race: _Race[T] = _Race()
        while not is_over():
            if self._slots.acquire(blocking=False):
                if race.is_decided.is_set():  # the place may be that of the try that decided it
                    self._slots.release()
                    break
                one_try = partial(self._try, race, attempt, late)
                if start_thread(one_try, f"hake-probe-{self._name}") is None:  # no thread to be had: without company
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
