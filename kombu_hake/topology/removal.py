"""Delete queues and exchanges completely, without touching foreign resources."""

from __future__ import annotations

import logging

from kombu_hake.amqp import QueueArn, QueueUrl, max_priority, parse_arn
from kombu_hake.aws import Clients
from kombu_hake.exceptions import AccessDenied, QueueNotFound, TopologyError
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reconciler import Reconciler
from kombu_hake.topology.topics import Topics

__all__ = ["Remover"]

logger = guarded(logging.getLogger(__name__))


class Remover:
    """Deletes what :class:`kombu_hake.topology.topology.Topology` made. Keeps no state; safe to share between
    threads.
    """

    def __init__(self, clients: Clients, queues: Queues, topics: Topics, reconciler: Reconciler) -> None:
        self._clients = clients
        self._queues = queues
        self._topics = topics
        self._reconciler = reconciler

    def delete_queue(self, queue: str) -> None:
        """Delete a queue with its priority levels, subscriptions first; a queue that is gone is fine.

        Raises:
            QueueNotFound: it is gone, and was not known here.
        """
        url = self._queues.url(queue)
        self._queues.arn(url)  # a queue that is gone is not to be found out half way
        exchanges = self._exchanges_of(queue, url)
        highest = max_priority(self._queues.arguments(queue))
        for exchange in exchanges:
            self._reconciler.unsubscribe(queue, url, exchange, highest)
        for name in self._queues.levels(queue):
            self._delete(name)

    def _delete(self, name: str) -> None:
        try:
            self._queues.delete(name)
        except QueueNotFound as exc:
            logger.debug("A level of the queue was gone: %s", exc)

    def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange's topic, unless subscriptions that are not ours hang on it; remove ours."""
        foreign = 0
        try:
            subscriptions = list(self._topics.subscriptions(exchange))
        except TopologyError as exc:
            logger.debug("Exchange %s has nothing to delete: %s", exchange, exc)
            return
        own = parse_arn(self._topics.arn(exchange))
        for item in subscriptions:
            if item["Protocol"] != "sqs" or not self._unbind_all(exchange, QueueArn(item["Endpoint"]), own.account):
                foreign += 1
        if foreign:
            logger.warning(
                "HAKE319 Keeping the topic of exchange %s: %d external subscriptions use it.", exchange, foreign,
                extra=fields(exchange=exchange),
            )  # fmt: skip
        else:
            self._topics.delete(exchange)

    def _exchanges_of(self, queue: str, url: QueueUrl) -> set[str]:
        known = self._reconciler.known(queue)
        exchanges = set(known.exchanges()) if known is not None else set()
        try:
            found = self._reconciler.understood(queue, url, self._reconciler.tags(url))
            exchanges |= found.exchanges()
            self._queues.learn_max_priority(queue, found.max_priority)
        except AccessDenied as exc:
            logger.debug("Cannot read the tags of queue %s: %s", queue, exc)
        return exchanges

    def _unbind_all(self, exchange: str, arn: QueueArn, account: str) -> bool:
        """Remove a queue's bindings to an exchange; False when the queue is not ours."""
        where = parse_arn(arn)
        if (where.account, where.region) != (account, self._clients.region()):
            return False
        try:
            url = QueueUrl(self._clients.sqs("get_queue_url", QueueName=where.name)["QueueUrl"])
            return self._reconciler.remove(where.name, url, exchange)
        except QueueNotFound:
            self._topics.unsubscribe(exchange, arn)  # the queue is gone: the subscription is orphaned
            return True
