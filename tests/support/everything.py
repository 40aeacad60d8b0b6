"""An app that declares something of everything: groups, priorities, FIFO, headers, a shared dead-letter queue."""

from typing import Any

from celery import Celery
from kombu import Exchange, Queue, binding
from support.emulators import Emulator

from kombu_hake import Topic, admin
from kombu_hake.admin.declared import declared

__all__ = ["declare_all", "define", "make_app", "planned"]

KEPT = {"x-dead-letter-queue": True}


def make_app(aws: Emulator, **options: Any) -> Celery:
    app = Celery("shop", broker=aws.url(**options), set_as_current=False)
    app.conf.broker_transport_options = {"queue_tags": {"team": "shop ${file(1)}"}}
    return define(app)


def define(app: Celery) -> Celery:
    """Its queues, topics and handlers."""
    app.conf.task_queues = [
        Queue("jobs", Exchange("work", "topic"), routing_key="job.#", max_priority=3, queue_arguments=KEPT),
        Queue("europe", Exchange("regions", "headers"), binding_arguments={"x-match": "all", "region": "${x}"}),
        Queue("all", bindings=[binding(Exchange("work", "topic"), "#"), binding(Exchange("news", "fanout"))],
              queue_arguments={"x-dead-letter-queue": "morgue"}),
        Queue("bare", Exchange("bare"), routing_key="bare", queue_arguments={"x-dead-letter-queue": "morgue"}),
        Queue("1st queue, %{odd}", Exchange("odd", "direct"), routing_key="%{k}"),
        Queue("jobs.fifo", Exchange("work.fifo", "topic"), routing_key="job.#", queue_arguments=KEPT),
    ]  # fmt: skip
    orders = Topic("orders", app=app)
    orders.on("placed", "order.*", group="email", name="receipt")(print)
    orders.on("placed", group="stock", name="reserve")(print)
    app.finalize()
    return app


def declare_all(app: Celery) -> None:
    """As workers and producers do; with ``topology=verify`` it is checked instead."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for queue in declared(app).queues:
            app.amqp.queues[queue.name](channel).declare()
        channel.basic_consume("email")


def planned(app: Celery) -> list[str]:
    """What ``hake plan`` says: changes, what is not declared, and what cannot be told."""
    with admin.connect(app) as broker:
        plan = broker.plan()
    return [str(one) for one in (*plan.changes, *plan.undeclared, *plan.unknown, *plan.notes)]
