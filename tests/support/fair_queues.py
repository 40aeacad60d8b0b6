"""SQS in memory with fair queues: messages of quiet tenants are handed out before those of a noisy one.

AWS documents the thresholds as approximate; here they are exact, and act at once. "Recent" is not documented, and is a
minute here.

Source:
    Amazon SQS Developer Guide, "How Amazon SQS fair queues work".
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import Any

from fake_sqs import FakeQueue, FakeSqs, Stored

__all__ = ["FairSqs"]

#: Of what is in flight, or of the recent processing time.
NOISY_SHARE = 0.10
NOISY_IN_FLIGHT = 30
RECENT_S = 60.0


class FairSqs(FakeSqs):
    """As :class:`fake_sqs.FakeSqs`, for ``FakeClients(sqs=FairSqs)``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._recent: dict[str, _Recent] = defaultdict(_Recent)
        #: Of the queue that is received from.
        self._receiving = _Recent()

    def noisy(self, queue: FakeQueue) -> set[str]:
        """The group ids of the tenants that are noisy now."""
        now, recent = self._clock(), self._recent[queue.name]
        in_flight = [message for message in queue.messages if message.receive_count and message.visible_at > now]
        seconds = recent.look(in_flight, now)
        counts = Counter(message.group for message in in_flight)
        crowd, total = NOISY_SHARE * len(in_flight), NOISY_SHARE * sum(seconds.values())
        many = {tenant for tenant, count in counts.items() if count >= NOISY_IN_FLIGHT and count > crowd}
        slow = {tenant for tenant, took in seconds.items() if took > total}
        # A message without a group id is a tenant of its own: it has no other message that could come later.
        return {tenant for tenant in many | slow if tenant is not None}

    def _ready(self, queue: FakeQueue, *, is_short: bool = False) -> list[Stored]:
        ready = super()._ready(queue, is_short=is_short)
        if queue.is_fifo:
            return ready
        noisy = self.noisy(queue)
        self._receiving = self._recent[queue.name]
        if not noisy:
            return ready
        return [m for m in ready if m.group not in noisy] + [m for m in ready if m.group in noisy]

    def _take(self, message: Stored, hidden_s: int, names: list[str]) -> dict[str, Any]:
        answer = super()._take(message, hidden_s, names)
        self._receiving.in_flight[message.message_id, message.receive_count] = (message.group, message.received_at)
        return answer


class _Recent:
    """Processing time of a queue: that of messages in flight, and of those that were within the last minute."""

    def __init__(self) -> None:
        #: Message id and receive count to tenant, and since when.
        self.in_flight: dict[tuple[str, int], tuple[str | None, float]] = {}
        #: When each was found to be no longer in flight, its tenant, and how long it had been.
        self._over: deque[tuple[float, str | None, float]] = deque()
        self._seconds: dict[str | None, float] = defaultdict(float)

    def look(self, in_flight: list[Stored], now: float) -> dict[str | None, float]:
        """Seconds by group id; None for all messages without one together."""
        for key in self.in_flight.keys() - {(message.message_id, message.receive_count) for message in in_flight}:
            tenant, since = self.in_flight.pop(key)
            self._over.append((now, tenant, now - since))
            self._seconds[tenant] += now - since
        while self._over and self._over[0][0] < now - RECENT_S:
            _, tenant, took = self._over.popleft()
            self._seconds[tenant] -= took
        seconds = dict(self._seconds)
        for tenant, since in self.in_flight.values():
            seconds[tenant] = seconds.get(tenant, 0.0) + now - since
        return seconds
