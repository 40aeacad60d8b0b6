"""All that reaches into a Celery worker.

In: Celery's signals and its consumer. Out: prefetched tasks given back at shutdown, lost leases reported to tasks,
unknown tasks rejected, the health file, and spans of the tasks that run. Nothing here imports Celery unless it is
loaded.
"""

from __future__ import annotations

from kombu_hake.worker import health, lost_tasks, state
from kombu_hake.worker.internals import install
from kombu_hake.worker.rejections import reject_unknown
from kombu_hake.worker.safeguard import check_tasks
from kombu_hake.worker.task_runs import observe
from kombu_hake.worker.tenants import keep_no_tenant

__all__ = [
    "check_tasks",
    "health",
    "install",
    "keep_no_tenant",
    "lost_tasks",
    "observe",
    "reject_unknown",
    "state",
]
