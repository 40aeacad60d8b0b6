"""Every message that a connection holds: one table, from its arrival until it is finished.

A :class:`Delivery` is the one record of a message in flight: what was received, its lease, the credit that it takes,
and the delivery tag once it is handed over. It goes through

    arrived (buffered)  ->  handed over (has a tag)  ->  claimed by a settle  ->  finished

and may be finished from any of them. :meth:`Deliveries.finish` is the only way out: it takes the delivery out of the
table, gives its credit back, once, and has the settle path (:mod:`kombu_hake.receive.leases`) delete, release, hide or
abandon the message. A second finish finds neither credit nor a lease that it could change, and does nothing.

The buffer is a queue of the same records (:mod:`kombu_hake.receive.inbox`); leases are renewed in the order of their
deadlines by the settle path. Neither knows anything of a message beside the record.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Sequence

from kombu_hake.aws import forksafe
from kombu_hake.receive.inbox import Delivery, Inbox
from kombu_hake.receive.leases import Leases

__all__ = ["Deliveries", "How"]


class How(enum.Enum):
    """What becomes of a message."""

    #: Deleted: it is done.
    ACK = "ack"
    #: Made visible to other consumers at once.
    RELEASE = "release"
    #: Hidden for a given time, and received again then.
    HIDE = "hide"
    #: Left alone: it is received again when its visibility timeout ends.
    ABANDON = "abandon"


class Deliveries:
    """The messages in flight of one connection. Safe to use from any thread."""

    def __init__(self, inbox: Inbox, leases: Leases) -> None:
        self._inbox = inbox
        self._leases = leases
        self.reset_after_fork()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """What the parent holds is the parent's."""
        self._lock = threading.RLock()  # re-entrant: a garbage collection may finish a delivery in the middle of this
        #: Channel to its deliveries that are handed over and not claimed, by tag, in the order of the tags.
        self._unsettled: dict[int, dict[int, Delivery]] = {}

    def __repr__(self) -> str:
        unsettled = sum(map(len, self._unsettled.values()))
        return f"<Deliveries buffered={len(self._inbox)} unsettled={unsettled} {self._leases!r}>"

    # --- in

    def arrived(self, deliveries: Sequence[Delivery]) -> None:
        """Hold messages, and buffer them for the consuming thread; all of them or none.

        Raises:
            BaseException: no memory or no thread. None is held; they are received again after the visibility timeout.
        """
        try:
            self._leases.hold([delivery.lease for delivery in deliveries])
            self._inbox.put(deliveries)
        except BaseException:
            mine = set(map(id, deliveries))
            self._inbox.take(lambda item: id(item) in mine)
            for delivery in deliveries:
                self.finish(delivery, How.ABANDON)
            raise

    def hand_over(self, delivery: Delivery, tag: int, *, keeps_credit: bool) -> None:
        """A consumer gets a message: it can be claimed by its tag from now on.

        Args:
            tag: Higher than that of any earlier delivery of the channel.
            keeps_credit: Count it against the prefetch count until it is finished.
        """
        with self._lock:
            delivery.tag = tag
            self._unsettled.setdefault(delivery.channel_id, {})[tag] = delivery
        if not keeps_credit:
            self._return_credit(delivery)

    # --- out

    def claim(self, channel_id: int, tag: int, *, multiple: bool = False) -> list[Delivery]:
        """Take what a settle is about, which then calls :meth:`finish`; ``[]`` for what is settled already.

        Args:
            multiple: As of AMQP: all up to the tag; all there are for tag 0.
        """
        with self._lock:
            unsettled = self._unsettled.get(channel_id)
            if not unsettled:
                return []
            tags = [t for t in unsettled if t <= tag or not tag] if multiple else [tag]
            return [unsettled.pop(t) for t in tags if t in unsettled]

    def finish(self, delivery: Delivery, how: How, hide_s: int = 0) -> None:
        """End a delivery. Does nothing for one that has ended. Any thread; never raises for AWS's part.

        Args:
            hide_s: For :attr:`How.HIDE`: seconds, whole.
        """
        lease = delivery.lease
        self._drop(delivery)
        if how is How.ACK:
            self._leases.ack(lease)
        elif how is How.RELEASE:
            self._leases.release([lease])
        elif how is How.HIDE:
            self._leases.hide(lease, hide_s)
        else:
            self._leases.abandon(lease)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """:meth:`finish` several by making them visible, in requests of up to ten."""
        for delivery in deliveries:
            self._drop(delivery)
        self._leases.release([delivery.lease for delivery in deliveries])

    def release_buffered(self, channel_id: int, queue: str | None = None) -> None:
        """Release what waits to be handed over on a channel, of one queue or of all."""
        self.release(
            self._inbox.take(lambda item: item.channel_id == channel_id and (queue is None or item.queue == queue))
        )

    # --- what is known

    def unsettled(self, channel_id: int) -> dict[int, Delivery]:
        """What a channel has handed over and not settled, by tag; a copy."""
        with self._lock:
            return dict(self._unsettled.get(channel_id, {}))

    def now(self) -> float:
        """Monotonic seconds, of the clock that leases are measured by."""
        return self._leases.now()

    def hidden(self) -> int:
        """How many messages are hidden now by :attr:`How.HIDE`."""
        return self._leases.hidden()

    # --- inside

    def _drop(self, delivery: Delivery) -> None:
        if delivery.tag:
            with self._lock:
                unsettled = self._unsettled.get(delivery.channel_id)
                if unsettled is not None:
                    unsettled.pop(delivery.tag, None)
                    if not unsettled:
                        del self._unsettled[delivery.channel_id]
        self._return_credit(delivery)

    def _return_credit(self, delivery: Delivery) -> None:
        with self._lock:
            give_back: Callable[[str], None] | None
            give_back, delivery.credit = delivery.credit, None
        if give_back is not None:  # without the lock: it takes that of the receiver
            give_back(delivery.source)
