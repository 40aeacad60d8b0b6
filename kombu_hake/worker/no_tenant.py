"""``apply_async(tenant=None)`` within a task: Celery's router drops options that are None, and this one has a meaning.

Installed with the first connection object, which a Celery worker creates before it forks its pool.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

__all__ = ["keep_no_tenant"]


def keep_no_tenant() -> None:
    """Have Celery's router keep ``tenant=None``. Idempotent; does nothing where Celery is not loaded."""
    routes = sys.modules.get("celery.app.routes")
    if routes is None or getattr(routes.Router.route, "is_of_hake", False):
        return
    original = routes.Router.route

    @wraps(original)
    def route(self: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        has_none = "tenant" in options and options["tenant"] is None
        found = original(self, options, *args, **kwargs)
        if has_none:
            found["tenant"] = None
        return found

    route.is_of_hake = True  # type: ignore[attr-defined]
    routes.Router.route = route
