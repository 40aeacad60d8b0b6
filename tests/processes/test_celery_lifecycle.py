"""How workers end, die, fork and meet messages that are none of theirs."""

import os
import signal
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest
from support.celery_workers import Stage, client, stage, unfinished, wait_until
from support.emulators import Emulator
from support.rights import as_user

SLOW = pytest.mark.slow


@pytest.mark.timeout(150)
@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=SLOW)])
def test_warm_shutdown_is_quick_and_gives_back_what_was_prefetched(
    on_stage: Stage, aws: Emulator, tmp_path: Path, pool: str
) -> None:
    first = on_stage.start("apps.plain", "-P", pool, "-c", "1", name="first")
    app = client(on_stage)
    release = tmp_path / "release"
    app.send_task("hold", [0, str(release)])
    for number in range(1, 6):
        app.send_task("sleep", [number, 0.0])
    # Order is not promised: some of the others may run first, the rest wait behind the one that is held.
    on_stage.runs.wait_for(1, number=0, event="start")
    wait_until(lambda: unfinished(aws)[1] >= 1 or len(on_stage.runs.of(event="end")) == 5, "the worker to prefetch")
    first.signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in first.log, "the worker to begin its shutdown")
    release.touch()
    released = time.monotonic()
    assert first.wait_for_end(20) == 0, first.log[-4000:]
    assert time.monotonic() - released < 6.0
    assert first.errors() == []
    assert first.descendants() == []
    ready, in_flight = unfinished(aws)
    assert in_flight == 0, "what is not settled stays hidden for two minutes"
    assert ready == 6 - len(on_stage.runs.of(event="end"))
    second = on_stage.start("apps.plain", "-P", pool, "-c", "1", name="second")
    on_stage.runs.wait_for(6, event="end", timeout_s=20)
    assert Counter(run["number"] for run in on_stage.runs.of(event="end")) == dict.fromkeys(range(6), 1)
    # Idle by now: no waiting for the end of a long poll.
    assert second.stop() < 6.0
    assert second.errors() == []
    assert second.descendants() == []
    assert unfinished(aws) == (0, 0)


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("pool", "end"),
    [
        ("prefork", signal.SIGTERM),
        pytest.param("threads", signal.SIGTERM, marks=SLOW),
        pytest.param("solo", signal.SIGTERM, marks=SLOW),
        pytest.param("prefork", signal.SIGQUIT, marks=SLOW),  # a soft shutdown
    ],
)
def test_what_is_not_started_runs_elsewhere_while_the_running_task_goes_on(
    on_stage: Stage, aws: Emulator, pool: str, end: signal.Signals
) -> None:
    count = 20
    environment = {"PREFETCH_MULTIPLIER": str(count + 1), "SOFT_SHUTDOWN_TIMEOUT": "600"}
    first = on_stage.start("apps.plain", "-P", pool, "-c", "1", name="first", environment=environment)
    app = client(on_stage)
    app.send_task("sleep_late", [0, 600.0])
    on_stage.runs.wait_for(1, number=0, event="start")
    for number in range(1, count + 1):
        app.send_task("handle", [number])
    # A worker that is busy asks for ten at once, or for none.
    wait_until(lambda: unfinished(aws)[1] > 10, "the worker to prefetch")
    first.signal(end)
    wait_until(lambda: unfinished(aws) == (count, 1), "all but the running task to be visible to others")
    second = on_stage.start("apps.plain", "-P", "threads", "-c", "2", name="second")
    on_stage.runs.wait_for(count, worker="second")
    assert first.process.poll() is None
    assert on_stage.runs.of(number=0, event="end") == []
    runs = [run["number"] for run in on_stage.runs.all()]
    assert Counter(runs) == dict.fromkeys(range(count + 1), 1)
    first.kill()
    second.stop()
    assert first.errors() == []


@pytest.mark.timeout(150)
def test_killed_worker_with_acks_late_loses_nothing(on_stage: Stage, aws: Emulator) -> None:
    on_stage.broker = aws.url(visibility_timeout=3)
    victim = on_stage.start("apps.plain", "-P", "prefork", "-c", "1", name="victim")
    app = client(on_stage)
    app.send_task("sleep_late", [1, 600.0])
    app.send_task("handle", [2])  # prefetched, not begun
    on_stage.runs.wait_for(1, number=1, event="start")
    # Held on to for longer than the visibility timeout: the lease is renewed while the worker lives.
    time.sleep(4)
    assert len(on_stage.runs.of(number=1, event="start")) == 1
    victim.kill()
    heir = on_stage.start("apps.plain", "-P", "threads", "-c", "1", name="heir")
    (_, again) = on_stage.runs.wait_for(2, number=1, event="start", timeout_s=30)
    assert again["redelivered"] is True
    assert again["receives"] >= 2
    on_stage.runs.wait_for(1, number=1, event="end")
    on_stage.runs.wait_for(1, number=2, timeout_s=30)
    heir.stop()
    assert unfinished(aws) == (0, 0)
    assert len(on_stage.runs.of(number=2)) == 1


@pytest.mark.timeout(150)
def test_messages_of_others_are_logged_and_dead_letters(on_stage: Stage, aws: Emulator) -> None:
    on_stage.broker = aws.url(dead_letter_queue="true")
    worker = on_stage.start("apps.plain", "-P", "threads", "-c", "2")
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__celery")["QueueUrl"]
    unknown, undecodable = ['{"order": 7}', "[1, 2]", "null"], ["just text", '"', "\U0001f600"]
    for body in [*unknown, *undecodable]:
        sqs.send_message(QueueUrl=url, MessageBody=body)
    app = client(on_stage)
    app.send_task("no-such-task", [1])
    app.send_task("handle", [1])
    on_stage.runs.wait_for(1, number=1)
    wait_until(lambda: unfinished(aws) == (0, 0), "the queue to be empty")
    assert worker.process.poll() is None
    # Each is said once, as Celery says it: nothing is tried again, nothing goes without a trace.
    log = worker.log
    assert log.count("Received and deleted unknown message") == len(unknown)
    assert log.count("Can't decode message body") == len(undecodable)
    assert "{'order': 7}" in log
    assert "just text" in log
    assert log.count("Received unregistered task of type 'no-such-task'") == 1
    # Celery acknowledges what it can't decode; here that is kept too.
    wait_until(lambda: unfinished(aws, "celery-dead") == (7, 0), "all but the good one to be dead letters")
    worker.stop()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--autoscale", "4,1"], id="autoscale"),
        pytest.param(["-c", "2", "--max-tasks-per-child", "3"], id="max-tasks-per-child", marks=SLOW),
    ],
)
def test_forks_under_load_run_every_task_once(on_stage: Stage, aws: Emulator, options: list[str]) -> None:
    worker = on_stage.start("apps.plain", "-P", "prefork", *options, environment={"PREFETCH_MULTIPLIER": "2"})
    app = client(on_stage)
    for number in range(60):
        app.send_task("sleep", [number, 0.1])
    on_stage.runs.wait_for(60, event="end", timeout_s=60)
    pids = {run["pid"] for run in on_stage.runs.of(event="end")}
    assert len(pids) > 2, "nothing was forked"
    assert worker.stop() < 10.0
    assert Counter(run["number"] for run in on_stage.runs.of(event="start")) == dict.fromkeys(range(60), 1)
    assert unfinished(aws) == (0, 0)
    assert worker.errors() == []
    assert worker.descendants() == []


@pytest.mark.timeout(150)
def test_pool_process_that_is_killed_is_replaced(on_stage: Stage) -> None:
    worker = on_stage.start("apps.plain", "-P", "prefork", "-c", "1")
    app = client(on_stage)
    app.send_task("sleep", [1, 600.0])
    (run,) = on_stage.runs.wait_for(1, number=1, event="start")
    os.kill(run["pid"], signal.SIGKILL)
    app.send_task("handle", [2])
    on_stage.runs.wait_for(1, number=2)
    assert len(on_stage.runs.of(number=1)) == 1
    worker.stop()


@pytest.mark.timeout(150)
@pytest.mark.ministack
def test_worker_without_rights_to_sns_runs_plain_queues(ministack: Emulator, tmp_path: Path) -> None:
    aws = ministack.in_namespace(f"p{uuid4().hex[:8]}")
    user = as_user(aws, ["sqs:*"])
    with stage(user.url(), tmp_path) as on_stage:
        worker = on_stage.start("apps.plain", "-P", "prefork", "-c", "2")
        app = client(on_stage)
        for number in range(10):
            app.send_task("handle", [number])
        on_stage.runs.wait_for(10)
        # Long enough for several heartbeats, each of which would be an event to publish.
        wait_until(lambda: unfinished(aws) == (0, 0), "the acks")
        time.sleep(5)
        worker.stop()
        assert worker.errors() == []
        warned = [line for line in worker.log.splitlines() if "WARNING/" in line and "denie" in line]
        assert len(warned) == 1, warned
        assert "sns:" in warned[0]
        assert "emote control" in warned[0]
        assert Counter(run["number"] for run in on_stage.runs.all()) == dict.fromkeys(range(10), 1)
