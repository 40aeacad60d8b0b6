"""Count in memory what is exported only now and then: a tenth of the cost of OpenTelemetry's own counters. Pure."""

from __future__ import annotations

import threading

__all__ = ["OTHER", "Few", "Tally"]

#: Stands for all names after the first few.
OTHER = "(other)"
_MAX_CHARS = 128


class Few:
    """Passes the first few different names, and calls all others :data:`OTHER`: names may come from outside."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """The name to use."""
        found = self._known.get(name)
        if found is None:
            if len(self._known) >= self._most:
                return OTHER
            # Shortened names may meet, which only adds up their counts.
            found = self._known[name] = name if len(name) <= _MAX_CHARS else f"{name[:_MAX_CHARS]}…"
        return found


class Tally:
    """Counts by key. Safe to share between threads, and with a signal handler that interrupts one of them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew, in a forked child."""
        self._lock = threading.RLock()  # re-entrant: a signal handler may publish
        self._counts: dict[str, dict[tuple[str, ...], int]] = {}

    def add(self, name: str, key: tuple[str, ...], count: int = 1) -> None:
        """Add to the count of a key of a metric."""
        with self._lock:
            counts = self._counts.get(name)
            if counts is None:
                counts = self._counts[name] = {}
            counts[key] = counts.get(key, 0) + count

    def counts(self, name: str) -> dict[tuple[str, ...], int]:
        """All counts of a metric since the start; a copy."""
        with self._lock:
            return dict(self._counts.get(name, ()))
