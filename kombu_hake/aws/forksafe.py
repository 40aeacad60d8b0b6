"""Reset our objects in a forked child.

Celery's prefork pool forks while our threads run, and again later (autoscale, ``max-tasks-per-child``, pool restart);
web servers fork after loading the application. In the child none of our threads exists, a lock may be held by a thread
that does not exist, and sockets are shared with the parent. So each object with a lock, a thread or a client registers
here, and its ``reset_after_fork`` creates new locks and drops (never closes, never releases) the parent's resources.

Nothing is locked before the fork: the child reads no inherited state except plain settings and caches of names, whose
single operations are atomic in the interpreter.
"""

from __future__ import annotations

import os
import random
import weakref
from typing import Protocol

__all__ = ["ForkAware", "register", "rng"]

#: For jitter and delivery tags, never for secrets. The threads of a library must not advance the application's own
#: ``random``: a seeded simulation, or a test with Hypothesis, would differ from run to run. Random bytes of the
#: operating system would cost a system call each, and release the interpreter lock.
rng = random.Random()  # noqa: S311
os.register_at_fork(after_in_child=rng.seed)


class ForkAware(Protocol):
    """An object that must be reset in a forked child."""

    def reset_after_fork(self) -> None:
        """Replace locks, threads, clients and descriptors. Runs in the child, in its only thread. Must not raise."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register(item: ForkAware) -> None:
    """Call ``item.reset_after_fork()`` in every child that is forked while *item* exists."""
    _registered.add(item)


def _reset_all() -> None:
    for item in list(_registered):
        item.reset_after_fork()


os.register_at_fork(after_in_child=_reset_all)
