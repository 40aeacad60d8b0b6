"""Looks after queues that this process bound: compares them with their bindings now and then, and recreates what was
removed from outside (queues, subscriptions, topics).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from kombu_hake.amqp import Binding, BindingSet, ExchangeType, Kind, QueueUrl, is_incarnation, main_queue
from kombu_hake.aws import Once, SingleFlight, forksafe
from kombu_hake.exceptions import BrokerUnavailable, QueueDeletedRecently, QueueNotFound, TopicNotFound
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.apply import Applier
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.desired import Desired
from kombu_hake.topology.diff import Change, Subscribe, diff, found_in_place
from kombu_hake.topology.knowledge import Knowledge
from kombu_hake.topology.observed import Observed
from kombu_hake.topology.planning import Planner
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.reconciler import Reconciler
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topics import Topics

__all__ = ["Repairer"]

logger = guarded(logging.getLogger(__name__))
#: Between two tries to create a queue whose name AWS refuses.
_AGAIN_S = 5.0
#: Of one binding, at once, when others delete the queue or the topic in the middle of it.
_BIND_TRIES = 10
#: Of the checks of all queues in one interval (``check_bindings``): 500 workers with 300 s make 10 a second.
_CHECK_REQUESTS = 6
#: Between two queues whose tags are compared with what was declared.
_HEAL_S = 60.0


class Declarer(Protocol):
    """What repairs need of :class:`kombu_hake.topology.topology.Topology`, which owns the repairer."""

    queues: Queues
    topics: Topics

    def is_managed(self, queue: str) -> bool:
        """See there."""

    def incarnation(self, queue: str) -> str:
        """See there."""

    def declare_queue(self, spec: QueueSpec, *, physical: str | None = None, patience_s: float = 0) -> bool:
        """See there."""

    def bind(self, queue: str, binding: Binding) -> None:
        """See there."""

    def exchange_type(self, exchange: str) -> ExchangeType | None:
        """See there."""

    def forget(self, queue: str) -> None:
        """See there."""


class Repairer:
    """Declares and binds again by what this process declared and saw. Safe to share between threads."""

    def __init__(
        self,
        topology: Declarer,
        reader: Reader,
        planner: Planner,
        knowledge: Knowledge,
        applier: Applier,
        reconciler: Reconciler,
        chores: Chores,
        on_tags: Callable[[QueueUrl, Kind, Mapping[str, str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*on_tags*: is given a queue's URL, what it was declared to go with, and its tags, when they are healed."""
        self._topology = topology
        self._queues = topology.queues
        self._reader = reader
        self._planner = planner
        self._knowledge = knowledge
        self._applier = applier
        self._reconciler = reconciler
        self._chores = chores
        self._on_tags = on_tags
        self._clock = clock
        #: Queues that were recreated, until they are bound again too.
        self._unbound: dict[str, BindingSet] = {}
        self._flights = SingleFlight()
        #: What was logged, so that a fight with another tool does not fill the log.
        self._is_new = Once()
        #: Queues whose tags are yet to be compared with what was declared, and when that was done last.
        self._unhealed: dict[QueueUrl, None] = {}
        self._healed_at = float("-inf")

    # --- bind, and recreate what was deleted

    def bind(self, queue: str, binding: Binding) -> None:
        """Bind, and begin again where others delete the queue or the topic in the middle of it.

        Where AWS refuses the name of a deleted queue for a minute, the queue is declared and bound in the background.

        Raises:
            QueueNotFound, TopicNotFound: it is not for this process to make.
        """
        wanted = BindingSet(frozenset({binding}))
        for left in reversed(range(_BIND_TRIES)):
            try:
                for one in sorted(wanted.bindings):
                    self._reconciler.bind(queue, one, self._topology.exchange_type(one.exchange))
                for exchange in sorted(wanted.unfiltered):
                    self._reconciler.bind_all(queue, exchange, self._topology.exchange_type(exchange) or "direct")
                return
            except (QueueNotFound, TopicNotFound) as exc:
                spec = self._queues.spec(queue)
                is_given = self._queues.is_predefined(queue) or self._topology.topics.is_predefined(binding.exchange)
                if spec is None or is_given or not left:
                    raise
                logger.info("Queue %s was deleted while it was bound; declaring it again: %s", queue, exc)
                known = self._knowledge.known(queue) or BindingSet()
                wanted = BindingSet(wanted.bindings | known.bindings, wanted.unfiltered | known.unfiltered)
                if not self._declare_again(queue, spec):
                    self._make_later(queue, wanted)
                    return

    def _declare_again(self, queue: str, spec: QueueSpec) -> bool:
        """Declare a queue that was deleted; False where AWS refuses its name for now. Its URL is known in any case."""
        urls = {level: self._queues.address(level) for level in self._queues.levels(queue)}
        self._topology.forget(queue)
        try:
            self._topology.declare_queue(spec, patience_s=0)
        except QueueDeletedRecently as exc:
            logger.warning(
                "HAKE320 Queue %s was deleted while it was being bound. AWS refuses its name for a minute; it is then "
                "recreated and bound in the background: %s", queue, exc, extra=fields(queue=queue),
            )  # fmt: skip
            for level, url in urls.items():
                self._queues.expect(level, url)
            return False
        return True

    def make_again(self, queue: str) -> QueueUrl | None:
        """Recreate a deleted queue with its bindings; None if this process never declared it."""
        topology, queues = self._topology, self._queues
        with self._flights(queue):
            known = self._unbound.get(queue) or self._knowledge.known(queue)
            spec = queues.spec(queue)
            is_own = is_incarnation(queues.physical(queue))
            queues.forget(queue)
            if is_own and queues.find(queue) is not None:
                return queues.url(queue)  # another thread has made it again
            topology.forget(queue)
            if spec is None or not topology.is_managed(queue):
                return None
            if known is not None:
                self._unbound[queue] = known
            topology.declare_queue(spec, physical=topology.incarnation(queue) if is_own else None)
            url = queues.url(queue)
            logger.error(
                "HAKE013 Queue %s had been deleted, together with its messages; it has been recreated as declared "
                "here.",
                queue, extra=fields(queue=queue),
            )  # fmt: skip
            self._bind_again(queue)
            main = main_queue(queue)
            if main != queue and (of_main := self._knowledge.known(main)) is not None and of_main.exchanges():
                self._reconciler.apply_again(main)  # a level has no bindings of its own
            return url

    def _make_later(self, queue: str, bindings: BindingSet) -> None:
        """Have a queue declared and bound in the background that was deleted while it was bound."""
        before = self._unbound.get(queue, BindingSet())
        self._unbound[queue] = BindingSet(bindings.bindings | before.bindings, bindings.unfiltered | before.unfiltered)
        self._chores.after(_AGAIN_S, ("declare", queue), lambda: self._make(queue))

    def _make(self, queue: str) -> None:
        with self._flights(queue):
            spec = self._queues.spec(queue)
            if queue not in self._unbound or spec is None:
                return  # a consumer has made it again, or its user deleted it
            try:
                self._topology.declare_queue(spec, patience_s=0)
                self._bind_again(queue)
            except (QueueDeletedRecently, BrokerUnavailable) as exc:
                logger.info("Queue %s can't be declared and bound again yet: %s", queue, exc)
                self._chores.after(_AGAIN_S, ("declare", queue), lambda: self._make(queue))

    def forget(self, queue: str) -> None:
        """Forget a queue that its user deleted."""
        self._unbound.pop(queue, None)

    def _bind_again(self, queue: str) -> None:
        """Restore the bindings of a recreated queue; those that fail are kept for the next try."""
        known = self._unbound.get(queue, BindingSet())
        for binding in sorted(known.bindings):
            self._topology.bind(queue, binding)
        for exchange in sorted(known.unfiltered):
            self._reconciler.bind_all(queue, exchange, self._topology.exchange_type(exchange) or "direct")
        self._unbound.pop(queue, None)

    # --- compare with the bindings, now and then

    def check_bindings(self, queue: str) -> None:
        """Compare the queue's policy and subscriptions with its bindings, and repair what was changed or removed.

        With a subscription or a topic that is gone, a queue just falls silent: neither SNS nor SQS tells its consumers.
        """
        if queue in self._unbound:
            self._bind_again(queue)
        self._heal_next(queue)
        lost, reasons = self._mend(queue)
        if lost:
            logger.error(
                "HAKE007 The subscriptions of queue %s to %s had been deleted, or their topics had; they have been "
                "recreated. Messages published there meanwhile did not reach the queue.",
                queue, ", ".join(lost), extra=fields(queue=queue),
            )  # fmt: skip
        elif reasons:
            if self._is_new((queue, *reasons)):
                logger.error(
                    "HAKE008 The policy or the subscriptions of queue %s had been changed outside this package and "
                    "have been repaired. Messages may have been lost meanwhile. %s",
                    queue, " ".join(reasons), extra=fields(queue=queue),
                )  # fmt: skip
            else:
                logger.info("Queue %s was repaired again. %s", queue, " ".join(reasons))

    def _mend(self, queue: str) -> tuple[list[str], list[str]]:
        """Compare a queue with its bindings, and mend it: a request for its policy, and one for each subscription.

        Returns:
            The exchanges whose subscriptions were gone, sorted; and the reasons of all other changes.
        """
        known = self._knowledge.known(queue)
        if known is None or not known.exchanges() or not self._is_turn():
            return [], []
        url = self._queues.url(queue)
        with self._reconciler.flights(queue):
            wanted = self._planner.desired(queue, url, known)
            self._reader.distrust(self._queues.levels(queue), readable_only=True)
            observed = self._applier.look(wanted, self._reader.look(queue, url), self._planner.urls(wanted))
            changes = self._changes(queue, wanted, observed)
            if self._knowledge.known(queue) is not known or not changes:
                return [], []
            is_less = bool(diff(replace(wanted, is_settled=False), observed))
            lost = sorted({change.exchange for change in changes if isinstance(change, Subscribe)})
            reasons = [change.reason for change in changes if not isinstance(change, Subscribe)]
            self._reconciler.make(queue, url)
            return lost, list(dict.fromkeys(reasons)) if is_less and not lost else []

    def _is_turn(self) -> bool:
        """Decide by chance whether to check a queue this time, so that a process with many queues makes few requests.

        Each queue is offered once an interval. Workers of a fleet have the same queues, so together they check all.
        """
        requests = sum(1 + len(known.exchanges()) for _, known in self._knowledge.all_known())
        return forksafe.rng.random() * requests < _CHECK_REQUESTS

    def _changes(self, queue: str, wanted: Desired, observed: Observed) -> list[Change]:
        """The difference, as far as it can be told from the bindings that are known."""
        if self._knowledge.is_complete(queue):
            return diff(wanted, observed)
        return [] if found_in_place(wanted, observed) else diff(replace(wanted, is_settled=False), observed)

    def recheck(self, queue: str) -> None:
        """Look again after a write, when AWS shows what came of it: another process may have written over it."""
        if self._knowledge.known(queue) is None:
            return
        with self._reconciler.flights(queue):
            logger.debug("Checking queue %s after a write.", queue)
            try:
                self._reconciler.apply_again(queue)
            except (QueueNotFound, TopicNotFound) as exc:
                logger.debug("Queue %s is gone: %s", queue, exc)

    def heal_later(self, url: QueueUrl) -> None:
        """Have :meth:`check_bindings` compare a queue's tags with what was declared."""
        self._unhealed[url] = None

    def _heal_next(self, queue: str) -> None:
        """Compare the tags of a queue with what was declared, if that was asked for: a queue a minute at most."""
        names = self._queues.levels(queue)
        for url in list(self._unhealed):
            if self._clock() - self._healed_at >= _HEAL_S and self._queues.name_of(url) in names:
                self._healed_at = self._clock()
                del self._unhealed[url]
                self._heal(url)

    def _heal(self, url: QueueUrl) -> None:
        """Make a queue permanent that was temporary once, and record bindings whose tags were removed."""
        queue = self._queues.name_of(url)
        spec = self._queues.spec(queue) if queue is not None else None
        if queue is None or spec is None:
            return
        with self._reconciler.flights(queue):
            tags = self._reader.tags(url)
            self._on_tags(url, spec.kind, tags)
            known = self._knowledge.known(queue)
            if known is None or self._knowledge.is_complete(queue):
                return
            found = self._knowledge.understood(queue, url, tags)
            missing = [one for one in known.bindings - found.bindings if one.exchange not in found.unfiltered]
            self._knowledge.learn(queue, found)
            for binding in sorted(missing):
                logger.warning(
                    "HAKE307 Queue %s has no tag for its binding to exchange %s with key %r; writing the tag again. "
                    "If a tool removes tags that it does not know, configure it to ignore those that start with hake:.",
                    queue, binding.exchange, binding.routing_key, extra=fields(queue=queue, exchange=binding.exchange),
                )  # fmt: skip
                self._knowledge.doubt(queue)
                self._reconciler.bind(queue, binding, None)
