"""Findings about topics and subscriptions: what is missing, filters, raw delivery, undelivered messages. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from kombu_hake.admin.check.drift import about_queue, about_subscription, about_topic
from kombu_hake.admin.check.facts import Expected, Facts, SubscriptionFacts, TopicFacts
from kombu_hake.admin.check.findings import Finding, found
from kombu_hake.amqp import (
    FIFO_SUFFIX,
    SNS_MAX_FILTERS,
    SNS_MAX_MESSAGE_BYTES,
    SNS_RAISED_MAX_SUBSCRIPTIONS,
    level_shares,
    readable_dead_queue,
    whole,
)
from kombu_hake.quoting import quoted
from kombu_hake.topology import SnsSubscription, SnsTopic, SqsQueue, covers, filters

__all__ = ["of_topics"]

_EVERYTHING = "{}"
#: Characters of a document that others wrote.
_SHOWN_CHARS = 300
_FILTERS_NEAR = SNS_MAX_FILTERS - 20
_FEW_SUBSCRIPTIONS_NEAR = SNS_RAISED_MAX_SUBSCRIPTIONS - 10


def of_topics(expected: Expected, facts: Facts) -> Iterator[Finding]:
    """Everything about the app's topics and their subscriptions."""
    for topic in expected.blueprint.topics:
        seen = facts.topics.get(topic.arn)
        if seen is None:
            continue
        yield from _of_topic(expected, topic, seen)
        yield from _foreign(expected, facts, topic, seen)
    for wanted in expected.blueprint.subscriptions:
        seen = facts.topics.get(wanted.topic_arn)
        if seen is not None:
            yield from _of_subscription(expected, facts, wanted, seen)


# --- topics


def _of_topic(expected: Expected, topic: SnsTopic, seen: TopicFacts) -> Iterator[Finding]:
    name = topic.exchange
    if not topic.is_bound:
        if seen.exists is False:
            fails = "" if expected.is_ours_to_make and not topic.is_predefined else " Publishing to it fails."
            what = f"The app publishes to exchange {name!r}, which has no topic.{fails}"
            yield found("exchange-reaches-nobody", topic.arn, what, explains=about_topic(topic.arn))
        elif seen.subscriptions == ():
            what = f"The app publishes to exchange {name!r}, to which no queue is bound."
            yield found("exchange-reaches-nobody", topic.arn, what)
        return
    if seen.exists is False:
        create = f"aws sns create-topic --name {shlex.quote(topic.physical)}"
        remedy = expected.apply if expected.is_ours_to_make and not topic.is_predefined else create
        what = f"Exchange {name!r} has no topic."
        yield found("topic-missing", topic.arn, what, remedy, explains=about_topic(topic.arn))
        return
    count = len(seen.subscriptions or ())
    size = whole((seen.attributes or {}).get("MaximumMessageSize")) or 0
    is_small = topic.arn.endswith(FIFO_SUFFIX) or size > SNS_MAX_MESSAGE_BYTES
    if is_small and count >= _FEW_SUBSCRIPTIONS_NEAR:
        what = f"The topic of exchange {name!r} has {count} of {SNS_RAISED_MAX_SUBSCRIPTIONS} subscriptions."
        yield found("subscriptions-near-limit", topic.arn, what)
    if seen.filters is not None and seen.filters >= _FILTERS_NEAR:
        what = f"The topic of exchange {name!r} has {seen.filters} of {SNS_MAX_FILTERS} filter policies."
        yield found("filters-near-limit", topic.arn, what)


def _foreign(expected: Expected, facts: Facts, topic: SnsTopic, seen: TopicFacts) -> Iterator[Finding]:
    ours: dict[str, SqsQueue] = {queue.arn: queue for queue in expected.blueprint.queues}
    for one in seen.subscriptions or ():
        if one.is_pending:
            continue
        if one.endpoint in ours:
            yield from _unbound(expected, facts, topic, ours[one.endpoint], one)
            continue
        shown = quoted(one.endpoint)
        if one.protocol == "sqs" and facts.others.get(one.endpoint) is False:
            remedy = f"aws sns unsubscribe --subscription-arn {shlex.quote(one.arn)}"
            what = f"Exchange {topic.exchange!r} has a subscription for {shown}, which does not exist."
            yield found("orphan-subscription", one.arn, what, remedy)
        elif topic.is_bound:  # what is only published to is for others
            what = f"{shown} ({quoted(one.protocol)}) is subscribed to exchange {topic.exchange!r}."
            yield found("foreign-subscription", one.arn, what)


def _unbound(
    expected: Expected, facts: Facts, topic: SnsTopic, queue: SqsQueue, one: SubscriptionFacts
) -> Iterator[Finding]:
    """A subscription that an interrupted unbind has left."""
    if queue.is_predefined or topic.is_predefined or queue.role not in ("queue", "level"):
        return
    known = expected.bindings(queue.owner, facts)
    if known is not None and topic.exchange not in known.exchanges():
        what = f"Queue {queue.owner!r} is subscribed to exchange {topic.exchange!r}, to which it is not bound."
        yield found("unbound-subscription", one.arn, what, f"{expected.apply} --prune")


# --- subscriptions


def _of_subscription(
    expected: Expected, facts: Facts, wanted: SnsSubscription, topic: TopicFacts
) -> Iterator[Finding]:  # fmt: skip
    what = f"queue {_shown(expected, wanted)} to exchange {wanted.exchange!r}"
    about = about_subscription(wanted.topic_arn, wanted.queue_arn)
    is_fifo = wanted.queue_arn.endswith(FIFO_SUFFIX)
    if is_fifo and not wanted.topic_arn.endswith(FIFO_SUFFIX):
        where = f"Queue {wanted.owner!r} is FIFO, but the topic of exchange {wanted.exchange!r} is not."
        yield found("fifo-on-standard-topic", wanted.queue_arn, where, explains=about_queue(wanted.queue_arn))
        return
    queue = facts.queues.get(wanted.queue_arn)
    if topic.exists is False or topic.subscriptions is None or queue is None or queue.url is None:
        return  # a finding of its own, or unknown
    if not is_fifo and wanted.topic_arn.endswith(FIFO_SUFFIX):
        where = f"Queue {wanted.owner!r} is not FIFO, but the topic of exchange {wanted.exchange!r} is."
        yield found("standard-on-fifo-topic", wanted.queue_arn, where)
    seen = topic.of(wanted.queue_arn)
    if seen is None:
        is_level_left_out = expected.level(wanted) and topic.filters is not None and topic.filters >= SNS_MAX_FILTERS
        if not is_level_left_out:  # without room for its filter, everything stays on the lowest level
            remedy = expected.apply if expected.is_ours_to_make and not wanted.is_predefined else _subscribe(wanted)
            text = f"There is no subscription of {what}."
            yield found("subscription-missing", wanted.queue_arn, text, remedy, explains=about)
        return
    if seen.is_pending:
        text = f"The subscription of {what} is not confirmed yet."
        yield found("subscription-pending", wanted.queue_arn, text, explains=about)
        return
    if seen.attributes is None:
        return
    what = f"The subscription of {what}"
    if seen.attributes.get("RawMessageDelivery", "false").lower() != "true":
        remedy = _set(seen, "RawMessageDelivery", "true")
        yield found(
            "raw-delivery-off", seen.arn, f"{what} has no raw message delivery.", remedy,
            explains=about_subscription(wanted.topic_arn, wanted.queue_arn, "RawMessageDelivery"),
        )  # fmt: skip
    yield from _of_filter(expected, facts, wanted, seen, seen.attributes, what)
    yield from _of_undelivered(expected, facts, wanted, seen, seen.attributes, what)


def _of_filter(
    expected: Expected, facts: Facts, wanted: SnsSubscription, seen: SubscriptionFacts, attributes: Mapping[str, str],
    what: str,
) -> Iterator[Finding]:  # fmt: skip
    existing = attributes.get("FilterPolicy") or _EVERYTHING
    explained = about_subscription(wanted.topic_arn, wanted.queue_arn, "FilterPolicy", "FilterPolicyScope")
    if attributes.get("FilterPolicyScope") == "MessageBody" and existing != _EVERYTHING:
        yield found(
            "filter-on-body", seen.arn, f"{what} filters on the message body.",
            _set(seen, "FilterPolicyScope", "MessageAttributes"), explains=explained,
        )  # fmt: skip
        return
    needed = wanted.attributes.get("FilterPolicy") or _EVERYTHING
    known = expected.bindings(wanted.owner, facts)
    choices = []
    if known is not None:
        shares = level_shares(known.max_priority)
        share = tuple(shares[expected.level(wanted)]) if shares else ()
        fanout = expected.settings.fanout_priorities
        choices = filters(known, wanted.exchange, share, fanout_priorities=fanout) or [needed]
    right = (choices or [needed])[0]
    shown = quoted(existing, _SHOWN_CHARS)
    if not covers(existing, needed):
        yield found(
            "filter-too-narrow", seen.arn, f"{what} has the filter {shown}, but its bindings need {needed}.",
            _set(seen, "FilterPolicy", right), explains=explained,
        )  # fmt: skip
    elif choices and not any(covers(text, existing) for text in choices):
        is_foreign = not expected.is_ours_to_make or wanted.is_predefined
        shown = f"the filter {shown}" if existing != _EVERYTHING else "no filter"
        yield found(
            "filter-too-wide", seen.arn, f"{what} has {shown}, but its bindings need only {right}.",
            _set(seen, "FilterPolicy", right), severity="info" if is_foreign else None, explains=explained,
        )  # fmt: skip


def _of_undelivered(
    expected: Expected, facts: Facts, wanted: SnsSubscription, seen: SubscriptionFacts, attributes: Mapping[str, str],
    what: str,
) -> Iterator[Finding]:  # fmt: skip
    text = attributes.get("RedrivePolicy")
    explained = about_subscription(wanted.topic_arn, wanted.queue_arn, "RedrivePolicy")
    needed = wanted.attributes.get("RedrivePolicy")
    if not text:
        if needed and expected.is_ours_to_make:
            remedy = _set(seen, "RedrivePolicy", needed)
            text = f"{what} has no redrive policy."
            yield found("undelivered-not-kept", seen.arn, text, remedy, explains=explained)
        return
    target = readable_dead_queue(text)
    known = facts.queues.get(target)
    if not target or (known is not None and known.url is None):
        shown = quoted(target or text, _SHOWN_CHARS)
        yield found(
            "undelivered-queue-missing", seen.arn, f"{what} has a redrive policy to {shown}, which does not exist.",
            expected.apply if expected.is_ours_to_make else "",
            explains=explained | (about_queue(target) if target else set()),
        )  # fmt: skip


def _shown(expected: Expected, wanted: SnsSubscription) -> str:
    level = expected.level(wanted)
    return f"{wanted.owner!r}" + (f", priority level {level}," if level else "")


def _set(seen: SubscriptionFacts, name: str, value: str) -> str:
    return (
        f"aws sns set-subscription-attributes --subscription-arn {shlex.quote(seen.arn)} --attribute-name {name} "
        f"--attribute-value {shlex.quote(value)}"
    )


def _subscribe(wanted: SnsSubscription) -> str:
    attributes = json.dumps(dict(wanted.attributes))
    return (
        f"aws sns subscribe --topic-arn {wanted.topic_arn} --protocol sqs --notification-endpoint {wanted.queue_arn} "
        f"--attributes {shlex.quote(attributes)}"
    )
