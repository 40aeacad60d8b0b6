"""Celery's pools: each runs every task once, publishes from its tasks, and leaves nothing behind."""

from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest
from support.celery_workers import Stage, client, stage, unfinished, wait_until
from support.emulators import Emulator

import kombu_hake

#: A thousand forks keep a machine busy that does nothing else.
RELEASE = pytest.mark.release
SLOW = pytest.mark.slow
GREEN = ["gevent", pytest.param("eventlet", marks=SLOW)]
POOLS = ["prefork", "threads", "solo", *GREEN]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_runs_tasks_that_publish_tasks(on_stage: Stage, aws: Emulator, pool: str) -> None:
    worker = on_stage.start("apps.tree", "-P", pool, "-c", "1" if pool == "solo" else "3")
    app = client(on_stage)
    for number in range(10):
        app.send_task("grow", [number, 5])
    on_stage.runs.wait_for(50, event="leaf")
    wait_until(lambda: unfinished(aws) == (0, 0), "the acks")
    assert app.control.inspect(timeout=5, limit=1).ping() is not None, "remote control does not answer"
    # A long poll is open: it must not hold up the end.
    assert worker.stop() < 8.0
    assert worker.errors() == []
    assert worker.descendants() == []
    assert Counter((run["number"], run["leaf"]) for run in on_stage.runs.of(event="leaf")) == {
        (number, leaf): 1 for number in range(10) for leaf in range(5)
    }
    assert unfinished(aws) == (0, 0)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("pool", GREEN)
def test_a_hundred_greenlets_run_a_thousand_tasks_once(ministack: Emulator, tmp_path: Path, pool: str) -> None:
    aws = ministack.in_namespace(f"p{uuid4().hex[:8]}")  # moto takes half a minute to store so many
    with stage(aws.url(), tmp_path) as on_stage:
        worker = on_stage.start("apps.tree", "-P", pool, "-c", "100")
        app = client(on_stage)
        with kombu_hake.batch():
            for number in range(1_000):
                app.send_task("pause", [number, 0.1])
        on_stage.runs.wait_for(1_000, event="end")
        wait_until(lambda: unfinished(aws) == (0, 0), "the acks")
        assert worker.stop() < 8.0
        assert worker.errors() == []
        assert Counter(run["number"] for run in on_stage.runs.of(event="end")) == dict.fromkeys(range(1_000), 1)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("pool", [*GREEN, pytest.param("solo", marks=SLOW)])
def test_leases_are_renewed_while_tasks_wait(on_stage: Stage, aws: Emulator, pool: str) -> None:
    on_stage.broker = aws.url(visibility_timeout=3)
    worker = on_stage.start("apps.plain", "-P", pool, "-c", "2")
    app = client(on_stage)
    app.send_task("sleep_late", [1, 8.0])
    on_stage.runs.wait_for(1, number=1, event="end")
    worker.stop()
    assert worker.errors() == []
    assert len(on_stage.runs.of(number=1, event="start")) == 1
    assert unfinished(aws) == (0, 0)


#: Longer than a machine with other work takes for a thousand forks: the tasks that publish all run before the others.
FORKS_S = 900.0


@pytest.mark.timeout(FORKS_S + 100)
@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        (["-c", "2", "--max-tasks-per-child", "1"], 40),
        pytest.param(["-c", "4", "--max-tasks-per-child", "1"], 1_000, marks=RELEASE),
        pytest.param(["-c", "4", "--max-tasks-per-child", "5"], 1_000, marks=RELEASE),
        pytest.param(["--autoscale", "8,1", "--max-tasks-per-child", "5"], 1_000, marks=RELEASE),
    ],
)
def test_children_forked_under_load_publish_and_lose_nothing(
    ministack: Emulator, tmp_path: Path, options: list[str], tasks: int
) -> None:
    aws = ministack.in_namespace(f"p{uuid4().hex[:8]}")
    with stage(aws.url(), tmp_path) as on_stage:
        worker = on_stage.start("apps.tree", "-P", "prefork", *options)
        app = client(on_stage)
        with kombu_hake.batch():
            for number in range(tasks // 2):
                app.send_task("grow", [number, 1])
        on_stage.runs.wait_for(tasks // 2, event="leaf", timeout_s=FORKS_S)
        wait_until(lambda: unfinished(aws) == (0, 0), "the acks")
        worker.stop()
        assert worker.errors() == []
        assert worker.descendants() == []
        runs = on_stage.runs.all()
        for event in ("grown", "leaf"):
            assert Counter(r["number"] for r in runs if r["event"] == event) == dict.fromkeys(range(tasks // 2), 1)
        assert len({run["pid"] for run in runs}) >= tasks // 6


@pytest.mark.timeout(150)
@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=SLOW)])
def test_a_pool_that_is_restarted_under_load_runs_everything(on_stage: Stage, aws: Emulator, pool: str) -> None:
    worker = on_stage.start("apps.tree", "-P", pool, "-c", "2")
    app = client(on_stage)
    for number in range(60):
        app.send_task("pause", [number, 0.05])
        if number in (20, 40):
            app.control.pool_restart(reply=False)
    on_stage.runs.wait_for(60, event="end")
    wait_until(lambda: unfinished(aws) == (0, 0), "the acks")
    worker.stop()
    assert set(range(60)) == {run["number"] for run in on_stage.runs.of(event="end")}
    assert worker.descendants() == []
