"""Running the demo as a user does: as a process, watched from outside."""

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

DEMO_PROJECT = Path(__file__).parents[2] / "demo_project"


class Demo:
    """One ``python -m show``, with a mark in its environment that all its descendants inherit.

    Attributes:
        temporary: The folder it must use for everything temporary.
    """

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self._mark = f"HAKE_TEST_MARK={uuid4().hex}"
        self._output = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self, *args: str) -> None:
        name, _, value = self._mark.partition("=")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "show", *args],
            cwd=DEMO_PROJECT,
            env=os.environ | {name: value, "TMPDIR": str(self.temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def process(self) -> "subprocess.Popen[str]":
        assert self._process is not None, "not started"
        return self._process

    def read_until(self, text: str) -> str:
        """Read its output up to a line that holds ``text``; returns all so far."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._output += line
            if text in line:
                return self._output
        pytest.fail(f"{text!r} never came:\n{self._output}")

    def finish(self, timeout_s: float = 150.0) -> tuple[int, str]:
        """Wait for its end: exit code and all its output."""
        rest, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, self._output + rest

    def descendants(self) -> list[int]:
        """Processes that carry the mark, wherever they were moved to."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark.encode() in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # ended meanwhile, or another user's
        return found
