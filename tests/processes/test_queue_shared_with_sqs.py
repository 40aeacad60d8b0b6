"""Workers of ``sqs://`` and ``hake://`` on one queue, with the settings of ``sqs://`` and the scheme changed."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from support.celery_workers import BROKER, Stage, Worker, stage, wait_until
from support.emulators import Emulator

#: Three minutes, the 120 s of a lease, and a queue's visibility timeout, scaled. ``sqs://`` renews nothing, so its
#: tasks must end within the last.
TASK_S, LEASE_S, ATTRIBUTE_S = 9.0, 6, 120
#: Slots of a worker, which holds no more messages than that: one task more must go to another worker.
SLOTS = 3
DELAY_S = 3
KINDS = ("sqs", "hake")


class Shop:
    """The project: its settings, its workers of both kinds, and what its producers sent."""

    def __init__(self, aws: Emulator, on_stage: Stage, queue: str, options: dict[str, Any]) -> None:
        self.queue = queue
        self._aws, self._stage = aws, on_stage
        self._options = options
        self._sent = 0
        self._workers: dict[str, Worker] = {}

    def broker(self, kind: str) -> str:
        return f"{kind}://{self._aws.key}:{self._aws.secret}@127.0.0.1:{self._aws.port}"

    def start(self, kind: str) -> None:
        environment = {BROKER: self.broker(kind), "SHOP_TRANSPORT_OPTIONS": repr(self._options)}
        options = ("-P", "threads", "-c", str(SLOTS), "--without-mingle", "--without-gossip")
        self._workers[kind] = self._stage.start("apps.shop_on_sqs", *options, name=kind, environment=environment)

    def stop(self, kind: str) -> None:
        worker = self._workers.pop(kind)
        worker.stop()
        errors = [line for line in worker.errors() if "Traceback" not in line]  # a task's rejection is logged with one
        assert errors == [], worker.log

    def send(self, kind: str, task: str, *arguments: object, **properties: object) -> str:
        """Send a task from a producer of this kind; its name."""
        self._sent += 1
        name = f"{task} {self._sent}"
        with Celery(broker=self.broker(kind), set_as_current=False) as app:
            app.conf.broker_transport_options = self._options
            app.conf.task_default_queue = "orders"
            app.send_task(f"shop.tasks.{task}", [name, *arguments], **properties)
        return name

    def run_long_tasks(self) -> list[dict[str, Any]]:
        """One task more than a worker of each running kind can hold, but one: each of them runs some, once."""
        count = SLOTS * (len(self._workers) - 1) + 1
        names = [self.send(KINDS[number % 2], "pack", TASK_S) for number in range(count)]
        wait_until(lambda: {run["task"] for run in self.runs("end")} >= set(names), lambda: str(self.runs("start")))
        self.wait_until_empty()
        runs = [run for run in self.runs("start") if run["task"] in names]
        assert Counter(run["task"] for run in runs) == dict.fromkeys(names, 1)
        assert {run["scheme"] for run in runs} == set(self._workers)
        return runs

    def runs(self, event: str) -> list[dict[str, Any]]:
        return self._stage.runs.of(event=event)

    def attributes(self) -> dict[str, str]:
        sqs = self._aws.client("sqs")
        url = sqs.get_queue_url(QueueName=self.queue)["QueueUrl"]
        return dict(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"])

    def wait_until_empty(self) -> None:
        """What is deleted cannot be delivered again."""

        def messages() -> int:
            found = self.attributes()
            kinds = ("", "NotVisible", "Delayed")
            return sum(int(found[f"ApproximateNumberOfMessages{kind}"]) for kind in kinds)

        wait_until(lambda: messages() == 0, lambda: f"{self.queue} to be empty: {self.attributes()}")


def there_and_back(shop: Shop, first: str, second: str, check: Callable[[str], None]) -> None:
    """Replace workers of one kind by workers of another, and those again; no moment without a worker.

    Args:
        check: Called with each kind while workers of this kind alone run.
    """
    shop.start(first)
    shop.run_long_tasks()
    check(first)
    for old, new in ((first, second), (second, first)):
        shop.start(new)
        shop.run_long_tasks()
        shop.stop(old)
        shop.run_long_tasks()
        check(new)
    shop.stop(first)


def common_options(aws: Emulator) -> dict[str, Any]:
    return {
        "region": aws.region,
        "visibility_timeout": LEASE_S,
        "wait_time_seconds": 1,
        "polling_interval": 0.3,
        "is_secure": False,
        "supports_fanout": True,
        "client-config": {"connect_timeout": 5, "region_name": aws.region},
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_of_both_kinds_share_predefined_queues_and_change_places(aws: Emulator, tmp_path: Path) -> None:
    queue = f"{aws.namespace}-orders"
    created = aws.client("sqs").create_queue(QueueName=queue, Attributes={"VisibilityTimeout": str(ATTRIBUTE_S)})
    entry = {
        "url": created["QueueUrl"],
        "access_key_id": aws.key,
        "secret_access_key": aws.secret,
        "region": aws.region,
        "backoff_policy": {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1},
        "backoff_tasks": ["shop.tasks.charge"],
    }
    with stage("", tmp_path) as on_stage:
        shop = Shop(aws, on_stage, queue, {**common_options(aws), "predefined_queues": {"orders": entry}})

        def check(kind: str) -> None:
            sent_at = time.time()
            delayed = shop.send(kind, "pack", 0.0, delay_seconds=DELAY_S)
            bank = tmp_path / f"bank of {kind} at {sent_at}"
            refused = shop.send(kind, "charge", str(bank))
            on_stage.runs.wait_for(2, task=refused, event="start")
            bank.touch()
            on_stage.runs.wait_for(1, task=refused, event="end")
            [run] = on_stage.runs.wait_for(1, task=delayed, event="end")
            assert run["at"] >= sent_at + DELAY_S
            shop.wait_until_empty()
            assert len(on_stage.runs.of(task=refused, event="end")) == 1

        there_and_back(shop, "sqs", "hake", check)
    assert shop.attributes()["VisibilityTimeout"] == str(ATTRIBUTE_S)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_of_sqs_join_a_queue_that_hake_created_and_leave_it_again(aws: Emulator, tmp_path: Path) -> None:
    prefix = f"{aws.namespace}-"
    options = {
        **common_options(aws),
        "queue_name_prefix": prefix,
        "sqs-creation-attributes": {"MessageRetentionPeriod": "86400"},
        "queue_tags": {"Environment": "production"},
    }
    with stage("", tmp_path) as on_stage:
        shop = Shop(aws, on_stage, f"{prefix}orders", options)
        there_and_back(shop, "hake", "sqs", lambda _kind: None)
    found = shop.attributes()
    assert (found["VisibilityTimeout"], found["MessageRetentionPeriod"]) == ("1800", "86400")
