"""Takes the difference between what a queue should have and what AWS shows, and applies it until there is none.

:func:`kombu_hake.topology.diff.diff` alone decides what to change. What AWS refuses becomes part of what is observed,
and so leads to another difference.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from kombu_hake.amqp import SQS_QUEUE_RECREATE_S, Binding, BindingSet, ExchangeType, QueueUrl
from kombu_hake.aws import Clients, Once
from kombu_hake.exceptions import (
    AccessDenied,
    DeclarationMismatch,
    QueueNotFound,
    QuotaExceeded,
    TopicNotFound,
    TopologyError,
)
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.dead_queues import DeadQueues
from kombu_hake.topology.desired import Desired, base_filter
from kombu_hake.topology.diff import (
    Change,
    SetAttribute,
    Subscribe,
    TagLevel,
    Unsubscribe,
    WritePolicy,
    diff,
    flat_exchanges,
    redrive_policy,
    unfiltered_exchanges,
)
from kombu_hake.topology.observed import Memory, Observed
from kombu_hake.topology.planning import Planner
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.spec import LEVEL_TAG
from kombu_hake.topology.timings import Timings
from kombu_hake.topology.topics import Topics

__all__ = ["Applier", "Outcome"]

logger = guarded(logging.getLogger(__name__))
#: Differences taken in one go: each but the first because AWS refused something.
_MAX_STEPS = 12
_EVERYTHING = "{}"


class Outcome(NamedTuple):
    """What came of it."""

    #: Something was changed that was there.
    wrote: bool
    #: The queue still receives more than it should, because tags may be late.
    is_wider: bool
    #: What was denied of what the queue works without.
    denied: tuple[AccessDenied, ...] = ()


class Applier:
    """Brings queues to what is desired. Safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        queues: Queues,
        topics: Topics,
        dead_queues: DeadQueues,
        memory: Memory,
        reader: Reader,
        planner: Planner,
        chores: Chores,
        timings: Timings,
        explained: Callable[[str, str, TopologyError], TopologyError],
        recheck: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            explained: As :meth:`kombu_hake.topology.sizes.TopicSizes.explained`.
            recheck: Brings a queue to what its tags say; called in the background.
        """
        self._clients = clients
        self._queues = queues
        self._topics = topics
        self._dead_queues = dead_queues
        self._memory = memory
        self._reader = reader
        self._planner = planner
        self._chores = chores
        self._timings = timings
        self._explained = explained
        self._recheck = recheck
        self._clock = clock
        self._first = Once()

    def look(self, wanted: Desired, observed: Observed, urls: Mapping[str, QueueUrl]) -> Observed:
        """Observe all that the difference of a queue needs; its own policy was observed."""
        observed = self._reader.look_at_levels(wanted, observed, urls)
        return replace(observed, is_level_new=self._is_level_new(wanted, urls))

    def converge(
        self,
        queue: str,
        url: QueueUrl,
        bindings: BindingSet,
        types: Mapping[str, ExchangeType | None],
        removed: frozenset[Binding],
        observed: Observed | None,
        *,
        resets: bool = False,
    ) -> Outcome:
        """Take the difference and apply it until there is none."""
        makes = not self._reader.keeps_undelivered(self._queues.levels(queue), bindings.exchanges())
        wanted = self._planner.desired(queue, url, bindings, removed=removed, types=types, makes=makes, resets=resets)
        urls = self._planner.urls(wanted)
        observed = self.look(wanted, observed or self._reader.look(queue, url), urls)
        if resets:
            observed = replace(observed, unkept=frozenset())  # the right may have been granted
        started = self._clock()
        is_reread: set[tuple[str, str]] = set()
        wrote = False
        for _ in range(_MAX_STEPS):
            changes = diff(wanted, observed)
            stale = {
                (change.queue, change.exchange)
                for change in changes
                if isinstance(change, SetAttribute) and (change.queue, change.exchange) not in is_reread
                and observed.subscriptions[change.queue, change.exchange].read_at < started
            }  # fmt: skip
            for key in stale:  # what is written is decided on what AWS shows now
                observed = observed.with_subscription(*key, self._reader.reread(key, observed.subscriptions[key]))
            is_reread |= stale
            if stale:
                continue
            if not changes:
                break
            observed, has_changed = self._apply_all(changes, wanted, observed, urls, types)
            wrote |= has_changed
            if wanted.undelivered is not None and self._dead_queues.undelivered_name(queue) is None:
                wanted = replace(wanted, undelivered=None)
        if wanted.undelivered is not None:
            self._dead_queues.has_allowed(queue, bindings.exchanges())
        elif bindings.exchanges() and self._dead_queues.undelivered_name(queue) is not None:
            self._chores.after(SQS_QUEUE_RECREATE_S + 1, ("undelivered", queue), lambda: self._recheck(queue))
        self._log_what_does_not_fit(wanted, observed)
        is_wider = not wanted.is_settled and bool(diff(replace(wanted, is_settled=True), observed))
        return Outcome(wrote, is_wider, observed.denied)

    def _apply_all(
        self,
        changes: list[Change],
        wanted: Desired,
        observed: Observed,
        urls: Mapping[str, QueueUrl],
        types: Mapping[str, ExchangeType | None],
    ) -> tuple[Observed, bool]:
        """Apply changes up to the first that AWS refuses, because what follows may be other than that then."""
        wrote = False
        for change in changes:
            before = observed
            exchange = getattr(change, "exchange", "")
            try:
                observed = self.apply(change, wanted, observed, urls)
            except (QueueNotFound, TopicNotFound):
                raise  # the caller begins again
            except (TopologyError, AccessDenied) as exc:
                if isinstance(exc, AccessDenied) and wanted.undelivered is not None and (
                    getattr(change, "queue", "") == wanted.undelivered.name
                ):  # fmt: skip
                    self._dead_queues.cannot_keep(wanted.queue, exc)
                    return replace(observed, denied=(*observed.denied, exc)), wrote
                if not exchange or not types or exchange in types:
                    raise
                if self._first(("refused", wanted.queue, exchange)):
                    logger.warning(
                        "HAKE304 A tag of queue %s records a binding to exchange %r that cannot be made here; the "
                        "other bindings are not affected: %s",
                        wanted.queue, exchange, exc, extra=fields(queue=wanted.queue, exchange=exchange),
                    )  # fmt: skip
                observed = replace(observed, skipped=observed.skipped | {exchange})
                continue
            self._reader.remember(before, observed)
            if observed.refused != before.refused or observed.full != before.full:
                return observed, wrote
            wrote |= not isinstance(change, Subscribe) or _was_other(observed, change)
        return observed, wrote

    def _is_level_new(self, wanted: Desired, urls: Mapping[str, QueueUrl]) -> bool:
        """Return True while new levels of a queue in use may not be able to receive what the lowest one leaves them."""
        settle_s = self._timings.attributes_s
        if len(wanted.levels) == 1 or not settle_s:
            return False
        changed_ms = max(self._queues.changed_ms(urls[level.name]) for level in wanted.levels[1:])
        is_in_use = changed_ms - self._queues.changed_ms(urls[wanted.queue]) > settle_s * 1000
        left_s = changed_ms / 1000 + settle_s - self._clients.now_ms() / 1000
        if not is_in_use or left_s <= 0:
            return False
        if self._first(("levels", wanted.queue, str(changed_ms))):
            logger.warning(
                "HAKE306 Queue %s is given priorities while it is in use: its levels take over in %.0f s, when AWS "
                "applies their policies. Until then the lowest level receives everything.",
                wanted.queue, left_s, extra=fields(queue=wanted.queue),
            )  # fmt: skip
        self._chores.after(left_s + 1, ("levels", wanted.queue), lambda: self._recheck(wanted.queue))
        return True

    def _log_what_does_not_fit(self, wanted: Desired, observed: Observed) -> None:
        for exchange in flat_exchanges(wanted, observed):
            if not self._first(("priority", wanted.queue, exchange)):
                continue
            if base_filter(wanted.bindings, exchange).policy is None:
                logger.warning(
                    "HAKE311 Queue %s receives everything from exchange %s, so messages from there go to its lowest "
                    "priority level: a filter would lose messages of other publishers that carry no attributes at "
                    "all. If there are no such publishers, set fanout_priorities=true.",
                    wanted.queue, exchange, extra=fields(queue=wanted.queue, exchange=exchange),
                )  # fmt: skip
            else:
                logger.warning(
                    "HAKE312 Queue %s receives messages from exchange %s on its lowest priority level: SNS accepts no "
                    "filter on priorities in addition to that of the bindings. Bind fewer keys, or use more queues.",
                    wanted.queue, exchange, extra=fields(queue=wanted.queue, exchange=exchange),
                )  # fmt: skip
        for exchange in unfiltered_exchanges(wanted, observed):
            if self._first(("full", wanted.queue, exchange)):
                logger.warning(
                    "HAKE309 The topic of exchange %s has as many filtered subscriptions as AWS allows, so queue %s "
                    "receives everything published to it, and its consumers drop what no binding matches. Use more "
                    "exchanges, or request a higher quota from AWS.",
                    exchange, wanted.queue, extra=fields(queue=wanted.queue, exchange=exchange),
                )  # fmt: skip

    # --- one change

    def tag(self, url: QueueUrl, tags: Mapping[str, str]) -> None:
        """Set tags of a queue. One request."""
        self._clients.sqs("tag_queue", QueueUrl=url, Tags=dict(tags))
        self._memory.tags_written(url, tags)

    def untag(self, url: QueueUrl, keys: list[str]) -> None:
        """Remove tags of a queue. One request."""
        self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=keys)
        self._memory.tags_written(url, dict.fromkeys(keys))

    def apply(self, change: Change, desired: Desired, observed: Observed, urls: Mapping[str, QueueUrl]) -> Observed:
        """Make one change; what is observed then. What AWS does not take is part of it.

        Args:
            urls: Logical name of an SQS queue to its URL.
        Raises:
            AccessDenied, TopologyError: it can't be made.
            QueueNotFound, TopicNotFound: the queue, or its subscription, was deleted meanwhile.
        """
        logger.debug("Queue %s: %s: %s", desired.queue, type(change).__name__, change.reason)
        match change:
            case WritePolicy(queue=name, text=text):
                self._queues.write_policy(urls[name], text)
                self._memory.policy_written(urls[name], text)
                logger.info("Wrote the policy of queue %s. The reason: %s", name, change.reason)
                return replace(observed.with_policy(name, text), overwritten=observed.overwritten - {name})
            case TagLevel(queue=name):
                tags = {LEVEL_TAG: self._queues.physical(change.main)}
                self._clients.sqs("tag_queue", QueueUrl=urls[name], Tags=tags)
                return observed
            case Unsubscribe(queue=name, exchange=exchange):
                if change.subscription is not None:
                    self._topics.unsubscribe_arn(exchange, change.subscription)
                else:
                    self._topics.unsubscribe(exchange, change.arn)
                observed = observed.with_subscription(name, exchange, None)
                return replace(observed, absent=observed.absent | {(name, exchange)})
            case Subscribe():
                return self._subscribe(change, desired, observed)
            case SetAttribute():
                return self._set(change, observed)

    def _subscribe(self, change: Subscribe, desired: Desired, observed: Observed) -> Observed:
        attributes = {"RawMessageDelivery": "true"}
        if change.filter != _EVERYTHING:
            attributes["FilterPolicy"] = change.filter
        if desired.undelivered is not None:
            attributes["RedrivePolicy"] = redrive_policy(desired.undelivered)
        exchange, declared = change.exchange, desired.types.get(change.exchange)
        try:
            arn = self._topics.subscribe(exchange, change.arn, attributes, declared)
        except DeclarationMismatch:
            arn = self._topics.subscribe(exchange, change.arn, {}, declared)
        except TopologyError as exc:
            return self._refused(change, change.filter, exc, observed)
        return observed.with_subscription(change.queue, exchange, self._reader.subscription(arn))

    def _set(self, change: SetAttribute, observed: Observed) -> Observed:
        found = observed.subscriptions[change.queue, change.exchange]
        try:
            self._topics.set_attribute(change.subscription, change.name, change.value)
        except AccessDenied as exc:
            if change.name != "RedrivePolicy":
                raise
            logger.warning(
                "HAKE409 Messages that SNS cannot deliver through %s are not kept: %s", change.subscription, exc,
                extra=fields(queue=change.queue, exchange=change.exchange),
            )  # fmt: skip
            unkept = observed.unkept | {change.subscription}
            return replace(observed, unkept=unkept, denied=(*observed.denied, exc))
        except TopologyError as exc:
            if change.name != "FilterPolicy":
                raise
            return self._refused(change, change.value, exc, observed)
        self._memory.attribute_written(change.subscription, change.name, change.value)
        attributes = {**(found.attributes or {}), change.name: change.value}
        return observed.with_subscription(change.queue, change.exchange, replace(found, attributes=attributes))

    def _refused(self, change: Subscribe | SetAttribute, text: str, exc: TopologyError, observed: Observed) -> Observed:
        """What is observed when AWS does not take a filter policy; raises what has another reason."""
        if isinstance(exc, TopicNotFound):
            raise exc
        if text == _EVERYTHING or "ilter" not in str(exc):
            raise self._explained(change.queue, change.exchange, exc) if isinstance(change, Subscribe) else exc
        if isinstance(exc, QuotaExceeded) and change.exchange not in observed.full:
            return replace(observed, full=observed.full | {change.exchange})
        logger.info("Exchange %s takes a wider filter for queue %s: %s", change.exchange, change.queue, exc)
        return replace(observed, refused=observed.refused | {(change.queue, change.exchange, text)})


def _was_other(observed: Observed, change: Subscribe) -> bool:
    """Return True if a subscription existed before, with another filter."""
    found = observed.subscriptions.get((change.queue, change.exchange))
    return found is not None and found.attributes is not None and (
        (found.attributes.get("FilterPolicy") or "{}") != change.filter
    )  # fmt: skip
