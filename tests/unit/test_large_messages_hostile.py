"""Large messages, and what others or an unlucky moment make of their pointers: no object is lost, and nobody stuck."""

from collections.abc import Iterator

import pytest
from fakes import FakeClients, connected
from kombu import Exchange
from support.large_messages import BUCKET, LARGE, Bench, faults, opened, receive_nothing

import kombu_hake
from kombu_hake.admin.dead_letters import read, revived
from kombu_hake.amqp import Pointer, changes_in, pointer_attributes
from kombu_hake.exceptions import BrokerUnavailable, PublishError, PublishFailed
from kombu_hake.receive import payloads as payloads_module


@pytest.fixture
def bench(fake: FakeClients) -> Iterator[Bench]:
    with opened(fake) as bench:
        yield bench


def test_a_denied_object_is_kept_where_dead_letters_go_to_an_exchange(bench: Bench) -> None:
    bench.declare("graves", exchange=Exchange("dead", "topic"))
    bench.declare("mails", **{"x-dead-letter-exchange": "dead"})
    bench.publish()
    before = bench.objects()
    bench.fake.deny("s3:GetObject")
    receive_nothing(bench, lambda: bool(bench.raw("graves")))
    bench.settle()
    assert bench.objects() == before


def test_a_pointer_whose_json_is_escaped_keeps_its_object_with_its_dead_letter(bench: Bench) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    key = "prod/q/0123456789abcdef0123456789abcdef"
    bench.fake.objects.objects[BUCKET, key] = b"hello"
    pointer = Pointer(BUCKET, key, 5)
    bench.send("mails", pointer.text.replace("/", r"\/"), **pointer_attributes(pointer, {}))
    bench.receive("mails", on=lambda message: message.reject())
    bench.settle()
    assert bench.objects() == [key]
    assert len(bench.raw("mails-dead")) == 1


@pytest.mark.parametrize("key", ["prod/q/\x00\x1b[2J", "\ud800", "\uffff", "k" * 5_000])
def test_a_pointer_with_a_key_that_aws_cannot_write_is_a_dead_letter(bench: Bench, key: str) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.send_pointer("mails", Pointer(BUCKET, key, 6))
    receive_nothing(bench, lambda: bool(bench.raw("mails-dead")))
    assert faults(bench)[0].startswith("refused")


@pytest.mark.parametrize(
    "properties",
    ['{"tenant": 5}', '{"tenant": ["x"]}', '{"MessageGroupId": "a b"}', f'{{"MessageGroupId": 1{"0" * 4_000}}}'],
)
def test_no_property_of_a_pointer_keeps_dead_letters_from_being_sent_back(properties: str) -> None:
    pointer = Pointer(BUCKET, "prod/q/0123456789abcdef0123456789abcdef", 6)
    changes = {"DataType": "String", "StringValue": f'{{"properties": {properties}}}'}
    attributes = {**pointer_attributes(pointer, {}), "hake-changes": changes}
    raw = {"Body": pointer.text, "MessageId": "1", "ReceiptHandle": "r", "MessageAttributes": attributes}
    letter = read("mails", raw, 0.0)
    assert "MessageGroupId" not in revived(letter, is_fifo=False)
    assert revived(letter, is_fifo=True)["MessageGroupId"] == "default"


def test_ten_long_failures_in_any_language_can_be_read_again() -> None:
    deaths = [{"message": "失敗" * 500, "traceback": "失敗" * 3_000}] * 10
    changes = {"headers": {"hake_deaths": deaths}}
    raw = {"MessageAttributes": pointer_attributes(Pointer(BUCKET, "prod/t/x", 6), changes)}
    assert changes_in(raw) == changes


def test_in_a_batch_a_queue_that_takes_less_than_aws_allows_gets_a_pointer(bench: Bench) -> None:
    bench.declare("mails")
    url = bench.fake.sqs("get_queue_url", QueueName="mails")["QueueUrl"]
    bench.fake.sqs("set_queue_attributes", QueueUrl=url, Attributes={"MaximumMessageSize": "262144"})
    bench.fake.clock.advance(120)
    with kombu_hake.batch():
        bench.publish("small")
        bench.publish("x" * 300_000)
    assert len(bench.raw("mails")) == 2
    assert len(bench.objects()) == 1
    found = bench.receive("mails", count=2)
    assert sorted(len(message.payload["data"]) for message in found) == [5, 300_000]
    bench.settle()
    assert bench.objects() == []


def test_where_each_entry_of_a_batch_has_its_own_answer_too(bench: Bench) -> None:
    bench.declare("mails")
    bench.fake.fail_entries(
        "send_message_batch", code="InvalidParameterValue", sender_fault=True,
        message="One or more parameters are invalid. Reason: Message must be shorter than 262144 bytes.",
    )  # fmt: skip
    with kombu_hake.batch():
        bench.publish("x" * 300_000)
        bench.publish("x" * 310_000)
    assert len(bench.raw("mails")) == 2


def test_without_the_option_a_pointer_goes_to_the_dead_letters_and_can_be_sent_back(fake: FakeClients) -> None:
    fake.objects.objects[BUCKET, "prod/x"] = b"hello"
    with connected(fake, ack_linger_s=0.0) as connection:
        bench = Bench(fake, connection)
        bench.declare("mails", **{"x-dead-letter-queue": True})
        bench.send_pointer("mails", Pointer(BUCKET, "prod/x", 5))
        receive_nothing(bench, lambda: bool(bench.raw("mails-dead")))
        [raw] = bench.raw("mails-dead")
        entry = revived(read("mails", raw, 0.0), is_fifo=False)
    with connected(fake, ack_linger_s=0.0, large_messages=f"s3://{BUCKET}/prod") as connection:
        bench = Bench(fake, connection)
        bench.send("mails", entry["MessageBody"], **entry["MessageAttributes"])
        assert bench.receive("mails")[0].body == b"hello"


def test_what_was_received_often_is_not_hidden_for_hours_while_s3_is_away(bench: Bench) -> None:
    """A task that was deferred for days has been received as often."""
    bench.declare("mails")
    bench.publish()
    for _ in range(12):
        bench.raw("mails")
    bench.fake.fail("download", *[BrokerUnavailable("S3 is away")] * payloads_module._TRIES)
    receive_nothing(bench, lambda: bench.fake.count("change_message_visibility_batch") > 0)
    bench.fake.clock.advance(901)
    assert bench.receive("mails")[0].payload == {"data": LARGE}


def test_a_message_that_aws_refuses_does_not_take_its_batch_with_it(bench: Bench) -> None:
    bench.declare("mails")
    with pytest.raises(PublishFailed) as failed, kombu_hake.batch():  # noqa: PT012
        bench.publish("one")
        bench.publish("two", MessageGroupId="a b")
        bench.fake.fail("send_message_batch", PublishError("InvalidParameterValue: MessageGroupId"))
    assert len(failed.value.failed) == 1
    assert len(bench.raw("mails")) == 1
