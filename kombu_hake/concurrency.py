"""Two small tools for state that is shared between threads: one caller a key at a time, and caches that forget."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from kombu_hake import forksafe

__all__ = ["SingleFlight", "TtlCache", "backoff_s"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight:
    """Lets one thread a key do the work; the others wait and find it done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, tuple[threading.RLock, list[None]]] = {}
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Forget flights of threads that are not in the child."""
        self._lock = threading.Lock()
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


class TtlCache(Generic[K, V]):
    """Values that are believed for a while. A racing reader may compute a value twice; that costs a request."""

    def __init__(self, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._items: dict[K, tuple[float, V]] = {}

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """The value for *key*, from ``compute()`` when there is none that is fresh."""
        found = self._items.get(key)
        now = self._clock()
        if found is not None and now < found[0]:
            return found[1]
        value = compute()
        self._items[key] = (now + self._ttl_s, value)
        return value

    def forget(self, key: K) -> None:
        """Have the next ``get`` compute the value anew."""
        self._items.pop(key, None)


def backoff_s(attempt: int, first_s: float = 0.2, most_s: float = 5.0) -> float:
    """How long to wait before try *attempt* + 1, seconds: doubling, with full jitter in the upper half."""
    ceiling = min(most_s, first_s * 2.0 ** min(attempt, 30))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - spreading load needs no secrecy
