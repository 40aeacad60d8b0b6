"""Binds and unbinds queues: records bindings in tags, then brings the queue to what its tags say.

Where the set of bindings lives
    With the queue, as one tag a binding. SQS and SNS offer no compare-and-set, so "read, merge, write" of a policy
    loses one of two concurrent declares; adding a tag does not. A process that binds adds its tag first, then compiles
    policy and filters from *all* tags and writes what differs. A process that wrote something reads the tags again,
    until they stay as they were. So the last of several writers has seen every tag.

Late reads
    AWS may show older tags and policies for a minute. :class:`kombu_hake.topology.observed.Memory` corrects reads by
    what this process wrote; what another process overwrote meanwhile is found by checks in the background, about one
    and a half and two minutes after a write (:mod:`kombu_hake.topology.repair`).

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
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from kombu_hake.amqp import (
    MAX_PRIORITY_TAG,
    TAG_PREFIX,
    Binding,
    BindingSet,
    ExchangeType,
    QueueUrl,
    allows,
    overflow_tags,
    to_tags,
)
from kombu_hake.aws import SingleFlight, forksafe
from kombu_hake.exceptions import AccessDenied, HakeError
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.apply import Applier
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.desired import Desired
from kombu_hake.topology.diff import WritePolicy, diff, found_in_place
from kombu_hake.topology.knowledge import Knowledge
from kombu_hake.topology.observed import Observed
from kombu_hake.topology.planning import Planner
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.spec import binding_tags
from kombu_hake.topology.timings import BELIEVE_S, Timings

__all__ = ["Reconciler"]

logger = guarded(logging.getLogger(__name__))
#: Two declarers that keep on changing one queue at once; each round is a handful of calls.
_MAX_ROUNDS = 8
#: Of the time that AWS may show older states: when a write is checked. What another process drops up to that time after
#: our write is then back within one and a half times that time.
_CHECKS = (1.45, 1.95)


class Reconciler:
    """Binds and unbinds queues of ours. Safe to share between threads."""

    def __init__(
        self,
        queues: Queues,
        reader: Reader,
        planner: Planner,
        knowledge: Knowledge,
        applier: Applier,
        chores: Chores,
        timings: Timings,
        recheck: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*recheck*: is called in the background with a queue that was written to."""
        self._queues = queues
        self._reader = reader
        self._planner = planner
        self._knowledge = knowledge
        self._applier = applier
        self._chores = chores
        self._timings = timings
        self._recheck = recheck
        self._clock = clock
        #: One change of a queue at a time.
        self.flights = SingleFlight()
        #: Queue to what was seen of its policy when a binding was found in place, and when.
        self._looked: dict[str, tuple[Observed, float]] = {}

    # --- bind and unbind

    def bind(self, queue: str, binding: Binding, declared_type: ExchangeType | None) -> None:
        """Bind a queue.

        Args:
            declared_type: The type that the exchange was declared with here; None if it was not.
        Raises:
            AccessDenied: some of it, or reading whether it is there, is denied.
        """
        if self._is_applied(queue, binding):
            return
        with self.flights(queue):
            if self._is_applied(queue, binding):
                return
            url = self._queues.url(queue)
            looked = self._looked.get(queue)
            is_recent = looked is not None and self._clock() - looked[1] <= BELIEVE_S
            observed = looked[0] if looked is not None and is_recent else self._reader.look(queue, url)
            if self._is_in_place(queue, url, binding, observed):
                self._looked[queue] = observed, self._clock() if not is_recent or looked is None else looked[1]
                return
            found = self._reader.tags(url)
            current = self._knowledge.understood(queue, url, found)
            is_recorded = binding in current.bindings or binding.exchange in current.unfiltered
            new = {} if is_recorded else self._binding_tags(queue, found, binding)
            new |= self._priority_tag(queue, current)
            if new:
                self._applier.tag(url, new)
            try:
                seen = None if is_recent else observed
                self.make(queue, url, tags=found | new, with_=binding, declared_type=declared_type, observed=seen)
            except AccessDenied:
                if not is_recorded:
                    self._take_back(queue, url, binding, current)
                raise

    def _take_back(self, queue: str, url: QueueUrl, binding: Binding, before: BindingSet) -> None:
        """Undo a binding whose last step was denied: its tag and policy would look like evidence that it is there."""
        try:
            # The policy first: it is what a later bind that is denied goes by.
            self._allow_only(queue, url, before, binding)
            self._applier.untag(url, list(to_tags(binding)))
        except HakeError as exc:
            logger.warning(
                "HAKE313 Cannot undo a binding of queue %s that could not be completed: %s", queue, exc,
                extra=fields(queue=queue, exchange=binding.exchange),
            )  # fmt: skip

    def unbind(self, queue: str, binding: Binding) -> None:
        """Undo :meth:`bind`; a missing binding is fine."""
        with self.flights(queue):
            url = self._queues.url(queue)
            tags = self._reader.tags(url)
            is_settled = self._planner.is_settled(url)  # else tags may not be shown yet that are there
            keys = [key for key in to_tags(binding) if key in tags or not is_settled]
            if keys:
                self._applier.untag(url, keys)
            self._knowledge.forget(queue)
            left = {key: value for key, value in tags.items() if key not in keys}
            self.make(queue, url, tags=left, without=binding)

    def bind_all(self, queue: str, unfiltered: str, exchange_type: ExchangeType) -> None:
        """Bind a queue to everything of an exchange."""
        url = self._queues.url(queue)
        self._applier.tag(url, overflow_tags(unfiltered, exchange_type))
        self.make(queue, url, declared_type=exchange_type)

    def apply_again(self, queue: str) -> None:
        """Bring a queue to what its tags say. Subscriptions that were seen before are read again."""
        with self.flights(queue):
            self._reader.distrust(self._queues.levels(queue))
            self.make(queue, self._queues.url(queue))

    def enforce(self, queue: str, bindings: Iterable[Binding]) -> None:
        """Bind a queue by these bindings besides those in its tags, and correct all that differs from it.

        Unlike :meth:`bind` it takes nothing as recorded that the tags do not show, and resets what was tuned.

        Raises:
            AccessDenied: some of it is denied.
        """
        wanted = sorted(bindings)
        with self.flights(queue):
            url = self._queues.url(queue)
            found = self._reader.tags(url)
            new: dict[str, str] = {}
            for binding in wanted:
                current = self._knowledge.understood(queue, url, found | new)
                if binding not in current.bindings and binding.exchange not in current.unfiltered:
                    new |= self._binding_tags(queue, found | new, binding)
            if wanted:
                new |= self._priority_tag(queue, self._knowledge.understood(queue, url, found))
            if new:
                self._applier.tag(url, new)
            types = {binding.exchange: binding.exchange_type for binding in wanted}
            self.make(queue, url, tags=found | new, types=types, resets=True)

    def forget(self, queue: str) -> None:
        """Forget a queue: another one has its name now."""
        self._knowledge.forget(queue)
        self._reader.forget(queue)
        self._looked.pop(queue, None)

    def make(
        self,
        queue: str,
        url: QueueUrl,
        *,
        tags: Mapping[str, str] | None = None,
        with_: Binding | None = None,
        without: Binding | None = None,
        declared_type: ExchangeType | None = None,
        observed: Observed | None = None,
        types: Mapping[str, ExchangeType | None] | None = None,
        resets: bool = False,
    ) -> None:
        """Bring policy and subscriptions to what the tags say, until a look finds no difference.

        The caller holds the flight of the queue.

        Args:
            tags: As read just now, corrected by what the caller wrote.
            observed: As looked at just now.
            types: The types of exchanges as declared here, besides that of *with_*.
            resets: Restore what was declared where an operator has tuned it.
        """
        types = dict(types or {}) | ({with_.exchange: declared_type} if with_ is not None else {})
        without_ = frozenset({without} if without else ())
        removed = without_
        wrote_any = False
        self._looked.pop(queue, None)
        for _ in range(_MAX_ROUNDS):
            shown = self._reader.tags(url) if tags is None else tags
            tags = None
            found = self._knowledge.understood(queue, url, shown)
            # Tags may be read from a copy that lags behind: what we did ourselves is certain.
            bindings = (found.bindings | ({with_} if with_ else set())) - without_
            highest = max(found.max_priority, self._planner.declared_priority(queue))
            wanted = replace(found, bindings=frozenset(bindings), max_priority=highest)
            self._queues.learn_max_priority(queue, highest)
            outcome = self._applier.converge(queue, url, wanted, types, removed, observed, resets=resets)
            observed, removed = None, frozenset()
            wrote_any |= outcome.wrote
            if not outcome.wrote:
                break
        else:
            logger.warning(
                "HAKE305 The bindings of queue %s keep changing; other processes are changing them too.", queue,
                extra=fields(queue=queue),
            )  # fmt: skip
        self._knowledge.learn(queue, wanted)
        self._knowledge.saw(queue)
        if wrote_any:
            self._check_later(queue)
        if outcome.is_wider:
            delay_s = self._timings.tags_s * 1.05
            self._chores.after(delay_s, ("settle", queue), lambda: self._recheck(queue))

    def _check_later(self, queue: str) -> None:
        if not self._timings.attributes_s:
            return
        for number, factor in enumerate(_CHECKS):
            jitter = forksafe.rng.uniform(0.97, 1.0)
            delay_s = self._timings.attributes_s * factor * jitter
            self._chores.after(delay_s, ("check", queue, str(number)), lambda: self._recheck(queue))

    # --- inside

    def _is_applied(self, queue: str, binding: Binding) -> bool:
        known = self._knowledge.known(queue)
        if known is None or self._planner.declared_priority(queue) > known.max_priority:
            return False
        return self._knowledge.is_seen(queue, binding)

    def _is_in_place(self, queue: str, url: QueueUrl, binding: Binding, observed: Observed) -> bool:
        """Return True if policy and subscription show that the binding was made before; its tag is then assumed."""
        known = self._knowledge.known(queue) or BindingSet()
        policy = observed.policies[queue]
        if policy is None or self._planner.declared_priority(queue) or known.is_partial:
            return False
        if self._knowledge.known(queue) is None and self._queues.was_created(queue):
            return False  # its policy is from its creation, and nothing is subscribed yet
        if self._knowledge.is_complete(queue) and binding not in known.bindings:
            return False
        wanted = self._planner.desired(queue, url, BindingSet(frozenset({binding})))
        if not allows(policy, wanted.main.arn, wanted.topics[binding.exchange]):
            return False
        found = self._reader.find(queue, wanted.main.arn, binding.exchange)
        if found is None or not found_in_place(wanted, observed.with_subscription(queue, binding.exchange, found)):
            return False
        self._knowledge.saw(queue, binding)
        return True

    def _allow_only(self, queue: str, url: QueueUrl, bindings: BindingSet, removed: Binding) -> None:
        """Bring the policy alone to what bindings say."""
        wanted: Desired = self._planner.desired(queue, url, bindings, removed=frozenset({removed}))
        wanted = replace(wanted, levels=wanted.levels[:1], undelivered=None)
        observed = self._reader.look(queue, url)
        for change in diff(wanted, observed):
            if isinstance(change, WritePolicy):
                self._applier.apply(change, wanted, observed, {queue: url})

    # --- inside: tags

    def _priority_tag(self, queue: str, current: BindingSet) -> dict[str, str]:
        """The tag that records the queue's ``x-max-priority``, if its tags do not say it yet."""
        highest = self._planner.declared_priority(queue)
        return {MAX_PRIORITY_TAG: str(highest)} if highest > current.max_priority else {}

    def _binding_tags(self, queue: str, tags: Mapping[str, str], binding: Binding) -> dict[str, str]:
        """The tags that record a new binding."""
        new, is_overflow = binding_tags(tags, binding)
        if is_overflow:
            taken = sum(1 for key in tags if key.startswith(TAG_PREFIX))
            logger.warning(
                "HAKE302 Queue %s has %d bindings, and AWS allows about fifty tags per queue: the queue now receives "
                "everything published to exchange %s. Bind fewer keys, use a pattern, or use more queues.",
                queue, taken, binding.exchange, extra=fields(queue=queue, exchange=binding.exchange),
            )  # fmt: skip
        return new
