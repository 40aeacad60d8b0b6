"""Payloads in S3 of received messages: downloaded before the message is handed over, deleted after it is settled.

A message whose payload is in S3 is a pointer (:mod:`kombu_hake.amqp.payloads`). The rest of this package uses the
payload like a body; dead letters and copies of deferred tasks have only the pointer.

Downloads
    run in a few threads of the connection, between the poll and the buffer of the consuming thread. They block neither
    pollers nor a worker's event loop, and the lease is renewed meanwhile. Payloads that are downloaded and not handed
    over have at most :data:`_ROOM_BYTES` together, or are a single larger one. In a FIFO queue no message is handed
    over before an earlier one of the same poll.

Faults
    After a temporary fault (S3 cannot be reached, throttles, fails) the message waits: held at first, then hidden for
    longer each time, and held again if a further receive would make AWS dead-letter it. A permanent fault (missing,
    denied, foreign, larger than it says) is recorded, and the gate sets the message aside.

Deletion
    An object is deleted once AWS has accepted the ack of the message that points to it, while no other consumer could
    have that message, and only if :meth:`kombu_hake.topology.stores.Stores.owns` it. If a pointer is sent again, the
    object belongs to the new message. So an object may outlive its message, and is then left to S3's lifecycle rule,
    but a message never outlives its object.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    Envelope,
    Pointer,
    QueueUrl,
    changes_in,
    decode,
    has_pointer,
    hide_s,
    pointer_in,
)
from kombu_hake.aws import Clients, Senders, TtlCache, backoff_s, forksafe
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, ConfigurationError, HakeError, PayloadMissing
from kombu_hake.quoting import fields, guarded
from kombu_hake.receive.delivery import Delivery, LeaseState
from kombu_hake.receive.messages import receive_count
from kombu_hake.receive.stored import Stored
from kombu_hake.topology import Stores

__all__ = ["Payloads"]

logger = guarded(logging.getLogger(__name__))
#: Maximum number of concurrent downloads.
_MAX_DOWNLOADS = 4
_MAX_DELETES = 2
_ROOM_BYTES = 64 * 1024 * 1024
#: Attempts of a download, and of a deletion, in addition to those of each request.
_TRIES = 4
#: How long a message is hidden if its payload cannot be downloaded now: at first, and at most, seconds.
_HIDE_S = 15
_MAX_HIDE_S = 900
#: Pause while it is held instead.
_HOLD_PAUSE_S = 15.0
#: How many receives hiding may use up in a queue with a redrive policy.
_SPARE_RECEIVES = 2
_WARN_EVERY_S = 60.0
_HELD = (LeaseState.HELD, LeaseState.LAPSED)


class _Room:
    """Bounds the bytes that are downloaded and not handed over."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, size: int, is_over: Callable[[], bool]) -> bool:
        """Wait until there is room; a larger payload waits until it is the only one. False if *is_over* first."""
        with self._changed:
            while self._taken and self._taken + size > self._most:
                if is_over():
                    return False
                self._changed.wait(1.0)
            self._taken += size
            return True

    def give_back(self, size: int) -> None:
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


class Payloads:
    """Downloads and deletes the payloads of one connection. Safe to use from any thread."""

    def __init__(
        self,
        clients: Clients,
        stores: Stores,
        *,
        max_receives: Callable[[QueueUrl], int | None] = lambda url: None,
    ) -> None:
        """
        Args:
            max_receives: After how many receives AWS dead-letters a message of a queue; None for never.
        """
        self._clients = clients
        self.stores = stores
        self._max_receives = max_receives
        #: Called with messages that can be handed over.
        self.on_ready: Callable[[Iterable[Delivery]], None] = lambda deliveries: None
        #: Called with a message that is to be received again after so many seconds.
        self.on_hidden: Callable[[Delivery, int], None] = lambda delivery, seconds: None
        self._warned: TtlCache[str, None] = TtlCache(_WARN_EVERY_S)
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Downloads belong to the parent."""
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        #: Messages that wait for their payload, by id, in the order of arrival.
        self._waiting: dict[int, Delivery] = {}
        self._room = _Room(_ROOM_BYTES)
        self._ended = threading.Event()
        self._downloads: Senders[list[Delivery]] = Senders(self._do, most=_MAX_DOWNLOADS, name="hake-download")
        self._deletes: Senders[Pointer] = Senders(self._delete, most=_MAX_DELETES, name="hake-delete")

    # --- downloads

    def begin(self, deliveries: Sequence[Delivery]) -> None:
        """Start downloads for those messages of one queue that point to their payload; the others are ready.

        In a FIFO queue, messages behind a pointer wait with it.
        """
        if self.stores.is_empty or not any(has_pointer(delivery.message) for delivery in deliveries):
            self.on_ready(deliveries)
            return
        ready: list[Delivery] = []
        jobs: list[list[Delivery]] = []
        for delivery in deliveries:
            self._look(delivery)
            if jobs and delivery.lease.url.endswith(FIFO_SUFFIX):
                jobs[0].append(delivery)
            elif delivery.stored is None or delivery.stored.fault:
                ready.append(delivery)
            else:
                jobs.append([delivery])
        with self._lock:
            self._waiting.update({id(delivery): delivery for job in jobs for delivery in job})
        self.on_ready(ready)  # before a download may end
        for job in jobs:
            self._downloads.submit(job)

    def fetch(self, delivery: Delivery) -> None:
        """Download the payload of a message in this thread, if it has one.

        Raises:
            BrokerUnavailable: S3 cannot be reached.
        """
        if not self.stores.is_empty and has_pointer(delivery.message):
            self._look(delivery)
            self._read(delivery, None)

    def read_again(self, delivery: Delivery) -> Envelope | None:
        """The whole message, downloaded once more; None if it has no payload in S3.

        Raises:
            HakeError: the payload cannot be read, or not now.
        """
        stored = delivery.stored
        if stored is None or stored.pointer is None or stored.fault:
            return None
        return decode(self._text(stored.pointer), delivery.queue, stored.changes)

    def take(self, wanted: Callable[[Delivery], bool]) -> list[Delivery]:
        """Remove and return the messages that wait for their payload and for which *wanted* is true."""
        with self._lock:
            taken = [delivery for delivery in self._waiting.values() if wanted(delivery)]
            for delivery in taken:
                del self._waiting[id(delivery)]
            return taken

    def help(self) -> None:
        """Do the work of threads that cannot be started."""
        self._downloads.help()
        self._deletes.help()

    def stop(self, timeout_s: float = 0.0) -> None:
        """End the downloads, then the threads, after pending deletions."""
        self._ended.set()
        self._deletes.wait(timeout_s)
        self._downloads.stop(0.0)
        self._deletes.stop(0.0)

    def _look(self, delivery: Delivery) -> None:
        """Find out where the payload of a message is, and whether it may be read."""
        if not has_pointer(delivery.message):
            return
        try:
            changes = changes_in(delivery.message)
            pointer = pointer_in(delivery.message)
        except HakeError as exc:
            delivery.stored = Stored(None, {}, f"malformed: {exc}")
            return
        if pointer is None:
            return
        if self.stores.holding(pointer) is None:
            fault = f"refused: its payload is in {pointer.url}, and only {self.stores} may be read"
            delivery.stored = Stored(pointer, changes, fault)
            return
        delivery.stored = Stored(pointer, changes)
        if self.stores.owns(pointer):
            delivery.lease.owned = pointer

    def _do(self, job: list[Delivery]) -> None:
        """Download the payloads of a job, one after the other, and pass each message on."""
        for number, delivery in enumerate(job):
            try:
                is_there = self._has_read(delivery)
            except Exception:  # a bug of ours, or no memory: it must not end the thread in silence
                logger.exception(
                    "HAKE742 Unexpected error while downloading the payload of a message of queue %s; it is "
                    "redelivered.", delivery.queue, extra=fields(queue=delivery.queue),
                )  # fmt: skip
                is_there = False
            if not is_there:
                self._hide(job[number:])
                return
            with self._lock:
                is_wanted = self._waiting.pop(id(delivery), None) is not None
            if is_wanted:
                self.on_ready([delivery])
            elif delivery.stored is not None:
                delivery.stored.drop()

    def _has_read(self, delivery: Delivery) -> bool:
        """Download a payload, or record that this cannot succeed; False to retry later."""
        if delivery.stored is None or delivery.stored.fault or delivery.stored.pointer is None:
            return True
        pointer = delivery.stored.pointer
        tries = 0
        while not self._is_over(delivery):
            if not self._room.take(pointer.size_bytes, lambda: self._is_over(delivery)):
                return False
            try:
                self._read(delivery, lambda: self._room.give_back(pointer.size_bytes))
                return True
            except BrokerUnavailable as exc:
                self._warn(delivery, pointer, exc)
            tries += 1
            is_held = tries >= _TRIES
            if is_held and self._may_hide(delivery):
                return False
            self._ended.wait(_HOLD_PAUSE_S if is_held else backoff_s(tries))
        return False

    def _read(self, delivery: Delivery, give_back: Callable[[], None] | None) -> None:
        """Download a payload, once. Frees its room if that fails.

        Raises:
            BrokerUnavailable: it may be retried.
        """
        stored = delivery.stored
        is_there = False
        try:
            if stored is not None and stored.pointer is not None and not stored.fault:
                try:
                    stored.arrived(self._text(stored.pointer), give_back)
                    is_there = True
                except BrokerUnavailable:
                    raise
                except HakeError as exc:
                    stored.fault = _fault(stored.pointer, exc)
                except UnicodeDecodeError:
                    stored.fault = f"malformed: its payload in {stored.pointer.url} is not UTF-8"
        finally:
            if give_back is not None and not is_there:
                give_back()

    def _text(self, pointer: Pointer) -> str:
        try:
            found = self._clients.s3(
                "download", Bucket=pointer.bucket, Key=pointer.key, MaxBytes=max(1, pointer.size_bytes)
            )
        except ConfigurationError as exc:  # keys that do not work yet, or no longer
            raise BrokerUnavailable(str(exc)) from exc
        return str(found["Data"], "utf-8")

    def _is_over(self, delivery: Delivery) -> bool:
        return self._ended.is_set() or id(delivery) not in self._waiting or delivery.lease.state not in _HELD

    def _may_hide(self, delivery: Delivery) -> bool:
        """Return True if it may be received once more."""
        most = self._max_receives(delivery.lease.url)
        return most is None or receive_count(delivery.message) + _SPARE_RECEIVES <= most

    def _hide(self, deliveries: Sequence[Delivery]) -> None:
        """Hide messages, so that they are received again later; in a FIFO queue those behind them too."""
        with self._lock:
            mine = [delivery for delivery in deliveries if self._waiting.pop(id(delivery), None) is not None]
        if mine:
            seconds = min(_MAX_HIDE_S, hide_s(receive_count(mine[0].message), _HIDE_S, 0.0))
            for delivery in mine:
                self.on_hidden(delivery, seconds)

    def _warn(self, delivery: Delivery, pointer: Pointer, exc: HakeError) -> None:
        self._warned.get(
            pointer.bucket,
            lambda: logger.warning(
                "HAKE740 Cannot read payloads of queue %s from bucket %s; retrying: %s",
                delivery.queue, pointer.bucket, exc, extra=fields(queue=delivery.queue),
            ),
        )  # fmt: skip

    # --- deletion

    def settled(self, pointers: Iterable[Pointer]) -> None:
        """Delete the payloads of messages whose acks AWS has accepted. Does not wait."""
        for pointer in pointers:
            if self.stores.owns(pointer):
                self._deletes.submit(pointer)

    def _delete(self, pointer: Pointer) -> None:
        error: Exception | None = None
        for number in range(_TRIES):
            if number and self._ended.wait(backoff_s(number)):
                break
            try:
                self._clients.s3("delete_object", Bucket=pointer.bucket, Key=pointer.key)
                return
            except BrokerUnavailable as exc:
                error = exc
            except Exception as exc:  # denied; or a bug of ours, which must not end the thread in silence
                error = exc
                break
        self._warned.get(
            f"{pointer.bucket} {type(error).__name__}",
            lambda: logger.warning(
                "HAKE741 Cannot delete the payload of a settled message, %s; leaving it to the lifecycle rule. %s",
                pointer.url, error,
            ),
        )  # fmt: skip


def _fault(pointer: Pointer, exc: HakeError) -> str:
    """Why a payload can never be read."""
    if isinstance(exc, PayloadMissing):
        return f"missing, perhaps already processed: its payload {pointer.url}"
    if isinstance(exc, AccessDenied):
        return f"denied: {exc.action} on its payload {pointer.url}"
    return f"its payload {pointer.url} cannot be read: {exc}"
