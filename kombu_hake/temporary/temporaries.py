"""Exclusive, auto-delete and expiring queues, as one connection declares and consumes them.

Making
    An exclusive or auto-delete queue is created late, at the next thing that is done on the connection: only then is it
    known whether it is fed by a subscription. If so, and it is exclusive, it gets a physical name of its own per
    incarnation, because AWS refuses a deleted name for sixty seconds, and kombu deletes and declares again within one
    process. A queue that is addressed by its name (a reply queue, a result queue), or shared, keeps its name. Where
    nothing may be created (``topology``), the queues of best-effort exchanges are disabled.

Going
    * exclusive: with the connection. So do the queues of kombu's mailboxes, which older releases of kombu don't declare
      as exclusive; a reply queue goes two minutes after its last reply.
    * auto-delete: some time after the last consumer *anywhere* has left; a janitor removes it, so that a worker that is
      restarted finds it. One with a UUID in its name cannot be needed again: it is deleted when its last consumer
      closes the connection. A process that only declared it never deletes it: ``rpc://`` declares on the producer's
      connection.
    * expires: never at a stop. A janitor removes it.

    What a crash leaves behind is a janitor's, too (:mod:`kombu_hake.temporary.janitor`).
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from kombu_hake.amqp import QueueUrl, has_uuid, is_incarnation, is_mailbox
from kombu_hake.aws import SingleFlight, forksafe
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, HakeError, TopologyError
from kombu_hake.quoting import fields, guarded
from kombu_hake.temporary.presence import Presence
from kombu_hake.topology import QueueSpec, Topology

__all__ = ["Temporaries"]

logger = guarded(logging.getLogger(__name__))


class Temporaries:
    """Creates the temporary queues of one connection when they are needed, and leaves or removes them with it."""

    def __init__(self, topology: Topology, presence: Presence) -> None:
        self._topology = topology
        self._presence = presence
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The queues are the parent's."""
        self._fresh()

    def _fresh(self) -> None:
        self._flights = SingleFlight()
        self._pending: dict[str, QueueSpec] = {}
        self._created: dict[str, QueueSpec] = {}
        #: SQS queue (a level, where there are priorities) to its URL, of those that go with this connection.
        self._owned: dict[str, QueueUrl] = {}
        self._retired: set[str] = set()
        self._consumers: Counter[str] = Counter()
        self._was_consumed: dict[str, list[QueueUrl]] = {}
        self._given_up: set[str] = set()
        #: Auto-delete queues that did not exist before.
        self._made: set[str] = set()

    # --- making

    def declare(self, spec: QueueSpec) -> None:
        """Record the declaration; :meth:`create` or :meth:`create_fed` follows."""
        if is_mailbox(spec.name):
            spec = replace(spec, exclusive=True)
        with self._flights(spec.name):
            if spec.name in self._retired:
                self._retired.discard(spec.name)
                revived = [self._presence.revive(url) for url in self._urls_owned(spec.name)]
                if not all(revived):
                    self.forget(spec.name)
            if spec.name not in self._created:
                self._pending[spec.name] = spec

    def create_fed(self, queue: str, exchange: str) -> None:
        """Create *queue*, if it is one of ours and waits; an exclusive one under a name of this incarnation.

        If *exchange* is best effort and creating a queue is denied, the queue is disabled.

        Raises:
            AccessDenied: creating the queue is denied.
            TopologyError: with ``topology=verify`` or ``assume``, unless *exchange* is best effort.
        """
        spec = self._pending.get(queue)
        if spec is not None and not self._topology.makes:
            self._take_as_made(spec, exchange)
        elif spec is not None:
            try:
                self._create(spec, self._topology.incarnation(queue) if spec.exclusive else None, exchange)
            except AccessDenied as exc:
                if not self._topology.gives_up(exchange, exc):
                    raise
                del self._pending[queue]
                self._given_up.add(queue)

    def create(self) -> None:
        """Create all that waits, under their own names."""
        for spec in list(self._pending.values()):
            if self._topology.makes:
                self._create(spec, None)
            else:
                self._take_as_made(spec)

    def make_again(self, queue: str) -> QueueUrl | None:
        """As :meth:`kombu_hake.topology.topology.Topology.make_again`, for a queue that this connection may own or
        consume.
        """
        with self._flights(queue):
            before = self._owned.get(queue)
            url = self._topology.make_again(queue)
            if url is not None and before is not None:
                self._presence.leave(before, self, now=True, is_deleted=True)
                self._owned[queue] = url
                self._presence.own(url, self, is_written=True)
            elif url is not None and queue in self._was_consumed:
                self._join(queue)
            return url

    def is_given_up(self, queue: str) -> bool:
        """Return True if the queue could not be created, and is best effort."""
        return queue in self._given_up

    # --- using

    def consumed(self, queue: str) -> None:
        """A consumer of this connection starts."""
        self._consumers[queue] += 1
        if self._topology.is_managed(queue):
            self._join(queue)

    def cancelled(self, queue: str) -> None:
        """A consumer of this connection ends."""
        self._consumers[queue] -= 1
        if self._consumers[queue] <= 0 and queue not in self._owned:
            for url in self._was_consumed.get(queue, ()):
                self._presence.leave(url, self, now=False)

    def got(self, queue: str, url: QueueUrl) -> None:
        """A message of the queue was requested, other than by consuming."""
        if self._topology.is_managed(queue) and not self._presence.is_used(url):
            spec = self._topology.queues.spec(queue)
            self._topology.signs.touch(url, spec.kind if spec is not None else None)

    def retire(self, queue: str) -> None:
        """A reply queue has had its replies: it goes soon, unless it is declared again."""
        if queue in self._owned:
            self._retired.add(queue)
            for url in self._urls_owned(queue):
                self._presence.retire(url)

    # --- going

    def forget(self, queue: str) -> None:
        """Forget a queue that its user deleted."""
        self._pending.pop(queue, None)
        self._created.pop(queue, None)
        self._given_up.discard(queue)
        self._retired.discard(queue)
        for level in self._topology.queues.levels(queue):
            url = self._owned.pop(level, None)
            if url is not None:
                self._presence.leave(url, self, now=True, is_deleted=True)

    def delete_all(self) -> None:
        """Delete or leave all queues, subscriptions first. Faults are logged: a janitor removes the rest."""
        self._pending.clear()
        consumed = dict(self._was_consumed)
        self._was_consumed.clear()
        for queue in list(self._created):
            with self._flights(queue):
                self._remove_owned(queue)
        for queue, urls in consumed.items():
            self._leave(queue, urls)
        self._created.clear()
        self._owned.clear()

    # --- called by the thread of the heartbeats

    def on_gone(self, url: QueueUrl) -> None:
        """Recreate a queue that is used here and was deleted."""
        queue = self._name_of(url)
        if queue is not None:
            self.make_again(queue)

    def on_condemned(self, url: QueueUrl) -> None:
        """A janitor was about to delete a queue that is used here, and may have removed its subscriptions."""
        queue = self._name_of(url)
        if queue is not None:
            logger.warning(
                "HAKE502 Queue %s was about to be removed as abandoned; it is kept.", queue, extra=fields(queue=queue)
            )
            self._topology.check_bindings(queue)

    def on_retired(self, url: QueueUrl) -> None:
        """A reply queue has not been wanted again for two minutes."""
        queue = self._name_of(url)
        if queue is not None:
            with self._flights(queue):
                if queue in self._retired:
                    self._remove_owned(queue)

    # --- inside

    def _urls_owned(self, queue: str) -> list[QueueUrl]:
        return [self._owned[level] for level in self._topology.queues.levels(queue) if level in self._owned]

    def _name_of(self, url: QueueUrl) -> str | None:
        owned = next((queue for queue, known in list(self._owned.items()) if known == url), None)
        return owned or next((queue for queue, urls in list(self._was_consumed.items()) if url in urls), None)

    def _join(self, queue: str) -> None:
        spec = self._topology.queues.spec(queue)
        declared = spec.kind if spec is not None else None
        urls = [self._topology.queues.url(level) for level in self._topology.queues.levels(queue)]
        for url in urls:
            self._presence.join(url, self, declared)
        self._was_consumed[queue] = urls

    def _remove_owned(self, queue: str) -> None:
        """Delete a queue that ends with this connection, unless another process uses it."""
        urls = self._urls_owned(queue)
        if not urls:
            return
        try:
            is_last = [self._presence.leave(url, self, now=False) for url in urls]
            if not all(is_last):
                return  # another connection of this process has it too
            if not is_incarnation(self._topology.queues.physical(queue)) and self._has_others(urls, if_unknown=False):
                for url in urls:
                    self._presence.leave(url, self, now=True)
                return
            self.forget(queue)
            self._topology.delete_queue(queue)
        except HakeError as exc:
            logger.info("Temporary queue %s was not removed: %s", queue, exc)

    def _leave(self, queue: str, urls: list[QueueUrl]) -> None:
        """Leave a queue that others may use; delete it if it is auto-delete and cannot be needed again."""
        spec = self._topology.queues.spec(queue)
        # Where tagging is denied, there are no heartbeats; but a queue that did not exist before is ours.
        used = [url for url in urls if queue in self._made or self._presence.is_used(url)]
        is_last = [self._presence.leave(url, self, now=False) for url in used]
        if not used or not all(is_last):
            return
        is_unique = spec is not None and spec.kind.auto_delete and has_uuid(queue)
        is_over = is_unique and not self._has_others(used, if_unknown=True)
        still = [self._presence.leave(url, self, now=True, is_deleted=is_over) for url in used]
        if is_over and all(still):
            try:
                self._topology.delete_queue(queue)
            except HakeError as exc:
                logger.info("Temporary queue %s was not removed: %s", queue, exc)

    def _has_others(self, urls: list[QueueUrl], *, if_unknown: bool) -> bool:
        """Return True if another process uses one of them; *if_unknown* if reading that is denied.

        Yes where AWS can't be asked: a janitor removes the queue if it is left behind for nothing.
        """
        try:
            return any(self._topology.signs.has_others(url) for url in urls)
        except BrokerUnavailable as exc:
            logger.info("Cannot check whether others use a temporary queue, so it stays: %s", exc)
            return True
        except HakeError as exc:
            logger.info("Cannot check whether others use a temporary queue: %s", exc)
            return if_unknown

    def _take_as_made(self, spec: QueueSpec, exchange: str = "") -> None:
        """Nothing may be created: disable the queue, use an existing one, or raise."""
        del self._pending[spec.name]
        if exchange and self._topology.can_do_without(exchange):
            self._given_up.add(spec.name)
        elif self._topology.queues.find(spec.name) is not None:
            self._create(spec, None)
        else:
            raise TopologyError(
                f"Temporary queue {spec.name!r} cannot be created: that needs topology=auto. Use topology=auto, name "
                "the queue in predefined_queues, or disable what needs it (rpc:// results, replies to remote "
                "control)."
            )

    def _create(self, spec: QueueSpec, physical: str | None, fed_by: str = "") -> None:
        is_new = self._topology.declare_queue(spec, physical=physical, fed_by=fed_by)
        self._created[spec.name] = spec
        self._pending.pop(spec.name, None)
        if is_new:
            self._made.add(spec.name)
        if spec.exclusive and self._topology.is_managed(spec.name):
            for level in self._topology.queues.levels(spec.name):
                url = self._owned[level] = self._topology.queues.url(level)
                self._presence.own(url, self, is_written=is_new)
