"""Messages that are too large for SNS and SQS: a connection to a fake AWS with a bucket, and what its consumer got."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock

from fakes import FakeClients, connected, eventually
from kombu import Connection, Consumer, Exchange, Queue

from kombu_hake.amqp import Pointer, pointer_attributes
from kombu_hake.receive import payloads

__all__ = ["BUCKET", "LARGE", "OPTIONS", "Bench", "fake_with_bucket", "faults", "opened", "receive_nothing"]

BUCKET = "shop-payloads"
LARGE = "x" * 1_200_000
OPTIONS: dict[str, Any] = {
    "ack_linger_s": 0.0,
    "large_messages": f"s3://{BUCKET}/prod",
    "wait_time_seconds": 1,
}


def fake_with_bucket() -> FakeClients:
    """An AWS that has the bucket."""
    found = FakeClients()
    found.objects.buckets.add(BUCKET)
    return found


class Bench:
    """A connection to a fake AWS, and what its consumer got."""

    def __init__(self, fake: FakeClients, connection: Connection) -> None:
        self.fake, self.connection = fake, connection
        self.channel = connection.default_channel
        self.got: list[Any] = []

    def declare(self, *queues: str, exchange: Exchange | None = None, **arguments: Any) -> None:
        for name in queues:
            key = "#" if exchange is not None and exchange.type == "topic" else name
            bound = {"exchange": exchange, "routing_key": key} if exchange is not None else {}
            Queue(name, queue_arguments=arguments or None, **bound)(self.channel).declare()

    def publish(self, body: str = LARGE, key: str = "mails", exchange: str = "", **options: Any) -> None:
        with self.connection.Producer() as producer:
            producer.publish({"data": body}, exchange=exchange, routing_key=key, **options)

    def receive(self, *queues: str, on: Callable[[Any], Any] | None = None, count: int = 1) -> list[Any]:
        """Consume until so many messages were handed over; each is acknowledged, if *on* is not given."""
        before = len(self.got)

        def on_message(message: Any) -> None:
            self.got.append(message)
            (on or type(message).ack)(message)

        declared = [Queue(name, no_declare=True) for name in queues]
        with Consumer(self.channel, declared, on_message=on_message):
            while len(self.got) < before + count:
                self.connection.drain_events(timeout=10)
        return self.got[before:]

    def settle(self) -> None:
        """Wait until every ack and each deletion is done."""
        transport = self.connection.transport
        assert transport.leases.flush(10.0)
        assert not transport.payloads._deletes.wait(10.0)

    def at(self, seconds: float) -> str:
        """So many seconds from now, as an ETA."""
        now = datetime.fromtimestamp(self.fake.clock(), timezone.utc)
        return (now + timedelta(seconds=seconds)).isoformat()

    def objects(self) -> list[str]:
        return self.fake.objects.keys(BUCKET)

    def raw(self, queue: str) -> list[dict[str, Any]]:
        """The messages of a queue, which stay visible."""
        url = self.fake.sqs("get_queue_url", QueueName=queue)["QueueUrl"]
        answer = self.fake.sqs(
            "receive_message", QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0, WaitTimeSeconds=0,
            MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"],
        )  # fmt: skip
        return list(answer.get("Messages") or [])

    def send(self, queue: str, body: str, **attributes: Any) -> None:
        url = self.fake.sqs("get_queue_url", QueueName=queue)["QueueUrl"]
        self.fake.sqs("send_message", QueueUrl=url, MessageBody=body, MessageAttributes=attributes)

    def send_pointer(self, queue: str, pointer: Pointer) -> None:
        self.send(queue, pointer.text, **pointer_attributes(pointer, {}))


@contextmanager
def opened(fake: FakeClients | None = None) -> Iterator[Bench]:
    """A connection that keeps large messages in the bucket, and pauses nowhere between tries."""
    fake = fake or fake_with_bucket()
    with mock.patch.object(payloads, "backoff_s", return_value=0.0), connected(fake, **OPTIONS) as connection:
        yield Bench(fake, connection)


def faults(bench: Bench) -> list[str]:
    """The reasons of the dead letters of ``mails``."""
    return [raw["MessageAttributes"]["hake-death-reason"]["StringValue"] for raw in bench.raw("mails-dead")]


def receive_nothing(bench: Bench, until: Callable[[], bool]) -> None:
    """Consume from ``mails`` until something holds; nothing may be handed over."""

    def deliver_until() -> bool:
        with suppress(TimeoutError):
            bench.connection.drain_events(timeout=0.01)
        return until()

    with Consumer(bench.channel, [Queue("mails", no_declare=True)], on_message=bench.got.append):
        eventually(deliver_until)
    assert bench.got == []
