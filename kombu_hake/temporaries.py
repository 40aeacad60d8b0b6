"""Exclusive and auto-delete queues of one connection.

Such a queue is created late, at the next thing that is done on the connection: only then is it known whether it is fed
by a subscription. If so it gets a physical name of its own per incarnation, because AWS refuses a deleted name for
sixty seconds, and kombu deletes and declares again within one process. A queue that is addressed by its name (a reply
queue, a result queue) keeps its name.

With the connection go: exclusive queues, queues with an incarnation's name (nobody else can know it), and auto-delete
queues that were consumed here. Where nothing may be made (``topology``), the queues of exchanges that the user can do
without are given up. A process that only declared an auto-delete queue never deletes it: ``rpc://`` declares
on the producer's connection.
"""

from __future__ import annotations

import logging
from uuid import uuid4

from kombu_hake import forksafe
from kombu_hake.exceptions import AccessDenied, HakeError, TopologyError
from kombu_hake.queues import QueueSpec
from kombu_hake.topology import Topology

__all__ = ["Temporaries"]

logger = logging.getLogger(__name__)


class Temporaries:
    """Creates the temporary queues of one connection when they are needed, and removes them with it."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The queues are the parent's."""
        self._fresh()

    def _fresh(self) -> None:
        self._pending: dict[str, QueueSpec] = {}
        self._created: dict[str, QueueSpec] = {}
        self._incarnated: set[str] = set()
        self._consumed: set[str] = set()
        self._given_up: set[str] = set()

    def declare(self, spec: QueueSpec) -> None:
        """Take note; :meth:`create` or :meth:`create_fed` follows."""
        if spec.name not in self._created:
            self._pending[spec.name] = spec

    def create_fed(self, queue: str, exchange: str) -> None:
        """Create *queue*, if it is one of ours and waits, under a name of this incarnation.

        Where the user can do without *exchange* and creating a queue is denied, it is given up.

        Raises:
            AccessDenied: creating the queue is denied.
            TopologyError: with ``topology=verify`` or ``assume``, unless the user can do without *exchange*.
        """
        spec = self._pending.get(queue)
        if spec is not None and not self._topology.makes:
            self._take_as_made(spec, exchange)
        elif spec is not None:
            physical = f"{self._topology.queues.physical(queue)[:47]}-{uuid4().hex}"
            try:
                self._create(spec, physical)
            except AccessDenied as exc:
                if not self._topology.gives_up(exchange, exc):
                    raise
                del self._pending[queue]
                self._given_up.add(queue)
            else:
                self._incarnated.add(queue)

    def create(self) -> None:
        """Create all that waits, under their own names."""
        for spec in list(self._pending.values()):
            if self._topology.makes:
                self._create(spec, None)
            else:
                self._take_as_made(spec)

    def is_given_up(self, queue: str) -> bool:
        """Whether the queue could not be made, and the user can do without it."""
        return queue in self._given_up

    def consumed(self, queue: str) -> None:
        """This connection consumes from the queue."""
        self._consumed.add(queue)

    def forget(self, queue: str) -> None:
        """The queue was deleted by its user."""
        self._pending.pop(queue, None)
        self._created.pop(queue, None)
        self._incarnated.discard(queue)
        self._given_up.discard(queue)

    def delete_all(self) -> None:
        """Delete what goes with the connection, subscriptions first. Faults are logged: the janitor comes later."""
        self._pending.clear()
        for queue, spec in list(self._created.items()):
            mine = spec.exclusive or queue in self._incarnated or (spec.auto_delete and queue in self._consumed)
            self.forget(queue)
            if not mine:
                continue
            try:
                self._topology.delete_queue(queue)
            except HakeError as exc:
                logger.info("Temporary queue %s was not removed: %s", queue, exc)

    def _take_as_made(self, spec: QueueSpec, exchange: str = "") -> None:
        """Nothing is made: do without the queue, or use one that was made by somebody else, or raise."""
        del self._pending[spec.name]
        if exchange and self._topology.can_do_without(exchange):
            self._given_up.add(spec.name)
        elif self._topology.is_made(spec.name):
            self._create(spec, None)
        else:
            raise TopologyError(
                f"Temporary queue {spec.name!r} can't be had: only topology=auto makes queues. Use topology=auto, name "
                "the queue in predefined_queues, or do without what needs it (rpc:// results, replies to remote "
                "control)."
            )

    def _create(self, spec: QueueSpec, physical: str | None) -> None:
        self._topology.declare_queue(spec, physical=physical)
        self._created[spec.name] = spec
        self._pending.pop(spec.name, None)
