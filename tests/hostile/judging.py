"""What a worker must not do with hostile messages, and the runs that find out.

A message has a *fault* when
    * the worker, or a process of its pool, ended;
    * code in it was run;
    * a good task that was sent after it waited longer than :data:`LATE_S`;
    * it, or what follows from it, reached another queue;
    * the worker asked for it again and again, or took more memory than :data:`MEMORY_MIB` for it;
    * it left no trace: it was neither run, nor is it in a dead-letter queue, nor does a line of the log name its id,
      nor is it still in its queue.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from hostile.arena import QUEUES, Arena
from hostile.corpus import CONTROL, GROUP, TASKS, TOPIC, Hostile, corpus

__all__ = ["Bulk", "Finding", "Growth", "bulk", "growth", "one_by_one"]

#: Times are multiplied by it; a busy machine takes longer.
PATIENCE = float(os.environ.get("HAKE_HOSTILE_PATIENCE", "4"))
LATE_S = 5.0
#: After so long a good task counts as stuck, and the worker is replaced; and so do all tasks of a window.
STUCK_S = 1.5 * LATE_S
WINDOW_STUCK_S = 4 * LATE_S
#: A message that is not settled in this time is held back, or waits out its visibility timeout.
SETTLE_S = 1.5
#: What the worker logs then.
HELD = "and is redelivered in"
#: How much memory one message may add to the main process, for a while.
MEMORY_MIB = 256.0
MAX_DELIVERIES = 3
_SMALL_CHARS = 5_000
#: Added to the number of a good task for a second one.
_AGAIN = 500_000


@dataclass(frozen=True)
class Finding:
    """What became of one hostile message.

    Attributes:
        outcome: ``run``, ``dead letter``, ``logged``, ``in queue``, ``not delivered`` (a filter policy kept it out),
            ``ignored`` (what needs no trace), or ``nothing``.
        waited_s: How long the good task after it waited; None if it did not run.
        faults: In words; empty for none.
    """

    name: str
    outcome: str
    waited_s: float | None
    faults: tuple[str, ...]

    def __str__(self) -> str:
        waited = "never" if self.waited_s is None else f"{self.waited_s:.2f} s"
        return f"{self.name:55} {self.outcome:14} {waited:>8}  {'; '.join(self.faults)}"


def one_by_one(
    arena: Arena, messages: Iterable[Hostile], report: Callable[[Finding], object] = lambda _: None
) -> list[Finding]:
    """Send each message and a good task after it; what became of each.

    A worker that has ended, or stands still, is replaced, so that the others are tried too.

    Args:
        report: Called with each finding as it comes.
    """
    judge = _Judge(arena)
    findings = []
    for number, message in enumerate(messages):
        finding = judge.try_one(number, message)
        report(finding)
        findings.append(finding)
    return findings


class _Judge:
    """Tries messages one by one on one arena."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._topics: set[str] = set()

    def try_one(self, number: int, message: Hostile) -> Finding:
        arena = self._arena
        faults: list[str] = []
        mark = str(uuid4())
        message = message.copy(mark)
        arena.log.new()
        arena.proxy.forget()
        arena.peak_memory_mib()
        memory = arena.memory_mib()
        runs_before = len(arena.odd_runs)
        message_id = arena.send(message)
        if message.to == CONTROL:  # its queue is another one, so the good task could overtake it
            arena.until(lambda: message.text in arena.proxy.bodies or not arena.is_alive, SETTLE_S)
        sent_at = time.time()
        arena.send_good(number, message.queue)
        arena.until(lambda: arena.has_run(number) or not arena.is_alive, STUCK_S * PATIENCE)
        waited = arena.runs[number][0] - sent_at if number in arena.runs else None
        if message.to == CONTROL and waited is not None:  # the good task may have been received in the same moment
            arena.send_good(number + _AGAIN, message.queue)
            if not arena.until(lambda: arena.has_run(number + _AGAIN) or not arena.is_alive, STUCK_S * PATIENCE):
                waited = None
        log: list[str] = []

        def is_settled() -> bool:
            log.append(arena.log.new())
            return any(HELD in text for text in log) or arena.unsettled(message.queue) == (0, 0) or not arena.is_alive

        if waited is not None and arena.is_alive:
            arena.until(is_settled, SETTLE_S)
        if not arena.is_alive:
            faults.append(f"the worker ended ({arena.worker.process.returncode})")
        elif waited is None:
            faults.append("the good task never ran")
        elif waited > LATE_S * PATIENCE:
            faults.append(f"the good task waited {waited:.1f} s")
        outcome = self._outcome(message, message_id, mark, runs_before, "".join(log))
        if outcome == "nothing" and not faults:
            faults.append("it left no trace")
        faults += self._side_effects(memory)
        if not arena.is_alive or waited is None:
            arena.restart()
        elif outcome in ("in queue", "logged"):
            arena.purge()
        return Finding(message.name, outcome, waited, tuple(faults))

    def _outcome(self, message: Hostile, message_id: str | None, mark: str, runs_before: int, log: str) -> str:
        arena = self._arena
        log, dead = log + arena.log.new(), arena.take_dead_letters()
        arena.read_runs()
        ids = [message_id] if message_id else arena.proxy.bodies.get(message.text, [])
        if len(arena.odd_runs) > runs_before:
            return "run"
        if dead:
            return "dead letter"
        if any(one in log for one in [*ids, mark]):
            return "logged"
        if message.may_vanish:
            return "ignored"
        if message.is_to_topic and not ids:
            return "not delivered"
        return "in queue" if arena.unsettled(message.queue) != (0, 0) else "nothing"

    def _side_effects(self, memory_before: float) -> list[str]:
        arena = self._arena
        faults = [f"it ran code ({name})" for name in arena.executed()]
        if lost := arena.lost_pool_processes():
            faults.append(f"{lost} processes of the pool ended")
        if arena.take_redirected():
            faults.append("it reached another queue")
        if new_topics := arena.new_topics() - self._topics:
            self._topics |= new_topics
            faults.append(f"it created the topics {sorted(new_topics)}")
        most = max(arena.proxy.deliveries.values(), default=0)
        if most > MAX_DELIVERIES:
            faults.append(f"it was delivered {most} times")
        taken = arena.peak_memory_mib() - memory_before
        if taken > MEMORY_MIB:
            faults.append(f"it took {taken:.0f} MiB")
        return faults


# --- many at once -------------------------------------------------------------------------------------------------


@dataclass
class Bulk:
    """What came of hostile messages among good tasks.

    Attributes:
        restarts: How often the worker ended or stood still, and was replaced.
        untraced: Name of a message to how many of its copies left no trace, beyond those that are still in a queue.
        missing, repeated: Numbers of good tasks.
        requests: Phase to the worker's requests by action: ``good`` (the good tasks alone), ``all good`` (good ones in
            place of the hostile ones) and ``mixed``, each for as many windows.
    """

    hostile: int = 0
    good: int = 0
    restarts: int = 0
    executed: list[str] = field(default_factory=list)
    untraced: Counter[str] = field(default_factory=Counter)
    still_in_queue: int = 0
    missing: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    waited_s: float = 0.0
    redirected: int = 0
    requests: dict[str, dict[str, float]] = field(default_factory=dict)

    def ratio(self, phase: str) -> float:
        """Requests with hostile messages, as a multiple of those of a phase without."""
        return sum(self.requests["mixed"].values()) / sum(self.requests[phase].values())

    def faults(self, most_requests: float) -> list[str]:
        """In words.

        Args:
            most_requests: How many times as many requests as without hostile messages are accepted.
        """
        found = []
        if self.restarts:
            found.append(f"the worker ended or stood still {self.restarts} times")
        if self.executed:
            found.append(f"code was run by {sorted(set(self.executed))}")
        if self.missing:
            found.append(f"{len(self.missing)} good tasks did not run: {self.missing[:10]}")
        if self.repeated:
            found.append(f"{len(self.repeated)} good tasks ran more than once: {self.repeated[:10]}")
        if self.untraced.total() > self.still_in_queue:
            found.append(f"{self.untraced.total()} messages left no trace: {dict(self.untraced.most_common(10))}")
        if self.redirected:
            found.append(f"{self.redirected} messages reached another queue")
        if self.waited_s > LATE_S * PATIENCE:
            found.append(f"a good task waited {self.waited_s:.1f} s")
        if self.ratio("all good") > most_requests:
            found.append(f"{self.ratio('all good'):.2f} times the requests that good messages need")
        return found


def bulk(arena: Arena, count: int, *, window: int = 25, report: Callable[[str], object] = lambda _: None) -> Bulk:
    """Send hostile messages mixed with as many good tasks, and count the worker's requests.

    Emulators look at every message of a queue for each request, so queues are kept short: in windows, each of which is
    sent when the one before it is done.

    Args:
        window: Hostile messages in a window; as many good tasks are in it.
        report: Called with a line after each tenth window.
    """
    found = Bulk()
    numbers = itertools.count(1_000_000)
    hostile = itertools.cycle(one for one in corpus() if not one.may_vanish)
    windows = -(-count // window)
    compared = min(windows, 10)
    for phase, goods in (("good", window), ("all good", 2 * window)):
        arena.proxy.reset_stats()
        for _ in range(compared):
            _window(arena, found, [], goods, numbers)
        found.requests[phase] = {name: n * windows / compared for name, n in arena.proxy.requests().items()}
    arena.proxy.reset_stats()
    for done in range(windows):
        batch = [next(hostile).copy(str(uuid4())) for _ in range(min(window, count - found.hostile))]
        _window(arena, found, batch, window, numbers)
        if not (done + 1) % 10:
            memory = arena.memory_mib()
            report(f"{found.hostile} hostile, {found.good} good, {found.restarts} restarts, {memory:.0f} MiB")
    found.requests["mixed"] = dict(arena.proxy.requests())
    return found


def _window(arena: Arena, found: Bulk, batch: Sequence[Hostile], goods: int, numbers: Iterable[int]) -> None:
    arena.log.new()
    arena.proxy.forget()
    runs_before = len(arena.odd_runs)
    chosen = list(itertools.islice(numbers, goods))
    ids: list[str | None] = []
    sent: dict[int, float] = {}
    for number, message in itertools.zip_longest(chosen, batch):
        if message is not None:
            ids.append(arena.send(message))
        if number is not None:
            sent[number] = time.time()
            arena.send_good(number, QUEUES[number % len(QUEUES)])
    found.hostile += len(batch)
    found.good += len(chosen)

    def all_ran() -> bool:
        arena.read_runs()
        return all(number in arena.runs for number in chosen)

    arena.until(lambda: all_ran() or not arena.is_alive, WINDOW_STUCK_S * PATIENCE)
    is_stuck = not all_ran()
    if not is_stuck:
        arena.until(lambda: all(arena.unsettled(queue) == (0, 0) for queue in QUEUES), SETTLE_S)
    log, dead = arena.log.new(), arena.take_dead_letters()
    arena.read_runs()
    ran = arena.odd_runs[runs_before:]
    for message, message_id in zip(batch, ids, strict=True):
        known = [message_id] if message_id else arena.proxy.bodies.get(message.text, [])
        if not known or message.text in dead or any(one in log or any(one in run for run in ran) for one in known):
            continue
        if any(message.mark in text for text in [log, *ran, *dead]):
            continue
        found.untraced[message.name] += 1
    found.still_in_queue += sum(sum(arena.unsettled(queue)) for queue in QUEUES)
    found.missing += [number for number in chosen if number not in arena.runs]
    found.repeated += [number for number in chosen if len(arena.runs.get(number, ())) > 1]
    waits = [arena.runs[number][0] - at for number, at in sent.items() if number in arena.runs]
    found.waited_s = max([found.waited_s, *waits])
    found.executed += arena.executed()
    found.redirected += len(arena.take_redirected())
    if is_stuck or not arena.is_alive:
        found.restarts += 1
        arena.restart()
    elif batch:
        arena.purge()


# --- growth -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """The worker after so many distinct messages."""

    messages: int
    memory_mib: float
    log_bytes: int
    restarts: int

    def __str__(self) -> str:
        return (
            f"{self.messages:6} messages: {self.memory_mib:7.1f} MiB, {self.log_bytes / 1024:9.0f} KiB of log, "
            f"{self.restarts} restarts"
        )


def growth(
    arena: Arena, at: Sequence[int], *, window: int = 50, report: Callable[[Growth], object] = lambda _: None
) -> list[Growth]:
    """Send distinct messages: each with its own ids, and half of them with a task or an exchange of its own.

    Args:
        at: After how many messages to look, in order; the last one ends it.
    """
    named = [one for one in _small() if "unknown" in one.name and one.to in (TASKS, GROUP, TOPIC)]
    mixed = itertools.chain.from_iterable(zip(itertools.cycle(named), itertools.cycle(_small()), strict=False))
    found = Bulk()
    numbers = itertools.count(5_000_000)
    sent = 0
    samples: list[Growth] = []

    def look() -> None:
        size = sum(path.stat().st_size for path in arena.folder.glob("*.log"))
        samples.append(Growth(sent, arena.memory_mib(), size, arena.restarts))
        report(samples[-1])

    _window(arena, found, [], window, numbers)  # what is loaded with the first messages is there
    look()
    for target in at:
        while sent < target:
            size = min(window, target - sent)
            _window(arena, found, [next(mixed).copy(str(uuid4())) for _ in range(size)], 2, numbers)
            sent += size
        look()
    return samples


def _small() -> list[Hostile]:
    return [one for one in corpus() if not one.may_vanish and len(one.text) < _SMALL_CHARS]


def totals(findings: Iterable[Finding]) -> dict[str, Any]:
    """Outcomes counted, and the longest wait of a good task, for a report."""
    found = list(findings)
    waits = [one.waited_s for one in found if one.waited_s is not None]
    return {
        "messages": len(found),
        "outcomes": dict(Counter(one.outcome for one in found).most_common()),
        "with faults": sum(bool(one.faults) for one in found),
        "longest wait of a good task, s": round(max(waits, default=0.0), 2),
    }
