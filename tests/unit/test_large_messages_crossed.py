"""Large messages together with the other features: priorities, tenants, FIFO, requeue, topology=assume."""

import random
import threading
from collections.abc import Iterator
from unittest import mock

import pytest
from fakes import FakeClients, connected, eventually
from kombu import Consumer, Exchange, Queue
from support.large_messages import LARGE, OPTIONS, Bench, opened, receive_nothing

import kombu_hake
from kombu_hake.admin.dead_letters import read, revived
from kombu_hake.receive.delivery import Event

TASK = {"task": "shop.mail", "id": "7"}


@pytest.fixture
def bench(fake: FakeClients) -> Iterator[Bench]:
    with opened(fake) as bench:
        yield bench


@pytest.mark.parametrize("through", ["queue", "topic"])
def test_priorities_tenants_and_batches(bench: Bench, through: str) -> None:
    orders = Exchange("orders", "topic")
    bench.declare("mails", exchange=orders, **{"x-max-priority": 2, "x-dead-letter-queue": True})
    target = {"key": "placed", "exchange": "orders"} if through == "topic" else {"key": "mails"}
    with kombu_hake.batch():
        for priority in (0, 1, 2):
            bench.publish(f"{priority} {LARGE}", priority=priority, tenant="Acme Corp", headers=TASK, **target)
    found = bench.receive("mails", count=3, on=lambda message: message.reject())
    assert {message.properties["tenant"] for message in found} == {"Acme Corp"}
    bench.settle()
    dead = bench.raw("mails-dead")
    assert [raw["Attributes"]["MessageGroupId"] for raw in dead] == ["hake:Acme%20Corp"] * 3
    for raw in dead:
        entry = revived(read("mails", raw, 0.0), is_fifo=False)
        bench.send("mails", entry["MessageBody"], **entry["MessageAttributes"])
    again = bench.receive("mails", count=3)
    assert sorted(message.payload["data"][:2] for message in again) == ["0 ", "1 ", "2 "]
    bench.settle()
    assert [key for key in bench.objects() if "/q/" in key] == []


def test_fifo_dead_letter_and_requeue_with_compression(fake: FakeClients) -> None:
    noise = random.Random(7).randbytes(2_000_000).hex()  # half of it is left
    with connected(fake, compress_above=1_024, **OPTIONS) as connection:
        bench = Bench(fake, connection)
        bench.declare("mails.fifo", **{"x-dead-letter-queue": True})
        bench.publish(noise, key="mails.fifo", MessageGroupId="g", tenant="acme", headers=TASK)
        bench.receive("mails.fifo", on=lambda message: message.reject())
        bench.settle()
        [raw] = bench.raw("mails-dead.fifo")
        assert raw["Attributes"]["MessageGroupId"] == "g"
        entry = revived(read("mails.fifo", raw, 0.0), is_fifo=True)
        assert entry["MessageGroupId"] == "g"
        url = fake.sqs("get_queue_url", QueueName="mails.fifo")["QueueUrl"]
        fake.sqs("send_message", QueueUrl=url, **entry)
        [message] = bench.receive("mails.fifo")
        assert message.payload == {"data": noise}
        assert message.properties["tenant"] == "acme"
        bench.settle()
        assert bench.objects() == []


def test_topology_assume(fake: FakeClients) -> None:
    orders = Exchange("orders", "topic")
    with connected(fake, **OPTIONS) as connection:
        Bench(fake, connection).declare("mails", exchange=orders)
    with connected(fake, topology="assume", account_id="111122223333", **OPTIONS) as connection:
        bench = Bench(fake, connection)
        Queue("mails", orders, routing_key="#")(bench.channel).declare()
        bench.publish(key="mails", exchange="mails", headers={**TASK, "eta": bench.at(1_700)}, tenant="acme")
        bench.publish(key="mails")
        bench.publish("x" * 300_000, key="placed", exchange="orders")
        assert sorted(len(m.payload["data"]) for m in bench.receive("mails", count=2)) == [300_000, len(LARGE)]
        bench.settle()
        fake.clock.advance(901)
        sent = fake.count("send_message")
        bench.got.clear()
        receive_nothing(bench, lambda: fake.count("send_message") > sent)
        fake.clock.advance(901)
        bench.receive("mails")
        bench.settle()
        assert [key.split("/")[1] for key in bench.objects()] == ["t"]


def test_a_download_that_ends_at_once_does_not_overtake_what_came_before_it(bench: Bench) -> None:
    bench.declare("mails.fifo")
    bodies = ["a", LARGE, "b"]
    with kombu_hake.batch():
        for number, body in enumerate(bodies):
            bench.publish(body, key="mails.fifo", MessageGroupId="g", MessageDeduplicationId=str(number))
    payloads = bench.connection.transport.payloads
    with mock.patch.object(payloads._downloads, "submit", payloads._do):
        found = bench.receive("mails.fifo", count=len(bodies))
    assert [message.payload["data"] for message in found] == bodies


def test_a_message_that_is_lost_while_it_is_downloaded_is_not_handed_over(fake: FakeClients) -> None:
    with connected(fake, **OPTIONS) as connection:
        bench = Bench(fake, connection)
        bench.declare("mails")
        bench.publish()
        transport = connection.transport

        def lose() -> None:
            for delivery in transport.payloads._waiting.values():
                transport.leases._transition(delivery.lease, Event.REFUSED)

        def is_over() -> bool:
            is_downloaded = fake.count("download") == 1 and not transport.payloads._downloads.unanswered
            return is_downloaded and not len(transport.inbox)

        fake.before("download", lose)
        receive_nothing(bench, is_over)
        assert transport.payloads._room._taken == 0
        fake.clock.advance(1_000)
        assert bench.receive("mails")[0].payload == {"data": LARGE}
        bench.settle()
        assert bench.objects() == []


def test_a_connection_that_closes_while_it_downloads_releases_the_message(fake: FakeClients) -> None:
    began, go_on = threading.Event(), threading.Event()
    with connected(fake, **OPTIONS) as connection:
        bench = Bench(fake, connection)
        bench.declare("mails")
        bench.publish()
        transport = connection.transport
        fake.before("download", lambda: (began.set(), go_on.wait(10))[0])
        Consumer(bench.channel, [Queue("mails", no_declare=True)], on_message=bench.got.append).consume()
        assert began.wait(10)
        transport.close_connection(transport)
        assert len(bench.raw("mails")) == 1
        go_on.set()
        eventually(lambda: not transport.payloads._downloads.unanswered)
        assert transport.payloads._room._taken == 0
        assert bench.got == []
        assert len(bench.objects()) == 1
