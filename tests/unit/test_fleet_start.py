"""A fleet that starts at once on an AWS that rations calls: how long until all are ready, in virtual time."""

from collections import Counter
from dataclasses import replace

import pytest
from fake_aws import QUICK, SLOW
from fakes import FakeClients, FakeClock, make_presence, make_settings, manual_chores
from support.virtual_time import VirtualClients, VirtualTime

from kombu_hake.amqp.bindings import Binding
from kombu_hake.temporary.temporaries import Temporaries
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.timings import Timings
from kombu_hake.topology.topology import Topology

LATENCY_S = 0.02
TAG_CALLS = ("list_queue_tags", "tag_queue", "untag_queue")
RATIONS = replace(
    QUICK, control_per_s=SLOW.control_per_s, tags_per_s=SLOW.tags_per_s, topic_tags_per_s=SLOW.topic_tags_per_s
)


class Fleet:
    """Workers with the same bound queues, and a queue of remote control each."""

    def __init__(self, fake: FakeClients, virtual: VirtualTime, queues: int) -> None:
        self._fake = fake
        self._virtual = virtual
        self._queues = queues
        self.ready_s: list[float] = []

    def work(self, number: int, started_at: float) -> None:
        """One worker, until it has declared everything."""
        clients = VirtualClients(self._fake, self._virtual, LATENCY_S)
        chores = manual_chores(self._fake.clock)
        topology = Topology(clients, make_settings("hake://"), Timings(), self._fake.clock, chores)  # type: ignore[arg-type]
        for index in range(self._queues):
            topology.declare_exchange(f"events-{index}", "topic")
            topology.declare_queue(QueueSpec(f"bound-{index}"))
            topology.bind(f"bound-{index}", Binding(f"events-{index}", "topic", "order.*"))
        topology.declare_exchange("celery.pidbox", "fanout")
        temporaries = Temporaries(topology, make_presence(self._fake, topology))
        name = f"w{number}@fleet.celery.pidbox"
        temporaries.declare(QueueSpec(name, auto_delete=True))
        temporaries.create_fed(name, "celery.pidbox")
        topology.bind(name, Binding("celery.pidbox", "fanout", ""))
        self.ready_s.append(self._fake.clock() - started_at)

    def start(self, workers: int) -> None:
        """All at once."""
        now = self._fake.clock()
        self._virtual.run([lambda number=number: self.work(number, now) for number in range(workers)])  # type: ignore[misc]


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients(FakeClock())


@pytest.fixture
def virtual(fake: FakeClients, monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    return VirtualTime(fake.clock, monkeypatch)


def told(name: str, fake: FakeClients, fleet: Fleet) -> Counter[str]:
    counts, refused = fake.counts(), fake.budgets.refused
    ready = sorted(fleet.ready_s)
    print(f"\n{len(ready)} workers, {name}: first ready after {ready[0]:.0f} s, last after {ready[-1]:.0f} s")
    print(f"  {sum(counts.values())} calls: {dict(sorted(counts.items()))}; of these throttled: {refused}")
    return counts - Counter(refused)


@pytest.mark.timeout(240)
def test_fifty_workers_that_find_thirty_queues_are_ready_within_ninety_seconds(
    fake: FakeClients, virtual: VirtualTime
) -> None:
    Fleet(fake, virtual, 30).start(1)
    fake.clock.advance(600)
    fake.calls.clear()
    fake.use(RATIONS)
    fleet = Fleet(fake, virtual, 30)
    fleet.start(50)
    answered = told("all there", fake, fleet)
    assert len(fleet.ready_s) == 50
    assert max(fleet.ready_s) <= 90
    tagged = [str(params["QueueUrl"]) for operation, params in fake.calls if operation in TAG_CALLS]
    assert all("pidbox" in url for url in tagged)
    assert sum(answered[operation] for operation in TAG_CALLS) <= 2 * 50
    assert not fake.count("set_queue_attributes", "set_subscription_attributes")


@pytest.mark.timeout(240)
def test_twenty_workers_create_ten_queues(fake: FakeClients, virtual: VirtualTime) -> None:
    fake.use(RATIONS)
    fleet = Fleet(fake, virtual, 10)
    fleet.start(20)
    told("nothing there", fake, fleet)
    assert len(fleet.ready_s) == 20
    for index in range(10):
        topic = fake.topics.by_name[f"events-{index}"]
        assert list(topic.subscriptions) == [fake.queues.queue(f"bound-{index}").arn]
        assert [key for key in fake.queues.queue(f"bound-{index}").tags if key.startswith("hake:b:")]
