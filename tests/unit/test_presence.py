"""Heartbeats: as many as are stated, from a process that lives, for queues that it uses."""

import gc
import logging
import threading
from email.utils import formatdate
from typing import Any

import pytest
from fakes import FakeClients, FakeClock, connected, eventually, make_presence, make_settings
from kombu import Consumer, Exchange, Queue
from unit.test_forksafe import in_child, unlock

from kombu_hake.amqp import ownership
from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.amqp.ownership import Kind, Ownership
from kombu_hake.aws.clock import AwsClock
from kombu_hake.exceptions import BrokerUnavailable, DeclarationMismatch
from kombu_hake.temporary.presence import Presence
from kombu_hake.topology.spec import QueueSpec, retention_s
from kombu_hake.topology.topology import Topology

SHARED = Kind(auto_delete=True)


class Holder:
    """A connection."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def on_gone(self, url: QueueUrl) -> None:
        self.told.append(("gone", url))
        if self.error:
            raise self.error

    def on_condemned(self, url: QueueUrl) -> None:
        self.told.append(("condemned", url))

    def on_retired(self, url: QueueUrl) -> None:
        self.told.append(("retired", url))


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients(FakeClock(1_800_000_000.0))


@pytest.fixture
def presence(fake: FakeClients) -> Presence:
    return another(fake)


@pytest.fixture
def holder() -> Holder:
    return Holder()


def another(fake: FakeClients, **options: Any) -> Presence:
    return make_presence(fake, Topology(fake, make_settings(**options)))


def make(fake: FakeClients, kind: Kind = SHARED, name: str = "q", **tags: str) -> QueueUrl:
    found = ownership.kind_tag(kind) | ownership.used_tag(fake.clock()) | tags
    return QueueUrl(fake.sqs("create_queue", QueueName=name, tags=found)["QueueUrl"])


def read(fake: FakeClients, name: str = "q") -> Ownership:
    found = ownership.read(fake.queues.queue(name).tags)
    assert found is not None
    return found


# --- how often


def test_thirty_requests_an_hour_a_queue(fake: FakeClients, presence: Presence, holder: Holder) -> None:
    urls = [make(fake, name=name) for name in ("a", "b")]
    for url in urls:
        presence.join(url, holder, None)
    fake.calls.clear()
    for _ in range(3_600):
        fake.clock.advance(1)
        presence.work()
    assert set(fake.counts()) == {"tag_queue"}
    assert fake.count("tag_queue") in (60, 61)
    assert len(read(fake, "a").live_users(fake.clock())) == 1


def test_a_queue_that_stays_costs_one_look_and_none_at_its_tags(
    fake: FakeClients, presence: Presence, holder: Holder
) -> None:
    url = QueueUrl(fake.sqs("create_queue", QueueName="q")["QueueUrl"])
    fake.calls.clear()
    for _ in range(5):
        presence.join(url, holder, Kind())
        presence.leave(url, holder, now=True)
    assert fake.counts() == {"get_queue_attributes": 1}
    assert presence.work() is None


def test_uses_that_are_over_at_once_are_written_down_once_a_minute(fake: FakeClients, presence: Presence) -> None:
    url = make(fake, Kind(expires_s=600))
    fake.calls.clear()
    for _ in range(600):
        presence.signs.touch(url, None)
        fake.clock.advance(1)
    assert fake.count("tag_queue") == 10
    assert fake.clock() - (read(fake).used_s or 0) <= 60


# --- faults


def test_a_kind_that_could_not_be_read_is_asked_for_again(fake: FakeClients, presence: Presence) -> None:
    url = make(fake)
    fake.fail("list_queue_tags", BrokerUnavailable("x"))
    assert presence.signs.kind(url, None) is None
    assert presence.signs.kind(url, None) == SHARED
    fake.calls.clear()
    assert presence.signs.kind(url, None) == SHARED
    assert not fake.calls


def test_a_kind_that_may_not_be_read_is_not_asked_for_again(fake: FakeClients, presence: Presence) -> None:
    url = make(fake)
    fake.deny("sqs:ListQueueTags")
    for _ in range(3):
        assert presence.signs.kind(url, None) is None
    assert fake.count("list_queue_tags") == 1


def test_a_queue_declared_as_temporary_is_used_although_its_kind_could_not_be_read(
    fake: FakeClients, presence: Presence, holder: Holder
) -> None:
    url = make(fake)
    fake.fail("list_queue_tags", BrokerUnavailable("x"), BrokerUnavailable("x"))
    presence.join(url, holder, SHARED)
    presence.work()
    assert len(read(fake).live_users(fake.clock())) == 1


@pytest.mark.parametrize("operation", ["get_queue_attributes", "list_queue_tags"])
def test_a_queue_that_is_to_stay_is_healed_after_a_failure(fake: FakeClients, operation: str) -> None:
    presence = another(fake)
    retention = retention_s(presence.signs._settings, is_temporary=True)
    url = make(fake)
    fake.sqs("set_queue_attributes", QueueUrl=url, Attributes={"MessageRetentionPeriod": retention})
    fake.fail(operation, BrokerUnavailable("x"))
    for _ in range(2):
        assert presence.signs.kind(url, Kind()) is None
    assert ownership.read(fake.queues.queue("q").tags) is None  # it stays


def test_an_outage_is_survived(fake: FakeClients, presence: Presence, holder: Holder) -> None:
    url = make(fake)
    presence.join(url, holder, None)
    fake.fail("tag_queue", *[BrokerUnavailable("x", is_throttle=number % 2 == 0) for number in range(8)])
    for _ in range(16):
        fake.clock.advance(30)
        presence.work()
    assert read(fake).live_users(fake.clock())
    assert not holder.told


def test_a_first_sign_that_fails_is_made_up_for(fake: FakeClients, presence: Presence, holder: Holder) -> None:
    url = make(fake)
    fake.fail("tag_queue", BrokerUnavailable("x"))
    presence.join(url, holder, None)
    assert not read(fake).users
    presence.work()
    assert len(read(fake).live_users(fake.clock())) == 1


def test_where_tagging_is_denied_it_is_said_once(
    fake: FakeClients, presence: Presence, holder: Holder, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        presence.join(make(fake, name=name), holder, None)
    fake.deny("sqs:TagQueue")
    fake.clock.advance(600)
    assert presence.work() is None
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "Allow sqs:TagQueue" in said[0]


def test_a_note_that_may_not_be_removed_ends_no_heartbeat(
    fake: FakeClients, presence: Presence, holder: Holder
) -> None:
    url = make(fake)
    presence.join(url, holder, None)
    fake.queues.queue("q").tags |= ownership.condemned_tag(fake.clock(), "x")
    fake.deny("sqs:UntagQueue")
    fake.clock.advance(601)
    presence.work()
    assert holder.told == [("condemned", url)]
    assert presence.is_used(url)


def test_a_queue_that_is_gone_is_told_until_it_is_made_again(
    fake: FakeClients, presence: Presence, holder: Holder
) -> None:
    url = make(fake)
    presence.join(url, holder, None)
    fake.sqs("delete_queue", QueueUrl=url)
    holder.error = BrokerUnavailable("x")
    for _ in range(3):
        fake.clock.advance(120)
        presence.work()
    assert holder.told == [("gone", url)] * 3
    holder.error = None
    fake.clock.advance(120)
    assert presence.work() is None


def test_a_queue_that_was_deleted_by_ourselves_meanwhile_is_not_told(
    fake: FakeClients, presence: Presence, holder: Holder
) -> None:
    url = make(fake)
    presence.join(url, holder, None)

    def leave() -> None:
        presence.leave(url, holder, now=True, is_deleted=True)
        fake.queues.delete_queue(url)

    fake.before("tag_queue", leave)
    fake.clock.advance(600)
    presence.work()
    assert not holder.told


# --- coming and going


def test_who_leaves_says_so_and_the_queue_is_kept_for_a_while(
    fake: FakeClients, presence: Presence, holder: Holder
) -> None:
    url = make(fake)
    presence.join(url, holder, None)
    presence.leave(url, holder, now=True)
    assert not read(fake).live_users(fake.clock())
    assert read(fake).due_s() == fake.clock() + 600


def test_a_consumer_that_comes_back_soon_costs_nothing(fake: FakeClients, presence: Presence, holder: Holder) -> None:
    url = make(fake)
    presence.join(url, holder, None)
    fake.calls.clear()
    for _ in range(10):
        presence.leave(url, holder, now=False)
        presence.join(url, holder, None)
    assert not fake.calls
    presence.leave(url, holder, now=False)
    fake.clock.advance(120)
    assert presence.work() is None
    assert not read(fake).live_users(fake.clock())


def test_a_connection_that_nobody_closed_uses_nothing(fake: FakeClients, presence: Presence) -> None:
    url = make(fake)
    presence.join(url, Holder(), None)
    gc.collect()
    fake.clock.advance(600)
    assert presence.work() is None


def test_more_users_than_there_is_room_for_share_a_tag(fake: FakeClients) -> None:
    url = make(fake)
    users = [(another(fake), Holder()) for _ in range(10)]
    for presence, holder in users:
        presence.join(url, holder, None)
    names = {user.name for user in read(fake).users}
    assert len(names) == ownership.MAX_USERS + 1
    assert ownership.OTHERS in names
    for presence, holder in users[:-1]:
        presence.leave(url, holder, now=True)
    last = users[-1][0]
    fake.clock.advance(120)
    last.work()
    assert [user.name for user in read(fake).live_users(fake.clock())] == [ownership.OTHERS]
    assert users[0][0].signs.has_others(url)


def test_tags_of_the_dead_make_room(fake: FakeClients) -> None:
    url = make(fake)
    for _ in range(30):
        another(fake).join(url, Holder(), None)
        fake.clock.advance(1_300)
    assert len(read(fake).users) <= 2


# --- the thread


def test_the_thread_ends_with_the_last_queue(fake: FakeClients) -> None:
    with connected(fake) as connection:
        channel = connection.channel()
        Queue("q", Exchange("orders", "fanout"), exclusive=True)(channel).declare()
        assert [thread.name for thread in threading.enumerate() if thread.name == "hake-presence"]
        connection.close()
        eventually(lambda: "hake-presence" not in {thread.name for thread in threading.enumerate()})
        assert not fake.queues.by_name


def test_nothing_starts_for_a_queue_that_stays(fake: FakeClients) -> None:
    before = set(threading.enumerate())
    with connected(fake) as connection, Consumer(connection.channel(), [Queue("q")]):
        assert "hake-presence" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_a_forked_child_sends_no_heartbeats_for_its_parents_queues(
    fake: FakeClients, presence: Presence, holder: Holder
) -> None:
    url = make(fake)
    presence.join(url, holder, None)
    name = presence.signs.name

    def check() -> None:
        unlock(fake)
        assert presence.work() is None
        assert not presence.is_used(url)
        assert presence.signs.name != name

    in_child(check)
    assert presence.is_used(url)


# --- through a channel


@pytest.mark.parametrize("expires", ["soon", True, 0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(fake: FakeClients, expires: object) -> None:
    with connected(fake) as connection, pytest.raises(DeclarationMismatch, match="x-expires of queue 'q'"):
        connection.channel().queue_declare("q", arguments={"x-expires": expires})
    assert not fake.queues.by_name


@pytest.mark.parametrize("name", ["x-message-ttl", "x-max-priority"])
@pytest.mark.parametrize("value", ["soon", True, -1, float("nan"), [1]])
def test_a_number_of_a_queue_that_is_none_is_refused(fake: FakeClients, name: str, value: object) -> None:
    with (
        connected(fake) as connection,
        pytest.raises(DeclarationMismatch, match=f"{name} of queue 'q' is .* 0 or more"),
    ):
        connection.channel().queue_declare("q", arguments={name: value})
    assert not fake.queues.by_name


def test_kombus_expires_is_heeded(fake: FakeClients) -> None:
    with connected(fake) as connection:
        Queue("q", expires=1_200.0)(connection.channel()).declare()
        with Consumer(connection.channel(), [Queue("q", expires=1_200.0)]):
            assert len(read(fake).users) == 1
        connection.close()
    assert str(read(fake).kind) == "expires=1200"
    assert not read(fake).live_users(fake.clock())


def test_levels_of_a_queue_with_priorities_are_all_alive(fake: FakeClients) -> None:
    with connected(fake) as connection:
        queue = Queue("q", auto_delete=True, max_priority=9, expires=1_200.0)
        with Consumer(connection.channel(), [queue]):
            assert len(fake.queues.by_name) > 1
            for name in fake.queues.by_name:
                assert str(read(fake, name).kind) == "auto-delete expires=1200"
                assert len(read(fake, name).users) == 1


def test_a_getter_uses_the_queue(fake: FakeClients) -> None:
    Topology(fake, make_settings()).declare_queue(QueueSpec("q", arguments={"x-expires": 600_000}))
    fake.clock.advance(500)
    with connected(fake) as connection:
        connection.default_channel.basic_get("q")
    assert fake.clock() - (read(fake).used_s or 0) <= 1  # a get waits a second


# --- the clock


def test_the_clock_is_that_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = AwsClock()
    monkeypatch.setattr("kombu_hake.aws.clock.time.time", lambda: 1_800_000_000.0)
    clock.learn(None)
    clock.learn("no date")
    assert clock.now_s() == 1_800_000_000.0
    clock.learn(formatdate(1_800_003_600, usegmt=True))
    assert clock.now_s() == 1_800_003_600.0
    clock.learn(formatdate(1_800_000_000, usegmt=True))  # not again within a minute
    assert clock.now_s() == 1_800_003_600.0


def test_a_little_blur_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = AwsClock()
    monkeypatch.setattr("kombu_hake.aws.clock.time.time", lambda: 1_800_000_000.9)
    clock.learn(formatdate(1_800_000_000, usegmt=True))
    assert clock.offset_s == 0


def test_signs_are_in_the_time_of_aws(fake: FakeClients) -> None:
    assert Topology(fake, make_settings()).signs.now_s() == fake.clock()


def test_no_heartbeat_waits_for_a_sweep(fake: FakeClients, holder: Holder) -> None:
    class Throttled:
        due_at, steps = 0.0, 0

        def start(self, is_own: Any) -> None:
            pass

        def step(self) -> None:
            self.steps += 1

    sweeper = Throttled()
    presence = make_presence(fake, Topology(fake, make_settings()), sweeper)
    presence.join(make(fake), holder, None)
    fake.calls.clear()
    for _ in range(10):
        fake.clock.advance(presence.interval_s)
        presence.work()
    assert sweeper.steps == 0
    assert fake.count("tag_queue") == 10
    presence.sweep()
    assert sweeper.steps == 1
