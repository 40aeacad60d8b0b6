"""Makes the changes that :func:`kombu_hake.topology.diff.diff` decided. Decides nothing itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from kombu_hake.amqp import QueueUrl
from kombu_hake.aws import Clients
from kombu_hake.exceptions import AccessDenied, DeclarationMismatch, QuotaExceeded, TopicNotFound, TopologyError
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.desired import Desired
from kombu_hake.topology.diff import (
    Change,
    SetAttribute,
    Subscribe,
    TagLevel,
    Unsubscribe,
    WritePolicy,
    redrive_policy,
)
from kombu_hake.topology.observed import Memory, Observed
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.spec import LEVEL_TAG
from kombu_hake.topology.topics import Topics

__all__ = ["Applier"]

logger = guarded(logging.getLogger(__name__))
_EVERYTHING = "{}"


class Applier:
    """Writes to AWS for the reconciler. Keeps no state; safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        queues: Queues,
        topics: Topics,
        memory: Memory,
        reader: Reader,
        explained: Callable[[str, str, TopologyError], TopologyError],
    ) -> None:
        """*explained*: as :meth:`kombu_hake.topology.sizes.TopicSizes.explained`."""
        self._explained = explained
        self._reader = reader
        self._clients = clients
        self._queues = queues
        self._topics = topics
        self._memory = memory

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
            return replace(observed, unkept=observed.unkept | {change.subscription})
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
        if isinstance(exc, QuotaExceeded):
            return replace(observed, full=observed.full | {change.exchange})
        logger.info("Exchange %s takes a wider filter for queue %s: %s", change.exchange, change.queue, exc)
        return replace(observed, refused=observed.refused | {(change.queue, change.exchange, text)})
