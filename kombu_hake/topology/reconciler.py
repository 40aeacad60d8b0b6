"""Brings queues with their bindings to what was declared: reads, takes the difference, applies it.

Where the set of bindings lives
    With the queue, as one tag a binding. SQS and SNS offer no compare-and-set, so "read, merge, write" of a policy
    loses one of two concurrent declares; adding a tag does not. A process that binds adds its tag first, then compiles
    policy and filters from *all* tags and writes what differs. A process that wrote something reads the tags again,
    until they stay as they were. So the last of several writers has seen every tag.

Late reads
    AWS may show older tags and policies for a minute. :class:`kombu_hake.topology.observed.Memory` corrects reads by
    what this process wrote; what another process overwrote meanwhile is found by checks in the background, about one
    and a half and two minutes after a write.

What is in place
    A binding that the queue's policy and its subscription's filter show already is not looked up in the tags, which AWS
    rations. A subscription is looked up by subscribing without attributes: one that this creates delivers wrapped
    messages, and so shows that it was not there.

Cost
    A queue that is bound already, once a process: GetQueueAttributes, and for each exchange Subscribe and
    GetSubscriptionAttributes. A binding that this process saw less than a minute ago costs nothing.
"""

from __future__ import annotations

import logging
import random
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    MAX_BINDING_TAGS,
    MAX_PRIORITY_TAG,
    SQS_MAX_TAGS,
    TAG_PREFIX,
    Binding,
    BindingSet,
    ExchangeType,
    Kind,
    QueueArn,
    QueueUrl,
    SubscriptionArn,
    TopicArn,
    allows,
    excerpt,
    from_tags,
    level_names,
    level_shares,
    max_priority,
    overflow_tags,
    parse_arn,
    to_tags,
)
from kombu_hake.aws import Clients, Once, SingleFlight
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, HakeError, InvalidName, QueueNotFound, TopicNotFound, TopologyError
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.apply import LEVEL_TAG, Applier
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.dead_queues import DeadQueues
from kombu_hake.topology.desired import Desired, Level, Undelivered, base_filter, filters
from kombu_hake.topology.diff import Change, SetAttribute, Subscribe, WritePolicy, diff, flat_exchanges, found_in_place
from kombu_hake.topology.observed import Memory, Observed, Subscription
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.timings import Timings
from kombu_hake.topology.topics import Topics

__all__ = ["Reconciler"]

logger = guarded(logging.getLogger(__name__))
#: Two declarers that keep on changing one queue at once; each round is a handful of calls.
_MAX_ROUNDS = 8
#: Differences taken in one round: each but the first because AWS refused something.
_MAX_STEPS = 12
#: How long what was seen of a binding is believed: the queue may be deleted and created again.
_BELIEVE_S = 60.0
#: How long it is believed that AWS refuses a filter.
_REFUSED_S = 3600.0
#: Of the time that AWS may show older states: when a write is checked. What another process drops up to that time after
#: our write is then back within one and a half times that time.
_CHECKS = (1.45, 1.95)
#: Of queues whose damaged tags were logged; more are logged again.
_MOST_DAMAGED = 1_000
#: Between two reads of tags for messages that match no known binding, at least, on an emulator.
_REREAD_S = 2.0
#: After such a read, seconds.
_ASK_AGAIN_S = 4.0
#: Of the checks of all queues in one interval (``check_bindings``): 500 workers with 300 s make 10 a second.
_CHECK_REQUESTS = 6
#: Tags that are left free for exchanges that have no room for single bindings.
_OVERFLOW_TAGS = 3
#: Between two queues whose tags are compared with what was declared.
_HEAL_S = 60.0


class Reconciler:
    """Binds and unbinds queues of ours, checks and mends them. Safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        settings: Settings,
        queues: Queues,
        topics: Topics,
        dead_queues: DeadQueues,
        chores: Chores,
        timings: Timings,
        clock: Callable[[], float] = time.monotonic,
        on_tags: Callable[[QueueUrl, Kind, Mapping[str, str]], None] = lambda url, declared, tags: None,
    ) -> None:
        """*on_tags*: is given a queue's URL, what it was declared to go with, and its tags, when they are healed."""
        self._clients = clients
        self._on_tags = on_tags
        #: Queues whose tags are yet to be compared with what was declared, and when that was done last.
        self._unhealed: dict[QueueUrl, None] = {}
        self._healed_at = float("-inf")
        self._settings = settings
        self._namer = settings.namer
        self._queues = queues
        self._topics = topics
        self._dead_queues = dead_queues
        self._chores = chores
        self._timings = timings
        self._clock = clock
        self._memory = Memory(timings, clock)
        self._applier = Applier(clients, queues, topics, self._memory)
        self._flights = SingleFlight()
        self._first = Once()
        #: Queue to the keys of its tags that can't be read, as last logged.
        self._damaged: dict[str, frozenset[str]] = {}
        #: Queue to its bindings as this process last saw them. Without tags they may be a part of them.
        self._known: dict[str, BindingSet] = {}
        self._known_at: dict[str, float] = {}
        #: Queues whose tags were read, so that ``_known`` has all of their bindings.
        self._has_read: set[str] = set()
        #: (queue or level, exchange) to its subscription as last seen.
        self._subscriptions: dict[tuple[str, str], Subscription] = {}
        #: Queue to what was seen of its policy when a binding was found in place, and when.
        self._looked: dict[str, tuple[Observed, float]] = {}
        #: What AWS refused, until when that is believed.
        self._refused: dict[tuple[str, str, str], float] = {}
        self._full: dict[str, float] = {}
        self._unkept: frozenset[SubscriptionArn] = frozenset()
        #: Queue to its bindings, or None, and when they were read (ms, AWS's clock; monotonic seconds).
        self._reads: dict[str, tuple[BindingSet | None, int, float]] = {}

    # --- bind and unbind

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
            if self._is_applied(queue, binding):
                return
            url = self._queues.url(queue)
            looked = self._looked.get(queue)
            is_recent = looked is not None and self._clock() - looked[1] <= _BELIEVE_S
            observed = looked[0] if looked is not None and is_recent else self._look(queue, url)
            if self._is_in_place(queue, url, binding, observed):
                self._looked[queue] = observed, self._clock() if not is_recent or looked is None else looked[1]
                return
            found = self.tags(url)
            current = self.understood(queue, url, found)
            is_recorded = binding in current.bindings or binding.exchange in current.unfiltered
            new = {} if is_recorded else self._binding_tags(queue, found, binding)
            new |= self._priority_tag(queue, current)
            if new:
                self._tag(url, new)
            try:
                seen = None if is_recent else observed
                self._make(queue, url, tags=found | new, with_=binding, declared_type=declared_type, observed=seen)
            except AccessDenied:
                if not is_recorded:
                    self._take_back(queue, url, binding, current)
                raise

    def _take_back(self, queue: str, url: QueueUrl, binding: Binding, before: BindingSet) -> None:
        """Undo a binding whose last step was denied: its tag and policy would look like evidence that it is there."""
        try:
            # The policy first: it is what a later bind that is denied goes by.
            self._allow_only(queue, url, before, removed=frozenset({binding}))
            self._untag(url, list(to_tags(binding)))
        except HakeError as exc:
            logger.warning(
                "HAKE313 Cannot undo a binding of queue %s that could not be completed: %s", queue, exc,
                extra=fields(queue=queue, exchange=binding.exchange),
            )  # fmt: skip

    def unbind(self, queue: str, binding: Binding) -> None:
        """Undo :meth:`bind`; a binding that is not there is fine."""
        with self._flights(queue):
            url = self._queues.url(queue)
            tags = self.tags(url)
            keys = [key for key in to_tags(binding) if key in tags]
            if keys:
                self._untag(url, keys)
            self._known.pop(queue, None)
            left = {key: value for key, value in tags.items() if key not in keys}
            self._make(queue, url, tags=left, without=binding)

    def bind_all(self, queue: str, unfiltered: str, exchange_type: ExchangeType) -> None:
        """Let the queue have everything of an exchange."""
        url = self._queues.url(queue)
        self._tag(url, overflow_tags(unfiltered, exchange_type))
        self._make(queue, url, declared_type=exchange_type)

    def apply_again(self, queue: str) -> None:
        """Make what the queue's tags say, believing nothing of subscriptions that were seen before."""
        with self._flights(queue):
            for key in [key for key in self._subscriptions if key[0] in self._queues.levels(queue)]:
                found = self._subscriptions[key]
                self._subscriptions[key] = replace(found, read_at=float("-inf"))
            self._make(queue, self._queues.url(queue))

    # --- remove

    def unsubscribe(self, queue: str, url: QueueUrl, exchange: str, highest: int) -> None:
        """Remove the queue's subscription to an exchange, and those of its levels (``x-max-priority``)."""
        arn = self._queues.arn(url)
        unknown: list[QueueArn] = []
        for name in level_names(queue, {"x-max-priority": highest}):
            found = self._subscriptions.pop((name, exchange), None)
            if found is not None:
                self._topics.unsubscribe_arn(exchange, found.arn)
            else:
                unknown.append(self._sibling(arn, name))
        if unknown:
            self._topics.unsubscribe(exchange, *unknown)

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
        self._untag(url, mine)
        left = from_tags({key: value for key, value in tags.items() if key not in mine})
        self._allow_only(queue, url, left)
        self._known.clear()
        self._known_at.clear()
        self._has_read.clear()
        self._subscriptions.clear()
        return True

    def _remove_level(self, url: QueueUrl, exchange: str, main: str) -> None:
        """The same for a priority level, which has no bindings of its own."""
        self._topics.unsubscribe(exchange, self._queues.arn(url))
        try:
            main_url = QueueUrl(self._clients.sqs("get_queue_url", QueueName=main)["QueueUrl"])
            bindings = from_tags(self.tags(main_url))
        except QueueNotFound:
            bindings = BindingSet()
        shares = level_shares(bindings.max_priority)
        fanout = self._settings.fanout_priorities
        left = {
            name
            for name in bindings.exchanges() - {exchange}
            if shares and filters(bindings, name, tuple(shares[0]), fanout_priorities=fanout)
        }
        self._allow_only(main, url, BindingSet(unfiltered=frozenset(left)))

    def _allow_only(
        self, name: str, url: QueueUrl, bindings: BindingSet, removed: frozenset[Binding] = frozenset()
    ) -> None:
        """Bring the policy alone to what bindings say."""
        arn = self._queues.arn(url)
        exchanges = bindings.exchanges() | {binding.exchange for binding in removed}
        wanted = Desired(
            name,
            bindings,
            (Level(name, arn),),
            {exchange: self._topics.arn(exchange) for exchange in exchanges},
            removed=removed,
            is_settled=self._is_settled(url),
            topic_pattern=self._pattern(bindings, arn),
        )
        observed = self._look(name, url)
        for change in diff(wanted, observed):
            if isinstance(change, WritePolicy):
                self._applier.apply(change, wanted, observed, {name: url})

    # --- check

    def check(self, queue: str) -> tuple[list[str], list[str]]:
        """Compare a queue with its bindings, and mend it: a request for its policy, and one for each subscription.

        Returns:
            The exchanges whose subscriptions were gone, sorted; and the reasons of all other changes.
        """
        known = self._known.get(queue)
        if known is None or not known.exchanges() or not self._is_turn():
            return [], []
        url = self._queues.url(queue)
        with self._flights(queue):
            wanted = self._desired(queue, url, known)
            for key in [key for key in self._subscriptions if key[0] in self._queues.levels(queue)]:
                found = self._subscriptions[key]
                if found.attributes is not None:  # else it may not be read, and is not asked for again
                    self._subscriptions[key] = replace(found, read_at=float("-inf"))
            observed = self._look_at_levels(wanted, self._look(queue, url), self._urls(wanted))
            changes = self._changes(queue, wanted, observed)
            if self._known.get(queue) is not known or not changes:
                return [], []
            is_less = bool(diff(replace(wanted, is_settled=False), observed))
            lost = sorted({change.exchange for change in changes if isinstance(change, Subscribe)})
            reasons = [change.reason for change in changes if not isinstance(change, Subscribe)]
            self._make(queue, url)
            return lost, list(dict.fromkeys(reasons)) if is_less and not lost else []

    def _is_turn(self) -> bool:
        """Whether to check a queue this time: a process with many queues checks each of them now and then, by chance.

        Each queue is offered once an interval. Workers of a fleet have the same queues, so together they check all.
        """
        requests = sum(1 + len(known.exchanges()) for known in list(self._known.values()))
        return random.random() * requests < _CHECK_REQUESTS  # noqa: S311 - spreading load needs no secrecy

    def _changes(self, queue: str, wanted: Desired, observed: Observed) -> list[Change]:
        """The difference, as far as it can be told from the bindings that are known."""
        if queue not in self._has_read and found_in_place(wanted, observed):
            return []
        if queue not in self._has_read:
            wanted = replace(wanted, is_settled=False)
        return diff(wanted, observed)

    def _recheck(self, queue: str) -> None:
        """Look again after a write, when AWS shows what came of it: another process may have written over it."""
        if queue not in self._known:
            return
        with self._flights(queue):
            logger.debug("Checking queue %s after a write.", queue)
            try:
                self.apply_again(queue)
            except (QueueNotFound, TopicNotFound) as exc:
                logger.debug("Queue %s is gone: %s", queue, exc)

    def _check_later(self, queue: str) -> None:
        if not self._timings.attributes_s:
            return
        for number, factor in enumerate(_CHECKS):
            jitter = random.uniform(0.97, 1.0)  # noqa: S311 - spreading load needs no secrecy
            delay_s = self._timings.attributes_s * factor * jitter
            self._chores.after(delay_s, ("check", queue, str(number)), lambda: self._recheck(queue))

    # --- what is known

    def is_let_in(self, queue: str, exchange: str) -> bool:
        """Whether the queue's policy lets the exchange's topic send to it."""
        url = self._queues.url(queue)
        policy, _ = self._memory.policy(url, self._queues.policy(url))
        return policy is not None and allows(policy, self._queues.arn(url), self._topics.arn(exchange))

    def tags(self, url: QueueUrl) -> dict[str, str]:
        """All tags of a queue: as AWS shows them, corrected by what this process wrote lately."""
        return self._memory.tags(url, self._clients.sqs("list_queue_tags", QueueUrl=url).get("Tags") or {})

    def understood(self, queue: str, url: QueueUrl, tags: Mapping[str, str]) -> BindingSet:
        """What the tags of a queue say; those that can't be read are ignored, with one warning."""
        found = from_tags(tags)
        if found.damaged and self._damaged.get(queue) != found.damaged:
            if len(self._damaged) > _MOST_DAMAGED:
                self._damaged.clear()
            keys = [shlex.quote(excerpt(key, 128)) for key in sorted(found.damaged)]
            logger.warning(
                "HAKE303 Ignoring %d unreadable tags of queue %s. The queue receives no less than before, and a "
                "message that no other tag asks for is delivered. To remove the tags: aws sqs untag-queue --queue-url "
                "%s --tag-keys %s",
                len(keys), queue, url, " ".join(keys), extra=fields(queue=queue),
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
        return self._known.get(queue)

    def all_known(self) -> list[tuple[str, BindingSet]]:
        """(queue, bindings), sorted."""
        return sorted(self._known.items(), key=lambda item: item[0])

    def read(self, queue: str, sent_ms: int | None = None) -> tuple[BindingSet | None, int, float]:
        """The bindings as their tags say, for a message that matches no known one.

        On AWS, which rations such reads, the next one is made in the background: at most once in ``tags_reread_s``, and
        when the message is so old that tags show every binding from before it was sent.

        Args:
            sent_ms: When the message was sent.
        Returns:
            The bindings, None where the tags, or one of them, can't be read; when they were read (ms, AWS's clock; 0
            for never); and in how many seconds it is worth while to ask again.
        """
        found, now = self._reads.get(queue), self._clock()
        if not self._timings.tags_reread_s:
            if found is None or now - found[2] >= _REREAD_S:
                found = self._reads[queue] = (*self._read(queue), now)
            return found[0], found[1], _ASK_AGAIN_S
        left_s = found[2] + self._timings.tags_reread_s - now if found is not None else 0.0
        if sent_ms is not None and found is not None:
            left_s = max(left_s, sent_ms / 1000 + self._timings.tags_s - self._clients.now_ms() / 1000 + 1)
        left_s = max(0.0, left_s)
        if found is None or sent_ms is None or found[1] <= sent_ms + self._timings.tags_s * 1000:
            self._chores.after(left_s, ("tags", queue), lambda: self._read_later(queue))
        known, read_at = (self._known.get(queue), 0) if found is None else found[:2]
        return known, read_at, left_s + _ASK_AGAIN_S

    def _read_later(self, queue: str) -> None:
        self._reads[queue] = (*self._read(queue), self._clock())

    def heal_later(self, url: QueueUrl) -> None:
        """Have :meth:`heal` compare a queue's tags with what was declared."""
        self._unhealed[url] = None

    def heal(self, queue: str) -> None:
        """Compare the tags of a queue with what was declared, if that was asked for: a queue a minute at most."""
        names = self._queues.levels(queue)
        for url in list(self._unhealed):
            if self._clock() - self._healed_at >= _HEAL_S and self._queues.name_of(url) in names:
                self._healed_at = self._clock()
                del self._unhealed[url]
                self._heal(url)

    def _heal(self, url: QueueUrl) -> None:
        """Make a formerly temporary queue permanent, and record bindings whose tags were removed."""
        queue = self._queues.name_of(url)
        spec = self._queues.spec(queue) if queue is not None else None
        if queue is None or spec is None:
            return
        with self._flights(queue):
            tags = self.tags(url)
            self._on_tags(url, spec.kind, tags)
            known = self._known.get(queue)
            if known is None or queue in self._has_read:
                return
            found = self.understood(queue, url, tags)
            self._queues.learn_max_priority(queue, found.max_priority)
            missing = [one for one in known.bindings - found.bindings if one.exchange not in found.unfiltered]
            self._known[queue] = found
            self._has_read.add(queue)
            for binding in sorted(missing):
                logger.warning(
                    "HAKE307 Queue %s has no tag for its binding to exchange %s with key %r; writing the tag again. "
                    "If a tool removes tags that it does not know, configure it to ignore those that start with hake:.",
                    queue, binding.exchange, binding.routing_key, extra=fields(queue=queue, exchange=binding.exchange),
                )  # fmt: skip
                self._known_at.pop(queue, None)
                self.bind(queue, binding, None)

    def forget(self, queue: str) -> None:
        """Another queue has this name now."""
        self._known.pop(queue, None)
        self._known_at.pop(queue, None)
        self._has_read.discard(queue)
        self._reads.pop(queue, None)
        self._looked.pop(queue, None)
        for key in [key for key in self._subscriptions if key[0] in level_names(queue, {"x-max-priority": 3})]:
            self._subscriptions.pop(key, None)

    # --- inside: what is known

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
            found = self._known[queue] = self.understood(queue, url, self.tags(url))
            self._has_read.add(queue)
            self._queues.learn_max_priority(queue, found.max_priority)
        except HakeError as exc:
            logger.info("Cannot read the bindings of queue %s, so unmatched messages are delivered: %s", queue, exc)
            return None, read_at
        return None if found.is_partial else found, read_at

    def _is_applied(self, queue: str, binding: Binding) -> bool:
        known = self._known.get(queue)
        if self._clock() - self._known_at.get(queue, float("-inf")) > _BELIEVE_S:
            return False
        if known is None or self._declared_priority(queue) > known.max_priority:
            return False
        return binding in known.bindings or binding.exchange in known.unfiltered

    def _declared_priority(self, queue: str) -> int:
        """The queue's ``x-max-priority``, where it has levels of ours for that."""
        if queue.endswith(FIFO_SUFFIX) or self._queues.is_predefined(queue):
            return 0
        return max_priority(self._queues.arguments(queue))

    # --- inside: tags

    def _tag(self, url: QueueUrl, tags: Mapping[str, str]) -> None:
        self._clients.sqs("tag_queue", QueueUrl=url, Tags=dict(tags))
        self._memory.tags_written(url, tags)

    def _untag(self, url: QueueUrl, keys: list[str]) -> None:
        self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=keys)
        self._memory.tags_written(url, dict.fromkeys(keys))

    def _priority_tag(self, queue: str, current: BindingSet) -> dict[str, str]:
        """The tag that records the queue's ``x-max-priority``, if its tags do not say it yet."""
        highest = self._declared_priority(queue)
        return {MAX_PRIORITY_TAG: str(highest)} if highest > current.max_priority else {}

    def _binding_tags(self, queue: str, tags: Mapping[str, str], binding: Binding) -> dict[str, str]:
        """The tags that record a new binding."""
        new = to_tags(binding)
        taken = sum(1 for key in tags if key.startswith(TAG_PREFIX))
        if taken + len(new) > MAX_BINDING_TAGS or len(tags) + len(new) > SQS_MAX_TAGS - _OVERFLOW_TAGS:
            logger.warning(
                "HAKE302 Queue %s has %d bindings, and AWS allows about fifty tags per queue: the queue now receives "
                "everything published to exchange %s. Bind fewer keys, use a pattern, or use more queues.",
                queue, taken, binding.exchange, extra=fields(queue=queue, exchange=binding.exchange),
            )  # fmt: skip
            new = overflow_tags(binding.exchange, binding.exchange_type)
        return new

    # --- inside: reading

    def _look(self, queue: str, url: QueueUrl) -> Observed:
        now = self._clock()
        refused = frozenset(key for key, until in list(self._refused.items()) if until > now)
        full = frozenset(exchange for exchange, until in list(self._full.items()) if until > now)
        observed = Observed(refused=refused, full=full, unkept=self._unkept)
        observed = self._applier.look_at_policy(observed, queue, url)
        if self._queues.is_closed_to_sns(url) and self._first(("key", queue)):
            logger.warning(
                "HAKE308 Queue %s is encrypted with alias/aws/sqs, a key that SNS cannot use: messages published to "
                "its exchanges are lost. Encrypt it with SSE-SQS, or with a key of your own that allows "
                "sns.amazonaws.com.",
                queue, extra=fields(queue=queue),
            )  # fmt: skip
        return observed

    def _is_in_place(self, queue: str, url: QueueUrl, binding: Binding, observed: Observed) -> bool:
        """Whether policy and subscription show that the binding was made before; then its tag is taken as written."""
        known = self._known.get(queue, BindingSet())
        policy = observed.policies[queue]
        if policy is None or self._declared_priority(queue) or known.is_partial:
            return False
        if queue in self._has_read and binding not in known.bindings:
            return False
        exchange = binding.exchange
        wanted = self._desired(queue, url, BindingSet(frozenset({binding})))
        if not allows(policy, wanted.main.arn, wanted.topics[exchange]):
            return False
        found = self._subscriptions.get((queue, exchange))
        if found is not None and self._clock() - found.read_at > _BELIEVE_S:
            found = self._reread((queue, exchange), found)
        try:
            if found is None:
                arn = self._topics.find_subscription(exchange, wanted.main.arn)
                found = self._subscriptions[queue, exchange] = self._applier.read_subscription(arn)
        except (TopologyError, AccessDenied) as exc:
            logger.debug("The subscription of queue %s to exchange %s is not found: %s", queue, exchange, exc)
            return False
        if not found_in_place(wanted, observed.with_subscription(queue, exchange, found)):
            return False
        self._known[queue] = replace(known, bindings=known.bindings | {binding})
        self._known_at[queue] = self._clock()
        return True

    def _reread(self, key: tuple[str, str], found: Subscription) -> Subscription | None:
        try:
            again = self._applier.read_subscription(found.arn)
        except TopicNotFound:
            self._subscriptions.pop(key, None)
            return None
        self._subscriptions[key] = again
        return again

    # --- inside: making it so

    def _make(
        self,
        queue: str,
        url: QueueUrl,
        *,
        tags: Mapping[str, str] | None = None,
        with_: Binding | None = None,
        without: Binding | None = None,
        declared_type: ExchangeType | None = None,
        observed: Observed | None = None,
    ) -> None:
        """Bring policy and subscriptions to what the tags say, until a look finds no difference.

        Args:
            tags: As read just now, corrected by what the caller wrote.
            observed: As looked at just now.
        """
        types = {with_.exchange: declared_type} if with_ is not None else {}
        without_ = frozenset({without} if without else ())
        removed = without_
        wrote_any = False
        self._looked.pop(queue, None)
        for _ in range(_MAX_ROUNDS):
            shown = self.tags(url) if tags is None else tags
            tags = None
            found = self.understood(queue, url, shown)
            # Tags may be read from a copy that lags behind: what we did ourselves is certain.
            bindings = (found.bindings | ({with_} if with_ else set())) - without_
            highest = max(found.max_priority, self._declared_priority(queue))
            wanted = replace(found, bindings=frozenset(bindings), max_priority=highest)
            self._queues.learn_max_priority(queue, highest)
            wrote, is_wider = self._reconcile(queue, url, wanted, types, removed, observed)
            observed, removed = None, frozenset()
            wrote_any |= wrote
            if not wrote:
                break
        else:
            logger.warning(
                "HAKE305 The bindings of queue %s keep changing; other processes are changing them too.", queue,
                extra=fields(queue=queue),
            )  # fmt: skip
        self._known[queue] = wanted
        self._known_at[queue] = self._clock()
        self._has_read.add(queue)
        if wrote_any:
            self._check_later(queue)
        if is_wider:
            delay_s = self._timings.tags_s * 1.05
            self._chores.after(delay_s, ("settle", queue), lambda: self._recheck(queue))

    def _reconcile(
        self,
        queue: str,
        url: QueueUrl,
        bindings: BindingSet,
        types: Mapping[str, ExchangeType | None],
        removed: frozenset[Binding],
        observed: Observed | None,
    ) -> tuple[bool, bool]:
        """Take the difference and apply it until there is none.

        Returns:
            Whether something was changed that was there; and whether the queue still gets more than it is to have,
            because tags may be late.
        """
        wanted = self._desired(queue, url, bindings, removed=removed, types=types, makes=True)
        urls = self._urls(wanted)
        observed = self._look_at_levels(wanted, observed or self._look(queue, url), urls)
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
                observed = observed.with_subscription(*key, self._reread(key, observed.subscriptions[key]))
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
        self._say_what_does_not_fit(wanted, observed)
        return wrote, not wanted.is_settled and bool(diff(replace(wanted, is_settled=True), observed))

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
                observed = self._applier.apply(change, wanted, observed, urls)
            except (QueueNotFound, TopicNotFound):
                raise  # the caller begins again
            except (TopologyError, AccessDenied) as exc:
                if isinstance(exc, AccessDenied) and wanted.undelivered is not None and (
                    getattr(change, "queue", "") == wanted.undelivered.name
                ):  # fmt: skip
                    self._dead_queues.cannot_keep(wanted.queue, exc)
                    return observed, wrote
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
            self._remember(before, observed)
            if observed.refused != before.refused or observed.full != before.full:
                return observed, wrote
            wrote |= not isinstance(change, Subscribe) or self._was_other(observed, change)
        return observed, wrote

    def _was_other(self, observed: Observed, change: Subscribe) -> bool:
        """Whether a subscription was there already, and said something else."""
        found = observed.subscriptions.get((change.queue, change.exchange))
        return found is not None and found.attributes is not None and (
            (found.attributes.get("FilterPolicy") or "{}") != change.filter
        )  # fmt: skip

    def _remember(self, before: Observed, observed: Observed) -> None:
        until = self._clock() + _REFUSED_S
        self._refused |= dict.fromkeys(observed.refused - before.refused, until)
        self._full |= dict.fromkeys(observed.full - before.full, until)
        self._unkept = observed.unkept
        if observed.subscriptions != before.subscriptions:
            for key in set(before.subscriptions) - set(observed.subscriptions):
                self._subscriptions.pop(key, None)
            self._subscriptions |= observed.subscriptions

    # --- inside: values

    def _desired(
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
            name = self._dead_queues.make_undelivered(queue) if makes else self._dead_queues.undelivered_name(queue)
        return Desired(
            queue,
            bindings,
            tuple(self._levels(queue, url, bindings)),
            topics,
            removed=removed,
            is_settled=self._is_settled(url),
            topic_pattern=self._pattern(bindings, arn),
            undelivered=Undelivered(name, self._sibling(arn, name)) if name is not None else None,
            fanout_priorities=self._settings.fanout_priorities,
            types=types or {},
        )

    def _is_settled(self, url: QueueUrl) -> bool:
        """Whether the tags of a queue, as read, lack nothing that others wrote."""
        return not self._timings.tags_s or self._memory.are_tags_settled(url)

    def _sibling(self, arn: QueueArn, name: str) -> QueueArn:
        """The ARN of another queue of ours."""
        return QueueArn(str(parse_arn(arn)._replace(name=self._queues.physical(name))))

    def _pattern(self, bindings: BindingSet, arn: QueueArn) -> str | None:
        exchanges = sorted(bindings.exchanges())
        if self._settings.queue_policy == "topics" or not exchanges or any(map(self._topics.is_predefined, exchanges)):
            return None
        topic = parse_arn(self._topics.arn(exchanges[0]))
        return str(topic._replace(name=self._namer.topic_pattern()))

    def _levels(self, queue: str, url: QueueUrl, bindings: BindingSet) -> list[Level]:
        """The queue itself and its levels above, lowest first."""
        shares = level_shares(bindings.max_priority)
        # A queue that others made has no levels of ours; and those of a FIFO queue would not be FIFO.
        if not shares or self._queues.is_predefined(queue) or queue.endswith(FIFO_SUFFIX):
            return [Level(queue, self._queues.arn(url))]
        names = level_names(queue, {"x-max-priority": bindings.max_priority})
        arns = [self._sibling(self._queues.arn(url), name) for name in names]
        return [Level(name, arn, tuple(share)) for name, arn, share in zip(names, arns, shares, strict=True)]

    def _urls(self, wanted: Desired) -> dict[str, QueueUrl]:
        urls = {level.name: self._queues.url(level.name) for level in wanted.levels}
        if wanted.undelivered is not None and self._dead_queues.has_to_allow(wanted.queue, wanted.bindings.exchanges()):
            urls[wanted.undelivered.name] = self._queues.url(wanted.undelivered.name)
        return urls

    def _look_at_levels(self, wanted: Desired, observed: Observed, urls: Mapping[str, QueueUrl]) -> Observed:
        """Observe what is not yet: the policies of the levels, and of the queue for undelivered messages once."""
        names = [level.name for level in wanted.levels[1:]]
        if wanted.undelivered is not None and wanted.undelivered.name in urls:
            names.append(wanted.undelivered.name)
        for name in names:
            observed = self._applier.look_at_policy(observed, name, urls[name])
        names = [level.name for level in wanted.levels]
        for key, found in list(self._subscriptions.items()):
            if key[0] not in names or key[1] not in wanted.topics:
                continue
            is_stale = self._clock() - found.read_at > _BELIEVE_S and found.attributes is not None
            observed = observed.with_subscription(*key, self._reread(key, found) if is_stale else found)
        return replace(observed, is_level_new=self._is_level_new(wanted, urls))

    def _is_level_new(self, wanted: Desired, urls: Mapping[str, QueueUrl]) -> bool:
        """Whether the levels of a queue that is in use can't receive yet what the lowest one is to leave to them."""
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

    def _say_what_does_not_fit(self, wanted: Desired, observed: Observed) -> None:
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
        for exchange in sorted(observed.full & wanted.bindings.exchanges()):
            if self._first(("full", wanted.queue, exchange)):
                logger.warning(
                    "HAKE309 The topic of exchange %s has as many filtered subscriptions as AWS allows, so queue %s "
                    "receives everything published to it, and its consumers drop what no binding matches. Use more "
                    "exchanges, or request a higher quota from AWS.",
                    exchange, wanted.queue, extra=fields(queue=wanted.queue, exchange=exchange),
                )  # fmt: skip
