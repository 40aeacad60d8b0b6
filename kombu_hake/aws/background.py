"""Background work that comes back: one loop in a thread, with an owner that starts and wakes it.

The owner's ``work`` does what is due and says when more will be; it keeps the time itself, by the clock that it was
given. Between two runs the loop waits where :meth:`Background.wake` and :meth:`Background.stop` reach it at once. An
unexpected error is logged once, and the work goes on. A forked child has no thread before it starts its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from kombu_hake.aws import forksafe
from kombu_hake.aws.pulse import Pulse
from kombu_hake.aws.senders import start_thread
from kombu_hake.quoting import guarded

__all__ = ["Background"]

logger = guarded(logging.getLogger(__name__))


class Background:
    """Calls ``work()`` again and again. Safe to use from any thread, and from a signal handler."""

    def __init__(self, work: Callable[[], float | None], name: str, what: str, *, after_error_s: float = 2.0) -> None:
        """Store; nothing starts before :meth:`start`.

        Args:
            work: Returns the seconds until the next call; None to end the thread until the next start.
            name: Of the thread.
            what: What the work is, for the log.
            after_error_s: Seconds until *work* is called again after an unexpected error.
        """
        self._work = work
        self._name = name
        self._what = what
        self._after_error_s = after_error_s
        #: Beats before each run of the work.
        self.pulse = Pulse()
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The thread is the parent's. The child may start its own, though the parent was stopped."""
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may wake it in the middle of this
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_woken = False
        self._is_stopping = False
        self._has_failed = False

    @property
    def is_alive(self) -> bool:
        """Return True while its thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self) -> bool:
        """Call ``work()`` now, in a new thread if there is none.

        Returns:
            False if no thread can be started, or after :meth:`stop`.
        """
        with self._lock:
            if self._is_stopping:
                return False
            self._is_woken = True
            self._changed.notify()
            if not self.is_alive:
                self._thread = start_thread(self._run, self._name)
            return self._thread is not None

    def wake(self) -> None:
        """Call ``work()`` now instead of when it is due, if the thread runs."""
        with self._lock:
            self._is_woken = True
            self._changed.notify()

    def stop(self, timeout_s: float) -> bool:
        """End the thread permanently, and wait for it. It may call this itself.

        Returns:
            True if it has ended, or is the calling thread.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._is_stopping = True
            self._changed.notify()
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(max(0.0, deadline - time.monotonic()))
        return not thread.is_alive()

    def _run(self) -> None:
        try:
            while self._run_once():
                pass
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _run_once(self) -> bool:
        """Work, and wait until the next run. Return False if there is none."""
        with self._lock:
            if self._is_stopping:
                return False
            self._is_woken = False
        self.pulse.beat()
        wait_s: float | None
        try:
            wait_s = self._work()
            self._has_failed = False
        except Exception as exc:
            self._report(exc)
            wait_s = self._after_error_s
        with self._lock:
            if self._is_stopping or (wait_s is None and not self._is_woken):
                self._thread = None  # under the lock: a later start() creates another thread
                return False
            if wait_s and not self._is_woken:
                self._changed.wait(wait_s)
            return True

    def _report(self, exc: Exception) -> None:
        """Log an error, and those of the runs that follow it for debugging only."""
        if self._has_failed:
            logger.debug("Another unexpected error in %s; continuing.", self._what, exc_info=exc)
        else:
            logger.error("HAKE706 Unexpected error in %s; continuing.", self._what, exc_info=exc)
        self._has_failed = True
