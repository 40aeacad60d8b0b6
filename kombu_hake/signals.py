"""Signals for Celery apps, as those of :mod:`celery.signals`. Needs Celery."""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = ["lease_lost"]

#: A task's message may be, or is, another consumer's by now. Sent once a delivery, in the worker's main process and in
#: the thread that consumes. The sender is the name of the task. Arguments: ``task_id``, ``queue``, ``why`` (a
#: :class:`kombu_hake.receive.delivery.Why`), and ``request``, Celery's request while the worker has it, else None.
lease_lost = Signal(name="lease_lost", providing_args={"task_id", "queue", "why", "request"})
