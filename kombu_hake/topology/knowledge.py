"""What this process knows of the bindings of queues: from tags, and from what it bound or found in place itself.

Without tags it may be a part of them. For a message that matches no known binding the tags are read (:meth:`read`): AWS
rations such reads, so they are made in the background, a few minutes apart.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from kombu_hake.amqp import Binding, BindingSet, QueueUrl, from_tags
from kombu_hake.aws import Clients
from kombu_hake.config import Settings
from kombu_hake.exceptions import HakeError, InvalidName
from kombu_hake.quoting import escaped, fields, guarded
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.timings import BELIEVE_S, Timings
from kombu_hake.topology.topics import Topics

__all__ = ["Knowledge"]

logger = guarded(logging.getLogger(__name__))
#: Of queues whose damaged tags were logged; more are logged again.
_MOST_DAMAGED = 1_000
#: Between two reads of tags for messages that match no known binding, at least, on an emulator.
_REREAD_S = 2.0
#: After such a read, seconds.
_ASK_AGAIN_S = 4.0


class Knowledge:
    """The bindings of queues as this process last saw them. Safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        settings: Settings,
        queues: Queues,
        topics: Topics,
        reader: Reader,
        chores: Chores,
        timings: Timings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clients = clients
        self._namer = settings.namer
        self._queues = queues
        self._topics = topics
        self._reader = reader
        self._chores = chores
        self._timings = timings
        self._clock = clock
        self._known: dict[str, BindingSet] = {}
        #: When a binding was last seen to be in place, monotonic seconds.
        self._seen_at: dict[str, float] = {}
        #: Queues whose tags were read, so that all of their bindings are known.
        self._complete: set[str] = set()
        #: Queue to its bindings, or None, and when they were read (ms, AWS's clock; monotonic seconds).
        self._reads: dict[str, tuple[BindingSet | None, int, float]] = {}
        #: Queue to the keys of its tags that can't be read, as last logged.
        self._damaged: dict[str, frozenset[str]] = {}

    def known(self, queue: str) -> BindingSet | None:
        """The bindings as this process last saw them; no call."""
        return self._known.get(queue)

    def all_known(self) -> list[tuple[str, BindingSet]]:
        """(queue, bindings), sorted."""
        return sorted(self._known.items(), key=lambda item: item[0])

    def is_complete(self, queue: str) -> bool:
        """Return True if the queue's tags were read, so that :meth:`known` lacks no binding."""
        return queue in self._complete

    def is_seen(self, queue: str, binding: Binding) -> bool:
        """Return True if the binding was seen in place less than a minute ago."""
        known = self._known.get(queue)
        if known is None or self._clock() - self._seen_at.get(queue, float("-inf")) > BELIEVE_S:
            return False
        return binding in known.bindings or binding.exchange in known.unfiltered

    def learn(self, queue: str, bindings: BindingSet) -> None:
        """Record all bindings of a queue, as its tags say."""
        self._known[queue] = bindings
        self._complete.add(queue)
        self._queues.learn_max_priority(queue, bindings.max_priority)

    def saw(self, queue: str, binding: Binding | None = None) -> None:
        """Record that the known bindings of a queue, and this one, were seen in place."""
        if binding is not None:
            known = self._known.get(queue, BindingSet())
            self._known[queue] = replace(known, bindings=known.bindings | {binding})
        self._seen_at[queue] = self._clock()

    def doubt(self, queue: str) -> None:
        """Make the next bind check whether the known bindings are in place."""
        self._seen_at.pop(queue, None)

    def forget(self, queue: str) -> None:
        """Forget a queue: another one has its name now."""
        self._known.pop(queue, None)
        self._seen_at.pop(queue, None)
        self._complete.discard(queue)
        self._reads.pop(queue, None)

    # --- tags

    def understood(self, queue: str, url: QueueUrl, tags: Mapping[str, str]) -> BindingSet:
        """What the tags of a queue say; those that can't be read are ignored, with one warning."""
        found = from_tags(tags)
        if found.damaged and self._damaged.get(queue) != found.damaged:
            if len(self._damaged) > _MOST_DAMAGED:
                self._damaged.clear()
            keys = [shlex.quote(escaped(key, None)) for key in sorted(found.damaged)]
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

    def _can_be(self, exchange: str) -> bool:
        """Return True if the exchange can have a topic. A forged tag may name one that cannot."""
        try:
            self._namer.topic(exchange)
        except InvalidName:
            return self._topics.is_predefined(exchange)
        return True

    # --- for messages

    def read(self, queue: str, sent_ms: int | None = None) -> tuple[BindingSet | None, int, float]:
        """The bindings as their tags say, for a message that matches no known one.

        On AWS, which rations such reads, the next one is made in the background: at most once in ``tags_reread_s``, and
        when the message is so old that tags show every binding from before it was sent.

        Args:
            sent_ms: When the message was sent.
        Returns:
            The bindings, None where the tags, or one of them, can't be read; when they were read (ms, AWS's clock; 0
            for never); and in how many seconds it is worthwhile to ask again.
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

    def _read(self, queue: str) -> tuple[BindingSet | None, int]:
        read_at = self._clients.now_ms()
        try:
            url = self._queues.url(queue)
            found = self.understood(queue, url, self._reader.tags(url))
            self.learn(queue, found)
        except HakeError as exc:
            logger.info("The bindings of queue %s can't be read, so what is in doubt is delivered: %s", queue, exc)
            return None, read_at
        return None if found.is_partial else found, read_at
