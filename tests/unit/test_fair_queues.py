"""A queue that one tenant floods: how long the others wait, with and without tenants.

``python tests/unit/test_fair_queues.py`` prints the figures of the documentation. AWS's documented rule stands behind
them (:mod:`support.fair_queues`), not AWS itself.
"""

import heapq
import itertools
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import pytest
from fake_aws import FakeClock
from fakes import FakeClients, make_payloads
from publishing import Process
from support.fair_queues import RECENT_S, FairSqs

from kombu_hake.amqp import Binding
from kombu_hake.publish import batch
from kombu_hake.receive import DeadLetters, Deferring, Deliveries, Delivery, Gate, Inbox, Lease, Leases, receive_params

QUIET = 20
WORKERS, HANDS = 5, 10
TASK_S = 0.25
#: The quiet tenants publish one message each in this part of the time that the noisy one's messages take.
SPREAD = 0.6


class Waits(NamedTuple):
    """How long messages waited until a worker got them, seconds."""

    quiet: list[float]
    noisy: list[float]

    def p95(self) -> float:
        return sorted(self.quiet)[int(0.95 * len(self.quiet)) - 1]

    def median(self) -> float:
        return sorted(self.quiet)[len(self.quiet) // 2]


def flooded(ratio: int, *, with_tenants: bool) -> Waits:
    """A noisy tenant publishes *ratio* messages for each message of another.

    They are published through the package, and received as by workers whose prefetch count is their concurrency.
    """
    clock = FakeClock(0.0)
    fake = FakeClients(clock, sqs=FairSqs)
    here = Process(fake)
    here.declare("work")
    queue = fake.queues.queue("work")
    spread_s = SPREAD * ratio * QUIET * TASK_S / (WORKERS * HANDS)
    waits = Waits([], [])

    def publish(tenant: str) -> None:
        here.publish("", "work", tenant.encode(), **({"tenant": tenant} if with_tenants else {}))

    with batch(in_flight=1):
        for _ in range(ratio * QUIET):
            publish("noisy")
    numbers = itertools.count()
    #: When, in which order, and what: a tenant that publishes, or a worker with messages that are done.
    due: list[tuple[float, int, str, int, list[str]]] = []
    for number in range(QUIET):
        heapq.heappush(due, (0.013 + spread_s * number / QUIET, next(numbers), f"quiet-{number}", -1, []))
    for worker in range(WORKERS):  # not all at the same moment
        heapq.heappush(due, (TASK_S * worker / WORKERS, next(numbers), "", worker, []))
    while due:
        at, _, tenant, worker, handles = heapq.heappop(due)
        clock.advance(at - clock())
        if worker < 0:
            publish(tenant)
            continue
        if handles:
            entries = [{"Id": str(i), "ReceiptHandle": handle} for i, handle in enumerate(handles)]
            fake.sqs("delete_message_batch", QueueUrl=queue.url, Entries=entries)
        found = fake.sqs(
            "receive_message", QueueUrl=queue.url, MaxNumberOfMessages=HANDS, VisibilityTimeout=120,
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])  # fmt: skip
        for message in found:
            waited = at - int(message["Attributes"]["SentTimestamp"]) / 1000
            (waits.noisy if json.loads(message["Body"])["body"] == "noisy" else waits.quiet).append(waited)
        if queue.messages or clock() < spread_s:
            heapq.heappush(due, (at + TASK_S, next(numbers), "", worker, [m["ReceiptHandle"] for m in found]))
    assert len(waits.quiet) == QUIET
    assert len(waits.noisy) == ratio * QUIET
    return waits


def figures() -> Iterator[str]:
    for with_tenants in (False, True):
        waits = flooded(1_000, with_tenants=with_tenants)
        yield (
            f"{'with' if with_tenants else 'without'} tenants: quiet median {waits.median():.2f} s, "
            f"p95 {waits.p95():.2f} s; the last noisy message waited {max(waits.noisy):.1f} s"
        )


@pytest.mark.parametrize("ratio", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_quiet_tenants_do_not_wait_for_a_noisy_one(ratio: int) -> None:
    without, with_them = flooded(ratio, with_tenants=False), flooded(ratio, with_tenants=True)
    assert with_them.p95() <= TASK_S
    assert without.p95() > 20 * TASK_S
    assert max(with_them.noisy) - max(without.noisy) <= TASK_S  # the noisy tenant loses its place, and no time


def test_a_tenant_is_noisy_by_its_share_of_what_is_in_flight() -> None:
    clock = FakeClock(0.0)
    fake = FakeClients(clock, sqs=FairSqs)
    url = fake.sqs("create_queue", QueueName="work")["QueueUrl"]
    queue = fake.queues.queue("work")
    groups = ["big"] * 40 + [f"small-{number}" for number in range(29)]
    for group in groups:
        fake.sqs("send_message", QueueUrl=url, MessageBody="x", MessageGroupId=group)
    fake.sqs("send_message", QueueUrl=url, MessageBody="x")

    def receive(count: int) -> list[str | None]:
        found = [
            fake.sqs("receive_message", QueueUrl=url, VisibilityTimeout=60, MessageSystemAttributeNames=["All"])
            for _ in range(count)
        ]
        return [answer["Messages"][0]["Attributes"].get("MessageGroupId") for answer in found]

    assert receive(30) == ["big"] * 30
    assert fake.queues.noisy(queue) == {"big"}
    assert receive(30) == [*groups[40:], None]
    assert receive(1) == ["big"]


def test_a_tenant_is_noisy_by_its_share_of_the_processing_time() -> None:
    clock = FakeClock(0.0)
    fake = FakeClients(clock, sqs=FairSqs)
    url = fake.sqs("create_queue", QueueName="work")["QueueUrl"]
    queue = fake.queues.queue("work")
    for number in range(20):
        for group, took_s in (("slow", 1.0), (f"quick-{number}", 0.05)):
            fake.sqs("send_message", QueueUrl=url, MessageBody="x", MessageGroupId=group)
            [message] = fake.sqs("receive_message", QueueUrl=url, VisibilityTimeout=60)["Messages"]
            clock.advance(took_s)
            fake.sqs("delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert fake.queues.noisy(queue) == {"slow"}
    clock.advance(RECENT_S + 1)
    assert fake.queues.noisy(queue) == set()


@pytest.mark.parametrize("tenant", ["acme", None])
def test_countdowns_of_a_tenant_do_not_make_it_noisy(tenant: str | None) -> None:
    """Hidden messages would count as in flight. A delayed copy does not."""
    clock = FakeClock(time.time())
    fake = FakeClients(clock, sqs=FairSqs)
    here = Process(fake)
    here.declare("work", Binding("orders", "fanout", ""))
    eta = datetime.fromtimestamp(clock(), timezone.utc) + timedelta(hours=1)
    headers = {"task": "shop.mail", "id": "1", "eta": eta.isoformat()}
    more = {"tenant": tenant} if tenant else {}
    for _ in range(40):
        here.publish("orders", "any", headers=headers, **more)
    queue = fake.queues.queue("work")
    letters = DeadLetters(fake, here.dispatcher.publish_now, lambda *_args: False)
    deferring = Deferring(fake, here.dispatcher, letters)
    leases = Leases(fake, visibility_s=120, linger_s=0.0, on_lost=lambda *_args: None)
    deliveries = Deliveries(Inbox(), leases, make_payloads(fake))
    gate = Gate(fake, here.topology, deliveries, letters, deferring)
    for _ in range(4):
        for raw in fake.sqs("receive_message", **receive_params(queue.url, 10, 0, 120))["Messages"]:
            lease = Lease(queue.url, raw["ReceiptHandle"], leases.now(), 120)
            leases.hold([lease])
            assert gate.admit(Delivery(1, "work", "work", raw, lease)) is None
    leases.stop(5.0)
    in_flight = [message for message in queue.messages if message.is_in_flight(clock())]
    assert len(queue.messages) == 40
    assert {message.group for message in queue.messages} == {tenant}
    assert (len(in_flight), fake.queues.noisy(queue)) == ((0, set()) if tenant else (40, set()))
    clock.advance(900)  # the copies come, and wait on as further copies
    assert {message.visible_at <= clock() for message in queue.messages} == {tenant is not None}


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in figures())
