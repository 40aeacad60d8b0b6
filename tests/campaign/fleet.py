"""The workers of a campaign: started, killed without warning and started again; and the publishers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.celery_workers import Stage, Worker, wait_until
from support.emulators import ROOT

from campaign.app import BROKER, FOLDER, GROUPS
from campaign.ledger import Kill, read

TESTS = ROOT / "tests"
_READY_S = 120.0
_YOUNG_S = 6.0
#: Emulators look at every message of a queue for each request: queues are kept short.
_WINDOW = 60


class Fleet:
    """Two workers a group, say, behind one broker URL.

    Attributes:
        kills: What was killed, in order.
        folder: Where runs, publishes and logs are.
    """

    def __init__(
        self, broker: str, options: Mapping[str, Any], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """*environment*: of workers and publishers, besides this program's."""
        self.folder = folder
        self.kills: list[Kill] = []
        self._stage = Stage(broker, folder)
        self._environment = {
            **os.environ, BROKER: broker, FOLDER: str(folder), "CAMPAIGN_OPTIONS": json.dumps(options),
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT)]), "C_FORCE_ROOT": "1", **(environment or {}),
        }  # fmt: skip
        self._workers: dict[str, tuple[Worker, str]] = {}
        self._started: dict[str, float] = {}
        self._publishers: list[subprocess.Popen[bytes]] = []
        self._next = 0
        self._random = random.Random()

    # --- workers

    def start(self, workers_per_group: int, *arguments: str, more: Mapping[str, str] | None = None) -> None:
        """Start workers for each group, and wait until they consume.

        Args:
            more: Further workers: name to queues.
        """
        self._arguments = arguments
        wanted = {f"{group}{number}": group for group in GROUPS for number in range(workers_per_group)}
        for name, queues in {**wanted, **(more or {})}.items():
            self._start(name, queues)
        for worker, _ in self._workers.values():
            wait_until(worker.is_ready, f"{worker.name} to be ready\n{worker.log[-2000:]}", _READY_S)

    def _start(self, name: str, queues: str) -> None:
        worker = self._stage.start(
            "campaign.app", "-Q", queues, *self._arguments, name=name, ready=False, environment=self._environment
        )
        self._workers[name] = worker, queues
        self._started[name] = time.time()

    def worker(self, name: str) -> Worker:
        """The one that runs now."""
        return self._workers[name][0]

    def all_workers(self) -> list[Worker]:
        """Those that run now."""
        return [worker for worker, _ in self._workers.values()]

    def kill_next(self, *, spare: str = "") -> None:
        """SIGKILL to the next in turn: every other time to a pool process only. What was killed starts again.

        Not while two are still starting: on a slow machine none would ever work.
        """
        if sum(not worker.is_ready() for worker in self.all_workers()) > 1:
            return
        names = [name for name in self._workers if name != spare]
        name = names[self._next // 2 % len(names)]
        whole = self._next % 2 == 0
        self._next += 1
        worker, queues = self._workers[name]
        pids = worker.descendants()
        children = [pid for pid in pids if pid != worker.process.pid]
        # Celery ends a worker whose pool process dies while it starts ("Could not start worker processes").
        if whole or not children or not worker.is_ready() or time.time() - self._started[name] < _YOUNG_S:
            self.kills.append(Kill(name, frozenset(pids), time.time(), True))
            worker.kill()
            self._start(name, queues)
        else:
            victim = self._random.choice(children)
            self.kills.append(Kill(name, frozenset([victim]), time.time(), False))
            with suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(victim, signal.SIGKILL)

    def ended(self) -> list[str]:
        """Workers that have ended by themselves: the end of their logs."""
        gone = [worker for worker, _ in self._workers.values() if worker.process.poll() is not None]
        return [f"{worker.name} ended, {worker.process.returncode}:\n{worker.log[-1500:]}" for worker in gone]

    def logs(self) -> str:
        """Of all that ran, one after the other."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    # --- publishers

    def publish(self, first: int, count: int, how: str, rate: float) -> None:
        """Start a publisher of events *first* to *first* + *count*."""
        pace = ["--rate", str(rate), "--window", str(_WINDOW)]
        self._run("campaign.publish", str(first), str(count), "--how", how, *pace)

    def tell_done(self, how: str, count: int) -> None:
        """Tell a publisher how many of its events every group has run."""
        (self.folder / f"done-{how}").write_text(str(count))

    def load(self, seconds: float, rate: float, *arguments: str, broker: str | None = None) -> None:
        """Start a steady load; *broker* where it is not that of the workers."""
        self._run("campaign.load", "--seconds", str(seconds), "--rate", str(rate), *arguments, broker=broker)

    def _run(self, module: str, *arguments: str, broker: str | None = None) -> None:
        environment = self._environment | ({BROKER: broker} if broker else {})
        with (self.folder / f"publisher-{len(self._publishers)}.log").open("wb") as log:
            self._publishers.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *arguments], cwd=TESTS, env=environment, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip

    def is_publishing(self) -> bool:
        """Whether any publisher still runs. Raises AssertionError for one that failed."""
        codes = [publisher.poll() for publisher in self._publishers]
        assert not any(codes), f"a publisher failed, see the logs in {self.folder}"
        return None in codes

    # --- what came of it

    def runs(self) -> list[dict[str, Any]]:
        """What ran."""
        return read(self.folder / "runs")

    def published(self) -> list[dict[str, Any]]:
        """What was tried to publish."""
        return read(self.folder / "published")

    def stop(self, timeout_s: float = 20.0) -> None:
        """Warm shutdown of all."""
        for worker, _ in self._workers.values():
            if worker.process.poll() is None:
                worker.signal(signal.SIGTERM)
        for worker, _ in self._workers.values():
            worker.wait_for_end(timeout_s)

    def close(self) -> None:
        """Kill what still runs."""
        for publisher in self._publishers:
            publisher.kill()
            publisher.wait()
        self._stage.close()


@contextmanager
def fleet(
    broker: str, options: Mapping[str, Any], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    """A fleet that leaves no process behind."""
    found = Fleet(broker, options, folder, environment)
    try:
        yield found
    finally:
        found.close()


def end_tidily() -> None:
    """Have SIGTERM end this program as an exception does: with all that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Tail:
    """Reads what is new in a file of lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def new(self) -> list[dict[str, Any]]:
        """The lines since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as lines:
            lines.seek(self._at)
            data = lines.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
