"""Heartbeats: reads and writes the tags of :mod:`kombu_hake.amqp.ownership` for this process. Has no thread."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from uuid import uuid4

from kombu_hake.amqp import SQS_MAX_TAGS, Kind, QueueUrl, ownership
from kombu_hake.aws import Clients, TtlCache, forksafe
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, HakeError, QueueNotFound
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology import lookups
from kombu_hake.topology.spec import retention_s
from kombu_hake.topology.timings import Timings

__all__ = ["Signs", "whoami"]

logger = guarded(logging.getLogger(__name__))
#: Queues that are remembered as permanent, or as used lately, at most.
_MOST_KNOWN = 5_000


def whoami() -> str:
    """The name of this process for people: ``host/pid``."""
    return f"{socket.gethostname()}/{os.getpid()}"


class Signs:
    """Writes the heartbeats of this process, and reads those of others. Safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        settings: Settings,
        clock: Callable[[], float],
        looks_temporary: Callable[[QueueUrl], bool],
        heal_later: Callable[[QueueUrl], None],
        timings: Timings,
    ) -> None:
        """
        Args:
            looks_temporary: Whether a queue was created as temporary, found without reading its tags.
            heal_later: Has :meth:`heal` called with a queue's tags some time later.
        """
        self._looks_temporary = looks_temporary
        self._clients = clients
        self._heal_later = heal_later
        self._settings = settings
        #: How long a heartbeat is valid, seconds.
        self.limit_s = settings.temporary_queue_limit
        self._clock = clock
        self._timings = timings
        self.reset_after_fork()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Another process has another name."""
        self.name = uuid4().hex[:12]
        self._kinds: TtlCache[QueueUrl, Kind | None] = TtlCache(self._timings.kind_s, self._clock)
        self._touched: dict[QueueUrl, float] = {}
        #: Declared to stay, and healed.
        self._permanent: set[QueueUrl] = set()

    def now_s(self) -> float:
        """Seconds since the epoch, by AWS's clock."""
        return self._clients.now_ms() / 1000

    def at_creation(self, kind: Kind, *, owned: bool) -> dict[str, str]:
        """The tags with which a queue of this kind is created.

        Args:
            owned: It is ours alone.
        """
        tags = ownership.kind_tag(kind) | ownership.used_tag(self.now_s())
        return tags | self._heartbeat(self.name) if owned else tags

    def created(self, url: QueueUrl, kind: Kind) -> None:
        """Record a queue that was just created with :meth:`at_creation`."""
        self.forget(url)
        self._kinds.get(url, lambda: kind)
        self._touched[url] = self._clock()

    def forget(self, url: QueueUrl) -> None:
        """The queue is gone; another one may have its name."""
        self._kinds.forget(url)
        self._touched.pop(url, None)
        self._permanent.discard(url)

    def kind(self, url: QueueUrl, declared: Kind | None) -> Kind | None:
        """What ends a queue; None if it is permanent, or unknown. One request in ten minutes.

        While AWS cannot be reached, the answer is what it was declared with, and the next call asks again.

        AWS rations reads of tags. A queue that was declared here as permanent costs none, unless its attributes say
        that it was created as temporary: other queues are healed later.

        Args:
            declared: What this process declared it with; None if it did not. A queue that was temporary becomes what it
                was declared with. One that was not never becomes temporary.
        """
        try:
            if declared is not None and not declared:
                self._keep(url, declared)
                return None
            return self._kinds.get(url, lambda: self._read_kind(url, declared))
        except BrokerUnavailable as exc:
            logger.info("Whether queue %s is temporary can't be read now: %s", url, exc)
            return declared or None

    def _keep(self, url: QueueUrl, declared: Kind) -> None:
        if url in self._permanent:
            return
        if self._looks_temporary(url):  # a janitor may be about to remove it
            self._read_kind(url, declared)
        else:
            self._heal_later(url)
        if len(self._permanent) > _MOST_KNOWN:
            self._permanent.clear()
        self._permanent.add(url)

    def touch(self, url: QueueUrl, declared: Kind | None) -> None:
        """Record a declare or a get, which counts as use of a queue that expires. One request per minute."""
        now = self._clock()
        if now - self._touched.get(url, float("-inf")) < self._timings.touch_s:
            return
        if len(self._touched) > _MOST_KNOWN:
            self._touched.clear()
        self._touched[url] = now
        kind = self.kind(url, declared)
        if kind is None or kind.expires_s is None:
            return
        try:
            self._clients.sqs("tag_queue", QueueUrl=url, Tags=ownership.used_tag(self.now_s()))
        except QueueNotFound:
            self.forget(url)
        except HakeError as exc:
            logger.info("Cannot record the use of queue %s: %s", url, exc)

    def enter(self, url: QueueUrl) -> str:
        """Write a first heartbeat for a queue that others use too, and remove those that expired long ago.

        Returns:
            The name that it has: a shared one, if there is no room for another.
        """
        now_s, tags = self.now_s(), lookups.tags(self._clients, url)
        found = ownership.read(tags)
        users = found.users if found is not None else ()
        known = (self.name, ownership.OTHERS)
        dead = [user.name for user in users if user.until_s + user.limit_s < now_s and user.name not in known]
        has_room = found is None or ownership.room_for(tags, now_s, found, SQS_MAX_TAGS + len(dead))
        name = self.name if has_room else ownership.OTHERS
        if dead:
            self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=[ownership.user_key(one) for one in dead])
        self.renew(url, name)
        return name

    def renew(self, url: QueueUrl, name: str) -> None:
        """Write a heartbeat."""
        self._clients.sqs("tag_queue", QueueUrl=url, Tags=self._heartbeat(name))

    def leave(self, url: QueueUrl, name: str) -> None:
        """Record that this process has left the queue, which may be needed again for a while."""
        if name == ownership.OTHERS:
            return  # others may be alive under this name
        tags = ownership.user_tag(name, self.now_s(), self.limit_s, whoami(), has_left=True)
        try:
            self._clients.sqs("tag_queue", QueueUrl=url, Tags=tags)
        except HakeError as exc:
            logger.info("Cannot record that queue %s was left: %s", url, exc)

    def has_others(self, url: QueueUrl) -> bool:
        """Return True if another process uses the queue.

        Raises:
            HakeError: its tags can't be read.
        """
        found = ownership.read(lookups.tags(self._clients, url))
        return found is not None and any(user.name != self.name for user in found.live_users(self.now_s()))

    def is_condemned(self, url: QueueUrl) -> bool:
        """Return True if a janitor has noted that it is about to delete the queue."""
        return ownership.CONDEMNED_TAG in lookups.tags(self._clients, url)

    def pardon(self, url: QueueUrl) -> None:
        """Remove a janitor's note."""
        try:
            self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=[ownership.CONDEMNED_TAG])
        except HakeError as exc:
            logger.info("Cannot remove the note of a janitor from queue %s: %s", url, exc)

    def heal(self, url: QueueUrl, declared: Kind, tags: Mapping[str, str]) -> None:
        """Make a queue that was temporary what it was declared with, if that is something else."""
        found = ownership.read(tags)
        if found is None or str(declared) == str(found.kind):
            return
        try:
            if not declared:
                kind = str(found.kind)
                logger.warning(
                    "HAKE504 Queue %s was temporary (%s); it is now permanent, as declared here.", url, kind,
                    extra=fields(queue=url),
                )  # fmt: skip
                self._withdraw_proof(url)
            self._clients.sqs("tag_queue", QueueUrl=url, Tags=ownership.kind_tag(declared))
        except HakeError as exc:
            logger.info("Cannot change whether queue %s is temporary: %s", url, exc)

    def _read_kind(self, url: QueueUrl, declared: Kind | None) -> Kind | None:
        try:
            tags = lookups.tags(self._clients, url)
        except BrokerUnavailable:
            raise  # no answer, so nothing to remember
        except HakeError as exc:
            logger.info("Cannot read whether queue %s is temporary: %s", url, exc)
            return None
        found = ownership.read(tags)
        if found is None or declared is None:
            return found.kind if found is not None else None
        self.heal(url, declared, tags)
        return declared

    def _withdraw_proof(self, url: QueueUrl) -> None:
        """Give a permanent queue another retention than that of temporary ones, which would prove that it is one."""
        attributes = {"MessageRetentionPeriod": retention_s(self._settings, is_temporary=False)}
        try:
            self._clients.sqs("set_queue_attributes", QueueUrl=url, Attributes=attributes)
        except AccessDenied as exc:
            logger.info("Queue %s keeps the retention of a temporary queue: %s", url, exc)

    def _heartbeat(self, name: str) -> dict[str, str]:
        return ownership.user_tag(name, self.now_s(), self.limit_s, whoami())
