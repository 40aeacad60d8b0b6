"""A queue's bindings as AWS acts on them: queue policies, and subscriptions with their filters.

Priorities
    A queue with priorities is a few SQS queues (:mod:`kombu_hake.amqp.priorities`). Each level above the lowest has a
    subscription of its own, with the filter of the bindings and its share of priorities; the lowest gets the rest.

Order
    The levels first, then the lowest: until its filter is narrowed, it gets everything, and nothing is lost. A queue
    that is in use waits with that for the minute that AWS may need to act on the new policies of its levels.

Where it does not fit
    Where a filter would be over AWS's limits, or an emulator lacks an operator, the priorities are left out of it: the
    messages stay on the lowest level.

Where not all bindings are known
    A tag of the queue that can't be read may be a binding to any exchange (``BindingSet.is_partial``). Then nothing
    becomes narrower: the topics that the queue's policy names stay in it, and a filter that differs from ours is
    widened to everything but its share of priorities. It could be the filter of the unreadable binding.

Where others bound what can't be done here
    A binding that another process recorded, and that AWS refuses this process, is logged: it is not a reason to fail
    the binding that this process asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    PRIORITY_ATTRIBUTE,
    SQS_ATTRIBUTES_SETTLE_S,
    BindingSet,
    ExchangeType,
    Filter,
    QueueArn,
    QueueUrl,
    TopicArn,
    allows,
    compile_filter,
    filter_json,
    level_names,
    level_shares,
    main_queue,
    named_topics,
    namespace_policy,
    narrowed,
    parse_arn,
    queue_policy,
    read_object,
    same_json,
)
from kombu_hake.aws import Clients
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, QueueNotFound, TopicNotFound, TopologyError
from kombu_hake.quoting import guarded
from kombu_hake.topology.dead_queues import DeadQueues
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.topics import Topics

__all__ = ["BELIEVE_S", "LEVEL_TAG", "Subscriptions"]

logger = guarded(logging.getLogger(__name__))
#: How long a binding that was seen is believed when it is declared again: somebody may delete and re-create the queue.
BELIEVE_S = 60.0
#: Tag of a priority level: the physical name of the queue that it belongs to.
LEVEL_TAG = "hake:level-of"


@dataclass(frozen=True)
class _Level:
    """One SQS queue that a queue's messages lie in."""

    name: str
    url: QueueUrl
    #: What a filter says of priorities; empty where there are none.
    share: tuple[dict[str, Any], ...] = ()


class Subscriptions:
    """Writes what bindings come to. Safe to share between threads; for each queue the caller is one at a time."""

    def __init__(
        self, clients: Clients, settings: Settings, queues: Queues, topics: Topics, dead_queues: DeadQueues
    ) -> None:
        self._clients = clients
        self._dead_queues = dead_queues
        #: Queue to what keeps that which SNS can't deliver to it.
        self._keepers: dict[str, QueueArn | None] = {}
        self._settings = settings
        self._queues = queues
        self._topics = topics
        #: (queue or level, exchange) to the filter that was wanted last, and until when it is believed to be there.
        self._seen: dict[tuple[str, str], tuple[str, float]] = {}
        self._said: set[tuple[str, str, str]] = set()

    def apply(self, queue: str, url: QueueUrl, wanted: BindingSet, types: Mapping[str, ExchangeType | None]) -> bool:
        """Write what differs, and whether anything did.

        Args:
            types: Of exchanges that were declared here, for topics that are yet to be made.
        """
        has_written = self.write_policy(queue, url, wanted.exchanges(), keep=wanted.is_partial)
        exchanges = frozenset(wanted.exchanges())
        self._keepers[queue] = self._dead_queues.undelivered_arn(
            queue, exchanges, lambda name, at: self.write_policy(name, at, exchanges, keep=wanted.is_partial)
        )
        main, *higher = self._levels(queue, url, wanted)
        shared: set[str] = set()
        for exchange in sorted(wanted.exchanges()) if higher else ():
            with self._skipping_refused(queue, exchange, types):
                is_shared, has_changed = self._share_out(main, higher, exchange, wanted, types.get(exchange))
                has_written |= has_changed
                shared |= {exchange} if is_shared else set()
        for level in higher:
            has_written |= self._let_in(queue, level, shared, wanted)
        if shared:
            self._await_policies(main, higher)
        for exchange in sorted(wanted.exchanges()):
            with self._skipping_refused(queue, exchange, types):
                done = self._subscribe(main, exchange, wanted, types.get(exchange)) if exchange in shared else None
                if done is None:
                    if exchange in shared:  # the levels have it already
                        self._drop(exchange, *higher)
                        self._say_flat(queue, exchange, wanted)
                    done = self._subscribe(_Level(queue, url), exchange, wanted, types.get(exchange))
                has_written |= bool(done)
        return has_written

    @contextmanager
    def _skipping_refused(self, queue: str, exchange: str, types: Mapping[str, ExchangeType | None]) -> Iterator[None]:
        """Log what AWS refuses about an exchange that this process did not ask for."""
        try:
            yield
        except (QueueNotFound, TopicNotFound):
            raise  # the caller begins again
        except (TopologyError, AccessDenied) as exc:
            if not types or exchange in types:
                raise
            if (queue, exchange, "refused") not in self._said:
                self._said.add((queue, exchange, "refused"))
                logger.warning(
                    "Queue %s has a tag that binds it to exchange %r, which can't be done here; the other bindings are "
                    "not affected: %s", queue, exchange, exc,
                )  # fmt: skip

    def write_policy(self, name: str, url: QueueUrl, exchanges: Collection[str], *, keep: bool = False) -> bool:
        """Let the topics of these exchanges, and no other by our doing, send to the queue; whether that was written.

        Args:
            keep: The topics that our statement names already stay in it.
        """
        existing = self._queues.policy(url)
        arn = self._queues.arn(url)
        new = self._policy(existing, arn, sorted(exchanges), named_topics(existing) if keep else [])
        if new is None:
            return False
        self._queues.write_policy(url, new)
        logger.info("Queue %s now lets in the topics of %s.", name, ", ".join(sorted(exchanges)) or "nobody")
        return True

    def unsubscribe(self, queue: str, url: QueueUrl, exchange: str, highest: int = 0) -> None:
        """Remove the subscriptions of a queue, and of its levels, to an exchange.

        Args:
            highest: The queue's ``x-max-priority``.
        """
        arn = self._queues.arn(url)
        levels = level_names(queue, {"x-max-priority": highest})
        higher = (str(parse_arn(arn)._replace(name=self._queues.physical(name))) for name in levels[1:])
        for name in levels:
            self._seen.pop((name, exchange), None)
        self._topics.unsubscribe(exchange, arn, *map(QueueArn, higher))

    def forget(self, queue: str | None = None) -> None:
        """Look at a queue's subscriptions anew next time; at those of all queues for None."""
        for key in [key for key in self._seen if queue in (None, main_queue(key[0]))]:
            del self._seen[key]

    def shared_exchanges(self, wanted: BindingSet) -> set[str]:
        """The exchanges whose messages are put into levels, as far as it depends on us."""
        shares = level_shares(wanted.max_priority)
        lowest = _Level("", QueueUrl(""), tuple(shares[0]) if shares else ())
        return {
            exchange
            for exchange in wanted.exchanges()
            if shares and next(self._filters(lowest, exchange, wanted), None) is not None
        }

    # --- priorities

    def _levels(self, queue: str, url: QueueUrl, wanted: BindingSet) -> list[_Level]:
        """The queue itself and its levels above, lowest first."""
        shares = level_shares(wanted.max_priority)
        # A queue that others made has no levels of ours; and those of a FIFO queue would not be FIFO.
        if not shares or self._queues.is_predefined(queue) or queue.endswith(FIFO_SUFFIX):
            return [_Level(queue, url)]
        names = level_names(queue, {"x-max-priority": wanted.max_priority})
        urls = [url, *(self._queues.url(name) for name in names[1:])]
        return [_Level(name, at, tuple(share)) for name, at, share in zip(names, urls, shares, strict=True)]

    def _share_out(
        self, main: _Level, higher: list[_Level], exchange: str, wanted: BindingSet, declared: ExchangeType | None
    ) -> tuple[bool, bool]:
        """Subscribe the higher levels to an exchange; whether that worked, and whether anything was written.

        Where it does not, messages of the exchange stay on the lowest level.
        """
        if not next(self._filters(main, exchange, wanted), None):
            self._say_flat(main.name, exchange, wanted)
            return False, False
        has_written = False
        for level in higher:
            done = self._subscribe(level, exchange, wanted, declared)
            if done is None:
                self._say_flat(main.name, exchange, wanted)
                return False, has_written
            has_written |= done
        return True, has_written

    def _let_in(self, queue: str, level: _Level, shared: set[str], wanted: BindingSet) -> bool:
        """Let the exchanges that share their messages out send to a level, and remove what is left of others."""
        before = self._queues.policy(level.url) or ""
        arn = self._queues.arn(level.url)
        for exchange in sorted(set(wanted.exchanges()) - shared):
            # The policy tells whether it was subscribed, without a call; one for the namespace does not.
            if self._settings.queue_policy == "topics" and allows(before, arn, self._topics.arn(exchange)):
                self._drop(exchange, level)
        if not all(allows(before, arn, self._topics.arn(exchange)) for exchange in shared):
            self._clients.sqs("tag_queue", QueueUrl=level.url, Tags={LEVEL_TAG: self._queues.physical(queue)})
        return self.write_policy(level.name, level.url, shared, keep=wanted.is_partial)

    def _drop(self, exchange: str, *levels: _Level) -> None:
        for level in levels:
            self._seen.pop((level.name, exchange), None)
        self._topics.unsubscribe(exchange, *(self._queues.arn(level.url) for level in levels))

    def _await_policies(self, main: _Level, higher: list[_Level]) -> None:
        """Wait until the levels take what the lowest one is about to leave to them."""
        if self._settings.is_local:
            return
        changed_ms = max(self._queues.changed_ms(level.url) for level in higher)
        is_in_use = changed_ms - self._queues.changed_ms(main.url) > SQS_ATTRIBUTES_SETTLE_S * 1000
        left_s = changed_ms / 1000 + SQS_ATTRIBUTES_SETTLE_S - self._clients.now_ms() / 1000
        if is_in_use and left_s > 0:
            logger.warning(
                "Queue %s gets priorities while it is in use: waiting %.0f s, so that AWS acts on the policies of its "
                "levels before they take over.", main.name, left_s,
            )  # fmt: skip
            time.sleep(min(left_s, SQS_ATTRIBUTES_SETTLE_S))

    def _say_flat(self, queue: str, exchange: str, wanted: BindingSet) -> None:
        if (queue, exchange, "priority") in self._said:
            return
        self._said.add((queue, exchange, "priority"))
        if self._base(exchange, wanted, wildcards=True).policy is None:
            logger.warning(
                "Queue %s gets everything of exchange %s, so what comes from there is on its lowest priority level: a "
                "filter would lose messages of others that carry no attribute at all. If there are none, set "
                "fanout_priorities=true.", queue, exchange,
            )  # fmt: skip
        else:
            logger.warning(
                "Queue %s has what comes from exchange %s on its lowest priority level: SNS takes no filter on "
                "priorities beside that of its bindings. Bind fewer keys, or use more queues.", queue, exchange,
            )  # fmt: skip

    # --- filters

    def _base(self, exchange: str, wanted: BindingSet, *, wildcards: bool) -> Filter:
        unfiltered = exchange in wanted.unfiltered
        return compile_filter(wanted.for_exchange(exchange), wildcards=wildcards, unfiltered=unfiltered)

    def _filters(self, level: _Level, exchange: str, wanted: BindingSet) -> Iterator[Filter]:
        """What to try, the narrowest first. All of them let pass what the bindings ask for, and no other priority."""
        for wildcards in (True, False):
            base = self._base(exchange, wanted, wildcards=wildcards)
            priority = {PRIORITY_ATTRIBUTE: level.share} if level.share else {}
            if level.share and base.policy is None and not self._settings.fanout_priorities:
                return
            found = narrowed(base, priority) if priority else base
            if found is not None:
                yield found
            if base.policy is None:
                return

    def _subscribe(
        self, level: _Level, exchange: str, wanted: BindingSet, declared_type: ExchangeType | None
    ) -> bool | None:
        """Subscribe, and whether a subscription was there that said something else; None where SNS takes no filter."""
        filters = list({filter_json(found): found for found in self._filters(level, exchange, wanted)}.values())
        texts = list(map(filter_json, filters))
        known, until = self._seen.get((level.name, exchange), ("", 0.0))
        if filters and known == texts[0] and time.monotonic() < until:
            return False
        arn, keeper = self._queues.arn(level.url), self._keepers.get(main_queue(level.name))
        for number, compiled in enumerate(filters):
            try:
                widened = self._widened(exchange, wanted, compiled) if wanted.is_partial else None
                has_written = self._topics.subscribe(exchange, arn, compiled, declared_type, keeper, widened)
            except TopologyError as exc:
                # A region or an emulator without an operator, or a filter that AWS finds too complex.
                if compiled.policy is None or "ilter" not in str(exc):
                    raise
                if number == len(filters) - 1 and not level.share:
                    raise
                logger.info("Exchange %s takes a wider filter for queue %s: %s", exchange, level.name, exc)
                continue
            self._seen[level.name, exchange] = texts[0], time.monotonic() + BELIEVE_S
            return has_written
        return None

    def _widened(self, exchange: str, wanted: BindingSet, compiled: Filter) -> Callable[[str], str]:
        """What becomes of a filter policy while bindings may be unknown; see the module's text."""
        policy = read_object(filter_json(compiled))
        share = {name: values for name, values in policy.items() if name == PRIORITY_ATTRIBUTE}

        def choose(found: str) -> str:
            is_ours = exchange not in wanted.unfiltered and same_json(found, filter_json(compiled))
            return found if is_ours else filter_json(Filter(share or None, exact=False))

        return choose

    def _policy(self, existing: str | None, arn: QueueArn, exchanges: list[str], kept: list[str]) -> str | None:
        topic_arns: list[TopicArn] = [self._topics.arn(exchange) for exchange in exchanges]
        # A predefined topic may be of another account or naming: a pattern of ours does not name it. Nor does it name
        # all of those that are to be kept.
        has_odd = bool(kept) or any(map(self._topics.is_predefined, exchanges))
        if self._settings.queue_policy == "topics" or not topic_arns or has_odd:
            return queue_policy(existing, arn, {*topic_arns, *kept})
        if existing is not None and all(allows(existing, arn, topic) for topic in topic_arns):
            return None
        pattern = parse_arn(topic_arns[0])._replace(name=self._settings.namer.topic_pattern())
        return namespace_policy(existing, arn, str(pattern))
