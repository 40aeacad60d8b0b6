"""The blueprint of an app is what declaring it really makes in an empty account."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding
from support.emulators import Emulator
from support.inventory import inventory, meaning

from kombu_hake import Topic, admin
from kombu_hake.admin.blueprint import blueprint
from kombu_hake.admin.declared import declared

KEPT = {"x-dead-letter-queue": True}


def groups(app: Celery) -> None:
    orders = Topic("orders", app=app)
    orders.on("placed", "order.*", group="email", name="receipt")(print)
    orders.on("placed", group="stock", name="reserve")(print)
    Topic("audit", app=app, dead_letters=False).on("#", group="log", name="log")(print)


def plain(app: Celery) -> None:
    app.conf.task_queues = [
        Queue("video", Exchange("media", "topic"), routing_key="video.#", queue_arguments=KEPT),
        Queue("both", bindings=[binding(Exchange("media", "topic"), "#"), binding(Exchange("all", "fanout"))]),
        Queue("europe", Exchange("regions", "headers"), binding_arguments={"x-match": "all", "region": "eu", "n": 1}),
        Queue("bare", Exchange("bare"), routing_key="bare"),
    ]
    app.conf.task_routes = {"thumbs.*": {"queue": "thumbs"}, "other": "other"}


def priorities(app: Celery) -> None:
    app.conf.task_queues = [
        Queue("jobs", Exchange("work", "topic"), routing_key="job.#", max_priority=3,
              queue_arguments=KEPT),
        Queue("all", Exchange("news", "fanout"), max_priority=9),
        Queue("plain", Exchange("plain"), routing_key="plain", max_priority=2),
    ]  # fmt: skip


def fifo(app: Celery) -> None:
    app.conf.task_queues = [
        Queue("jobs.fifo", Exchange("work.fifo", "topic"), routing_key="job.#",
              queue_arguments=KEPT),
        Queue("flat.fifo", Exchange("flat.fifo"), routing_key="flat.fifo", max_priority=3),
    ]  # fmt: skip


def shared_dead_letters(app: Celery) -> None:
    app.conf.task_queues = [
        Queue(f"q{number}", Exchange("work", "direct"), routing_key=f"k{number}") for number in range(3)
    ]


def many_bindings(app: Celery) -> None:
    app.conf.task_queues = [
        Queue("many", bindings=[binding(Exchange("work", "topic"), f"key.{number}") for number in range(45)])
    ]


APPS: dict[str, tuple[Callable[[Celery], None], dict[str, Any]]] = {
    "groups": (groups, {}),
    "plain": (plain, {}),
    "plain, direct exchanges are topics": (plain, {"direct_exchanges": "topic"}),
    "priorities": (priorities, {}),
    "priorities, fanout too": (priorities, {"fanout_priorities": True}),
    "fifo": (fifo, {"queue_attributes": {"ContentBasedDeduplication": "true"}}),
    "policy of the namespace": (groups, {"queue_policy": "namespace"}),
    "a shared dead-letter queue": (shared_dead_letters, {"dead_letter_queue": "morgue", "max_receive_count": 7}),
    "undelivered not kept": (groups, {"keep_undelivered": False}),
    "attributes and tags": (
        groups,
        {
            "queue_attributes": {
                "KmsMasterKeyId": "alias/own", "MessageRetentionPeriod": "86400", "stock*": {"DelaySeconds": "5"}
            },
            "queue_tags": {"team": "shop"},
        },
    ),
    "documents by option": (
        plain, {"queue_attributes": {"RedriveAllowPolicy": '{"redrivePermission": "denyAll"}'}}
    ),
    "many bindings": (many_bindings, {}),
}  # fmt: skip


def made_app(aws: Emulator, define: Callable[[Celery], None], options: dict[str, Any]) -> Celery:
    app = Celery("shop", broker=aws.url(), set_as_current=False)
    app.conf.broker_transport_options = options
    define(app)
    return app


def declare_all(app: Celery) -> None:
    """As workers and producers do."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for queue in declared(app).queues:
            known = app.amqp.queues
            (known[queue.name] if queue.name in known else known.new_missing(queue.name))(channel).declare()


@pytest.mark.parametrize("name", APPS)
def test_it_is_what_declaring_makes(moto: Emulator, name: str) -> None:
    aws = moto.in_namespace(f"bp{abs(hash(name)) % 10**8}")
    app = made_app(aws, *APPS[name])
    with admin.connect(app) as broker:
        expected = blueprint(declared(app), broker._clients.settings, broker._topology.home)
    declare_all(app)
    found = inventory(aws.client("sqs"), aws.client("sns"), f"{aws.namespace}__")
    queues = found["queues"]
    assert sorted(queues) == [queue.physical for queue in expected.queues]
    for queue in expected.queues:
        documents = {
            "Policy": queue.policy or "", "RedrivePolicy": queue.redrive or "",
            "RedriveAllowPolicy": queue.redrive_allow or "",
        }  # fmt: skip
        wanted = meaning(queue.attributes | documents)
        wanted.pop("RedriveAllowPolicy", None)  # moto does not know it; test_plan_on_fake looks at it
        shown = queues[queue.physical]["attributes"]
        assert {key: shown.get(key) for key in wanted} == wanted
        assert not {"Policy", "RedrivePolicy"} & set(shown) - set(wanted)
        assert shown["QueueArn"] == queue.arn
        if name == "many bindings":  # in which order they come is by chance
            assert len(queues[queue.physical]["tags"]) == len(queue.tags)
        else:
            assert queues[queue.physical]["tags"] == queue.tags
    assert {name: topic["tags"] for name, topic in found["topics"].items()} == {
        topic.physical: topic.tags for topic in expected.topics if topic.is_bound
    }
    assert sorted(found["subscriptions"]) == sorted(
        (one.topic_arn.rpartition(":")[2], one.queue_arn.rpartition(":")[2]) for one in expected.subscriptions
    )
    for one in expected.subscriptions:
        shown = found["subscriptions"][one.topic_arn.rpartition(":")[2], one.queue_arn.rpartition(":")[2]]
        wanted = meaning(one.attributes)
        if "FilterPolicyScope" not in shown:
            wanted.pop("FilterPolicyScope", None)
        assert {key: shown.get(key) for key in ("FilterPolicy", "RedrivePolicy", *wanted)} == {
            "FilterPolicy": None, "RedrivePolicy": None, **wanted
        }  # fmt: skip
