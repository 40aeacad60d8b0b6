"""Recreate what was removed from outside: queues with their bindings, subscriptions, topics."""

from __future__ import annotations

import logging
from typing import Protocol

from kombu_hake.amqp import Binding, BindingSet, ExchangeType, QueueUrl, is_incarnation, main_queue
from kombu_hake.aws import Once, SingleFlight
from kombu_hake.exceptions import BrokerUnavailable, QueueDeletedRecently, QueueNotFound, TopicNotFound
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.knowledge import Knowledge
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reconciler import Reconciler
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topics import Topics
from kombu_hake.topology.upkeep import Upkeep

__all__ = ["Repairer"]

logger = guarded(logging.getLogger(__name__))
#: Between two tries to create a queue whose name AWS refuses.
_AGAIN_S = 5.0
#: Of one binding, at once, when others delete the queue or the topic in the middle of it.
_BIND_TRIES = 10


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
        self, topology: Declarer, reconciler: Reconciler, knowledge: Knowledge, upkeep: Upkeep, chores: Chores
    ) -> None:
        self._knowledge = knowledge
        self._upkeep = upkeep
        self._chores = chores
        self._topology = topology
        self._reconciler = reconciler
        #: Queues that were recreated, until they are bound again too.
        self._unbound: dict[str, BindingSet] = {}
        self._flights = SingleFlight()
        #: What was logged, so that a fight with another tool does not fill the log.
        self._is_new = Once()

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
                queues = self._topology.queues
                spec = queues.spec(queue)
                is_given = queues.is_predefined(queue) or self._topology.topics.is_predefined(binding.exchange)
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
        queues = self._topology.queues
        urls = {level: queues.address(level) for level in queues.levels(queue)}
        self._topology.forget(queue)
        try:
            self._topology.declare_queue(spec, patience_s=0)
        except QueueDeletedRecently as exc:
            logger.warning(
                "HAKE320 Queue %s was deleted while it was being bound. AWS refuses its name for a minute; it is then "
                "recreated and bound in the background: %s", queue, exc, extra=fields(queue=queue),
            )  # fmt: skip
            for level, url in urls.items():
                queues.expect(level, url)
            return False
        return True

    def make_again(self, queue: str) -> QueueUrl | None:
        """Recreate a deleted queue with its bindings; None if this process never declared it."""
        topology, queues = self._topology, self._topology.queues
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
            spec = self._topology.queues.spec(queue)
            if queue not in self._unbound or spec is None:
                return  # a consumer has made it again, or its user deleted it
            try:
                self._topology.declare_queue(spec, patience_s=0)
                self._bind_again(queue)
            except (QueueDeletedRecently, BrokerUnavailable) as exc:
                logger.info("Queue %s can't be declared and bound again yet: %s", queue, exc)
                self._chores.after(_AGAIN_S, ("declare", queue), lambda: self._make(queue))

    def check_bindings(self, queue: str) -> None:
        """Compare the queue's policy and subscriptions with its bindings, and repair what was changed or removed.

        With a subscription or a topic that is gone, a queue just falls silent: neither SNS nor SQS tells its consumers.
        """
        if queue in self._unbound:
            self._bind_again(queue)
        self._upkeep.heal(queue)
        lost, reasons = self._upkeep.check(queue)
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

    def forget(self, queue: str) -> None:
        """The queue was deleted by its user."""
        self._unbound.pop(queue, None)

    def _bind_again(self, queue: str) -> None:
        """Restore the bindings of a recreated queue; those that fail are kept for the next try."""
        known = self._unbound.get(queue, BindingSet())
        for binding in sorted(known.bindings):
            self._topology.bind(queue, binding)
        for exchange in sorted(known.unfiltered):
            self._reconciler.bind_all(queue, exchange, self._topology.exchange_type(exchange) or "direct")
        self._unbound.pop(queue, None)
