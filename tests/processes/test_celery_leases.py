"""Leases of tasks in real workers: renewed while a task runs, told of when they are lost."""

from pathlib import Path
from typing import Any

import pytest
from support.celery_workers import client, stage, wait_until
from support.emulators import Emulator

VISIBILITY_S = 4


def take_away(aws: Emulator) -> None:
    """Make AWS refuse all handles of the queue, as it does when somebody else has received the messages."""
    sqs = aws.client("sqs")
    sqs.purge_queue(QueueUrl=sqs.get_queue_url(QueueName=f"{aws.namespace}__celery")["QueueUrl"])


def errors_of_leases(worker: Any) -> list[str]:
    return [line for line in worker.log.splitlines() if "Lost the lease" in line and "ERROR" in line]


@pytest.mark.timeout(120)
def test_a_running_task_is_ended_and_a_waiting_one_not_started_when_their_leases_are_lost(
    aws: Emulator, tmp_path: Path
) -> None:
    with stage(aws.url(visibility_timeout=VISIBILITY_S, on_lost_lease="terminate"), tmp_path) as on_stage:
        app = client(on_stage)
        # Both are there before the worker: one poll brings both, one request renews both, one answer refuses both.
        first, second = app.send_task("sleep", [1, 600.0]).id, app.send_task("sleep", [2, 0.0]).id
        worker = on_stage.start("apps.leases", "-P", "prefork", "-c", "1")
        on_stage.runs.wait_for(1, number=1, event="start")
        wait_until(lambda: worker.log.count("received") == 2, "the second task to be prefetched")
        take_away(aws)
        on_stage.runs.wait_for(2, event="lost", timeout_s=30)
        wait_until(lambda: "Terminating task" in worker.log, "the end of the task")
        # The pool has one process: that this one runs shows that it is free again.
        app.send_task("sleep", [3, 0.0])
        on_stage.runs.wait_for(1, number=3, event="end")
        worker.stop()
        lost = on_stage.runs.of(event="lost")
        assert {(run["id"], run["task"], run["queue"], run["why"]) for run in lost} == {
            (first, "sleep", "celery", "REFUSED"),
            (second, "sleep", "celery", "REFUSED"),
        }
        assert {(run["thread"], run["known"], run["pid"]) for run in lost} == {("MainThread", True, worker.process.pid)}
        assert on_stage.runs.of(number=2) == []
        assert on_stage.runs.of(number=1, event="end") == []
        assert len(errors_of_leases(worker)) == 2
        assert sum(f"task sleep[{first}] from queue celery" in line for line in errors_of_leases(worker)) == 1
        assert len(worker.errors()) == 2  # and nothing else went wrong
        assert f"Not starting task sleep[{second}]" in worker.log


@pytest.mark.timeout(120)
def test_a_task_in_a_thread_stops_itself_when_it_is_told(aws: Emulator, tmp_path: Path) -> None:
    with stage(aws.url(visibility_timeout=VISIBILITY_S), tmp_path) as on_stage:
        worker = on_stage.start("apps.leases", "-P", "threads", "-c", "1")
        app = client(on_stage)
        app.send_task("sleep_until_told", [1])
        on_stage.runs.wait_for(1, number=1, event="start")
        take_away(aws)
        on_stage.runs.wait_for(1, number=1, event="stopped", timeout_s=30)
        worker.stop()
        assert [run["thread"] for run in on_stage.runs.of(event="lost")] == ["MainThread"]
        assert len(worker.errors()) == len(errors_of_leases(worker)) == 1
