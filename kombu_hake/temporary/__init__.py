"""Queues that go by themselves: exclusive, auto-delete and expiring ones.

In: what one connection declares and consumes. Out: heartbeats in the queues' tags, queues deleted with
their connection, and a janitor for what a crash left behind.
"""

from __future__ import annotations

from kombu_hake.temporary.janitor import Found, Janitor, Report
from kombu_hake.temporary.presence import Presence
from kombu_hake.temporary.temporaries import Temporaries

__all__ = ["Found", "Janitor", "Presence", "Report", "Temporaries"]
