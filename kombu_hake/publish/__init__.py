"""Publishing: from a message to AWS's acceptance.

In: a message, an exchange and a routing key, to :class:`Dispatcher`. Out: one request, or a share of one; an error if
AWS did not accept the message. Open ``routes.py`` for the routing of messages, ``tenants.py`` for their tenants,
``dispatch.py`` for the steps, ``publisher.py`` for requests, ``limits.py`` for sizes, ``delays.py`` for delays,
``uploads.py`` for payloads in S3, ``batching.py`` for :func:`batch`, ``events.py`` for Celery's events.
"""

from __future__ import annotations

from kombu_hake.publish.batching import Session, batch
from kombu_hake.publish.dispatch import Dispatcher
from kombu_hake.publish.limits import Limits
from kombu_hake.publish.publisher import Publisher, make_batches
from kombu_hake.publish.routes import QueueTarget, Routes
from kombu_hake.publish.tenants import NO_TENANT

__all__ = [
    "NO_TENANT",
    "Dispatcher",
    "Limits",
    "Publisher",
    "QueueTarget",
    "Routes",
    "Session",
    "batch",
    "make_batches",
]
