"""Workers and callers whose account may not do what remote control and events need."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery
from support.celery_workers import Stage, Worker, stage, wait_until
from support.emulators import Emulator
from support.rights import CONSUMER, PRODUCER, as_user

from kombu_hake.exceptions import AccessDenied

pytestmark = [pytest.mark.ministack, pytest.mark.timeout(120)]
OFF = "Remote control and events are off in this process"


@pytest.fixture(scope="module")
def root(ministack: Emulator) -> Emulator:
    return ministack.in_namespace(f"p{uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def on_stage(root: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(root.url(), tmp_path_factory.mktemp("rights")) as found:
        yield found


@pytest.fixture(scope="module")
def allowed(on_stage: Stage, root: Emulator) -> Worker:
    """A worker with all rights, on a queue of its own; it makes the topic of remote control."""
    return on_stage.start("apps.controlled", "-P", "solo", "-Q", "allowed", name="allowed")


def start_as(on_stage: Stage, user: Emulator, name: str, queue: str) -> Worker:
    environment = {"HAKE_TEST_BROKER": user.url()}
    return on_stage.start("apps.controlled", "-P", "solo", "-E", "-Q", queue, name=name, environment=environment)


@pytest.mark.parametrize(
    ("name", "allow", "denied"),
    [
        ("no_sns", ("sqs:*",), ("sns:",)),
        # Which of what is denied it meets first depends on its threads: events are published by another one.
        pytest.param("consumer", CONSUMER, ("sqs:CreateQueue", "sns:"), marks=pytest.mark.slow),
    ],
)
def test_a_worker_goes_on_without_and_says_once_what_is_missing(
    on_stage: Stage, root: Emulator, allowed: Worker, name: str, allow: tuple[str, ...], denied: tuple[str, ...]
) -> None:
    root.client("sqs").create_queue(QueueName=f"{root.namespace}__{name}")
    worker = start_as(on_stage, as_user(root, allow), name, name)
    with closing(Celery(broker=root.url(), set_as_current=False)) as app:
        for number in (1, 2):
            app.send_task("handle", [f"{name}-{number}"], queue=name)
            on_stage.runs.wait_for(1, number=f"{name}-{number}")
        assert app.control.ping(destination=[f"{name}@test"]) == []
        assert app.control.ping(destination=["allowed@test"], timeout=10) == [{"allowed@test": {"ok": "pong"}}]
    worker.stop()
    said = [line for line in worker.log.splitlines() if OFF in line]
    assert len(said) == 1
    assert "WARNING" in said[0]
    assert said[0].partition("because ")[2].startswith(denied)
    assert " is denied" in said[0]
    assert worker.errors() == []


def test_a_caller_is_told_which_right_is_missing(on_stage: Stage, root: Emulator, allowed: Worker) -> None:
    user = as_user(root, ("sqs:*",))
    with closing(Celery(broker=user.url(), set_as_current=False)) as app:
        for ask in (lambda: app.control.inspect().ping(), lambda: app.control.broadcast("pool_grow")):
            with pytest.raises(AccessDenied) as caught:
                ask()
            assert caught.value.action == "sns:Publish"
            assert "celery_pidbox" in caught.value.resource


def test_a_producer_commands_and_is_told_that_it_can_have_no_answer(root: Emulator, allowed: Worker) -> None:
    with closing(Celery(broker=as_user(root, PRODUCER).url(), set_as_current=False)) as app:
        app.control.rate_limit("handle", "8/m")
        wait_until(lambda: "New rate limit for tasks of type handle: 8/m." in allowed.log, "the command to arrive")
        with pytest.raises(AccessDenied) as caught:
            app.control.inspect().ping()
        assert caught.value.action == "sqs:CreateQueue"


@pytest.mark.slow
def test_the_command_line_says_it_in_one_line(on_stage: Stage, root: Emulator, allowed: Worker, tmp_path: Path) -> None:
    environment = {**on_stage.environment(), "HAKE_TEST_BROKER": as_user(root, ("sqs:*",)).url()}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "apps.controlled", "inspect", "ping"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "sns:Publish" in done.stderr
    assert "Traceback" not in done.stderr
