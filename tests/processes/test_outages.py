"""What happens to a running worker: rights that go; queues, topics, subscriptions that somebody removes; crashes."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.celery_workers import Stage, client, stage, unfinished, wait_until
from support.emulators import Emulator
from support.odd_answers import ODD
from support.proxy import Proxy
from support.proxy_rules import Rule

#: How long a crashed worker's messages stay hidden, and a poll of an idle queue lasts.
VISIBILITY_S = 3
OPTIONS = {"visibility_timeout": VISIBILITY_S, "wait_time_seconds": 2, "check_bindings": 1}


@pytest.fixture
def on_stage(aws: Emulator, proxy: Proxy, tmp_path: Path) -> Iterator[Stage]:
    seen = replace(aws, port=int(proxy.endpoint_url.rpartition(":")[2]))
    with stage(seen.url(**OPTIONS), tmp_path) as found:
        yield found


# --- what cannot pass, and what somebody removed


@pytest.mark.timeout(120)
def test_a_right_that_goes_in_mid_run_ends_the_worker_with_an_error_and_is_not_asked_for_again(
    on_stage: Stage, aws: Emulator, proxy: Proxy
) -> None:
    worker = on_stage.start("apps.plain", "-P", "prefork", "-c", "1")
    client(on_stage).send_task("handle", [1])
    on_stage.runs.wait_for(1)
    queue = f"{aws.namespace}__celery"
    proxy.reset_stats()
    proxy.rules = [Rule("access_denied", "ReceiveMessage", target=queue)]
    assert worker.wait_for_end(30) != 0
    assert "sqs:ReceiveMessage" in worker.log
    assert "Unrecoverable error" in worker.log
    assert proxy.stats()["faults"]["access_denied"] <= 2
    assert worker.descendants() == []


def _delete_queue(aws: Emulator) -> None:
    sqs = aws.client("sqs")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=f"{aws.namespace}__email")["QueueUrl"])


def _topic(aws: Emulator) -> str:
    found: str = aws.client("sns").create_topic(Name=f"{aws.namespace}__orders")["TopicArn"]
    return found


def _delete_topic(aws: Emulator) -> None:
    aws.client("sns").delete_topic(TopicArn=_topic(aws))


def _unsubscribe(aws: Emulator) -> None:
    sns = aws.client("sns")
    found = sns.list_subscriptions_by_topic(TopicArn=_topic(aws))["Subscriptions"]
    assert found
    for each in found:
        sns.unsubscribe(SubscriptionArn=each["SubscriptionArn"])


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "remove",
    [
        _delete_queue,
        pytest.param(_delete_topic, marks=pytest.mark.slow),
        pytest.param(_unsubscribe, marks=pytest.mark.slow),
    ],
)
def test_what_somebody_removes_under_a_running_worker_is_made_again_loudly(
    on_stage: Stage, aws: Emulator, remove: object
) -> None:
    worker = on_stage.start("apps.groups", "-Q", "email", "-P", "threads", "-c", "1")
    on_stage.python("-m", "apps.publish", "handle", "--exchange", "orders", "--keys", "before")
    on_stage.runs.wait_for(1, number="before")
    wait_until(lambda: unfinished(aws, "email") == (0, 0), lambda: worker.log[-2000:])  # else an ack has no queue
    remove(aws)  # type: ignore[operator]
    wait_until(lambda: "recreated" in worker.log, lambda: worker.log[-2000:])
    on_stage.python("-m", "apps.publish", "handle", "--exchange", "orders", "--keys", "after")
    on_stage.runs.wait_for(1, number="after")
    worker.stop()
    errors = worker.errors()
    assert errors
    assert all("recreated" in line for line in errors), errors


# --- answers that are not AWS's

#: The client waits for more of these, as long as it waits for any answer: a test of units has them.
SLOW = {"bad_length", "ssh_banner"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_survives_each_answer_that_is_not_of_aws_and_works_on(
    pool: str, on_stage: Stage, aws: Emulator, proxy: Proxy
) -> None:
    worker = on_stage.start("apps.plain", "-P", pool, "-c", "1")
    names = [name for name in ODD if name not in SLOW][pool == "threads" :: 2]
    for number, name in enumerate(names):
        client(on_stage).send_task("handle", [number])
        proxy.rules = [Rule("odd", odd=name, count=2)]  # whatever is asked next: a poll, an ack, a tag
        wait_until(lambda: not any(rule.count for rule in proxy.rules), f"{name} to be answered")
        proxy.rules = []
    for number in range(len(names)):
        on_stage.runs.wait_for(1, number=number)
    wait_until(lambda: unfinished(aws) == (0, 0), lambda: worker.log[-3000:])
    assert "Unrecoverable error" not in worker.log
    assert "Unexpected error" not in worker.log
    worker.stop()


@pytest.mark.timeout(120)
def test_a_worker_that_starts_behind_a_portal_waits_until_it_is_gone(
    on_stage: Stage, aws: Emulator, proxy: Proxy
) -> None:
    proxy.rules = [Rule("odd", odd=name, count=1) for name in ("html_200",)]
    worker = on_stage.start("apps.plain", "-P", "threads", "-c", "1", ready=False)
    for name in ("html_403", "xhtml_404", "empty_302", "html_407"):
        wait_until(lambda: not any(rule.count for rule in proxy.rules), lambda: worker.log[-3000:])
        proxy.rules = [Rule("odd", odd=name, count=1)]
    on_stage.wait_until_ready(worker)
    client(on_stage).send_task("handle", [1])
    on_stage.runs.wait_for(1, number=1)
    worker.stop()


# --- crashes


@pytest.mark.timeout(120)
def test_what_was_acknowledged_early_is_not_run_again_after_a_crash(on_stage: Stage, aws: Emulator) -> None:
    """As with any broker: without ``acks_late`` a task is acknowledged before it runs."""
    victim = on_stage.start("apps.plain", "-P", "prefork", "-c", "1", name="victim")
    client(on_stage).send_task("sleep", [1, 600.0])
    on_stage.runs.wait_for(1, number=1, event="start")
    wait_until(lambda: unfinished(aws) == (0, 0), "the early ack")
    victim.kill()
    heir = on_stage.start("apps.plain", "-P", "threads", "-c", "1", name="heir")
    client(on_stage).send_task("handle", [2])
    on_stage.runs.wait_for(1, number=2)
    heir.stop()
    assert unfinished(aws) == (0, 0)
    assert len(on_stage.runs.of(number=1)) == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("rejects", [True, False], ids=["reject_on_worker_lost", "default"])
def test_a_pool_process_that_dies_in_a_task_gives_it_back_only_if_asked_to(
    on_stage: Stage, aws: Emulator, rejects: bool
) -> None:
    """Without ``task_reject_on_worker_lost`` Celery acknowledges the task, and records that it failed."""
    worker = on_stage.start(
        "apps.plain", "-P", "prefork", "-c", "1", environment={"REJECT_ON_WORKER_LOST": "1" if rejects else ""}
    )
    client(on_stage).send_task("sleep_late", [1, 600.0])
    (run,) = on_stage.runs.wait_for(1, number=1, event="start")
    os.kill(run["pid"], signal.SIGKILL)
    if rejects:
        (_, again) = on_stage.runs.wait_for(2, number=1, event="start")
        assert again["redelivered"] is True
        on_stage.runs.wait_for(1, number=1, event="end")
    wait_until(lambda: unfinished(aws) == (0, 0), "the ack")
    worker.stop()
    assert len(on_stage.runs.of(number=1, event="start")) == 1 + rejects


@pytest.mark.timeout(120)
def test_what_was_received_and_never_arrived_comes_again(on_stage: Stage, aws: Emulator, proxy: Proxy) -> None:
    """A power-cut, or a lost answer, between the receive and the delivery."""
    worker = on_stage.start("apps.plain", "-P", "threads", "-c", "1")
    proxy.rules = [Rule("lost_response", "ReceiveMessage", target=f"{aws.namespace}__celery", count=1)]
    client(on_stage).send_task("handle", [1])
    on_stage.runs.wait_for(1, number=1)
    wait_until(lambda: unfinished(aws) == (0, 0), "the ack")
    worker.stop()
    assert proxy.rules[0].count == 0
    assert len(on_stage.runs.of(number=1)) == 1
