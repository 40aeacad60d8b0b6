"""Topics and consumer groups for Celery: :class:`Topic`, its handlers, and their failures. Needs Celery.

In: handlers by ``Topic.on`` and events by ``Topic.publish``. Out: queues and bindings for the groups of a worker, one
task per handler and event, dead letters with their history. Open ``topic.py`` for the public API, ``registry.py`` for
the handlers of a process, ``setup.py`` for the queues and tasks of an app, ``worker.py`` for how an event becomes
tasks, ``messages.py`` and ``failures.py`` for the messages to handlers and to dead-letter queues.
"""

from __future__ import annotations

from kombu_hake.groups.messages import DEATHS_HEADER, Parts, resendable
from kombu_hake.groups.registry import registry
from kombu_hake.groups.topic import Topic

__all__ = ["DEATHS_HEADER", "Parts", "Topic", "registry", "resendable"]
