"""Every message that a connection holds: one table, from its arrival until it is finished.

A :class:`~kombu_hake.receive.delivery.Delivery` is the one record of a message in flight: what was received, its lease,
the credit that it takes, and the delivery tag once it is handed over. It goes through

    arrived (buffered)  ->  handed over (has a tag)  ->  claimed by a settle  ->  finished

and may be finished from any of them. :meth:`Deliveries.finish` is the only way out: it takes the delivery out of the
table, gives its credit back, once, and has the settle path (:mod:`kombu_hake.receive.leases`) delete, release, hide or
abandon the message. A second finish finds neither credit nor a lease that it could change, and does nothing.

The buffer is a queue of the same records (:class:`Inbox`). Poller threads and the consuming thread communicate only
through it: kombu and Celery code runs only in the consuming thread. For Celery's event loop it is a readable
descriptor; without an event loop, :meth:`Inbox.get` waits.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from kombu_hake.amqp import Envelope, decode
from kombu_hake.aws import forksafe
from kombu_hake.exceptions import BrokerUnavailable, HakeError
from kombu_hake.receive.delivery import Delivery, LostLease
from kombu_hake.receive.leases import Leases
from kombu_hake.receive.payloads import Payloads
from kombu_hake.receive.settling import First

__all__ = ["Deliveries", "How", "Inbox", "Item"]

#: What the consuming thread gets; it raises errors.
Item = Delivery | LostLease | Exception


class Inbox:
    """A queue of deliveries and errors, with a descriptor that is readable while it holds any."""

    def __init__(self) -> None:
        self._inherited: list[socket.socket | None] = []
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Drop the parent's messages and its descriptor. The descriptor is not closed: the parent's loop watches it."""
        self._inherited += [self._reader, self._writer]  # dropping the last reference would close them
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._items: deque[Item] = deque()
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None
        self._signalled = False
        self._closed = False
        self._woken = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: Iterable[Item]) -> None:
        """Add deliveries, lost leases, or an error for the consuming thread to raise. Any thread."""
        with self._lock:
            self._items.extend(items)
            if self._items:
                self._signal()
                self._changed.notify()

    def get(self, timeout_s: float | None) -> Item | None:
        """The next item; None on timeout.

        Args:
            timeout_s: None waits forever (until :meth:`close`), 0 not at all.
        """
        with self._lock:
            if not self._items and timeout_s != 0:
                deadline = None if timeout_s is None else time.monotonic() + timeout_s
                while not (self._items or self._closed or self._woken):
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
            self._woken = False
            item = self._items.popleft() if self._items else None
            if not self._items:
                self._quiet()
            return item

    def take(self, wanted: Callable[[Delivery], bool]) -> list[Delivery]:
        """Remove and return the deliveries for which *wanted* is true."""
        with self._lock:
            taken = [item for item in self._items if isinstance(item, Delivery) and wanted(item)]
            if taken:
                gone = {id(item) for item in taken}
                self._items = deque(item for item in self._items if id(item) not in gone)
            if not self._items and not self._woken:
                self._quiet()
            return taken

    def fileno(self) -> int:
        """A descriptor for an event loop; created at the first call."""
        with self._lock:
            if self._reader is None:
                self._reader, self._writer = socket.socketpair()
                self._reader.setblocking(False)
                self._writer.setblocking(False)
                if self._items:
                    self._signalled = False
                    self._signal()
            return self._reader.fileno()

    def wake(self) -> None:
        """Wake the event loop, or a thread that waits in :meth:`get`, although nothing has arrived. Any thread."""
        with self._lock:
            self._woken = True
            self._signal()
            self._changed.notify()

    def close(self) -> None:
        """Close the descriptor, and end all waiting."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            reader, writer, self._reader, self._writer = self._reader, self._writer, None, None
            self._signalled = False
        for end in (reader, writer):
            if end is not None:
                end.close()

    def _signal(self) -> None:
        if self._writer is not None and not self._signalled:
            self._signalled = True
            with contextlib.suppress(BlockingIOError):  # a full pipe is readable, which is all that is needed
                self._writer.send(b"\0")

    def _quiet(self) -> None:
        if self._reader is not None and self._signalled:
            self._signalled = False
            with contextlib.suppress(BlockingIOError):
                self._reader.recv(64)


class How(enum.Enum):
    """How a delivery ends."""

    #: Deleted: it was processed.
    ACK = "ack"
    #: Made visible to other consumers at once.
    RELEASE = "release"
    #: Hidden for a given time, and received again then.
    HIDE = "hide"
    #: Left alone: it is received again when its visibility timeout ends.
    ABANDON = "abandon"


class Deliveries:
    """The messages in flight of one connection. Safe to use from any thread."""

    def __init__(self, inbox: Inbox, leases: Leases, payloads: Payloads) -> None:
        self._inbox = inbox
        self._leases = leases
        self._payloads = payloads
        payloads.on_ready = inbox.put
        payloads.on_hidden = lambda delivery, seconds: self.finish(delivery, How.HIDE, seconds)
        self.reset_after_fork()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The messages belong to the parent."""
        self._lock = threading.RLock()  # re-entrant: a garbage collection may finish a delivery in the middle of this
        #: For each channel, the deliveries that are handed over and not claimed, by tag, in the order of the tags.
        self._unsettled: dict[int, dict[int, Delivery]] = {}

    def __repr__(self) -> str:
        unsettled = sum(map(len, self._unsettled.values()))
        return f"<Deliveries buffered={len(self._inbox)} unsettled={unsettled} {self._leases!r}>"

    # --- in

    def arrived(self, deliveries: Sequence[Delivery]) -> None:
        """Hold messages and buffer them for the consuming thread; all of them or none.

        Raises:
            BaseException: no memory or no thread. No message is held; they are redelivered after the visibility
                timeout.
        """
        try:
            self._leases.hold([delivery.lease for delivery in deliveries])
            self._payloads.begin(deliveries)
        except BaseException:
            mine = set(map(id, deliveries))
            self._take(lambda item: id(item) in mine)
            for delivery in deliveries:
                self.finish(delivery, How.ABANDON)
            raise

    def hand_over(self, delivery: Delivery, tag: int, *, keeps_credit: bool) -> None:
        """Record that a consumer gets a message, which can then be claimed by its tag.

        Args:
            tag: Higher than that of any earlier delivery of the channel.
            keeps_credit: Count it against the prefetch count until it is finished.
        """
        with self._lock:
            delivery.tag = tag
            self._unsettled.setdefault(delivery.channel_id, {})[tag] = delivery
            give_back = None if keeps_credit else delivery.credit
            if give_back is not None:
                delivery.credit = None
        if give_back is not None:  # without the lock: it takes that of the receiver
            give_back(delivery.source)

    # --- out

    def claim(self, channel_id: int, tag: int, *, multiple: bool = False) -> list[Delivery]:
        """Take the deliveries to settle; the caller then calls :meth:`finish`. ``[]`` if they are already settled.

        Args:
            multiple: As in AMQP: all up to the tag; all if the tag is 0.
        """
        with self._lock:
            unsettled = self._unsettled.get(channel_id, {})
            if not multiple:
                delivery = unsettled.pop(tag, None)
                return [] if delivery is None else [delivery]
            tags = [t for t in unsettled if t <= tag or not tag]
            return [unsettled.pop(t) for t in tags if t in unsettled]

    def finish(self, delivery: Delivery, how: How, hide_s: int = 0, *, first: First | None = None) -> None:
        """End a delivery. Does nothing if it has ended. Any thread; never raises errors of AWS.

        Args:
            hide_s: For :attr:`How.HIDE`: whole seconds.
            first: For :attr:`How.ACK`: what AWS must accept before the message is deleted. It is retried until another
                consumer may get the message; then the message is left alone.
        """
        lease = delivery.lease
        self._drop(delivery)
        if how is How.ACK:
            self._leases.ack(lease, first)
        elif how is How.RELEASE:
            self._leases.release([lease])
        elif how is How.HIDE:
            self._leases.hide(lease, hide_s)
        else:
            self._leases.abandon(lease)

    def finish_after(self, delivery: Delivery, first: First) -> None:
        """Acknowledge once AWS has accepted *first*, which is sent in this thread; retried as in :meth:`finish`."""
        try:
            first.send()
        except BrokerUnavailable:
            self.finish(delivery, How.ACK, first=first)
        except HakeError as exc:
            first.failed(exc)
            self.finish(delivery, How.ABANDON)
        else:
            self.finish(delivery, How.ACK)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """:meth:`finish` several by making them visible, in requests of up to ten."""
        for delivery in deliveries:
            self._drop(delivery)
        self._leases.release([delivery.lease for delivery in deliveries])

    def turn_away(self, deliveries: Sequence[Delivery]) -> None:
        """Release messages of one queue for which there is no room, and which are not held.

        In this thread: the sending threads may have ended before an open poll returned.
        """
        self._leases.turn_away([delivery.lease for delivery in deliveries])

    def release_buffered(self, channel_id: int, queue: str | None = None) -> None:
        """Release the buffered messages of a channel, of one queue or of all."""
        self.release(self._take(lambda item: item.channel_id == channel_id and (queue is None or item.queue == queue)))

    # --- what is known

    def unsettled(self, channel_id: int) -> dict[int, Delivery]:
        """The deliveries that a channel has handed over and not settled, by tag; a copy."""
        with self._lock:
            return dict(self._unsettled.get(channel_id, {}))

    def now(self) -> float:
        """Monotonic seconds, by the clock of the leases."""
        return self._leases.now()

    def hidden(self) -> int:
        """The number of messages that :attr:`How.HIDE` hides now."""
        return self._leases.hidden()

    # --- payloads in S3

    def fetch(self, delivery: Delivery) -> None:
        """As :meth:`kombu_hake.receive.payloads.Payloads.fetch`."""
        self._payloads.fetch(delivery)

    def read_again(self, delivery: Delivery) -> Envelope:
        """As :meth:`kombu_hake.receive.payloads.Payloads.read_again`."""
        found = self._payloads.read_again(delivery)
        return decode(delivery.message.get("Body", ""), delivery.queue) if found is None else found

    def look_after(self) -> None:
        """Do the work of threads that cannot be started."""
        self._payloads.help()

    # --- inside

    def _take(self, wanted: Callable[[Delivery], bool]) -> list[Delivery]:
        """Remove and return deliveries that are buffered or wait for their payload."""
        return [*self._payloads.take(wanted), *self._inbox.take(wanted)]

    def _drop(self, delivery: Delivery) -> None:
        if delivery.stored is not None:
            delivery.stored.drop()
        with self._lock:
            unsettled = self._unsettled.get(delivery.channel_id)
            if unsettled is not None:
                unsettled.pop(delivery.tag, None)
                if not unsettled:
                    del self._unsettled[delivery.channel_id]
            give_back, delivery.credit = delivery.credit, None
        if give_back is not None:  # without the lock: it takes that of the receiver
            give_back(delivery.source)
