"""Settle path: the life of a lease, batches, renewals, and what is said when a lease is lost."""

import logging
import math
import threading
from collections.abc import Callable, Iterator

import pytest
from fake_sqs import FakeQueue
from fakes import FakeClients, FakeClock, eventually

from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.aws import background as background_module
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable
from kombu_hake.receive import delivery as lease_module
from kombu_hake.receive import leases as leases_module
from kombu_hake.receive import settling as settling_module
from kombu_hake.receive.delivery import About, Event, Lease, LeaseState, Why
from kombu_hake.receive.leases import Leases

VISIBILITY_S = 30
LINGER_S = 0.5
TWELVE_HOURS_S = 12 * 3600


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fake(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> FakeClients:
    monkeypatch.setattr(settling_module, "backoff_s", lambda *args, **kwargs: 0.0)
    return FakeClients(clock)


@pytest.fixture
def queue(fake: FakeClients) -> FakeQueue:
    fake.sqs("create_queue", QueueName="q")
    return fake.queues.queue("q")


def wake_with_the_clock(leases: Leases, clock: FakeClock) -> None:
    clock.on_advance(leases.wake)


@pytest.fixture
def leases(fake: FakeClients, clock: FakeClock) -> Iterator[Leases]:
    made = Leases(fake, visibility_s=VISIBILITY_S, linger_s=LINGER_S, clock=clock)
    wake_with_the_clock(made, clock)
    yield made
    made.stop(5.0)


def received(fake: FakeClients, queue: FakeQueue, count: int, visibility_s: int = VISIBILITY_S) -> list[Lease]:
    """Send and receive *count* messages."""
    for number in range(count):
        fake.sqs("send_message", QueueUrl=queue.url, MessageBody=f"m{number}", **_group(queue, number))
    found: list[Lease] = []
    while len(found) < count:
        answer = fake.sqs("receive_message", QueueUrl=queue.url, MaxNumberOfMessages=10, VisibilityTimeout=visibility_s)
        for message in answer["Messages"]:
            lease = Lease(QueueUrl(queue.url), message["ReceiptHandle"], fake.clock(), visibility_s)
            lease.about = About(7, number, "q", None, None, message["Body"])
            found.append(lease)
    return found


def _group(queue: FakeQueue, number: int) -> dict[str, str]:
    return {"MessageGroupId": str(number), "MessageDeduplicationId": str(number)} if queue.is_fifo else {}


def held(fake: FakeClients, leases: Leases, queue: FakeQueue, count: int = 1) -> list[Lease]:
    found = received(fake, queue, count)
    leases.hold(found)
    return found


def sizes(fake: FakeClients, operation: str) -> list[int]:
    return [len(params["Entries"]) for name, params in list(fake.calls) if name == operation]


RENEW = RELEASE = "change_message_visibility_batch"
DELETE = "delete_message_batch"


# --- acks


def test_an_ack_deletes_the_message(fake: FakeClients, leases: Leases, queue: FakeQueue) -> None:
    [lease] = held(fake, leases, queue)
    leases.ack(lease)
    assert leases.flush(5.0)
    assert queue.messages == []
    assert lease.state is LeaseState.SETTLED


def test_acks_wait_for_one_another_for_the_linger_time(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock
) -> None:
    for lease in held(fake, leases, queue, 3):
        leases.ack(lease)
    clock.advance(LINGER_S * 0.9)
    assert fake.count(DELETE) == 0
    clock.advance(LINGER_S * 0.2)
    eventually(lambda: not queue.messages)
    assert sizes(fake, DELETE) == [3]


def test_ten_acks_wait_no_longer(fake: FakeClients, leases: Leases, queue: FakeQueue) -> None:
    for lease in held(fake, leases, queue, 10):
        leases.ack(lease)
    eventually(lambda: not queue.messages)
    assert sizes(fake, DELETE) == [10]


def test_an_ack_is_sent_in_time_though_the_keeper_sleeps(
    fake: FakeClients, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "_LOOK_UP_S", 3600.0)
    leases = Leases(fake, visibility_s=7200, linger_s=0.01)
    try:
        for lease in received(fake, queue, 3, visibility_s=7200):
            lease.deadline = lease.held_until = leases.now() + 7200
            leases.hold([lease])
            eventually(lambda: math.isfinite(leases._keeper_wakes_at))
            leases.ack(lease)
            eventually(lambda: fake.count(DELETE) and not leases._settling.unanswered)
            fake.calls.clear()
        assert queue.messages == []
    finally:
        leases.stop(5.0)


def test_full_batches_of_acks_need_no_keeper(
    fake: FakeClients, leases: Leases, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases_held = held(fake, leases, queue, 40)
    eventually(lambda: math.isfinite(leases._keeper_wakes_at))
    wakes: list[None] = []
    monkeypatch.setattr(leases._keeper, "wake", lambda: wakes.append(None))
    for lease in leases_held:
        leases.ack(lease)
    assert len(wakes) == 1
    eventually(lambda: not queue.messages)
    assert sizes(fake, DELETE) == [10, 10, 10, 10]


def test_acks_of_several_queues_are_requests_of_their_own(fake: FakeClients, leases: Leases, queue: FakeQueue) -> None:
    fake.sqs("create_queue", QueueName="other")
    other = fake.queues.queue("other")
    for lease in [*held(fake, leases, queue, 2), *held(fake, leases, other, 3)]:
        leases.ack(lease)
    assert leases.flush(5.0)
    assert sorted(sizes(fake, DELETE)) == [2, 3]
    assert not queue.messages
    assert not other.messages


def test_an_ack_in_a_fifo_queue_does_not_linger(fake: FakeClients, leases: Leases) -> None:
    fake.sqs("create_queue", QueueName="q.fifo", Attributes={"FifoQueue": "true"})
    fifo = fake.queues.queue("q.fifo")
    [lease] = held(fake, leases, fifo)
    leases.ack(lease)
    eventually(lambda: not fifo.messages)


def test_acks_from_many_threads_delete_each_message_once(fake: FakeClients, leases: Leases, queue: FakeQueue) -> None:
    found = held(fake, leases, queue, 200)
    threads = [
        threading.Thread(target=lambda part=found[n::8]: [leases.ack(lease) for lease in part]) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert leases.flush(5.0)
    assert not queue.messages
    assert sum(sizes(fake, DELETE)) == 200
    assert fake.count(DELETE) <= 28


# --- releases


def test_a_release_makes_the_message_visible_at_once(fake: FakeClients, leases: Leases, queue: FakeQueue) -> None:
    [lease] = held(fake, leases, queue)
    leases.release([lease])
    assert leases.flush(5.0)
    assert queue.messages[0].visible_at <= fake.clock()
    assert lease.state is LeaseState.RELEASED


def test_releases_share_requests_of_ten(fake: FakeClients, leases: Leases, queue: FakeQueue) -> None:
    leases.release(held(fake, leases, queue, 25))
    assert leases.flush(5.0)
    assert sorted(sizes(fake, RELEASE)) == [5, 10, 10]


def test_a_release_that_fails_is_no_loss(
    fake: FakeClients, leases: Leases, queue: FakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    [lease] = held(fake, leases, queue)
    fake.fail(RELEASE, AccessDenied("no"))
    with caplog.at_level(logging.INFO):
        leases.release([lease])
        assert leases.flush(5.0)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "visibility timeout" in caplog.text


def test_an_abandoned_lease_runs_out(fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock) -> None:
    [lease] = held(fake, leases, queue)
    leases.abandon(lease)
    clock.advance(VISIBILITY_S)
    assert fake.count(RENEW, DELETE) == 0
    assert leases.renewals_due(clock()) == []


def test_a_hidden_message_comes_again_when_it_should(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock
) -> None:
    [lease] = held(fake, leases, queue)
    leases.hide(lease, 600)
    assert leases.flush(5.0)
    assert queue.messages[0].visible_at == clock() + 600
    assert leases.hidden() == 1
    clock.advance(601)
    assert leases.hidden() == 0
    assert fake.count(RENEW) == 1


# --- the state table

SETTLES: dict[str, Callable[[Leases, Lease], None]] = {
    "ack": lambda leases, lease: leases.ack(lease),
    "release": lambda leases, lease: leases.release([lease]),
    "abandon": lambda leases, lease: leases.abandon(lease),
    "hide": lambda leases, lease: leases.hide(lease, 60),
}


@pytest.mark.parametrize("second", SETTLES)
@pytest.mark.parametrize("first", SETTLES)
def test_a_second_settle_is_ignored(
    fake: FakeClients, leases: Leases, queue: FakeQueue, first: str, second: str
) -> None:
    [lease] = held(fake, leases, queue)
    SETTLES[first](leases, lease)
    state = lease.state
    assert state is (LeaseState.SETTLED if first == "ack" else LeaseState.RELEASED)
    SETTLES[second](leases, lease)
    assert lease.state is state
    assert leases.flush(5.0)
    assert fake.count(DELETE, RELEASE) == (0 if first == "abandon" else 1)


@pytest.mark.parametrize("second", SETTLES)
def test_a_lost_lease_is_not_settled(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, second: str
) -> None:
    [lease] = held(fake, leases, queue)
    fake.fail_entries(RENEW, code="ReceiptHandleIsInvalid", sender_fault=True)
    clock.advance(VISIBILITY_S / 2)
    eventually(lambda: lease.state is LeaseState.LOST)
    SETTLES[second](leases, lease)
    assert leases.flush(5.0)
    assert lease.state is LeaseState.LOST
    assert fake.count(DELETE, RENEW) == 1


# --- renewals


def test_what_is_held_is_renewed_when_half_of_its_time_is_over(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock
) -> None:
    held(fake, leases, queue, 3)
    clock.advance(VISIBILITY_S / 2 - 1)
    assert leases.renewals_due(clock()) == []
    clock.advance(1)
    eventually(lambda: fake.count(RENEW) == 1)
    assert leases.flush(5.0)
    assert {message.visible_at for message in queue.messages} == {clock() + VISIBILITY_S}


def test_a_task_of_an_hour_keeps_its_message(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock
) -> None:
    [lease] = held(fake, leases, queue)
    for step in range(3600 // 10):
        clock.advance(10)
        if step % 2:
            eventually(lambda step=step: fake.count(RENEW) >= (step + 1) // 2)
            assert leases.flush(5.0)
        assert queue.messages[0].is_in_flight(clock())
    leases.ack(lease)
    assert leases.flush(5.0)
    assert not queue.messages


def test_renewals_are_in_requests_of_ten_of_one_queue_earliest_first(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock
) -> None:
    urls = [QueueUrl("https://sqs/1/a"), QueueUrl("https://sqs/1/b")]
    found = [Lease(urls[n % 3 == 0], f"handle-{n}", clock() + n / 100, VISIBILITY_S) for n in range(40)]
    quiet = Leases(fake, visibility_s=VISIBILITY_S, linger_s=LINGER_S, clock=clock)
    quiet._stopping = True  # decides and does nothing
    quiet.hold(found)
    quiet.ack(found[0])
    quiet.release([found[1]])
    groups = quiet.renewals_due(clock() + VISIBILITY_S)
    assert all(1 <= len(group) <= 10 for _, group in groups)
    assert all({lease.url for lease in group} == {url} for url, group in groups)
    flat = [lease for _, group in groups for lease in group]
    assert {id(lease) for lease in flat} == {id(lease) for lease in found[2:]}
    for url in urls:
        deadlines = [lease.deadline for lease in flat if lease.url == url]
        assert deadlines == sorted(deadlines)
    quiet.stop(1.0)


def test_asking_what_is_due_changes_nothing(fake: FakeClients, clock: FakeClock) -> None:
    quiet = Leases(fake, visibility_s=VISIBILITY_S, linger_s=LINGER_S, clock=clock)
    quiet._stopping = True
    lease = Lease(QueueUrl("u"), "handle-1", clock(), VISIBILITY_S)
    quiet.hold([lease])
    before = lease.deadline
    assert quiet.renewals_due(clock() + 20) == quiet.renewals_due(clock() + 20) == [("u", [lease])]
    assert (lease.deadline, lease.state) == (before, LeaseState.HELD)


@pytest.mark.parametrize("visibility_s", [30, 3600, TWELVE_HOURS_S])
def test_nothing_is_renewed_past_twelve_hours(fake: FakeClients, clock: FakeClock, visibility_s: int) -> None:
    quiet = Leases(fake, visibility_s=visibility_s, linger_s=LINGER_S, clock=clock)
    quiet._stopping = True
    lease = Lease(QueueUrl("u"), "handle-1", clock(), visibility_s)
    quiet.hold([lease])
    start, now = clock(), clock()
    while now - start < TWELVE_HOURS_S + visibility_s:
        now += 10
        if quiet.renewals_due(now):
            lease.deadline = now + visibility_s
            assert now + visibility_s - start <= TWELVE_HOURS_S
    assert TWELVE_HOURS_S - visibility_s - 120 <= lease.deadline - start <= TWELVE_HOURS_S


def test_a_lease_that_cannot_be_renewed_any_more_keeps_nobody_busy(fake: FakeClients, clock: FakeClock) -> None:
    quiet = Leases(fake, visibility_s=3600, linger_s=LINGER_S, clock=clock)
    quiet._stopping = True
    quiet.hold([Lease(QueueUrl("u"), "handle-1", clock() - TWELVE_HOURS_S + 3000, 3600)])
    for lease in quiet._held.values():
        lease.deadline = lease.held_until = clock() + 3000
        quiet._look_at = lease.held_until
    assert quiet._pause(clock()) > 60


def test_a_lease_of_twelve_hours_is_reported_once_when_it_ends(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    [lease] = received(fake, queue, 1)
    lease.received_at -= TWELVE_HOURS_S - VISIBILITY_S
    leases.hold([lease])
    clock.advance(VISIBILITY_S + 1)
    eventually(lambda: lease.state is LeaseState.LOST)
    clock.advance(VISIBILITY_S)
    assert fake.count(RENEW) == 0
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "m0" in caplog.text
    assert "twelve hours" in caplog.text


# --- losses


def test_a_lease_lost_while_the_task_runs_is_reported_once(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    lost, kept = held(fake, leases, queue, 2)
    queue.messages[0].handles.append("handle-of-another-worker")
    clock.advance(VISIBILITY_S / 2)
    eventually(lambda: lost.state is LeaseState.LOST)
    leases.ack(lost)
    leases.ack(kept)
    assert leases.flush(5.0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Lost the lease of message m0 from queue q (it could not be renewed)" in caplog.text
    assert "handle-" not in caplog.text
    assert queue.bodies() == ["m0"]


@pytest.mark.parametrize("code", ["ReceiptHandleIsInvalid", "InvalidParameterValue", "AccessDenied"])
def test_a_refused_ack_is_reported_and_never_raised(
    fake: FakeClients, leases: Leases, queue: FakeQueue, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    bad, good = held(fake, leases, queue, 2)
    fake.fail_entries(
        DELETE, code=code, sender_fault=True, of=lambda entry: entry["ReceiptHandle"] == bad.receipt_handle
    )
    leases.ack(bad)
    leases.ack(good)
    assert leases.flush(5.0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Lost the lease of message m0 from queue q (its ack failed)" in caplog.text
    assert (bad.state, good.state) == (LeaseState.LOST, LeaseState.SETTLED)
    assert queue.bodies() == ["m0"]


def test_an_ack_that_aws_could_not_take_is_tried_again(
    fake: FakeClients, leases: Leases, queue: FakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    first, *_ = found = held(fake, leases, queue, 3)
    fake.fail(DELETE, BrokerUnavailable("x"))
    fake.fail_entries(DELETE, times=2, of=lambda entry: entry["ReceiptHandle"] == first.receipt_handle)
    for lease in found:
        leases.ack(lease)
    assert leases.flush(5.0)
    assert not queue.messages
    assert not caplog.records
    assert sizes(fake, DELETE) == [3, 3, 1, 1]


def test_an_ack_is_tried_on_until_somebody_else_may_have_the_message(
    fake: FakeClients, leases: Leases, queue: FakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage that ends within the visibility timeout runs nothing twice."""
    [lease] = held(fake, leases, queue)
    fake.fail(DELETE, *[BrokerUnavailable("the network is down")] * 30)
    leases.ack(lease)
    assert leases.flush(5.0)
    assert not queue.messages
    assert not caplog.records


@pytest.mark.parametrize("by_entry", [False, True])
def test_an_ack_that_never_gets_through_is_reported(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture,
    by_entry: bool,
) -> None:  # fmt: skip
    found = held(fake, leases, queue, 2)
    fake.before(DELETE, lambda: clock.advance(VISIBILITY_S + 1))
    if by_entry:
        fake.fail_entries(DELETE, times=50)
    else:
        fake.fail(DELETE, *[BrokerUnavailable("x") for _ in range(50)])
    for lease in found:
        leases.ack(lease)
    assert leases.flush(5.0)
    assert len(caplog.records) == 2
    assert {lease.state for lease in found} == {LeaseState.LOST}
    assert fake.count(DELETE) < 10


def test_a_renewal_that_aws_could_not_take_is_due_again_at_once(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    [lease] = held(fake, leases, queue)
    fake.fail(RENEW, *[BrokerUnavailable("x") for _ in range(5)])  # all tries of one request
    clock.advance(VISIBILITY_S / 2)
    # No time passes: the keeper is told, and does not sleep until the lease is over.
    eventually(lambda: queue.messages[0].visible_at == clock() + VISIBILITY_S)
    assert lease.state is LeaseState.HELD
    assert not caplog.records


def test_an_error_that_nobody_expected_does_not_end_the_threads(
    fake: FakeClients, leases: Leases, queue: FakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    found = held(fake, leases, queue, 20)
    fake.fail(DELETE, *[KeyError("a bug") for _ in range(15)])
    for lease in found[:15]:
        leases.ack(lease)
        leases.flush(5.0)
    assert "Unexpected error while settling" in caplog.text
    for lease in found[15:]:
        leases.ack(lease)
    assert leases.flush(5.0)
    assert len(queue.messages) == 15


def told(leases: Leases) -> list[tuple[Lease, Why]]:
    """What is told of lost leases from now on."""
    found: list[tuple[Lease, Why]] = []
    leases._on_lost = lambda lease, why: found.append((lease, why))
    return found


def test_a_lease_that_nobody_renewed_in_time_is_told_of_when_it_runs_out_not_when_aws_answers_again(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    news = told(leases)
    [lease] = held(fake, leases, queue)
    fake.fail(RENEW, *[BrokerUnavailable("the network is down")] * 100_000)
    clock.advance(VISIBILITY_S - 1)
    assert not lease.is_lost
    clock.advance(1)
    eventually(lambda: news == [(lease, Why.LAPSED)])
    assert lease.is_lost
    lost = "Lost the lease of message m0 from queue q (it could not be renewed in time)"
    assert f"{lost}: it will be, or was, redelivered." in caplog.text
    clock.advance(VISIBILITY_S)
    fake.heal()
    clock.advance(1)
    eventually(lambda: lease.state is LeaseState.HELD)  # nobody else had received it
    assert queue.messages[0].is_in_flight(clock())
    assert len(news) == 1
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["ERROR"]


def lapsed(fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock) -> Lease:
    """A lease that ran out while AWS did not answer renewals; another worker has received its message."""
    [lease] = held(fake, leases, queue)
    fake.fail(RENEW, *[BrokerUnavailable("the network is down")] * 100_000)
    clock.advance(VISIBILITY_S)
    eventually(lambda: lease.state is LeaseState.LAPSED)
    return lease


@pytest.mark.parametrize("settle", ["release", "abandon", "hide"])
def test_what_has_lapsed_is_not_made_visible_while_somebody_else_has_it(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, settle: str
) -> None:
    lease = lapsed(fake, leases, queue, clock)
    fake.heal()
    fake.sqs("receive_message", QueueUrl=queue.url, VisibilityTimeout=500)
    before = fake.count(RELEASE)
    SETTLES[settle](leases, lease)
    assert leases.flush(5.0)
    assert queue.messages[0].visible_at == clock() + 500
    assert fake.count(RELEASE) - before <= 1  # a renewal that was on its way
    assert lease.state in (LeaseState.RELEASED, LeaseState.LOST)


def test_the_ack_of_what_has_lapsed_spares_a_second_run(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock
) -> None:
    lease = lapsed(fake, leases, queue, clock)
    leases.ack(lease)
    assert leases.flush(5.0)
    assert not queue.messages


def test_a_lost_lease_that_is_refused_later_is_told_of_once(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    news = told(leases)
    lease = lapsed(fake, leases, queue, clock)
    fake.sqs("receive_message", QueueUrl=queue.url)
    fake.heal()
    clock.advance(1)
    eventually(lambda: lease.state is LeaseState.LOST)
    assert [why for _, why in news] == [Why.LAPSED]
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_a_deleted_queue_is_another_reason_than_a_second_delivery(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    news = told(leases)
    [lease] = held(fake, leases, queue)
    fake.sqs("delete_queue", QueueUrl=queue.url)
    clock.advance(VISIBILITY_S / 2)
    eventually(lambda: news == [(lease, Why.GONE)])
    assert "it will not be redelivered" in caplog.text


def test_a_lapsed_lease_ends_with_the_twelve_hours(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock
) -> None:
    lease = lapsed(fake, leases, queue, clock)
    clock.advance(TWELVE_HOURS_S)
    eventually(lambda: lease.state is LeaseState.LOST)
    assert repr(leases).startswith("<Leases held=0")


def test_a_release_that_is_tried_until_the_lease_is_over_is_given_up(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock
) -> None:
    [lease] = held(fake, leases, queue)
    fake.fail(RELEASE, BrokerUnavailable("x"))
    fake.before(RELEASE, lambda: clock.advance(VISIBILITY_S))
    leases.release([lease])
    eventually(lambda: fake.count(RELEASE) == 1 and "requests=0" in repr(leases))
    assert fake.count(RELEASE) == 1  # a second one might take it from who has it now


def test_a_lease_of_one_second_is_renewed_in_time_after_a_quiet_while() -> None:
    """The keeper does not sleep through the first half of the first lease."""
    fake = FakeClients()
    quick = Leases(fake, visibility_s=1, linger_s=LINGER_S, clock=fake.clock)
    wake = threading.Event()
    quick._keeper.wake = wake.set  # type: ignore[method-assign]
    quick.hold([Lease(QueueUrl("u"), "handle-1", fake.clock(), 1)])
    assert wake.is_set()
    quick.stop(5.0)


# --- the table


@pytest.mark.parametrize("state", LeaseState)
@pytest.mark.parametrize("event", Event)
def test_the_table_of_the_docs_is_the_table_of_the_code(state: LeaseState, event: Event) -> None:
    rows = [line.split() for line in (lease_module.__doc__ or "").replace("(none)", "-").splitlines()]
    [row] = [row[1:] for row in rows if row and row[0] == state.name]
    expected = row[list(Event).index(event)]
    found = lease_module.after(state, event)
    assert (found.name if found else "-") == expected


# --- start and stop


def test_nothing_starts_before_the_first_lease(fake: FakeClients, clock: FakeClock) -> None:
    before = set(threading.enumerate())
    idle = Leases(fake, visibility_s=VISIBILITY_S, linger_s=LINGER_S, clock=clock)
    assert set(threading.enumerate()) <= before
    idle.stop(1.0)
    assert set(threading.enumerate()) <= before


def test_stop_sends_what_waits_and_ends_the_threads(fake: FakeClients, queue: FakeQueue, clock: FakeClock) -> None:
    before = set(threading.enumerate())
    leases = Leases(fake, visibility_s=VISIBILITY_S, linger_s=LINGER_S, clock=clock)
    ack, release, left = held(fake, leases, queue, 3)
    leases.ack(ack)
    leases.release([release])
    leases.stop(5.0)
    assert set(threading.enumerate()) <= before
    assert queue.bodies() == ["m1", "m2"]
    assert [message.is_in_flight(clock()) for message in queue.messages] == [False, True]
    assert left.state is LeaseState.HELD


def test_an_ack_after_stop_is_still_sent(fake: FakeClients, queue: FakeQueue, clock: FakeClock) -> None:
    # Celery acknowledges from pool threads while the connection is being closed.
    leases = Leases(fake, visibility_s=VISIBILITY_S, linger_s=LINGER_S, clock=clock)
    [lease] = held(fake, leases, queue)
    leases.stop(5.0)
    leases.ack(lease)
    eventually(lambda: not queue.messages)
    leases.stop(5.0)


def test_flush_gives_up_in_time_and_says_so(
    fake: FakeClients, queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    leases = Leases(fake, visibility_s=VISIBILITY_S, linger_s=LINGER_S, clock=clock)
    [lease] = held(fake, leases, queue)
    reached, gate = threading.Event(), threading.Event()
    fake.before(DELETE, lambda: (reached.set(), gate.wait(10.0)))
    leases.ack(lease)
    assert not leases.flush(0.0)
    assert "HAKE105 AWS did not answer" in caplog.text
    gate.set()
    assert leases.flush(5.0)
    leases.stop(5.0)


def test_repr_shows_the_state(fake: FakeClients, leases: Leases, queue: FakeQueue) -> None:
    ack, *_ = held(fake, leases, queue, 3)
    leases.ack(ack)
    assert repr(leases) == "<Leases held=2 acks waiting=1 requests=0>"


def test_a_bug_does_not_end_the_renewals(
    fake: FakeClients, leases: Leases, queue: FakeQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "_LOOK_UP_S", 0.01)
    held(fake, leases, queue)
    before = leases.renewals_due
    failures = [ZeroDivisionError()]

    def fails_once(now: float) -> list[tuple[QueueUrl, list[Lease]]]:
        if failures:
            raise failures.pop()
        return before(now)

    monkeypatch.setattr(leases, "renewals_due", fails_once)
    clock.advance(VISIBILITY_S * 0.6)
    eventually(lambda: fake.count(RENEW) == 1)
    assert not failures


def test_what_nobody_can_settle_any_more_goes_back(
    fake: FakeClients, leases: Leases, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "_LOOK_UP_S", 0.01)
    first, *_ = held(fake, leases, queue, 3)
    leases.ack(first)
    keeper = leases._keeper
    assert keeper.is_alive
    leases.disown()
    eventually(lambda: not keeper.is_alive)
    assert fake.count(DELETE) == 1
    assert sum(message.visible_at <= fake.clock() for message in queue.messages) == 2
    eventually(lambda: not leases._settling._senders._threads)


def test_without_threads_what_waits_is_sent_by_the_one_who_closes(
    fake: FakeClients, queue: FakeQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12 and later start no thread while the interpreter ends."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    leases = Leases(fake, visibility_s=VISIBILITY_S, linger_s=LINGER_S, clock=clock)
    first, second = held(fake, leases, queue, 2)
    leases.ack(first)
    leases.release([second])
    leases.stop(5.0)
    assert len(queue.messages) == 1
    assert queue.messages[0].visible_at <= clock()


def test_what_aws_has_done_is_not_waited_for_any_longer(
    fake: FakeClients, leases: Leases, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(settling_module, "backoff_s", lambda attempt: pauses.append(attempt) or 0.0)
    for lease in held(fake, leases, queue, 5):
        leases.ack(lease)
        assert leases.flush(5.0)
    assert not queue.messages
    assert not pauses


def test_acks_and_renewals_are_sent_though_no_thread_can_be_started(
    leases: Leases, fake: FakeClients, clock: FakeClock, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        done, running = received(fake, queue, 2)
        leases.hold([done, running])
        leases.ack(done)
        clock.advance(VISIBILITY_S / 2 + 1)
        leases.look_after()
        assert len(queue.messages) == 1
        assert running.held_until > clock() + VISIBILITY_S / 2
    leases.ack(running)
    clock.advance(LINGER_S + 0.1)
    leases.look_after()
    eventually(lambda: not queue.messages)


# --- health


def test_the_keeper_is_watched_while_it_is_needed(fake: FakeClients, leases: Leases, queue: FakeQueue) -> None:
    assert leases.vitals() == []
    held(fake, leases, queue)
    [vital] = leases.vitals()
    assert (vital.name, vital.is_alive) == ("the lease keeper", True)
    at, _ = vital.pulse.last
    leases.wake()
    eventually(lambda: vital.pulse.last[0] > at)
    leases.stop(5.0)
    assert leases.vitals() == []


def test_a_keeper_that_cannot_start_and_has_something_to_do_is_not_alive(
    fake: FakeClients, leases: Leases, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_module, "start_thread", lambda target, name: None)
    held(fake, leases, queue)
    assert [vital.is_alive for vital in leases.vitals()] == [False]
