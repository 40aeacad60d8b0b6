"""Work that is due later, in one background thread that ends when there is none left."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

from kombu_hake.aws import Background, forksafe
from kombu_hake.exceptions import HakeError
from kombu_hake.quoting import guarded

__all__ = ["Chores"]

logger = guarded(logging.getLogger(__name__))
#: Of chores that wait. They are one or two a queue; a process that has more forgets the latest.
_MOST_WAITING = 10_000


class Chores:
    """Calls functions when they are due, one at a time. Safe to share between threads.

    The thread holds no reference to it while it waits: when the owner is collected, the thread ends.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock*: monotonic seconds."""
        self._clock = clock
        work = weakref.WeakMethod(self.work)
        self._background = Background(lambda: _work_of(work), "hake-topology", "background work of the topology")
        weakref.finalize(self, self._background.wake).atexit = False
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The chores are the parent's."""
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may publish in the middle of this
        #: Key to (when it is due, monotonic seconds; what to do).
        self._waiting: dict[tuple[str, ...], tuple[float, Callable[[], None]]] = {}

    def after(self, delay_s: float, key: tuple[str, ...], work: Callable[[], None]) -> None:
        """Call *work* in the background after so many seconds. One that waits under the same key stays as it is."""
        with self._lock:
            if key in self._waiting or len(self._waiting) >= _MOST_WAITING:
                return
            self._waiting[key] = (self._clock() + delay_s, work)
        self._background.start()

    def work(self) -> float | None:
        """Do what is due; seconds until more is. None when nothing waits."""
        while True:
            with self._lock:
                now = self._clock()
                due = min(self._waiting.items(), key=lambda item: item[1][0], default=None)
                if due is None:
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


def _work_of(method: weakref.WeakMethod[Callable[[], float | None]]) -> float | None:
    work = method()
    return None if work is None else work()
