"""What a check compares: what the app expects, and what AWS shows. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kombu_hake.admin.declared import Declared, stores
from kombu_hake.amqp import BindingSet, Store, from_tags, level_names
from kombu_hake.config import Settings
from kombu_hake.topology import Blueprint, SnsSubscription, SqsQueue

__all__ = ["Denied", "Expected", "Facts", "Place", "QueueFacts", "StoreFacts", "SubscriptionFacts", "TopicFacts"]


@dataclass(frozen=True)
class Denied:
    """A read that AWS refused."""

    #: IAM action.
    action: str
    resource: str
    #: AWS's words, where it is not for a missing right.
    text: str = ""


@dataclass(frozen=True)
class QueueFacts:
    """What AWS shows of an SQS queue."""

    #: None: there is no such queue.
    url: str | None
    #: None: they may not be read.
    attributes: Mapping[str, str] | None = None
    #: None: they were not read, or may not be.
    tags: Mapping[str, str] | None = None

    def number(self, attribute: str, default: int) -> int:
        """An attribute as a number; the default of AWS where it is not shown, as by some emulators."""
        text = (self.attributes or {}).get(attribute, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else default


@dataclass(frozen=True)
class SubscriptionFacts:
    """What SNS shows of a subscription."""

    arn: str
    protocol: str
    endpoint: str
    #: None: they were not read, or may not be.
    attributes: Mapping[str, str] | None = None

    @property
    def is_pending(self) -> bool:
        """True if it waits to be confirmed: SNS shows a text in place of its ARN."""
        return not self.arn.startswith("arn:")


@dataclass(frozen=True)
class TopicFacts:
    """What SNS shows of a topic."""

    #: None: that may not be read.
    exists: bool | None
    attributes: Mapping[str, str] | None = None
    #: None: they may not be listed.
    subscriptions: tuple[SubscriptionFacts, ...] | None = None
    #: How many of them have a filter policy; None: they were not counted, because there are few.
    filters: int | None = None

    def of(self, queue_arn: str) -> SubscriptionFacts | None:
        """The subscription of a queue; None for none."""
        return next((one for one in self.subscriptions or () if one.endpoint == queue_arn), None)


@dataclass(frozen=True)
class StoreFacts:
    """What S3 shows of a bucket of large messages, and of the objects below its prefix."""

    #: None: that may not be seen.
    exists: bool | None = None
    region: str | None = None
    #: Whether its objects may be read; None where that cannot be told.
    is_readable: bool | None = None
    #: Lifecycle rules, as S3 has them; None: they may not be read.
    rules: tuple[Mapping[str, Any], ...] | None = None
    #: AWS's words, if S3 could not be reached.
    fault: str = ""


@dataclass(frozen=True)
class Place:
    """Where the connection leads."""

    region: str
    partition: str
    #: ``sqs`` and ``sns`` to the URL of their endpoints.
    endpoints: Mapping[str, str] = field(default_factory=dict)
    #: The account of the credentials; None where STS was not asked, or did not answer.
    account: str | None = None
    #: Seconds to add to this machine's clock to get AWS's.
    clock_offset_s: float = 0.0


@dataclass(frozen=True)
class Facts:
    """All that was read, by ARN."""

    place: Place

    #: Those of the blueprint, and those that a redrive policy names.
    queues: Mapping[str, QueueFacts] = field(default_factory=dict)
    topics: Mapping[str, TopicFacts] = field(default_factory=dict)
    #: Other queues that are subscribed: whether they exist; None where that may not be seen.
    others: Mapping[str, bool | None] = field(default_factory=dict)
    denied: tuple[Denied, ...] = ()
    #: As *denied*, for what is merely good to know.
    unseen: tuple[Denied, ...] = ()
    #: Names in AWS of temporary queues that are past their time.
    abandoned: tuple[str, ...] = ()
    #: Buckets of large messages.
    stores: Mapping[Store, StoreFacts] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """What an app declares, and what that comes to in AWS."""

    declared: Declared
    blueprint: Blueprint
    settings: Settings
    #: (group, exchange, key) of the app's handlers.
    handlers: frozenset[tuple[str, str, str]] = frozenset()
    #: For commands: ``celery -A <app>``.
    app: str = "APP"

    @property
    def apply(self) -> str:
        """The command that makes what is missing."""
        return f"celery -A {self.app} hake apply"

    @property
    def stores(self) -> tuple[Store, ...]:
        """Where large messages are kept."""
        return stores(self.declared, self.settings)

    @property
    def is_ours_to_make(self) -> bool:
        """True if workers and ``apply`` create what is missing (``topology=auto``)."""
        return self.settings.topology == "auto"

    def bindings(self, name: str, facts: Facts) -> BindingSet | None:
        """All bindings of a queue: those of the app, and those of other processes, which its tags hold.

        None where a binding may be unknown: the tags were not read, or some of them cannot be.
        """
        queue = self.blueprint.queue(name)
        seen = facts.queues.get(queue.arn)
        if seen is None or seen.tags is None:
            return None
        found = from_tags(seen.tags)
        if found.is_partial:
            return None
        ours = self.own_bindings(name)
        highest = max(found.max_priority, ours.max_priority)
        return BindingSet(found.bindings | ours.bindings, found.unfiltered | ours.unfiltered, highest)

    def own_bindings(self, name: str) -> BindingSet:
        """The bindings that the app itself declares for a queue."""
        recorded = from_tags(self.blueprint.queue(name).tags)
        [queue] = [one for one in self.declared.queues if one.spec.name == name]
        return replace(recorded, bindings=recorded.bindings | set(queue.bindings))

    def level(self, wanted: SnsSubscription) -> int:
        """The priority level of a subscription's queue; 0 is the queue itself."""
        names = level_names(wanted.owner, {"x-max-priority": self.own_bindings(wanted.owner).max_priority})
        return names.index(wanted.queue) if wanted.queue in names else 0

    def subscriptions_of(self, queue: SqsQueue) -> list[SnsSubscription]:
        """What a queue is to be subscribed to."""
        return [one for one in self.blueprint.subscriptions if one.queue_arn == queue.arn]
