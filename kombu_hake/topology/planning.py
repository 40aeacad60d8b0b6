"""From bindings to :class:`kombu_hake.topology.desired.Desired`: names, ARNs and options put in. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kombu_hake.amqp import (
    Binding,
    BindingSet,
    ExchangeType,
    QueueArn,
    QueueUrl,
    TopicArn,
    level_names,
    level_shares,
    parse_arn,
)
from kombu_hake.config import Settings
from kombu_hake.topology.dead_queues import DeadQueues
from kombu_hake.topology.desired import Desired, Level, Undelivered
from kombu_hake.topology.diff import WritePolicy, diff
from kombu_hake.topology.observed import Memory, Observed
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.spec import binding_priority
from kombu_hake.topology.topics import Topics

__all__ = ["Planner", "drafted", "topic_pattern"]


class Planner:
    """Decides what a queue should have. Keeps no state; safe to share between threads."""

    def __init__(
        self, settings: Settings, queues: Queues, topics: Topics, dead_queues: DeadQueues, memory: Memory
    ) -> None:
        self._settings = settings
        self._queues = queues
        self._topics = topics
        self._dead_queues = dead_queues
        self._memory = memory

    def desired(
        self,
        queue: str,
        url: QueueUrl,
        bindings: BindingSet,
        *,
        removed: frozenset[Binding] = frozenset(),
        types: Mapping[str, ExchangeType | None] | None = None,
        makes: bool = False,
        resets: bool = False,
    ) -> Desired:
        """The desired state of a queue with these bindings.

        Args:
            makes: Create the undelivered queue if it is missing.
            resets: Restore what was declared where an operator has tuned it.
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
        return drafted(
            queue,
            arn,
            bindings,
            topics,
            self._settings,
            lambda name: self.sibling(arn, name),
            undelivered=name,
            removed=removed,
            is_settled=self.is_settled(url),
            types=types or {},
            resets=resets,
        )

    def policy_at_creation(self, name: str, arn: QueueArn, bindings: BindingSet) -> str | None:
        """The access policy with which a queue is created, so that the topics of its bindings may send to it at once.

        A policy that is written later acts up to a minute late.

        Args:
            name: Logical name of an SQS queue.
        """
        topics: dict[str, TopicArn] = {exchange: self._topics.arn(exchange) for exchange in bindings.exchanges()}
        pattern = topic_pattern(self._settings, topics)
        wanted = Desired(name, bindings, (Level(name, arn),), topics, topic_pattern=pattern)
        changes = diff(wanted, Observed(policies={name: None}))
        return next((change.text for change in changes if isinstance(change, WritePolicy)), None)

    def is_settled(self, url: QueueUrl) -> bool:
        """Return True if the tags of a queue, as read, lack nothing that other processes wrote."""
        return self._memory.are_tags_settled(url)

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
        return binding_priority(self._settings, queue, self._queues.arguments(queue))


def drafted(
    queue: str,
    arn: QueueArn,
    bindings: BindingSet,
    topics: Mapping[str, TopicArn],
    settings: Settings,
    sibling: Callable[[str], QueueArn],
    *,
    undelivered: str | None = None,
    removed: frozenset[Binding] = frozenset(),
    is_settled: bool = True,
    types: Mapping[str, ExchangeType | None] | None = None,
    resets: bool = False,
) -> Desired:
    """The desired state of a queue with these bindings. Pure.

    Args:
        topics: Every exchange in *bindings* and *removed*, and its topic.
        sibling: The ARN of another queue of ours, by its logical name.
        undelivered: Logical name of the queue that keeps what SNS can't deliver.
    """
    levels = [Level(queue, arn)]
    shares = level_shares(bindings.max_priority)
    if shares and binding_priority(settings, queue, {"x-max-priority": bindings.max_priority}):
        names = level_names(queue, {"x-max-priority": bindings.max_priority})
        levels = [
            Level(name, sibling(name) if name != queue else arn, tuple(share))
            for name, share in zip(names, shares, strict=True)
        ]
    return Desired(
        queue,
        bindings,
        tuple(levels),
        topics,
        removed=removed,
        is_settled=is_settled,
        topic_pattern=topic_pattern(settings, {name: topics[name] for name in bindings.exchanges()}),
        undelivered=Undelivered(undelivered, sibling(undelivered)) if undelivered is not None else None,
        fanout_priorities=settings.fanout_priorities,
        resets=resets,
        types=types or {},
    )


def topic_pattern(settings: Settings, topics: Mapping[str, TopicArn]) -> str | None:
    """The pattern of topics that a policy lets in instead of naming each one (``queue_policy=namespace``).

    None where it is to name them: a predefined topic may be of another account or naming.
    """
    if settings.queue_policy == "topics" or not topics or any(name in settings.predefined_exchanges for name in topics):
        return None
    first = parse_arn(topics[min(topics)])
    return str(first._replace(name=settings.namer.topic_pattern()))
