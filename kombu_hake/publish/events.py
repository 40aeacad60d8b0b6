"""Celery's events, sent from a separate thread, so that a worker's event loop never waits for SNS because of them.

Events are best effort: those that cannot be sent are dropped, with a warning from time to time. Only a process with an
event loop (a worker) sends them in this way. Other processes publish them like any message: a task that sends an event
in a pool process must not end before the event is accepted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kombu_hake.aws import Background, backoff_s, forksafe
from kombu_hake.exceptions import HakeError
from kombu_hake.quoting import guarded

__all__ = ["Event", "EventSender"]

logger = guarded(logging.getLogger(__name__))
#: Maximum number of waiting messages; each may hold two dozen of Celery's events (``celery/events/dispatcher.py``,
#: ``buffer_limit``).
MAX_WAITING = 1_000
_MOST_AT_ONCE = 50
#: Longer than Celery's pause between heartbeats.
_IDLE_S = 5.0
_REMIND_S = 60.0
_MOST_PAUSE_S = 30.0


class Event(NamedTuple):
    """A message to publish."""

    message: Mapping[str, Any]
    exchange: str
    routing_key: str


class EventSender:
    """Sends from a daemon thread that starts with the first event and ends after a while without events."""

    def __init__(self, send: Callable[[Sequence[Event]], None]) -> None:
        """*send* publishes some events in the given order, or raises."""
        self._send = send
        self._background = Background(self._work, "hake-events", "the sending of events")
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """Waiting events are sent by the parent; a child publishes directly."""
        self._fresh()

    def _fresh(self) -> None:
        #: True if events are sent from here.
        self.is_on = False
        self._changed = threading.Condition()  # re-entrant: a signal handler may send an event
        self._waiting: deque[Event] = deque()
        self._is_sending = False
        self._dropped = 0
        self._warned_at = float("-inf")
        self._faults = 0
        #: When to send again after a failure, monotonic.
        self._pause_until = float("-inf")

    def put(self, event: Event) -> None:
        """Queue an event. If too many are waiting, the oldest is dropped."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append(event)
        self._background.start()  # where no thread can be started, the next event tries again

    def flush(self, timeout_s: float) -> bool:
        """Wait until all events are sent or dropped; False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_sending, timeout_s)

    def _work(self) -> float | None:
        """Send some waiting events; seconds until more are to be sent, or None after a while without events."""
        with self._changed:
            pause_s = self._pause_until - time.monotonic()
            if pause_s > 0:
                return pause_s
            events = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
            if not events:
                return None
            self._is_sending = True
        pause_s = self._try(events)
        with self._changed:
            self._pause_until = time.monotonic() + pause_s
            self._is_sending = False
            self._changed.notify_all()
            return pause_s if self._waiting else max(pause_s, _IDLE_S)

    def _try(self, events: Sequence[Event]) -> float:
        """Send events. Returns the seconds to wait before the next ones."""
        try:
            self._send(events)
        except Exception as exc:
            self._dropped += len(events)
            self._warn(exc)
            self._faults += 1
            return backoff_s(self._faults, first_s=1.0, most_s=_MOST_PAUSE_S)
        self._faults = 0
        return 0.0

    def _warn(self, exc: Exception) -> None:
        now = time.monotonic()
        if now - self._warned_at < _REMIND_S:
            return
        self._warned_at = now
        bug = not isinstance(exc, HakeError)
        logger.warning("HAKE203 Could not send %d events; tasks are not affected: %s", self._dropped, exc, exc_info=bug)
        self._dropped = 0
