"""Heartbeats for the temporary queues that this process uses. One per process and settings.

Each queue that a connection of this process owns or consumes carries a tag of this process
(:mod:`kombu_hake.amqp.ownership`) with an expiry. A heartbeat renews it five times before it expires. Janitors remove
expired queues (:mod:`kombu_hake.temporary.janitor`).

Thread
    One, which starts with the first queue and ends after the last one has been left. It renews, deletes what was
    retired, and has the janitor take its steps in between. No lock is held during a request.

A late owner
    A process that was suspended or disconnected may find that its heartbeat had expired. It renews it first and looks
    for a janitor's note then; a janitor writes its note first and looks for a renewal then. So at least one of them
    sees the other: the queue is kept, or its owner knows that it has to be recreated.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from kombu_hake.amqp import Kind, QueueUrl
from kombu_hake.aws import Background, SingleFlight, forksafe
from kombu_hake.exceptions import AccessDenied, HakeError, QueueNotFound
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology import Signs

__all__ = ["Holder", "Presence", "Sweeper"]

logger = guarded(logging.getLogger(__name__))
#: How often a heartbeat is renewed while it is valid: four requests in a row may fail.
_BEATS = 5
#: How long a retired queue stays, because its name may be used again.
_RETIRED_S = 120.0


class Holder(Protocol):
    """A connection that owns or consumes queues. Its methods are called in the thread of :class:`Presence`."""

    def on_gone(self, url: QueueUrl) -> None:
        """The queue was deleted from outside."""

    def on_condemned(self, url: QueueUrl) -> None:
        """A janitor was about to delete the queue, and may have removed its subscriptions."""

    def on_retired(self, url: QueueUrl) -> None:
        """It is time to delete a queue that was retired."""


class Sweeper(Protocol):
    """Removes the queues of processes that are gone; see :class:`kombu_hake.temporary.janitor.Janitor`."""

    #: Monotonic seconds.
    due_at: float

    def start(self, is_own: Callable[[QueueUrl], bool]) -> None:
        """Start over. *is_own*: whether this process uses a queue."""

    def step(self) -> None:
        """Do a little, and say when more is due."""


class _Stay:
    """A queue that this process uses."""

    __slots__ = ("holders", "name", "next_at", "retire_at", "until_s", "url")

    def __init__(self, url: QueueUrl, name: str, until_s: float, next_at: float) -> None:
        self.url = url
        #: Of the tag: our own, or that of all for whom there was no room.
        self.name = name
        #: When the heartbeat expires, seconds since the epoch by AWS's clock.
        self.until_s = until_s
        #: Monotonic seconds.
        self.next_at = next_at
        self.retire_at: float | None = None
        #: Weak: a connection that was dropped without being closed uses nothing.
        self.holders: weakref.WeakSet[Holder] = weakref.WeakSet()

    def due_at(self) -> float:
        return self.next_at if self.retire_at is None else self.retire_at


class Presence:
    """The temporary queues that this process uses. Safe to share between threads."""

    def __init__(self, signs: Signs, sweeper: Sweeper, clock: Callable[[], float] = time.monotonic) -> None:
        self.signs = signs
        self._sweeper = sweeper
        self._clock = clock
        self._background = Background(
            self.work, "hake-presence", "the heartbeat of temporary queues", after_error_s=self.interval_s
        )
        # A sweep may wait for a throttled request, and a heartbeat must not wait for that.
        self._sweeps = Background(self.sweep, "hake-janitor", "the search for abandoned temporary queues")
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The queues are the parent's."""
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may publish in the middle of this
        self._flights = SingleFlight()
        self._stays: dict[QueueUrl, _Stay] = {}
        self._has_warned = False

    def __repr__(self) -> str:
        return f"<Presence {self.signs.name} in {sorted(self._stays)}>"

    @property
    def interval_s(self) -> float:
        """How often a heartbeat is renewed, seconds."""
        return self.signs.limit_s / _BEATS

    # --- called by connections

    def own(self, url: QueueUrl, holder: Holder, *, is_written: bool) -> None:
        """Hold a queue of which this process is the owner.

        Args:
            is_written: It was created just now, with :meth:`kombu_hake.topology.signs.Signs.at_creation`.
        """
        self._stay(url, holder, self.signs.name, self._expires_s() if is_written else 0.0)

    def join(self, url: QueueUrl, holder: Holder, declared: Kind | None) -> None:
        """A connection starts to consume. A queue that is not temporary costs one request, once in ten minutes.

        Args:
            declared: As for :meth:`kombu_hake.topology.signs.Signs.kind`.
        """
        with self._flights(url):
            if self._is_joined(url, holder) or self.signs.kind(url, declared) is None:
                return
            try:
                name = self.signs.enter(url)
            except QueueNotFound:
                return  # its consumer will see
            except HakeError as exc:
                logger.info("Cannot record the use of queue %s yet: %s", url, exc)
                self._stay(url, holder, self.signs.name, 0.0)
            else:
                self._stay(url, holder, name, self._expires_s())

    def is_used(self, url: QueueUrl) -> bool:
        """Return True if this process sends heartbeats for the queue."""
        return url in self._stays

    def leave(self, url: QueueUrl, holder: Holder, *, now: bool, is_deleted: bool = False) -> bool:
        """Record that a connection has left a queue. Return True if no other one of this process uses it.

        Args:
            now: Write it to the tags at once; otherwise when the next renewal is due, unless it is used again by then.
            is_deleted: There is nothing to write, because the caller deletes it.
        """
        with self._lock:
            stay = self._stays.get(url)
            if stay is None:
                return True
            stay.holders.discard(holder)
            if stay.holders:
                return False
            if not (now or is_deleted):
                return True
            del self._stays[url]
            self._background.wake()
        if not is_deleted:
            self.signs.leave(stay.url, stay.name)
        return True

    def retire(self, url: QueueUrl) -> None:
        """Record that an owned queue is not needed: :meth:`Holder.on_retired` follows in two minutes."""
        with self._lock:
            stay = self._stays.get(url)
            if stay is not None:
                stay.retire_at = self._clock() + _RETIRED_S
                self._background.wake()

    def revive(self, url: QueueUrl) -> bool:
        """Undo :meth:`retire`. Return False if it is too late, or the queue was never held."""
        with self._lock:
            stay = self._stays.get(url)
            if stay is None:
                return False
            if stay.retire_at is not None:
                stay.retire_at = None
                stay.next_at = self._clock()
                self._background.wake()
            return True

    # --- the thread

    def work(self) -> float | None:
        """Do what is due. Return the seconds until more is; None if no queue is left."""
        now = self._clock()
        with self._lock:
            due = [stay for stay in self._stays.values() if stay.due_at() <= now]
        for stay in due:
            self._attend(stay)
        with self._lock:
            if not self._stays:
                self._sweeps.wake()  # its thread ends, too
                return None
            return max(0.0, min(stay.due_at() for stay in self._stays.values()) - self._clock())

    def sweep(self) -> float | None:
        """Take the step of the sweeper that is due. Return the seconds until the next one; None if there is none."""
        if self._stays and self._sweeper.due_at <= self._clock():
            self._sweeper.step()
        due_at = self._sweeper.due_at
        return None if not self._stays or due_at == float("inf") else max(0.0, due_at - self._clock())

    def _attend(self, stay: _Stay) -> None:
        with self._lock:
            if self._stays.get(stay.url) is not stay:
                return  # left meanwhile
            holders = list(stay.holders)
            is_retired = stay.retire_at is not None and stay.retire_at <= self._clock()
            if is_retired or not holders:
                del self._stays[stay.url]
        if is_retired:
            for holder in holders:
                holder.on_retired(stay.url)
        elif holders:
            self._renew(stay)
        else:
            self.signs.leave(stay.url, stay.name)

    def _renew(self, stay: _Stay) -> None:
        now_s = self.signs.now_s()
        stay.next_at = self._clock() + self.interval_s
        try:
            self.signs.renew(stay.url, stay.name)
            if now_s > stay.until_s:
                self._look_for_note(stay, now_s)
        except QueueNotFound:
            self._report_gone(stay)
        except AccessDenied as exc:
            self._give_up(stay, exc)
        except HakeError as exc:
            logger.info("The heartbeat of queue %s is late: %s", stay.url, exc)
            stay.next_at = self._clock() + self.interval_s / 4
        else:
            stay.until_s = now_s + self.signs.limit_s

    def _look_for_note(self, stay: _Stay, now_s: float) -> None:
        if stay.until_s:
            silence_s = now_s - stay.until_s + self.signs.limit_s
            logger.warning(
                "HAKE501 This process sent no heartbeat for %.0f s, as if it had been suspended or disconnected; "
                "queue %s may have been removed.",
                silence_s, stay.url, extra=fields(queue=stay.url),
            )  # fmt: skip
        if self.signs.is_condemned(stay.url):
            for holder in list(stay.holders):
                holder.on_condemned(stay.url)
            self.signs.pardon(stay.url)

    def _report_gone(self, stay: _Stay) -> None:
        with self._lock:
            if self._stays.get(stay.url) is not stay:
                return  # we deleted it ourselves
            del self._stays[stay.url]
        self.signs.forget(stay.url)
        for holder in list(stay.holders):
            try:
                holder.on_gone(stay.url)
            except HakeError as exc:
                logger.warning(
                    "HAKE503 Queue %s was deleted and could not be recreated yet; retrying: %s", stay.url, exc,
                    extra=fields(queue=stay.url),
                )  # fmt: skip
                with self._lock:
                    self._stays.setdefault(stay.url, stay)

    def _give_up(self, stay: _Stay, exc: AccessDenied) -> None:
        with self._lock:
            if self._stays.get(stay.url) is stay:
                del self._stays[stay.url]
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "HAKE505 The temporary queues of this process send no heartbeats: a janitor elsewhere may remove "
                "them, and they are then recreated. Allow %s: %s",
                exc.action, exc,
            )  # fmt: skip

    # --- inside

    def _expires_s(self) -> float:
        return self.signs.now_s() + self.signs.limit_s

    def _stay(self, url: QueueUrl, holder: Holder, name: str, until_s: float) -> None:
        with self._lock:
            stay = self._stays.get(url)
            is_first = not self._stays
            if stay is None:
                # Phases differ, so that processes that start together do not beat together.
                phase = self.interval_s * forksafe.rng.uniform(0.5, 1.0) if until_s else 0.0
                stay = self._stays[url] = _Stay(url, name, until_s, self._clock() + phase)
            stay.retire_at = None
            stay.holders.add(holder)
            self._background.start()
            if is_first:
                self._sweeper.start(self.is_used)
                self._sweeps.start()

    def _is_joined(self, url: QueueUrl, holder: Holder) -> bool:
        with self._lock:
            stay = self._stays.get(url)
            if stay is not None:
                stay.holders.add(holder)
            return stay is not None
