"""Small tools for state shared between threads: one caller per key at a time, caches that expire, re-entry."""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from kombu_hake.aws import forksafe
from kombu_hake.aws.pulse import Wait

__all__ = ["Once", "Reentry", "SharedParts", "SingleFlight", "TtlCache", "backoff_s"]

#: How long a flight, some calls of AWS, and those before it take at the most.
_FLIGHT_S = 300.0
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight:
    """Lets one thread per key do the work, while the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may publish in the middle of this
        self._flights: dict[Hashable, tuple[threading.RLock, list[None]]] = {}
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Discard flights of threads that do not exist in the child."""
        self._lock = threading.RLock()
        self._flights = {}

    @contextmanager
    def __call__(self, key: Hashable) -> Iterator[None]:
        with self._lock:
            flight, aboard = self._flights.setdefault(key, (threading.RLock(), []))
            aboard.append(None)
        try:
            with Wait(_FLIGHT_S), flight:
                yield
        finally:
            with self._lock:
                aboard.pop()
                if not aboard and self._flights.get(key) == (flight, aboard):
                    del self._flights[key]


#: Maximum size of one cache. Some keys are untrusted: names of exchanges that are published to, of reply queues.
_MOST_KEYS = 1_000


class Once:
    """The latest keys seen, to log a line once per key. Safe to share between threads."""

    def __init__(self, most: int = _MOST_KEYS) -> None:
        """*most*: how many keys are remembered. The least recently seen one is evicted first."""
        self._most = most
        self._keys: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.RLock()  # re-entrant: a signal handler may log while this thread holds it
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """A thread that held the lock is not in the child."""
        self._lock = threading.RLock()

    def __call__(self, key: Hashable) -> bool:
        """Record *key*. Return True if it is new."""
        with self._lock:
            is_new = key not in self._keys
            self._keys[key] = None
            self._keys.move_to_end(key)
            while len(self._keys) > self._most:
                self._keys.popitem(last=False)
            return is_new

    def __len__(self) -> int:
        return len(self._keys)


class TtlCache(Generic[K, V]):
    """Values that expire. Concurrent readers may compute a value twice, which costs a request."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic, most: int = _MOST_KEYS) -> None:
        """*most*: how many values are kept. The oldest one is evicted first."""
        self._ttl_s = ttl_s
        self._clock = clock
        self._most = most
        self._items: dict[K, tuple[float, V]] = {}

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """The value for *key*; from ``compute()`` if there is no fresh one."""
        found = self._items.get(key)
        now = self._clock()
        if found is not None and now < found[0]:
            return found[1]
        value = compute()
        self._items.pop(key, None)  # moves it to the end
        self._items[key] = (now + self._ttl_s, value)
        while len(self._items) > self._most:
            oldest = next(iter(list(self._items)), None)
            if oldest is not None:
                self._items.pop(oldest, None)
        return value

    def __len__(self) -> int:
        return len(self._items)

    def has(self, key: K) -> bool:
        """Return True if there is a fresh value for *key*."""
        found = self._items.get(key)
        return found is not None and self._clock() < found[0]

    def forget(self, key: K) -> None:
        """Make the next ``get`` compute the value again."""
        self._items.pop(key, None)


class SharedParts(Generic[K, V]):
    """One value per key, shared by all concurrent users. The latest few are kept after their last use."""

    def __init__(self, most: int) -> None:
        """*most*: how many unused values are kept. Values must support weak references."""
        self._most = most
        self._lock = threading.RLock()
        self._used: weakref.WeakValueDictionary[K, V] = weakref.WeakValueDictionary()
        self._kept: OrderedDict[K, V] = OrderedDict()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """A thread that held the lock is not in the child."""
        self._lock = threading.RLock()

    def get(self, key: K, build: Callable[[], V]) -> V:
        """The value for *key*; from ``build()`` if it is not in use."""
        with self._lock:
            value = self._used.get(key)
            if value is None:
                value = self._used[key] = build()
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return value


class Reentry:
    """Detects re-entry of a thread: a signal handler or a finalizer may interrupt it anywhere."""

    def __init__(self) -> None:
        #: Ids of the threads that are inside. Code that runs for each message uses this set directly, because a context
        #: manager costs as much as the rest of its work.
        self.threads: set[int] = set()

    @contextmanager
    def __call__(self) -> Iterator[bool]:
        """Enter. Return True if this thread is inside already."""
        me = threading.get_ident()
        if me in self.threads:
            yield True
            return
        try:
            self.threads.add(me)
            yield False
        finally:
            self.threads.discard(me)


def backoff_s(attempt: int, first_s: float = 0.2, most_s: float = 5.0) -> float:
    """Seconds to wait before try *attempt* + 1: doubling, with full jitter in the upper half."""
    ceiling = min(most_s, first_s * 2.0 ** min(attempt, 30))
    return ceiling * (0.5 + forksafe.rng.random() / 2)
