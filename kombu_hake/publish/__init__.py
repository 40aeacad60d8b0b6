"""From a message to AWS's acceptance.

In: a message, an exchange and a routing key. Out: one request, or a share of one; errors if AWS did not accept it.
:class:`Dispatcher` is the front; :func:`batch` gathers.
"""

from __future__ import annotations

from kombu_hake.publish.batching import Session, batch
from kombu_hake.publish.dispatch import Dispatcher
from kombu_hake.publish.publisher import Publisher, make_batches
from kombu_hake.publish.routes import QueueTarget, Routes

__all__ = ["Dispatcher", "Publisher", "QueueTarget", "Routes", "Session", "batch", "make_batches"]
