"""Signals for Celery apps, as those of :mod:`celery.signals`. Needs Celery."""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = ["lease_lost"]

#: Another consumer may have, or has, the message of a task. Sent once per delivery, in the consuming thread of the
#: worker's main process. The sender is the name of the task. Arguments: ``task_id``, ``queue``, ``why`` (a
#: :class:`kombu_hake.receive.delivery.Why`), and ``request``, Celery's request while the worker has it, else None.
lease_lost = Signal(name="lease_lost", providing_args={"task_id", "queue", "why", "request"})
