"""Exclusive and auto-delete queues: made when needed, gone with their connection and not before, and nobody else's."""

import logging

import pytest
from fake_aws import SLOW
from fakes import FakeClients, make_presence, make_settings

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.policy import named_topics
from kombu_hake.amqp.routing import message_attributes
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable
from kombu_hake.temporary.presence import Presence
from kombu_hake.temporary.temporaries import Temporaries
from kombu_hake.topology import topology as topology_module
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topology import Topology

EVENTS = Binding("celeryev", "topic", "#")
KEYED = {name: {"DataType": "String", "StringValue": value} for name, value in message_attributes("worker.x").items()}


@pytest.fixture
def topology(fake: FakeClients) -> Topology:
    return Topology(fake, make_settings())


@pytest.fixture
def presence(fake: FakeClients, topology: Topology) -> Presence:
    return make_presence(fake, topology)


@pytest.fixture
def temporaries(topology: Topology, presence: Presence) -> Temporaries:
    return Temporaries(topology, presence)


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


@pytest.mark.parametrize("policy", ["topics", "namespace"])
@pytest.mark.parametrize("spec", [exclusive("celeryev.monitor"), auto_delete("celeryev.monitor")], ids=repr)
def test_fed_queue_lets_its_topic_in_from_its_creation(fake: FakeClients, spec: QueueSpec, policy: str) -> None:
    fake.use(SLOW)  # a policy that is written later acts a minute late
    topology = Topology(fake, make_settings("hake://", queue_policy=policy))
    fed(Temporaries(topology, make_presence(fake, topology)), topology, spec)
    assert not fake.count("set_queue_attributes", "set_subscription_attributes")
    fake.clock.advance(SLOW.subscriptions_act_s)
    fake.sns("publish", TopicArn=topology.topics.arn("celeryev"), Message="event", MessageAttributes=KEYED)
    assert fake.queues.of_url(topology.queues.url(spec.name)).bodies() == ["event"]


def test_queue_that_others_send_to_by_name_is_left_alone_for_a_second(
    fake: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(topology_module.time, "sleep", slept.append)
    topology = Topology(fake, make_settings("hake://"))
    found = Temporaries(topology, make_presence(fake, topology))
    topology.declare_queue(QueueSpec("stays"))
    fed(found, topology, exclusive("celeryev.monitor"))
    assert slept == []
    found.declare(auto_delete("reply-1"))
    found.create()
    assert slept == [1]


def test_fed_queue_that_was_there_keeps_its_policy(fake: FakeClients, topology: Topology) -> None:
    for exchange in ("celeryev", "news"):
        binding = Binding(exchange, "topic", "#")
        fed(Temporaries(topology, make_presence(fake, topology)), topology, auto_delete("shared"), binding)
    policy = fake.queues.queue("shared").attributes["Policy"]
    assert {arn.rpartition(":")[2] for arn in named_topics(policy)} == {"celeryev", "news"}
    assert topology.bindings("shared").exchanges() == {"celeryev", "news"}


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


UUID = "5bd2f5a0-8a7e-4bd2-9b3f-f0f1e6ee9d2b"


def test_what_goes_with_its_connection(fake: FakeClients, topology: Topology, temporaries: Temporaries) -> None:
    temporaries.declare(exclusive("exclusive"))
    temporaries.declare(auto_delete(f"results-{UUID}"))
    temporaries.declare(auto_delete("shared"))
    temporaries.declare(auto_delete("only-declared"))
    temporaries.create()
    temporaries.consumed(f"results-{UUID}")
    temporaries.consumed("shared")
    temporaries.delete_all()
    # rpc:// declares its result queue on the producer's connection: another one consumes from it. And a shared one is
    # found by the worker that is started again, or removed by a janitor.
    assert set(fake.queues.by_name) == {"only-declared", "shared"}


def test_a_shared_queue_that_is_fed_is_one_for_all_its_consumers(
    fake: FakeClients, topology: Topology, temporaries: Temporaries
) -> None:
    fed(temporaries, topology, auto_delete("shared"))
    elsewhere = Topology(fake, make_settings(read_timeout=16))
    fed(Temporaries(elsewhere, make_presence(fake, elsewhere)), elsewhere, auto_delete("shared"))
    assert set(fake.queues.by_name) == {"shared"}


@pytest.mark.parametrize("name", ["w1@host.celery.pidbox", f"{UUID}.reply.celery.pidbox"])
def test_the_queue_of_a_mailbox_is_its_own(
    fake: FakeClients, topology: Topology, temporaries: Temporaries, name: str
) -> None:
    # kombu before 5.6 declares it as auto-delete.
    fed(temporaries, topology, auto_delete(name), Binding("celery.pidbox", "fanout"))
    assert name not in fake.queues.by_name
    temporaries.delete_all()
    assert not fake.queues.by_name


def process(fake: FakeClients, number: int) -> tuple[Topology, Temporaries]:
    """What another process has."""
    topology = Topology(fake, make_settings(read_timeout=20 + number))
    return topology, Temporaries(topology, make_presence(fake, topology))


@pytest.mark.parametrize("spec", [auto_delete(f"q-{UUID}"), exclusive("q")])
def test_a_queue_that_another_process_uses_survives(fake: FakeClients, spec: QueueSpec) -> None:
    users = [process(fake, number)[1] for number in range(2)]
    for temporaries in users:
        temporaries.declare(spec)
        temporaries.create()
        temporaries.consumed(spec.name)
    for presence in (temporaries._presence for temporaries in users):
        presence.work()
    users[0].delete_all()
    assert spec.name in fake.queues.by_name
    users[1].delete_all()
    assert spec.name not in fake.queues.by_name


def test_a_queue_that_another_connection_of_the_process_uses_survives(
    fake: FakeClients, topology: Topology, presence: Presence
) -> None:
    users = [Temporaries(topology, presence) for _ in range(2)]
    for spec in (exclusive("mine"), auto_delete(f"q-{UUID}")):
        for temporaries in users:
            temporaries.declare(spec)
            temporaries.create()
            temporaries.consumed(spec.name)
    users[0].delete_all()
    assert len(fake.queues.by_name) == 2
    users[1].delete_all()
    assert not fake.queues.by_name


def test_where_tagging_is_denied_queues_go_with_their_connection_all_the_same(
    fake: FakeClients, topology: Topology, temporaries: Temporaries
) -> None:
    fake.deny("sqs:TagQueue")
    for spec in (exclusive("mine"), auto_delete(f"q-{UUID}"), auto_delete("shared")):
        temporaries.declare(spec)
        temporaries.create()
        temporaries.consumed(spec.name)
    temporaries.delete_all()
    assert set(fake.queues.by_name) == {"shared"}


def test_a_queue_that_was_there_before_and_is_not_temporary_stays(
    fake: FakeClients, topology: Topology, temporaries: Temporaries
) -> None:
    name = f"q-{UUID}"
    Topology(fake, make_settings()).declare_queue(QueueSpec(name))
    temporaries.declare(auto_delete(name))
    temporaries.create()
    temporaries.consumed(name)
    temporaries.delete_all()
    assert set(fake.queues.by_name) == {name}
    assert "hake:temporary" not in fake.queues.queue(name).tags


# --- reply queues


def test_a_reply_queue_goes_two_minutes_after_its_last_reply(
    fake: FakeClients, presence: Presence, temporaries: Temporaries
) -> None:
    temporaries.declare(exclusive("oid.reply.celery.pidbox"))
    temporaries.create()
    temporaries.retire("oid.reply.celery.pidbox")
    fake.clock.advance(119)
    presence.work()
    assert len(fake.queues.by_name) == 1
    fake.clock.advance(1)
    assert presence.work() is None
    assert not fake.queues.by_name
    assert fake.count("tag_queue") == 0  # a question to the workers costs no request for its heartbeats


def test_a_reply_queue_that_is_wanted_again_stays(
    fake: FakeClients, presence: Presence, temporaries: Temporaries
) -> None:
    for _ in range(5):
        temporaries.declare(exclusive("oid.reply.celery.pidbox"))
        temporaries.create()
        temporaries.retire("oid.reply.celery.pidbox")
        fake.clock.advance(100)
        presence.work()
    assert fake.count("create_queue") == 1
    fake.clock.advance(120)
    presence.work()
    temporaries.declare(exclusive("oid.reply.celery.pidbox"))
    fake.clock.advance(60)
    temporaries.create()
    assert len(fake.queues.by_name) == 1


# --- gone, and about to go


def test_an_owner_whose_queue_was_deleted_makes_another_incarnation(
    fake: FakeClients,
    topology: Topology,
    presence: Presence,
    temporaries: Temporaries,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fed(temporaries, topology, exclusive())
    [before] = fake.queues.by_name
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue(before).url)
    fake.clock.advance(600)
    presence.work()
    [after] = fake.queues.by_name
    assert after != before
    assert topology.queues.url("q") == fake.queues.queue(after).url
    assert fake.queues.queue(after).arn in fake.topics.by_name["celeryev"].subscriptions
    assert "had been deleted" in caplog.text
    temporaries.delete_all()
    assert not fake.queues.by_name


def test_its_poller_and_its_heartbeats_make_it_again_once(
    fake: FakeClients, topology: Topology, presence: Presence, temporaries: Temporaries
) -> None:
    fed(temporaries, topology, exclusive())
    [before] = fake.queues.by_name
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue(before).url)
    url = temporaries.make_again("q")
    assert temporaries.make_again("q") == url
    fake.clock.advance(600)
    presence.work()
    assert [queue.url for queue in fake.queues.by_name.values()] == [url]


def test_an_owner_that_is_late_finds_the_note_of_a_janitor_and_binds_again(
    fake: FakeClients,
    topology: Topology,
    presence: Presence,
    temporaries: Temporaries,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fed(temporaries, topology, exclusive())
    [queue] = fake.queues.by_name.values()
    queue.tags["hake:condemned"] = "1 somebody"
    fake.topics.by_name["celeryev"].subscriptions.clear()
    fake.clock.advance(601)
    presence.work()
    assert "hake:condemned" not in queue.tags
    assert queue.arn in fake.topics.by_name["celeryev"].subscriptions
    assert "sent no heartbeat for" in caplog.text
    assert "it is kept" in caplog.text


def test_an_owner_in_time_looks_for_no_note(
    fake: FakeClients, topology: Topology, presence: Presence, temporaries: Temporaries
) -> None:
    fed(temporaries, topology, exclusive())
    fake.calls.clear()
    for _ in range(30):
        fake.clock.advance(120)
        presence.work()
    assert fake.counts() == {"tag_queue": 30}


# --- and the rest


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
    presence = make_presence(fake, topology)
    mine, theirs = Temporaries(topology, presence), Temporaries(topology, presence)
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


# --- what can't be told


def test_a_queue_is_not_deleted_while_it_cannot_be_told_whether_others_use_it(
    fake: FakeClients, temporaries: Temporaries
) -> None:
    temporaries.declare(exclusive("reply-1"))
    temporaries.create()
    fake.fail("list_queue_tags", BrokerUnavailable("x"))
    temporaries.delete_all()
    assert "reply-1" in fake.queues.by_name


def test_a_queue_whose_tags_may_not_be_read_is_its_owners_to_delete(
    fake: FakeClients, temporaries: Temporaries
) -> None:
    temporaries.declare(exclusive("reply-1"))
    temporaries.create()
    fake.deny("sqs:ListQueueTags")
    temporaries.delete_all()
    assert "reply-1" not in fake.queues.by_name


def test_a_lookup_that_fails_does_not_make_a_second_queue(
    fake: FakeClients, topology: Topology, temporaries: Temporaries
) -> None:
    fed(temporaries, topology, exclusive("celeryev.monitor"))
    before = set(fake.queues.by_name)
    fake.fail("get_queue_url", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        temporaries.make_again("celeryev.monitor")
    assert temporaries.make_again("celeryev.monitor") is not None
    assert set(fake.queues.by_name) == before


@pytest.mark.parametrize("error", [BrokerUnavailable("x"), AccessDenied("no")])
def test_a_queue_that_cannot_be_looked_for_is_not_taken_for_missing(fake: FakeClients, error: Exception) -> None:
    fake.sqs("create_queue", QueueName="reply-1")
    topology = Topology(fake, make_settings(topology="verify"))
    temporaries = Temporaries(topology, make_presence(fake, topology))
    temporaries.declare(exclusive("reply-1"))
    fake.fail("get_queue_url", error)
    with pytest.raises(type(error)):
        temporaries.create()
