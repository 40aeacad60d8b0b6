"""What happens to our objects in a forked child.

Celery's prefork pool forks while our threads run, and again later (autoscale, ``max-tasks-per-child``, pool restart);
web servers fork after the application was loaded. In the child no thread of ours exists, a lock may be held by one that
does not exist, and sockets are shared with the parent. So each object with a lock, a thread or a client registers here,
and its ``reset_after_fork`` gives it new locks and forgets (never closes, never releases) what belongs to the parent.

Nothing is locked before the fork: no inherited state is read afterwards but plain settings and caches of names, whose
single operations the interpreter makes atomic.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["ForkAware", "register"]


class ForkAware(Protocol):
    """An object that must start afresh in a forked child."""

    def reset_after_fork(self) -> None:
        """Replace locks, threads, clients and descriptors. Runs in the child, in its only thread. Must not raise."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register(item: ForkAware) -> None:
    """Have ``item.reset_after_fork()`` called in every child that is forked while *item* lives."""
    _registered.add(item)


def _reset_all() -> None:
    for item in list(_registered):
        item.reset_after_fork()


os.register_at_fork(after_in_child=_reset_all)
