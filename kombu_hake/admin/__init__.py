"""Operate an app's queues from Python: groups with their counts, and dead letters.

In: a Celery app, see :func:`open_desk`. Out: values that the commands print, and actions: requeue, purge, remove.
"""

from __future__ import annotations

from kombu_hake.admin import dead_letters
from kombu_hake.admin.dead_letters import DeadLetter, Outcome, Wanted, requeue, scan
from kombu_hake.admin.queues import Binding, Desk, Group, open_desk

__all__ = [
    "Binding",
    "DeadLetter",
    "Desk",
    "Group",
    "Outcome",
    "Wanted",
    "dead_letters",
    "open_desk",
    "requeue",
    "scan",
]
