"""Real Celery workers as processes: start, wait on conditions, stop; and what their tasks have written down."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery
from support.emulators import ROOT, Emulator

APPS = ROOT / "tests" / "processes"
LEAN = ROOT / "tests" / "support" / "lean"
#: A worker that has to share two cores with everything else takes its time to import Celery.
START_TIMEOUT_S = 60.0
TICK_S = 0.05
BROKER = "HAKE_TEST_BROKER"
RUNS = "HAKE_TEST_RUNS"


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], timeout_s: float = 60.0) -> None:
    """Wait until a condition holds.

    Args:
        what: Says in the error what never came; a callable is asked then.
    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what() if callable(what) else what}"
        time.sleep(TICK_S)


class Runs:
    """What tasks wrote down (``apps.notes.note``), one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[dict[str, Any]]:
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def of(self, **fields: object) -> list[dict[str, Any]]:
        """Those with all these fields, oldest first."""
        return [run for run in self.all() if all(run.get(name) == value for name, value in fields.items())]

    def wait_for(self, count: int, timeout_s: float = 60.0, **fields: object) -> list[dict[str, Any]]:
        """Wait until there are as many."""
        wait_until(lambda: len(self.of(**fields)) >= count, f"{count} runs of {fields}, {self.of(**fields)}", timeout_s)
        return self.of(**fields)


class Worker:
    """One ``celery worker`` and the processes of its pool.

    Attributes:
        name: Its node name without the host.
    """

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def errors(self) -> list[str]:
        """Log lines that tell of an error."""
        marks = (" ERROR/", " CRITICAL/", "Traceback")
        return [line for line in self.log.splitlines() if any(mark in line for mark in marks)]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended at the start:\n{self.log[-4000:]}"
        return " ready." in self.log

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def kill(self) -> None:
        """As the out-of-memory killer would: the main process and its pool, without a chance to say anything."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for_end(self, timeout_s: float) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} goes on after {timeout_s:.0f} s:\n{self.log[-4000:]}") from None

    def stop(self, timeout_s: float = 20.0) -> float:
        """Warm shutdown; seconds that it took.

        Raises:
            AssertionError: it takes longer, or does not end well.
        """
        started = time.monotonic()
        stop_together(self, timeout_s=timeout_s)
        return time.monotonic() - started

    def descendants(self) -> list[int]:
        """Living processes of its session (each worker leads one)."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended meanwhile
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found


def stop_together(*workers: Worker, timeout_s: float = 20.0) -> None:
    """Warm shutdown of all workers at once.

    Raises:
        AssertionError: one takes longer, or does not end well.
    """
    for worker in workers:
        worker.signal(signal.SIGTERM)
    for worker in workers:
        assert worker.wait_for_end(timeout_s) == 0, worker.log[-4000:]


class Stage:
    """Workers and publishers of one test, and what ran."""

    def __init__(self, broker: str, folder: Path) -> None:
        self.broker = broker
        self.runs = Runs(folder / "runs")
        self._folder = folder
        self._workers: list[Worker] = []

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(map(str, (LEAN, APPS, ROOT)))
        mine = {BROKER: self.broker, RUNS: str(self._folder / "runs"), "PYTHONPATH": path}
        return {**os.environ, **mine, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1"}

    def start(
        self, app: str, *options: str, name: str = "w1", ready: bool = True, cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Worker:  # fmt: skip
        """Start ``celery -A app worker options``.

        Args:
            ready: Wait until it consumes; otherwise the caller waits.
        """
        log = self._folder / f"{name}-{len(self._workers)}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO", "-n", f"{name}@test", *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd or self._folder,
                env={**self.environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker(name, process, log)
        self._workers.append(worker)
        if ready:
            self.wait_until_ready(worker)
        return worker

    def wait_until_ready(self, *workers: Worker) -> None:
        for worker in workers:
            wait_until(worker.is_ready, f"{worker.name} to be ready", START_TIMEOUT_S)

    def python(self, *arguments: str, timeout_s: float = 100.0, cwd: Path | None = None) -> str:
        """Run Python in a process of its own, such as ``-m apps.publish orders 200``; what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd or self._folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        """Kill what still runs."""
        for worker in self._workers:
            try:
                os.killpg(worker.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # the usual case: the test stopped it
            finally:
                worker.process.wait()


@contextmanager
def stage(broker: str, folder: Path) -> Iterator[Stage]:
    """A stage that leaves no process behind."""
    found = Stage(broker, folder)
    try:
        yield found
    finally:
        found.close()


def client(stage: Stage) -> Celery:
    """An app in this process that knows the broker and nothing else."""
    return Celery(broker=stage.broker, set_as_current=False)


def unfinished(aws: Emulator, queue: str = "celery") -> tuple[int, int]:
    """Messages of a queue that are (ready, in flight)."""
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__{queue}")["QueueUrl"]
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return int(found[names[0]]), int(found[names[1]])
