"""Apps whose topology tests plan, apply and compare: each way of declaring queues, and every option that matters."""

import json
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu import Exchange, Queue, binding

from kombu_hake import Topic
from kombu_hake.admin.declared import declared

__all__ = ["SHOPS", "declare_all", "declare_own", "made_app"]

#: What an option gives every queue.
OWN_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Sid": "own", "Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"},
         "Action": "sqs:SendMessage", "Resource": "*"}
    ],
}  # fmt: skip
KEPT = {"x-dead-letter-queue": True}


def groups(app: Celery) -> None:
    orders = Topic("orders", app=app)
    orders.on("placed", "order.*", group="email", name="receipt")(print)
    orders.on("placed", group="stock", name="reserve")(print)
    Topic("audit", app=app, dead_letters=False).on("#", group="log", name="log")(print)


def large(app: Celery) -> None:
    """One process declares the topic with a size, and one without."""
    Topic("orders", app=app, max_size=1_048_576).on("placed", group="email", name="receipt")(print)
    Topic("orders", app=app).on("placed", group="stock", name="reserve")(print)


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
        Queue("jobs", Exchange("work", "topic"), routing_key="job.#", max_priority=3, queue_arguments=KEPT),
        Queue("all", Exchange("news", "fanout"), max_priority=9),
        Queue("plain", Exchange("plain"), routing_key="plain", max_priority=2),
    ]


def fifo(app: Celery) -> None:
    app.conf.task_queues = [
        Queue("jobs.fifo", Exchange("work.fifo", "topic"), routing_key="job.#", queue_arguments=KEPT),
        Queue("flat.fifo", Exchange("flat.fifo"), routing_key="flat.fifo", max_priority=3),
    ]


def one_exchange(app: Celery) -> None:
    app.conf.task_queues = [
        Queue(f"q{number}", Exchange("work", "direct"), routing_key=f"k{number}") for number in range(3)
    ]


def many_bindings(app: Celery) -> None:
    app.conf.task_queues = [
        Queue("many", bindings=[binding(Exchange("work", "topic"), f"key.{number}") for number in range(45)])
    ]


SHOPS: dict[str, tuple[Callable[[Celery], None], dict[str, Any]]] = {
    "groups": (groups, {}),
    "plain": (plain, {}),
    "plain, direct exchanges are topics": (plain, {"direct_exchanges": "topic"}),
    "priorities": (priorities, {}),
    "priorities, fanout too": (priorities, {"fanout_priorities": True}),
    "fifo": (fifo, {"queue_attributes": {"ContentBasedDeduplication": "true"}}),
    "policy of the namespace": (groups, {"queue_policy": "namespace"}),
    "a shared dead-letter queue": (one_exchange, {"dead_letter_queue": "morgue", "max_receive_count": 7}),
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
    "documents by option": (plain, {"queue_attributes": {"RedriveAllowPolicy": '{"redrivePermission": "denyAll"}'}}),
    "policy by option": (plain, {"queue_attributes": {"Policy": json.dumps(OWN_POLICY)}}),
    "large messages": (large, {}),
    "many bindings": (many_bindings, {}),
}  # fmt: skip


def made_app(url: str, name: str, **options: Any) -> Celery:
    """An app of :data:`SHOPS`."""
    define, its_options = SHOPS[name]
    app = Celery("shop", broker=url, set_as_current=False)
    app.conf.broker_transport_options = {**its_options, **options}
    define(app)
    app.finalize()
    return app


def declare_all(app: Celery) -> None:
    """Declare every queue as workers and producers do, by a connection of its own."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        known = app.amqp.queues
        for queue in declared(app).queues:
            (known[queue.name] if queue.name in known else known.new_missing(queue.name))(channel).declare()


def declare_own(app: Celery) -> None:
    """Declare the queues that the app itself names, temporary ones too, by a connection of its own."""
    app.finalize()
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            queue(connection.default_channel).declare()
