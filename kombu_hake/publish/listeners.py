"""Whether a monitor listens to Celery's events, asked as seldom as possible and never waited for.

A worker sends a heartbeat every two seconds, so the question comes up all the time. Its answer is the number of
subscriptions of the event exchange's topic, asked for in the background:

* until there is one, events are sent;
* *yes* is believed for a minute;
* *no* is believed for longer and longer: for up to ten minutes as long as there are only heartbeats to send, for up to
  a minute when there is more, because then somebody has asked for events;
* a command of remote control ends *no*: what listens by Celery's own means (Flower, ``celery events``, cameras) begins
  with one.

AWS acts late: a worker's subscription to remote control may miss the command of a monitor that starts with it, and a
count may not show a new subscription yet. So for two minutes after the start, and after each command, an event is sent
every few seconds whatever the count says. That costs no more than asking, and a monitor hears it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

from kombu_hake.publish.advice import Ask

__all__ = ["HEARTBEAT_KEY", "Listeners"]

#: Routing key of a worker's heartbeat (``celery/worker/heartbeat.py``).
HEARTBEAT_KEY = "worker.heartbeat"
_SOMEBODY_S = 60.0
_NOBODY_FIRST_S = 5.0
_NOBODY_MOST_S = 60.0
_NOBODY_MOST_HEARTBEAT_S = 600.0
#: Commands may come one after the other, and a listener's first is not its last.
_AFTER_COMMAND_S = 1.0
#: AWS's documentation gives a queue policy sixty seconds to act; twice that.
_LATE_S = 120.0
_NOBODY_MOST_LATE_S = 30.0
_UNASKED_EVERY_S = 5.0


class _Look(NamedTuple):
    """What was found out about one exchange."""

    is_heard: bool
    at: float
    #: How long "nobody" is believed, unless there is a reason not to.
    patience_s: float


def _at_once(key: Hashable, question: Callable[[], None]) -> None:
    question()


class Listeners:
    """Answers for all event exchanges of a process. Safe to share between threads."""

    def __init__(
        self,
        count: Callable[[str], int | None],
        clock: Callable[[], float] = time.monotonic,
        ask: Ask = _at_once,
    ) -> None:
        """
        Args:
            count: The subscriptions of an exchange now; None where that can't be read, which means that there are some.
            ask: Has *count* called in the background.
        """
        self._count = count
        self._ask = ask
        self._clock = clock
        self._looks: dict[str, _Look] = {}
        self._sent_unasked: dict[str, float] = {}
        self._started_at = clock()
        self._command_at = float("-inf")

    def is_heard(self, exchange: str, routing_key: str) -> bool:
        """Whether to publish this event. Makes no call."""
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
        """A command of remote control has arrived: a monitor may have begun to listen."""
        self._command_at = self._clock()

    def nobody(self, exchange: str) -> None:
        """AWS answered a publish so."""
        last = self._looks.get(exchange)
        patience_s = _NOBODY_FIRST_S if last is None or last.is_heard else last.patience_s
        self._looks[exchange] = _Look(False, self._clock(), patience_s)

    def _look(self, exchange: str) -> None:
        last, asked_at = self._looks.get(exchange), self._clock()
        is_heard = self._count(exchange) != 0
        is_still_nobody = last is not None and not last.is_heard and self._command_at < last.at
        patience_s = last.patience_s * 2 if last is not None and is_still_nobody else _NOBODY_FIRST_S
        self._looks[exchange] = _Look(is_heard, asked_at, min(patience_s, _NOBODY_MOST_HEARTBEAT_S))

    def _may_be_late(self, now: float) -> bool:
        return now - max(self._started_at, self._command_at) < _LATE_S

    def _is_due(self, last: _Look, routing_key: str, now: float) -> bool:
        age_s = now - last.at
        if last.is_heard:
            return age_s >= _SOMEBODY_S
        if self._command_at >= last.at and age_s >= _AFTER_COMMAND_S:
            return True
        most_s = _NOBODY_MOST_HEARTBEAT_S if routing_key == HEARTBEAT_KEY else _NOBODY_MOST_S
        if self._may_be_late(now):
            most_s = _NOBODY_MOST_LATE_S
        return age_s >= min(last.patience_s, most_s)
