"""Celery's monitors, each as its users run it, on one worker."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from support.celery_workers import Stage, Worker, client, stage, wait_until
from support.emulators import Emulator

pytestmark = pytest.mark.timeout(120)
CELERY = [sys.executable, "-m", "celery", "-A", "apps.controlled"]
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])")


@pytest.fixture(scope="module")
def on_stage(moto: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(moto.url(f"p{uuid4().hex[:8]}"), tmp_path_factory.mktemp("events")) as found:
        yield found


@pytest.fixture(scope="module")
def worker(on_stage: Stage) -> Worker:
    """Idle, and long convinced that nobody listens, when the tests begin."""
    return on_stage.start("apps.controlled", "-P", "prefork", "-c", "2", "-E", name="watched")


@pytest.fixture(scope="module")
def app(on_stage: Stage) -> Iterator[Celery]:
    with closing(client(on_stage)) as app:
        yield app


class Monitor:
    """A running ``celery events``.

    Attributes:
        output: What it has printed.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", source: int) -> None:
        self.process = process
        self.output = ""
        self._source = source
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # a terminal whose program has ended
            while data := os.read(self._source, 65536):
                self.output += data.decode(errors="replace")

    @property
    def text(self) -> str:
        """As a person reads it."""
        return _ESCAPE.sub(" ", self.output)

    def sees(self, *texts: str) -> bool:
        assert self.process.poll() is None, self.text
        return all(text in self.text for text in texts)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(10)


@contextmanager
def monitor(on_stage: Stage, folder: Path, *options: str, on_screen: bool = False) -> Iterator[Monitor]:
    """Run ``celery events options``, on a terminal if it wants a screen."""
    environment = on_stage.environment() | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    if on_screen:
        source, end = pty.openpty()
    else:
        source, end = os.pipe()
    process = subprocess.Popen(
        [*CELERY, "events", *options], cwd=folder, env=environment, stdin=end if on_screen else subprocess.DEVNULL,
        stdout=end, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    os.close(end)
    found = Monitor(process, source)
    try:
        yield found
    finally:
        found.close()
        os.close(source)


def test_dump_camera_and_screen_show_the_worker_and_its_tasks(
    on_stage: Stage, worker: Worker, app: Celery, tmp_path: Path
) -> None:
    snapshots = ("--camera=apps.snapshots.Camera", "--frequency=0.5")
    with (
        monitor(on_stage, tmp_path, "--dump") as dump,
        monitor(on_stage, tmp_path, *snapshots) as camera,
        monitor(on_stage, tmp_path, on_screen=True) as screen,
    ):
        # Soon, though it had been long convinced that nobody listens: each of them begins with a command.
        wait_until(lambda: dump.sees("watched@test", "heartbeat"), lambda: dump.text)
        wait_until(lambda: on_stage.runs.of(event="snapshot", workers=["watched@test"]), "a snapshot")
        wait_until(lambda: screen.sees("Keys:", "watched@test"), lambda: screen.text)
        task = app.send_task("handle", [90]).id
        wait_until(lambda: dump.sees(f"task succeeded: handle({task})"), lambda: dump.text)
        wait_until(
            lambda: any(shot["tasks"].get(task) == "SUCCESS" for shot in on_stage.runs.of(event="snapshot")),
            "a snapshot of the task",
        )
        wait_until(lambda: screen.sees(task, "SUCCESS"), lambda: screen.text)
        assert camera.process.poll() is None
    assert worker.errors() == []


def test_a_receiver_sees_tasks_and_the_workers_farewell(on_stage: Stage, worker: Worker, app: Celery) -> None:
    seen: list[dict[str, Any]] = []
    ready, stop = threading.Event(), threading.Event()

    def watch() -> None:
        with app.connection() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": seen.append})
            for _ in receiver.itercapture(timeout=0.2):
                ready.set()
                if stop.is_set():
                    return

    def keep_watching() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                watch()

    watcher = threading.Thread(target=keep_watching)
    watcher.start()
    try:
        wait_until(lambda: "worker-heartbeat" in {event["type"] for event in seen}, "a heartbeat")
        app.send_task("handle", [91])
        wanted = {"task-received", "task-started", "task-succeeded"}
        wait_until(lambda: wanted <= {event["type"] for event in seen}, f"the events {seen}")
        app.control.shutdown()
        assert worker.wait_for_end(20) == 0
        wait_until(lambda: "worker-offline" in {event["type"] for event in seen}, "the worker's farewell")
    finally:
        stop.set()
        watcher.join(20)
    assert worker.errors() == []
    assert worker.descendants() == []
