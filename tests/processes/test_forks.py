"""Processes that have used the broker and then fork, spawn, exit, or open connection after connection."""

import json

import pytest
from support.celery_workers import Stage, unfinished
from support.emulators import Emulator

#: As the other two, seen from here.
SLOW = [pytest.param(how, marks=pytest.mark.slow) for how in ("fork", "forkserver")]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["os.fork", "spawn", *SLOW])
def test_children_of_a_process_that_consumes_publish_and_consume(on_stage: Stage, aws: Emulator, how: str) -> None:
    answer = json.loads(on_stage.python("-m", "apps.forks", how))
    assert answer["codes"] == [0, 0, 0]
    children = {f"child {number}{own}": 5 for number in range(3) for own in ("", " own")}
    assert answer["counted"] == {"parent": 5, **children}
    assert unfinished(aws, "results") == (0, 0)
    assert unfinished(aws, "work") == (0, 0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_connections_that_are_closed_or_forgotten_leave_nothing_behind(
    on_stage: Stage, aws: Emulator, count: int
) -> None:
    on_stage.broker = aws.url(wait_time_seconds=1)
    answer = json.loads(on_stage.python("-m", "apps.lives", "many", str(count), timeout_s=250))
    before, after = answer["before"], answer["after"]
    print(f"{count} connections: {before} before, {after} after")
    assert after["threads"] == 0
    # What the latest few settings share is kept: a socket or two each.
    assert after["sockets"] <= before["sockets"] + 2 * 8, answer
    assert after["descriptors"] <= before["descriptors"] + 2 * 8, answer
    assert unfinished(aws, "many") == (0, 0)


@pytest.mark.timeout(150)
def test_signal_handlers_publish_while_their_thread_publishes(on_stage: Stage, aws: Emulator) -> None:
    answer = json.loads(on_stage.python("-m", "apps.lives", "signals"))
    assert answer["handled"] > 5
    assert unfinished(aws, "many") == (80 + answer["handled"], 0)


@pytest.mark.timeout(150)
def test_a_process_that_ends_without_closing_sends_and_gives_back_everything(on_stage: Stage, aws: Emulator) -> None:
    on_stage.python("-m", "apps.lives", "exits")
    assert unfinished(aws, "many") == (2, 0)
    assert unfinished(aws, "celery") == (28, 0)
