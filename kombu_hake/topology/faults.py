"""What is wrong with a queue that this package may not change (``topology=verify``), in sentences. Pure.

What differs is decided by :func:`kombu_hake.topology.diff.diff`, as for queues that are changed; here each change that
would be made becomes a fault that tells an operator what to do. It is less strict in one thing: a filter that is not
ours may be meant so, and is no fault (:func:`unequal_filters`). What no change of ours could mend is a fault, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kombu_hake.amqp import FIFO_SUFFIX, SubscriptionArn, dead_queue_arn, read_object, without_priorities
from kombu_hake.quoting import quoted
from kombu_hake.topology.desired import Desired, Level, filters
from kombu_hake.topology.diff import Change, SetAttribute, Subscribe, WritePolicy, diff, is_body_scope, shared_exchanges
from kombu_hake.topology.observed import Observed
from kombu_hake.topology.queues import AWS_MANAGED_KEY

__all__ = ["SHOWN_CHARS", "Unequal", "dead_queue_of", "faults", "unequal_filters"]

#: Of a text that others wrote.
SHOWN_CHARS = 500


class Unequal(NamedTuple):
    """A filter policy that is not ours."""

    queue: str
    exchange: str
    subscription: SubscriptionArn
    #: As SNS shows it, priorities left out.
    text: str


def faults(desired: Desired, observed: Observed) -> list[str]:
    """Everything that is wrong with a queue; ``[]`` where it is as it is to be."""
    return list(_faults(desired, observed))


def unequal_filters(desired: Desired, observed: Observed) -> list[Unequal]:
    """The filters of a queue's subscriptions that are neither ours nor none, though they are about attributes."""
    found = []
    for change in diff(desired, observed):
        if not isinstance(change, SetAttribute) or change.name != "FilterPolicy":
            continue
        subscription = observed.subscriptions[change.queue, change.exchange]
        text = without_priorities((subscription.attributes or {}).get("FilterPolicy") or "{}")[0]
        ours = {without_priorities(one)[0] for one in filters(desired.bindings, change.exchange)}
        if text not in {"{}", *ours} and not is_body_scope(subscription):
            found.append(Unequal(change.queue, change.exchange, change.subscription, text))
    return found


def dead_queue_of(redrive_policy: str | None) -> tuple[str, str] | None:
    """(name, account) of the dead-letter queue that a redrive policy names; None where it names none.

    Raises:
        ValueError: it can't be read.
    """
    arn = dead_queue_arn(redrive_policy)
    return None if arn is None else (arn.name, arn.account)


def _faults(desired: Desired, observed: Observed) -> Iterator[str]:
    yield from _of_dead_letters(desired, observed)
    if desired.exchanges and observed.is_closed_to_sns:
        yield (
            f"Queue {desired.queue!r} is encrypted with {AWS_MANAGED_KEY}, a key that SNS cannot use: encrypt it with "
            "SSE-SQS, or a key of your own that allows sns.amazonaws.com."
        )
    changes, shared = diff(desired, observed), shared_exchanges(desired, observed)
    for exchange in desired.exchanges:
        yield from _of_binding(desired, observed, changes, desired.main, exchange)
        for number, level in enumerate(desired.levels[1:] if exchange in shared else (), 1):
            for fault in _of_binding(desired, observed, changes, level, exchange):
                yield f"Of queue {desired.queue!r}, priority level {number}: {fault}"


def _of_dead_letters(desired: Desired, observed: Observed) -> Iterator[str]:
    text, queue = observed.redrive_policy, desired.queue
    if text is None:
        return
    try:
        target = dead_queue_of(text)
    except ValueError:
        yield f"Queue {queue!r} has a redrive policy that names no dead-letter queue: {quoted(text, SHOWN_CHARS)}"
        return
    asked = desired.dead_letters
    if target is None and asked is not None and asked.is_needed:
        yield (
            f"Queue {queue!r} should have the dead-letter queue {asked.name!r}, but has no redrive policy: set "
            f"one with a maxReceiveCount of {asked.max_receives}."
        )
    if target is not None and observed.is_dead_queue_missing:
        shown = quoted(read_object(text).get("deadLetterTargetArn"), SHOWN_CHARS)
        yield f"Queue {queue!r} has a redrive policy to {shown}, which does not exist."


def _of_binding(
    desired: Desired, observed: Observed, changes: Sequence[Change], level: Level, exchange: str
) -> Iterator[str]:
    queue, topic = level.name, desired.topics[exchange]
    if level.arn.endswith(FIFO_SUFFIX) and not topic.endswith(FIFO_SUFFIX):
        yield f"Queue {queue!r} is FIFO and the topic of exchange {exchange!r} is not: SNS cannot deliver to it."
    of_policy = [change for change in changes if isinstance(change, WritePolicy) and change.queue == queue]
    if any(exchange in change.lacking for change in of_policy):
        yield (
            f"The policy of queue {queue!r} does not allow {topic}, the topic of exchange {exchange!r}: allow "
            "sns.amazonaws.com sqs:SendMessage, with that topic as aws:SourceArn."
        )
    if exchange in observed.topicless:
        yield f"Exchange {exchange!r} has no topic: there is no {topic}."
    elif (queue, exchange) in observed.pending:
        yield f"The subscription of queue {queue!r} to exchange {exchange!r} waits to be confirmed."
    elif any(isinstance(one, Subscribe) and (one.queue, one.exchange) == (queue, exchange) for one in changes):
        yield f"Queue {queue!r} is not subscribed to exchange {exchange!r}: {topic} has no subscription of {level.arn}."
    else:
        yield from _of_attributes(observed, changes, queue, exchange)


def _of_attributes(observed: Observed, changes: Sequence[Change], queue: str, exchange: str) -> Iterator[str]:
    found = observed.subscriptions.get((queue, exchange))
    if found is None:
        return
    names = {
        change.name
        for change in changes
        if isinstance(change, SetAttribute) and (change.queue, change.exchange) == (queue, exchange)
    }
    what = f"The subscription of queue {queue!r} to exchange {exchange!r} ({found.arn})"
    if "RawMessageDelivery" in names:
        yield f"{what} has no raw message delivery: set RawMessageDelivery to true."
    if is_body_scope(found) and names & {"FilterPolicy", "FilterPolicyScope"}:
        yield f"{what} filters on the message body, which holds no routing key: filter on message attributes."
