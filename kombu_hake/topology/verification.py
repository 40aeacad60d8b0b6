"""``topology=verify``: what was declared against what is there. Reads only; lists all that is missing or wrong.

What differs is decided by :func:`kombu_hake.topology.diff.diff`, as for queues that this package may change. Each
change that would be made becomes a fault: a sentence that tells an operator what to do. A filter that is not ours may
be intended, so it is logged and is no fault. What no change of ours could mend is a fault, too.

A declaration is recorded; the first consume or publish afterwards checks it, because a filter can be judged only when
all bindings of its queue are known. What was found right is not checked again by this process. What may not be read is
logged once and is no fault: a role that may only consume cannot see the topics.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    Binding,
    BindingSet,
    QueueUrl,
    SubscriptionArn,
    compile_filter,
    dead_queue_arn,
    filter_json,
    main_queue,
    read_object,
    without_priorities,
)
from kombu_hake.aws import Clients, SingleFlight
from kombu_hake.exceptions import AccessDenied, QueueNotFound, TopicNotFound, TopologyError, TopologyIncomplete
from kombu_hake.quoting import fields, guarded, quoted
from kombu_hake.topology import lookups
from kombu_hake.topology.desired import Desired, Level, filters
from kombu_hake.topology.diff import Change, SetAttribute, Subscribe, WritePolicy, diff, is_body_scope, shared_exchanges
from kombu_hake.topology.observed import Observed, Subscription
from kombu_hake.topology.planning import Planner
from kombu_hake.topology.queues import AWS_MANAGED_KEY, Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.sizes import TopicSizes
from kombu_hake.topology.spec import plan
from kombu_hake.topology.topics import Topics

__all__ = ["Unequal", "Verification", "faults", "unequal_filters"]

logger = guarded(logging.getLogger(__name__))
#: Of a text that others wrote.
_SHOWN_CHARS = 500
#: Exchange to its subscriptions, by endpoint: read once a check.
_Subscriptions = dict[str, dict[str, dict[str, str]]]


class Unequal(NamedTuple):
    """A filter policy that is not ours."""

    queue: str
    exchange: str
    subscription: SubscriptionArn
    #: As SNS shows it, priorities left out.
    text: str


class Verification:
    """What this process declared and has not found right yet. Safe to share between threads."""

    def __init__(
        self, clients: Clients, queues: Queues, topics: Topics, sizes: TopicSizes, reader: Reader, planner: Planner
    ) -> None:
        self._sizes = sizes
        self._reader = reader
        self._planner = planner
        self._clients = clients
        self._settings = clients.settings
        self._queues = queues
        self._topics = topics
        self._flights = SingleFlight()
        self._bindings: dict[str, dict[Binding, None]] = {}
        self._seen: dict[str, frozenset[Binding]] = {}
        #: Queues that wait to be looked at.
        self.due: dict[str, None] = {}
        self._unreadable: set[str] = set()
        self._unequal: set[str] = set()

    def expect_queue(self, queue: str) -> None:
        """Record that a queue was declared."""
        if queue not in self._seen:
            self.due[queue] = None

    def expect_binding(self, queue: str, binding: Binding) -> None:
        """Record that a queue was bound to an exchange that needs a topic."""
        self._bindings.setdefault(queue, {})[binding] = None
        if binding not in self._seen.get(queue, ()):
            self.due[queue] = None

    def expect_no_more(self, queue: str, binding: Binding) -> None:
        """Record that a queue was unbound."""
        self._bindings.get(queue, {}).pop(binding, None)

    def check(self) -> None:
        """Check everything that was declared since the last check that found no fault.

        Raises:
            TopologyIncomplete: with every fault.
        """
        with self._flights("check"):
            all_faults: list[str] = []
            found: dict[str, frozenset[Binding]] = {}
            read: _Subscriptions = {}
            for queue in tuple(self.due):
                bindings = frozenset(tuple(self._bindings.get(queue, ())))
                of_queue = self._faults_of(queue, bindings, read)
                all_faults += of_queue
                if not of_queue:
                    found[queue] = bindings
            self._seen |= found
            for queue, bindings in found.items():
                if bindings == frozenset(tuple(self._bindings.get(queue, ()))):  # else more was bound meanwhile
                    del self.due[queue]
            if all_faults:
                raise TopologyIncomplete(all_faults)

    # --- looking

    def _faults_of(self, queue: str, bindings: frozenset[Binding], read: _Subscriptions) -> list[str]:
        try:
            url = self._queues.url(queue)
            observed = self._reader.policy(Observed(), queue, url)
        except QueueNotFound as exc:
            self._queues.forget(queue)
            return [str(exc)]
        except AccessDenied as exc:
            self._cannot_see(f"queue {queue!r}", exc)
            return []
        observed = self._look_at_dead_letters(queue, url, observed)
        highest = self._planner.declared_priority(queue) if queue == main_queue(queue) else 0
        wanted = self._planner.desired(queue, url, BindingSet(bindings, max_priority=highest))
        spec = self._queues.spec(queue)
        asked = plan(spec, self._settings) if spec is not None else None
        wanted = replace(wanted, dead_letters=asked)
        unreadable: list[str] = []
        for exchange in wanted.exchanges:
            observed = self._look_at_subscriptions(wanted, exchange, observed, read, unreadable)
        wanted, observed = self._look_at_levels(wanted, observed)
        for unequal in unequal_filters(wanted, observed):
            self._warn_of_filter(unequal, wanted)
        return faults(wanted, observed) + unreadable + self._faults_of_sizes(wanted, observed)

    def _faults_of_sizes(self, wanted: Desired, observed: Observed) -> list[str]:
        found: list[str] = []
        for exchange in wanted.exchanges:
            if exchange in observed.topicless:
                continue
            try:
                found += self._sizes.faults(exchange)
            except AccessDenied as exc:
                self._cannot_see(f"the size of messages to exchange {exchange!r}", exc)
        return found

    def _look_at_dead_letters(self, queue: str, url: QueueUrl, observed: Observed) -> Observed:
        text = self._queues.redrive_policy(url)
        observed = replace(observed, redrive_policy=text, is_closed_to_sns=self._queues.is_closed_to_sns(url))
        try:
            target = dead_queue_arn(text)
            if target is not None:
                lookups.queue_url(self._clients, target.name, target.account)
        except ValueError as exc:
            logger.debug("The redrive policy of queue %s can't be read: %s", queue, exc)
        except QueueNotFound:
            return replace(observed, is_dead_queue_missing=True)
        except AccessDenied as exc:
            self._cannot_see(f"the dead-letter queue of queue {queue!r}", exc)
        return observed

    def _look_at_subscriptions(
        self, wanted: Desired, exchange: str, observed: Observed, read: _Subscriptions, unreadable: list[str]
    ) -> Observed:
        """Observe the subscriptions of a queue and its levels to an exchange."""
        try:
            if exchange not in read:
                read[exchange] = {item["Endpoint"]: item for item in self._topics.subscriptions(exchange)}
        except TopicNotFound:
            return replace(observed, topicless=observed.topicless | {exchange})
        except AccessDenied as exc:
            self._cannot_see(f"the subscriptions of exchange {exchange!r}", exc)
            return replace(observed, skipped=observed.skipped | {exchange})
        for level in wanted.levels:
            item = read[exchange].get(level.arn)
            arn = SubscriptionArn(item["SubscriptionArn"]) if item is not None else None
            if arn is not None and not arn.startswith("arn:"):
                observed = replace(observed, pending=observed.pending | {(level.name, exchange)})
            elif arn is not None:
                found = self._read_subscription(level.name, exchange, arn, unreadable)
                observed = observed.with_subscription(level.name, exchange, found)
            if level == wanted.main and not _has_share(observed.subscriptions.get((level.name, exchange))):
                break  # everything is on the lowest level
        return observed

    def _read_subscription(self, name: str, exchange: str, arn: SubscriptionArn, unreadable: list[str]) -> Subscription:
        what = f"subscription of queue {name!r} to exchange {exchange!r}"
        try:
            return self._reader.subscription(arn, must_read=True)
        except AccessDenied as exc:
            self._cannot_see(f"the {what}", exc)
        except TopologyError as exc:
            unreadable.append(f"The {what} can't be read: {exc}")
        return Subscription(arn, None)

    def _look_at_levels(self, wanted: Desired, observed: Observed) -> tuple[Desired, Observed]:
        """Observe the policies of the levels that the lowest one leaves the higher priorities to, if it does."""
        main = wanted.main.name
        shared = {exchange for exchange in wanted.exchanges if _has_share(observed.subscriptions.get((main, exchange)))}
        levels = [wanted.main]
        for level in wanted.levels[1:] if shared else ():
            try:
                observed = self._reader.policy(observed, level.name, self._queues.url(level.name))
            except QueueNotFound:
                continue  # it was declared itself, and is a fault of its own
            except AccessDenied as exc:
                self._cannot_see(f"a priority level of queue {wanted.queue!r}", exc)
                continue
            levels.append(level)
        return replace(wanted, levels=tuple(levels), flat=frozenset(wanted.exchanges) - shared), observed

    def _warn_of_filter(self, unequal: Unequal, wanted: Desired) -> None:
        """Another filter than ours may be meant so: it may pass more, or be written differently."""
        what = f"The subscription of queue {unequal.queue!r} to exchange {unequal.exchange!r} ({unequal.subscription})"
        if what not in self._unequal:
            self._unequal.add(what)
            bindings = wanted.bindings.for_exchange(unequal.exchange)
            keys = ", ".join(sorted(repr(binding.routing_key) for binding in bindings))
            logger.warning(
                "HAKE317 %s has the filter policy %s, but its bindings (%s) give %s. Check that it passes everything "
                "that is bound: messages that it does not pass are lost. Use the policy that the bindings give, or "
                "none.",
                what, quoted(unequal.text, _SHOWN_CHARS), keys, filter_json(compile_filter(bindings)),
                extra=fields(queue=unequal.queue, exchange=unequal.exchange),
            )  # fmt: skip

    def _cannot_see(self, what: str, exc: AccessDenied) -> None:
        if what not in self._unreadable:
            self._unreadable.add(what)
            logger.warning("HAKE318 topology=verify cannot check %s and assumes that it is correct: %s", what, exc)


def _has_share(found: Subscription | None) -> bool:
    """Return True if a subscription's filter has a condition on priorities."""
    attributes = found.attributes if found is not None else None
    return without_priorities((attributes or {}).get("FilterPolicy") or "{}")[1]


# --- judging. Pure.


def faults(desired: Desired, observed: Observed) -> list[str]:
    """Everything that is wrong with a queue; ``[]`` when it is as it should be."""
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
        target = dead_queue_arn(text)
    except ValueError:
        yield f"Queue {queue!r} has a redrive policy that names no dead-letter queue: {quoted(text, _SHOWN_CHARS)}"
        return
    asked = desired.dead_letters
    if target is None and asked is not None and asked.is_needed:
        yield (
            f"Queue {queue!r} should have the dead-letter queue {asked.name!r}, but has no redrive policy: set "
            f"one with a maxReceiveCount of {asked.max_receives}."
        )
    if target is not None and observed.is_dead_queue_missing:
        shown = quoted(read_object(text).get("deadLetterTargetArn"), _SHOWN_CHARS)
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
