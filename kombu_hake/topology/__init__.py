"""Exchanges, queues and bindings as they exist in AWS.

In: what kombu declared. Out: topics, queues, subscriptions, policies and tags that match it, created, checked, repaired
or removed. :class:`Topology` is the front; one per process and settings. :func:`blueprint` lists what should exist
for declarations, and :class:`Auditor` compares that with what AWS has; both only read.

================================ =====================================================================================
to change                        open
================================ =====================================================================================
what a connection can ask for    ``topology.py``, and what ``topology=auto``, ``verify`` and ``assume`` make of it
what a queue should have         ``spec.py`` (from its arguments), ``planning.py`` and ``desired.py`` (from bindings)
what AWS shows                   ``reading.py``, ``observed.py`` (late reads), ``knowledge.py`` (bindings, by tags);
                                 lists, tags and attributes as they are: ``lookups.py``
what is written                  ``diff.py`` decides, ``apply.py`` writes; ``coverage.py`` compares filters
how a queue is bound, unbound    ``reconciler.py``; deleted: ``removal.py``; recreated: ``repair.py``
the faults of ``verify``         ``verification.py``
calls about a queue or a topic   ``queues.py``, ``topics.py``; their ARNs and URLs: ``home.py``
dead-letter queues               ``dead_queues.py``
sizes of messages, buckets       ``sizes.py``, ``stores.py``
heartbeats                       ``signs.py``
plans and exports                ``blueprint.py`` (what is declared), ``audit.py``, ``drift.py`` (what differs)
how late AWS is, later work      ``timings.py``, ``chores.py``
================================ =====================================================================================
"""

from __future__ import annotations

from kombu_hake.topology import lookups
from kombu_hake.topology.audit import Audit, Auditor, Undeclared
from kombu_hake.topology.blueprint import Blueprint, SnsSubscription, SnsTopic, SqsQueue, blueprint
from kombu_hake.topology.coverage import covers
from kombu_hake.topology.desired import filters
from kombu_hake.topology.drift import Drift
from kombu_hake.topology.home import Home
from kombu_hake.topology.queues import AWS_MANAGED_KEY
from kombu_hake.topology.signs import Signs, whoami
from kombu_hake.topology.sizes import SIZE_ARGUMENT, TopicLimit, checked_size
from kombu_hake.topology.spec import (
    LEVEL_TAG,
    NAMESPACE_TAG,
    ExchangeSpec,
    QueueSpec,
    needs_topic,
    own_tags,
    retention_s,
)
from kombu_hake.topology.stores import STORE_ARGUMENT, Stores, checked_store, same_store
from kombu_hake.topology.timings import Timings
from kombu_hake.topology.topics import Topics
from kombu_hake.topology.topology import Topology

__all__ = [
    "AWS_MANAGED_KEY",
    "LEVEL_TAG",
    "NAMESPACE_TAG",
    "SIZE_ARGUMENT",
    "STORE_ARGUMENT",
    "Audit",
    "Auditor",
    "Blueprint",
    "Drift",
    "ExchangeSpec",
    "Home",
    "QueueSpec",
    "Signs",
    "SnsSubscription",
    "SnsTopic",
    "SqsQueue",
    "Stores",
    "Timings",
    "TopicLimit",
    "Topics",
    "Topology",
    "Undeclared",
    "blueprint",
    "checked_size",
    "checked_store",
    "covers",
    "filters",
    "lookups",
    "needs_topic",
    "own_tags",
    "retention_s",
    "same_store",
    "whoami",
]
