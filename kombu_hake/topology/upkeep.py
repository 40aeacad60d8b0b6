"""Looks after queues that are bound: compares them with their bindings now and then, and mends what differs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from kombu_hake.amqp import Kind, QueueUrl
from kombu_hake.aws import forksafe
from kombu_hake.exceptions import QueueNotFound, TopicNotFound
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.convergence import Converger
from kombu_hake.topology.desired import Desired
from kombu_hake.topology.diff import Change, Subscribe, diff, found_in_place
from kombu_hake.topology.knowledge import Knowledge
from kombu_hake.topology.observed import Observed
from kombu_hake.topology.planning import Planner
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.reconciler import Reconciler

__all__ = ["Upkeep"]

logger = guarded(logging.getLogger(__name__))
#: Of the checks of all queues in one interval (``check_bindings``): 500 workers with 300 s make 10 a second.
_CHECK_REQUESTS = 6
#: Between two queues whose tags are compared with what was declared.
_HEAL_S = 60.0


class Upkeep:
    """Checks and mends queues that this process bound. Safe to share between threads."""

    def __init__(
        self,
        queues: Queues,
        reader: Reader,
        planner: Planner,
        knowledge: Knowledge,
        converger: Converger,
        reconciler: Reconciler,
        on_tags: Callable[[QueueUrl, Kind, Mapping[str, str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*on_tags*: is given a queue's URL, what it was declared to go with, and its tags, when they are healed."""
        self._queues = queues
        self._reader = reader
        self._planner = planner
        self._knowledge = knowledge
        self._converger = converger
        self._reconciler = reconciler
        self._on_tags = on_tags
        self._clock = clock
        #: Queues whose tags are yet to be compared with what was declared, and when that was done last.
        self._unhealed: dict[QueueUrl, None] = {}
        self._healed_at = float("-inf")

    def check(self, queue: str) -> tuple[list[str], list[str]]:
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
            observed = self._converger.look(wanted, self._reader.look(queue, url), self._planner.urls(wanted))
            changes = self._changes(queue, wanted, observed)
            if self._knowledge.known(queue) is not known or not changes:
                return [], []
            is_less = bool(diff(replace(wanted, is_settled=False), observed))
            lost = sorted({change.exchange for change in changes if isinstance(change, Subscribe)})
            reasons = [change.reason for change in changes if not isinstance(change, Subscribe)]
            self._reconciler.make(queue, url)
            return lost, list(dict.fromkeys(reasons)) if is_less and not lost else []

    def _is_turn(self) -> bool:
        """Whether to check a queue this time: a process with many queues checks each of them now and then, by chance.

        Each queue is offered once an interval. Workers of a fleet have the same queues, so together they check all.
        """
        requests = sum(1 + len(known.exchanges()) for _, known in self._knowledge.all_known())
        return forksafe.rng.random() * requests < _CHECK_REQUESTS

    def _changes(self, queue: str, wanted: Desired, observed: Observed) -> list[Change]:
        """The difference, as far as it can be told from the bindings that are known."""
        if not self._knowledge.is_complete(queue) and found_in_place(wanted, observed):
            return []
        if not self._knowledge.is_complete(queue):
            wanted = replace(wanted, is_settled=False)
        return diff(wanted, observed)

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
