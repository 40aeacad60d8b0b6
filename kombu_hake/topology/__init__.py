"""Exchanges, queues and bindings as they exist in AWS.

In: what kombu declared. Out: topics, queues, subscriptions, policies and tags that match it, created, checked, repaired
or removed. :class:`Topology` is the front; one per process and settings. :func:`blueprint` says what declarations come
to, and :class:`Auditor` compares that with what AWS has; both only read.
"""

from __future__ import annotations

from kombu_hake.topology.audit import Audit, Auditor, Undeclared
from kombu_hake.topology.blueprint import Blueprint, SnsSubscription, SnsTopic, SqsQueue, blueprint
from kombu_hake.topology.coverage import covers
from kombu_hake.topology.desired import filters
from kombu_hake.topology.drift import Drift
from kombu_hake.topology.home import Home
from kombu_hake.topology.queues import AWS_MANAGED_KEY
from kombu_hake.topology.signs import Signs, whoami
from kombu_hake.topology.sizes import SIZE_ARGUMENT, TopicLimit, checked_size
from kombu_hake.topology.spec import LEVEL_TAG, ExchangeSpec, QueueSpec, needs_topic, own_tags, retention_s
from kombu_hake.topology.stores import STORE_ARGUMENT, Stores, checked_store, same_store
from kombu_hake.topology.timings import Timings
from kombu_hake.topology.topics import Topics
from kombu_hake.topology.topology import Topology

__all__ = [
    "AWS_MANAGED_KEY",
    "LEVEL_TAG",
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
    "needs_topic",
    "own_tags",
    "retention_s",
    "same_store",
    "whoami",
]
