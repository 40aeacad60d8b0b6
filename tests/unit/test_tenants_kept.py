"""What is sent on by a worker or an operator keeps its tenant, of whatever size it is."""

from collections.abc import Iterator
from typing import Any

import pytest
from fakes import eventually
from kombu import Exchange
from support.large_messages import LARGE, Bench, opened, receive_nothing

from kombu_hake.admin.dead_letters import read, revived

GROUP = "hake:Acme%20Corp"
TASK = {"task": "shop.mail", "id": "7"}


@pytest.fixture
def bench() -> Iterator[Bench]:
    with opened() as bench:
        yield bench


def groups(bench: Bench, queue: str) -> list[Any]:
    return [raw["Attributes"].get("MessageGroupId") for raw in bench.raw(queue)]


@pytest.mark.parametrize("body", ["small", LARGE], ids=["small", "large"])
def test_a_task_of_a_tenant_waits_as_a_copy_for_the_same_tenant(bench: Bench, body: str) -> None:
    bench.declare("mails")
    bench.publish(body, headers={**TASK, "eta": bench.at(1_700)}, tenant="Acme Corp")
    bench.fake.clock.advance(901)
    receive_nothing(bench, lambda: bench.fake.count("send_message") == 2)
    bench.settle()
    bench.fake.clock.advance(900)
    assert groups(bench, "mails") == [GROUP]
    [message] = bench.receive("mails")
    assert message.payload == {"data": body}
    assert message.properties["tenant"] == "Acme Corp"
    bench.settle()
    assert bench.objects() == []


@pytest.mark.parametrize("body", ["small", LARGE], ids=["small", "large"])
def test_a_dead_letter_and_what_becomes_of_it_have_the_tenant(bench: Bench, body: str) -> None:
    bench.declare("mails", **{"x-dead-letter-queue": True})
    bench.publish(body, headers=TASK, tenant="Acme Corp")
    bench.receive("mails", on=lambda message: message.reject())
    bench.settle()
    assert groups(bench, "mails-dead") == [GROUP]
    [raw] = bench.raw("mails-dead")
    entry = revived(read("mails", raw, 0.0), is_fifo=False)
    assert entry["MessageGroupId"] == GROUP
    bench.send("mails", entry["MessageBody"], **entry.get("MessageAttributes", {}))
    assert bench.receive("mails")[0].properties["tenant"] == "Acme Corp"


@pytest.mark.parametrize("body", ["small", LARGE], ids=["small", "large"])
def test_a_dead_letter_to_an_exchange_has_the_tenant_of_another_program(bench: Bench, body: str) -> None:
    bench.declare("graves", exchange=Exchange("dead", "topic"))
    bench.declare("mails", **{"x-dead-letter-exchange": "dead"})
    bench.publish(body)
    [raw] = bench.raw("mails")
    url = bench.fake.sqs("get_queue_url", QueueName="mails")["QueueUrl"]
    bench.fake.sqs("purge_queue", QueueUrl=url)
    bench.fake.clock.advance(120)
    bench.fake.sqs(
        "send_message", QueueUrl=url, MessageBody=raw["Body"], MessageAttributes=raw.get("MessageAttributes", {}),
        MessageGroupId="acme",
    )  # fmt: skip
    bench.receive("mails", on=lambda message: message.reject())
    eventually(lambda: groups(bench, "graves") == ["acme"])
