"""What is published is what arrives: bodies, headers, properties, compression, sizes; alone and in batches."""

from typing import Any, ClassVar

import pytest
from contract.broker import Broker, declare, get, publish
from contract.features import Can, needs
from kombu import Connection, Exchange, Message, Producer, Queue

import kombu_hake
from kombu_hake.amqp.limits import SNS_MAX_MESSAGE_BYTES, SQS_MAX_MESSAGE_BYTES
from kombu_hake.exceptions import MessageTooLarge

BYTES = bytes(range(256)) * 3
WAYS = {"straight": ("", "email"), "through the exchange": ("orders", "any.key")}


@pytest.fixture
def connection(broker: Broker) -> Connection:
    """With the queue ``email`` bound to the fanout exchange ``orders``."""
    connection = broker.connect()
    declare(connection, Queue("email", Exchange("orders", "fanout")))
    return connection


@pytest.fixture(params=WAYS, ids=[way.replace(" ", "-") for way in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Exchange and routing key: to the queue itself, and through a topic."""
    return WAYS[request.param]


def received(connection: Connection) -> Message:
    message = get(connection, "email")
    assert message is not None
    message.ack()
    return message


class TestBodies:
    JSON: tuple[object, ...] = (
        "text", "", "été 日本語 😀", {"a": [1, 2.5, None, True], "ü": {}}, [], 7, None, "<xml>&amp;</xml>",
        "\x00\x01\x7f\x85\ufffe\uffff", '{"looks": "like json"}', "aGVsbG8=", "x" * 60_000,
    )  # fmt: skip

    def test_json(self, connection: Connection, way: tuple[str, str]) -> None:
        for body in self.JSON:
            publish(connection, body, *way, serializer="json")
            message = received(connection)
            assert message.payload == body
            assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")

    def test_bytes_survive_byte_for_byte(self, connection: Connection, way: tuple[str, str]) -> None:
        for body in (BYTES, b"", b"ascii", "üñ".encode(), "ü".encode("latin-1"), b"\xff" * 1000):
            publish(connection, body, *way, content_type="application/data", content_encoding="binary")
            message = received(connection)
            assert message.payload == body
            assert (message.content_type, message.content_encoding) == ("application/data", "binary")

    def test_text_in_another_encoding(self, connection: Connection, way: tuple[str, str]) -> None:
        publish(connection, "été".encode("latin-1"), *way, content_type="text/csv", content_encoding="latin-1")
        message = received(connection)
        assert message.payload == "été"
        assert (message.content_type, message.content_encoding) == ("text/csv", "latin-1")

    def test_pickle(self, connection: Connection, way: tuple[str, str]) -> None:
        publish(connection, {"set": {1, 2}, "bytes": BYTES}, *way, serializer="pickle")
        message = received(connection)
        message.accept = {"application/x-python-serialize"}
        assert message.payload == {"set": {1, 2}, "bytes": BYTES}

    @pytest.mark.parametrize(
        ("compression", "mime"), [("zlib", "application/x-gzip"), ("bzip2", "application/x-bz2")], ids=["zlib", "bzip2"]
    )
    def test_compression(self, connection: Connection, way: tuple[str, str], compression: str, mime: str) -> None:
        body = {"text": "lorem ipsum " * 1000}
        publish(connection, body, *way, compression=compression)
        message = received(connection)
        assert message.payload == body
        assert message.headers["compression"] == mime

    def test_serializer_without_blanks(self, connection: Connection, way: tuple[str, str]) -> None:
        publish(connection, {"a": [1, 2]}, *way, serializer="hake-json")
        message = received(connection)
        assert message.body == b'{"a":[1,2]}'
        message.accept = {"application/x-hake-json"}
        assert message.payload == {"a": [1, 2]}


class TestHeadersAndProperties:
    HEADERS: ClassVar[dict[str, Any]] = {
        "text": "été", "number": 7, "float": 1.5, "none": None, "flag": True, "list": [1, "2", None],
        "nested": {"a": {"b": [1]}}, "x-custom": "kept", "with space": 1, "": "empty name", "long": "y" * 5000,
    }  # fmt: skip

    def test_headers(self, connection: Connection, way: tuple[str, str]) -> None:
        publish(connection, 1, *way, headers=self.HEADERS)
        headers = received(connection).headers
        assert {name: value for name, value in headers.items() if name in self.HEADERS} == self.HEADERS

    def test_no_header_is_added(self, connection: Connection, way: tuple[str, str]) -> None:
        publish(connection, 1, *way)
        assert {name for name in received(connection).headers if name != "compression"} == set()

    def test_many_headers_do_not_lose_the_message(self, connection: Connection, way: tuple[str, str]) -> None:
        headers = {f"h{i}": f"value {i}" for i in range(50)}
        publish(connection, 1, *way, headers=headers)
        assert received(connection).headers == headers

    def test_properties(self, connection: Connection, way: tuple[str, str]) -> None:
        properties = {
            "correlation_id": "c-1", "reply_to": "answers", "message_id": "m-1", "app_id": "shop", "type": "order",
            "user_id": "guest", "timestamp": 1_700_000_000,
        }  # fmt: skip
        publish(connection, 1, *way, delivery_mode=2, priority=5, **properties)
        found = received(connection).properties
        assert {name: found.get(name) for name in properties} == properties
        assert found["delivery_mode"] == 2
        assert found["priority"] == 5

    def test_delivery_info_has_exchange_and_key(self, connection: Connection, way: tuple[str, str]) -> None:
        publish(connection, 1, *way)
        info = received(connection).delivery_info
        assert (info["exchange"], info["routing_key"]) == way

    def test_what_is_published_is_not_changed(self, connection: Connection, way: tuple[str, str]) -> None:
        """The caller may publish the same objects again."""
        body, headers = {"a": 1}, {"h": [1]}
        for _ in range(2):
            publish(connection, body, *way, headers=headers)
            assert received(connection).payload == {"a": 1}
        assert (body, headers) == ({"a": 1}, {"h": [1]})


@needs(Can.SIZE_LIMIT)
class TestSize:
    LIMITS = (("", "email", SQS_MAX_MESSAGE_BYTES), ("orders", "", SNS_MAX_MESSAGE_BYTES))

    @pytest.mark.parametrize(("exchange", "key", "limit"), LIMITS, ids=["sqs", "sns"])
    def test_too_large_raises_before_the_call(
        self, broker: Broker, connection: Connection, exchange: str, key: str, limit: int
    ) -> None:
        publish(connection, "first", exchange, key)
        with pytest.raises(MessageTooLarge) as caught:
            publish(connection, "x" * limit, exchange, key)
        assert caught.value.limit_bytes == limit
        assert limit < caught.value.size_bytes < limit + 2000
        assert f"{limit:,}" in str(caught.value)
        assert f"{caught.value.size_bytes:,}" in str(caught.value)
        assert broker.bodies("email") == {"email": ["first"]}

    @pytest.mark.parametrize(("exchange", "key", "limit"), LIMITS[1:], ids=["sns"])
    def test_just_below_the_limit_arrives(self, connection: Connection, exchange: str, key: str, limit: int) -> None:
        body = "x" * (limit - 1500)
        publish(connection, body, exchange, key)
        assert received(connection).payload == body

    @pytest.mark.parametrize(("exchange", "key", "limit"), LIMITS, ids=["sqs", "sns"])
    def test_binary_bodies_count_as_they_are_sent(
        self, connection: Connection, exchange: str, key: str, limit: int
    ) -> None:
        """A third larger, as text."""
        body = b"\xff" * (limit * 4 // 5)
        with pytest.raises(MessageTooLarge) as caught:
            publish(connection, body, exchange, key, content_type="application/data", content_encoding="binary")
        assert caught.value.size_bytes > limit


class TestRaisedTopics:
    """Topics that take more than 256 KiB. Emulators do not have them; the fake takes and refuses what AWS documents."""

    GROUPS = ("email", "billing", "stock")
    RAISED = Exchange("invoices", "fanout", arguments={"x-max-message-size": SQS_MAX_MESSAGE_BYTES})

    @needs(Can.RAISED_TOPICS)
    def test_one_mebibyte_reaches_three_queues(self, broker: Broker) -> None:
        connection = broker.connect()
        for group in self.GROUPS:
            declare(connection, Queue(group, self.RAISED))
        body = "x" * (SQS_MAX_MESSAGE_BYTES - 1_500)
        publish(connection, body, "invoices")
        assert broker.bodies(*self.GROUPS) == {group: [body] for group in self.GROUPS}
        with pytest.raises(MessageTooLarge) as caught:
            publish(connection, "x" * SQS_MAX_MESSAGE_BYTES, "invoices")
        assert caught.value.limit_bytes == SQS_MAX_MESSAGE_BYTES

    @needs(Can.RAISED_TOPICS)
    def test_a_publisher_that_knows_only_the_name_learns_the_limit(self, broker: Broker) -> None:
        declare(broker.connect(), Queue("email", self.RAISED))
        publish(broker.stranger(), "x" * 300_000, "invoices")
        assert broker.bodies("email") == {"email": ["x" * 300_000]}

    @needs(Can.RAISED_TOPICS, Can.BATCHES)
    def test_batches_are_cut_to_the_limit_of_the_topic(self, broker: Broker) -> None:
        connection = broker.connect()
        declare(connection, Queue("email", self.RAISED))
        with kombu_hake.batch():
            for i in range(5):
                publish(connection, [i, "x" * 300_000], "invoices")
        found = broker.drain("email")["email"]
        assert sorted(message.payload[0] for message in found) == list(range(5))

    @needs(Can.SIZE_LIMIT)
    def test_without_it_the_error_names_three_remedies(self, connection: Connection) -> None:
        with pytest.raises(MessageTooLarge) as caught:
            publish(connection, "x" * 300_000, "orders")
        assert all(name in str(caught.value) for name in ("max_size", "compress_above", "large_messages"))


class TestCompressionOption:
    def test_large_bodies_are_read_by_any_consumer(self, broker: Broker) -> None:
        connection = broker.connect(compress_above=65_536)
        declare(connection, Queue("email", Exchange("orders", "fanout")))
        bodies: list[object] = ["small", "x" * 300_000, {"rows": ["été"] * 50_000}]
        for body in bodies:
            publish(connection, body, "orders")
        found = [message.payload for message in broker.drain("email")["email"]]
        assert sorted(found, key=str) == sorted(bodies, key=str)

    def test_in_batches_too(self, broker: Broker) -> None:
        connection = broker.connect(compress_above=65_536)
        declare(connection, Queue("email", Exchange("orders", "fanout")))
        with kombu_hake.batch():
            for i in range(12):
                publish(connection, [i, "x" * 300_000], "orders")
        found = broker.drain("email")["email"]
        assert sorted(message.payload[0] for message in found) == list(range(12))


of_kombu_5_7 = pytest.mark.skipif(not hasattr(Producer, "batch"), reason="kombu has Producer.batch since 5.7")


class TestBatches:
    """Both kinds of batch; a leg without either publishes at once, which looks the same from outside."""

    @of_kombu_5_7
    def test_producer_batch_delivers_all(self, broker: Broker, connection: Connection) -> None:
        producer = Producer(connection)
        with producer.batch():
            for i in range(25):
                producer.publish(i, exchange="", routing_key="email")
                producer.publish(100 + i, exchange="orders")
        assert broker.bodies("email") == {"email": sorted([*range(25), *range(100, 125)])}

    @of_kombu_5_7
    def test_small_producer_batches(self, broker: Broker, connection: Connection) -> None:
        producer = Producer(connection)
        with producer.batch(max_size=3) as batch:
            for i in range(8):
                producer.publish(i, exchange="orders")
            batch.flush()
            assert broker.bodies("email") == {"email": list(range(8))}
            producer.publish(8, exchange="orders")
        assert broker.bodies("email") == {"email": [8]}

    @needs(Can.BATCHES)
    @of_kombu_5_7
    def test_producer_batch_discards_on_an_exception(self, broker: Broker, connection: Connection) -> None:
        producer = Producer(connection)

        def fails() -> None:
            with producer.batch():
                producer.publish(1, exchange="orders")
                raise LookupError

        with pytest.raises(LookupError):
            fails()
        producer.publish(2, exchange="orders")
        assert broker.bodies("email") == {"email": [2]}

    def test_batch_of_a_thread_delivers_all(self, broker: Broker, connection: Connection) -> None:
        with kombu_hake.batch():
            for i in range(25):
                publish(connection, i, "", "email")
                publish(broker.connect(), 100 + i, "orders")
        assert broker.bodies("email") == {"email": sorted([*range(25), *range(100, 125)])}

    def test_batches_nest(self, broker: Broker, connection: Connection) -> None:
        with kombu_hake.batch():
            publish(connection, 1, "orders")
            with kombu_hake.batch():
                publish(connection, 2, "orders")
            publish(connection, 3, "orders")
        assert broker.bodies("email") == {"email": [1, 2, 3]}

    def test_exception_in_the_block_sends_what_was_published(self, broker: Broker, connection: Connection) -> None:
        def fails() -> None:
            with kombu_hake.batch():
                publish(connection, 1, "orders")
                raise LookupError

        with pytest.raises(LookupError):
            fails()
        assert broker.bodies("email") == {"email": [1]}

    @needs(Can.BATCHES, Can.EXACT_COUNTS)
    def test_nothing_is_sent_before_it_is_flushed(self, broker: Broker, connection: Connection) -> None:
        with kombu_hake.batch() as batch:
            publish(connection, 1, "orders")
            assert connection.default_channel.queue_declare("email", passive=True).message_count == 0
            batch.flush()
            assert connection.default_channel.queue_declare("email", passive=True).message_count == 1

    @needs(Can.SIZE_LIMIT)
    def test_one_too_large_leaves_the_others(self, broker: Broker, connection: Connection) -> None:
        with kombu_hake.batch():
            publish(connection, 1, "orders")
            with pytest.raises(MessageTooLarge):
                publish(connection, "x" * SNS_MAX_MESSAGE_BYTES, "orders")
            publish(connection, 2, "orders")
        assert broker.bodies("email") == {"email": [1, 2]}

    @needs(Can.SIZE_LIMIT)
    def test_large_messages_are_cut_into_requests_that_fit(self, broker: Broker, connection: Connection) -> None:
        with kombu_hake.batch():
            for i in range(7):
                publish(connection, [i, "x" * 90_000], "orders")
        found = broker.drain("email")["email"]
        assert sorted(message.payload[0] for message in found) == list(range(7))
