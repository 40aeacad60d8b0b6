"""Delete queues and exchanges completely, without touching foreign resources."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from kombu_hake.amqp import (
    BindingSet,
    QueueArn,
    QueueUrl,
    SubscriptionArn,
    from_tags,
    level_shares,
    main_queue,
    overflow_tags,
    parse_arn,
    to_tags,
)
from kombu_hake.aws import Clients
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, QueueNotFound, TopologyError
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology import lookups
from kombu_hake.topology.apply import Applier
from kombu_hake.topology.desired import Desired, Level, filters
from kombu_hake.topology.diff import diff
from kombu_hake.topology.knowledge import Knowledge
from kombu_hake.topology.observed import Observed, Subscription
from kombu_hake.topology.planning import Planner
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.reconciler import Reconciler
from kombu_hake.topology.spec import LEVEL_TAG
from kombu_hake.topology.topics import Topics

__all__ = ["Remover"]

logger = guarded(logging.getLogger(__name__))


class Remover:
    """Deletes what :class:`kombu_hake.topology.topology.Topology` made. Keeps no state; safe to share between
    threads.
    """

    def __init__(
        self,
        clients: Clients,
        settings: Settings,
        queues: Queues,
        topics: Topics,
        reader: Reader,
        planner: Planner,
        knowledge: Knowledge,
        applier: Applier,
        reconciler: Reconciler,
    ) -> None:
        self._clients = clients
        self._settings = settings
        self._queues = queues
        self._topics = topics
        self._reader = reader
        self._planner = planner
        self._knowledge = knowledge
        self._applier = applier
        self._reconciler = reconciler

    # --- queues

    def delete_queue(self, queue: str) -> None:
        """Delete a queue with its priority levels, subscriptions first; a queue that is gone is fine.

        Raises:
            QueueNotFound: it is gone, and was not known here.
        """
        url = self._queues.url(queue)
        arn = self._queues.arn(url)  # a queue that is gone is not to be found out half way
        exchanges = self._exchanges_of(queue, url)
        names = self._queues.levels(queue)
        for exchange in exchanges:
            self._unsubscribe(names, arn, exchange)
        for name in names:
            self._delete(name)

    def _unsubscribe(self, names: list[str], arn: QueueArn, exchange: str) -> None:
        """Remove the subscriptions of a queue and its levels to an exchange; those that are known without a list."""
        unknown: list[QueueArn] = []
        for name in names:
            found = self._reader.evict(name, exchange)
            if found is not None:
                self._topics.unsubscribe_arn(exchange, found.arn)
            else:
                unknown.append(self._planner.sibling(arn, name))
        if unknown:
            self._topics.unsubscribe(exchange, *unknown)

    def _delete(self, name: str) -> None:
        try:
            self._queues.delete(name)
        except QueueNotFound as exc:
            logger.debug("A level of the queue was gone: %s", exc)

    def _exchanges_of(self, queue: str, url: QueueUrl) -> set[str]:
        known = self._knowledge.known(queue)
        exchanges = set(known.exchanges()) if known is not None else set()
        try:
            found = self._knowledge.understood(queue, url, self._reader.tags(url))
            exchanges |= found.exchanges()
            self._queues.learn_max_priority(queue, found.max_priority)
        except AccessDenied as exc:
            logger.debug("The tags of queue %s can't be read: %s", queue, exc)
        return exchanges

    # --- exchanges

    def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange's topic, unless foreign subscriptions use it; remove ours."""
        foreign = 0
        try:
            subscriptions = list(self._topics.subscriptions(exchange))
        except TopologyError as exc:
            logger.debug("Exchange %s has nothing to delete: %s", exchange, exc)
            return
        for item in subscriptions:
            if item["Protocol"] != "sqs" or not self._unbind_all(exchange, item):
                foreign += 1
        if foreign:
            logger.warning(
                "HAKE319 Keeping the topic of exchange %s: %d external subscriptions use it.", exchange, foreign,
                extra=fields(exchange=exchange),
            )  # fmt: skip
        else:
            self._topics.delete(exchange)

    def _unbind_all(self, exchange: str, item: Mapping[str, str]) -> bool:
        """Remove a queue's bindings to an exchange; False when the queue is not ours.

        Args:
            item: Its subscription, as SNS lists it.
        """
        arn, own = QueueArn(item["Endpoint"]), parse_arn(self._topics.arn(exchange))
        where = parse_arn(arn)
        if (where.account, where.region) != (own.account, self._clients.region()):
            return False
        try:
            url = lookups.queue_url(self._clients, where.name)
            tags = self._reader.tags(url)
            left, keys = self._without(exchange, tags)
            if left is None:
                return False
            self._converge(where.name, url, arn, exchange, SubscriptionArn(item["SubscriptionArn"]), left)
            if keys:
                self._applier.untag(url, keys)
        except QueueNotFound:
            self._topics.unsubscribe(exchange, arn)  # the queue is gone: an orphan of ours or of no one
            return True
        self._learn(url, left if LEVEL_TAG not in tags else None)
        return True

    def _without(self, exchange: str, tags: Mapping[str, str]) -> tuple[BindingSet | None, list[str]]:
        """The bindings that a queue keeps, None for a queue that is not ours; and the tags to remove."""
        if LEVEL_TAG in tags:
            return self._of_level(exchange, tags[LEVEL_TAG]), []
        found = from_tags(tags)
        keys = [key for binding in found.for_exchange(exchange) for key in to_tags(binding)]
        keys += list(overflow_tags(exchange, "fanout")) if exchange in found.unfiltered else []
        return from_tags({key: value for key, value in tags.items() if key not in keys}) if keys else None, keys

    def _of_level(self, exchange: str, main: str) -> BindingSet:
        """What a priority level keeps, which has no bindings of its own: the exchanges that share into levels."""
        try:
            main_url = lookups.queue_url(self._clients, main)
            bindings = from_tags(self._reader.tags(main_url))
        except QueueNotFound:
            bindings = BindingSet()
        shares, fanout = level_shares(bindings.max_priority), self._settings.fanout_priorities
        left = {
            name
            for name in bindings.exchanges() - {exchange}
            if shares and filters(bindings, name, tuple(shares[0]), fanout_priorities=fanout)
        }
        return BindingSet(unfiltered=frozenset(left))

    def _converge(
        self, name: str, url: QueueUrl, arn: QueueArn, exchange: str, subscription: SubscriptionArn, left: BindingSet
    ) -> None:
        """Make the difference of a queue by its physical name, as far as it concerns the deleted exchange."""
        self._queues.arn(url)
        planned = self._planner.desired(name, url, left)
        wanted = Desired(
            name,
            left,
            (Level(name, arn),),
            {**planned.topics, exchange: self._topics.arn(exchange)},
            deleted=frozenset({exchange}),
            is_settled=planned.is_settled,
            topic_pattern=planned.topic_pattern,
        )
        observed: Observed = replace(self._reader.look(name, url), skipped=left.exchanges())
        if subscription.startswith("arn:"):
            observed = observed.with_subscription(name, exchange, Subscription(subscription, None))
        for change in diff(wanted, observed):
            observed = self._applier.apply(change, wanted, observed, {name: url})

    def _learn(self, url: QueueUrl, left: BindingSet | None) -> None:
        name = self._queues.name_of(url)
        if name is not None:
            self._reconciler.forget(main_queue(name))
            if left is not None:
                self._knowledge.learn(name, left)
