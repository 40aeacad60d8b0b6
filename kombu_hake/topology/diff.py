"""What has to be written to AWS so that a queue becomes as it is to be. Pure: the only place that decides it.

:func:`diff` takes what is desired and what is observed, and gives typed changes in the order in which they must be
made, each with its reason. Applying them changes what is observed; the caller takes the difference again until there is
none. What AWS refuses (a filter that is too complex, one filter too many) is part of what is observed, and the next
difference has something wider instead.

Order
    Queue policy, then subscription: a message that SNS accepted is never refused by the queue. With priorities the
    levels come first, then the lowest one: until its filter is narrowed it gets everything, and nothing is lost.

What never becomes less
    Foreign statements in a policy are kept. Where a tag can't be read, or tags may show an older state
    (``Desired.is_settled``), topics that the policy names stay, and a filter is only ever widened, unless all that it
    passes beyond the bindings is what is being unbound.

Where priorities do not fit
    Where SNS takes no filter on priorities they are left out of it: the messages stay on the lowest level.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from kombu_hake.amqp import (
    PRIORITY_ATTRIBUTE,
    BindingSet,
    QueueArn,
    SubscriptionArn,
    allows,
    named_topics,
    namespace_policy,
    queue_policy,
    read_object,
    same_json,
)
from kombu_hake.topology.coverage import covers, has_all
from kombu_hake.topology.desired import Desired, Level, Undelivered, filters
from kombu_hake.topology.observed import Observed, Subscription

__all__ = [
    "Change",
    "SetAttribute",
    "Subscribe",
    "TagLevel",
    "Unsubscribe",
    "WritePolicy",
    "diff",
    "flat_exchanges",
    "found_in_place",
    "is_body_scope",
    "redrive_policy",
    "shared_exchanges",
]

_EVERYTHING = "{}"
_LAST_BINDING = "The queue's last binding to it was removed."
_BODY_SCOPE = "MessageBody"
_ATTRIBUTES_SCOPE = "MessageAttributes"


@dataclass(frozen=True)
class WritePolicy:
    """Replace the access policy of an SQS queue; ``""`` removes it."""

    queue: str
    text: str
    reason: str = field(compare=False)
    #: Exchanges whose topics the policy does not allow yet.
    lacking: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Subscribe:
    """Subscribe an SQS queue to an exchange's topic, or find its subscription."""

    queue: str
    arn: QueueArn
    exchange: str
    #: Filter policy; ``{}`` is none.
    filter: str
    reason: str = field(compare=False)


@dataclass(frozen=True)
class SetAttribute:
    """Set an attribute of a subscription."""

    queue: str
    exchange: str
    subscription: SubscriptionArn
    name: str
    value: str
    reason: str = field(compare=False)


@dataclass(frozen=True)
class Unsubscribe:
    """Remove a subscription, if there is one."""

    queue: str
    arn: QueueArn
    exchange: str
    #: None where it is to be looked for.
    subscription: SubscriptionArn | None
    reason: str = field(compare=False)


@dataclass(frozen=True)
class TagLevel:
    """Tag a priority level with the queue that it belongs to."""

    queue: str
    main: str
    reason: str = field(compare=False)


Change: TypeAlias = WritePolicy | Subscribe | SetAttribute | Unsubscribe | TagLevel


def diff(desired: Desired, observed: Observed) -> list[Change]:
    """The changes to make, in order; ``[]`` when the queue is as it should be."""
    return list(_changes(desired, observed))


def redrive_policy(undelivered: Undelivered) -> str:
    """The ``RedrivePolicy`` of a subscription, as JSON text."""
    return json.dumps({"deadLetterTargetArn": undelivered.arn})


def shared_exchanges(desired: Desired, observed: Observed) -> list[str]:
    """The exchanges whose messages filters put into levels, as far as AWS takes such filters."""
    if len(desired.levels) == 1:
        return []
    return [
        exchange
        for exchange in desired.exchanges
        if exchange not in observed.full
        and exchange not in desired.flat
        and all(_choices(desired, observed, level, exchange) for level in desired.levels)
    ]


def flat_exchanges(desired: Desired, observed: Observed) -> list[str]:
    """The exchanges whose messages stay on the lowest level of a queue with priorities."""
    if len(desired.levels) == 1:
        return []
    shared = shared_exchanges(desired, observed)
    return [exchange for exchange in desired.exchanges if exchange not in shared]


def found_in_place(desired: Desired, observed: Observed) -> bool:
    """Return True if what is observed of a queue shows that the bindings were made, so that there is nothing to write.

    Other processes may have bound more: then the policy names more topics, and filters have more values. A filter that
    merely passes what is bound is no evidence that the bindings are recorded, and may be narrowed by others.
    """
    main = desired.main
    policy = observed.policies.get(main.name)
    if policy is None or len(desired.levels) > 1:
        return False
    for exchange in desired.exchanges:
        found = observed.subscriptions.get((main.name, exchange))
        if found is None or found.attributes is None or not allows(policy, main.arn, desired.topics[exchange]):
            return False
        if not _is_raw(found) or (desired.undelivered is not None and not found.attributes.get("RedrivePolicy")):
            return False
        texts = filters(desired.bindings, exchange)
        is_fanout = all(one.exchange_type == "fanout" for one in desired.bindings.for_exchange(exchange))
        if is_body_scope(found) or not any(has_all(_filter_of(found), text) for text in texts):
            return False
        if _filter_of(found) == _EVERYTHING and not is_fanout:
            return False
    return True


# --- in order


def _changes(desired: Desired, observed: Observed) -> Iterator[Change]:
    main, *higher = desired.levels
    exchanges = desired.exchanges
    yield from _policy(desired, observed, main, exchanges)
    if desired.undelivered is not None:
        keeper = Level(desired.undelivered.name, desired.undelivered.arn)
        yield from _policy(desired, observed, keeper, exchanges)
    shared = shared_exchanges(desired, observed)
    for exchange in shared:
        for level in higher:
            yield from _subscription(desired, observed, level, exchange, _choices(desired, observed, level, exchange))
    for level in higher:
        yield from _level(desired, observed, level, shared)
    for exchange in exchanges:
        is_shared = exchange in shared
        at = main if is_shared else main._replace(share=())
        choices = _choices(desired, observed, at, exchange)
        if is_shared and observed.is_level_new and not _has_filter(observed, main, exchange, choices):
            choices = _without_share(desired, observed, main, exchange)
        yield from _subscription(desired, observed, at, exchange, choices)
    for exchange in sorted(_removed(desired)):
        if _is_over(desired, observed, exchange):
            for level in desired.levels:
                reason = "The exchange is deleted." if exchange in desired.deleted else _LAST_BINDING
                yield from _unsubscribe(observed, level, exchange, reason)


def _level(desired: Desired, observed: Observed, level: Level, shared: list[str]) -> Iterator[Change]:
    """Allow the shared exchanges to send to a level, and remove the others."""
    policy = observed.policies.get(level.name) or ""
    for exchange in desired.exchanges:
        # The policy tells whether it was subscribed, without a call; one for the namespace does not.
        is_left = (level.name, exchange) in observed.subscriptions or (
            desired.topic_pattern is None and allows(policy, level.arn, desired.topics[exchange])
        )
        if exchange not in shared and is_left:
            yield from _unsubscribe(observed, level, exchange, "SNS takes no filter on priorities for it.")
    if not all(allows(policy, level.arn, desired.topics[exchange]) for exchange in shared):
        yield TagLevel(level.name, desired.queue, "The level's tags do not tell which queue it belongs to.")
    yield from _policy(desired, observed, level, shared)


def _unsubscribe(observed: Observed, level: Level, exchange: str, reason: str) -> Iterator[Change]:
    if (level.name, exchange) not in observed.absent:
        found = observed.subscriptions.get((level.name, exchange))
        yield Unsubscribe(level.name, level.arn, exchange, found.arn if found is not None else None, reason)


# --- policies


def _policy(desired: Desired, observed: Observed, at: Level, exchanges: list[str]) -> Iterator[Change]:
    if at.name not in observed.policies:
        return
    existing = observed.policies[at.name]
    topics = [desired.topics[exchange] for exchange in exchanges]
    named, kept = named_topics(existing), []
    if desired.bindings.is_partial or not desired.is_settled:
        over = {desired.topics.get(exchange) for exchange in _removed(desired) if _is_over(desired, observed, exchange)}
        kept = [topic for topic in named if topic not in over]
    # A predefined topic may be of another account or naming: the pattern does not name it, nor all that are kept.
    is_pattern = desired.topic_pattern is not None and topics and not kept
    is_allowed = existing is not None and all(allows(existing, at.arn, topic) for topic in topics)
    if is_allowed and (is_pattern or (kept and kept == named)):
        text = None
    elif is_pattern:
        text = namespace_policy(existing, at.arn, str(desired.topic_pattern))
    else:
        text = queue_policy(existing, at.arn, {*topics, *kept})
    if text is not None:
        lacking = [name for name in exchanges if not allows(existing or "", at.arn, desired.topics[name])]
        yield WritePolicy(
            at.name,
            text,
            f"The policy does not allow the topics of {', '.join(lacking)}."
            if lacking
            else "The policy names other topics than the bindings.",
            tuple(lacking),
        )
    elif at.name in observed.overwritten:
        yield WritePolicy(at.name, existing or "", "A write of this process dropped foreign statements.")


def _removed(desired: Desired) -> set[str]:
    return ({binding.exchange for binding in desired.removed} | desired.deleted) - desired.bindings.exchanges()


def _is_over(desired: Desired, observed: Observed, exchange: str) -> bool:
    """Return True if a queue is to receive nothing more from an exchange that was unbound or deleted."""
    if exchange in desired.deleted:
        return True
    if desired.bindings.is_partial:
        return False  # a binding that can't be read may be to this exchange
    if desired.is_settled:
        return True
    found = observed.subscriptions.get((desired.main.name, exchange))
    return found is None or found.attributes is None or _is_explained(desired, desired.main, exchange, found)


# --- subscriptions


def _choices(desired: Desired, observed: Observed, level: Level, exchange: str) -> list[str]:
    """The filters that AWS has not refused, the narrowest first; ``[]`` for a level that there is no filter for."""
    if exchange in observed.full:
        return [] if level.share else [_EVERYTHING]
    found = filters(desired.bindings, exchange, level.share, fanout_priorities=desired.fanout_priorities)
    return [text for text in found if (level.name, exchange, text) not in observed.refused]


def _without_share(desired: Desired, observed: Observed, main: Level, exchange: str) -> list[str]:
    return _choices(desired, observed, main._replace(share=()), exchange)


def _has_filter(observed: Observed, level: Level, exchange: str, choices: list[str]) -> bool:
    found = observed.subscriptions.get((level.name, exchange))
    return found is not None and same_json(_filter_of(found), choices[0])


def _subscription(
    desired: Desired, observed: Observed, level: Level, exchange: str, choices: list[str]
) -> Iterator[Change]:
    if exchange in observed.skipped:
        return
    wanted = choices[0] if choices else _EVERYTHING
    found = observed.subscriptions.get((level.name, exchange))
    if found is None:
        yield Subscribe(level.name, level.arn, exchange, wanted, "Its subscription is not known here.")
        return
    if found.attributes is None:
        return
    yield from _attributes(desired, level, exchange, wanted, found)
    if desired.undelivered is not None and found.arn not in observed.unkept:
        value, existing = redrive_policy(desired.undelivered), found.attributes.get("RedrivePolicy")
        if not existing:
            reason = "What SNS can't deliver is not kept."
            yield SetAttribute(level.name, exchange, found.arn, "RedrivePolicy", value, reason)
        elif desired.resets and not same_json(existing, value):
            reason = "What SNS can't deliver is kept in another queue."
            yield SetAttribute(level.name, exchange, found.arn, "RedrivePolicy", value, reason)


def _attributes(desired: Desired, level: Level, exchange: str, wanted: str, found: Subscription) -> Iterator[Change]:
    def change(name: str, value: str, reason: str) -> SetAttribute:
        return SetAttribute(level.name, exchange, found.arn, name, value, reason)

    if not _is_raw(found):
        yield change("RawMessageDelivery", "true", "It wraps messages in a notification of SNS.")
    text, reason = _filter_to_write(desired, level, exchange, wanted, found)
    if is_body_scope(found) and _filter_of(found) != _EVERYTHING and text != _EVERYTHING:
        of_scope = "It filters on the message body, which has no routing key."
        if text is not None:  # SNS refuses the scope while a filter for a body is set
            yield change("FilterPolicy", _EVERYTHING, of_scope)
        yield change("FilterPolicyScope", _ATTRIBUTES_SCOPE, of_scope)
    if text is not None:
        yield change("FilterPolicy", text, reason)


def _filter_to_write(
    desired: Desired, level: Level, exchange: str, wanted: str, found: Subscription
) -> tuple[str | None, str]:
    """The filter policy to set, and why; None for none."""
    existing = _filter_of(found)
    if same_json(existing, wanted):
        return None, ""
    if exchange in desired.bindings.unfiltered or wanted == _EVERYTHING:
        return wanted, "The queue gets everything of the exchange."
    share = {name: values for name, values in read_object(wanted).items() if name == PRIORITY_ATTRIBUTE}
    everything = json.dumps(share, sort_keys=True, separators=(",", ":"))
    if desired.bindings.is_partial:
        text = None if same_json(existing, everything) else everything
        return text, "The filter may belong to a binding with an unreadable tag, so it is widened."
    if desired.is_settled or _is_explained(desired, level, exchange, found):
        return wanted, "The filter is not that of the queue's bindings."
    if is_body_scope(found) or not covers(existing, wanted):
        return everything, "The filter may be of a binding that tags do not show yet, so it is widened."
    return None, ""


def _is_explained(desired: Desired, level: Level, exchange: str, found: Subscription) -> bool:
    """Return True if a filter passes nothing beyond the known bindings and those that are being removed."""
    bindings = BindingSet(desired.bindings.bindings | desired.removed, desired.bindings.unfiltered)
    texts = [*filters(bindings, exchange, level.share, fanout_priorities=desired.fanout_priorities)]
    texts += filters(bindings, exchange)
    return not is_body_scope(found) and any(covers(text, _filter_of(found)) for text in texts)


def _filter_of(found: Subscription) -> str:
    return (found.attributes or {}).get("FilterPolicy") or _EVERYTHING


def _is_raw(found: Subscription) -> bool:
    return (found.attributes or {}).get("RawMessageDelivery", "false").lower() == "true"


def is_body_scope(found: Subscription) -> bool:
    """Return True if a subscription filters on the body of messages, not on their attributes."""
    return (found.attributes or {}).get("FilterPolicyScope", _ATTRIBUTES_SCOPE) == _BODY_SCOPE
