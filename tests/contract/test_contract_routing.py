"""Which queue gets which message: exchanges of every type, bindings, and messages that reach nobody."""

import logging
from functools import partial

import pytest
from contract.broker import Broker, consuming, declare, publish, wait_until
from contract.features import Can, needs
from fakes import wait_for_advice
from kombu import Connection, Exchange, Message, Producer, Queue, binding
from kombu.exceptions import ChannelError

KEYS = ("", "order", "order.created", "order.created.eu", "order.cancelled.us", "invoice.created.eu", "eu", "order..eu")
#: Pattern to the keys of KEYS that RabbitMQ gives a queue bound with it.
PATTERNS = {
    "order.*": ["order.created"],
    "order.#": ["order", "order..eu", "order.cancelled.us", "order.created", "order.created.eu"],
    "#.eu": ["eu", "invoice.created.eu", "order..eu", "order.created.eu"],
    "*.created.#": ["invoice.created.eu", "order.created", "order.created.eu"],
    "*.created.*": ["invoice.created.eu", "order.created.eu"],
    "order.#.eu": ["order..eu", "order.created.eu"],
    "*": ["eu", "order"],
    "order.created": ["order.created"],
    "": [""],
}


def _take(bodies: list[int], message: Message) -> None:
    bodies.append(message.payload)


@pytest.fixture
def connection(broker: Broker) -> Connection:
    return broker.connect()


class TestDefaultExchange:
    def test_routing_key_names_the_queue(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("email"), Queue("stock"))
        publish(connection, 1, routing_key="email")
        assert broker.bodies("email", "stock") == {"email": [1], "stock": []}

    def test_every_queue_is_reached_whatever_else_it_is_bound_to(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("email", Exchange("orders", "fanout")))
        publish(connection, 1, routing_key="email")
        assert broker.bodies("email") == {"email": [1]}


class TestFanout:
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_every_queue_gets_every_message(self, broker: Broker, connection: Connection, count: int) -> None:
        names = [f"group-{i}" for i in range(count)]
        exchange = Exchange("orders", "fanout")
        declare(connection, *[Queue(name, exchange) for name in names])
        for i in range(3):
            publish(connection, i, "orders")
        assert broker.bodies(*names) == {name: [0, 1, 2] for name in names}

    def test_routing_key_does_not_matter(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("email", Exchange("orders", "fanout"), routing_key="this"))
        publish(connection, 1, "orders", "that")
        publish(connection, 2, "orders", "")
        assert broker.bodies("email") == {"email": [1, 2]}

    def test_queue_of_another_exchange_gets_nothing(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("email", Exchange("orders", "fanout")), Queue("audit", Exchange("logins", "fanout")))
        publish(connection, 1, "orders")
        assert broker.bodies("email", "audit") == {"email": [1], "audit": []}

    def test_queue_declared_later_gets_what_is_published_from_then_on(
        self, broker: Broker, connection: Connection
    ) -> None:
        exchange = Exchange("orders", "fanout")
        declare(connection, Queue("email", exchange))
        publish(connection, "before", "orders")
        declare(connection, Queue("stock", exchange))
        publish(connection, "after", "orders")
        assert broker.bodies("email", "stock") == {"email": ["after", "before"], "stock": ["after"]}

    def test_declaring_twice_delivers_once(self, broker: Broker, connection: Connection) -> None:
        for _ in range(2):
            declare(connection, Queue("email", Exchange("orders", "fanout")))
            declare(broker.stranger(), Queue("email", Exchange("orders", "fanout")))
        publish(connection, 1, "orders")
        assert broker.bodies("email") == {"email": [1]}


class TestDirect:
    def test_key_chooses_the_queue(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "direct")
        declare(connection, Queue("eu-orders", exchange, "eu"), Queue("us-orders", exchange, "us"))
        for key in ("eu", "us", "eu.x", "EU", "e*"):
            publish(connection, key, "orders", key)
        assert broker.bodies("eu-orders", "us-orders") == {"eu-orders": ["eu"], "us-orders": ["us"]}

    def test_several_keys_of_one_queue(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "direct")
        declare(connection, Queue("west", [binding(exchange, key) for key in ("eu", "us", "ca")]))
        for key in ("eu", "us", "jp", "ca"):
            publish(connection, key, "orders", key)
        assert broker.bodies("west") == {"west": ["ca", "eu", "us"]}

    def test_same_key_reaches_every_queue_bound_with_it(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "direct")
        names = ("email", "stock", "audit")
        declare(connection, *[Queue(name, exchange, "new") for name in names], Queue("other", exchange, "old"))
        publish(connection, 1, "orders", "new")
        assert broker.bodies(*names, "other") == {"email": [1], "stock": [1], "audit": [1], "other": []}

    def test_empty_key_is_a_key(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "direct")
        declare(connection, Queue("keyless", exchange, ""), Queue("keyed", exchange, "eu"))
        publish(connection, "without", "orders", "")
        publish(connection, "with", "orders", "eu")
        assert broker.bodies("keyless", "keyed") == {"keyless": ["without"], "keyed": ["with"]}

    def test_asterisk_is_a_character(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("literal", Exchange("orders", "direct"), "order.*"))
        publish(connection, "literal", "orders", "order.*")
        publish(connection, "other", "orders", "order.new")
        assert broker.bodies("literal") == {"literal": ["literal"]}

    def test_exchange_named_like_its_queue_delivers_once(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("celery", Exchange("celery", "direct"), "celery"))
        publish(connection, 1, "celery", "celery")
        publish(connection, 2, "", "celery")
        assert broker.bodies("celery") == {"celery": [1, 2]}

    def test_exchange_named_like_a_queue_serves_other_queues_too(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("celery", "direct")
        declare(connection, Queue("celery", exchange, "celery"), Queue("copy", exchange, "celery"))
        publish(connection, 1, "celery", "celery")
        assert broker.bodies("celery", "copy") == {"celery": [1], "copy": [1]}

    def test_exchange_named_like_a_queue_serves_other_keys_too(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("celery", "direct")
        declare(connection, Queue("celery", [binding(exchange, "celery"), binding(exchange, "urgent")]))
        publish(connection, 1, "celery", "celery")
        publish(connection, 2, "celery", "urgent")
        publish(connection, 3, "celery", "neither")
        assert broker.bodies("celery") == {"celery": [1, 2]}


class TestTopic:
    @needs(Can.EXACT_TOPICS)
    @pytest.mark.parametrize("pattern", PATTERNS)
    def test_pattern_takes_what_rabbitmq_gives_it(self, broker: Broker, connection: Connection, pattern: str) -> None:
        declare(connection, Queue("bound", Exchange("events", "topic"), pattern))
        for key in KEYS:
            publish(connection, f"{key};", "events", key)
        assert broker.bodies("bound") == {"bound": sorted(f"{key};" for key in PATTERNS[pattern])}

    def test_hash_takes_everything(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("all", Exchange("events", "topic"), "#"))
        for key in KEYS:
            publish(connection, f"{key};", "events", key)
        assert broker.bodies("all") == {"all": sorted(f"{key};" for key in KEYS)}

    @needs(Can.EXACT_TOPICS)
    def test_several_patterns_of_one_queue_deliver_once(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("events", "topic")
        patterns = ("order.#", "*.created.#", "eu")
        declare(connection, Queue("mixed", [binding(exchange, pattern) for pattern in patterns]))
        for key in KEYS:
            publish(connection, f"{key};", "events", key)
        expected = sorted({f"{key};" for pattern in patterns for key in PATTERNS.get(pattern, [pattern])})
        assert broker.bodies("mixed") == {"mixed": expected}

    @needs(Can.EXACT_TOPICS)
    def test_more_patterns_than_a_filter_can_hold_are_still_right(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("events", "topic")
        wanted = [f"*.kind{i}.#" for i in range(12)]
        declare(connection, Queue("many", [binding(exchange, pattern) for pattern in wanted]))
        keys = ["a.kind3", "a.kind3.b.c", "kind3", "a.b.kind3", "a.kind12", "x.kind11.y", "a.kind1"]
        for key in keys:
            publish(connection, f"{key};", "events", key)
        assert broker.bodies("many") == {"many": ["a.kind1;", "a.kind3.b.c;", "a.kind3;", "x.kind11.y;"]}

    def test_words_are_not_prefixes(self, broker: Broker, connection: Connection) -> None:
        declare(connection, Queue("bound", Exchange("events", "topic"), "order.created"))
        for key in ("order.created", "order.createdx", "xorder.created", "orderxcreated"):
            publish(connection, f"{key};", "events", key)
        found = broker.bodies("bound")["bound"]
        assert "order.created;" in found
        assert not {"order.createdx;", "xorder.created;"} & set(found)


@needs(Can.HEADERS_EXCHANGE)
class TestHeaders:
    MESSAGES = (
        ("eu report", {"region": "eu", "kind": "report"}),
        ("eu bill", {"region": "eu", "kind": "bill"}),
        ("us report", {"region": "us", "kind": "report"}),
        ("bare", {}),
        ("more", {"region": "eu", "kind": "report", "size": 3}),
    )

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"x-match": "all", "region": "eu", "kind": "report"}, ["eu report", "more"]),
            ({"x-match": "any", "region": "us", "kind": "bill"}, ["eu bill", "us report"]),
            ({"x-match": "all", "size": 3}, ["more"]),
            ({"x-match": "all"}, ["bare", "eu bill", "eu report", "more", "us report"]),
        ],
        ids=["all", "any", "number", "nothing asked"],
    )
    def test_headers_choose_the_queue(
        self, broker: Broker, connection: Connection, arguments: dict[str, object], expected: list[str]
    ) -> None:
        exchange = Exchange("reports", "headers")
        declare(connection, Queue("bound", exchange, binding_arguments=arguments))
        for body, headers in self.MESSAGES:
            publish(connection, body, "reports", headers=headers)
        assert broker.bodies("bound") == {"bound": expected}

    def test_two_queues_choose_apart(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("reports", "headers")
        declare(
            connection,
            Queue("eu", exchange, binding_arguments={"x-match": "all", "region": "eu"}),
            Queue("bills", exchange, binding_arguments={"x-match": "any", "kind": "bill", "region": "us"}),
        )
        for body, headers in self.MESSAGES:
            publish(connection, body, "reports", headers=headers)
        assert broker.bodies("eu", "bills") == {
            "eu": ["eu bill", "eu report", "more"],
            "bills": ["eu bill", "us report"],
        }


class TestBindings:
    def test_several_exchanges_of_one_queue(self, broker: Broker, connection: Connection) -> None:
        orders, logins, events = Exchange("orders", "fanout"), Exchange("logins", "direct"), Exchange("events", "topic")
        declare(connection, Queue("audit", [binding(orders), binding(logins, "failed"), binding(events, "#")]))
        publish(connection, "order", "orders")
        publish(connection, "failed login", "logins", "failed")
        publish(connection, "login", "logins", "fine")
        publish(connection, "event", "events", "any.thing")
        assert broker.bodies("audit") == {"audit": ["event", "failed login", "order"]}

    def test_binding_at_run_time_adds(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "direct")
        declare(connection, Queue("west", exchange, "eu"))
        publish(connection, "too early", "orders", "us")
        Queue("west", channel=connection.default_channel).bind_to(exchange, "us")
        publish(connection, "us", "orders", "us")
        publish(connection, "eu", "orders", "eu")
        assert broker.bodies("west") == {"west": ["eu", "us"]}

    def test_unbinding_takes_away_one_key_only(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "direct")
        declare(connection, Queue("west", [binding(exchange, "eu"), binding(exchange, "us")]))
        Queue("west", channel=connection.default_channel).unbind_from(exchange, "us")
        publish(connection, "us", "orders", "us")
        publish(connection, "eu", "orders", "eu")
        assert broker.bodies("west") == {"west": ["eu"]}

    def test_unbinding_the_last_key_leaves_the_queue(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "fanout")
        declare(connection, Queue("email", exchange), Queue("stock", exchange))
        Queue("email", channel=connection.default_channel).unbind_from(exchange)
        publish(connection, 1, "orders")
        publish(connection, 2, "", "email")
        assert broker.bodies("email", "stock") == {"email": [2], "stock": [1]}

    def test_unbinding_what_is_not_bound_is_fine(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "direct")
        declare(connection, Queue("west", exchange, "eu"))
        Queue("west", channel=connection.default_channel).unbind_from(exchange, "never")
        publish(connection, "eu", "orders", "eu")
        assert broker.bodies("west") == {"west": ["eu"]}

    def test_bound_again_after_unbinding(self, broker: Broker, connection: Connection) -> None:
        exchange = Exchange("orders", "direct")
        declare(connection, Queue("west", exchange, "eu"))
        queue = Queue("west", channel=connection.default_channel)
        queue.unbind_from(exchange, "eu")
        publish(connection, "between", "orders", "eu")
        queue.bind_to(exchange, "eu")
        publish(connection, "after", "orders", "eu")
        assert broker.bodies("west") == {"west": ["after"]}

    @needs(Can.KEEPS_STRANGERS_APART)
    def test_bindings_of_several_processes_add_up(self, broker: Broker) -> None:
        exchange = Exchange("orders", "direct")
        for key in ("eu", "us", "jp"):
            declare(broker.stranger(), Queue("world", exchange, key))
            broker.settle()
        declare(broker.stranger(), Queue("world", Exchange("logins", "fanout")))
        producer = broker.stranger()
        for key in ("eu", "us", "jp", "ca"):
            publish(producer, key, "orders", key)
        publish(producer, "login", "logins")
        assert broker.bodies("world") == {"world": ["eu", "jp", "login", "us"]}

    @needs(Can.KEEPS_STRANGERS_APART)
    def test_binding_of_another_process_counts_for_a_running_consumer(self, broker: Broker) -> None:
        """Also when that consumer has just looked up the bindings, because a filter let too much through."""
        exchange = Exchange("reports", "headers")
        # Minutes of AWS's time pass here, and a message must not come again before its delete has arrived.
        consumer = broker.stranger(visibility_timeout=3_600)
        binder, producer = broker.stranger(), broker.stranger()
        eu, us = ({"x-match": "all", "region": region} for region in ("eu", "us"))
        declare(consumer, Queue("bound", exchange, binding_arguments=eu))
        found: list[Message] = []
        with consuming(consumer.default_channel, {"bound": found.append}, no_ack=True):
            # The producer does not know the exchange's type, so its messages carry no headers that a filter could see.
            publish(producer, "nobody's", "reports", headers={"region": "jp"})
            publish(producer, "first", "reports", headers={"region": "eu"})
            wait_until(lambda: found, consumer, "the first message")
            declare(binder, Queue("bound", exchange, binding_arguments=us))
            publish(producer, "second", "reports", headers={"region": "us"})
            broker.wait_until(lambda: len(found) > 1, consumer, "the message of the new binding")
        assert [message.payload for message in found] == ["first", "second"]

    @needs(Can.KEEPS_STRANGERS_APART)
    def test_unbinding_in_another_process_than_bound(self, broker: Broker) -> None:
        exchange = Exchange("orders", "direct")
        declare(broker.stranger(), Queue("west", [binding(exchange, "eu"), binding(exchange, "us")]))
        broker.settle()
        other = broker.stranger()
        exchange(other.default_channel).declare()
        Queue("west", channel=other.default_channel).unbind_from(exchange, "us")
        for key in ("eu", "us"):
            publish(other, key, "orders", key)
        assert broker.bodies("west") == {"west": ["eu"]}


@needs(Can.KEEPS_STRANGERS_APART)
class TestProducerThatDeclaredNothing:
    """It knows the exchange's name, not its type, queues or bindings."""

    def test_publishes_to_any_type(self, broker: Broker) -> None:
        declare(
            broker.stranger(),
            Queue("fanned", Exchange("orders", "fanout")),
            Queue("keyed", Exchange("logins", "direct"), "failed"),
            Queue("patterned", Exchange("events", "topic"), "*.created"),
            Queue("celery", Exchange("celery", "direct"), "celery"),
        )
        producer = broker.stranger()
        publish(producer, "order", "orders", "whatever")
        publish(producer, "failed", "logins", "failed")
        publish(producer, "fine", "logins", "fine")
        publish(producer, "created", "events", "order.created")
        publish(producer, "deleted", "events", "order.deleted")
        publish(producer, "task", "celery", "celery")
        assert broker.bodies("fanned", "keyed", "patterned", "celery") == {
            "fanned": ["order"], "keyed": ["failed"], "patterned": ["created"], "celery": ["task"],
        }  # fmt: skip

    def test_publishes_by_headers(self, broker: Broker) -> None:
        exchange = Exchange("reports", "headers")
        declare(
            broker.stranger(),
            Queue("eu", exchange, binding_arguments={"x-match": "all", "region": "eu"}),
            Queue("any", exchange, binding_arguments={"x-match": "any", "region": "us", "kind": "bill"}),
        )
        broker.settle()
        producer, consumer = broker.stranger(), broker.connect()
        found = {"eu": list[int](), "any": list[int]()}
        take = {queue: partial(_take, bodies) for queue, bodies in found.items()}
        with consuming(consumer.default_channel, take, no_ack=True):
            # A consumer that bound nothing learns the bindings by its first message, and is given that in doubt.
            publish(producer, 0, "reports", headers={"region": "eu", "kind": "bill"})
            wait_until(lambda: all(found.values()), consumer, "the first message")
            broker.do_what_is_due()
            publish(producer, 1, "reports", headers={"region": "eu"})
            publish(producer, 2, "reports", headers={"region": "us"})
            publish(producer, 3, "reports", headers={"region": "eu", "kind": "bill"})
            wait_until(lambda: all(3 in bodies for bodies in found.values()), consumer, "the last message")
        assert found == {"eu": [0, 1, 3], "any": [0, 2, 3]}

    def test_reaches_an_exchange_named_like_a_queue(self, broker: Broker) -> None:
        """Also where that exchange is a fanout that others listen to."""
        exchange = Exchange("orders", "fanout")
        declare(broker.stranger(), Queue("orders", exchange), Queue("audit", exchange))
        publish(broker.stranger(), 1, "orders", "orders")
        assert broker.bodies("orders", "audit") == {"orders": [1], "audit": [1]}


@needs(Can.REPORTS_UNROUTABLE)
class TestUnroutable:
    def test_exchange_without_a_queue_warns_by_default(self, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "kombu_hake"):
            publish(broker.stranger(), 1, "nobody-listens", "key")
            wait_for_advice()
        (record,) = caplog.records
        assert "nobody-listens" in record.getMessage()

    def test_a_warning_is_not_repeated_for_every_message(
        self, broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = broker.stranger()
        with caplog.at_level(logging.WARNING, "kombu_hake"):
            for _ in range(5):
                publish(connection, 1, "nobody-listens", "key")
                wait_for_advice()
        assert len(caplog.records) == 1

    def test_missing_queue_warns_by_default(self, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "kombu_hake"):
            publish(broker.stranger(), 1, "", "no-such-queue")
            wait_for_advice()
        assert "no-such-queue" in caplog.text

    @pytest.mark.parametrize(("exchange", "key"), [("nobody-listens", "key"), ("", "no-such-queue")])
    def test_raise(self, broker: Broker, exchange: str, key: str) -> None:
        with pytest.raises(ChannelError, match=exchange or key):
            publish(broker.stranger(unroutable="raise"), 1, exchange, key)

    @pytest.mark.parametrize(("exchange", "key"), [("nobody-listens", "key"), ("", "no-such-queue")])
    def test_ignore(self, broker: Broker, caplog: pytest.LogCaptureFixture, exchange: str, key: str) -> None:
        with caplog.at_level(logging.WARNING):
            publish(broker.stranger(unroutable="ignore"), 1, exchange, key)
            wait_for_advice()
        assert caplog.records == []

    @pytest.mark.parametrize(("exchange", "key"), [("nobody-listens", "key"), ("", "no-such-queue")])
    @pytest.mark.parametrize("unroutable", ["warn", "ignore"])
    def test_mandatory_raises(self, broker: Broker, exchange: str, key: str, unroutable: str) -> None:
        with pytest.raises(ChannelError, match=exchange or key):
            publish(broker.stranger(unroutable=unroutable), 1, exchange, key, mandatory=True)

    def test_mandatory_with_a_queue_is_delivered(self, broker: Broker) -> None:
        declare(broker.stranger(), Queue("email", Exchange("orders", "fanout")))
        publish(broker.stranger(unroutable="raise"), 1, "orders", mandatory=True)
        publish(broker.stranger(unroutable="raise"), 2, "", "email", mandatory=True)
        assert broker.bodies("email") == {"email": [1, 2]}

    def test_first_queue_of_an_exchange_ends_the_errors(self, broker: Broker) -> None:
        connection = broker.stranger(unroutable="raise")
        with pytest.raises(ChannelError):
            publish(connection, 1, "orders", "key")
        declare(connection, Queue("email", Exchange("orders", "fanout")))
        publish(connection, 2, "orders", "key")
        assert broker.bodies("email") == {"email": [2]}

    def test_a_key_that_no_queue_wants_is_an_error_only_where_it_is_known(self, broker: Broker) -> None:
        """An exchange with queues is not asked again for each message: that key is dropped, as by RabbitMQ."""
        connection = broker.stranger()
        declare(connection, Queue("west", Exchange("orders", "direct"), "eu"))
        Producer(connection).publish(1, exchange="orders", routing_key="jp")
        assert broker.bodies("west") == {"west": []}
