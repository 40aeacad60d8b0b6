"""Whether anybody listens to Celery's events, asked as seldom as can be.

A worker sends a heartbeat every two seconds, listened to or not, so the question comes up all the time. Its answer is
the number of subscriptions of the event exchange's topic:

* *somebody* is believed for a minute;
* *nobody* is believed for longer and longer: for up to ten minutes as long as there are only heartbeats to send, for
  up to a minute when there is more, because then somebody has asked for events;
* a command of remote control puts an end to *nobody*: whatever listens by Celery's own means (Flower, ``celery
  events``, cameras) begins with one, so it sees the workers at once and not ten minutes later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["HEARTBEAT_KEY", "Listeners"]

#: Routing key of a worker's heartbeat (``celery/worker/heartbeat.py``).
HEARTBEAT_KEY = "worker.heartbeat"
_SOMEBODY_S = 60.0
_NOBODY_FIRST_S = 5.0
_NOBODY_MOST_S = 60.0
_NOBODY_MOST_HEARTBEAT_S = 600.0
#: Commands may come one after the other, and a listener's first is not its last.
_AFTER_COMMAND_S = 1.0


class _Look(NamedTuple):
    """What was found out about one exchange."""

    is_heard: bool
    at: float
    #: How long "nobody" is believed, unless there is a reason not to.
    patience_s: float


class Listeners:
    """Answers for all event exchanges of a process. Threads may ask at the same time: that costs a request."""

    def __init__(self, count: Callable[[str], int | None], clock: Callable[[], float] = time.monotonic) -> None:
        """*count*: the subscriptions of an exchange now; None where that may not be read, which means somebody."""
        self._count = count
        self._clock = clock
        self._looks: dict[str, _Look] = {}
        self._command_at = float("-inf")

    def is_heard(self, exchange: str, routing_key: str) -> bool:
        """Whether to publish this event. Raises what *count* raises."""
        last, now = self._looks.get(exchange), self._clock()
        if last is not None and not self._is_due(last, routing_key, now):
            return last.is_heard
        is_heard = self._count(exchange) != 0
        is_still_nobody = last is not None and not last.is_heard and self._command_at < last.at
        patience_s = last.patience_s * 2 if last is not None and is_still_nobody else _NOBODY_FIRST_S
        self._looks[exchange] = _Look(is_heard, now, min(patience_s, _NOBODY_MOST_HEARTBEAT_S))
        return is_heard

    def command_came(self) -> None:
        """A command of remote control has arrived: somebody may have begun to listen."""
        self._command_at = self._clock()

    def nobody(self, exchange: str) -> None:
        """AWS said so to a publish."""
        self._looks[exchange] = _Look(False, self._clock(), _NOBODY_FIRST_S)

    def _is_due(self, last: _Look, routing_key: str, now: float) -> bool:
        age_s = now - last.at
        if last.is_heard:
            return age_s >= _SOMEBODY_S
        if self._command_at >= last.at and age_s >= _AFTER_COMMAND_S:
            return True
        most_s = _NOBODY_MOST_HEARTBEAT_S if routing_key == HEARTBEAT_KEY else _NOBODY_MOST_S
        return age_s >= min(last.patience_s, most_s)
