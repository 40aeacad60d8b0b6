"""Celery workers of an app in tests/processes/apps, as processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "processes" / "apps"
LEAN = ROOT / "tests" / "support" / "lean"


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Of a process that imports an app."""
    own = {"PYTHONPATH": os.pathsep.join(map(str, (LEAN, ROOT, APPS))), "C_FORCE_ROOT": "1", "NO_COLOR": "1"}
    return os.environ | own | dict(settings)


def until(condition: Callable[[], object], what: Callable[[], str], timeout_s: float = 60.0) -> None:
    """Wait for a condition; ``what`` says afterwards how it stands."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what()}"
        time.sleep(0.05)


@contextmanager
def workers(app: str, groups: Mapping[str, list[str]], settings: Mapping[str, str], logs: Path) -> Iterator[None]:
    """One worker a group (its queue and its further arguments), stopped at the end as SIGTERM stops one."""
    running = [_start(app, group, more, settings, logs / f"{group}.log") for group, more in groups.items()]
    try:
        until(lambda: all("ready." in log(logs, group) for group in groups), lambda: all_logs(logs, groups))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(
    app: str, group: str, more: list[str], settings: Mapping[str, str], log_file: Path
) -> "subprocess.Popen[bytes]":
    arguments = ["-A", app, "worker", "-Q", group, "-n", f"{group}@test", "-l", "INFO", *more]
    with log_file.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "celery", *arguments],
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


class Console:
    """A process that has imported an app, and says what expressions give there."""

    def __init__(self, app: str, settings: Mapping[str, str]) -> None:
        loop = "for line in sys.stdin: print(json.dumps(eval(line)), flush=True)"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import json, sys, {app} as app\n{loop}"],
            env=environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, expression: str) -> Any:
        """What it gives, by way of JSON."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(expression.replace("\n", " ") + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"{expression!r} failed, see standard error"
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate(timeout=20)


def log(logs: Path, group: str) -> str:
    return (logs / f"{group}.log").read_text(errors="replace")


def all_logs(logs: Path, groups: Mapping[str, list[str]]) -> str:
    return "\n".join(f"--- {group}\n{log(logs, group)[-3000:]}" for group in groups)


def celery(app: str, settings: Mapping[str, str], *arguments: str) -> str:
    """The output of ``celery -A app …``."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", app, *arguments],
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
