"""From bindings to :class:`kombu_hake.topology.desired.Desired`: names, ARNs and options put in. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    Binding,
    BindingSet,
    ExchangeType,
    QueueArn,
    QueueUrl,
    TopicArn,
    level_names,
    level_shares,
    max_priority,
    parse_arn,
)
from kombu_hake.config import Settings
from kombu_hake.topology.dead_queues import DeadQueues
from kombu_hake.topology.desired import Desired, Level, Undelivered
from kombu_hake.topology.diff import WritePolicy, diff
from kombu_hake.topology.observed import Memory, Observed
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.timings import Timings
from kombu_hake.topology.topics import Topics

__all__ = ["Planner"]


class Planner:
    """Says what a queue is to have. Keeps no state; safe to share between threads."""

    def __init__(
        self, settings: Settings, queues: Queues, topics: Topics, dead_queues: DeadQueues, memory: Memory,
        timings: Timings,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._queues = queues
        self._topics = topics
        self._dead_queues = dead_queues
        self._memory = memory
        self._timings = timings

    def desired(
        self,
        queue: str,
        url: QueueUrl,
        bindings: BindingSet,
        *,
        removed: frozenset[Binding] = frozenset(),
        types: Mapping[str, ExchangeType | None] | None = None,
        makes: bool = False,
    ) -> Desired:
        """What bindings come to.

        Args:
            makes: Make the queue for what SNS can't deliver, if need be.
        """
        exchanges = bindings.exchanges() | {binding.exchange for binding in removed}
        topics: dict[str, TopicArn] = {exchange: self._topics.arn(exchange) for exchange in exchanges}
        arn = self._queues.arn(url)
        name = None
        if bindings.exchanges():
            name = self._dead_queues.undelivered_name(queue)
            if makes:
                name = self._dead_queues.make_undelivered(
                    queue, bindings.exchanges(), lambda name, arn: self.policy_at_creation(name, arn, bindings)
                )
        return Desired(
            queue,
            bindings,
            tuple(self._levels(queue, url, bindings)),
            topics,
            removed=removed,
            is_settled=self.is_settled(url),
            topic_pattern=self._pattern(bindings, arn),
            undelivered=Undelivered(name, self.sibling(arn, name)) if name is not None else None,
            fanout_priorities=self._settings.fanout_priorities,
            types=types or {},
        )

    def policy_at_creation(self, name: str, arn: QueueArn, bindings: BindingSet) -> str | None:
        """The access policy with which a queue is created, so that the topics of its bindings may send to it at once.

        A policy that is written later acts up to a minute late.

        Args:
            name: Logical name of an SQS queue.
        """
        wanted = Desired(
            name,
            bindings,
            (Level(name, arn),),
            {exchange: self._topics.arn(exchange) for exchange in bindings.exchanges()},
            topic_pattern=self._pattern(bindings, arn),
        )
        changes = diff(wanted, Observed(policies={name: None}))
        return next((change.text for change in changes if isinstance(change, WritePolicy)), None)

    def is_settled(self, url: QueueUrl) -> bool:
        """Whether the tags of a queue, as read, lack nothing that others wrote."""
        return not self._timings.tags_s or self._memory.are_tags_settled(url)

    def sibling(self, arn: QueueArn, name: str) -> QueueArn:
        """The ARN of another queue of ours, by its logical name."""
        return QueueArn(str(parse_arn(arn)._replace(name=self._queues.physical(name))))

    def urls(self, wanted: Desired) -> dict[str, QueueUrl]:
        """Logical name to URL of every SQS queue whose policy may have to be written."""
        urls = {level.name: self._queues.url(level.name) for level in wanted.levels}
        if wanted.undelivered is not None and self._dead_queues.has_to_allow(wanted.queue, wanted.bindings.exchanges()):
            urls[wanted.undelivered.name] = self._queues.url(wanted.undelivered.name)
        return urls

    def declared_priority(self, queue: str) -> int:
        """The queue's ``x-max-priority``, where it has levels of ours for that."""
        if queue.endswith(FIFO_SUFFIX) or self._queues.is_predefined(queue):
            return 0
        return max_priority(self._queues.arguments(queue))

    def _pattern(self, bindings: BindingSet, arn: QueueArn) -> str | None:
        exchanges = sorted(bindings.exchanges())
        if self._settings.queue_policy == "topics" or not exchanges or any(map(self._topics.is_predefined, exchanges)):
            return None
        topic = parse_arn(self._topics.arn(exchanges[0]))
        return str(topic._replace(name=self._settings.namer.topic_pattern()))

    def _levels(self, queue: str, url: QueueUrl, bindings: BindingSet) -> list[Level]:
        """The queue itself and its levels above, lowest first."""
        shares = level_shares(bindings.max_priority)
        # A queue that others made has no levels of ours; and those of a FIFO queue would not be FIFO.
        if not shares or self._queues.is_predefined(queue) or queue.endswith(FIFO_SUFFIX):
            return [Level(queue, self._queues.arn(url))]
        names = level_names(queue, {"x-max-priority": bindings.max_priority})
        arns = [self.sibling(self._queues.arn(url), name) for name in names]
        return [Level(name, arn, tuple(share)) for name, arn, share in zip(names, arns, shares, strict=True)]
