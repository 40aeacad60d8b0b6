"""Small tools for state that is shared between threads: one caller a key at a time, caches that forget, re-entry."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from kombu_hake.aws import forksafe

__all__ = ["Once", "Reentry", "SharedParts", "SingleFlight", "TtlCache", "backoff_s"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight:
    """Lets one thread a key do the work; the others wait and find it done."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may publish in the middle of this
        self._flights: dict[Hashable, tuple[threading.RLock, list[None]]] = {}
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Forget flights of threads that are not in the child."""
        self._lock = threading.RLock()
        self._flights = {}

    @contextmanager
    def __call__(self, key: Hashable) -> Iterator[None]:
        with self._lock:
            flight, aboard = self._flights.setdefault(key, (threading.RLock(), []))
            aboard.append(None)
        try:
            with flight:
                yield
        finally:
            with self._lock:
                aboard.pop()
                if not aboard and self._flights.get(key) == (flight, aboard):
                    del self._flights[key]


#: Values of one cache. Names come from outside, too: of exchanges that messages are published to, of reply queues.
_MOST_KEYS = 1_000


class Once:
    """Which keys came up before, among the latest few: to log a line once a key. Safe to share between threads."""

    def __init__(self, most: int = _MOST_KEYS) -> None:
        """*most*: how many keys are remembered. The one that came up longest ago is evicted first."""
        self._most = most
        self._keys: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.RLock()  # re-entrant: a signal handler may log in the middle of this
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """A thread that held the lock is not in the child."""
        self._lock = threading.RLock()

    def __call__(self, key: Hashable) -> bool:
        """Remember *key*; whether it is new."""
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
    """Values that are believed for a while. A racing reader may compute a value twice; that costs a request."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic, most: int = _MOST_KEYS) -> None:
        """*most*: how many values are kept. The one that was computed longest ago is evicted first."""
        self._ttl_s = ttl_s
        self._clock = clock
        self._most = most
        self._items: dict[K, tuple[float, V]] = {}

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """The value for *key*, from ``compute()`` when there is none that is fresh."""
        found = self._items.get(key)
        now = self._clock()
        if found is not None and now < found[0]:
            return found[1]
        value = compute()
        self._items.pop(key, None)  # to the end
        self._items[key] = (now + self._ttl_s, value)
        while len(self._items) > self._most:
            oldest = next(iter(list(self._items)), None)
            if oldest is not None:
                self._items.pop(oldest, None)
        return value

    def __len__(self) -> int:
        return len(self._items)

    def has(self, key: K) -> bool:
        """Whether there is a value for *key* that is fresh."""
        found = self._items.get(key)
        return found is not None and self._clock() < found[0]

    def clear(self) -> None:
        """Forget all."""
        self._items.clear()

    def forget(self, key: K) -> None:
        """Have the next ``get`` compute the value anew."""
        self._items.pop(key, None)


class SharedParts(Generic[K, V]):
    """One value a key for all who use it at the same time. The latest few are kept though nobody uses them."""

    def __init__(self, most: int) -> None:
        """*most*: how many are kept for nobody. Values must allow weak references."""
        self._most = most
        self._lock = threading.RLock()
        self._used: weakref.WeakValueDictionary[K, V] = weakref.WeakValueDictionary()
        self._kept: OrderedDict[K, V] = OrderedDict()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """A thread that held the lock is not in the child."""
        self._lock = threading.RLock()

    def get(self, key: K, build: Callable[[], V]) -> V:
        """The value for *key*, from ``build()`` when nobody has one."""
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
    """Tells whether this thread is inside already: a signal handler or a finalizer runs in the middle of it."""

    def __init__(self) -> None:
        self._inside: set[int] = set()

    @contextmanager
    def __call__(self) -> Iterator[bool]:
        """Enter; whether this thread had entered before."""
        me = threading.get_ident()
        if me in self._inside:
            yield True
            return
        self._inside.add(me)
        try:
            yield False
        finally:
            self._inside.discard(me)


def backoff_s(attempt: int, first_s: float = 0.2, most_s: float = 5.0) -> float:
    """How long to wait before try *attempt* + 1, seconds: doubling, with full jitter in the upper half."""
    ceiling = min(most_s, first_s * 2.0 ** min(attempt, 30))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - spreading load needs no secrecy
