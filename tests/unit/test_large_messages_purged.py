"""Purging dead letters takes their payloads in S3 with them, where these are theirs alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from fakes import FakeClients
from kombu import Exchange, Queue
from support.large_messages import BUCKET, Bench, opened

from kombu_hake import Topic
from kombu_hake.admin import Admin, Selection, connect
from kombu_hake.amqp import Pointer
from kombu_hake.exceptions import BrokerUnavailable

THEIRS = "their-payloads"


@pytest.fixture
def bench(fake: FakeClients) -> Iterator[Bench]:
    with opened(fake) as bench:
        bench.declare("mails", **{"x-dead-letter-queue": True})
        yield bench


@pytest.fixture
def broker(bench: Bench) -> Iterator[Admin]:
    app = Celery("shop", broker=bench.connection.as_uri(include_password=True), set_as_current=False)
    app.conf.broker_transport_options = {"large_messages": f"s3://{BUCKET}/prod"}
    app.conf.task_queues = [Queue("mails")]
    Topic("orders", app=app, large_messages=f"s3://{THEIRS}/orders").on("placed", group="stock", name="reserve")(print)
    with connect(app) as broker:
        yield broker


def bury(bench: Bench, task: str = "shop.mail", **options: Any) -> None:
    bench.publish(headers={"task": task, "id": task}, **options)
    bench.receive("mails", on=lambda message: message.reject())
    bench.settle()


def test_a_purge_deletes_the_payloads_of_the_letters_it_deletes(bench: Bench, broker: Admin) -> None:
    bury(bench, "shop.mail")
    [kept] = bench.objects()
    bury(bench, "shop.bill")
    outcome = broker.purge_dead_letters("mails", Selection(task="shop.bill"))
    assert (outcome.done, outcome.failures, outcome.notes) == (1, [], [])
    assert bench.objects() == [kept]
    assert broker.purge_dead_letters("mails", Selection()).done == 1
    assert bench.objects() == []


def test_a_requeue_deletes_none(bench: Bench, broker: Admin) -> None:
    bury(bench)
    assert broker.requeue("mails").done == 1
    assert len(bench.objects()) == 1
    assert len(bench.receive("mails")) == 1


def test_a_requeue_says_which_letters_are_left_beside_their_message(bench: Bench, broker: Admin) -> None:
    bury(bench)
    bench.fake.fail_entries("delete_message_batch", code="InternalError")
    outcome = broker.requeue("mails")
    assert outcome.done == 0
    assert ": sent back, but not deleted, " in outcome.failures[0]


def test_a_letter_that_is_not_deleted_keeps_its_payload(bench: Bench, broker: Admin) -> None:
    bury(bench)
    bench.fake.fail_entries("delete_message_batch", code="InternalError")
    outcome = broker.purge_dead_letters("mails", Selection())
    assert (outcome.done, len(outcome.failures)) == (0, 1)
    assert len(bench.objects()) == 1


def test_an_event_is_left_to_the_lifecycle_rule(bench: Bench, broker: Admin) -> None:
    """Other queues may have it, too."""
    orders = Exchange("orders", "topic")
    bench.declare("mails", exchange=orders, **{"x-dead-letter-queue": True})
    bury(bench, key="placed", exchange="orders")
    assert broker.purge_dead_letters("mails", Selection()).done == 1
    assert [key.split("/")[1] for key in bench.objects()] == ["t"]


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("foreign-payloads", "prod/q/0123456789abcdef0123456789abcdef"),
        (BUCKET, "other/q/0123456789abcdef0123456789abcdef"),
        (BUCKET, "prod/q/report.csv"),
        (BUCKET, "prod/q/../q/0123456789abcdef0123456789abcdef"),
        (BUCKET, "prod/t/0123456789abcdef0123456789abcdef"),
    ],
)
def test_nothing_foreign_is_deleted(bench: Bench, broker: Admin, bucket: str, key: str) -> None:
    bench.fake.objects.buckets.add(bucket)
    bench.fake.objects.objects[bucket, key] = b"theirs"
    bench.send_pointer("mails-dead", Pointer(bucket, key, 6))
    bench.send("mails-dead", "[]", ExtendedPayloadSize={"DataType": "Number", "StringValue": "x"})
    assert broker.purge_dead_letters("mails", Selection()).done == 2
    assert (bucket, key) in bench.fake.objects.objects


def test_the_bucket_of_an_exchange_that_the_app_declares_is_ours(bench: Bench, broker: Admin) -> None:
    key = "orders/q/0123456789abcdef0123456789abcdef"
    bench.fake.objects.buckets.add(THEIRS)
    bench.fake.objects.objects[THEIRS, key] = b"ours"
    bench.send_pointer("mails-dead", Pointer(THEIRS, key, 4))
    broker.purge_dead_letters("mails", Selection())
    assert bench.fake.objects.objects == {}


def test_what_s3_refuses_is_noted_once_and_the_letters_are_gone(bench: Bench, broker: Admin) -> None:
    for _ in range(3):
        bury(bench)
    bench.fake.deny("s3:DeleteObject")
    outcome = broker.purge_dead_letters("mails", Selection())
    assert (outcome.done, outcome.failures) == (3, [])
    [note] = outcome.notes
    assert note.startswith(f"Payloads stay in bucket {BUCKET} for its lifecycle rule to delete: ")
    assert "s3:DeleteObject" in note
    assert len(bench.objects()) == 3


def test_an_outage_of_s3_does_not_keep_letters_from_being_purged(bench: Bench, broker: Admin) -> None:
    bury(bench)
    bench.fake.fail("delete_object", BrokerUnavailable("S3 is away"))
    outcome = broker.purge_dead_letters("mails", Selection())
    assert outcome.done == 1
    assert outcome.notes == [f"Payloads stay in bucket {BUCKET} for its lifecycle rule to delete: S3 is away"]
