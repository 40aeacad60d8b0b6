"""Recurring background work: one loop in a thread, started and stopped by its owner.

The owner's ``work`` does what is due and returns when it is due again, by its own clock. Between two runs the loop
waits so that :meth:`Background.wake` and :meth:`Background.stop` take effect at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kombu_hake.aws.senders import start_thread

__all__ = ["Background"]


class Background:
    """Calls ``work()`` repeatedly. Safe to use from any thread; after a fork the owner creates a new one."""

    def __init__(self, work: Callable[[], float | None], name: str, *, on_error: Callable[[Exception], float]) -> None:
        """Nothing starts before :meth:`start`.

        Args:
            work: Returns the seconds until the next call; None to end the thread until the next start.
            name: Of the thread.
            on_error: Logs the exception that *work* raised, and returns the seconds until the next call.
        """
        self._work = work
        self._name = name
        self._on_error = on_error
        self._lock = threading.RLock()  # re-entrant: a signal handler may call wake() while this thread holds it
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_woken = False
        self._is_stopping = False

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
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
        try:
            wait_s = self._work()
        except Exception as exc:
            wait_s = self._on_error(exc)
        with self._lock:
            if self._is_stopping or (wait_s is None and not self._is_woken):
                self._thread = None  # under the lock: a later start() creates another thread
                return False
            if wait_s and not self._is_woken:
                self._changed.wait(wait_s)
            return True
