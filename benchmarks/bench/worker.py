"""A Celery worker in a process of its own, watched from outside."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from support.proxy_control import RemoteProxy

from . import procfs
from .peers import Broker
from .services import Services, stop

START_TIMEOUT_S = 60.0
STALL_TIMEOUT_S = 45.0
POLL_S = 0.01


class Worker:
    """``with Worker(...) as worker``; ended by SIGTERM, or killed where nothing can be learnt from its end.

    Args:
        queues: Names, the first is the default queue.
        pool: Celery's pool: ``prefork``, ``threads`` or ``solo``.
        concurrency: Of the pool; ignored by solo.
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
    ) -> None:
        self.broker = broker
        self._done = services.folder / f"{queues[0]}.done"
        self._ready = services.folder / f"{queues[0]}.ready"
        self._log = f"{queues[0]}.worker"
        self._done.write_bytes(b"")
        self._ready.write_bytes(b"")
        environment = broker.environment(
            queue=queues[0], multiplier=multiplier, done=str(self._done), ready=str(self._ready)
        )
        command = [sys.executable, "-m", "celery", "-A", "bench.tasks:app", "worker", "-l", "WARNING", "-P", pool]
        command += ["-c", str(concurrency), "-Q", ",".join(queues), "-n", f"{queues[0]}@localhost"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self._proxy = RemoteProxy(broker.proxy_url) if broker.proxy_url else None
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

    def usage(self) -> procfs.Usage:
        """Processor and memory up to now."""
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
            ``rate`` (tasks per second, first to last), ``cpu_ms`` and ``own_cpu_ms`` per task (all processes, main
            process; start-up excluded), ``peak_mb`` (main process), ``memory_mb`` (at 10 %, 20 %, ... of the tasks),
            and behind the proxy ``requests`` and ``per_message`` (settling included, start-up's control plane not).
        """
        if self._proxy:
            self._proxy.reset_stats()
        self.wait_done(1)
        began_at, first_count, first = time.perf_counter(), self.done_count, self.usage()
        memory_mb = []
        for tenth in range(1, 11):
            self.wait_done(count * tenth // 10)
            memory_mb.append(self.usage().own_memory_mb)
        seconds, last = time.perf_counter() - began_at, self.usage()
        measured_count = max(count - first_count, 1)
        figures: dict[str, Any] = {
            "count": count,
            "seconds": seconds,
            "rate": measured_count / seconds,
            "cpu_ms": (last.cpu_s - first.cpu_s) / measured_count * 1000,
            "own_cpu_ms": (last.own_cpu_s - first.own_cpu_s) / measured_count * 1000,
            "peak_mb": last.own_peak_mb,
            "memory_mb": memory_mb,
        }
        if self._proxy:
            time.sleep(0.5)  # the last acks linger; an idle long poll is one request more
            stats = self._proxy.stats()
            moved = {action: n for action, n in stats["requests"].items() if action in MOVING}
            figures |= {"requests": stats["requests"], "per_message": sum(moved.values()) / count}
            figures["proxy_load"] = stats["cpu_s"] / (seconds + 0.5)
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
