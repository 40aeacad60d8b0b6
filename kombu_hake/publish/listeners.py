"""Find out whether a monitor listens to Celery's events, with few requests and without waiting.

A worker sends a heartbeat every two seconds, so it needs to know all the time. The answer is the number of
subscriptions of the event exchange's topic, requested in the background:

* until the answer arrives, events are sent;
* *yes* is valid for a minute;
* *no* is valid for increasing times: up to ten minutes while there are only heartbeats to send, up to a minute when
  there are other events, because a monitor must have enabled them;
* a remote control command ends *no*: Celery's own monitors (Flower, ``celery events``, cameras) start with one.

AWS applies changes late: a worker's subscription to remote control may miss the command of a monitor that starts at the
same time, and a count may not include a new subscription yet. So for two minutes after the start, and after each
command, an event is sent every few seconds regardless of the count. This costs no more than asking, and a monitor
receives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from kombu_hake.publish.advice import Ask

__all__ = ["HEARTBEAT_KEY", "Listeners"]

#: Routing key of a worker's heartbeat (``celery/worker/heartbeat.py``).
HEARTBEAT_KEY = "worker.heartbeat"
_HEARD_S = 60.0
_UNHEARD_FIRST_S = 5.0
_UNHEARD_MOST_S = 60.0
_UNHEARD_MOST_HEARTBEAT_S = 600.0
#: Commands may arrive in quick succession; a monitor sends more than one.
_AFTER_COMMAND_S = 1.0
#: Twice the sixty seconds that a queue policy needs to take effect, by AWS's documentation.
_LATE_S = 120.0
_UNHEARD_MOST_LATE_S = 30.0
_UNASKED_EVERY_S = 5.0


class _Look(NamedTuple):
    """The state of one exchange."""

    is_heard: bool
    at: float
    #: How long *no* is valid, unless there is a reason to ask sooner.
    patience_s: float


class Listeners:
    """Answers for all event exchanges of a process. Safe to share between threads."""

    def __init__(
        self,
        count: Callable[[str], int | None],
        ask: Ask,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            count: Returns the current number of subscriptions of an exchange; None if unreadable, which counts as some.
            ask: Calls *count* in the background.
        """
        self._count = count
        self._ask = ask
        self._clock = clock
        self._looks: dict[str, _Look] = {}
        self._sent_unasked: dict[str, float] = {}
        self._started_at = clock()
        self._command_at = float("-inf")

    def is_heard(self, exchange: str, routing_key: str) -> bool:
        """Return True if this event has to be published. Makes no call."""
        look, now = self._looks.get(exchange), self._clock()
        if look is None or self._is_due(look, routing_key, now):
            self._ask(("listeners", exchange), lambda: self._look(exchange))
            look = self._looks.get(exchange)
        if look is None or look.is_heard:
            return True
        sent_at = self._sent_unasked.get(exchange, self._started_at)
        if self._may_be_late(now) and now - sent_at >= _UNASKED_EVERY_S:
            self._sent_unasked[exchange] = now
            return True
        return False

    def command_came(self) -> None:
        """A remote control command has arrived: a monitor may have started to listen."""
        self._command_at = self._clock()

    def none_listens(self, exchange: str) -> None:
        """Record that a publish found no topic: nothing listens."""
        last = self._looks.get(exchange)
        patience_s = _UNHEARD_FIRST_S if last is None or last.is_heard else last.patience_s
        self._looks[exchange] = _Look(False, self._clock(), patience_s)

    def _look(self, exchange: str) -> None:
        last, asked_at = self._looks.get(exchange), self._clock()
        is_heard = self._count(exchange) != 0
        is_still_unheard = last is not None and not last.is_heard and self._command_at < last.at
        patience_s = last.patience_s * 2 if last is not None and is_still_unheard else _UNHEARD_FIRST_S
        self._looks[exchange] = _Look(is_heard, asked_at, min(patience_s, _UNHEARD_MOST_HEARTBEAT_S))

    def _may_be_late(self, now: float) -> bool:
        return now - max(self._started_at, self._command_at) < _LATE_S

    def _is_due(self, last: _Look, routing_key: str, now: float) -> bool:
        age_s = now - last.at
        if last.is_heard:
            return age_s >= _HEARD_S
        if self._command_at >= last.at and age_s >= _AFTER_COMMAND_S:
            return True
        most_s = _UNHEARD_MOST_HEARTBEAT_S if routing_key == HEARTBEAT_KEY else _UNHEARD_MOST_S
        if self._may_be_late(now):
            most_s = _UNHEARD_MOST_LATE_S
        return age_s >= min(last.patience_s, most_s)
