"""Work that is due later, in one background thread that ends when there is none left."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

from kombu_hake.aws import forksafe, start_thread
from kombu_hake.exceptions import HakeError
from kombu_hake.quoting import guarded

__all__ = ["Chores"]

logger = guarded(logging.getLogger(__name__))
#: Of chores that wait. They are one or two a queue; a process that has more forgets the latest.
_MOST_WAITING = 10_000


class Chores:
    """Calls functions when they are due, one at a time. Safe to share between threads.

    The thread holds no reference while it waits: when the owner is collected, it ends.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None], str], threading.Thread | None] = start_thread,
    ) -> None:
        """*clock*: monotonic seconds. *start*: starts a thread of this name; None where there is none to be had."""
        self._clock = clock
        self._start = start
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The chores are the parent's."""
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may publish in the middle of this
        #: Key to (when it is due, monotonic seconds; what to do).
        self._waiting: dict[tuple[str, ...], tuple[float, Callable[[], None]]] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def after(self, delay_s: float, key: tuple[str, ...], work: Callable[[], None]) -> None:
        """Call *work* in the background after so many seconds. One that waits under the same key stays as it is."""
        with self._lock:
            if key in self._waiting or len(self._waiting) >= _MOST_WAITING:
                return
            self._waiting[key] = (self._clock() + delay_s, work)
            if self._thread is None:
                owner, wake = weakref.ref(self, lambda _: wake.set()), self._wake
                self._thread = self._start(lambda: _run(owner, wake), "hake-topology")
            self._wake.set()

    def is_waiting(self, key: tuple[str, ...]) -> bool:
        """Whether something waits under this key."""
        with self._lock:
            return key in self._waiting

    def drop(self, key: tuple[str, ...]) -> None:
        """Do not do what waits under this key."""
        with self._lock:
            self._waiting.pop(key, None)

    def work(self) -> float | None:
        """Do what is due; seconds until more is. None when nothing waits."""
        while True:
            with self._lock:
                now = self._clock()
                due = min(self._waiting.items(), key=lambda item: item[1][0], default=None)
                if due is None:
                    self._thread = None
                    return None
                key, (at, work) = due
                if at > now:
                    return at - now
                del self._waiting[key]
            try:
                work()
            except HakeError as exc:
                logger.info("Background work for %s was not done: %s", "/".join(key), exc)
            except Exception:  # a bug of ours must not end the thread
                logger.exception("HAKE310 Unexpected error in background work for %s.", "/".join(key))


def _run(owner: weakref.ref[Chores], wake: threading.Event) -> None:
    while True:
        chores = owner()
        wait_s = chores.work() if chores is not None else None
        del chores
        if wait_s is None:
            return
        wake.wait(wait_s)
        wake.clear()
