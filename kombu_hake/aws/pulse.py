"""Record that threads which work for as long as the process lives are not stuck; :mod:`kombu_hake.worker.health` reads.

A thread beats its :class:`Pulse` in each turn of its loop, which costs one write of an attribute. While it waits for
AWS, or for another thread that does, it is inside of a :class:`Wait`, which ends by itself: every request has a time
limit. So a thread that waits is in order until then, however long AWS takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Pulse", "Vital", "Wait", "waits_until"]

#: By thread: the monotonic second at which its wait ends at the latest.
_waits: dict[int, float] = {}


class Pulse:
    """When a thread last turned, and which thread it is. Written by that thread, read by any."""

    __slots__ = ("_clock", "last")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Creating it is the first beat."""
        self._clock = clock
        self.beat()

    def beat(self) -> None:
        """Record a turn of the calling thread."""
        #: Both in one write, because another thread reads them.
        self.last = (self._clock(), threading.get_ident())


class Vital(NamedTuple):
    """A thread that a worker cannot do without."""

    #: For people, such as ``the poller of queue email``.
    name: str
    pulse: Pulse
    #: False if the thread has ended although it is needed.
    is_alive: bool = True


class Wait:
    """Inside the block, the calling thread waits for something that ends by itself within *limit_s* seconds.

    A class, because a generator would take longer than the rest of it, and each request passes here.
    """

    __slots__ = ("_before", "_limit_s")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s

    def __enter__(self) -> None:
        me = threading.get_ident()
        self._before = _waits.get(me)
        _waits[me] = time.monotonic() + self._limit_s

    def __exit__(self, *_exc: object) -> None:
        me = threading.get_ident()
        if self._before is None:
            _waits.pop(me, None)
        else:
            _waits[me] = self._before


def waits_until(thread_id: int) -> float | None:
    """The monotonic second at which the wait of a thread ends at the latest; None if it does not wait."""
    return _waits.get(thread_id)
