"""What AWS has already of a blueprint, and the blueprint with that put in: as a worker that declares it leaves it.

An export that is imported must not undo what operators have tuned, nor what other programs wrote. So attributes,
foreign tags and foreign policy statements of what exists are part of the export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kombu_hake.admin.declared import Declared, DeclaredExchange, DeclaredQueue
from kombu_hake.amqp import (
    DOCUMENT_ATTRIBUTES,
    TAG_PREFIX,
    BindingSet,
    allows,
    from_tags,
    has_same_own,
    max_priority,
    merged_policy,
    named_topics,
    same_json,
)
from kombu_hake.aws import Clients
from kombu_hake.exceptions import QueueNotFound, TopicNotFound
from kombu_hake.topology import Blueprint, SnsSubscription, SnsTopic, SqsQueue, lookups

__all__ = ["Existing", "Found", "completed", "read", "with_recorded"]


@dataclass(frozen=True)
class Found:
    """One queue, topic or subscription.

    Attributes:
        id: URL of a queue, ARN of a topic or subscription.
    """

    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Existing:
    """What AWS has of a blueprint.

    Attributes:
        queues: By ARN.
        topics: By ARN.
        subscriptions: By the ARNs of topic and queue.
    """

    queues: Mapping[str, Found] = field(default_factory=dict)
    topics: Mapping[str, Found] = field(default_factory=dict)
    subscriptions: Mapping[tuple[str, str], Found] = field(default_factory=dict)


def read(clients: Clients, blueprint: Blueprint) -> Existing:
    """Read what AWS has. Predefined queues and topics are not looked at, because they are not exported.

    Raises:
        AccessDenied: reading some of it is denied.
        BrokerUnavailable: AWS does not answer.
    """
    queues = {queue.arn: _queue(clients, queue) for queue in blueprint.queues if not queue.is_predefined}
    topics = {topic.arn: _topic(clients, topic) for topic in blueprint.topics if not topic.is_predefined}
    subscriptions: dict[tuple[str, str], Found] = {}
    for topic_arn in dict.fromkeys(one.topic_arn for one in blueprint.subscriptions if not one.is_predefined):
        wanted = {one.queue_arn for one in blueprint.subscriptions if one.topic_arn == topic_arn}
        for item in _subscriptions(clients, topic_arn):
            # One that waits to be confirmed has no ARN.
            if item["Endpoint"] in wanted and item["SubscriptionArn"].startswith("arn:"):
                arn = item["SubscriptionArn"]
                subscriptions[topic_arn, item["Endpoint"]] = Found(arn, lookups.subscription(clients, arn))
    return Existing(
        {arn: found for arn, found in queues.items() if found is not None},
        {arn: found for arn, found in topics.items() if found is not None},
        subscriptions,
    )


def with_recorded(declared: Declared, blueprint: Blueprint, existing: Existing) -> Declared:
    """What is declared, with the bindings and priorities that the tags of its queues record besides.

    Other apps, and older versions of this one, may have bound the queues: declaring unbinds nothing. Pure.
    """
    tags = {queue.name: existing.queues[queue.arn].tags for queue in blueprint.queues if queue.arn in existing.queues}
    queues = tuple(_with_recorded(queue, from_tags(tags.get(queue.name, {}))) for queue in declared.queues)
    exchanges = {exchange.name: exchange for exchange in declared.exchanges}
    for binding in (binding for queue in queues for binding in queue.bindings):
        exchanges.setdefault(binding.exchange, DeclaredExchange(binding.exchange, binding.exchange_type))
    return replace(declared, queues=queues, exchanges=tuple(exchanges[name] for name in sorted(exchanges)))


def completed(blueprint: Blueprint, existing: Existing) -> Blueprint:
    """The blueprint, with what exists as a worker that declares it leaves it. Pure."""
    return Blueprint(
        tuple(_completed_queue(queue, existing.queues.get(queue.arn)) for queue in blueprint.queues),
        tuple(_completed_topic(topic, existing.topics.get(topic.arn)) for topic in blueprint.topics),
        tuple(
            _completed_subscription(one, existing.subscriptions.get((one.topic_arn, one.queue_arn)))
            for one in blueprint.subscriptions
        ),
    )


# --- reading


def _queue(clients: Clients, queue: SqsQueue) -> Found | None:
    try:
        url = lookups.queue_url(clients, queue.physical)
        return Found(url, lookups.attributes(clients, url), lookups.tags(clients, url))
    except QueueNotFound:
        return None


def _topic(clients: Clients, topic: SnsTopic) -> Found | None:
    try:
        return Found(topic.arn, lookups.topic_attributes(clients, topic.arn), lookups.topic_tags(clients, topic.arn))
    except TopicNotFound:
        return None


def _subscriptions(clients: Clients, topic_arn: str) -> list[dict[str, str]]:
    try:
        return list(lookups.subscriptions(clients, topic_arn))
    except TopicNotFound:
        return []


# --- putting in


def _with_recorded(queue: DeclaredQueue, recorded: BindingSet) -> DeclaredQueue:
    bindings = tuple(sorted({*queue.bindings, *recorded.bindings}))
    spec = queue.spec
    if recorded.max_priority > max_priority(spec.arguments):
        spec = replace(spec, arguments={**spec.arguments, "x-max-priority": recorded.max_priority})
    return replace(queue, spec=spec, bindings=bindings)


def _completed_queue(queue: SqsQueue, found: Found | None) -> SqsQueue:
    if found is None:
        return queue
    shown = found.attributes
    return replace(
        queue,
        attributes={
            **queue.attributes,
            **{name: value for name, value in shown.items() if name not in DOCUMENT_ATTRIBUTES},
        },
        tags={**queue.tags, **_kept(found.tags, queue.tags)},
        policy=_policy(queue, shown.get("Policy") or None),
        redrive=shown.get("RedrivePolicy") or queue.redrive,
        # As it is: the policy of a dead-letter queue that existed before is the operator's.
        redrive_allow=shown.get("RedriveAllowPolicy") or None,
    )


def _policy(queue: SqsQueue, existing: str | None) -> str | None:
    """The policy with its foreign statements, and ours unless they allow our topics anyway."""
    if existing is None or queue.policy is None:
        return existing or queue.policy
    named = named_topics(queue.policy)
    if has_same_own(existing, queue.policy) or (named and all(allows(existing, queue.arn, topic) for topic in named)):
        return existing
    return merged_policy(existing, queue.policy, [existing])


def _completed_topic(topic: SnsTopic, found: Found | None) -> SnsTopic:
    if found is None:
        return topic
    return replace(
        topic, attributes={**topic.attributes, **found.attributes}, tags={**topic.tags, **_kept(found.tags, topic.tags)}
    )


def _kept(found: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The tags that are there, except for those of bindings with a wrong value, which a declarer writes again.

    Who made it stays: a newer version of this package does not change that.
    """
    return {key: value for key, value in found.items() if not (key.startswith(TAG_PREFIX) and key in wanted)}


def _completed_subscription(subscription: SnsSubscription, found: Found | None) -> SnsSubscription:
    if found is None:
        return subscription
    shown = {name: value for name, value in found.attributes.items() if value}
    ours = dict(subscription.attributes)
    if "RedrivePolicy" in shown:  # an operator's stays
        ours.pop("RedrivePolicy", None)
    filters = (shown.get("FilterPolicy", "{}"), ours.get("FilterPolicy", "{}"))
    if not same_json(*filters):
        shown = {name: value for name, value in shown.items() if name not in ("FilterPolicy", "FilterPolicyScope")}
    elif "FilterPolicy" in ours:  # the same text, so that nothing seems to change
        ours["FilterPolicy"] = filters[0]
    return replace(subscription, attributes={**shown, **ours})
