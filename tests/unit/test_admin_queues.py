"""Counts of all queues of an app, as a table and as a check; and the health file by the settings of the app."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from fakes import FakeClients, connected
from kombu import Exchange, Queue

from kombu_hake import admin
from kombu_hake.admin import Admin, QueueInfo, breaches, connect
from kombu_hake.cli.main import hake
from kombu_hake.cli.tables import queues_table
from kombu_hake.exceptions import BrokerUnavailable, ConfigurationError
from kombu_hake.groups.topic import Topic
from kombu_hake.health import Health


def nothing(**payload: Any) -> None:
    """A handler."""


@pytest.fixture
def app(fake: FakeClients) -> Iterator[Celery]:
    """A default queue, one with priorities, one that tasks are only routed to, and a group."""
    app = Celery("shop", broker="hake://localhost:1/ns?region=eu-west-1", set_as_current=False)
    app.conf.task_default_queue = "main"
    app.conf.task_queues = [
        Queue("main", Exchange("main"), routing_key="main"),
        Queue("urgent", Exchange("urgent"), routing_key="urgent", max_priority=2),
        Queue("passing", Exchange("main"), routing_key="x", expires=60),
    ]
    app.conf.task_routes = {"shop.slow": {"queue": "slow"}}
    Topic("orders", app=app).on("placed", group="email", name="receipt")(nothing)
    with connected(fake):
        yield app


@pytest.fixture
def broker(app: Celery) -> Iterator[Admin]:
    """Only ``main`` and ``urgent`` have been declared by a worker."""
    with connect(app) as broker:
        with app.connection_for_write() as connection:
            for name in ("main", "urgent"):
                app.amqp.queues[name](connection.default_channel).declare()
        yield broker


def put(fake: FakeClients, physical: str, count: int) -> None:
    url = fake.sqs("get_queue_url", QueueName=physical)["QueueUrl"]
    for _ in range(count):
        fake.sqs("send_message", QueueUrl=url, MessageBody="{}")


def run(app: Celery, *arguments: str) -> Result:
    return CliRunner().invoke(hake, list(arguments), obj=CLIContext(app, no_color=True, workdir=None))


def levels(fake: FakeClients, queue: str) -> list[str]:
    return sorted(name for name in fake.queues.by_name if name.startswith(f"ns__{queue}"))


def test_every_queue_that_is_consumed_or_routed_to_is_there(broker: Admin) -> None:
    assert [(queue.name, queue.state) for queue in broker.queues()] == [
        ("email", "missing"),
        ("main", "ok"),
        ("slow", "missing"),
        ("urgent", "ok"),
    ]


def test_dead_letters_of_every_queue_are_counted(app: Celery, fake: FakeClients) -> None:
    app.amqp.queues.add(Queue("mails", Exchange("mails"), "mails", queue_arguments={"x-dead-letter-queue": True}))
    with app.connection_for_write() as connection:
        for name in ("main", "mails"):
            app.amqp.queues[name](connection.default_channel).declare()
    put(fake, "ns__mails-dead", 2)
    fake.calls.clear()
    lines = [line.split() for line in run(app, "dlq", "list").output.splitlines()]
    assert lines == [["QUEUE", "DEAD", "DEAD", "LETTERS", "IN"], ["email", "-", "-"], ["mails", "2", "mails-dead"]]
    assert fake.count("get_metric_data") == 0
    assert [one["group"] for one in json.loads(run(app, "dlq", "list", "--json").output)] == ["email", "mails"]
    assert "No such dead letter." not in run(app, "dlq", "peek", "mails").output


def test_queues_can_be_named(broker: Admin, fake: FakeClients) -> None:
    fake.queues.create_queue("ns__other")
    put(fake, "ns__other", 2)
    assert [(queue.name, queue.ready) for queue in broker.queues(["other", "main"])] == [("other", 2), ("main", 0)]


def test_the_levels_of_a_queue_are_one(broker: Admin, fake: FakeClients) -> None:
    found = levels(fake, "urgent")
    assert len(found) > 1
    for number, name in enumerate(found, 1):
        put(fake, name, number)
        fake.ages[name] = 10.0 * number
    [urgent] = broker.queues(["urgent"])
    assert urgent.ready == sum(range(len(found) + 1))
    assert urgent.oldest_s == 10.0 * len(found)
    [urgent] = broker.groups(["urgent"])
    assert urgent.ready == sum(range(len(found) + 1))


def test_a_level_that_is_not_there_yet_has_no_messages(broker: Admin, fake: FakeClients) -> None:
    put(fake, "ns__urgent", 3)
    for name in levels(fake, "urgent")[1:]:
        fake.queues.delete_queue(fake.sqs("get_queue_url", QueueName=name)["QueueUrl"])
    assert [queue.ready for queue in broker.queues(["urgent"])] == [3]


def test_what_the_role_may_not_read_is_named(broker: Admin, fake: FakeClients) -> None:
    fake.queues.create_queue("ns__main-dead")
    policy = {"deadLetterTargetArn": fake.queues.queue("ns__main-dead").arn, "maxReceiveCount": 20}
    fake.queues.queue("ns__main").attributes["RedrivePolicy"] = json.dumps(policy)
    put(fake, "ns__main", 1)
    fake.fail("get_metric_data", BrokerUnavailable("no such service here"))
    [main] = broker.queues(["main"])
    assert (main.dead, main.oldest_s, main.unreadable) == (0, None, ["oldest_s"])
    fake.queues.queue("ns__main").attributes["RedrivePolicy"] = "{}"
    [main] = broker.queues(["main"], with_ages=False)
    assert (main.state, main.dead, main.unreadable) == ("ok", None, ["dead"])
    assert queues_table([main]).splitlines()[1].split() == ["main", "1", "0", "0", "-", "?", "-", "-", "ok"]


def test_ages_of_many_queues_take_a_request_for_500(fake: FakeClients) -> None:
    app = Celery("shop", broker="hake://localhost:1/ns?region=eu-west-1", set_as_current=False)
    names = [f"q{number:03}" for number in range(501)]
    app.conf.task_queues = [Queue(name) for name in names]
    with connected(fake), connect(app) as broker:
        for name in names:
            fake.sqs("create_queue", QueueName=f"ns__{name}")
            put(fake, f"ns__{name}", 1)
        fake.ages["ns__q500"] = 700.0
        fake.calls.clear()
        found = broker.queues()
        assert fake.counts()["get_metric_data"] == 2
    assert breaches(found, max_age_s=600) == ["q500: 700 seconds is the age of the oldest message, more than 600"]


def test_reading_writes_nothing(broker: Admin, fake: FakeClients) -> None:
    fake.calls.clear()
    broker.queues()
    assert {name.split("_")[0] for name in fake.counts()} <= {"get"}


FULL = QueueInfo("main", ready=5, in_flight=1, delayed=0, oldest_s=61.0, dead_queue="main-dead", dead=2, undelivered=1)


@pytest.mark.parametrize(
    ("queue", "limits", "found"),
    [
        (FULL, {}, []),
        (FULL, {"max_ready": 5, "max_age_s": 61, "max_dead": 2}, []),
        (FULL, {"max_ready": 4}, ["main: 5 messages ready, more than 4"]),
        (FULL, {"max_age_s": 60}, ["main: 61 seconds is the age of the oldest message, more than 60"]),
        (FULL, {"max_dead": 0}, ["main: 2 dead letters, more than 0", "main: 1 messages undelivered, more than 0"]),
        (QueueInfo("main", "missing"), {}, []),
        (QueueInfo("main", "missing"), {"max_dead": 0}, ["main: missing"]),
        (QueueInfo("main", "unreadable: denied"), {"max_ready": 0}, ["main: unreadable: denied"]),
        (QueueInfo("main", ready=0, unreadable=["dead"]), {"max_ready": 0}, []),
        (QueueInfo("main", ready=0, unreadable=["dead"]), {"max_dead": 9}, ["main: dead cannot be read"]),
        (QueueInfo("main", ready=3, unreadable=["oldest_s"]), {"max_age_s": 9}, ["main: oldest_s cannot be read"]),
        (QueueInfo("main", ready=3), {"max_age_s": 9, "max_dead": 0}, []),  # none to be dead; too young for CloudWatch
    ],
)
def test_a_check_fails_where_a_limit_is_exceeded_or_cannot_be_checked(
    queue: QueueInfo, limits: dict[str, Any], found: list[str]
) -> None:
    assert breaches([queue], **limits) == found


def test_the_command_prints_and_checks(broker: Admin, fake: FakeClients) -> None:
    put(fake, "ns__main", 3)
    shown = run(broker.app, "queues", "main")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[1].split() == ["main", "3", "0", "0", "-", "-", "-", "-", "ok"]
    assert run(broker.app, "queues", "main", "--max-ready", "3", "--max-age", "1h", "--max-dead", "0").exit_code == 0
    failed = run(broker.app, "queues", "main", "--max-ready", "2")
    assert (failed.exit_code, failed.stderr) == (2, "main: 3 messages ready, more than 2\n")
    failed = run(broker.app, "queues", "--max-dead", "0", "--json")
    assert failed.exit_code == 2
    document = json.loads(failed.stdout)
    assert document["breaches"] == ["email: missing", "slow: missing"]
    assert [queue["name"] for queue in document["queues"]] == ["email", "main", "slow", "urgent"]


# --- the health file


@pytest.fixture
def with_file(app: Celery, tmp_path: Path) -> Celery:
    app.conf.broker_transport_options = {"health_file": str(tmp_path / "%n-%h.health")}
    (tmp_path / "w1-box.health").write_text(Health("w1@box", 17).dumps())
    return app


def test_the_file_of_a_worker_is_found_by_its_name(with_file: Celery, fake: FakeClients) -> None:
    assert admin.health(with_file, node="w1@box").node == "w1@box"
    assert not fake.calls
    with pytest.raises(FileNotFoundError, match="celery-"):
        admin.health(with_file)


def test_an_app_without_a_health_file_says_so(app: Celery, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="health_file"):
        admin.health(app)
    (tmp_path / "any").write_text(Health("w1@box", 17).dumps())
    assert admin.health(app, str(tmp_path / "any")).pid == 17
    with pytest.raises(ConfigurationError, match="hake://"):
        admin.health(Celery("other", broker="memory://", set_as_current=False))


def test_the_command_tells_by_its_exit_code(with_file: Celery, tmp_path: Path) -> None:
    done = run(with_file, "health", "-n", "w1@box")
    assert (done.exit_code, done.stdout) == (0, "healthy: w1@box (pid 17) is ok\n")
    assert json.loads(run(with_file, "health", "-n", "w1@box", "--json").stdout)["is_healthy"] is True
    (tmp_path / "w1-box.health").write_text(Health("w1@box", 17, "stuck").dumps())
    assert run(with_file, "health", "-n", "w1@box").exit_code == 2
    missing = run(with_file, "health")
    assert (missing.exit_code, "There is no file" in missing.stderr) == (1, True)
    (tmp_path / "bad").write_text("{}")
    refused = run(with_file, "health", str(tmp_path / "bad"))
    assert (refused.exit_code, "is not a health file" in refused.stderr) == (1, True)
