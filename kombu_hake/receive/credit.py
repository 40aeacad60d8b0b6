"""How many messages may be requested now: prefetch accounting, shared fairly between queues. Pure; not thread-safe.

Rules
* Never more in flight (requested, buffered, handed over and unsettled) than the prefetch count.
* A queue that was empty last time requests one message, so that its long poll takes no credit from a busy queue; if it
  is the only queue, it requests all.
* A busy queue leaves each other queue its due: a fair share if that queue is busy, one message if it is idle.
* It polls again only when that is worthwhile: for ten messages, or half of its share, or when nothing is unsettled.
  Otherwise each settled message would cause a request. If waiting has not helped, the caller requests less
  (``even_little``): while three of four prefetched tasks run for an hour, the fourth place should not stay empty.
* A queue without any poll may request one message even if polls of other queues have reserved all credit.
* With less credit than queues, every queue keeps a poll for one message, so together they may receive too many; the
  surplus is released immediately (:meth:`Credit.received` says how many to keep).
* In a queue with priority levels, a level requests messages only while no higher level has any.
"""

from __future__ import annotations

from dataclasses import dataclass

from kombu_hake.amqp import MAX_BATCH_ENTRIES

__all__ = ["UNLIMITED_BUFFER", "Credit", "Share"]

#: With prefetch count 0 a consumer may leave any number of messages unsettled, but the buffer is bounded.
UNLIMITED_BUFFER = 200


@dataclass
class Share:
    """The share of one queue in the credit."""

    #: Requested in polls that have not returned.
    reserved: int = 0
    #: Received and counting against the credit.
    in_flight: int = 0
    #: True if its last poll returned messages.
    busy: bool = True
    #: True while it is consumed.
    open: bool = True
    #: The queue of which it is a priority level, and the level.
    group: str = ""
    rank: int = 0

    @property
    def used(self) -> int:
        """All messages that count."""
        return self.reserved + self.in_flight


class Credit:
    """The credit of one channel."""

    def __init__(self, prefetch_count: int = 0) -> None:
        #: AMQP's prefetch count; 0 is no limit.
        self.prefetch_count = prefetch_count
        self._shares: dict[str, Share] = {}
        #: Received and counting against the credit, over all queues.
        self.in_flight = 0

    def __repr__(self) -> str:
        shares = " ".join(
            f"{name}={share.in_flight}+{share.reserved}{'' if share.busy else ' idle'}"
            for name, share in sorted(self._shares.items())
        )
        return f"<Credit prefetch={self.prefetch_count} {shares}>"

    @property
    def limit(self) -> int:
        """The maximum number of messages in flight."""
        return self.prefetch_count or UNLIMITED_BUFFER

    def add(self, queue: str, group: str = "", rank: int = 0) -> None:
        """Give a queue a share.

        Args:
            group: For a priority level, its queue.
            rank: Higher goes first within the group.
        """
        share = self._shares.setdefault(queue, Share())
        share.open = share.busy = True
        share.group, share.rank = group, rank

    def is_busy(self, queue: str) -> bool:
        """Return True if the last poll of *queue* returned messages, and before the first poll."""
        share = self._shares.get(queue)
        return share is None or share.busy

    def remove(self, queue: str) -> None:
        """Remove the share of a queue that is no longer consumed; messages in flight count until they are settled."""
        share = self._shares.get(queue)
        if share is not None:
            share.open = False
            share.reserved = 0  # an open poll will release what it receives
            self._drop_if_over(queue, share)

    def has_little(self, queue: str) -> bool:
        """Return True if *queue* could request anything with ``even_little``."""
        return self._allowed(queue, self._shares[queue], even_little=True) > 0

    def may_ask(self, queue: str) -> bool:
        """Return True if one more poll of *queue* would get credit."""
        return self._allowed(queue, self._shares[queue]) > 0

    def short_of(self, queue: str) -> int:
        """The minimum number of messages to return before one more poll of *queue* would get credit; 0 if it would now.

        Valid until a poll starts or returns, or until the queues or the prefetch count change.
        """
        share = self._shares[queue]
        if self._allowed(queue, share):
            return 0
        if not share.busy or self.limit < len(self._shares):  # one message is enough for these
            return 1
        # Each returned message frees one at most. Two more rules may apply sooner: when the queue has nothing in
        # flight, or when no queue has.
        return max(1, min(self._pays() - self._left_for(queue), share.used, self.in_flight))

    def ask(self, queue: str, *, even_little: bool = False) -> int:
        """How many messages a poll of *queue* may request now, 0..10; reserved until :meth:`received`.

        Args:
            even_little: Request what is free now, although waiting might allow more.
        """
        share = self._shares[queue]
        count = self._allowed(queue, share, even_little)
        if not self._is_watching(share):
            share.reserved += count
        return count

    def received(self, queue: str, asked: int, count: int) -> int:
        """Record that a poll returned. Returns how many of its messages to keep; release the others."""
        share = self._shares.setdefault(queue, Share(open=False))
        share.reserved = max(0, share.reserved - asked)
        share.busy = count > 0
        keep = max(0, min(count, self.limit - self.in_flight))
        share.in_flight += keep
        self.in_flight += keep
        self._drop_if_over(queue, share)
        return keep

    def returned(self, queue: str, count: int = 1) -> None:
        """Record that messages of *queue* no longer count."""
        share = self._shares.get(queue)
        if share is not None:
            count = min(count, share.in_flight)
            share.in_flight -= count
            self.in_flight -= count
            self._drop_if_over(queue, share)

    def _drop_if_over(self, queue: str, share: Share) -> None:
        if not share.open and not share.used:
            self._shares.pop(queue, None)

    def _allowed(self, queue: str, share: Share, even_little: bool = False) -> int:
        if self._is_outranked(share):
            return 0
        if self._is_watching(share):
            return 1 if self.in_flight < self.limit else 0
        queues = sum(1 for other in self._shares.values() if other.open and not self._is_watching(other))
        if self.limit < queues:
            return 1 if not share.reserved and self.in_flight < self.limit else 0
        if not share.used and self.in_flight < self.limit and self._left_for(queue) <= 0:
            # Open polls have reserved all credit, perhaps a poll of an idle queue that was the only one until now. That
            # poll may take twenty seconds, and must not delay this queue.
            return 1
        if not share.busy and queues > 1:
            return 1 if not share.reserved and self._left_for(queue) > 0 else 0
        left = self._left_for(queue)
        if left < self._pays() and self.in_flight and not even_little:
            return 0
        return max(0, min(MAX_BATCH_ENTRIES, left))

    def _pays(self) -> int:
        """How much credit makes a poll worthwhile."""
        return min(MAX_BATCH_ENTRIES, max(1, self._fair() // 2))

    def _is_outranked(self, share: Share) -> bool:
        """Return True if a higher level of its queue has messages."""
        return bool(share.group) and any(
            other.busy and other.open and other.group == share.group and other.rank > share.rank
            for other in self._shares.values()
        )

    @staticmethod
    def _is_watching(share: Share) -> bool:
        """Return True for a higher level that waits for its first message: it takes no credit from lower levels."""
        return share.rank > 0 and not share.busy

    def _left_for(self, queue: str) -> int:
        claims = 0
        used = 0
        fair = self._fair()
        for name, share in self._shares.items():
            used += share.used
            if name != queue and share.open and not self._is_watching(share):
                claims += max(0, (fair if share.busy else 1) - share.used)
        return self.limit - used - claims

    def _fair(self) -> int:
        consumed = [share for share in self._shares.values() if share.open and not self._is_watching(share)]
        busy = sum(1 for share in consumed if share.busy)
        return max(1, (self.limit - (len(consumed) - busy)) // max(1, busy))
