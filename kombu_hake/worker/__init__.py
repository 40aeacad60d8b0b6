"""All hooks into a Celery worker, installed by :func:`install`.

In: Celery's signals and its consumer. Out: prefetched tasks given back at shutdown, lost leases reported to tasks,
unknown and malformed tasks rejected. Imports Celery only where it is loaded. Open ``hooks.py`` for the list;
``stopping.py``, ``unknown_tasks.py``, ``safeguard.py`` and ``lost_tasks.py`` do one thing each, ``state.py`` reads
Celery's own state.
"""

from __future__ import annotations

from kombu_hake.worker import lost_tasks, state
from kombu_hake.worker.hooks import install
from kombu_hake.worker.safeguard import check_tasks
from kombu_hake.worker.unknown_tasks import say_unknown_once

__all__ = [
    "check_tasks",
    "install",
    "lost_tasks",
    "say_unknown_once",
    "state",
]
