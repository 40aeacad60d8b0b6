"""Error callbacks that a worker's main process sends: they are for the tenant of the task that failed.

A task whose process was lost, or that exceeded its time limit or was revoked, fails in the main process
(``celery/worker/request.py``). What is published then belongs to that task, though no task is running.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from kombu_hake.worker.state import settles

__all__ = ["on_ready"]

_METHODS = ("on_failure", "on_timeout", "_announce_revoked")


def on_ready() -> None:
    """Have Celery's requests say for which task they publish. Idempotent."""
    request = sys.modules["celery.worker.request"].Request
    for name in _METHODS:
        method = getattr(request, name)
        if not getattr(method, "is_of_hake", False):
            setattr(request, name, _settling(method))


def _settling(method: Any) -> Any:
    @wraps(method)
    def settle(self: Any, *args: Any, **kwargs: Any) -> Any:
        with settles(self):
            return method(self, *args, **kwargs)

    settle.is_of_hake = True  # type: ignore[attr-defined]
    return settle
