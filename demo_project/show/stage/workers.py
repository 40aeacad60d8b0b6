"""The Celery workers of the show, several to a group: started, stopped and killed one by one. One thread owns it."""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from show.stage.processes import Child, Children, StageError, kill

MOST_PER_GROUP = 3


@dataclass
class Worker:
    """One ``celery worker`` of a group.

    Attributes:
        name: Celery's, without the host: ``email-2``. No other worker has had it.
    """

    name: str
    group: str
    child: Child
    is_ready: bool = False
    is_stopping: bool = False

    def look(self) -> bool:
        """Return True if it is ready: its log says so when the queue exists, is subscribed and is consumed."""
        if not self.is_ready:
            self.is_ready = re.search(rf"{self.name}@\S+ ready\.", self.child.log_text()) is not None
        return self.is_ready

    def is_at_work(self, hostnames: Iterable[str]) -> bool:
        """Whether one of these names, as Celery has them (``email-2@host``), is its."""
        return any(hostname.partition("@")[0] == self.name for hostname in hostnames)

    @property
    def state(self) -> str:
        """``starting``, ``ready`` or ``stopping``."""
        return "stopping" if self.is_stopping else "ready" if self.is_ready else "starting"


class Workers:
    """All of them."""

    def __init__(self, children: Children, groups: Iterable[str], concurrency: int) -> None:
        self._children = children
        self._concurrency = concurrency
        self._started = dict.fromkeys(groups, 0)
        self.all: list[Worker] = []

    def of(self, group: str) -> list[Worker]:
        """Those of a group that have not been asked to stop."""
        return [worker for worker in self.all if worker.group == group and not worker.is_stopping]

    def start(self, group: str) -> Worker:
        """Raises: StageError when the group has as many as it may have."""
        if len(self.of(group)) >= MOST_PER_GROUP:
            raise StageError(f"{group} has {MOST_PER_GROUP} workers, which is the most.")
        self._started[group] += 1
        name = f"{group}-{self._started[group]}"
        # As users start a worker; the last two options only make the start faster.
        celery = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-Q", group, "-n", f"{name}@%h"]
        options = ["--concurrency", str(self._concurrency), "-l", "INFO", "--without-gossip", "--without-mingle"]
        worker = Worker(name, group, self._children.start(name, [*celery, *options]))
        self.all.append(worker)
        return worker

    def stop(self, worker: Worker) -> None:
        """Ask it to finish what it has begun, and end."""
        worker.is_stopping = True
        worker.child.process.terminate()

    def kill(self, worker: Worker) -> None:
        """SIGKILL, to its pool processes too: what a power cut does."""
        kill(worker.child)
        worker.child.process.wait()
        self.all.remove(worker)

    def sweep(self, on_death: Callable[[Worker], None]) -> None:
        """Record which workers are ready or have ended; *on_death* gets those that ended without being asked to."""
        for worker in list(self.all):
            if worker.child.ended():
                self.all.remove(worker)
                if not worker.is_stopping:
                    on_death(worker)
            else:
                worker.look()
