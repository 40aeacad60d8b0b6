"""What was seen after a change, and from when on it shows the new state. Pure.

A lag is counted from before the call that changes something until after the first look that shows the new state, so it
includes both calls, and is never less than the truth.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["STEADY", "Lag", "Probe", "Rate", "Seen", "judged", "new_since", "pause_after_s"]

#: AWS answers from several hosts, and an old one may follow a new one: so many looks in a row must be new.
STEADY = 5
_SHORTEST_PAUSE_S = 0.5
#: Of the time that has passed: what takes minutes need not be known to half a second.
_PAUSE_SHARE = 0.05


class Seen(NamedTuple):
    """One look. ``is_new`` is None where it says nothing, for example because the message may still arrive."""

    at: float
    is_new: bool | None


class Probe(NamedTuple):
    """A message that was published to see whether it arrives."""

    number: int
    at: float


def new_since(seen: Iterable[Seen]) -> float | None:
    """Time of the first of :data:`STEADY` looks in a row that are new; None while there are none."""
    first, count = 0.0, 0
    for look in seen:
        count = count + 1 if look.is_new else 0
        if count == 1:
            first = look.at
        if count == STEADY:
            return first
    return None


def judged(
    probes: Sequence[Probe], arrived: Container[int], *, is_new_if_arrived: bool, now: float, patience_s: float
) -> list[Seen]:
    """What probes tell about a change.

    Args:
        arrived: Numbers of the probes that have arrived.
        is_new_if_arrived: True where the change lets messages in, False where it keeps them out.
        patience_s: What has not arrived after so long is lost.
    """
    return [
        Seen(
            probe.at,
            is_new_if_arrived
            if probe.number in arrived
            else (not is_new_if_arrived if now - probe.at >= patience_s else None),
        )
        for probe in probes
    ]


def pause_after_s(elapsed_s: float) -> float:
    """How long to wait between two looks, so long after the change."""
    return max(_SHORTEST_PAUSE_S, elapsed_s * _PAUSE_SHARE)


@dataclass(frozen=True)
class Lag:
    """A row of the table.

    Attributes:
        what: What was late.
        samples_s: How late, each time.
        missed: How many times it had not come when :attr:`limit_s` were over.
        limit_s: How long was waited.
        assumed_s: How late it may be at most by what the package and its slow stand-in assume; None for no assumption.
    """

    what: str
    samples_s: tuple[float, ...]
    missed: int = 0
    limit_s: float = 0.0
    assumed_s: float | None = None

    @property
    def median_s(self) -> float | None:
        return statistics.median(self.samples_s) if self.samples_s else None

    @property
    def worst_s(self) -> float | None:
        return max(self.samples_s, default=None)


@dataclass(frozen=True)
class Rate:
    """How many calls of an operation were accepted.

    Attributes:
        accepted_at: Seconds since the first call.
        refused: How many were throttled.
        for_s: How long calls were made.
        assumed_per_s: What the stand-in refuses beyond.
    """

    operation: str
    accepted_at: tuple[float, ...]
    refused: int
    for_s: float
    assumed_per_s: float | None = None

    @property
    def per_s(self) -> float:
        """Accepted calls in the median second; of less than a second, their mean."""
        seconds = int(self.for_s)
        if not seconds:
            return len(self.accepted_at) / self.for_s if self.for_s else 0.0
        by_second = Counter(int(at) for at in self.accepted_at)
        return float(statistics.median(by_second[second] for second in range(seconds)))
