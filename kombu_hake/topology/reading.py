"""What AWS shows of a queue: the only place that reads policies, subscriptions and tags for the reconciler.

What is read is corrected by what this process wrote lately (:class:`kombu_hake.topology.observed.Memory`). What it saw
of subscriptions, and what AWS refused, is kept for a while, so that the next look costs less.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from kombu_hake.amqp import QueueArn, QueueUrl, SubscriptionArn, allows, level_names
from kombu_hake.aws import Clients, Once
from kombu_hake.exceptions import AccessDenied, TopicNotFound, TopologyError
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology import lookups
from kombu_hake.topology.desired import Desired
from kombu_hake.topology.observed import Memory, Observed, Subscription
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.timings import BELIEVE_S
from kombu_hake.topology.topics import Topics

__all__ = ["Reader"]

logger = guarded(logging.getLogger(__name__))
#: How long it is believed that AWS refuses a filter.
_REFUSED_S = 3600.0


class Reader:
    """Observes queues, and remembers their subscriptions. Safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        queues: Queues,
        topics: Topics,
        memory: Memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clients = clients
        self._queues = queues
        self._topics = topics
        self._memory = memory
        self._clock = clock
        self._first = Once()
        #: (queue or level, exchange) to its subscription as last seen.
        self._subscriptions: dict[tuple[str, str], Subscription] = {}
        #: What AWS refused, until when that is believed.
        self._refused: dict[tuple[str, str, str], float] = {}
        self._full: dict[str, float] = {}
        self._unkept: frozenset[SubscriptionArn] = frozenset()

    # --- policies

    def look(self, queue: str, url: QueueUrl) -> Observed:
        """Observe a queue's policy, and what AWS refused before: one request."""
        now = self._clock()
        refused = frozenset(key for key, until in list(self._refused.items()) if until > now)
        full = frozenset(exchange for exchange, until in list(self._full.items()) if until > now)
        observed = Observed(refused=refused, full=full, unkept=self._unkept)
        observed = self.policy(observed, queue, url)
        if self._queues.is_closed_to_sns(url) and self._first(("key", queue)):
            logger.warning(
                "HAKE308 Queue %s is encrypted with alias/aws/sqs, a key that SNS cannot use: messages published to "
                "its exchanges are lost. Encrypt it with SSE-SQS, or with a key of your own that allows "
                "sns.amazonaws.com.",
                queue, extra=fields(queue=queue),
            )  # fmt: skip
        return observed

    def policy(self, observed: Observed, name: str, url: QueueUrl) -> Observed:
        """Observe the policy of one more SQS queue: one request."""
        text, is_overwritten = self._memory.policy(url, self._queues.policy(url))
        overwritten = (observed.overwritten | {name}) if is_overwritten else (observed.overwritten - {name})
        return replace(observed.with_policy(name, text), overwritten=overwritten)

    def is_allowed(self, queue: str, exchange: str) -> bool:
        """Return True if the queue's policy allows the exchange's topic to send to it. One request."""
        url = self._queues.url(queue)
        policy, _ = self._memory.policy(url, self._queues.policy(url))
        return policy is not None and allows(policy, self._queues.arn(url), self._topics.arn(exchange))

    def look_at_levels(self, wanted: Desired, observed: Observed, urls: Mapping[str, QueueUrl]) -> Observed:
        """Observe what is not yet: policies of the other SQS queues in *urls*, and subscriptions that are known.

        A subscription that was not read for a while is read again.
        """
        names = [level.name for level in wanted.levels[1:]]
        if wanted.undelivered is not None and wanted.undelivered.name in urls:
            names.append(wanted.undelivered.name)
        for name in names:
            observed = self.policy(observed, name, urls[name])
        names = [level.name for level in wanted.levels]
        for key, found in list(self._subscriptions.items()):
            if key[0] not in names or key[1] not in wanted.topics:
                continue
            is_stale = self._clock() - found.read_at > BELIEVE_S and found.attributes is not None
            observed = observed.with_subscription(*key, self.reread(key, found) if is_stale else found)
        return observed

    # --- subscriptions

    def subscription(self, arn: SubscriptionArn, *, must_read: bool = False) -> Subscription:
        """Observe a subscription: one request.

        Args:
            must_read: Raise where it may not be read, instead of taking it as it is.
        Raises:
            TopicNotFound: it is gone.
            AccessDenied: it may not be read.
        """
        try:
            shown = lookups.subscription(self._clients, arn)
        except AccessDenied as exc:
            if must_read:
                raise
            logger.debug("Subscription %s is taken as it is: %s", arn, exc)
            return Subscription(arn, None, self._memory.now())
        return Subscription(arn, self._memory.attributes(arn, shown), self._memory.now())

    def find(self, queue: str, arn: QueueArn, exchange: str) -> Subscription | None:
        """A queue's subscription as it is now, or was less than a minute ago; None where it can't be found or read.

        One that is not known here is looked up by subscribing without attributes. If that makes it, it wraps messages,
        and shows by this that it was not there.
        """
        key = (queue, exchange)
        found = self._subscriptions.get(key)
        if found is not None and self._clock() - found.read_at > BELIEVE_S:
            found = self.reread(key, found)
        try:
            if found is None:
                found = self._subscriptions[key] = self.subscription(self._topics.find_subscription(exchange, arn))
        except (TopologyError, AccessDenied) as exc:
            logger.debug("The subscription of queue %s to exchange %s is not found: %s", queue, exchange, exc)
        return found

    def reread(self, key: tuple[str, str], found: Subscription) -> Subscription | None:
        """Read a subscription again; None where it is gone.

        Args:
            key: (logical name of an SQS queue, exchange).
        """
        try:
            again = self.subscription(found.arn)
        except TopicNotFound:
            self._subscriptions.pop(key, None)
            return None
        self._subscriptions[key] = again
        return again

    def keeps_undelivered(self, queues: Iterable[str], exchanges: Iterable[str]) -> bool:
        """Return True if each subscription of these SQS queues to these exchanges showed a redrive policy. No call."""
        found = [self._subscriptions.get((queue, exchange)) for queue in queues for exchange in exchanges]
        return bool(found) and all(one is not None and (one.attributes or {}).get("RedrivePolicy") for one in found)

    def evict(self, queue: str, exchange: str) -> Subscription | None:
        """Remove what is known of a subscription that the caller removes; None for nothing."""
        return self._subscriptions.pop((queue, exchange), None)

    def distrust(self, queues: Iterable[str], *, readable_only: bool = False) -> None:
        """Have the known subscriptions of these SQS queues read again by the next look.

        Args:
            readable_only: Leave out those that may not be read.
        """
        names = set(queues)
        for key, found in list(self._subscriptions.items()):
            if key[0] in names and not (readable_only and found.attributes is None):
                self._subscriptions[key] = replace(found, read_at=float("-inf"))

    def remember(self, before: Observed, observed: Observed) -> None:
        """Record what a change showed: subscriptions, and what AWS refused."""
        until = self._clock() + _REFUSED_S
        self._refused |= dict.fromkeys(observed.refused - before.refused, until)
        self._full |= dict.fromkeys(observed.full - before.full, until)
        self._unkept = observed.unkept
        if observed.subscriptions != before.subscriptions:
            for key in set(before.subscriptions) - set(observed.subscriptions):
                self._subscriptions.pop(key, None)
            self._subscriptions |= observed.subscriptions

    def forget(self, queue: str) -> None:
        """Forget a queue: another one has its name now."""
        names = level_names(queue, {"x-max-priority": 3})
        for key in [key for key in list(self._subscriptions) if key[0] in names]:
            self._subscriptions.pop(key, None)

    # --- tags

    def tags(self, url: QueueUrl) -> dict[str, str]:
        """All tags of a queue: as AWS shows them, corrected by what this process wrote lately. One request."""
        return self._memory.tags(url, lookups.tags(self._clients, url))
