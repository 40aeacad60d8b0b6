"""Large messages with boto3 and the S3 of moto, alone and together with AWS's extended client for Python."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue
from support import extended_client
from support.emulators import Emulator
from support.proxy import Proxy
from support.proxy_rules import Rule

from kombu_hake import admin
from kombu_hake.amqp import lifecycle_rules, parse_store
from kombu_hake.aws.s3 import PART_BYTES
from kombu_hake.exceptions import BrokerUnavailable, MalformedMessage, PayloadMissing, PublishError

MIB = 1024 * 1024


@pytest.fixture
def leg() -> str:
    """Only S3's part of it matters, which ministack has too, at a lower fidelity."""
    return "moto"


class Shop:
    """A bucket, and a connection that uses it."""

    def __init__(self, aws: Emulator, bucket: str, connection: Connection) -> None:
        self.aws, self.bucket, self.connection = aws, bucket, connection
        self.s3, self.sqs = aws.client("s3"), aws.client("sqs")
        self.channel = connection.default_channel

    def declare(self, name: str, exchange: Exchange | None = None) -> str:
        Queue(name, exchange=exchange, routing_key="#")(self.channel).declare()
        return str(self.sqs.get_queue_url(QueueName=f"{self.aws.namespace}__{name}")["QueueUrl"])

    def publish(self, body: Any, key: str, exchange: str = "", **options: Any) -> None:
        Producer(self.channel).publish(body, exchange=exchange, routing_key=key, **options)

    def receive(self, name: str, count: int = 1) -> list[Message]:
        found: list[Message] = []
        with Consumer(self.channel, [Queue(name, no_declare=True)], on_message=found.append):
            while len(found) < count:
                self.connection.drain_events(timeout=30)
            for message in found:
                message.ack()
        return found

    def keys(self) -> list[str]:
        """What is in the bucket when all acks are done."""
        assert self.connection.transport.leases.flush(10.0)
        assert not self.connection.transport.payloads._deletes.wait(10.0)
        found = self.s3.list_objects_v2(Bucket=self.bucket)
        return [item["Key"] for item in found.get("Contents", ())]


@pytest.fixture
def bucket(aws: Emulator) -> str:
    name = f"large-{uuid4().hex[:8]}"
    aws.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def shop(aws: Emulator, bucket: str) -> Iterator[Shop]:
    with Connection(aws.url(wait_time_seconds=1, large_messages=f"s3://{bucket}/prod")) as connection:
        yield Shop(aws, bucket, connection)


@pytest.mark.parametrize("size", [5 * MIB, PART_BYTES * 2 + 7], ids=["one part", "three parts"])
def test_a_large_message_goes_through_a_queue_and_leaves_nothing_behind(shop: Shop, size: int) -> None:
    shop.declare("mails")
    shop.publish({"data": "x" * size}, "mails")
    assert len(shop.keys()) == 1
    [message] = shop.receive("mails")
    assert len(message.payload["data"]) == size
    assert shop.keys() == []


def test_bytes_come_back_as_they_were(shop: Shop) -> None:
    shop.declare("mails")
    data = bytes(range(256)) * 20_000
    shop.publish(data, "mails", content_type="application/octet-stream", content_encoding="binary")
    [message] = shop.receive("mails")
    assert message.payload == data


def test_a_large_event_goes_through_a_topic_to_each_queue(shop: Shop) -> None:
    orders = Exchange("orders", "topic")
    for name in ("mails", "stock"):
        shop.declare(name, orders)
    shop.publish({"data": "x" * 5 * MIB}, "placed", exchange="orders")
    for name in ("mails", "stock"):
        [message] = shop.receive(name)
        assert len(message.payload["data"]) == 5 * MIB
        assert message.delivery_info["routing_key"] == "placed"
    assert [key.split("/")[1] for key in shop.keys()] == ["t"]  # noqa: SIM118


def test_errors_of_s3_are_ours(shop: Shop) -> None:
    clients = shop.connection.transport.clients
    with pytest.raises(PayloadMissing, match=f"s3:GetObject on s3://{shop.bucket}/prod/none"):
        clients.s3("download", Bucket=shop.bucket, Key="prod/none", MaxBytes=10)
    with pytest.raises(PublishError, match="NoSuchBucket"):
        clients.s3("upload", Bucket="no-such-bucket-here", Key="x", Pieces=["x"])
    shop.s3.put_object(Bucket=shop.bucket, Key="prod/long", Body=b"x" * 100)
    with pytest.raises(MalformedMessage, match="100 bytes"):
        clients.s3("download", Bucket=shop.bucket, Key="prod/long", MaxBytes=99)
    assert clients.s3("download", Bucket=shop.bucket, Key="prod/long", MaxBytes=100)["Data"] == b"x" * 100
    clients.s3("delete_object", Bucket=shop.bucket, Key="prod/none")


def test_an_object_that_is_replaced_while_it_is_read_is_read_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = shop.connection.transport.clients
    old, new = b"a" * (PART_BYTES + 5), b"b" * (PART_BYTES + 6)
    shop.s3.put_object(Bucket=shop.bucket, Key="prod/x", Body=old)
    client = clients._client("s3")._client
    get = client.get_object

    def replaced_after_the_first(**params: Any) -> Any:
        answer = get(**params)
        if "IfMatch" not in params:
            shop.s3.put_object(Bucket=shop.bucket, Key="prod/x", Body=new)
        return answer

    monkeypatch.setattr(client, "get_object", replaced_after_the_first)
    with pytest.raises(BrokerUnavailable):
        clients.s3("download", Bucket=shop.bucket, Key="prod/x", MaxBytes=len(new))
    monkeypatch.undo()
    assert clients.s3("download", Bucket=shop.bucket, Key="prod/x", MaxBytes=len(new))["Data"] == new


@pytest.mark.parametrize("odd", ["html_200", "text_200", "html_404", "html_403", "html_302", "empty_302"])
def test_an_answer_that_is_not_from_s3_is_an_outage(aws: Emulator, bucket: str, odd: str) -> None:
    """A portal answers in its place: nothing was written, its page is no payload, and nothing is missing or denied."""
    aws.client("s3").put_object(Bucket=bucket, Key="prod/x", Body=b"payload")
    with Proxy(aws.endpoint_url, rules=[Rule("odd", "*Object", odd=odd)]) as proxy:
        seen = replace(aws, port=int(proxy.endpoint_url.rpartition(":")[2]))
        url = seen.url(wait_time_seconds=1, large_messages=f"s3://{bucket}/prod", max_attempts=1)
        with Connection(url) as connection:
            shop = Shop(aws, bucket, connection)
            shop.declare("mails")
            with pytest.raises(BrokerUnavailable):
                shop.publish("x" * 2 * MIB, "mails")
            clients = connection.transport.clients
            with pytest.raises(BrokerUnavailable):
                clients.s3("download", Bucket=bucket, Key="prod/x", MaxBytes=7)
            proxy.rules = ()
            assert clients.s3("download", Bucket=bucket, Key="prod/x", MaxBytes=7)["Data"] == b"payload"


class TestExtendedClient:
    def test_reads_and_deletes_ours_in_a_queue(self, shop: Shop) -> None:
        url = shop.declare("mails")
        shop.publish({"data": "x" * 2 * MIB}, "mails")
        body = json.loads(extended_client.run(shop.aws, "delete", url, shop.bucket))
        assert json.loads(body["body"]) == {"data": "x" * 2 * MIB}
        assert shop.keys() == []

    def test_reads_ours_behind_a_topic(self, shop: Shop) -> None:
        url = shop.declare("mails", Exchange("orders", "topic"))
        shop.publish({"data": "x" * 300_000}, "placed", exchange="orders")
        body = json.loads(extended_client.run(shop.aws, "receive", url, shop.bucket))
        assert json.loads(body["body"]) == {"data": "x" * 300_000}

    @pytest.mark.parametrize("prefix", ["prod", ""])
    def test_is_read_below_the_prefix_and_its_objects_stay(self, aws: Emulator, bucket: str, prefix: str) -> None:
        store = f"s3://{bucket}/{prefix}"
        with Connection(aws.url(wait_time_seconds=1, large_messages=store)) as connection:
            shop = Shop(aws, bucket, connection)
            url = shop.declare("mails")
            extended_client.run(aws, "send", url, bucket, "200000", f"{prefix}/theirs" if prefix else "")
            [message] = shop.receive("mails")
            assert message.payload == "\u00e4" * 200_000
            assert "ExtendedPayloadSize" not in message.properties["attributes"]
            assert len(shop.keys()) == 1


# --- what a check asks


def test_what_a_check_sees_of_a_bucket(shop: Shop) -> None:
    s3 = shop.connection.transport.clients.s3
    assert s3("find_bucket", Bucket="large-there-is-none", Prefix="") == {"Exists": False}
    found = s3("find_bucket", Bucket=shop.bucket, Prefix="prod/")
    assert (found["Exists"], found["Key"]) == (True, None)
    with pytest.raises(PayloadMissing):
        s3("read_byte", Bucket=shop.bucket, Key="prod/hake-check")
    shop.s3.put_object(Bucket=shop.bucket, Key="prod/q/x", Body=b"payload")
    assert s3("find_bucket", Bucket=shop.bucket, Prefix="prod/")["Key"] == "prod/q/x"
    assert s3("read_byte", Bucket=shop.bucket, Key="prod/q/x") == {"Data": b"p"}
    assert s3("lifecycle_rules", Bucket=shop.bucket) == {"Rules": []}
    rules = lifecycle_rules(parse_store(f"s3://{shop.bucket}/prod"))
    shop.s3.put_bucket_lifecycle_configuration(Bucket=shop.bucket, LifecycleConfiguration={"Rules": rules})
    assert [rule["Filter"] for rule in s3("lifecycle_rules", Bucket=shop.bucket)["Rules"]] == [
        {"Prefix": "prod/q/"}, {"Prefix": "prod/t/"}
    ]  # fmt: skip


def test_a_check_of_a_bucket(aws: Emulator, bucket: str) -> None:
    app = Celery("shop", broker=aws.url(large_messages=f"s3://{bucket}/prod"), set_as_current=False)
    app.conf.task_queues = [Queue("celery")]
    with admin.connect(app) as broker:
        broker.apply()
        [finding] = [one for one in broker.check().findings if one.where == f"s3://{bucket}"]
        assert finding.code == "lifecycle-missing"
        rules = json.loads(finding.remedy[finding.remedy.index("[") :])
        aws.client("s3").put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": rules}
        )  # fmt: skip
        assert [one for one in broker.check().findings if one.where == f"s3://{bucket}"] == []


def test_an_answer_that_ignores_the_range_is_no_part(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a cache in between: its first bytes are not those of the second part."""
    clients = shop.connection.transport.clients
    text = b"a" * PART_BYTES + b"b"
    shop.s3.put_object(Bucket=shop.bucket, Key="prod/x", Body=text)
    client = clients._client("s3")._client
    get = client.get_object
    monkeypatch.setattr(client, "get_object", lambda **params: get(Bucket=params["Bucket"], Key=params["Key"]))
    with pytest.raises(BrokerUnavailable, match="another part"):
        clients.s3("download", Bucket=shop.bucket, Key="prod/x", MaxBytes=len(text))


# --- what an upload may take


class _Clock:
    """A clock that is read once for each 256 KiB of an upload, and goes on by *step_s* each time."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_an_upload_may_take_as_long_as_a_slow_line_needs(shop: Shop) -> None:
    shop.declare("mails")
    client = shop.connection.transport.clients._client("s3")
    client._clock = _Clock(5.0)
    shop.publish("x" * (PART_BYTES * 2), "mails")
    assert client._clock.now_s > 100
    [message] = shop.receive("mails")
    assert len(message.payload) == PART_BYTES * 2


@pytest.mark.parametrize("size", [2 * MIB, PART_BYTES * 2], ids=["one part", "two parts"])
def test_an_upload_that_hardly_advances_fails_and_leaves_nothing(shop: Shop, size: int) -> None:
    shop.declare("mails")
    clients = shop.connection.transport.clients
    clients._client("s3")._clock = _Clock(30.0)
    too_slow = rf"The upload of s3://{shop.bucket}/prod/q/\w+ is too slow: [\d,]+ bytes in"
    with pytest.raises(BrokerUnavailable, match=too_slow):
        shop.publish("x" * size, "mails")
    assert shop.keys() == []
    assert "Uploads" not in shop.s3.list_multipart_uploads(Bucket=shop.bucket)


@pytest.mark.parametrize("size", [2 * MIB, PART_BYTES * 2], ids=["one part", "two parts"])
def test_an_upload_that_gets_no_answer_fails_and_leaves_nothing(aws: Emulator, bucket: str, size: int) -> None:
    with Proxy(aws.endpoint_url, rules=[Rule("black_hole", "PutObject")]) as proxy:  # parts are put, too
        seen = replace(aws, port=int(proxy.endpoint_url.rpartition(":")[2]))
        limits = {"connect_timeout": 1, "read_timeout": 1, "max_attempts": 1}
        with Connection(seen.url(large_messages=f"s3://{bucket}/prod", **limits)) as connection:
            shop = Shop(aws, bucket, connection)
            shop.declare("mails")
            with pytest.raises(BrokerUnavailable, match="Read timeout"):
                shop.publish("x" * size, "mails")
            assert shop.keys() == []
            assert "Uploads" not in shop.s3.list_multipart_uploads(Bucket=bucket)
