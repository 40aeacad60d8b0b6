"""Keep the tenant of what a Celery worker publishes, in two places where Celery would lose it.

``apply_async(tenant=None)`` within a task
    Celery's router drops options that are None, and this one has a meaning. Installed with the first connection
    object, which a worker creates before it forks its pool.

Error callbacks
    A task whose process was lost, or that exceeded its time limit or was revoked, fails in the worker's main process
    (``celery/worker/request.py``). What is published then is for the tenant of that task, though no task is running.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from kombu_hake.worker.hooks import replace_once
from kombu_hake.worker.state import settles

__all__ = ["keep_no_tenant", "keep_tenant_of_failed"]

#: Of ``Request``: those that publish error callbacks.
_METHODS = ("on_failure", "on_timeout", "_announce_revoked")


def keep_no_tenant() -> None:
    """Have Celery's router keep ``tenant=None``. Idempotent; does nothing where Celery is not loaded."""
    routes = sys.modules.get("celery.app.routes")
    if routes is not None:
        replace_once(routes.Router, "route", _keeping_none)


def _keeping_none(original: Callable[..., Any]) -> Callable[..., Any]:
    def route(self: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        has_none = "tenant" in options and options["tenant"] is None
        found = original(self, options, *args, **kwargs)
        if has_none:
            found["tenant"] = None
        return found

    return route


def keep_tenant_of_failed() -> None:
    """Have Celery's requests record for which task they publish. Idempotent; a worker has loaded them."""
    request = sys.modules["celery.worker.request"].Request
    for name in _METHODS:
        replace_once(request, name, _settling)


def _settling(method: Callable[..., Any]) -> Callable[..., Any]:
    def settle(self: Any, *args: Any, **kwargs: Any) -> Any:
        with settles(self):
            return method(self, *args, **kwargs)

    return settle
