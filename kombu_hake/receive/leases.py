"""Renew the leases of messages that are not settled, and delete or release the messages that are, in batches.

The life of a lease is a table in :mod:`kombu_hake.receive.delivery`; the requests are sent, and retried, by
:mod:`kombu_hake.receive.settling`. This module decides when.

Threads
    One keeper: an ack waits at most a tenth of a second for others, and a lease is renewed after half of its time. It
    starts when it is needed and ends with :meth:`Leases.stop`. Renewals do not depend on the main thread. ``on_lost``
    gets each lost lease once, in the keeper's thread or in a sending thread.

    A connection that is dropped without being closed calls :meth:`Leases.disown`; the keeper then releases all its
    messages and ends. Otherwise they would stay hidden and unsettled for twelve hours.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from kombu_hake.amqp import FIFO_SUFFIX, MAX_BATCH_ENTRIES, SQS_MAX_VISIBILITY_S, Pointer, QueueUrl
from kombu_hake.aws import Background, Clients, Vital, forksafe
from kombu_hake.exceptions import BrokerUnavailable, HakeError, QueueNotFound
from kombu_hake.quoting import fields, guarded
from kombu_hake.receive.delivery import Event, Lease, LeaseState, Outcome, Why, after, lost_text
from kombu_hake.receive.settling import First, Kind, Request, Settling

__all__ = ["Leases"]

logger = guarded(logging.getLogger(__name__))
#: AWS refuses an extension past twelve hours since the receive; stop a little before.
_LIFE_S = SQS_MAX_VISIBILITY_S - 60
#: How often the keeper checks whether the connection still exists.
_LOOK_UP_S = 2.0
#: How long :meth:`Leases.stop` waits for idle threads.
_END_S = 1.0
_GIVE_BACK_S = 5.0


class Leases:
    """Holds, renews and settles the leases of one connection. Safe to use from any thread."""

    def __init__(
        self,
        clients: Clients,
        *,
        visibility_s: int,
        linger_s: float,
        clock: Callable[[], float] = time.monotonic,
        on_lost: Callable[[Lease, Why], None] = lambda lease, why: None,
        on_deleted: Callable[[Sequence[Pointer]], None] = lambda pointers: None,
        on_given_back: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            on_lost: Called in one of our threads; must neither block nor raise.
            on_deleted: As for :class:`kombu_hake.receive.settling.Settling`; likewise.
            on_given_back: Called in one of our threads after a dropped connection has released its messages.
        """
        self._clients = clients
        self._on_lost = on_lost
        self._on_deleted = on_deleted
        self._on_given_back = on_given_back
        self._visibility_s = visibility_s
        self._linger_s = linger_s
        self._clock = clock
        self._keeper = Background(self._keep, "hake-keeper", "the lease keeper", after_error_s=_LOOK_UP_S)
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Drop the parent's leases: the parent settles them."""
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.RLock()
        self._held: OrderedDict[int, Lease] = OrderedDict()  # by id(lease), earliest deadline first
        self._acks: dict[QueueUrl, list[Lease]] = {}
        self._acks_due: dict[QueueUrl, float] = {}
        self._settling = Settling(
            self._clients,
            visibility_s=self._visibility_s,
            clock=self._clock,
            on_renewed=self._renewed,
            on_refused=self._lost,
            on_deleted=self._on_deleted,
        )
        self._is_disowned = False
        #: Queues in which :meth:`release` has made messages visible.
        self.given_back: set[QueueUrl] = set()
        self._hidden: list[float] = []
        #: When to look for leases that have run out.
        self._look_at = math.inf
        #: When the keeper wakes up without being woken; -inf if it has been woken, inf while it works.
        self._keeper_wakes_at = math.inf
        self._stopping = False

    def __repr__(self) -> str:
        waiting = sum(len(leases) for leases in self._acks.values())
        return f"<Leases held={len(self._held)} acks waiting={waiting} requests={self._settling.unanswered}>"

    # --- for the rest of the package

    def now(self) -> float:
        """Monotonic seconds, by the clock of the leases."""
        return self._clock()

    def hold(self, leases: Sequence[Lease]) -> None:
        """Renew these leases until they are settled."""
        with self._lock:
            for lease in leases:
                self._held[id(lease)] = lease
            ends_at = min([lease.held_until for lease in leases], default=math.inf)
            self._look_at = min(self._look_at, ends_at)
            self._have_keeper_at(ends_at - self._visibility_s / 2)

    def ack(self, lease: Lease, first: First | None = None) -> None:
        """Have the message deleted. Returns at once; the request follows within the linger time.

        Args:
            first: What AWS must accept first. The lease is not renewed meanwhile.
        """
        with self._lock:
            if not self._transition(lease, Event.ACK):
                return
            if first is not None:
                self._settling.submit(Request("ack", lease.url, [lease], first))
                return
            waiting = self._acks.setdefault(lease.url, [])
            waiting.append(lease)
            if len(waiting) >= MAX_BATCH_ENTRIES or self._stopping or lease.url.endswith(FIFO_SUFFIX):
                self._send_acks(lease.url)  # in a FIFO queue the next message of the group waits for this one
            elif len(waiting) == 1:
                self._acks_due[lease.url] = due = self._clock() + self._linger_s
                self._have_keeper_at(due)

    def hide(self, lease: Lease, seconds: int) -> None:
        """Hide the message for *seconds*, then have it redelivered. The lease ends."""
        with self._lock:
            if not self._let_go(lease):
                return
            lease.hide_s = seconds
            self._hidden.append(self._clock() + seconds)
            self._settling.submit(Request("release", lease.url, [lease]))

    def hidden(self) -> int:
        """The number of messages that :meth:`hide` hides now."""
        with self._lock:
            now = self._clock()
            self._hidden = [until for until in self._hidden if until > now]
            return len(self._hidden)

    def abandon(self, lease: Lease) -> None:
        """Let the lease expire: the message is redelivered after its visibility timeout."""
        with self._lock:
            is_ours = self._let_go(lease)
        if is_ours and self._clients.telemetry is not None:
            self._clients.telemetry.metrics.ended(lease.queue, Outcome.ABANDONED.value)

    def stop_renewing(self, lease: Lease) -> None:
        """Do not renew the lease any more. It can be settled until its visibility timeout ends."""
        with self._lock:
            lease.is_renewed = False

    def release(self, leases: Sequence[Lease]) -> None:
        """Make the messages visible to others immediately, in requests of up to ten."""
        by_url: dict[QueueUrl, list[Lease]] = {}
        with self._lock:
            for lease in leases:
                if self._let_go(lease):
                    by_url.setdefault(lease.url, []).append(lease)
            self.given_back.update(by_url)
            for url, group in by_url.items():
                for start in range(0, len(group), MAX_BATCH_ENTRIES):
                    self._settling.submit(Request("release", url, group[start : start + MAX_BATCH_ENTRIES]))

    def turn_away(self, leases: Sequence[Lease]) -> None:
        """Release messages of one queue that were received but not held; in this thread, even after :meth:`stop`."""
        self._settling.do(Request("release", leases[0].url, leases))

    def flush(self, timeout_s: float) -> bool:
        """Send what waits, and wait for the answers. Returns True if all came in time."""
        with self._lock:
            for url in list(self._acks):
                self._send_acks(url)
        unanswered = self._settling.wait(timeout_s)
        if unanswered:
            logger.warning("HAKE105 AWS did not answer %d requests for acks and releases in time.", unanswered)
        return not unanswered

    def stop(self, timeout_s: float) -> None:
        """Flush, then end the threads. Messages that are still held are redelivered after their visibility timeout."""
        with self._lock:
            self._stopping = True
            self._settling.hurry()
        self.flush(timeout_s)
        self._settling.stop(_END_S)
        self._keeper.stop(_END_S)

    def look_after(self) -> None:
        """Do the work of threads that cannot be started. The consuming thread calls this regularly.

        If a machine has run out of threads, acks are still sent and leases renewed, only later.
        """
        with self._lock:
            if self._stopping or not (self._held or self._acks or self._settling.unanswered):
                return
            self._have_keeper()
        if not self._keeper.is_alive:
            self._keep_once()
        self._settling.help()

    def vitals(self) -> list[Vital]:
        """The keeper, if it runs or has something to do. Takes no lock: the caller must not get stuck with it."""
        is_alive = self._keeper.is_alive
        if self._stopping or not (is_alive or self._held or self._acks):
            return []
        return [Vital("the lease keeper", self._keeper.pulse, is_alive)]

    def disown(self) -> None:
        """Record that the connection was dropped. Takes no lock: a garbage collection may run anywhere."""
        self._is_disowned = True

    def give_all_back(self) -> None:
        """Release all held messages, then stop."""
        with self._lock:
            if self._held:
                logger.warning(
                    "HAKE109 A connection was dropped without being closed; releasing its %d messages.", len(self._held)
                )
            self.release(list(self._held.values()))
        self.stop(_GIVE_BACK_S)
        self._on_given_back()

    def renewals_due(self, now: float) -> list[tuple[QueueUrl, list[Lease]]]:
        """Leases to renew now, in request-sized groups. Changes nothing, calls nothing.

        Args:
            now: Monotonic seconds, from the clock given to the constructor.
        Returns:
            Each group is one queue and 1..10 leases, earliest deadline first; ``[]`` when none is due. Settled and
            lost leases never appear, nor those that AWS would no longer extend.
        Source:
            SQS API, ChangeMessageVisibilityBatch: 10 entries; 12 h in total since the receive.
        """
        groups: list[tuple[QueueUrl, list[Lease]]] = []
        open_groups: dict[QueueUrl, list[Lease]] = {}
        for lease in self._held.values():
            if lease.deadline - now > self._visibility_s / 2:
                break
            if not self._may_renew(lease, now):
                continue
            group = open_groups.get(lease.url)
            if group is None or len(group) == MAX_BATCH_ENTRIES:
                group = open_groups[lease.url] = []
                groups.append((lease.url, group))
            group.append(lease)
        return groups

    # --- inside; the lock is held

    def _may_renew(self, lease: Lease, now: float) -> bool:
        """Return True if it should be renewed, and AWS extends it: at most to twelve hours since the receive."""
        return lease.is_renewed and now - lease.received_at <= _LIFE_S - self._visibility_s

    def _transition(self, lease: Lease, event: Event) -> bool:
        """Apply an event to a lease; False if it is ignored in the lease's state."""
        state = after(lease.state, event)
        if state is None:
            logger.debug("Ignoring for a lease that is %s: %s.", lease.state.value, event.value)
            return False
        lease.state = state
        if state not in (LeaseState.HELD, LeaseState.LAPSED):
            self._held.pop(id(lease), None)
        return True

    def _let_go(self, lease: Lease) -> bool:
        """End the lease; False if another consumer may have the message, which is then not ours to make visible."""
        was_held = not lease.is_lost
        return self._transition(lease, Event.RELEASE) and was_held

    def _send_acks(self, url: QueueUrl) -> None:
        self._acks_due.pop(url, None)
        leases = self._acks.pop(url, [])
        for start in range(0, len(leases), MAX_BATCH_ENTRIES):
            self._settling.submit(Request("ack", url, leases[start : start + MAX_BATCH_ENTRIES]))

    def _have_keeper(self) -> None:
        if not self._keeper.is_alive and not self._stopping:
            self._keeper.start()

    def _have_keeper_at(self, due: float) -> None:
        """Make the keeper check at *due*; it is not woken if it will be awake by then."""
        self._have_keeper()
        if due < self._keeper_wakes_at:
            self._keeper_wakes_at = -math.inf
            self._keeper.wake()

    def wake(self) -> None:
        """Make the keeper check immediately what is due, by the clock given to the constructor."""
        self._keeper.wake()

    # --- the keeper

    def _keep(self) -> float:
        """Do what is due. Return the seconds until the next work, or until the next check for a dropped connection."""
        if self._is_disowned:
            self.give_all_back()
        return self._keep_once()

    def _keep_once(self) -> float:
        """Send due acks and renewals, and report leases that ran out. Returns the seconds until the next check."""
        with self._lock:
            self._keeper_wakes_at = math.inf
            now = self._clock()
            lost = self._run_out(now)
            for url in [url for url, due in self._acks_due.items() if due <= now]:
                self._send_acks(url)
            for url, group in self.renewals_due(now):
                for lease in group:  # to the end of the order, so that it is not due again immediately
                    lease.deadline = now + self._visibility_s
                    self._held.move_to_end(id(lease))
                self._settling.submit(Request("renew", url, group))
            pause_s = min(self._pause(now), _LOOK_UP_S)
            self._keeper_wakes_at = now + pause_s
        for lease, why in lost:
            self._report(lease, why)
        return pause_s

    def _run_out(self, now: float) -> list[tuple[Lease, Why]]:
        """Leases that were not renewed, so that another consumer may have the message. They are retried once AWS
        answers again, except for those that AWS would no longer extend.
        """
        if now < self._look_at:
            return []
        found = []
        for lease in [lease for lease in self._held.values() if lease.held_until <= now]:
            is_over = not self._may_renew(lease, now)
            if self._transition(lease, Event.REFUSED if is_over else Event.RUN_OUT):
                found.append((lease, Why.CAP if is_over and lease.is_renewed else Why.LAPSED))
        self._look_at = min(map(self._ends_at, self._held.values()), default=math.inf)
        return found

    def _ends_at(self, lease: Lease) -> float:
        if lease.state is LeaseState.HELD:
            return lease.held_until
        return lease.received_at + _LIFE_S - self._visibility_s + 1

    def _pause(self, now: float) -> float:
        """Seconds until the next ack or renewal is due."""
        waits = [due - now for due in self._acks_due.values()]
        waits += [self._look_at - now] if self._held else []
        first = next(iter(self._held.values()), None)
        if first is not None:
            left = first.deadline - now
            half = self._visibility_s / 2
            # After a lease that AWS would not extend, others may be due within half of the time.
            waits.append(left - half if self._may_renew(first, now) else min(left, half))
        return max(0.01, min(waits, default=1.0))

    # --- what AWS answers

    def _renewed(self, leases: Sequence[Lease], asked_at: float) -> None:
        with self._lock:
            for lease in leases:
                lease.held_until = max(lease.held_until, asked_at + self._visibility_s)
                if lease.state is LeaseState.LAPSED:
                    logger.info("No other consumer has received %s meanwhile; holding it again.", lease.label)
                    self._look_at = min(self._look_at, lease.held_until)
                    self._transition(lease, Event.RENEWED)

    def _lost(self, lease: Lease, kind: Kind, exc: HakeError) -> None:
        if kind == "release":
            logger.info("A message was not released and stays hidden until its visibility timeout ends: %s", exc)
            return
        with self._lock:
            if kind == "renew" and id(lease) not in self._held:
                return
            if kind == "renew" and isinstance(exc, BrokerUnavailable):
                lease.deadline = self._clock() + self._visibility_s / 2  # due now: first in the order
                self._held.move_to_end(id(lease), last=False)
                self._keeper.wake()
                return
            if not self._transition(lease, Event.REFUSED):
                return
        gone = isinstance(exc, QueueNotFound)
        self._report(lease, Why.GONE if gone else Why.ACK_FAILED if kind == "ack" else Why.REFUSED, exc)

    def _report(self, lease: Lease, why: Why, detail: object = "") -> None:
        """Log and report a loss, once for each lease. Call it without the lock."""
        if lease.is_reported:
            return
        lease.is_reported = True
        if self._clients.telemetry is not None:
            self._clients.telemetry.metrics.lost(lease.queue, why.name.lower())
        if lease.about is not None:
            names = fields(queue=lease.about.queue, task_id=lease.about.task_id, message_id=lease.about.message_id)
            logger.error("HAKE101 %s", lost_text(lease, why, detail), extra=names)
        else:  # not handed over yet: it is dropped from the inbox
            logger.info("%s", lost_text(lease, why, detail))
        self._on_lost(lease, why)
