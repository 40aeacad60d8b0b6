"""Child processes that are all gone at the end, and waiting that a signal can end."""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TICK_S = 0.1


class StageError(Exception):
    """The demo cannot go on; the text says why."""


class Interrupted(Exception):
    """A signal asked the demo to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


class Clock:
    """Waits until something is true, a signal arrives or the time is up.

    Signals only leave a note, which the next wait turns into :class:`Interrupted`. So a signal never strikes between
    the start of a process and its entry in the list of what must be stopped, nor during the clean-up.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._signum: int | None = None
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, self._note)

    def _note(self, signum: int, frame: object) -> None:
        self._signum = signum

    def wait_until(self, condition: Callable[[], bool], what: str, within_s: float = math.inf) -> None:
        """Raises: Interrupted; StageError, naming ``what``, when the time is up: this, or all there is."""
        deadline = min(self._deadline, time.monotonic() + within_s)
        while not condition():
            if self._signum is not None:
                raise Interrupted(self._signum)
            if time.monotonic() > deadline:
                raise StageError(f"{what}: not within {min(self.timeout_s, within_s):.0f} seconds")
            time.sleep(TICK_S)


@dataclass(frozen=True)
class Child:
    """A process in its own session (so the terminal's Ctrl-C does not reach it) that writes to a log file."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def ended(self) -> bool:
        return self.process.poll() is not None


class Children:
    """Context manager that starts processes and, on exit, stops them and their children."""

    def __init__(self, cwd: Path, logs: Path) -> None:
        self._cwd, self._logs = cwd, logs
        self.all: list[Child] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop(self.all)

    def start(self, name: str, command: list[str], *, keep_open: Iterable[int] = (), **environment: str) -> Child:
        """Start a process.

        Args:
            name: Of its log file.
            keep_open: Descriptors that it inherits.
            environment: What it gets beside ours.
        """
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self._cwd,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(keep_open),
            )
        child = Child(name, process, log)
        self.all.append(child)
        return child

    def stop(self, children: Iterable[Child], timeout_s: float = 20.0) -> list[Child]:
        """Ask all to end, wait for all, kill what is left, sub-processes included.

        Returns:
            Those that had to be killed.
        """
        children = list(children)
        for child in children:
            if not child.ended():
                child.process.terminate()
        deadline = time.monotonic() + timeout_s
        killed = []
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                killed.append(child)
            kill(child)
            child.process.wait()
        return killed


def kill(child: Child) -> None:
    """SIGKILL, to it and all it has started."""
    _kill_group(child.process.pid)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # the usual case: the process ended, and took its own children with it
