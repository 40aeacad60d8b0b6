"""Tasks that run later, or for longer than the visibility timeout: once and on time, whatever becomes of the worker."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from kombu import Exchange
from support.celery_workers import Stage, Worker, client, stage, stop_together, wait_until
from support.emulators import Emulator

#: At most so late, on an idle worker.
LATE_S = 2.0


def waiting(aws: Emulator, queue: str) -> int:
    """Messages that SQS keeps from everybody: delayed, or hidden."""
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__{queue}")["QueueUrl"]
    names = ["ApproximateNumberOfMessagesDelayed", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(map(int, found.values()))


def start(on_stage: Stage, name: str) -> Worker:
    return on_stage.start("apps.later", "-Q", "plain,email", "-P", "threads", "-c", "4", name=name)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("end", [pytest.param("stop", marks=pytest.mark.slow), "kill"])
@pytest.mark.parametrize(
    ("eta_s", "visibility_s"), [pytest.param(15, 3, id="short"), pytest.param(40, 5, id="long", marks=pytest.mark.slow)]
)
def test_a_task_with_an_eta_runs_once_and_on_time_though_the_worker_is_replaced(
    aws: Emulator, tmp_path: Path, eta_s: int, visibility_s: int, end: str
) -> None:
    with stage(aws.url(visibility_timeout=visibility_s), tmp_path) as on_stage:
        first = start(on_stage, "first")
        app = client(on_stage)
        eta = datetime.now(timezone.utc) + timedelta(seconds=eta_s)
        app.send_task("handle", ["by queue"], queue="plain", eta=eta)
        orders = Exchange("orders", "fanout")
        app.send_task("handle", ["by fan-out"], exchange="orders", routing_key="any", declare=[orders], eta=eta)
        wait_until(lambda: waiting(aws, "plain") and waiting(aws, "email"), "both to wait in SQS")
        if end == "stop":
            first.stop()
            assert first.errors() == []
        else:
            first.kill()
        second = start(on_stage, "second")
        on_stage.runs.wait_for(2, timeout_s=eta_s + 60)
        wait_until(lambda: not waiting(aws, "plain") and not waiting(aws, "email"), "the acks")
        second.stop()
        runs = on_stage.runs.all()
        assert sorted(run["number"] for run in runs) == ["by fan-out", "by queue"]
        late = {run["number"]: run["at"] - eta.timestamp() for run in runs}
        print("late by", late)
        assert all(0 <= seconds <= LATE_S for seconds in late.values()), late


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("seconds", "visibility_s"),
    [pytest.param(8, 2, id="short"), pytest.param(60, 5, id="long", marks=pytest.mark.slow)],
)
def test_a_task_longer_than_the_visibility_timeout_runs_once(
    aws: Emulator, tmp_path: Path, seconds: int, visibility_s: int
) -> None:
    with stage(aws.url(visibility_timeout=visibility_s), tmp_path) as on_stage:
        workers = [start(on_stage, "one"), start(on_stage, "two")]
        app = client(on_stage)
        for number in range(4):  # more than one worker has hands for; the others could take any that is not held
            app.send_task("sleep", [number, seconds], queue="plain")
        on_stage.runs.wait_for(4, event="end", timeout_s=seconds + 60)
        stop_together(*workers)
        assert [worker.errors() for worker in workers] == [[], []]
        assert sorted(run["number"] for run in on_stage.runs.of(event="start")) == [0, 1, 2, 3]
        assert waiting(aws, "plain") == 0
