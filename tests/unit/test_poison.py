"""Messages that nobody can handle: kept where they can be found, with all that they said, and never in a loop."""

import json
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClients, eventually
from kombu import Connection, Queue
from kombu.exceptions import ContentDisallowed, DecodeError

from kombu_hake import transport as transport_module
from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.receive import settling as settling_module
from kombu_hake.receive.delivery import LeaseState
from kombu_hake.worker.rejections import reject_undecodable

ASKED = {"x-dead-letter-queue": True}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settle path tries again at once."""
    monkeypatch.setattr(settling_module, "backoff_s", lambda *args, **kwargs: 0.001)


def declare(connection: Connection, name: str = "q", **arguments: Any) -> Any:
    channel = connection.default_channel
    Queue(name, queue_arguments=arguments)(channel).declare()
    return channel


def send(fake: FakeClients, body: str, queue: str = "q", **options: Any) -> None:
    fake.sqs("send_message", QueueUrl=fake.queues.queue(queue).url, MessageBody=body, **options)


def text(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def get(channel: Any, queue: str = "q") -> Any:
    message = channel.basic_get(queue)
    assert message is not None
    return message


def gone(fake: FakeClients, queue: str = "q") -> None:
    eventually(lambda: not fake.queues.queue(queue).messages)


@pytest.mark.parametrize(
    "body", ['{"order": 7}', "just text", '{"properties": {}, "body"', "[" * 5000, '{"body": 7, "properties": {}}']
)
def test_what_is_rejected_is_kept_as_it_came(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    channel = declare(connection, **ASKED)
    attributes = {"tenant": text("acme"), "blob": {"DataType": "Binary", "BinaryValue": b"\0"}}
    send(fake, body, MessageAttributes=attributes)
    get(channel).reject()
    gone(fake)
    [dead] = fake.queues.queue("q-dead").messages
    assert dead.body == body
    assert {name: dead.attributes[name] for name in attributes} == attributes
    assert dead.attributes["hake-death-reason"]["StringValue"] == "rejected"
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith("HAKE411 A rejected message of queue q (")
    assert line.endswith("was moved to https://sqs.eu-west-1.amazonaws.com/111122223333/q-dead.")


def test_ten_attributes_of_its_own_leave_no_room_for_ours(fake: FakeClients, connection: Connection) -> None:
    channel = declare(connection, **ASKED)
    attributes = {f"a{number}": text(str(number)) for number in range(10)}
    send(fake, "x", MessageAttributes=attributes)
    get(channel).reject()
    gone(fake)
    [dead] = fake.queues.queue("q-dead").messages
    assert dead.attributes == attributes


def test_a_dead_letter_of_a_fifo_queue_stays_in_its_group(fake: FakeClients, connection: Connection) -> None:
    channel = declare(connection, "q.fifo", **ASKED)
    send(fake, "x", "q.fifo", MessageGroupId="customer-7", MessageDeduplicationId="1")
    get(channel, "q.fifo").reject()
    gone(fake, "q.fifo")
    [dead] = fake.queues.queue("q-dead.fifo").messages
    assert dead.group == "customer-7"


@pytest.mark.parametrize("arguments", [ASKED, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q-dead"}])
@pytest.mark.parametrize(("tenant", "group"), [("Acme Corp", "hake:Acme%20Corp"), (None, "theirs"), (None, None)])
def test_a_dead_letter_keeps_its_tenant(
    fake: FakeClients, connection: Connection, arguments: Any, tenant: str | None, group: str | None
) -> None:
    channel = declare(connection, **arguments)
    if "x-dead-letter-exchange" in arguments:
        channel.queue_declare("q-dead")
    more = {} if group is None else {"MessageGroupId": group}
    if tenant is None:  # of a program that knows no tenants
        send(fake, "x", **more)
    else:
        message = channel.prepare_message("x", properties={"tenant": tenant})
        channel.basic_publish(message, "", "q")
    get(channel).reject()
    gone(fake)
    [dead] = fake.queues.queue("q-dead").messages
    assert dead.group == group


def test_where_there_is_no_dead_letter_queue_a_warning_says_what_was_deleted(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    channel = declare(connection)
    send(fake, "x")
    message = get(channel)
    message.reject()
    gone(fake)
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert message.properties["message_id"] in record.getMessage()
    assert "was deleted: the queue has no dead-letter queue" in record.getMessage()
    fields = {name: record.__dict__.get(name) for name in ("hake_id", "queue", "message_id")}
    assert fields == {"hake_id": "HAKE412", "queue": "q", "message_id": message.properties["message_id"]}


def test_what_cannot_be_sent_stays_and_does_not_come_at_once(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    channel = declare(connection, **ASKED)
    send(fake, "x")
    fake.deny("sqs:SendMessage")
    get(channel).reject()
    [stored] = fake.queues.queue("q").messages
    assert stored.visible_at >= fake.clock() + 55  # the visibility timeout, not a loop
    assert "could not be dead-lettered; it stays there and is redelivered" in caplog.text


@pytest.mark.parametrize("count", [1, 7])
def test_a_dead_letter_that_aws_could_not_take_is_sent_again_while_the_message_is_held(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture, quick: None, count: int
) -> None:
    channel = declare(connection, **ASKED)
    send(fake, "x")
    fake.fail("send_message", *[BrokerUnavailable("away", is_throttle=True)] * count)
    get(channel).reject()
    gone(fake)
    assert [dead.body for dead in fake.queues.queue("q-dead").messages] == ["x"]
    assert "was moved to" in caplog.text
    assert "could not be dead-lettered" not in caplog.text


def test_a_dead_letter_is_not_sent_once_another_consumer_may_have_the_message(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    channel = declare(connection, **ASKED)
    send(fake, "x")
    away = BrokerUnavailable("away")
    fake.fail("send_message", *[away] * 1_000)
    settling = connection.connection.leases._settling

    def lapse() -> None:
        settling._clock = lambda: time.monotonic() + 3_600

    fake.before("send_message", lambda: None, lambda: None, lapse)
    get(channel).reject()
    eventually(lambda: "could not be dead-lettered; it stays there and is redelivered" in caplog.text)
    assert fake.count("send_message") == 4  # the one that sent it to its queue, and three tries
    fake.heal()
    assert [message.body for message in fake.queues.queue("q").messages] == ["x"]
    assert fake.queues.queue("q-dead").messages == []
    assert fake.count("delete_message_batch") == 0


def test_a_dead_letter_that_is_tried_again_is_given_up_when_the_connection_closes(
    fake: FakeClients,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_module, "_STOP_TIMEOUT_S", 0.05)
    channel = declare(connection, **ASKED)
    send(fake, "x")
    fake.fail("send_message", *[BrokerUnavailable("away")] * 100_000)
    get(channel).reject()
    connection.close()
    eventually(lambda: "could not be dead-lettered; it stays there and is redelivered" in caplog.text)
    assert [message.body for message in fake.queues.queue("q").messages] == ["x"]


def test_a_dead_letter_queue_that_somebody_deleted_is_made_again(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    channel = declare(connection, **ASKED)
    before = fake.queues.queue("q-dead").attributes
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q-dead").url)
    fake.clock.advance(61)  # until then AWS refuses the name
    send(fake, "x")
    get(channel).reject()
    gone(fake)
    made = fake.queues.queue("q-dead")
    assert [dead.body for dead in made.messages] == ["x"]
    assert made.attributes == before
    assert "Dead-letter queue q-dead of queue q had been deleted" in caplog.text


def test_while_aws_refuses_the_name_of_a_deleted_dead_letter_queue_the_message_waits(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    channel = declare(connection, **ASKED)
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q-dead").url)
    send(fake, "x")
    fake.calls.clear()
    get(channel).reject()
    assert fake.count("create_queue") == 1  # the consuming thread has other things to do
    assert "could not be dead-lettered; it stays there and is redelivered" in caplog.text
    [stored] = fake.queues.queue("q").messages
    assert stored.visible_at >= fake.clock() + 55


def test_a_dead_letter_queue_that_an_operator_chose_is_not_made(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    channel = declare(connection, **ASKED)
    chosen = "arn:aws:sqs:eu-west-1:111122223333:theirs"
    policy = json.dumps({"deadLetterTargetArn": chosen, "maxReceiveCount": 3})
    fake.queues.queue("q").attributes["RedrivePolicy"] = policy
    send(fake, "x")
    get(channel).reject()
    assert "theirs" not in fake.queues.by_name
    assert "could not be dead-lettered; it stays there and is redelivered" in caplog.text


def test_what_is_lost_is_no_dead_letter_because_it_comes_again(fake: FakeClients, connection: Connection) -> None:
    channel = declare(connection, **ASKED)
    send(fake, "x")
    message = get(channel)
    message.lease.state = LeaseState.LAPSED
    assert message.is_lost
    message.reject()
    assert fake.queues.queue("q-dead").messages == []
    assert len(fake.queues.queue("q").messages) == 1


@pytest.mark.parametrize(
    ("content_type", "error"),
    [("application/json", DecodeError), ("application/x-python-serialize", ContentDisallowed)],
)
def test_a_body_that_a_worker_cannot_decode_is_a_dead_letter_though_celery_acknowledges_it(
    fake: FakeClients, connection: Connection, content_type: str, error: type[Exception]
) -> None:
    channel = declare(connection, **ASKED)
    properties = {"delivery_tag": "1"}
    envelope = {
        "body": "{not json", "content-type": content_type, "content-encoding": "utf-8", "properties": properties,
    }  # fmt: skip
    send(fake, json.dumps(envelope))
    message = get(channel)
    message.accept = {"application/json"}
    consumer = SimpleNamespace(on_decode_error=lambda message, exc: message.ack())
    reject_undecodable(consumer)
    with pytest.raises(error) as caught:
        message.decode()
    consumer.on_decode_error(message, caught.value)
    gone(fake)
    assert [dead.body for dead in fake.queues.queue("q-dead").messages] == [json.dumps(envelope)]


def test_outside_of_a_worker_an_acknowledged_message_is_deleted(fake: FakeClients, connection: Connection) -> None:
    channel = declare(connection, **ASKED)
    send(fake, "just text")
    message = get(channel)
    message.content_type = "application/json"
    with pytest.raises(DecodeError):
        message.decode()
    message.ack()
    gone(fake)
    assert fake.queues.queue("q-dead").messages == []


def test_a_message_whose_lease_runs_out_before_it_is_handed_over_is_dropped(
    fake: FakeClients, connection: Connection
) -> None:
    channel = declare(connection)
    received: list[Any] = []
    channel.basic_qos(0, 5)
    channel.basic_consume("q", callback=received.append)
    send(fake, "first")
    eventually(lambda: len(connection.connection.inbox) == 1)
    [delivery] = connection.connection.inbox._items
    delivery.lease.state = LeaseState.LAPSED
    send(fake, "second")
    connection.drain_events(timeout=10)
    assert [message.body for message in received] == [b"second"]
    received[0].ack()
