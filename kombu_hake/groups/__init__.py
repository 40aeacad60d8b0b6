"""Topics and consumer groups: :class:`Topic`, its handlers, and their failures.

In: handlers by ``Topic.on`` and events by ``Topic.publish``. Out: queues and bindings for the groups of a worker, one
task per handler and event, and dead letters with their history. Needs Celery.
"""

from __future__ import annotations

from kombu_hake.groups.messages import DEATHS_HEADER, Parts, resendable
from kombu_hake.groups.registry import registry
from kombu_hake.groups.topic import Topic

__all__ = ["DEATHS_HEADER", "Parts", "Topic", "registry", "resendable"]
