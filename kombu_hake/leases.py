"""Settle path: what was received and is not settled, kept alive and then deleted or released, in batches.

The life of a lease
    ====================  =========  ========  ========  ====
    state / event         ack        release   refused   renewed
    ====================  =========  ========  ========  ====
    HELD                  SETTLED    RELEASED  LOST      HELD
    SETTLED               (ignored)  (ignored) LOST      (ignored)
    RELEASED              (ignored)  (ignored) RELEASED  (ignored)
    LOST                  (ignored)  (ignored) (ignored) (ignored)
    ====================  =========  ========  ========  ====

    A second settle is ignored: Celery may ack from a pool thread while the connection is being closed. "refused" is
    AWS's answer that the handle is no longer good; for an ack it is logged once, with what the message was, because
    that message will be, or was, delivered again.

Threads
    One keeper decides when: an ack waits for others at most ``ack_linger``, a lease is renewed when half of its time
    is over. Senders do the requests, as many at once as there are, up to a limit. All start when they are needed and
    end with :meth:`Leases.stop`. Renewals depend on nothing that the main thread does.
"""

from __future__ import annotations

import enum
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from kombu_hake import forksafe
from kombu_hake.clients import Clients
from kombu_hake.concurrency import backoff_s
from kombu_hake.error_table import entry_error
from kombu_hake.exceptions import BrokerUnavailable, HakeError, LeaseLost
from kombu_hake.limits import FIFO_SUFFIX, MAX_BATCH_ENTRIES, SQS_MAX_VISIBILITY_S
from kombu_hake.naming import QueueUrl

__all__ = ["Lease", "LeaseState", "Leases"]

logger = logging.getLogger(__name__)
#: With AWS ten milliseconds away one sender deletes some eight hundred messages a second.
_MAX_SENDERS = 12
_TRIES = 5
#: AWS refuses an extension past twelve hours since the receive; stop asking a little before.
_LIFE_S = SQS_MAX_VISIBILITY_S - 60


class LeaseState(enum.Enum):
    """Where a received message stands; see the table at the head of the module."""

    HELD = "held"
    SETTLED = "settled"
    RELEASED = "released"
    LOST = "lost"


class Lease:
    """Our hold on one received message."""

    __slots__ = ("deadline", "hide_s", "label", "receipt_handle", "received_at", "state", "url")

    def __init__(self, url: QueueUrl, receipt_handle: str, received_at: float, visibility_s: float) -> None:
        self.url = url
        self.receipt_handle = receipt_handle
        #: Monotonic seconds.
        self.received_at = received_at
        self.deadline = received_at + visibility_s
        self.state = LeaseState.HELD
        #: For how long :meth:`Leases.hide` hides it.
        self.hide_s = 0
        #: What the message is, for the log; set when it is known.
        self.label = ""


class _Request:
    """Leases of one queue that share a request."""

    __slots__ = ("kind", "leases", "url")

    def __init__(self, kind: str, url: QueueUrl, leases: Sequence[Lease]) -> None:
        self.kind = kind
        self.url = url
        self.leases = list(leases)


class Leases:
    """Holds, renews and settles the leases of one connection. Safe to use from any thread."""

    def __init__(
        self,
        clients: Clients,
        *,
        visibility_s: int,
        linger_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clients = clients
        self._visibility_s = visibility_s
        self._linger_s = linger_s
        self._clock = clock
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Forget the parent's leases: it will settle them."""
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._answered = threading.Condition(self._lock)
        self._held: OrderedDict[int, Lease] = OrderedDict()  # by id(lease), earliest deadline first
        self._acks: dict[QueueUrl, list[Lease]] = {}
        self._acks_due: dict[QueueUrl, float] = {}
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._unanswered = 0
        self._threads: list[threading.Thread] = []
        self._senders = 0
        self._idle_senders = 0
        self._hidden: list[float] = []
        self._stopping = False

    def __repr__(self) -> str:
        waiting = sum(len(leases) for leases in self._acks.values())
        return f"<Leases held={len(self._held)} acks waiting={waiting} requests={self._unanswered}>"

    # --- what the rest of the package says

    def now(self) -> float:
        """Monotonic seconds, of the clock that leases are measured by."""
        return self._clock()

    def hold(self, leases: Sequence[Lease]) -> None:
        """Keep these alive until they are settled."""
        with self._lock:
            for lease in leases:
                self._held[id(lease)] = lease
            if not self._threads and not self._stopping:
                self._start()

    def ack(self, lease: Lease) -> None:
        """Have the message deleted. Returns at once; the request follows within the linger time."""
        with self._lock:
            if not self._transition(lease, LeaseState.SETTLED):
                return
            waiting = self._acks.setdefault(lease.url, [])
            waiting.append(lease)
            if len(waiting) >= MAX_BATCH_ENTRIES or self._stopping or lease.url.endswith(FIFO_SUFFIX):
                self._send_acks(lease.url)  # in a FIFO queue the next message of the group waits for this one
            elif len(waiting) == 1:
                self._acks_due[lease.url] = self._clock() + self._linger_s
                self._changed.notify()

    def hide(self, lease: Lease, seconds: int) -> None:
        """Have the message come again after *seconds*, and hold it no longer."""
        with self._lock:
            if not self._transition(lease, LeaseState.RELEASED):
                return
            lease.hide_s = seconds
            self._hidden.append(self._clock() + seconds)
            self._enqueue(_Request("release", lease.url, [lease]))

    def hidden(self) -> int:
        """How many messages :meth:`hide` hides now."""
        with self._lock:
            now = self._clock()
            self._hidden = [until for until in self._hidden if until > now]
            return len(self._hidden)

    def abandon(self, lease: Lease) -> None:
        """Let the lease run out: the message comes again when its visibility timeout ends."""
        with self._lock:
            self._transition(lease, LeaseState.RELEASED)

    def release(self, leases: Sequence[Lease]) -> None:
        """Have the messages made visible to others at once, in requests of up to ten."""
        by_url: dict[QueueUrl, list[Lease]] = {}
        with self._lock:
            for lease in leases:
                if self._transition(lease, LeaseState.RELEASED):
                    by_url.setdefault(lease.url, []).append(lease)
            for url, group in by_url.items():
                for start in range(0, len(group), MAX_BATCH_ENTRIES):
                    self._enqueue(_Request("release", url, group[start : start + MAX_BATCH_ENTRIES]))

    def flush(self, timeout_s: float) -> bool:
        """Send what waits, and wait for the answers; whether all came in time."""
        deadline = self._clock() + timeout_s
        with self._lock:
            for url in list(self._acks):
                self._send_acks(url)
            while self._unanswered:
                left = deadline - self._clock()
                if left <= 0:
                    logger.warning("%d requests of acks and releases were not answered in time.", self._unanswered)
                    return False
                self._answered.wait(left)
        return True

    def stop(self, timeout_s: float) -> None:
        """Flush, then end the threads. What is still held is left to its visibility timeout."""
        with self._lock:
            self._stopping = True
        self.flush(timeout_s)
        with self._lock:
            threads, self._threads = self._threads, []
            for _ in range(self._senders):
                self._requests.put(None)
            self._senders = 0
            self._changed.notify_all()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout=1.0)

    def renewals_due(self, now: float) -> list[tuple[QueueUrl, list[Lease]]]:
        """Leases to renew now, in request-sized groups. Changes nothing, calls nothing.

        Args:
            now: Monotonic seconds, from the clock given to the constructor.
        Returns:
            Each group is one queue and 1..10 leases, earliest deadline first; ``[]`` when none is due. Settled and
            lost leases never appear, nor those that AWS would not extend any more.
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
        """Whether AWS would extend it: no further than twelve hours since the receive."""
        return now - lease.received_at <= _LIFE_S - self._visibility_s

    def _transition(self, lease: Lease, to: LeaseState) -> bool:
        if lease.state is not LeaseState.HELD:
            logger.debug("A lease that is %s can't become %s; ignored.", lease.state.value, to.value)
            return False
        lease.state = to
        self._held.pop(id(lease), None)
        if not self._threads and not self._stopping:
            self._start()
        return True

    def _send_acks(self, url: QueueUrl) -> None:
        self._acks_due.pop(url, None)
        leases = self._acks.pop(url, [])
        for start in range(0, len(leases), MAX_BATCH_ENTRIES):
            self._enqueue(_Request("ack", url, leases[start : start + MAX_BATCH_ENTRIES]))

    def _enqueue(self, request: _Request) -> None:
        self._unanswered += 1
        if self._unanswered > self._idle_senders and self._senders < _MAX_SENDERS:
            self._senders += 1
            self._start_thread(self._send, "hake-sender")
        self._requests.put(request)

    def _start(self) -> None:
        self._start_thread(self._keep, "hake-keeper")

    def _start_thread(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # --- the keeper

    def _keep(self) -> None:
        with self._lock:
            while not self._stopping:
                now = self._clock()
                self._bury(now)
                for url in [url for url, due in self._acks_due.items() if due <= now]:
                    self._send_acks(url)
                for url, group in self.renewals_due(now):
                    for lease in group:  # to the end of the line, so that it is not due again at once
                        lease.deadline = now + self._visibility_s
                        self._held.move_to_end(id(lease))
                    self._enqueue(_Request("renew", url, group))
                self._changed.wait(self._pause(now))

    def _bury(self, now: float) -> None:
        """Give up what AWS would not extend any more, once its time is over."""
        for lease in [h for h in self._held.values() if h.deadline <= now and now - h.received_at > _LIFE_S / 2]:
            self._lost(lease, "renew", LeaseLost("AWS holds a message for at most twelve hours."))

    def _pause(self, now: float) -> float:
        """Seconds until the next ack or renewal is due."""
        waits = [due - now for due in self._acks_due.values()]
        first = next(iter(self._held.values()), None)
        if first is not None:
            left = first.deadline - now
            half = self._visibility_s / 2
            # Behind one that AWS would not extend, others may be due within half of the time.
            waits.append(left - half if self._may_renew(first, now) else min(left, half))
        return max(0.01, min(waits, default=1.0, key=float)) if waits else 1.0

    # --- the senders

    def _send(self) -> None:
        requests = self._requests
        while True:
            with self._lock:
                self._idle_senders += 1
            request = requests.get()
            with self._lock:
                self._idle_senders -= 1
            if request is None:
                return
            try:
                self._deliver(request)
            except HakeError as exc:
                self._give_up(request, exc)
            except Exception as exc:  # a bug of ours or a strange answer must not end the thread in silence
                logger.exception("A request to settle messages failed in a way that is not known.")
                self._give_up(request, HakeError(repr(exc)))
            finally:
                with self._lock:
                    self._unanswered -= 1
                    if not self._unanswered:
                        self._answered.notify_all()

    def _deliver(self, request: _Request) -> None:
        error = BrokerUnavailable("not tried")
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(backoff_s(attempt - 1))
            try:
                request.leases, error = self._ask(request, error)
            except BrokerUnavailable as exc:
                error = exc
            if not request.leases:
                return
        raise error

    def _ask(self, request: _Request, error: BrokerUnavailable) -> tuple[list[Lease], BrokerUnavailable]:
        """One request; the leases that AWS could not take for now, and why."""
        entries = [{"Id": str(i), "ReceiptHandle": lease.receipt_handle} for i, lease in enumerate(request.leases)]
        if request.kind == "ack":
            answer = self._clients.sqs("delete_message_batch", QueueUrl=request.url, Entries=entries)
        else:
            renews = request.kind == "renew"
            timed = [
                {**entry, "VisibilityTimeout": self._visibility_s if renews else lease.hide_s}
                for entry, lease in zip(entries, request.leases, strict=True)
            ]
            answer = self._clients.sqs("change_message_visibility_batch", QueueUrl=request.url, Entries=timed)
        again = []
        for failed in answer.get("Failed") or ():
            lease = request.leases[int(failed["Id"])]
            refusal = entry_error(failed, "sqs", request.url)
            if isinstance(refusal, BrokerUnavailable):
                again.append(lease)
                error = refusal
            else:
                self._lost(lease, request.kind, refusal)
        return again, error

    def _give_up(self, request: _Request, exc: HakeError) -> None:
        for lease in request.leases:
            self._lost(lease, request.kind, exc)

    def _lost(self, lease: Lease, kind: str, exc: HakeError) -> None:
        if kind == "release":
            logger.info("A message was not released and stays hidden until its visibility timeout ends: %s", exc)
            return
        with self._lock:
            if lease.state is LeaseState.LOST or (kind == "renew" and lease.state is not LeaseState.HELD):
                return
            if kind == "renew" and isinstance(exc, BrokerUnavailable):
                lease.deadline = self._clock() + self._visibility_s / 2  # due again now: first in the line
                if id(lease) in self._held:
                    self._held.move_to_end(id(lease), last=False)
                self._changed.notify()
                return
            lease.state = LeaseState.LOST
            self._held.pop(id(lease), None)
        logger.error(
            "Lost the lease of %s (%s): it will be, or was, delivered again. %s",
            lease.label or "a message", "its ack failed" if kind == "ack" else "it could not be renewed", exc,
        )
