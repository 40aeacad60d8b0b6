"""The bindings of queues as they are in AWS: tags, queue policies, subscriptions. The one who knows them.

Where the set of bindings lives
    With the queue, as one tag a binding. SQS and SNS offer no compare-and-set, so "read, merge, write" of a policy
    loses one of two concurrent declares; adding a tag does not. Whoever binds adds its tag first, then compiles policy
    and filters from *all* tags and writes what differs. Whoever wrote something reads the tags again, until they stay
    as they were. So the last of several writers has seen every tag; and who wrote nothing has overwritten nobody.

Order
    Tag, queue policy, subscription: a message that SNS accepted is never refused by the queue. Policy and subscription
    are :mod:`kombu_hake.topology.subscriptions`'s.

Cost
    A queue that is bound already, once a process: ListQueueTags, GetQueueAttributes, and for each exchange Subscribe
    and GetSubscriptionAttributes. A binding that this process applied less than a minute ago costs nothing.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    MAX_BINDING_TAGS,
    MAX_PRIORITY_TAG,
    TAG_PREFIX,
    Binding,
    BindingSet,
    ExchangeType,
    QueueUrl,
    allows,
    excerpt,
    from_tags,
    max_priority,
    overflow_tags,
    to_tags,
)
from kombu_hake.aws import Clients, SingleFlight, TtlCache
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, HakeError, InvalidName, QueueNotFound
from kombu_hake.quoting import guarded
from kombu_hake.topology.dead_queues import DeadQueues
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.subscriptions import BELIEVE_S, LEVEL_TAG, Subscriptions
from kombu_hake.topology.topics import Topics

__all__ = ["Binder"]

logger = guarded(logging.getLogger(__name__))
#: Two declarers that keep on changing one queue at once; each round is a handful of calls.
_MAX_ROUNDS = 8
#: How often the bindings of a queue are read again because a message matches none that are known.
_REREAD_S = 2.0
#: Of queues whose damaged tags were logged; more are logged again.
_MOST_DAMAGED = 1_000


class Binder:
    """Binds and unbinds queues of ours. Safe to share between threads."""

    def __init__(
        self, clients: Clients, settings: Settings, queues: Queues, topics: Topics, dead_queues: DeadQueues
    ) -> None:
        self._clients = clients
        self._namer = settings.namer
        #: Queue to the keys of its tags that can't be read, as last logged.
        self._damaged: dict[str, frozenset[str]] = {}
        self._queues = queues
        self._topics = topics
        self._subscriptions = Subscriptions(clients, settings, queues, topics, dead_queues)
        self._flights = SingleFlight()
        self._applied: dict[str, BindingSet] = {}
        self._applied_at: dict[str, float] = {}
        self._reread: TtlCache[str, tuple[BindingSet | None, int]] = TtlCache(_REREAD_S)

    def bind(self, queue: str, binding: Binding, declared_type: ExchangeType | None) -> None:
        """Let the queue have what the binding says.

        Args:
            declared_type: What the exchange was declared as here; None if it was not.
        Raises:
            AccessDenied: some of it, or reading whether it is there, is denied.
        """
        if self._is_applied(queue, binding):
            return
        with self._flights(queue):
            if not self._is_applied(queue, binding):
                url = self._queues.url(queue)
                found = self.tags(url)
                current = self.understood(queue, url, found)
                is_recorded = binding in current.bindings or binding.exchange in current.unfiltered
                new = {} if is_recorded else self._binding_tags(queue, found, binding)
                new |= self._priority_tag(queue, current)
                if new:
                    self._clients.sqs("tag_queue", QueueUrl=url, Tags=new)
                tags = None if new else found
                try:
                    self._apply_until_stable(queue, url, tags=tags, with_=binding, declared_type=declared_type)
                except AccessDenied:
                    if not is_recorded:
                        self._take_back(queue, url, binding, current)
                    raise

    def _take_back(self, queue: str, url: QueueUrl, binding: Binding, before: BindingSet) -> None:
        """Undo a binding whose last step was denied: its tag and policy would look like evidence that it is there."""
        try:
            # The policy first: it is what a later bind that is denied goes by.
            self._subscriptions.write_policy(queue, url, before.exchanges(), keep=before.is_partial)
            self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=list(to_tags(binding)))
        except HakeError as exc:
            logger.warning("Queue %s keeps traces of a binding that could not be made: %s", queue, exc)

    def unbind(self, queue: str, binding: Binding) -> None:
        """Undo :meth:`bind`; a binding that is not there is fine."""
        with self._flights(queue):
            url = self._queues.url(queue)
            keys = [key for key in to_tags(binding) if key in self.tags(url)]
            if keys:
                self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=keys)
            self._applied.pop(queue, None)
            wanted = self._apply_until_stable(queue, url, without=binding)
            # A binding that can't be read may be to this exchange: then the subscription stays.
            if binding.exchange not in wanted.exchanges() and not wanted.is_partial:
                self.unsubscribe(queue, url, binding.exchange, wanted.max_priority)

    def bind_all(self, queue: str, unfiltered: str, exchange_type: ExchangeType) -> None:
        """Let the queue have everything of an exchange."""
        url = self._queues.url(queue)
        self._clients.sqs("tag_queue", QueueUrl=url, Tags=overflow_tags(unfiltered, exchange_type))
        self._apply_until_stable(queue, url, declared_type=exchange_type)

    def unsubscribe(self, queue: str, url: QueueUrl, exchange: str, highest: int) -> None:
        """Remove the queue's subscription to an exchange, and those of its levels (``x-max-priority``)."""
        self._subscriptions.unsubscribe(queue, url, exchange, highest)

    def remove(self, queue: str, url: QueueUrl, exchange: str) -> bool:
        """Remove all bindings of a queue (by its physical name) to an exchange; False when there is none of ours."""
        tags = self.tags(url)
        if LEVEL_TAG in tags:
            self._remove_level(url, exchange, tags[LEVEL_TAG])
            return True
        found = from_tags(tags)
        mine = [key for binding in found.for_exchange(exchange) for key in to_tags(binding)]
        mine += list(overflow_tags(exchange, "fanout")) if exchange in found.unfiltered else []
        if not mine:
            return False
        self._topics.unsubscribe(exchange, self._queues.arn(url))
        self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=mine)
        left = from_tags({key: value for key, value in tags.items() if key not in mine})
        self._subscriptions.write_policy(queue, url, left.exchanges(), keep=left.is_partial)
        self._applied.clear()
        self._subscriptions.forget()
        return True

    def _remove_level(self, url: QueueUrl, exchange: str, main: str) -> None:
        """The same for a priority level, which has no bindings of its own."""
        self._topics.unsubscribe(exchange, self._queues.arn(url))
        try:
            main_url = QueueUrl(self._clients.sqs("get_queue_url", QueueName=main)["QueueUrl"])
            left = self._subscriptions.shared_exchanges(from_tags(self.tags(main_url))) - {exchange}
        except QueueNotFound:
            left = set()
        self._subscriptions.write_policy(main, url, left)

    def is_let_in(self, queue: str, exchange: str) -> bool:
        """Whether the queue's policy lets the exchange's topic send to it."""
        url = self._queues.url(queue)
        policy = self._queues.policy(url)
        return policy is not None and allows(policy, self._queues.arn(url), self._topics.arn(exchange))

    def lost_exchanges(self, queue: str) -> list[str]:
        """Exchanges whose subscriptions of the queue somebody removed, sorted. A call for each exchange."""
        known = self._applied.get(queue)
        if known is None:
            return []
        arns = [self._queues.arn(self._queues.url(name)) for name in self._queues.levels(queue)]
        return [
            exchange
            for exchange in sorted(known.exchanges())
            if any(self._topics.has_lost(exchange, arn) for arn in arns)
        ]

    def apply_again(self, queue: str) -> None:
        """Make what the queue's tags say, believing nothing of subscriptions that were seen before."""
        with self._flights(queue):
            self._subscriptions.forget(queue)
            self._apply_until_stable(queue, self._queues.url(queue))

    # --- what is known

    def tags(self, url: QueueUrl) -> dict[str, str]:
        """All tags of a queue, as AWS has them now."""
        return dict(self._clients.sqs("list_queue_tags", QueueUrl=url).get("Tags") or {})

    def understood(self, queue: str, url: QueueUrl, tags: Mapping[str, str]) -> BindingSet:
        """What the tags of a queue say; those that can't be read are ignored, with one warning."""
        found = from_tags(tags)
        if found.damaged and self._damaged.get(queue) != found.damaged:
            if len(self._damaged) > _MOST_DAMAGED:
                self._damaged.clear()
            keys = [shlex.quote(excerpt(key, 128)) for key in sorted(found.damaged)]
            logger.warning(
                "Queue %s has %d tags that can't be read. They are ignored: nothing that the queue gets becomes less, "
                "and a message that no other tag asks for is delivered. To remove them: aws sqs untag-queue "
                "--queue-url %s --tag-keys %s", queue, len(keys), url, " ".join(keys),
            )  # fmt: skip
        if found.damaged:
            self._damaged[queue] = found.damaged
        strange = {exchange for exchange in found.exchanges() if not self._can_be(exchange)}
        if not strange:
            return found
        bindings = frozenset(binding for binding in found.bindings if binding.exchange not in strange)
        return replace(found, bindings=bindings, unfiltered=found.unfiltered - strange)

    def known(self, queue: str) -> BindingSet | None:
        """The bindings as this process last saw them; no call."""
        return self._applied.get(queue)

    def all_known(self) -> list[tuple[str, BindingSet]]:
        """(queue, bindings), sorted."""
        return sorted(self._applied.items(), key=lambda item: item[0])

    def read(self, queue: str) -> tuple[BindingSet | None, int]:
        """The bindings as their tags say, a few seconds old at most, and when they were read (ms, AWS's clock).

        None where the tags, or one of them, can't be read.
        """
        return self._reread.get(queue, lambda: self._read(queue))

    def forget(self, queue: str) -> None:
        """Another queue has this name now."""
        self._applied.pop(queue, None)
        self._applied_at.pop(queue, None)
        self._subscriptions.forget(queue)

    # --- inside

    def _can_be(self, exchange: str) -> bool:
        """Whether there can be a topic for the exchange; a forged tag may name one that nothing can be bound to."""
        try:
            self._namer.topic(exchange)
        except InvalidName:
            return self._topics.is_predefined(exchange)
        return True

    def _read(self, queue: str) -> tuple[BindingSet | None, int]:
        read_at = self._clients.now_ms()
        try:
            url = self._queues.url(queue)
            found = self._applied[queue] = self.understood(queue, url, self.tags(url))
            self._queues.learn_max_priority(queue, found.max_priority)
        except HakeError as exc:
            logger.info("The bindings of queue %s can't be read, so what is in doubt is delivered: %s", queue, exc)
            return None, read_at
        return None if found.is_partial else found, read_at

    def _is_applied(self, queue: str, binding: Binding) -> bool:
        known = self._applied.get(queue)
        if time.monotonic() - self._applied_at.get(queue, float("-inf")) > BELIEVE_S:
            return False
        if known is None or self._declared_priority(queue) > known.max_priority:
            return False
        return binding in known.bindings or binding.exchange in known.unfiltered

    def _declared_priority(self, queue: str) -> int:
        """The queue's ``x-max-priority``, where it has levels of ours for that."""
        if queue.endswith(FIFO_SUFFIX) or self._queues.is_predefined(queue):
            return 0
        return max_priority(self._queues.arguments(queue))

    def _priority_tag(self, queue: str, current: BindingSet) -> dict[str, str]:
        """The tag that records the queue's ``x-max-priority``, if its tags do not say it yet."""
        highest = self._declared_priority(queue)
        return {MAX_PRIORITY_TAG: str(highest)} if highest > current.max_priority else {}

    def _binding_tags(self, queue: str, tags: dict[str, str], binding: Binding) -> dict[str, str]:
        """The tags that record a new binding."""
        new = to_tags(binding)
        taken = sum(1 for key in tags if key.startswith(TAG_PREFIX))
        if taken + len(new) > MAX_BINDING_TAGS:
            logger.warning(
                "Queue %s has %d bindings, and AWS lets a queue have about fifty tags: it now gets everything that is "
                "published to exchange %s. Bind fewer keys, use a pattern, or use more queues.",
                queue, taken, binding.exchange,
            )
            new = overflow_tags(binding.exchange, binding.exchange_type)
        return new

    def _apply_until_stable(
        self,
        queue: str,
        url: QueueUrl,
        *,
        tags: dict[str, str] | None = None,
        with_: Binding | None = None,
        without: Binding | None = None,
        declared_type: ExchangeType | None = None,
    ) -> BindingSet:
        """Compile and write until nothing is left to write, or the tags stay as they were and the policy as written.

        Args:
            tags: The queue's tags where they were read just now, and nothing written since.
        """
        applied: BindingSet | None = None
        types = {with_.exchange: declared_type} if with_ is not None else {}
        for _ in range(_MAX_ROUNDS):
            has_written = tags is None  # the caller has
            wanted = self.understood(queue, url, self.tags(url) if tags is None else tags)
            tags = None
            # Tags may be read from a copy that lags behind: what we did ourselves is certain.
            bindings = (wanted.bindings | ({with_} if with_ else set())) - ({without} if without else set())
            highest = max(wanted.max_priority, self._declared_priority(queue))
            wanted = replace(wanted, bindings=frozenset(bindings), max_priority=highest)
            self._queues.learn_max_priority(queue, highest)
            exchanges, keep = wanted.exchanges(), wanted.is_partial
            if wanted == applied and not self._subscriptions.write_policy(queue, url, exchanges, keep=keep):
                break
            has_written |= self._subscriptions.apply(queue, url, wanted, types)
            applied = wanted
            if not has_written:
                break
        else:
            logger.warning("The bindings of queue %s keep changing; others are at work on it too.", queue)
        self._applied[queue] = wanted
        self._applied_at[queue] = time.monotonic()
        return wanted
