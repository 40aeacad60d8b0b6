"""The table of deliveries: whatever happens to a message, in any order, its credit comes back once and it is gone."""

from collections import Counter
from collections.abc import Iterator

import pytest
from fakes import FakeClients, eventually, make_payloads
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.receive.deliveries import Deliveries, How, Inbox
from kombu_hake.receive.delivery import Delivery, Lease, LeaseState
from kombu_hake.receive.leases import Leases

CHANNEL = 7


class Bench:
    """A table, and the credit that it gives back."""

    def __init__(self) -> None:
        self.fake = FakeClients()
        self.url = QueueUrl(self.fake.sqs("create_queue", QueueName="q")["QueueUrl"])
        self.inbox = Inbox()
        self.leases = Leases(self.fake, visibility_s=120, linger_s=0.0, clock=self.fake.clock)
        self.deliveries = Deliveries(self.inbox, self.leases, make_payloads(self.fake))
        self.returned: Counter[str] = Counter()

    def arrive(self, count: int, channel: int = CHANNEL) -> list[Delivery]:
        made = []
        for number in range(count):
            self.fake.sqs("send_message", QueueUrl=self.url, MessageBody=str(number))
            [raw] = self.fake.sqs("receive_message", QueueUrl=self.url, VisibilityTimeout=120)["Messages"]
            lease = Lease(self.url, raw["ReceiptHandle"], self.fake.clock(), 120)
            made.append(Delivery(channel, "q", f"source-{number}", raw, lease, self.give_back))
        self.deliveries.arrived(made)
        return made

    def give_back(self, source: str) -> None:
        self.returned[source] += 1

    def close(self) -> None:
        self.fake.end()
        self.leases.stop(5.0)
        self.inbox.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@given(steps=st.lists(st.sampled_from(["hand over", "claim", "claim all", "buffered", *How]), max_size=8))
def test_credit_comes_back_exactly_once_in_whatever_order_a_message_is_ended(steps: list[str | How]) -> None:
    bench = Bench()
    try:
        [delivery] = bench.arrive(1)
        is_ended = False
        for step in steps:
            if step == "hand over" and not delivery.tag and not is_ended:
                assert bench.inbox.get(0) is delivery
                bench.deliveries.hand_over(delivery, 1, keeps_credit=True)
            elif step == "claim":
                bench.deliveries.claim(CHANNEL, 1)
            elif step == "claim all":
                bench.deliveries.claim(CHANNEL, 0, multiple=True)
            elif step == "buffered":
                is_ended = is_ended or not delivery.tag
                bench.deliveries.release_buffered(CHANNEL)
            elif isinstance(step, How):
                bench.deliveries.finish(delivery, step, 60)
                is_ended = True
            assert bench.returned["source-0"] == is_ended
            assert (delivery.lease.state is LeaseState.HELD) == (not is_ended)
            if is_ended:
                assert not bench.deliveries.unsettled(CHANNEL)
    finally:
        bench.close()


def test_a_claim_takes_each_delivery_once(bench: Bench) -> None:
    made = bench.arrive(4)
    for tag, delivery in enumerate(made, 1):
        bench.deliveries.hand_over(delivery, tag, keeps_credit=True)
    assert bench.deliveries.claim(CHANNEL, 3) == [made[2]]
    assert bench.deliveries.claim(CHANNEL, 3) == []
    assert bench.deliveries.claim(CHANNEL, 3, multiple=True) == made[:2]
    assert bench.deliveries.claim(CHANNEL + 1, 0, multiple=True) == []
    assert bench.deliveries.claim(CHANNEL, 0, multiple=True) == [made[3]]
    assert not bench.returned  # a claim is not the end


def test_without_a_prefetch_count_credit_comes_back_at_the_handing_over(bench: Bench) -> None:
    [delivery] = bench.arrive(1)
    bench.deliveries.hand_over(delivery, 1, keeps_credit=False)
    assert bench.returned == {"source-0": 1}
    bench.deliveries.finish(delivery, How.ACK)
    assert bench.returned == {"source-0": 1}
    eventually(lambda: not bench.fake.queues.queue("q").messages)


def test_only_what_waits_on_the_channel_is_released(bench: Bench) -> None:
    [other] = bench.arrive(1, CHANNEL + 1)
    mine = bench.arrive(2)
    bench.deliveries.release_buffered(CHANNEL)
    assert [delivery.lease.state for delivery in mine] == [LeaseState.RELEASED] * 2
    assert other.lease.state is LeaseState.HELD
    assert bench.inbox.get(0) is other
    assert len(bench.inbox) == 0
