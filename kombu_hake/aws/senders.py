"""A few threads that process jobs: started when jobs have to wait, ended by :meth:`Senders.stop`.

If no thread can be started, jobs wait for a call of :meth:`Senders.help` or :meth:`Senders.wait`, and run in its
thread: a machine may have run out of threads, and Python 3.12 and later start none while the interpreter shuts down.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from kombu_hake.quoting import guarded

__all__ = ["Senders", "start_thread"]

logger = guarded(logging.getLogger(__name__))
J = TypeVar("J")


def start_thread(target: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a daemon thread; None if that is not possible."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        logger.warning("HAKE703 Cannot start thread %s: %s", name, exc)
        return None
    return thread


class Senders(Generic[J]):
    """Calls ``work(job)`` for each job, in up to *most* threads. Safe to use from any thread."""

    def __init__(self, work: Callable[[J], None], *, most: int, name: str) -> None:
        """*work* must not raise."""
        self._work = work
        self._most = most
        self._name = name
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._jobs: deque[J] = deque()
        self._busy = 0
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._stopping = False

    @property
    def unanswered(self) -> int:
        """The number of unfinished jobs."""
        return len(self._jobs) + self._busy

    def submit(self, job: J) -> bool:
        """Have a job done; also after :meth:`stop`. False where no thread is there to do it: see :meth:`help`."""
        with self._lock:
            self._jobs.append(job)
            if len(self._jobs) > self._idle and len(self._threads) < self._most:
                thread = start_thread(self._run, self._name)
                if thread is not None:
                    self._threads.add(thread)
            self._arrived.notify()
            return bool(self._threads)

    def help(self) -> None:
        """Start a thread if jobs are waiting; if that is not possible, process them in this thread."""
        while True:
            with self._lock:
                if self._threads or not self._jobs:
                    return
                thread = start_thread(self._run, self._name)
                if thread is not None:
                    self._threads.add(thread)
                    return
                job = self._take()
            self._do(job)

    def wait(self, timeout_s: float) -> int:
        """Wait until all jobs are finished. Return how many are not after *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                left = deadline - time.monotonic()
                if not self.unanswered or left <= 0:
                    return self.unanswered
                if self._threads or not self._jobs:
                    self._done.wait(left)
                    continue
                job = self._take()
            self._do(job)

    def stop(self, timeout_s: float) -> None:
        """End the threads after all jobs are finished; wait for that for at most *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._stopping = True
            self._arrived.notify_all()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    self._idle += 1
                    try:
                        while not self._jobs and not self._stopping:
                            self._arrived.wait()
                    finally:
                        self._idle -= 1
                    if not self._jobs:
                        return
                    job = self._take()
                self._do(job)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
                self._done.notify_all()

    def _take(self) -> J:
        self._busy += 1
        return self._jobs.popleft()

    def _do(self, job: J) -> None:
        try:
            self._work(job)
        finally:
            with self._lock:
                self._busy -= 1
                if not self.unanswered:
                    self._done.notify_all()
