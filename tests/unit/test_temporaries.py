"""Exclusive and auto-delete queues: made when needed, gone with their connection and not before, and nobody else's."""

import logging

import pytest
from fakes import FakeClients, make_settings

from kombu_hake.bindings import Binding
from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.queues import QueueSpec
from kombu_hake.temporaries import Temporaries
from kombu_hake.topology import Topology

EVENTS = Binding("celeryev", "topic", "#")


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients()


@pytest.fixture
def topology(fake: FakeClients) -> Topology:
    return Topology(fake, make_settings())


@pytest.fixture
def temporaries(topology: Topology) -> Temporaries:
    return Temporaries(topology)


def exclusive(name: str = "q") -> QueueSpec:
    return QueueSpec(name, exclusive=True)


def auto_delete(name: str = "q") -> QueueSpec:
    return QueueSpec(name, auto_delete=True)


def fed(temporaries: Temporaries, topology: Topology, spec: QueueSpec, binding: Binding = EVENTS) -> None:
    temporaries.declare(spec)
    temporaries.create_fed(spec.name, binding.exchange)
    topology.bind(spec.name, binding)


# --- making


def test_declaring_makes_nothing_yet(fake: FakeClients, temporaries: Temporaries) -> None:
    temporaries.declare(exclusive())
    assert not fake.calls


def test_a_queue_that_is_addressed_by_name_keeps_it(fake: FakeClients, temporaries: Temporaries) -> None:
    temporaries.declare(exclusive("reply-1"))
    temporaries.declare(auto_delete("result-1"))
    temporaries.create()
    assert set(fake.queues.by_name) == {"reply-1", "result-1"}


def test_a_queue_fed_by_a_subscription_has_a_name_of_its_own(
    fake: FakeClients, topology: Topology, temporaries: Temporaries
) -> None:
    fed(temporaries, topology, exclusive("celeryev.monitor"))
    [name] = fake.queues.by_name
    assert name.startswith("celeryev_monitor_x")
    assert len(name) <= 80
    assert topology.queues.url("celeryev.monitor") == fake.queues.queue(name).url


@pytest.mark.parametrize("name", ["q", "q" * 80, "é" * 300, "celery@host.celery.pidbox"])
def test_names_of_an_incarnation_are_legal_and_new_each_time(
    fake: FakeClients, topology: Topology, temporaries: Temporaries, name: str
) -> None:
    for _ in range(3):
        fed(temporaries, topology, exclusive(name))
        temporaries.delete_all()
    created = [params["QueueName"] for operation, params in fake.calls if operation == "create_queue"]
    assert len(set(created)) == 3


def test_declaring_again_makes_no_second_queue(fake: FakeClients, topology: Topology, temporaries: Temporaries) -> None:
    fed(temporaries, topology, exclusive())
    fed(temporaries, topology, exclusive())
    temporaries.create()
    assert len(fake.queues.by_name) == 1


def test_a_declaration_survives_a_network_fault(fake: FakeClients, temporaries: Temporaries) -> None:
    temporaries.declare(exclusive("a"))
    temporaries.declare(exclusive("b"))
    fake.fail("get_queue_url", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        temporaries.create()
    temporaries.create()
    assert set(fake.queues.by_name) == {"a", "b"}


# --- going


def test_what_goes_with_its_connection(fake: FakeClients, topology: Topology, temporaries: Temporaries) -> None:
    temporaries.declare(exclusive("exclusive"))
    temporaries.declare(auto_delete("consumed"))
    temporaries.declare(auto_delete("only-declared"))
    temporaries.create()
    temporaries.consumed("consumed")
    fed(temporaries, topology, auto_delete("fed"))
    temporaries.delete_all()
    # rpc:// declares its result queue on the producer's connection: another one consumes from it.
    assert set(fake.queues.by_name) == {"only-declared"}


def test_subscriptions_go_first(fake: FakeClients, topology: Topology, temporaries: Temporaries) -> None:
    fed(temporaries, topology, exclusive())
    temporaries.delete_all()
    assert fake.topics.by_name["celeryev"].subscriptions == {}
    operations = [operation for operation, _ in fake.calls]
    assert operations.index("unsubscribe") < operations.index("delete_queue")


def test_what_was_never_made_needs_no_removal(fake: FakeClients, temporaries: Temporaries) -> None:
    temporaries.declare(exclusive())
    temporaries.delete_all()
    temporaries.create()
    assert not fake.calls


def test_going_twice_is_fine(fake: FakeClients, temporaries: Temporaries) -> None:
    temporaries.declare(exclusive())
    temporaries.create()
    temporaries.delete_all()
    deleted = fake.count("delete_queue")
    temporaries.delete_all()
    assert fake.count("delete_queue") == deleted == 1


def test_a_queue_that_cannot_be_removed_does_not_keep_the_others(
    fake: FakeClients, temporaries: Temporaries, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("a", "b"):
        temporaries.declare(exclusive(name))
    temporaries.create()
    fake.fail("delete_queue", BrokerUnavailable("x"))
    temporaries.delete_all()
    assert len(fake.queues.by_name) == 1
    assert "was not removed" in caplog.text


def test_a_queue_that_its_user_deleted_is_not_deleted_again(
    fake: FakeClients, topology: Topology, temporaries: Temporaries
) -> None:
    temporaries.declare(exclusive())
    temporaries.create()
    topology.delete_queue("q")
    temporaries.forget("q")
    temporaries.delete_all()
    assert fake.count("delete_queue") == 1


def test_a_fed_queue_can_be_deleted_and_declared_at_once(
    fake: FakeClients, topology: Topology, temporaries: Temporaries
) -> None:
    # AWS refuses a name for sixty seconds after its deletion, and kombu does this within one process.
    for _ in range(2):
        fed(temporaries, topology, exclusive())
        topology.delete_queue("q")
        temporaries.forget("q")
    fed(temporaries, topology, exclusive())
    assert len(fake.queues.by_name) == 1


def test_queues_of_another_connection_are_left_alone(fake: FakeClients, topology: Topology) -> None:
    mine, theirs = Temporaries(topology), Temporaries(topology)
    mine.declare(exclusive("mine"))
    mine.create()
    theirs.declare(exclusive("theirs"))
    theirs.create()
    mine.delete_all()
    assert set(fake.queues.by_name) == {"theirs"}


def test_a_forked_child_removes_nothing(fake: FakeClients, temporaries: Temporaries) -> None:
    temporaries.declare(exclusive())
    temporaries.create()
    temporaries.reset_after_fork()
    temporaries.delete_all()
    assert set(fake.queues.by_name) == {"q"}
