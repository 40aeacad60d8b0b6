"""5 MiB through real workers: retries, a countdown, a batch, several handlers, a dead letter that is sent back."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from support.celery_workers import Stage, stage, unfinished, wait_until
from support.emulators import Emulator

import kombu_hake
from kombu_hake import admin

SIZE = 5 * 1024 * 1024
DATA = "x" * SIZE


@pytest.fixture
def bucket(aws: Emulator) -> str:
    name = f"large-{uuid4().hex[:8]}"
    aws.client("s3").create_bucket(Bucket=name)
    return name


def keys(aws: Emulator, bucket: str) -> list[str]:
    found = aws.client("s3").list_objects_v2(Bucket=bucket).get("Contents", ())
    return [item["Key"] for item in found]


def client(on_stage: Stage, options: dict[str, Any]) -> Celery:
    app = Celery("client", broker=on_stage.broker, set_as_current=False)
    app.conf.broker_transport_options = options
    return app


@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_tasks_and_events_of_5_mib(aws: Emulator, bucket: str, tmp_path: Path, pool: str) -> None:
    options = {"large_messages": f"s3://{bucket}/prod", "visibility_timeout": 10}
    fixed = tmp_path / "fixed"
    environment = {"LARGE_OPTIONS": json.dumps(options), "LARGE_FIXED": str(fixed)}
    with stage(aws.url(), tmp_path) as on_stage:
        worker = on_stage.start("apps.large", "-P", pool, "-c", "2", environment=environment)
        app = client(on_stage, options)
        app.send_task("handle", [1, DATA, 1], queue="plain")
        app.send_task("handle", [2, DATA], queue="plain", countdown=4)
        with kombu_hake.batch():
            for number in (3, 4):
                app.send_task("handle", [number, DATA], queue="plain")
        orders = kombu_hake.Topic("orders", app=app)
        event = orders.publish("placed", number=5, data=DATA)

        def ran() -> set[tuple[str, int]]:
            return {(run["task"], run["number"]) for run in on_stage.runs.all()}

        expected = {*(("handle", number) for number in (1, 2, 3, 4)), ("receipt", 5), ("reserve", 5)}
        wait_until(lambda: ran() == expected, lambda: f"{ran()}\n{worker.log}", 120)
        with admin.connect(app) as operator:
            wait_until(lambda: operator.groups(["email"])[0].dead == 1, lambda: worker.log)
            [letter] = operator.dead_letters("email")
            assert (letter.task, letter.reason, letter.exception, letter.message) == (
                "thank", "failed", "ValueError", "not yet",
            )  # fmt: skip
            assert letter.event_id == event.id
            assert len(letter.raw["Body"]) < 500
            fixed.touch()
            assert operator.requeue("email").done == 1
        wait_until(lambda: ran() == {*expected, ("thank", 5)}, lambda: worker.log)
        for queue in ("plain", "email", "stock"):
            wait_until(lambda queue=queue: unfinished(aws, queue) == (0, 0), f"{queue} to be empty")
        assert {run["size"] for run in on_stage.runs.all()} == {SIZE}
        assert len(on_stage.runs.all()) == 7
        wait_until(lambda: not [key for key in keys(aws, bucket) if "/q/" in key], lambda: str(keys(aws, bucket)))
        assert len(keys(aws, bucket)) == 1  # the event's
        worker.stop()
        assert set(re.findall(r"HAKE\d{3}", worker.log)) == {"HAKE411"}
