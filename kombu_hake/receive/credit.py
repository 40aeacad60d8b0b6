"""How many messages may be asked for now: prefetch accounting, shared fairly between queues. Pure; not thread-safe.

Rules
* Never more in flight (asked for, buffered, handed over and unsettled) than the prefetch count.
* A queue that had nothing last time asks for one message, so that its long poll keeps no credit from a busy queue;
  the only queue asks for all there is.
* A busy queue leaves to each other queue what that one may claim: its fair share if busy, one message if idle.
* It asks again only when that pays: for ten, or half of its share, or when nothing at all is unsettled. Otherwise each
  settled message would become a request of its own. The caller asks for less when waiting has not helped
  (``even_little``): with three of four prefetched tasks running for an hour, the fourth place is not to stay empty.
* A queue without any poll may ask for one message even if all credit is reserved by polls of other queues.
* With less credit than queues every queue keeps a poll for one message, so together they may bring too much; what is
  too much goes back at once (:meth:`Credit.received` says how many to keep).
* Of a queue with priority levels, a level asks only while no higher one has messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from kombu_hake.amqp import MAX_BATCH_ENTRIES

__all__ = ["UNLIMITED_BUFFER", "Credit", "Share"]

#: With prefetch count 0 there is no limit to what a consumer may leave unsettled, but memory for what it has not even
#: been given is bounded.
UNLIMITED_BUFFER = 200


@dataclass
class Share:
    """What one queue has of the credit."""

    #: Asked for in polls that have not returned.
    reserved: int = 0
    #: Received and counting against the credit.
    in_flight: int = 0
    #: Whether its last poll brought anything.
    busy: bool = True
    #: Whether it is still consumed.
    open: bool = True
    #: The queue it is a priority level of, and which.
    group: str = ""
    rank: int = 0

    @property
    def used(self) -> int:
        """All that counts."""
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
        """Most messages in flight."""
        return self.prefetch_count or UNLIMITED_BUFFER

    def add(self, queue: str, group: str = "", rank: int = 0) -> None:
        """Give a queue a share.

        Args:
            group: Of a priority level: the queue it belongs to.
            rank: Higher goes first within the group.
        """
        share = self._shares.setdefault(queue, Share())
        share.open = share.busy = True
        share.group, share.rank = group, rank

    def is_busy(self, queue: str) -> bool:
        """Whether the last poll of *queue* brought anything; also before the first."""
        share = self._shares.get(queue)
        return share is None or share.busy

    def remove(self, queue: str) -> None:
        """Take the share of a queue that is no longer consumed; what is in flight counts until it is settled."""
        share = self._shares.get(queue)
        if share is not None:
            share.open = False
            share.reserved = 0  # an open poll will release whatever it brings
            self._drop_if_over(queue, share)

    def has_little(self, queue: str) -> bool:
        """Whether *queue* could ask for anything with ``even_little``."""
        return self._allowed(queue, self._shares[queue], even_little=True) > 0

    def may_ask(self, queue: str) -> bool:
        """Whether one more poll of *queue* would be given anything."""
        return self._allowed(queue, self._shares[queue]) > 0

    def short_of(self, queue: str) -> int:
        """How many messages have to be returned, at least, before one more poll of *queue* would be given anything.

        0 if it would be now. Holds until a poll is asked for or returns, or the queues or the prefetch count change.
        """
        share = self._shares[queue]
        if self._allowed(queue, share):
            return 0
        if not share.busy or self.limit < len(self._shares):  # one message is enough for these
            return 1
        # Each message that is returned leaves one more at most, and two more rules may apply sooner: when the queue
        # itself has nothing in flight, or none has.
        return max(1, min(self._pays() - self._left_for(queue), share.used, self.in_flight))

    def ask(self, queue: str, *, even_little: bool = False) -> int:
        """How many messages a poll of *queue* may ask for now, 0..10; reserved until :meth:`received`.

        Args:
            even_little: Ask for what there is, though waiting might allow for more.
        """
        share = self._shares[queue]
        count = self._allowed(queue, share, even_little)
        if not self._is_watching(share):
            share.reserved += count
        return count

    def received(self, queue: str, asked: int, count: int) -> int:
        """A poll returned; how many of its messages to keep. The others are to be made visible again."""
        share = self._shares.setdefault(queue, Share(open=False))
        share.reserved = max(0, share.reserved - asked)
        share.busy = count > 0
        keep = max(0, min(count, self.limit - self.in_flight))
        share.in_flight += keep
        self.in_flight += keep
        self._drop_if_over(queue, share)
        return keep

    def returned(self, queue: str, count: int = 1) -> None:
        """Messages of *queue* no longer count."""
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
            # All is promised to open polls, perhaps of a queue that was alone until now and is quiet: that poll may
            # last for twenty seconds, and must not delay this queue.
            return 1
        if not share.busy and queues > 1:
            return 1 if not share.reserved and self._left_for(queue) > 0 else 0
        left = self._left_for(queue)
        if left < self._pays() and self.in_flight and not even_little:
            return 0
        return max(0, min(MAX_BATCH_ENTRIES, left))

    def _pays(self) -> int:
        """How much credit a poll is worth while."""
        return min(MAX_BATCH_ENTRIES, max(1, self._fair() // 2))

    def _is_outranked(self, share: Share) -> bool:
        """Whether a higher level of its queue has messages."""
        return bool(share.group) and any(
            other.busy and other.open and other.group == share.group and other.rank > share.rank
            for other in self._shares.values()
        )

    @staticmethod
    def _is_watching(share: Share) -> bool:
        """Whether it is a higher level that waits for its first message: it takes no credit from the lower ones."""
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
