"""The janitor removes what is certainly left behind, and nothing else."""

import hashlib
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeClients, FakeClock, make_presence, make_settings

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.naming import Namer
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable
from kombu_hake.temporary.janitor import MOST_LOOKS, Janitor, Report
from kombu_hake.temporary.temporaries import Temporaries
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topology import Topology

EVENTS = Binding("celeryev", "topic", "#")
NAMES = ("shop", "shop2", "")
LIMIT_S = 600


class Process:
    """What a process has of this package, with settings of its own."""

    def __init__(self, fake: FakeClients, namespace: str = "", **options: Any) -> None:
        settings = make_settings(f"hake://localhost:1/{namespace}", **options)
        self.fake = fake
        self.topology = Topology(fake, settings)
        self.janitor = Janitor(
            fake, settings, self.topology.topics, self.topology.home, clock=fake.clock, chance=random.Random(1)
        )
        self.presence = make_presence(fake, self.topology, self.janitor)
        self.temporaries = Temporaries(self.topology, self.presence)

    def make(self, name: str, binding: Binding | None = None, **how: Any) -> str:
        """Declare a temporary queue; its name in AWS."""
        self.temporaries.declare(QueueSpec(name, **how))
        if binding is not None:
            self.temporaries.create_fed(name, binding.exchange)
            self.topology.bind(name, binding)
        self.temporaries.create()
        return self.topology.queues.physical(name)

    def sweep(self, between: Callable[[], None] = lambda: None, **how: Any) -> Report:
        """One sweep; *between* happens in its long wait."""
        report = Report()
        for wait_s in self.janitor.sweep(report, **how):
            if wait_s > 10:
                between()
            self.fake.clock.advance(wait_s)
        return report


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients(FakeClock(1_800_000_000.0))


@pytest.fixture
def process(fake: FakeClients) -> Process:
    return Process(fake)


def states(report: Report) -> dict[str, str]:
    return {found.name: found.state for found in report.queues}


# --- what is removed


def test_what_a_crash_left_behind_goes_with_its_subscriptions(fake: FakeClients, process: Process) -> None:
    dead = [Process(fake) for _ in range(20)]
    for number, one in enumerate(dead):
        one.make(f"w{number}@host.celery.pidbox", Binding("celery.pidbox", "fanout"), exclusive=True)
        one.make(f"events{number}", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    report = process.sweep()
    assert not fake.queues.by_name
    assert not any(topic.subscriptions for topic in fake.topics.by_name.values())
    assert set(states(report).values()) == {"removed"}
    assert len(report.queues) == 40


def test_a_queue_with_priorities_goes_with_its_levels_and_their_subscriptions(
    fake: FakeClients, process: Process
) -> None:
    process.temporaries.declare(QueueSpec("q", auto_delete=True, arguments={"x-max-priority": 9}))
    process.temporaries.create_fed("q", "events")
    process.topology.bind("q", Binding("events", "direct", "placed"))
    process.temporaries.consumed("q")
    topic = fake.topics.by_name["events"]
    for level in [queue for queue in fake.queues.by_name.values() if queue.name != "q"]:  # as with SNS's own filters
        level.tags["hake:level-of"] = "q"
        fake.sns("subscribe", TopicArn=topic.arn, Protocol="sqs", Endpoint=level.arn)
    assert len(fake.queues.by_name) == len(topic.subscriptions) == 4
    fake.clock.advance(LIMIT_S + 1)
    process.sweep()
    assert not fake.queues.by_name
    assert not topic.subscriptions


def test_subscriptions_go_before_the_queue(fake: FakeClients, process: Process) -> None:
    process.make("q", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    process.sweep()
    operations = [operation for operation, _ in fake.calls]
    assert operations.index("unsubscribe") < operations.index("delete_queue")


@pytest.mark.parametrize("binding", [None, EVENTS])
def test_an_auto_delete_queue_goes_some_time_after_its_last_consumer(
    fake: FakeClients, process: Process, binding: Binding | None
) -> None:
    one, other = Process(fake), Process(fake)
    for user in (one, other):
        user.make("q", binding, auto_delete=True)
        user.temporaries.consumed("q")
    one.temporaries.delete_all()
    for _ in range(20):
        fake.clock.advance(120)
        other.presence.work()
        assert states(process.sweep()) == {"q": "used"}
    other.temporaries.delete_all()
    assert states(process.sweep()) == {"q": "waiting"}  # for a worker that is started again
    fake.clock.advance(LIMIT_S)
    assert states(process.sweep()) == {"q": "removed"}
    assert not fake.queues.by_name


def test_an_auto_delete_queue_waits_for_its_first_consumer(fake: FakeClients, process: Process) -> None:
    process.make("q", auto_delete=True)
    fake.clock.advance(30 * 86_400)
    report = process.sweep()
    assert states(report) == {"q": "waiting"}
    assert report.queues[0].due_in_s is None


def test_an_expiring_queue_goes_when_it_was_not_used_for_so_long(fake: FakeClients, process: Process) -> None:
    spec = QueueSpec("q", arguments={"x-expires": 3_600_000})
    process.topology.declare_queue(spec)
    fake.clock.advance(3_500)
    process.topology.declare_queue(spec)  # a use
    fake.clock.advance(3_500)
    process.temporaries.got("q", process.topology.queues.url("q"))  # another one
    fake.clock.advance(3_500)
    process.temporaries.consumed("q")
    for _ in range(100):
        fake.clock.advance(120)
        process.presence.work()
    process.temporaries.delete_all()  # not at a stop
    fake.clock.advance(3_000)
    assert states(process.sweep()) == {"q": "waiting"}
    fake.clock.advance(3_600 + LIMIT_S)
    assert states(process.sweep()) == {"q": "removed"}


def test_ten_minutes_are_the_least_that_an_expiring_queue_has(fake: FakeClients, process: Process) -> None:
    process.topology.declare_queue(QueueSpec("q", arguments={"x-expires": 1}))
    fake.clock.advance(595)
    assert states(process.sweep()) == {"q": "waiting"}
    fake.clock.advance(10)
    assert states(process.sweep()) == {"q": "removed"}


def test_a_subscription_whose_queue_is_gone_goes_if_it_proves_to_be_ours(fake: FakeClients, process: Process) -> None:
    process.make("w1", EVENTS, exclusive=True)
    gone = process.make("w2", EVENTS, exclusive=True)
    arn = fake.queues.queue(gone).arn
    topic = fake.topics.by_name["celeryev"]
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue(gone).url)
    similar = [
        arn[:-1] + ("0" if arn[-1] != "0" else "1"),  # a name like ours
        arn.replace(gone, "orders"),
        arn.replace(gone, Namer("shop").incarnation("w2")),
        arn.replace(":111122223333:", ":999999999999:"),
        arn.replace("eu-west-1", "eu-west-2"),
    ]
    for endpoint in similar:
        fake.sns("subscribe", TopicArn=topic.arn, Protocol="sqs", Endpoint=endpoint)
    report = process.sweep()
    assert len(report.subscriptions) == 1
    assert arn not in topic.subscriptions
    assert set(topic.subscriptions) >= set(similar)
    assert len(topic.subscriptions) == len(similar) + 1


def test_a_subscription_whose_queue_comes_up_meanwhile_stays(fake: FakeClients, process: Process) -> None:
    name = process.make("w1", EVENTS, exclusive=True)
    process.make("w2", EVENTS, exclusive=True)
    url, queue = fake.queues.queue(name).url, fake.queues.by_name.pop(name)
    steps = process.janitor.sweep(Report())
    for wait_s in steps:
        if wait_s == 3.0:  # the wait between its two looks at subscriptions
            fake.queues.by_name[name] = queue
        fake.clock.advance(wait_s)
    assert len(fake.topics.by_name["celeryev"].subscriptions) == 2
    assert fake.sqs("get_queue_url", QueueName=name)["QueueUrl"] == url


# --- what is not touched


def test_nothing_of_others_is_touched(fake: FakeClients, process: Process) -> None:
    dead = process.make("w1@host.celery.pidbox", Binding("celery.pidbox", "fanout"), exclusive=True)
    process.topology.declare_queue(QueueSpec("email"))
    process.topology.bind("email", Binding("orders", "fanout"))
    similar = dead[:-1] + "x"
    fake.sqs("create_queue", QueueName=similar)
    fake.sqs("create_queue", QueueName="not-ours", tags={"hake:temporary": "exclusive", "hake:user:a": "1 1 x"})
    fake.sqs("create_queue", QueueName="a-copy", tags={**fake.queues.queue(dead).tags, "hake:namespace": "shop"})
    fake.clock.advance(30 * 86_400)
    process.sweep()
    assert set(fake.queues.by_name) == {"email", similar, "not-ours", "a-copy"}
    assert len(fake.topics.by_name["orders"].subscriptions) == 1


@pytest.mark.parametrize("mine", NAMES)
def test_no_namespace_touches_another_one(fake: FakeClients, mine: str) -> None:
    for namespace in NAMES:
        Process(fake, namespace).make("events", EVENTS, exclusive=True)
        Process(fake, namespace).make("results", exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    before = set(fake.queues.by_name)
    Process(fake, mine).sweep()
    gone = before - set(fake.queues.by_name)
    assert len(gone) == 2
    assert all(Namer(mine).owns(name) for name in gone)


def test_a_living_queue_is_kept_whatever_the_clocks_say(fake: FakeClients, process: Process) -> None:
    user = Process(fake)
    user.make("q", EVENTS, exclusive=True)
    # Its promises were over long ago by the clock of this AWS, as if its own clock were wrong by an hour.
    real = user.topology.signs.now_s
    user.topology.signs.now_s = lambda: real() - 3_600  # type: ignore[method-assign]

    def renew() -> None:
        fake.clock.advance(120)
        user.presence.work()

    renew()
    report = process.sweep(renew)
    assert set(states(report).values()) == {"kept"}
    assert len(fake.queues.by_name) == 1
    assert len(fake.topics.by_name["celeryev"].subscriptions) == 1


def test_an_owner_that_wakes_up_during_the_last_look_keeps_its_queue(fake: FakeClients, process: Process) -> None:
    user = Process(fake)
    name = user.make("q", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    report = Report()
    for wait_s in process.janitor.sweep(report):
        if "hake:condemned" in fake.queues.queue(name).tags:
            user.presence.work()
        fake.clock.advance(wait_s)
    assert states(report) == {name: "kept"}
    assert len(fake.topics.by_name["celeryev"].subscriptions) == 1
    assert "hake:condemned" not in fake.queues.queue(name).tags


def test_an_owner_that_wakes_up_too_late_makes_its_queue_again(
    fake: FakeClients, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    user = Process(fake)
    before = user.make("q", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    process.sweep()
    user.presence.work()
    [queue] = fake.queues.by_name.values()
    assert queue.name != before
    assert list(fake.topics.by_name["celeryev"].subscriptions) == [queue.arn]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_owner_that_comes_back_to_a_janitor_that_died_half_way(fake: FakeClients, process: Process) -> None:
    user = Process(fake)
    name = user.make("q", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    for wait_s in process.janitor.sweep(Report()):
        if not fake.topics.by_name["celeryev"].subscriptions:
            break  # killed between the subscription and the queue
        fake.clock.advance(wait_s)
    user.presence.work()
    assert list(fake.topics.by_name["celeryev"].subscriptions) == [fake.queues.queue(name).arn]
    assert "hake:condemned" not in fake.queues.queue(name).tags


def test_the_next_janitor_finishes_what_a_dead_one_began(fake: FakeClients, process: Process) -> None:
    process.make("q", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    steps = 0
    while fake.queues.by_name:
        janitor = Process(fake).janitor.sweep(Report())
        for _ in range(steps):
            try:
                fake.clock.advance(next(janitor))
            except StopIteration:
                break
        steps += 1
        assert steps < 30
    assert not fake.topics.by_name["celeryev"].subscriptions
    assert steps > 8  # it was killed at each of its steps before


def test_two_janitors_at_once_do_no_harm(fake: FakeClients) -> None:
    for number in range(5):
        Process(fake).make(f"q{number}", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    alive = Process(fake)
    alive.make("alive", EVENTS, exclusive=True)
    janitors = [Process(fake).janitor.sweep(Report()) for _ in range(2)]
    while janitors:
        for janitor in list(janitors):
            if next(janitor, None) is None:
                janitors.remove(janitor)
        fake.clock.advance(1)
        alive.presence.work()
    assert len(fake.queues.by_name) == len(fake.topics.by_name["celeryev"].subscriptions) == 1


def test_a_queue_that_somebody_else_deletes_meanwhile_is_fine(fake: FakeClients, process: Process) -> None:
    name = process.make("q", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    report = process.sweep(lambda: fake.sqs("delete_queue", QueueUrl=fake.queues.queue(name).url) and None)
    assert states(report) == {name: "gone"}


def test_a_queue_that_is_declared_to_stay_stays(fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    old = Process(fake)
    old.make("orders", auto_delete=True)
    old.temporaries.consumed("orders")
    old.temporaries.delete_all()
    new = Process(fake)
    new.topology.declare_queue(QueueSpec("orders"))
    new.temporaries.consumed("orders")
    assert "was temporary (auto-delete); it is now permanent" in caplog.text
    fake.clock.advance(30 * 86_400)
    assert not new.sweep().queues
    assert "orders" in fake.queues.by_name


def test_a_queue_that_is_declared_with_another_time_has_that(fake: FakeClients, process: Process) -> None:
    process.topology.declare_queue(QueueSpec("q", arguments={"x-expires": 600_000}))
    new = Process(fake)
    new.topology.declare_queue(QueueSpec("q", arguments={"x-expires": 86_400_000}))
    assert fake.queues.queue("q").tags["hake:temporary"] == "expires=86400"


@pytest.mark.parametrize("mode", ["verify", "assume"])
def test_where_nothing_is_made_nothing_is_removed(fake: FakeClients, mode: str) -> None:
    Process(fake).make("q", exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    fake.calls.clear()
    idle = Process(fake, topology=mode, account_id="111122223333", predefined_queues={"q": fake.queues.queue("q").url})
    idle.janitor.start(idle.presence.is_used)
    idle.temporaries.declare(QueueSpec("q", exclusive=True))
    idle.temporaries.create()
    idle.temporaries.consumed("q")
    idle.temporaries.got("q", idle.topology.queues.url("q"))
    fake.clock.advance(86_400)
    assert idle.presence.work() is None
    idle.temporaries.delete_all()
    assert idle.janitor.due_at == float("inf")
    assert not fake.calls


# --- forged tags

FORGED = {"hake:namespace": "-", "hake:temporary": "exclusive", "hake:user:a": "1 3 x"}


@pytest.mark.parametrize("name", ["billing-prod", "orders.fifo", "0f9e8d7c-6b5a-4938-8271-605142332415", "f" * 64])
def test_tags_alone_make_no_queue_temporary(fake: FakeClients, process: Process, name: str) -> None:
    attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    url = fake.sqs("create_queue", QueueName=name, Attributes=attributes)["QueueUrl"]
    fake.sqs("tag_queue", QueueUrl=url, Tags=FORGED)
    fake.clock.advance(LIMIT_S)
    assert states(process.sweep()) == {name: "unproven"}
    process.sweep(most=MOST_LOOKS)
    assert set(fake.queues.by_name) == {name}
    assert "hake:condemned" not in fake.queues.queue(name).tags


def test_a_queue_of_ours_that_stays_is_not_made_temporary_by_tags(fake: FakeClients) -> None:
    process = Process(fake, "shop")
    process.topology.declare_queue(QueueSpec("billing"))
    forged = {**FORGED, "hake:namespace": "shop"}
    fake.sqs("tag_queue", QueueUrl=fake.queues.queue("shop__billing").url, Tags=forged)
    assert states(process.sweep(most=MOST_LOOKS)) == {"shop__billing": "unproven"}
    assert set(fake.queues.by_name) == {"shop__billing"}


def test_a_queue_that_was_declared_to_stay_is_not_made_temporary_again_by_tags(fake: FakeClients) -> None:
    Process(fake).make("orders", auto_delete=True)
    new = Process(fake)
    new.topology.declare_queue(QueueSpec("orders"))
    new.temporaries.consumed("orders")
    fake.sqs("tag_queue", QueueUrl=fake.queues.queue("orders").url, Tags=FORGED)
    assert states(new.sweep()) == {"orders": "unproven"}
    assert set(fake.queues.by_name) == {"orders"}


def test_forged_promises_do_not_end_a_queue_whose_user_lives(fake: FakeClients, process: Process) -> None:
    user = Process(fake)
    name = user.make("q", EVENTS, exclusive=True)
    url = fake.queues.queue(name).url
    fake.sqs("tag_queue", QueueUrl=url, Tags={key: "1 1 x" for key in fake.queues.queue(name).tags if ":user:" in key})

    report = Report()
    for wait_s in process.janitor.sweep(report):
        for _ in range(4):  # its user renews four times a limit
            fake.clock.advance(wait_s / 4)
            user.presence.work()
    assert states(report) == {name: "kept"}
    assert name in fake.queues.by_name


@pytest.mark.parametrize(
    "tags",
    [
        {"hake:temporary": "expires=600", "hake:used": "9" * 255},
        {"hake:temporary": "expires=600", "hake:used": "-" + "9" * 255},
        {"hake:temporary": "exclusive", "hake:user:a": "9" * 256},
        {"hake:temporary": "exclusive", "hake:user:a": "1 999999 x"},
        {"hake:temporary": "exclusive", "hake:user:a": "1 3 x", "hake:level-of": "\ud800" * 9},
    ],
)
def test_no_tags_keep_a_sweep_from_the_other_queues(
    fake: FakeClients, process: Process, tags: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    dead = Process(fake).make("q", EVENTS, exclusive=True)
    forged = process.make("a", auto_delete=True)
    texts = ("fanout", "fanout =")  # exchanges without a name
    bound = {f"hake:b:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}": text for text in texts}
    for number, name in enumerate((forged, "other")):
        url = fake.sqs("create_queue", QueueName=name)["QueueUrl"] if number else fake.queues.queue(name).url
        fake.sqs("tag_queue", QueueUrl=url, Tags={**FORGED, **tags, **bound})
    fake.clock.advance(LIMIT_S + 1)
    assert states(process.sweep())[dead] == "removed"
    assert "other" in fake.queues.by_name
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_users_call_themselves_is_not_logged_as_it_is(
    fake: FakeClients, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name = process.make("q", EVENTS, exclusive=True)
    fake.queues.queue(name).tags.update({f"hake:user:{i}": f"1 600 \x1b[2J\r{'x' * 200}" for i in range(40)})
    fake.clock.advance(LIMIT_S + 1)
    [found] = process.sweep().queues
    assert len(found.who) < 500
    assert not any(char in record.getMessage() for record in caplog.records for char in "\x1b\r")


def test_without_a_namespace_the_background_looks_only_at_names_that_look_temporary(fake: FakeClients) -> None:
    process = Process(fake)
    process.make("progress", auto_delete=True)
    process.temporaries.consumed("progress")
    process.temporaries.delete_all()
    fake.clock.advance(LIMIT_S + 1)
    assert states(process.sweep(most=MOST_LOOKS)) == {}
    assert "progress" in fake.queues.by_name
    assert states(process.sweep()) == {"progress": "removed"}


def test_a_queue_whose_attributes_may_not_be_read_is_unproven(
    fake: FakeClients, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.make("q", auto_delete=True)
    process.temporaries.consumed("q")
    process.temporaries.delete_all()
    fake.clock.advance(LIMIT_S + 1)
    fake.deny("sqs:GetQueueAttributes")
    assert states(process.sweep()) == {"q": "unproven"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("seconds", ["345600", "60"])
def test_a_retention_of_the_users_own_still_proves_what_is_temporary(fake: FakeClients, seconds: str) -> None:
    process = Process(fake, queue_attributes={"MessageRetentionPeriod": seconds})
    process.topology.declare_queue(QueueSpec("stays"))
    process.topology.declare_queue(QueueSpec("notes", arguments={"x-expires": 600_000}))
    for name in ("stays", "notes"):
        fake.sqs("tag_queue", QueueUrl=fake.queues.queue(name).url, Tags=FORGED)
    assert states(process.sweep()) == {"stays": "unproven", "notes": "removed"}


# --- cost


def test_a_dry_sweep_changes_nothing(fake: FakeClients, process: Process) -> None:
    process.make("q", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    fake.calls.clear()
    report = process.sweep(dry_run=True)
    assert set(states(report).values()) == {"orphan"}
    assert fake.counts() == {"list_queues": 1, "list_queue_tags": 1, "list_subscriptions_by_topic": 1}


def test_a_sweep_by_itself_is_bounded(fake: FakeClients) -> None:
    process = Process(fake, "shop")
    for number in range(3 * MOST_LOOKS):
        process.topology.declare_queue(QueueSpec(f"q{number}"))
    name = process.make("q", EVENTS, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    fake.calls.clear()
    report = process.sweep(most=MOST_LOOKS)
    assert states(report) == {name: "removed"}  # it looks temporary, so it is looked at first
    assert report.left_out == 2 * MOST_LOOKS + 1
    assert fake.count("list_queue_tags") <= MOST_LOOKS + 3
    for _ in range(3):
        process.sweep(most=MOST_LOOKS)
    fake.calls.clear()
    process.sweep(most=MOST_LOOKS)
    assert fake.counts() == {"list_queues": 1}  # what is not ours is known by now


def test_more_queues_than_a_page_has(fake: FakeClients, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kombu_hake.topology.lookups.SQS_LIST_PAGE", 3)
    for number in range(8):
        process.make(f"q{number}", exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    process.sweep()
    assert not fake.queues.by_name


def test_fifty_workers_that_start_together_do_not_sweep_together(fake: FakeClients) -> None:
    starts = []
    for number in range(50):
        process = Process(fake)
        process.janitor._chance = random.Random(number)
        process.janitor.start(process.presence.is_used)
        starts.append(process.janitor.due_at - fake.clock())
    assert min(starts) >= 0
    assert max(starts) <= 600
    # A sweep of the largest size, 110 requests a second apart: how many of them go on at the same time?
    assert max(sum(1 for other in starts if 0 <= other - start < 110) for start in starts) < 20


# --- one of a fleet


class Fixed(random.Random):
    """Draws the same number each time."""

    def __init__(self, drawn: float) -> None:
        super().__init__(1)
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


def fleet_and_abandoned(fake: FakeClients, drawn: float) -> list[Process]:
    """Ten processes in use, and ten queues that a crash left behind."""
    pidbox = Binding("celery.pidbox", "fanout")
    for number in range(10):
        Process(fake).make(f"dead{number}@host.celery.pidbox", pidbox, exclusive=True)
    fake.clock.advance(LIMIT_S + 1)
    fleet = [Process(fake) for _ in range(10)]
    for number, process in enumerate(fleet):
        process.make(f"w{number}@host.celery.pidbox", pidbox, exclusive=True)
        process.janitor._chance = Fixed(drawn)
    fake.calls.clear()
    return fleet


def test_one_process_of_a_fleet_looks_after_all(fake: FakeClients) -> None:
    fleet = fleet_and_abandoned(fake, drawn=0.5)
    report = fleet[0].sweep(most=MOST_LOOKS, is_own=fleet[0].presence.is_used)
    assert len(report.queues) == 20
    assert len(fake.queues.by_name) == 10
    fake.calls.clear()
    for process in fleet[1:]:
        assert not process.sweep(most=MOST_LOOKS, is_own=process.presence.is_used).queues
    assert fake.counts() == {"list_queues": 9, "list_queue_tags": 9}


def test_a_process_looks_now_and_then_though_another_one_is_there_to_do_it(fake: FakeClients) -> None:
    fleet = fleet_and_abandoned(fake, drawn=0.05)
    report = fleet[-1].sweep(most=MOST_LOOKS, is_own=fleet[-1].presence.is_used)
    assert len(report.queues) == 20
    assert len(fake.queues.by_name) == 10


# --- by itself


def run(process: Process, seconds: float) -> None:
    """Let time pass for the thread of a process."""
    end = process.fake.clock() + seconds
    while process.fake.clock() < end:
        waits = [wait_s for wait_s in (process.presence.work(), process.presence.sweep()) if wait_s is not None]
        process.fake.clock.advance(min(max(min(waits), 0.01), end - process.fake.clock()))


def test_a_process_with_a_temporary_queue_looks_now_and_then(fake: FakeClients) -> None:
    process = Process(fake)
    process.janitor.start(process.presence.is_used)
    process.make("mine", exclusive=True)
    fake.calls.clear()
    run(process, 100 * 3_600)
    assert 80 <= fake.count("list_queues") <= 120
    assert 2_900 <= fake.count("tag_queue") <= 3_010  # thirty an hour
    Process(fake).make("q", EVENTS, exclusive=True)
    run(process, LIMIT_S + 1.5 * 3_600 + LIMIT_S / 3 + 60)
    assert set(fake.queues.by_name) == {"mine"}


def test_it_can_be_turned_off(fake: FakeClients) -> None:
    process = Process(fake, janitor_interval=0)
    process.janitor.start(process.presence.is_used)
    process.make("mine", exclusive=True)
    run(process, 100 * 3_600)
    assert fake.count("list_queues") == 0
    assert states(process.sweep()) == {"mine": "used"}


@pytest.mark.parametrize(
    "action", ["sqs:ListQueues", "sqs:ListQueueTags", "sqs:TagQueue", "sns:Unsubscribe", "sqs:DeleteQueue"]
)
def test_where_it_is_denied_it_is_off_and_says_so_once(
    fake: FakeClients, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(fake)
    process.janitor.start(process.presence.is_used)
    process.make("mine", exclusive=True)
    Process(fake).make("q", EVENTS, exclusive=True)
    run(process, LIMIT_S)
    fake.deny(action)
    if action == "sqs:TagQueue":  # the heartbeats stop too, and with them the thread
        with pytest.raises(AccessDenied):
            process.sweep()
        return
    run(process, 100 * 3_600)
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert action in said[0].message
    assert "janitor_interval=0" in said[0].message


def test_a_fault_puts_it_off(fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(fake)
    process.janitor.start(process.presence.is_used)
    process.make("mine", exclusive=True)
    fake.fail("list_queues", BrokerUnavailable("x"), RuntimeError("a bug"))
    run(process, 10 * 3_600)
    assert fake.count("list_queues") > 5
    assert "Unexpected error while looking for abandoned temporary queues" in caplog.text
