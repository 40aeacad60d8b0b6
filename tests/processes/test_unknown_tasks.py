"""Tasks that a group does not know: said once, and with the option ``task_filter`` not even delivered."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.celery_workers import Stage, stage, stop_together, wait_until
from support.emulators import Emulator

PUBLISH = ("-m", "apps.publish")
TO_ALL = ("--exchange", "orders", "--keys")


@pytest.fixture
def on_stage(aws: Emulator, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(aws.url(**getattr(request, "param", {})), tmp_path) as found:
        yield found


def filter_of(aws: Emulator, queue: str) -> dict[str, Any]:
    sns = aws.client("sns")
    topic = sns.create_topic(Name=f"{aws.namespace}__orders")["TopicArn"]
    [arn] = [
        item["SubscriptionArn"]
        for item in sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
        if item["Endpoint"].endswith(f"__{queue}")
    ]
    found: dict[str, Any] = json.loads(
        sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"].get("FilterPolicy") or "{}"
    )
    return found


@pytest.mark.timeout(120)
def test_a_plain_app_says_once_that_it_does_not_know_a_task(on_stage: Stage) -> None:
    worker = on_stage.start("apps.groups", "-Q", "email", "-P", "threads", "-c", "1")
    on_stage.python(*PUBLISH, "of.others", *TO_ALL, "a", "b", "c")
    on_stage.python(*PUBLISH, "handle", *TO_ALL, "last")
    on_stage.runs.wait_for(1, number="last")
    worker.stop()
    assert worker.log.count("Group email gets the task of.others, which its workers have not registered") == 1
    assert "Received unregistered task" not in worker.log
    assert "Traceback" not in worker.log


@pytest.mark.timeout(180)
@pytest.mark.parametrize("on_stage", [{"task_filter": "true"}], indirect=True)
def test_a_group_gets_only_the_tasks_that_its_workers_know(on_stage: Stage, aws: Emulator) -> None:
    worker = on_stage.start("apps.groups", "-Q", "email", "-P", "threads", "-c", "1")
    wait_until(lambda: "s:handle" in str(filter_of(aws, "email")), "the filter on tasks")
    on_stage.python(*PUBLISH, "of.others", *TO_ALL, "a")
    on_stage.python(*PUBLISH, "handle", *TO_ALL, "last")
    on_stage.runs.wait_for(1, number="last")
    # Another version of the app, which does not know the tasks of the first: what was wanted stays wanted.
    other = on_stage.start("apps.plain", "-Q", "email", "-P", "threads", "-c", "1", name="w2")
    wait_until(lambda: "s:sleep_late" in str(filter_of(aws, "email")), "the tasks of the second worker")
    assert "s:handle_with_trouble" in filter_of(aws, "email")["hake-task"]
    stop_together(worker, other)
    for log in (worker.log, other.log):
        assert "of.others" not in log
