"""The instruments, and what is recorded in them.

Counters
    are observable: they are counted in memory (:mod:`kombu_hake.telemetry.tally`), and read when metrics are collected.
    An export costs the same for any number of messages.

Histograms
    cost some ten times as much. Of each destination and operation, :data:`MOST_A_SECOND` values are recorded: at low
    rates all of them, at high rates a sample that is large enough. Counters never leave out anything.

    Nothing is recorded while the application has set no provider.

Attributes
    A destination is the name of a queue or exchange as the app has it. At most :data:`MOST_DESTINATIONS` of them get
    attributes of their own; callers give all temporary queues one name. Nothing else is taken from a message.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from opentelemetry.metrics import CallbackOptions, Observation, get_meter, get_meter_provider

from kombu_hake._version import __version__
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    PayloadMissing,
    QueueNotFound,
    QuotaExceeded,
    TopicNotFound,
)
from kombu_hake.telemetry import names
from kombu_hake.telemetry.providers import Provider
from kombu_hake.telemetry.safety import never_raises, report
from kombu_hake.telemetry.tally import OTHER, Few, Tally

__all__ = ["COUNTERS", "HISTOGRAMS", "MOST_A_SECOND", "MOST_DESTINATIONS", "Metrics", "PollClock"]

MOST_DESTINATIONS = 200
MOST_A_SECOND = 50
_MOST_ERRORS = 100
#: As the semantic conventions ask for, seconds.
_SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TASK_S = (*_SHORT_S, 30.0, 60.0, 300.0, 1800.0)
_DWELL_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)
_BATCH = tuple(map(float, range(1, 11)))
#: Why a message was dead-lettered; other reasons have free text.
_REASONS = frozenset({"rejected", "expired", "failed", "unhandled", "malformed", "error"})


class Counter(NamedTuple):
    """A counter: its unit, what it counts, and the attributes of a key of the tally, in order."""

    unit: str
    description: str
    attributes: tuple[str, ...]


class Histogram(NamedTuple):
    """A histogram: its unit, what it measures, and the upper bounds of its buckets."""

    unit: str
    description: str
    bounds: Sequence[float]


_OF_OPERATION = (names.SYSTEM, names.DESTINATION, names.OPERATION, names.OPERATION_TYPE, names.ERROR)
COUNTERS: Mapping[str, Counter] = {
    names.SENT: Counter(
        "{message}", "Messages that were sent to AWS; with `error.type`, those that it did not accept.", _OF_OPERATION
    ),
    names.CONSUMED: Counter("{message}", "Messages that were received.", _OF_OPERATION),
    names.SETTLED: Counter(
        "{message}", "Received messages by what became of them.", (names.DESTINATION, names.OUTCOME)
    ),
    names.DEAD: Counter(
        "{message}", "Messages that were moved to a dead-letter queue or exchange.", (names.DESTINATION, names.REASON)
    ),
    names.RENEWED: Counter("{lease}", "Visibility timeouts that were extended.", (names.DESTINATION,)),
    names.LOST: Counter(
        "{lease}", "Messages that another consumer may have received.", (names.DESTINATION, names.REASON)
    ),
    names.REQUESTS: Counter(
        "{request}", "Requests to AWS, each attempt by itself, by action and status.", (names.ACTION, names.STATUS)
    ),
}
HISTOGRAMS: Mapping[str, Histogram] = {
    names.OPERATION_DURATION: Histogram(
        "s", "Duration of one send, receive or settle request, its retries included.", _SHORT_S
    ),
    names.PROCESS_DURATION: Histogram("s", "Duration of a task's run, or of a consumer's callback.", _TASK_S),
    names.DWELL: Histogram(
        "s", "Time from SQS's acceptance to the first receive, of the message of a poll that waited longest.", _DWELL_S
    ),
    names.BATCH: Histogram("{message}", "Messages that shared a request.", _BATCH),
}
POLL_AGE = "Time since a poll of the queue was last answered."


class _Series:
    """One destination, operation and error: the key of its counts, and the attributes of its values."""

    __slots__ = ("_ends_at", "_left", "attributes", "key")

    def __init__(self, key: tuple[str, ...], attributes: dict[str, str]) -> None:
        self.key = key
        self.attributes = attributes
        self._ends_at = 0.0
        self._left = 0

    def is_recorded(self) -> bool:
        """Take one of the values of this second; False if there is none left. Threads may take a few too many."""
        now = time.monotonic()
        if now >= self._ends_at:
            self._ends_at, self._left = now + 1.0, MOST_A_SECOND
        self._left -= 1
        return self._left >= 0


class PollClock:
    """When a poll of one queue was last answered. The poller keeps it; when the poller ends, it is gone."""

    __slots__ = ("__weakref__", "_polled_at", "destination")

    def __init__(self, destination: str) -> None:
        self.destination = destination
        self._polled_at = time.monotonic()

    def polled(self) -> None:
        """A poll was answered now."""
        self._polled_at = time.monotonic()

    def age_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._polled_at


class Metrics:
    """Records. No method raises; all are safe to call from any thread.

    Callers ask :attr:`is_on` before they gather what is to be recorded.
    """

    def __init__(self, provider: Any = None) -> None:
        """Create the instruments with this provider, or the one that the application sets for the process."""
        #: Whether the application has set a provider; without one, nothing is recorded.
        self.is_on = Provider(get_meter_provider, "_METER_PROVIDER", provider).is_set
        self._tally = Tally()
        self._destination = Few(MOST_DESTINATIONS)
        self._error = Few(_MOST_ERRORS)
        self._series: dict[tuple[str, ...], _Series] = {}
        #: The same of successes alone, by what their callers know.
        self._sends: dict[tuple[str, bool], _Series] = {}
        self._processes: dict[str, _Series] = {}
        #: Service and boto3's name of a call to the key of its successes.
        self._successes: dict[tuple[str, str], tuple[str, ...]] = {}
        self.reset_after_fork()
        meter = get_meter("kombu_hake", __version__, provider)
        for name, counter in COUNTERS.items():
            meter.create_observable_counter(
                name, [_callback(partial(self._observe, name))], counter.unit, counter.description
            )
        meter.create_observable_gauge(names.POLL_AGE, [_callback(self._observe_polls)], "s", POLL_AGE)
        made = {
            name: meter.create_histogram(
                name, item.unit, item.description, explicit_bucket_boundaries_advisory=item.bounds
            )
            for name, item in HISTOGRAMS.items()
        }
        self._duration, self._process = made[names.OPERATION_DURATION], made[names.PROCESS_DURATION]
        self._dwell, self._batch = made[names.DWELL], made[names.BATCH]

    def reset_after_fork(self) -> None:
        """A child counts its own work, and polls nothing yet."""
        self._lock = threading.RLock()
        self._clocks: weakref.WeakSet[PollClock] = weakref.WeakSet()
        self._tally.reset()

    # --- what happens

    def requested(self, service: str, operation: str, error: Exception | None) -> None:
        """One attempt of a request ended. *operation* is boto3's name."""
        try:
            if not self.is_on():
                return
            key = self._successes.get((service, operation))
            if key is None:
                key = self._successes[service, operation] = (_action(service, operation), "ok")
            self._tally.add(names.REQUESTS, key if error is None else (key[0], _status(error)))
        except Exception as exc:
            report(exc)

    def sent(
        self, destination: str, count: int, seconds: float, errors: Sequence[Exception] = (), *, to_queue: bool
    ) -> None:
        """A request to send *count* messages ended; *errors* of those that were not accepted."""
        try:
            if errors or count > 1:
                self._sent(destination, count, seconds, errors, names.SQS if to_queue else names.SNS)
                return
            series = self._sends.get((destination, to_queue))
            if series is None:
                series = self._of(names.SQS if to_queue else names.SNS, destination, names.SEND, names.SEND, "")
                if series.key[1] == destination:  # their number is bounded
                    self._sends[destination, to_queue] = series
            self._tally.add(names.SENT, series.key)
            if series.is_recorded():
                self._duration.record(seconds, series.attributes)
        except Exception as exc:
            report(exc)

    def _sent(self, destination: str, count: int, seconds: float, errors: Sequence[Exception], system: str) -> None:
        series = self._of(system, destination, names.SEND, names.SEND, "")
        failed = 0
        for exc in errors:
            failed += 1
            of_error = self._of(system, destination, names.SEND, names.SEND, type(exc).__name__)
            self._tally.add(names.SENT, of_error.key)
            if failed == count:  # a request that AWS answered has not failed
                series = of_error
        if count > failed:
            self._tally.add(names.SENT, series.key, count - failed)
        if series.is_recorded():
            self._duration.record(seconds, series.attributes)
            if count > 1:
                self._batch.record(count, series.attributes)

    @never_raises
    def received(
        self,
        destination: str,
        count: int,
        seconds: float,
        *,
        dwell_s: Callable[[], float | None] = lambda: None,
        error: Exception | None = None,
    ) -> None:
        """A poll ended that brought *count* messages.

        Args:
            dwell_s: Returns the longest that one of them waited; None where all had been received before.
        """
        name = "" if error is None else type(error).__name__
        series = self._of(names.SQS, destination, names.RECEIVE, names.RECEIVE, name)
        if count:
            self._tally.add(names.CONSUMED, series.key, count)
        if series.is_recorded():
            self._duration.record(seconds, series.attributes)
            if count:
                self._batch.record(count, series.attributes)
                waited_s = dwell_s()
                if waited_s is not None:
                    self._dwell.record(max(0.0, waited_s), series.attributes)

    @never_raises
    def settled(self, destination: str, operation: str, outcomes: Mapping[str, int], seconds: float) -> None:
        """A request to delete (``ack``) or to make visible (``release``) ended; how many messages of each outcome."""
        series = self._of(names.SQS, destination, operation, names.SETTLE, "")
        for outcome, count in outcomes.items():
            self._tally.add(names.SETTLED, (series.key[1], outcome), count)
        if series.is_recorded():
            self._duration.record(seconds, series.attributes)
            self._batch.record(sum(outcomes.values()), series.attributes)

    @never_raises
    def ended(self, destination: str, outcome: str) -> None:
        """A message ended without a request: ``abandoned`` or ``lost``."""
        if not self.is_on():
            return
        self._tally.add(names.SETTLED, (self._destination(destination), outcome))

    @never_raises
    def renewed(self, destination: str, count: int) -> None:
        """AWS extended *count* leases."""
        if not self.is_on():
            return
        self._tally.add(names.RENEWED, (self._destination(destination),), count)

    @never_raises
    def lost(self, destination: str, reason: str) -> None:
        """A lease was lost."""
        if not self.is_on():
            return
        where = self._destination(destination)
        self._tally.add(names.LOST, (where, reason))
        self._tally.add(names.SETTLED, (where, "lost"))

    @never_raises
    def dead_lettered(self, destination: str, reason: str) -> None:
        """A message was moved to where dead ones go."""
        if not self.is_on():
            return
        word = reason.partition(":")[0]
        self._tally.add(names.DEAD, (self._destination(destination), word if word in _REASONS else OTHER))

    def processed(self, destination: str, seconds: float, error: str = "") -> None:
        """A task, or a consumer's callback, ended; *error* is the class of its exception."""
        try:
            series = None if error else self._processes.get(destination)
            if series is None:
                series = self._of(names.SQS, destination, names.PROCESS, names.PROCESS, error and self._error(error))
                if not error and series.key[1] == destination:
                    self._processes[destination] = series
            if series.is_recorded():
                self._process.record(seconds, series.attributes)
        except Exception as exc:
            report(exc)

    def poll_clock(self, destination: str) -> PollClock:
        """The clock of a queue that is polled from now on; its age is reported as long as the caller keeps it."""
        clock = PollClock(self._destination(destination))
        with self._lock:
            self._clocks.add(clock)
        return clock

    # --- when metrics are collected

    def _observe(self, name: str) -> list[Observation]:
        attributes = COUNTERS[name].attributes
        return [Observation(count, _named(attributes, key)) for key, count in self._tally.counts(name).items()]

    def _observe_polls(self) -> list[Observation]:
        ages: dict[str, float] = {}
        with self._lock:
            clocks = list(self._clocks)
        for clock in clocks:
            ages[clock.destination] = max(clock.age_s(), ages.get(clock.destination, 0.0))
        return [
            Observation(age, {names.SYSTEM: names.SQS, names.DESTINATION: destination})
            for destination, age in ages.items()
        ]

    def _of(self, *key: str) -> _Series:
        """The series of a system, destination, operation, its type, and an error; made once."""
        found = self._series.get(key)
        if found is None:
            system, destination, *rest = key
            key = (system, self._destination(destination), *rest)
            found = self._series.get(key)
            if found is None:
                found = self._series[key] = _Series(key, _named(_OF_OPERATION, key))
        return found


def _named(attributes: tuple[str, ...], key: tuple[str, ...]) -> dict[str, str]:
    """The attributes of a key; empty values are left out."""
    return {name: value for name, value in zip(attributes, key, strict=True) if value}


def _callback(observe: Callable[[], list[Observation]]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def call(_options: CallbackOptions) -> Iterable[Observation]:
        try:
            return observe()
        except Exception as exc:
            report(exc)
            return ()

    return call


def _action(service: str, operation: str) -> str:
    """IAM's name of a call: ``sqs:SendMessage``."""
    return f"{service}:{''.join(map(str.capitalize, operation.split('_')))}"


def _status(error: Exception) -> str:
    if isinstance(error, BrokerUnavailable):
        return "throttled" if error.is_throttle else "unavailable"
    if isinstance(error, AccessDenied):
        return "denied"
    if isinstance(error, QueueNotFound | TopicNotFound | PayloadMissing):
        return "missing"
    return "quota" if isinstance(error, QuotaExceeded) else "refused"
