"""Where a message goes is looked up once: what AWS does not answer is not taken for a no."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from kombu import Connection, Exchange, Producer, Queue
from support.emulators import Emulator
from support.proxy import Proxy
from support.proxy_rules import Rule

import kombu_hake
from kombu_hake.exceptions import BrokerUnavailable, PublishFailed, Unroutable


@pytest.fixture
def aws(moto: Emulator) -> Emulator:
    return moto.in_namespace(f"p{uuid4().hex[:8]}")


@pytest.fixture
def declared(aws: Emulator) -> Iterator[Connection]:
    with Connection(aws.url()) as connection:
        Queue("q", Exchange("q"), "q")(connection.default_channel).declare()
        yield connection


@pytest.fixture
def producer(aws: Emulator, proxy: Proxy) -> Iterator[Producer]:
    """A producer that has declared nothing."""
    with Connection(aws.url().replace(f":{aws.port}/", f":{proxy.endpoint_url.rpartition(':')[2]}/")) as connection:
        connection.connect()  # which looks for a queue itself
        yield Producer(connection)


def test_no_message_is_lost_after_a_lookup_that_failed(
    aws: Emulator, proxy: Proxy, declared: Connection, producer: Producer
) -> None:
    proxy.rules = [Rule("reset", action="GetQueueUrl")]
    with pytest.raises(BrokerUnavailable):
        producer.publish("0", exchange="q", routing_key="q")
    proxy.rules = []
    for number in range(1, 5):
        producer.publish(str(number), exchange="q", routing_key="q")
    assert declared.default_channel.queue_declare("q", passive=True).message_count == 4
    topics = aws.client("sns").list_topics()["Topics"]
    assert not [topic for topic in topics if topic["TopicArn"].endswith(f":{aws.namespace}__q")]


def test_a_mandatory_message_of_a_batch_is_named_when_its_queue_is_gone(
    declared: Connection, producer: Producer
) -> None:
    Queue("other")(declared.default_channel).declare()
    producer.publish("0", routing_key="q")
    declared.default_channel.queue_delete("q")

    def publish() -> None:
        with kombu_hake.batch():
            for routing_key in ("q", "other"):
                producer.publish(routing_key, routing_key=routing_key, mandatory=True)

    with pytest.raises(PublishFailed) as caught:
        publish()
    assert [(published.routing_key, type(error)) for published, error in caught.value.failed] == [("q", Unroutable)]
    assert declared.default_channel.queue_declare("other", passive=True).message_count == 1
