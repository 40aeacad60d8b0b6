"""A worker's health file: shows a probe on the same machine that the worker is not stuck.

What is watched
    The threads without which a worker does nothing, although its process lives: the pollers of its queues, the keeper
    of its leases, and Celery's event loop. Each beats its :class:`~kombu_hake.aws.Pulse` in each turn. A thread that
    waits for AWS is in order until the time limit of its request, so an outage is not taken for a stuck worker; nor is
    an empty queue, because a long poll ends after twenty seconds.

    A solo pool runs tasks in the thread of the event loop. While it runs one, the loop need not turn.

    Until a worker consumes, and while it connects again, there is no loop to watch. Then the thread that connects has
    to try again from time to time.

Who writes
    A thread of its own, every few seconds. The time stamp of the file is set to when the part that is stuck turned
    last; it is the present while none is. If the process is frozen, nothing is written, and the file becomes old.
    The thread takes no lock of those that it watches.

Only a worker's main process writes: the signal ``worker_init`` tells which process is one. The thread starts when the
worker connects first. By then a prefork pool has forked its processes, so there are no threads at that moment.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from kombu_hake.aws import Background, Pulse, Vital, forksafe, waits_until
from kombu_hake.config import Settings
from kombu_hake.health import Health, Stuck
from kombu_hake.quoting import guarded
from kombu_hake.worker import state

__all__ = ["HealthFile", "Judge", "connecting", "on_init", "on_ready"]

logger = guarded(logging.getLogger(__name__))
#: How often the file is written.
_EVERY_S = 5.0
#: How long a part may need for a turn, not counting waits.
TURN_S = 30.0
#: How long a thread may be missing: the event loop replaces one that has ended within five seconds.
DEAD_S = 10.0
#: How long a worker that does not consume may need between two tries to connect; Celery pauses for half a minute.
CONNECT_S = 120.0
#: Places of a stack that are logged.
_PLACES = 4


class Judge:
    """Decides which parts are stuck. No I/O; remembers when it saw each part in order."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, until: Callable[[int], float | None] = waits_until
    ) -> None:
        """*until* returns when the wait of a thread ends at the latest; None if it does not wait."""
        self._clock = clock
        self._until = until
        self._seen: dict[Pulse, float] = {}
        self._dead: dict[Pulse, float] = {}

    def stuck(self, vitals: Sequence[Vital], limit_s: float, busy: Vital | None = None) -> list[tuple[Vital, float]]:
        """Parts that are stuck, each with the number of seconds since it was in order; the longest first.

        Args:
            limit_s: How long one turn may take.
            busy: A part whose thread is occupied by something that may last, such as a task.
        """
        now = self._clock()
        seen: dict[Pulse, float] = {}
        dead: dict[Pulse, float] = {}
        found = []
        for vital in vitals:
            pulse = vital.pulse
            turned_at, thread = pulse.last
            until = self._until(thread)
            if vital is busy or (until is not None and now <= until):
                seen[pulse] = now
            else:
                seen[pulse] = max(turned_at, self._seen.get(pulse, -math.inf))
            if not vital.is_alive:
                dead[pulse] = self._dead.get(pulse, now)
                if now - dead[pulse] >= DEAD_S:
                    found.append((vital, now - dead[pulse]))
            elif now - seen[pulse] > limit_s:
                found.append((vital, now - seen[pulse]))
        self._seen, self._dead = seen, dead
        return sorted(found, key=lambda one: -one[1])


class HealthFile:
    """The file of one worker. A failure is logged once, and does not affect the worker."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Device and inode of what was written last.
        self._own: tuple[int, int] | None = None
        self._has_failed = False
        self._is_shared = False

    def write(self, content: str, modified_at: float) -> bool:
        """Replace the file as a whole, and set its time stamp, seconds since the epoch. False if that fails."""
        folder, name = os.path.split(self.path)
        passing = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
        try:
            self._look_for_others()
            try:
                handle = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:  # of a process with this pid that was killed: in a container each has the same
                os.unlink(passing)
                handle = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                with open(handle, "w", encoding="utf-8") as file:
                    file.write(content)
                os.utime(passing, (modified_at, modified_at))
                status = os.stat(passing)
                os.replace(passing, self.path)
            except OSError:
                with suppress(OSError):
                    os.unlink(passing)
                raise
        except OSError as exc:
            if not self._has_failed:
                reason = (
                    exc if os.path.isdir(folder) else f"there is no folder {folder}: create it before the worker starts"
                )
                logger.warning("HAKE720 Cannot write the health file %s; continuing without it: %s", self.path, reason)
            self._has_failed = True
            return False
        self._own = (status.st_dev, status.st_ino)
        self._has_failed = False
        return True

    def remove(self) -> None:
        """Remove the file, unless it is another process's by now."""
        if self._own is None or self._owner() != self._own:
            return
        self._own = None
        try:
            os.unlink(self.path)
        except OSError as exc:
            logger.info("Cannot remove the health file %s: %s", self.path, exc)

    def _look_for_others(self) -> None:
        owner = self._owner()
        if self._own is None or owner in (None, self._own) or self._is_shared:
            return
        self._is_shared = True
        logger.warning(
            "HAKE722 Another process writes the health file %s too, and hides the state of this worker. Put %%n, the "
            "name of the node, in its name.",
            self.path,
        )

    def _owner(self) -> tuple[int, int] | None:
        try:
            status = os.lstat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino


class Watch:
    """Writes the health file of a worker for as long as it lives."""

    def __init__(self, controller: Any, file: HealthFile, connecting: Pulse, judge: Judge | None = None) -> None:
        """
        Args:
            controller: Celery's ``WorkController``.
            connecting: Beats when this process tries to connect.
        """
        self._controller = weakref.ref(controller)
        self._node = str(controller.hostname)
        self._file = file
        self._judge = judge or Judge()
        #: Used until the worker consumes, and when it connects again.
        self._connection = Vital("the connection to AWS", connecting)
        #: The transport that the worker consumes with.
        self._consuming: Callable[[], Any] = lambda: None
        self._stuck: set[str] = set()
        self._background = Background(self.look, "hake-health", "watching the health of this worker")

    def start(self) -> None:
        """Write the file now, and from now on."""
        self.look()
        self._background.start()

    def stop(self) -> None:
        """Remove the file."""
        self._background.stop(1.0)
        self._file.remove()

    def consumes_with(self, transport: Any) -> None:
        """The worker is ready, and consumes with this connection."""
        self._consuming = weakref.ref(transport)

    def look(self) -> float:
        """Look at all parts, and write the file; seconds until the next look."""
        health, stuck_s = self._health()
        self._report(health)
        self._file.write(health.dumps(), time.time() - stuck_s)
        return _EVERY_S

    def _health(self) -> tuple[Health, float]:
        """The state of the worker, and the number of seconds since it was in order."""
        controller = self._controller()
        vitals = self._vitals(controller)
        if controller is None or state.is_stopping():
            return Health(self._node, os.getpid(), "stopping", len(vitals)), 0.0
        busy = vitals[0] if vitals and _runs_task_in_loop(controller) else None
        found = self._judge.stuck(vitals or [self._connection], TURN_S if vitals else CONNECT_S, busy)
        now = time.time()
        stuck = tuple(Stuck(one.name, now - since_s, _place(one)) for one, since_s in found)
        state_ = "stuck" if stuck else "ok" if vitals else "starting"
        return Health(self._node, os.getpid(), state_, len(vitals), stuck), found[0][1] if found else 0.0

    def _vitals(self, controller: Any) -> list[Vital]:
        """The parts of the connection that the worker consumes with, the event loop first; [] while it connects."""
        transport = self._consuming()
        connection = getattr(getattr(controller, "consumer", None), "connection", None)
        if getattr(connection, "_transport", None) is not transport or transport is None:
            return []
        found: list[Vital] = transport.vitals()
        return found

    def _report(self, health: Health) -> None:
        stuck = {one.part for one in health.stuck}
        for one in health.stuck:
            if one.part not in self._stuck:
                logger.error(
                    "HAKE721 This worker is unhealthy: %s has made no progress for %.0f s. It is at: %s",
                    one.part, time.time() - one.since, one.where or "an unknown place",
                )  # fmt: skip
        for part in self._stuck - stuck:
            logger.info("No longer stuck: %s.", part)
        self._stuck = stuck


def _runs_task_in_loop(controller: Any) -> bool:
    """Return True if the pool runs tasks in the thread of the event loop, and one runs now."""
    if type(getattr(controller, "pool", None)).__module__ != "celery.concurrency.solo":
        return False
    return bool(sys.modules["celery.worker.state"].active_requests)


def _place(vital: Vital) -> str:
    """The innermost places in the stack of a thread; the first one is where it is."""
    if not vital.is_alive:
        return "its thread has ended"
    frame = sys._current_frames().get(vital.pulse.last[1])
    places: list[str] = []
    while frame is not None and len(places) < _PLACES:
        module = frame.f_globals.get("__name__")
        places.append(f"{module}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return ", called from ".join(places)


class _Here:
    """What this process is: a worker's main process, or not."""

    def __init__(self) -> None:
        self.reset_after_fork()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """A process of the pool is no worker."""
        self.controller: Any = lambda: None
        self.watch: Watch | None = None
        self.connecting = Pulse()


_here = _Here()


def on_init(sender: Any = None, **_kwargs: Any) -> None:
    """This process is a worker; *sender* is its ``WorkController``."""
    if hasattr(sender, "hostname"):
        _stop()
        _here.controller = weakref.ref(sender)


def connecting(settings: Settings) -> None:
    """This process connects to AWS. Where it is a worker, its file exists from now on."""
    _here.connecting.beat()
    controller = _here.controller()
    if settings.health_file is not None and controller is not None and _here.watch is None:
        _start(controller, settings.health_file)


def on_ready(consumer: Any, transport: Any) -> None:
    """The worker consumes from now on."""
    if _here.controller() is None:  # Celery was loaded too late for the signal worker_init
        _here.controller = weakref.ref(consumer.controller)
        connecting(transport.settings)
    if _here.watch is not None:
        _here.watch.consumes_with(transport)


def _start(controller: Any, path: str) -> None:
    from celery.signals import worker_shutdown
    from celery.utils.nodenames import node_format

    file = HealthFile(node_format(path, controller.hostname))
    _here.watch = Watch(controller, file, _here.connecting)
    _here.watch.start()
    worker_shutdown.connect(_stop, weak=False, dispatch_uid="kombu_hake.worker.health")


def _stop(**_kwargs: Any) -> None:
    watch, _here.watch = _here.watch, None
    _here.controller = lambda: None
    if watch is not None:
        watch.stop()


atexit.register(_stop)
