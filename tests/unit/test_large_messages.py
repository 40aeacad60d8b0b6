"""Messages that are too large for SNS and SQS, on a fake AWS with S3: what is uploaded, deleted and refused."""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
from celery import Celery
from fakes import FakeClients, connected, eventually
from kombu import Consumer, Exchange, Queue
from support.large_messages import BUCKET, LARGE, Bench, faults, opened, receive_nothing

import kombu_hake
from kombu_hake.admin.dead_letters import Selection, read, revived
from kombu_hake.amqp import Pointer, Wire, encode, pointer_attributes
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    ConfigurationError,
    DeclarationMismatch,
    MessageTooLarge,
    PublishFailed,
)
from kombu_hake.receive import payloads as payloads_module

ORDERS = Exchange("orders", "topic")
FIVE_MIB = "line of text\n" * 403_299


@pytest.fixture
def bench(fake: FakeClients) -> Iterator[Bench]:
    with opened(fake) as bench:
        yield bench


# --- publishing


def test_a_large_message_to_a_queue_is_a_pointer_and_its_object_goes_with_it(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish()
    [raw] = bench.raw("mails")
    [key] = bench.objects()
    assert key.startswith("prod/q/")
    assert json.loads(raw["Body"])[1] == {"s3BucketName": BUCKET, "s3Key": key}
    size = len(bench.fake.objects.objects[BUCKET, key])
    assert raw["MessageAttributes"]["ExtendedPayloadSize"] == {"DataType": "Number", "StringValue": str(size)}
    [message] = bench.receive("mails")
    assert message.payload == {"data": LARGE}
    bench.settle()
    assert bench.objects() == []


def test_a_message_that_fits_does_not_go_to_s3(bench: Bench) -> None:
    bench.declare("mails", exchange=ORDERS)
    bench.publish("x" * 1_000_000)
    bench.publish("x" * 200_000, key="placed", exchange="orders")
    assert bench.fake.objects.written == []


def test_each_queue_of_a_topic_gets_the_event_and_none_deletes_it(bench: Bench) -> None:
    bench.declare("mails", "stock", exchange=ORDERS)
    bench.publish("x" * 300_000, key="placed", exchange="orders")
    assert [key.split("/")[1] for key in bench.objects()] == ["t"]
    found = bench.receive("mails", "stock", count=2)
    assert [len(message.payload["data"]) for message in found] == [300_000, 300_000]
    bench.settle()
    assert len(bench.objects()) == 1


def test_a_task_of_celery_to_its_own_queue_leaves_nothing_behind(bench: Bench) -> None:
    """Its exchange has the name of the queue, and may have a topic, for all that a first publish knows."""
    bench.declare("celery", exchange=Exchange("celery", "direct"))
    bench.publish(key="celery", exchange="celery")
    assert [key.split("/")[1] for key in bench.objects()] == ["q"]
    bench.receive("celery")
    bench.settle()
    assert bench.objects() == []


def test_nor_does_it_while_it_is_not_known_whether_there_is_a_topic(bench: Bench) -> None:
    bench.declare("celery", exchange=Exchange("celery", "direct"))
    with mock.patch.object(bench.connection.transport.dispatcher._routes, "_ask"):
        bench.publish(key="celery", exchange="celery")
    assert [key.split("/")[1] for key in bench.objects()] == ["q"]
    assert bench.fake.count("publish") == 0


def test_where_a_queue_and_a_topic_get_it_nobody_deletes_it(bench: Bench) -> None:
    own = Exchange("celery", "direct")
    bench.declare("celery", exchange=own)
    Queue("copy", own, routing_key="celery")(bench.channel).declare()
    bench.publish(key="celery", exchange="celery")
    bench.receive("celery", "copy", count=2)
    bench.settle()
    assert [key.split("/")[1] for key in bench.objects()] == ["t"]


def test_a_failed_upload_is_a_failed_publish(bench: Bench) -> None:
    bench.declare("mails")
    bench.fake.fail("upload", BrokerUnavailable("S3 is away"))
    with pytest.raises(BrokerUnavailable):
        bench.publish()
    bench.fake.deny("s3:PutObject")
    with pytest.raises(AccessDenied) as failed:
        bench.publish()
    assert failed.value.action == "s3:PutObject"
    assert failed.value.resource.startswith(f"s3://{BUCKET}/prod/q/")
    assert bench.raw("mails") == []


def test_in_a_batch_too(bench: Bench) -> None:
    bench.declare("mails")
    with kombu_hake.batch():
        bench.publish("small")
        bench.fake.fail("upload", BrokerUnavailable("S3 is away"))
        with pytest.raises(BrokerUnavailable):
            bench.publish()
        bench.publish()
    assert len(bench.raw("mails")) == 2


def test_what_a_batch_holds_is_bounded_by_what_its_messages_hold(bench: Bench) -> None:
    bench.declare("mails")
    body = "x" * 9_000_000
    with kombu_hake.batch() as batch:
        held = []
        for _ in range(8):
            bench.publish(body)
            held.append(batch._outstanding_bytes)
        assert max(held) < 50_000_000
        batch.flush()
        assert batch._outstanding_bytes == 0
    assert len(bench.raw("mails")) == 8


def test_the_order_of_a_fifo_queue_is_kept_in_a_batch_and_among_downloads(bench: Bench) -> None:
    bench.declare("mails.fifo")
    bodies = ["a", LARGE, "b", "c", LARGE + "d", "e"]
    with kombu_hake.batch():
        for number, body in enumerate(bodies):
            bench.publish(body, key="mails.fifo", MessageGroupId="g", MessageDeduplicationId=str(number))
    found = bench.receive("mails.fifo", count=len(bodies))
    assert [message.payload["data"] for message in found] == bodies
    bench.settle()
    assert bench.objects() == []


def test_without_a_bucket_a_large_message_is_refused(fake: FakeClients) -> None:
    with connected(fake) as connection:
        bench = Bench(fake, connection)
        bench.declare("mails")
        with pytest.raises(MessageTooLarge):
            bench.publish()
    assert fake.objects.written == []


def test_nor_is_it_sent_to_a_topic_that_may_not_exist(fake: FakeClients) -> None:
    with connected(fake) as connection:
        bench = Bench(fake, connection)
        bench.declare("celery", exchange=Exchange("celery", "direct"))
        with mock.patch.object(connection.transport.dispatcher._routes, "_ask"), pytest.raises(MessageTooLarge):
            bench.publish(key="celery", exchange="celery")
    assert fake.count("publish") == 0


def test_what_consumers_would_refuse_is_refused(bench: Bench) -> None:
    bench.declare("mails")
    with pytest.raises(MessageTooLarge, match="values"), bench.connection.Producer() as producer:
        producer.publish([[]] * 2_000_000, exchange="", routing_key="mails")
    huge = Wire((_Long(300_000_000),), 300_000_000)
    encoded = mock.patch("kombu_hake.publish.dispatch.encode", return_value=huge)
    with encoded, pytest.raises(MessageTooLarge, match="268,435,456"):
        bench.publish()
    assert bench.fake.objects.written == []
    bench.publish("1,2," * 1_000_000)  # commas in a string are no values
    assert len(bench.fake.objects.written) == 1


class _Long(str):
    """Looks like a longer text."""

    def __new__(cls, length: int) -> "_Long":
        found = super().__new__(cls, "x")
        found.length = length  # type: ignore[attr-defined]
        return found

    def __len__(self) -> int:
        return self.length  # type: ignore[attr-defined,no-any-return]


def test_an_exchange_may_have_a_bucket_of_its_own(fake: FakeClients) -> None:
    fake.objects.buckets.add("other-payloads")
    theirs = Exchange("orders", "topic", arguments={"x-large-messages": "s3://other-payloads/orders"})
    with connected(fake, ack_linger_s=0.0) as connection:
        bench = Bench(fake, connection)
        bench.declare("mails", exchange=theirs)
        bench.publish("x" * 300_000, key="placed", exchange="orders")
        [key] = fake.objects.keys("other-payloads")
        assert key.startswith("orders/t/")
        [message] = bench.receive("mails")
        assert len(message.payload["data"]) == 300_000
        with pytest.raises(MessageTooLarge):  # of another exchange
            bench.publish()
        with pytest.raises(DeclarationMismatch, match="x-large-messages"):
            Exchange("bad", "topic", arguments={"x-large-messages": "other"})(connection.default_channel).declare()
        with pytest.raises(DeclarationMismatch, match="s3://bucket/prefix"):
            kombu_hake.Topic("bad", large_messages="other")
        other = Exchange("orders", "topic", arguments={"x-large-messages": f"s3://{BUCKET}/orders"})
        with pytest.raises(DeclarationMismatch, match=rf"s3://other-payloads/orders.*s3://{BUCKET}/orders"):
            other(connection.default_channel).declare()
        Exchange("orders", "topic")(connection.default_channel).declare()
        theirs(connection.default_channel).declare()


@pytest.mark.parametrize("first_of_all_apps", [True, False])
@pytest.mark.parametrize("second_of_all_apps", [True, False])
def test_a_topic_has_one_bucket(first_of_all_apps: bool, second_of_all_apps: bool) -> None:
    app, other = Celery("shop", set_as_current=False), Celery("other", set_as_current=False)
    first, second = (None if of_all else app for of_all in (first_of_all_apps, second_of_all_apps))
    name = f"orders-{first_of_all_apps}-{second_of_all_apps}"
    kept = kombu_hake.Topic(name, app=first, large_messages="s3://one-bucket/orders")
    with pytest.raises(ConfigurationError, match=rf"{name!r}.*'s3://one-bucket/orders'.*'s3://two-bucket/orders'"):
        kombu_hake.Topic(name, app=second, large_messages="s3://two-bucket/orders")
    kombu_hake.Topic(name, app=second, large_messages="s3://one-bucket/orders/")
    kombu_hake.Topic(name, app=second)
    if not first_of_all_apps:
        kombu_hake.Topic(name, app=other, large_messages="s3://two-bucket/orders")
    assert kept.large_messages == "s3://one-bucket/orders"


def test_a_topic_that_is_known_by_its_handlers_alone_keeps_its_bucket() -> None:
    app = Celery("shop", set_as_current=False)
    kombu_hake.Topic("orders", app=app, large_messages="s3://one-bucket").on("placed", group="email", name="m")(print)
    with pytest.raises(ConfigurationError, match="one-bucket"):
        kombu_hake.Topic("orders", app=app, large_messages="s3://two-bucket")


# --- what is refused, missing or denied


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("other-payloads", "prod/q/0123456789abcdef0123456789abcdef"),
        (BUCKET, "other/q/0123456789abcdef0123456789abcdef"),
        (BUCKET, "prod/../secrets"),
        (BUCKET, "secrets"),
    ],
)
def test_a_pointer_to_a_foreign_object_is_set_aside_and_the_object_not_touched(
    bench: Bench, bucket: str, key: str
) -> None:
    bench.fake.objects.objects[bucket, key] = b"secret"
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.send_pointer("mails", Pointer(bucket, key, 6))
    receive_nothing(bench, lambda: bool(bench.raw("mails-dead")))
    [fault] = faults(bench)
    assert fault.startswith("refused")
    bench.settle()
    assert bench.fake.count("download", "delete_object") == 0
    assert bench.fake.objects.objects[bucket, key] == b"secret"


def test_an_object_of_another_client_is_read_and_not_deleted(bench: Bench) -> None:
    bench.fake.objects.objects[BUCKET, "prod/theirs"] = b"hello"
    bench.declare("mails")
    bench.send_pointer("mails", Pointer(BUCKET, "prod/theirs", 5))
    [message] = bench.receive("mails")
    assert message.body == b"hello"
    assert message.properties["attributes"] == {}
    bench.settle()
    assert bench.objects() == ["prod/theirs"]


def test_an_object_of_another_client_comes_through_a_topic(bench: Bench) -> None:
    bench.fake.objects.objects[BUCKET, "prod/theirs"] = b'{"order": 7}'
    bench.declare("mails", exchange=ORDERS)
    pointer = Pointer(BUCKET, "prod/theirs", 12)
    arn = bench.connection.transport.topology.topics.arn("orders")
    attributes = {**pointer_attributes(pointer, {}), "rk": {"DataType": "String", "StringValue": "placed"}}
    bench.fake.sns("publish", TopicArn=arn, Message=pointer.text, MessageAttributes=attributes)
    [message] = bench.receive("mails")
    assert message.payload == {"order": 7}
    assert message.properties["attributes"] == {"rk": "placed"}


def test_a_missing_object_makes_a_dead_letter(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.publish()
    bench.fake.objects.objects.clear()
    receive_nothing(bench, lambda: bool(bench.raw("mails-dead")))
    assert faults(bench)[0].startswith("missing, perhaps already processed")
    eventually(lambda: not bench.raw("mails"))


def test_a_denied_object_makes_a_dead_letter_which_keeps_it(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.publish()
    bench.fake.deny("s3:GetObject")
    receive_nothing(bench, lambda: bool(bench.raw("mails-dead")))
    assert faults(bench)[0].startswith("denied: s3:GetObject")
    bench.settle()
    assert len(bench.objects()) == 1
    bench.fake.allow("s3:GetObject")
    assert bench.receive("mails-dead")[0].payload == {"data": LARGE}


def test_a_message_that_is_no_pointer_and_one_that_lies_about_its_size_are_set_aside(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.send("mails", "hello", ExtendedPayloadSize={"DataType": "Number", "StringValue": "7"})
    bench.fake.objects.objects[BUCKET, "prod/odd"] = b"\xff\xfe"
    bench.send_pointer("mails", Pointer(BUCKET, "prod/odd", 2))
    receive_nothing(bench, lambda: len(bench.raw("mails-dead")) == 2)
    assert all(fault.startswith("malformed") for fault in faults(bench))


def test_without_the_option_a_pointer_waits_for_a_worker_that_has_it(fake: FakeClients) -> None:
    with connected(fake, ack_linger_s=0.0) as connection:
        bench = Bench(fake, connection)
        bench.declare("mails")
        bench.send_pointer("mails", Pointer(BUCKET, "prod/x", 5))
        hidden = lambda: fake.count("change_message_visibility_batch") > 0  # noqa: E731
        receive_nothing(bench, hidden)
    assert fake.count("delete_message_batch") == 0


# --- while S3 is away


def test_a_download_is_tried_again_and_the_message_then_hidden(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.publish()
    bench.fake.fail("download", *[BrokerUnavailable("S3 is away")] * payloads_module._TRIES)
    receive_nothing(bench, lambda: bench.fake.count("change_message_visibility_batch") > 0)
    assert bench.raw("mails-dead") == []
    bench.fake.clock.advance(60)
    assert bench.receive("mails")[0].payload == {"data": LARGE}


def test_no_receive_is_spent_that_would_make_a_dead_letter(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True, "x-delivery-limit": 2})
    bench.publish()
    bench.fake.fail("download", *[BrokerUnavailable("S3 is away")] * (payloads_module._TRIES + 3))
    with mock.patch.object(payloads_module, "_HOLD_PAUSE_S", 0.0):
        assert bench.receive("mails")[0].payload == {"data": LARGE}
    assert bench.got[0].properties["receive_count"] == 1


def test_what_waits_for_its_payload_is_released_with_the_consumer(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish()
    bench.fake.fail("download", *[BrokerUnavailable("S3 is away")] * 1_000_000)
    with mock.patch.object(payloads_module, "_TRIES", 1_000_000):
        with Consumer(bench.channel, [Queue("mails")], on_message=bench.got.append):
            eventually(lambda: bench.fake.count("download") > 0)
        eventually(lambda: bool(bench.raw("mails")))
        eventually(lambda: not bench.connection.transport.payloads._downloads.unanswered)
    bench.fake._failures.clear()
    assert bench.receive("mails")[0].payload == {"data": LARGE}


def test_basic_get_downloads_too(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish()
    bench.fake.fail("download", BrokerUnavailable("S3 is away"))
    with pytest.raises(BrokerUnavailable):
        bench.channel.basic_get("mails")
    message = None
    while message is None:
        message = bench.channel.basic_get("mails")
    assert message.payload == {"data": LARGE}
    message.ack()
    bench.settle()
    assert bench.objects() == []


def test_a_tenth_of_the_calls_of_s3_fail_and_nothing_is_lost_or_deleted_too_early(fake: FakeClients) -> None:
    """In half of them S3 has done what it was asked to, and the answer is lost."""
    options = {"large_messages": f"s3://{BUCKET}/prod", "visibility_timeout": 40_000}  # the clock is advanced a lot
    with connected(fake, ack_linger_s=0.0, **options) as connection:
        bench = Bench(fake, connection)
        bench.declare("mails", **{"x-dead-letter-queue": True})
        chance, call, too_early = random.Random(7), bench.fake.s3, []

        def failing(operation: str, **params: Any) -> dict[str, Any]:
            if operation == "delete_object" and any(params["Key"] in body for body in bodies()):
                too_early.append(params["Key"])
            fate = chance.random()
            answer = call(operation, **params) if fate > 0.05 else {}
            if fate < 0.1:
                raise BrokerUnavailable("S3 is away")
            return answer

        def bodies() -> list[str]:
            return [*bench.fake.queues.queue("mails").bodies()]

        def publish(number: int) -> None:
            for _ in range(10):
                with suppress(BrokerUnavailable):
                    return bench.publish(f"{number} {LARGE}")
            raise AssertionError("it was never accepted")

        ran: set[str] = set()

        def on_message(message: Any) -> None:
            number = message.payload["data"].split()[0]
            if chance.random() < 0.2:
                message.requeue()
            else:
                ran.add(number)
                message.ack()

        def deliver() -> bool:
            with suppress(TimeoutError):
                bench.connection.drain_events(timeout=0.01)
            bench.fake.clock.advance(20)  # for what is hidden
            return len(ran) == 40

        with mock.patch.object(bench.fake, "s3", failing):
            for number in range(40):
                publish(number)
            with Consumer(bench.channel, [Queue("mails", no_declare=True)], on_message=on_message):
                eventually(deliver, 60.0)
            bench.settle()
        assert ran == set(map(str, range(40)))
        assert bodies() == []
        assert bench.raw("mails-dead") == []
        assert too_early == []
        assert len(bench.objects()) < 20  # of publishes that failed after the upload


# --- who owns the object


def test_nothing_is_deleted_before_its_message_is_settled(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish()
    at_ack: list[list[str]] = []
    bench.fake.before("delete_message_batch", lambda: at_ack.append(bench.objects()))
    bench.receive("mails")
    bench.settle()
    assert len(at_ack[0]) == 1
    assert bench.objects() == []


def test_an_ack_that_is_not_accepted_keeps_the_object(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish()
    bench.fake.fail_entries("delete_message_batch", code="ReceiptHandleIsInvalid", sender_fault=True)
    bench.receive("mails")
    bench.settle()
    assert len(bench.objects()) == 1


def test_requeue_keeps_the_object(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish()
    bench.receive("mails", on=lambda message: message.requeue())
    bench.settle()
    assert len(bench.objects()) == 1
    assert bench.receive("mails")[0].payload == {"data": LARGE}
    bench.settle()
    assert bench.objects() == []


def test_a_dead_letter_points_to_the_same_object(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.publish(headers={"task": "shop.mail", "id": "7", "argsrepr": "('a',)"})
    before = bench.objects()
    bench.receive("mails", on=lambda message: message.reject())
    bench.settle()
    assert bench.objects() == before
    [raw] = bench.raw("mails-dead")
    letter = read("mails", raw, 0.0)
    assert (letter.task, letter.task_id, letter.reason) == ("shop.mail", "7", "rejected")
    assert letter.contents.startswith("('a',) (1,2")
    assert before[0] in letter.contents
    assert json.dumps(letter.as_dict())
    assert Selection(task="shop.*").matches(letter)
    bench.receive("mails-dead")
    bench.settle()
    assert bench.objects() == []


def test_a_message_without_a_place_for_dead_letters_takes_its_object_with_it(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish()
    bench.receive("mails", on=lambda message: message.reject())
    bench.settle()
    assert bench.objects() == []


def test_a_dead_letter_to_an_exchange_is_a_message_of_its_own(bench: Bench) -> None:
    dead = Exchange("dead", "topic")
    bench.declare("graves", exchange=dead)
    bench.declare("mails", **{"x-dead-letter-exchange": "dead"})
    bench.publish()
    [first] = bench.objects()
    bench.receive("mails", on=lambda message: message.reject())
    [message] = bench.receive("graves")
    assert message.payload == {"data": LARGE}
    assert message.headers["x-death"][0]["reason"] == "rejected"
    bench.settle()
    [second] = bench.objects()
    assert second != first
    assert second.startswith("prod/t/")


def test_the_copy_of_a_deferred_task_points_to_the_same_object(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True, "x-delivery-limit": 2})  # too few receives to hide it
    bench.publish(FIVE_MIB, headers={"task": "shop.mail", "id": "7", "eta": bench.at(2_000)})
    before = bench.objects()
    bench.fake.clock.advance(901)
    receive_nothing(bench, lambda: bench.fake.count("send_message") == 2)
    bench.settle()
    assert bench.objects() == before
    bench.fake.clock.advance(901)
    receive_nothing(bench, lambda: bench.fake.count("send_message") == 3)
    bench.fake.clock.advance(300)
    [message] = bench.receive("mails")
    assert message.payload == {"data": FIVE_MIB}
    assert message.properties["first_sent_ms"] > 0
    bench.settle()
    assert bench.objects() == []
    assert bench.fake.objects.written == before


def test_a_task_that_is_hidden_until_it_is_due_keeps_its_object(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish(FIVE_MIB, headers={"task": "shop.mail", "id": "7", "eta": bench.at(20_000)})
    before = bench.objects()
    [sent] = bench.fake.queues.queue("mails").messages
    bench.fake.clock.advance(901)
    receive_nothing(bench, lambda: sent.visible_at - bench.fake.clock() > 15_000)
    bench.settle()
    assert bench.objects() == before
    bench.fake.clock.advance(19_100)
    [message] = bench.receive("mails")
    assert message.payload == {"data": FIVE_MIB}
    bench.settle()
    assert bench.objects() == []
    assert bench.fake.objects.written == before
    assert bench.fake.count("send_message") == 1


def test_a_dead_letter_that_is_sent_back_is_a_first_try_of_the_same_object(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.publish(headers={"task": "shop.mail", "id": "7", "retries": 3, "eta": bench.at(-5), "expires": bench.at(-1)})
    bench.receive("mails", on=lambda message: message.reject())
    bench.settle()
    [raw] = bench.raw("mails-dead")
    entry = revived(read("mails", raw, 0.0), is_fifo=False)
    assert not any(name.startswith("hake-death") for name in entry["MessageAttributes"])
    bench.send("mails", entry["MessageBody"], **entry["MessageAttributes"])
    [message] = bench.receive("mails")
    assert message.payload == {"data": LARGE}
    assert (message.headers["retries"], message.headers["eta"], message.headers["expires"]) == (0, None, None)
    assert len(bench.fake.objects.written) == 1


def test_a_compressed_body_that_is_large_even_so(bench: Bench) -> None:
    bench.declare("mails")
    noise = "".join(chr(33 + (number * number * 7919 >> 5) % 90) for number in range(3_000_000))
    bench.publish(noise, compression="bzip2")
    [message] = bench.receive("mails")
    assert message.payload == {"data": noise}


def publish_in_a_batch_that_is_denied(bench: Bench) -> None:
    with kombu_hake.batch():
        bench.publish()
        bench.fake.fail("send_message_batch", AccessDenied("no"))
        bench.fake.fail("send_message", AccessDenied("no"))


def test_publish_failed_has_the_whole_message(bench: Bench) -> None:
    bench.declare("mails")
    with pytest.raises(PublishFailed) as failed:
        publish_in_a_batch_that_is_denied(bench)
    [(published, error)] = failed.value.failed
    assert isinstance(error, AccessDenied)
    assert LARGE in published.message["body"]


def test_the_text_of_a_message_is_the_object(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish()
    [text] = bench.fake.objects.objects.values()
    found = json.loads(text)
    again = encode(
        {"body": found["body"], "headers": found["headers"], "properties": found["properties"],
         "content-type": found["content-type"], "content-encoding": found["content-encoding"]},
        "", "mails", found["properties"]["delivery_tag"],
    )  # fmt: skip
    assert json.loads(again.text) == found
