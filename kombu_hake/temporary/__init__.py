"""Temporary queues: exclusive, auto-delete and expiring ones, which are deleted by themselves.

In: what one connection declares and consumes. Out: heartbeats in the queues' tags, and queues deleted with their
connection or after their time. Open ``temporaries.py`` for what one connection owns, ``presence.py`` for heartbeats,
``janitor.py`` for queues that a crashed process left behind.
"""

from __future__ import annotations

from kombu_hake.temporary.janitor import Found, Janitor, Report
from kombu_hake.temporary.presence import Presence
from kombu_hake.temporary.temporaries import Temporaries

__all__ = ["Found", "Janitor", "Presence", "Report", "Temporaries"]
