"""A worker in a process of its own, watched from outside."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from . import procfs
from .peers import Broker
from .services import Services, stop
from .standin import StandIn

START_TIMEOUT_S = 60.0
STALL_TIMEOUT_S = 45.0
POLL_S = 0.005


class Worker:
    """``with Worker(...) as worker``; ended by SIGTERM, or killed where nothing can be learnt from its end.

    Args:
        queues: Names, the first is the default queue.
        pool: Celery's pool: ``prefork``, ``threads`` or ``solo``.
        concurrency: Of the pool; ignored by solo.
        standin: Another one than the common one.
        variables: More of the environment.
    Attributes:
        ready_s: From its start until Celery called it ready (after ``wait_ready``).
        stop_s: How long it took to end.
    """

    def __init__(
        self,
        services: Services,
        broker: Broker,
        queues: list[str],
        *,
        pool: str,
        concurrency: int = 2,
        multiplier: int = 4,
        standin: StandIn | None = None,
        **variables: object,
    ) -> None:
        self.broker = broker
        self._done = services.folder / f"{queues[0]}.done"
        self._ready = services.folder / f"{queues[0]}.ready"
        self._log = f"{queues[0]}.worker"
        self._done.write_bytes(b"")
        self._ready.write_bytes(b"")
        environment = broker.environment(
            queue=queues[0], multiplier=multiplier, done=str(self._done), ready=str(self._ready), **variables
        )
        self._standin = (standin or services.standin) if broker.is_aws else None
        command = _command(broker, queues, pool, concurrency, multiplier)
        self.started_at = time.monotonic()
        self._process: subprocess.Popen[bytes] = services.spawn(self._log, command, **environment)
        self._folder = services.folder

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.broker.is_aws:
            self._process.kill()  # how others stop is not measured, and takes up to ten seconds
        self.stop_s = stop(self._process)

    @property
    def done_count(self) -> int:
        """Finished no-op tasks."""
        return self._done.stat().st_size

    @property
    def stamps(self) -> bytes:
        """What the stamp tasks wrote, see ``stamps``."""
        return self._done.read_bytes()

    def memory_mb(self) -> float:
        """Resident memory of the main process now, MiB."""
        return procfs.memory_mb(self._process.pid)

    def usage(self) -> procfs.Usage:
        """Processor time up to now."""
        return procfs.usage(self._process.pid)

    def wait_ready(self) -> None:
        """Wait until Celery says that it consumes.

        Raises:
            RuntimeError: it ended, or takes too long; with the end of its log.
        """
        self._wait(lambda: self._ready.stat().st_size > 0, START_TIMEOUT_S)
        self.ready_s = time.monotonic() - self.started_at

    def wait_done(self, size: int) -> None:
        """Wait until the file of finished tasks has this size. Raises as ``wait_ready``."""
        self._wait(lambda: self.done_count >= size, STALL_TIMEOUT_S, progress=lambda: self.done_count)

    def measure(self, count: int) -> dict[str, Any]:
        """Wait for ``count`` no-op tasks and say how it went.

        Returns:
            ``rate`` (tasks per second, first to last), processor time as ``procfs.Usage.per_message`` and ``server_us``
            (of the broker or stand-in) without start-up, ``peak_mb`` (main process), ``memory_mb`` (at 10 %, 20 %, ...
            of the tasks), and on AWS ``requests``, ``messages`` and ``per_message`` (settling included, start-up's
            control plane not).
        """
        if self._standin:
            self._standin.reset()
        self.wait_done(1)
        began_at, first_count, first = time.perf_counter(), self.done_count, self.usage()
        server_s = procfs.cpu_s(self.broker.server_pids)
        memory_mb = []
        for tenth in range(1, 11):
            self.wait_done(count * tenth // 10)
            memory_mb.append(self.memory_mb())
        seconds, last = time.perf_counter() - began_at, self.usage()
        server_s = procfs.cpu_s(self.broker.server_pids) - server_s
        measured_count = max(count - first_count, 1)
        figures: dict[str, Any] = {
            "count": count,
            "seconds": seconds,
            "rate": measured_count / seconds,
            **last.since(first).per_message(measured_count),
            "server_us": server_s / measured_count * 1e6,
            "peak_mb": procfs.peak_mb(self._process.pid),
            "memory_mb": memory_mb,
        }
        if self._standin:
            time.sleep(0.5)  # the last acks linger; an idle long poll is one request more
            stats = self._standin.stats()
            moved = {action: n for action, n in stats["requests"].items() if action in MOVING}
            figures |= {"requests": stats["requests"], "messages": stats["messages"]}
            figures["per_message"] = sum(moved.values()) / count
        return figures

    def _wait(self, is_so: Any, timeout_s: float, progress: Any = None) -> None:
        seen, deadline = None, time.monotonic() + timeout_s
        while not is_so():
            if progress and progress() != seen:
                seen, deadline = progress(), time.monotonic() + timeout_s
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = Path(self._folder / f"{self._log}.log").read_text(errors="replace")
                raise RuntimeError(f"the {self.broker.peer} worker stands still at {self.done_count}:\n{log[-3000:]}")
            time.sleep(POLL_S)


MOVING = frozenset(
    {"ReceiveMessage", "DeleteMessage", "DeleteMessageBatch", "ChangeMessageVisibility", "ChangeMessageVisibilityBatch"}
)
"""Actions that take messages from a queue; the rest is start-up."""


def _command(broker: Broker, queues: list[str], pool: str, concurrency: int, multiplier: int) -> list[str]:
    if broker.peer == "taskiq":
        module = ["-m", "taskiq", "worker", "bench.tasks_taskiq:broker", "--log-level", "WARNING"]
        prefetch = ["--max-prefetch", str(multiplier * concurrency), "--max-async-tasks", str(multiplier)]
        return [broker.python, *module, "--workers", str(concurrency), *prefetch]
    if broker.peer == "dramatiq":
        module = ["-m", "dramatiq", "bench.tasks_dramatiq", "--queues", queues[0]]
        return [broker.python, *module, "--processes", str(concurrency), "--threads", "8"]
    command = [broker.python, "-m", "celery", "-A", "bench.tasks:app", "worker", "-l", "WARNING", "-P", pool]
    command += ["-c", str(concurrency), "-Q", ",".join(queues), "-n", f"{queues[0]}@localhost"]
    return [*command, "--without-gossip", "--without-mingle", "--without-heartbeat"]
