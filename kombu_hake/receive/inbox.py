"""What pollers received and the consuming thread has not taken yet: one per connection.

The only place where poller threads and the consuming thread meet. kombu and Celery code runs on the consuming side
alone. In Celery's event loop the inbox is a readable descriptor; without one, :meth:`Inbox.get` waits.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from kombu_hake.aws import forksafe
from kombu_hake.receive.lease import Lease, Why

__all__ = ["Delivery", "Inbox", "Item", "LostLease"]


class Delivery:
    """One message in flight; the only record of it (:mod:`kombu_hake.receive.deliveries`)."""

    __slots__ = ("channel_id", "credit", "lease", "message", "queue", "source", "tag")

    def __init__(
        self,
        channel_id: int,
        queue: str,
        source: str,
        message: dict[str, Any],
        lease: Lease,
        credit: Callable[[str], None] | None = None,
    ) -> None:
        """Args:
        queue: Logical name of the queue that is consumed.
        source: Logical name of the SQS queue it came from: the same, or a priority level of it.
        message: As boto3 gives it: ``MessageId``, ``Body``, ``Attributes`` …
        credit: Called with *source* to give back the credit that it takes; None where it takes none.
        """
        self.channel_id = channel_id
        self.queue = queue
        self.source = source
        self.message = message
        self.lease = lease
        self.credit = credit
        #: Its delivery tag; 0 until it is handed over.
        self.tag = 0

    def __repr__(self) -> str:
        return f"<Delivery {self.message.get('MessageId')} of {self.source} tag={self.tag} {self.lease.state.value}>"


class LostLease(NamedTuple):
    """News from the settle path: a lease is lost."""

    lease: Lease
    why: Why


#: What the consuming thread takes out; an error is raised there.
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
        self._changed = threading.Condition(threading.Lock())
        self._items: deque[Item] = deque()
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None
        self._signalled = False
        self._closed = False
        self._woken = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: Iterable[Item]) -> None:
        """Add deliveries, news of leases, or an error that the consuming thread is to raise. Any thread."""
        with self._changed:
            self._items.extend(items)
            if self._items:
                self._signal()
                self._changed.notify()

    def get(self, timeout_s: float | None) -> Item | None:
        """The next item; None when none came in time.

        Args:
            timeout_s: None waits forever (until :meth:`close`), 0 not at all.
        """
        with self._changed:
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
        """Remove and return the deliveries that *wanted* picks; all else stays."""
        with self._changed:
            taken = [item for item in self._items if isinstance(item, Delivery) and wanted(item)]
            if taken:
                gone = {id(item) for item in taken}
                self._items = deque(item for item in self._items if id(item) not in gone)
            if not self._items and not self._woken:
                self._quiet()
            return taken

    def fileno(self) -> int:
        """A descriptor for an event loop; made at the first call."""
        with self._changed:
            if self._reader is None:
                self._reader, self._writer = socket.socketpair()
                self._reader.setblocking(False)
                self._writer.setblocking(False)
                if self._items:
                    self._signalled = False
                    self._signal()
            return self._reader.fileno()

    def wake(self) -> None:
        """Have an event loop, or who waits in :meth:`get`, look up, though there is nothing new. Any thread."""
        with self._changed:
            self._woken = True
            self._signal()
            self._changed.notify()

    def close(self) -> None:
        """Close the descriptor, and wait no more."""
        with self._changed:
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
