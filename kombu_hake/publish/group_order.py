"""The order of messages in a FIFO queue or topic: which messages of a batch may be in flight together. Pure.

SQS and SNS keep the order of a message group only if the requests do. So only one message of each group is in flight at
a time; messages of different groups share requests. If a message is not accepted, the later ones of its group fail too,
and can be published again in order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from kombu_hake.amqp import MAX_BATCH_ENTRIES

__all__ = ["GroupOrder"]

T = TypeVar("T")


class GroupOrder(Generic[T]):
    """Messages of one FIFO target that wait to be sent."""

    def __init__(self, max_bytes: int) -> None:
        """*max_bytes*: maximum size of a request."""
        self._max_bytes = max_bytes
        #: Group to its waiting messages with their sizes.
        self._waiting: dict[str, deque[tuple[T, int]]] = {}
        #: Groups with a message that may be sent now, the longest waiting first.
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._in_flight: set[str] = set()
        self._stopped: set[str] = set()

    @property
    def ready(self) -> int:
        """How many messages may be sent now."""
        return len(self._ready)

    @property
    def is_in_flight(self) -> bool:
        """True while a request is not answered."""
        return bool(self._in_flight)

    def add(self, group: str, item: T, size_bytes: int) -> bool:
        """Queue a message after those of its group; False if an earlier one was not accepted."""
        if group in self._stopped:
            return False
        self._waiting.setdefault(group, deque()).append((item, size_bytes))
        if group not in self._in_flight:
            self._ready[group] = None
        return True

    def take(self) -> list[tuple[str, T]]:
        """The messages of the next request with their groups; ``[]`` if none may be sent now."""
        taken: list[tuple[str, T]] = []
        total = 0
        for group in list(self._ready):
            item, size_bytes = self._waiting[group][0]
            if len(taken) == MAX_BATCH_ENTRIES or (taken and total + size_bytes > self._max_bytes):
                break
            total += size_bytes
            taken.append((group, item))
            del self._ready[group]
            self._in_flight.add(group)
            self._waiting[group].popleft()
            if not self._waiting[group]:
                del self._waiting[group]
        return taken

    def answered(self, groups: Sequence[str], accepted: Sequence[bool]) -> list[T]:
        """Record the outcome of the messages of a request.

        Args:
            groups: As returned by :meth:`take`.
            accepted: For each whether AWS accepted its message.
        Returns:
            The messages that must not be sent, because an earlier one of their group was not accepted.
        """
        held: list[T] = []
        for group, is_accepted in zip(groups, accepted, strict=True):
            self._in_flight.discard(group)
            if not is_accepted:
                self._stopped.add(group)
                held += [item for item, _ in self._waiting.pop(group, ())]
            elif group in self._waiting:
                self._ready[group] = None
        return held

    def start_anew(self) -> None:
        """Allow the stopped groups again: their failures have been reported."""
        self._stopped.clear()
