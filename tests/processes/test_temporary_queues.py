"""Temporary queues of real workers: gone after a crash, and in nobody's way."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Connection, Consumer, Exchange, Queue
from support.celery_workers import Stage, client, stage, wait_until
from support.emulators import LEGS, Emulator

#: Seconds; a living worker sends a heartbeat each second.
LIMIT_S = 5
OPTIONS = {"temporary_queue_limit": LIMIT_S, "janitor_interval": 0, "wait_time_seconds": 2}


@pytest.fixture
def on_stage(aws: Emulator, tmp_path: Any) -> Iterator[Stage]:
    with stage(aws.url(**OPTIONS), tmp_path) as found:
        yield found


def queues(aws: Emulator) -> set[str]:
    """Names in AWS, of all queues that the namespace's prefix fits."""
    answer = aws.client("sqs").list_queues(QueueNamePrefix=aws.namespace, MaxResults=1000)
    return {url.rpartition("/")[2] for url in answer.get("QueueUrls", [])}


def subscribed(aws: Emulator) -> dict[str, list[str]]:
    """Topics of the namespace to the names of the queues that are subscribed."""
    sns = aws.client("sns")
    found: dict[str, list[str]] = {}
    for page in sns.get_paginator("list_topics").paginate():
        for topic in page["Topics"]:
            namespace, _, name = topic["TopicArn"].rpartition(":")[2].partition("__")
            if namespace == aws.namespace:
                pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic["TopicArn"])
                ends = [item["Endpoint"].rpartition(":")[2] for one in pages for item in one["Subscriptions"]]
                found[name] = sorted(ends)
    return found


def mailboxes(aws: Emulator) -> set[str]:
    return {name for name in queues(aws) if "celery_pidbox" in name}


def janitor(on_stage: Stage, *options: str) -> Any:
    """What the command prints as JSON."""
    printed = on_stage.python("-m", "celery", "-A", "apps.watched", "hake", "janitor", "--json", *options)
    return json.loads(printed[printed.index("{") :])


def crash(on_stage: Stage, count: int) -> None:
    """Start workers, and kill them without a chance to say anything."""
    workers = [
        on_stage.start("apps.watched", "-P", "solo", "-Q", "email", name=f"w{number}", ready=False)
        for number in range(count)
    ]
    on_stage.wait_until_ready(*workers)
    for worker in workers:
        worker.kill()


def check_crash(aws: Emulator, on_stage: Stage, count: int, clean: Callable[[], None]) -> None:
    """Nothing is left of *count* workers that crash, but what was meant to stay."""
    sqs = aws.client("sqs")
    crash(on_stage, count)
    dead = mailboxes(aws)
    assert len(dead) == count
    one = sorted(dead)[0]
    similar = {f"{one[:-1]}x", f"{aws.namespace}2__{one.partition('__')[2][1:]}"}
    for name in similar:
        sqs.create_queue(QueueName=name)
    stays = queues(aws) - dead
    assert f"{aws.namespace}__email" in stays
    clean()
    assert queues(aws) == stays
    assert {topic: names for topic, names in subscribed(aws).items() if names} == {
        "orders": [f"{aws.namespace}__email"]
    }


def by_command(on_stage: Stage) -> Callable[[], None]:
    def clean() -> None:
        report: dict[str, Any] = {"queues": [{"state": "used"}]}
        while any(found["state"] == "used" for found in report["queues"]):
            report = janitor(on_stage, "--dry-run")
        assert {found["state"] for found in report["queues"]} == {"orphan"}
        report = janitor(on_stage)
        assert {found["state"] for found in report["queues"]} == {"removed"}

    return clean


def pong(app: Celery, *names: str) -> bool:
    """Whether all these workers, and no other, answer."""
    answers = app.control.ping(timeout=3, limit=len(names))
    return {name for answer in answers for name in answer} == {f"{name}@test" for name in names}


@pytest.fixture
def app(on_stage: Stage) -> Iterator[Celery]:
    """In this process, which knows the broker and nothing else."""
    with closing(client(on_stage)) as app:
        yield app


# --- after a crash


@pytest.mark.timeout(240)
def test_nothing_is_left_of_workers_that_were_killed(aws: Emulator, on_stage: Stage) -> None:
    check_crash(aws, on_stage, 3, by_command(on_stage))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("leg", LEGS)
def test_nothing_is_left_of_twenty_workers_that_were_killed(aws: Emulator, on_stage: Stage) -> None:
    started = time.monotonic()
    check_crash(aws, on_stage, 20, by_command(on_stage))
    print(f"\n{aws.name}: twenty workers, all in all {time.monotonic() - started:.0f} s")


@pytest.mark.timeout(240)
def test_a_worker_removes_what_others_left_behind(aws: Emulator, on_stage: Stage, app: Celery) -> None:
    crash(on_stage, 2)
    before = mailboxes(aws)
    on_stage.broker = aws.url(**{**OPTIONS, "janitor_interval": 2})
    survivor = on_stage.start("apps.watched", "-P", "solo", "-Q", "email", name="survivor")
    wait_until(lambda: not before & mailboxes(aws), "the queues of the dead to go", 60)
    [own] = mailboxes(aws)
    assert [names for names in subscribed(aws).values() if own in names] == [[own]]
    assert pong(app, "survivor")
    assert survivor.errors() == []
    survivor.stop()
    assert not mailboxes(aws)


@pytest.mark.timeout(240)
def test_a_worker_that_was_suspended_for_too_long_makes_its_queue_again(
    aws: Emulator, on_stage: Stage, app: Celery
) -> None:
    worker = on_stage.start("apps.watched", "-P", "solo", "-Q", "email", name="w1")
    before = mailboxes(aws)
    worker.signal(signal.SIGSTOP)
    by_command(on_stage)()
    assert not mailboxes(aws)
    worker.signal(signal.SIGCONT)
    wait_until(lambda: mailboxes(aws) and pong(app, "w1"), "an answer of the worker that goes on", 60)
    assert not before & mailboxes(aws)
    assert "had been deleted" in worker.log
    worker.stop()
    assert not mailboxes(aws)


# --- in nobody's way


def check_restarts(on_stage: Stage, app: Celery, aws: Emulator, times: int) -> None:
    """A worker is restarted under one name; each time it answers at once."""
    seen: set[str] = set()
    for number in range(times):
        worker = on_stage.start("apps.watched", "-P", "solo", "-Q", "email", name="w1")
        assert pong(app, "w1"), f"no answer after start {number}"
        seen |= mailboxes(aws)
        worker.stop() if number % 2 else worker.kill()
    assert len(seen) == times  # a name of its own each time, which AWS can't have banned


@pytest.mark.timeout(240)
def test_control_works_after_each_restart(on_stage: Stage, app: Celery, aws: Emulator) -> None:
    check_restarts(on_stage, app, aws, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("leg", LEGS)
def test_control_works_after_each_of_ten_restarts(on_stage: Stage, app: Celery, aws: Emulator) -> None:
    check_restarts(on_stage, app, aws, 10)


@pytest.mark.timeout(240)
def test_ten_questions_in_a_row_have_answers(aws: Emulator, on_stage: Stage, app: Celery) -> None:
    on_stage.start("apps.watched", "-P", "solo", "-Q", "email", name="w1")
    inspect = app.control.inspect(timeout=5, limit=1)
    for number in range(10):
        assert list(inspect.ping() or ()) == ["w1@test"], f"question {number}"
    app.pool.force_close_all()
    wait_until(lambda: not [name for name in queues(aws) if "reply" in name], "the reply queues to go")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("leg", LEGS)
def test_an_auto_delete_queue_survives_the_first_of_its_consumers(aws: Emulator, on_stage: Stage) -> None:
    name = f"shared-{uuid4()}"
    script = f"""
from kombu import Connection, Consumer, Queue
with Connection({on_stage.broker!r}) as connection:
    with Consumer(connection.channel(), [Queue({name!r}, auto_delete=True)], on_message=print):
        print("consumes")
"""
    queue = Queue(name, auto_delete=True)
    with Connection(on_stage.broker) as connection, Consumer(connection.channel(), [queue], on_message=print):
        assert "consumes" in on_stage.python("-c", script)  # and leaves, closing its connection
        assert f"{aws.namespace}__{name}" in queues(aws)
    assert f"{aws.namespace}__{name}" not in queues(aws)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("leg", LEGS)
def test_an_expiring_queue_goes_when_nobody_has_used_it(aws: Emulator, on_stage: Stage) -> None:
    sqs, started = aws.client("sqs"), time.time()
    with Connection(on_stage.broker) as connection:
        Queue("notes", Exchange("notes", "fanout"), expires=60)(connection.channel()).declare()
    [url] = sqs.list_queues(QueueNamePrefix=f"{aws.namespace}__notes")["QueueUrls"]
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"]["hake:temporary"] == "expires=600"
    [found] = janitor(on_stage)["queues"]
    assert found["state"] == "waiting"
    assert 599 - (time.time() - started) < found["due_in_s"] <= 600  # AWS has its time of use in whole seconds
    ten_minutes_ago = str(round(time.time()) - 601)
    sqs.tag_queue(QueueUrl=url, Tags={"hake:used": ten_minutes_ago})
    steps = on_stage.python("-c", SWEEP.format(broker=on_stage.broker))
    assert json.loads(steps) == ["removed"]
    assert not queues(aws)
    assert subscribed(aws) == {"notes": []}


#: A sweep that takes no time: the wait of three minutes is for the clock to tell, as in the unit tests.
SWEEP = """
import json
from kombu import Connection
from kombu_hake.temporary import Janitor, Report
with Connection({broker!r}) as connection:
    transport, report = connection.transport, Report()
    connection.connect()
    topology = transport.topology
    list(Janitor(transport.clients, transport.settings, topology.topics, topology.home).sweep(report))
    print(json.dumps([found.state for found in report.queues]))
"""
