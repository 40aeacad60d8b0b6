"""The property ``message_attributes``: what a publisher says to programs that read SQS without kombu."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fakes import FakeClients, eventually
from kombu import Exchange
from publishing import Process
from support.large_messages import LARGE, Bench, opened, receive_nothing

from kombu_hake.admin.dead_letters import read, revived
from kombu_hake.amqp.attributes import checked_attributes, given_attributes, typed_bytes
from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.routing import message_attributes
from kombu_hake.exceptions import MessageTooLarge, PublishError
from kombu_hake.publish.batching import batch

TEAM = {"DataType": "String", "StringValue": "shop"}
DATA = {"DataType": "Binary", "BinaryValue": b"\x00\xff"}
OURS = message_attributes("order.created.eu")
TASK = {"task": "shop.mail", "id": "7"}


def many(count: int) -> dict[str, str]:
    return {f"a{number}": "x" for number in range(count)}


def sent(fake: FakeClients, operation: str = "send_message") -> dict[str, Any]:
    [params] = [params for name, params in fake.calls if name == operation]
    return params


def delivered(fake: FakeClients, queue: str) -> list[Mapping[str, Any]]:
    return [message.attributes for message in fake.queues.queue(queue).messages]


# --- what is sent


def test_a_message_to_a_queue_has_them_as_attributes_and_not_in_its_body(fake: FakeClients, here: Process) -> None:
    here.declare("q")
    here.publish("", "q", message_attributes={"team": TEAM, "data": DATA, "shop.id": 7})
    params = sent(fake)
    assert params["MessageAttributes"] == {
        "team": TEAM,
        "data": DATA,
        "shop.id": {"DataType": "String", "StringValue": "7"},
    }
    assert "message_attributes" not in json.loads(params["MessageBody"])["properties"]


def test_a_message_to_an_exchange_has_them_beside_those_of_its_routing_key(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("orders", "topic", "order.*.eu"))
    here.declare("other", Binding("orders", "topic", "invoice.#"))
    here.publish("orders", "order.created.eu", message_attributes={"team": "shop", "data": DATA}, priority=5)
    assert fake.topics.lost == []
    [attributes] = delivered(fake, "q")
    assert attributes.keys() == {*OURS, "hake-priority", "team", "data"}
    assert (attributes["team"], attributes["data"]) == (TEAM, DATA)
    assert delivered(fake, "other") == []


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_attributes_are_none(fake: FakeClients, here: Process, nothing: Any) -> None:
    here.declare("q")
    here.publish("", "q", message_attributes=nothing)
    assert "message_attributes" not in sent(fake)["MessageBody"]
    assert not sent(fake).get("MessageAttributes")


def test_messages_of_a_batch_have_their_own(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("orders", "topic", "#"))
    with batch():
        for team in ("a", None, "b"):
            here.publish("orders", "k", **({"message_attributes": {"team": team}} if team else {}))
    entries = sent(fake, "publish_batch")["PublishBatchRequestEntries"]
    found = [entry["MessageAttributes"].get("team", {}).get("StringValue") for entry in entries]
    assert found == ["a", None, "b"]
    assert all("rk" in entry["MessageAttributes"] for entry in entries)


def test_most_of_them_are_delivered_with_all_of_ours(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("orders", "topic", "order.#"))
    here.publish("orders", "order.created.eu", message_attributes=many(6), priority=1)
    assert fake.topics.lost == []
    [attributes] = delivered(fake, "q")
    assert len(attributes) == 10


def test_header_values_give_way_and_the_message_still_reaches_its_queues(fake: FakeClients, here: Process) -> None:
    here.declare("eu", Binding("h", "headers", "", (("region", "eu"), ("x-match", "all"))))
    headers = {"region": "eu", **{f"h{number}": number for number in range(5)}}
    here.publish("h", "k", headers=headers, message_attributes=many(6), priority=1)
    here.publish("h", "k", headers={"region": "us"}, message_attributes=many(2))
    assert fake.topics.lost == []
    assert [attributes.keys() >= many(6).keys() for attributes in delivered(fake, "eu")] == [True]


def test_their_size_counts(fake: FakeClients, here: Process) -> None:
    here.declare("q")
    with pytest.raises(MessageTooLarge):
        here.publish("", "q", "x" * 1_000_000, message_attributes={"a": "y" * 48_500})
    assert fake.count("send_message") == 0
    assert (
        typed_bytes({"ab": TEAM, "é": {**DATA, "StringValue": None, "StringListValues": []}}) == 2 + 6 + 4 + 2 + 6 + 2
    )


# --- what is refused


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("team", "type str"),
        ({"": "x"}, "the name ''"),
        ({7: "x"}, "the name 7"),
        ({"a b": "x"}, "the name 'a b'"),
        ({"a\n": "x"}, "which AWS refuses"),
        ({".a": "x"}, "the name '.a'"),
        ({"a..b": "x"}, "the name 'a..b'"),
        ({"a" * 257: "x"}, "which AWS refuses"),
        ({"AWS.trace": "x"}, "which AWS refuses"),
        ({"amazon.x": "x"}, "which AWS refuses"),
        ({"a": ""}, "an empty value"),
        ({"a": b""}, "an empty value"),
        ({"a": None}, "type NoneType"),
        ({"a": ["x"]}, "type list"),
        ({"a": "\x00"}, "a character that SQS refuses"),
        ({"a": "\ud800"}, "a character that SQS refuses"),
        ({"a": {"StringValue": "x"}}, "without DataType"),
        ({"a": {"DataType": "Text", "StringValue": "x"}}, "the type 'Text'"),
        ({"a": {"DataType": "Stringy", "StringValue": "x"}}, "the type 'Stringy'"),
        ({"a": {"DataType": "String." + "x" * 250, "StringValue": "x"}}, "the type"),
        ({"a": {"DataType": "String", "StringValue": 5}}, "no StringValue of text"),
        ({"a": {"DataType": "String", "BinaryValue": b"x"}}, "no StringValue of text"),
        ({"a": {"DataType": "Binary", "StringValue": "x"}}, "no BinaryValue of bytes"),
        ({"a": {"DataType": "Number", "StringValue": "one"}}, "not a number"),
        ({"a": {"DataType": "Number", "StringValue": "1 "}}, "not a number"),
        ({"a": {"DataType": "Number", "StringValue": "1" * 39}}, "not a number of up to 38 digits"),
        ({"a": {"DataType": "Number", "StringValue": "1e127"}}, "not a number"),
        ({"a": {"DataType": "Number.id", "StringValue": "9e-129"}}, "not a number"),
        ({"a": {"DataType": "String.\ud800", "StringValue": "x"}}, "the type"),
        ({"a": {"DataType": "String.\n", "StringValue": "x"}}, "the type"),
    ],
)
def test_what_aws_refuses_is_an_error_and_nothing_is_sent(
    fake: FakeClients, here: Process, given: Any, why: str
) -> None:
    here.declare("q")
    with pytest.raises(PublishError, match="message_attributes") as caught:
        here.publish("", "q", message_attributes=given)
    assert why in str(caught.value)
    assert fake.count("send_message") == 0


@pytest.mark.parametrize(
    "name",
    [
        *("rk", "words", "tail", "headers", "h-region", "hake-priority", "hake-changes", "hake-death-reason"),
        *("exchange", "event_id", "ExtendedPayloadSize", "SQSLargePayloadSize"),
    ],
)
@pytest.mark.parametrize("exchange", ["", "orders"])
def test_a_name_of_ours_is_refused(fake: FakeClients, here: Process, name: str, exchange: str) -> None:
    here.declare("q", Binding("orders", "fanout"))
    with pytest.raises(PublishError, match="this package uses"):
        here.publish(exchange, "q", message_attributes={name: "x"})
    assert not {"publish", "send_message"} & {operation for operation, _ in fake.calls}


def test_every_attribute_that_a_message_may_have_from_us_is_a_name_of_ours() -> None:
    names = {*message_attributes("a.b.c"), *message_attributes("k", {"region": "eu", "é" * 300: 1})}
    for name in names:
        with pytest.raises(PublishError, match="this package uses"):
            checked_attributes({name: "x"}, to_topic=False, may_be_stored=False)


@pytest.mark.parametrize(("to_topic", "may_be_stored", "most"), [(0, 0, 10), (1, 0, 6), (0, 1, 8), (1, 1, 4)])
def test_more_than_there_is_room_for_is_refused(to_topic: bool, may_be_stored: bool, most: int) -> None:
    room = {"to_topic": bool(to_topic), "may_be_stored": bool(may_be_stored)}
    assert len(checked_attributes(many(most), **room)) == most
    with pytest.raises(PublishError, match=f"has {most + 1} names, but .* may have {most}"):
        checked_attributes(many(most + 1), **room)


@pytest.mark.parametrize(
    "value", [{"DataType": "String.colour", "StringValue": "red"}, "\U0001f600"], ids=["label", "emoji"]
)
def test_what_only_sqs_takes_is_refused_for_an_exchange(fake: FakeClients, here: Process, value: Any) -> None:
    here.declare("q", Binding("orders", "fanout"))
    here.publish("", "q", message_attributes={"a": value})
    with pytest.raises(PublishError, match="SNS refuses"):
        here.publish("orders", "k", message_attributes={"a": value})
    assert fake.count("publish") == 0


@pytest.mark.parametrize("text", ["0", "-0.50", "1" * 38, "1" + "0" * 60, "1e126", "1E-128", "+.5", "0" * 60 + "7"])
def test_every_number_of_sqs_is_taken(text: str) -> None:
    value = {"DataType": "Number", "StringValue": text}
    assert checked_attributes({"a": value}, to_topic=True, may_be_stored=False) == {"a": value}


def test_an_exchange_that_is_only_its_queue_takes_as_many_as_the_queue(fake: FakeClients, here: Process) -> None:
    here.declare("q", Binding("q", "direct", "q"))
    for _ in range(2):
        here.publish("q", "q", message_attributes=many(10))
    assert [len(attributes) for attributes in delivered(fake, "q")] == [10, 10]


def test_an_exchange_with_its_own_queue_and_others_takes_as_many_as_an_exchange(
    fake: FakeClients, here: Process, elsewhere: Process
) -> None:
    elsewhere.declare("other", Binding("q", "direct", "q"))
    here.declare("q", Binding("q", "direct", "q"))
    with pytest.raises(PublishError, match="may have 6"):
        here.publish("q", "q", message_attributes=many(10))
    assert delivered(fake, "q") == []
    here.publish("q", "q", message_attributes=many(6))
    assert len(delivered(fake, "other")) == len(delivered(fake, "q")) == 1


# --- what is received, and sent on


@pytest.fixture
def bench() -> Iterator[Bench]:
    with opened() as bench:
        yield bench


def of_raw(bench: Bench, queue: str) -> list[Mapping[str, Any]]:
    return [given_attributes(raw) for raw in bench.raw(queue)]


GIVEN = {"team": TEAM, "data": DATA}


@pytest.mark.parametrize("exchange", ["", "orders"])
def test_a_received_message_has_them_as_the_same_property(bench: Bench, exchange: str) -> None:
    bench.declare("mails", exchange=Exchange("orders", "topic"))
    bench.publish("small", exchange=exchange, message_attributes=GIVEN)
    bench.publish("small", exchange=exchange)
    with_them, without = bench.receive("mails", count=2)
    assert with_them.properties["message_attributes"] == GIVEN
    assert "message_attributes" not in without.properties


def test_a_property_in_the_body_is_not_taken_for_attributes(bench: Bench) -> None:
    bench.declare("mails")
    bench.publish("small")
    [raw] = bench.raw("mails")
    envelope = json.loads(raw["Body"])
    envelope["properties"]["message_attributes"] = {"rk": "forged"}  # as sqs:// leaves it there through an exchange
    bench.send("mails", json.dumps(envelope))
    assert all("message_attributes" not in message.properties for message in bench.receive("mails", count=2))


@pytest.mark.parametrize(
    "item", [{"DataType": "Binary", "BinaryValue": "a"}, {"DataType": 5, "StringValue": "x"}, {"DataType": "String"}]
)
def test_what_is_no_attribute_is_left_out(item: Any) -> None:
    assert given_attributes({"MessageAttributes": {"odd": item, "team": TEAM}}) == {"team": TEAM}


def test_binary_attributes_are_bytes_by_either_way_of_receiving() -> None:
    for value in (b"\x00\xff", "AP8="):
        assert given_attributes({"MessageAttributes": {"data": {"DataType": "Binary", "BinaryValue": value}}}) == {
            "data": DATA
        }


@pytest.mark.parametrize("body", ["small", LARGE], ids=["small", "large"])
def test_a_task_that_waits_as_a_copy_keeps_them(bench: Bench, body: str) -> None:
    bench.declare("mails")
    bench.publish(body, headers={**TASK, "eta": bench.at(1_700)}, message_attributes=GIVEN, tenant="a")
    bench.fake.clock.advance(901)
    receive_nothing(bench, lambda: bench.fake.count("send_message") == 2)
    bench.settle()
    bench.fake.clock.advance(900)
    [message] = bench.receive("mails")
    assert message.payload == {"data": body}
    assert message.properties["message_attributes"] == GIVEN


@pytest.mark.parametrize("body", ["small", LARGE], ids=["small", "large"])
def test_a_dead_letter_keeps_them_and_so_does_what_is_sent_back(bench: Bench, body: str) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.publish(body, headers=TASK, message_attributes=GIVEN)
    bench.receive("mails", on=lambda message: message.reject())
    bench.settle()
    assert of_raw(bench, "mails-dead") == [GIVEN]
    [raw] = bench.raw("mails-dead")
    entry = revived(read("mails", raw, 0.0), is_fifo=False)
    bench.send("mails", entry["MessageBody"], **entry["MessageAttributes"])
    assert bench.receive("mails")[0].properties["message_attributes"] == GIVEN


@pytest.mark.parametrize("body", ["small", LARGE], ids=["small", "large"])
def test_a_dead_letter_to_an_exchange_keeps_them(bench: Bench, body: str) -> None:
    bench.declare("graves", exchange=Exchange("dead", "topic"))
    bench.declare("mails", **{"x-dead-letter-exchange": "dead"})
    bench.publish(body, message_attributes=GIVEN)
    bench.receive("mails", on=lambda message: message.reject())
    eventually(lambda: of_raw(bench, "graves") == [GIVEN])


def test_a_dead_letter_with_more_than_an_exchange_takes_arrives_without_them(bench: Bench) -> None:
    bench.declare("graves", exchange=Exchange("dead", "topic"))
    bench.declare("mails", **{"x-dead-letter-exchange": "dead"})
    bench.publish("small", message_attributes=many(8))
    bench.receive("mails", on=lambda message: message.reject())
    eventually(lambda: of_raw(bench, "graves") == [{}])
