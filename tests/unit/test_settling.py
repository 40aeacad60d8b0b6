"""Requests about received messages: one policy of trying again, and what has to be accepted before a delete."""

import threading
from collections.abc import Callable, Iterator

import pytest
from fake_sqs import FakeQueue
from fakes import FakeClients, FakeClock, eventually
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp import Pointer
from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, HakeError
from kombu_hake.receive import settling as settling_module
from kombu_hake.receive.delivery import Lease, LeaseState
from kombu_hake.receive.leases import Leases
from kombu_hake.receive.settling import Kind, Request, Settling

VISIBILITY_S = 30
DELETE, RELEASE = "delete_message_batch", "change_message_visibility_batch"


class Letter:
    """Something that has to be accepted first; fails as the test wants it."""

    def __init__(self, *faults: Exception, on_send: Callable[[], None] = lambda: None) -> None:
        self.faults = list(faults)
        self.on_send = on_send
        self.sent = 0
        self.failures: list[str] = []

    def send(self) -> None:
        self.on_send()
        if self.faults:
            raise self.faults.pop(0)
        self.sent += 1

    def failed(self, exc: Exception) -> None:
        self.failures.append(str(exc))


class Bench:
    """Leases of a queue."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fake = FakeClients(self.clock)
        self.fake.sqs("create_queue", QueueName="q")
        self.queue: FakeQueue = self.fake.queues.queue("q")
        #: Objects in S3 whose messages are done.
        self.deleted: list[Pointer] = []
        self.leases = Leases(
            self.fake, visibility_s=VISIBILITY_S, linger_s=0.0, clock=self.clock, on_deleted=self.deleted.extend
        )

    def hold(self) -> Lease:
        self.fake.sqs("send_message", QueueUrl=self.queue.url, MessageBody="m")
        answer = self.fake.sqs("receive_message", QueueUrl=self.queue.url, VisibilityTimeout=VISIBILITY_S)
        lease = Lease(QueueUrl(self.queue.url), answer["Messages"][0]["ReceiptHandle"], self.clock(), VISIBILITY_S)
        self.leases.hold([lease])
        return lease


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(settling_module, "backoff_s", lambda *args, **kwargs: 0.001)
    made = Bench()
    yield made
    made.leases.stop(5.0)


AWAY = BrokerUnavailable("away")


@pytest.mark.parametrize("faults", [0, 1, 8])
def test_a_message_is_deleted_once_what_comes_first_is_accepted(bench: Bench, faults: int) -> None:
    letter = Letter(*[AWAY] * faults)
    bench.leases.ack(bench.hold(), letter)
    assert bench.leases.flush(5.0)
    assert letter.sent == 1
    assert not letter.failures
    assert not bench.queue.messages
    assert bench.fake.count(DELETE) == 1


def test_what_was_accepted_is_not_sent_again_when_the_delete_is(bench: Bench) -> None:
    letter = Letter()
    bench.fake.fail(DELETE, AWAY, AWAY)
    bench.leases.ack(bench.hold(), letter)
    assert bench.leases.flush(5.0)
    assert letter.sent == 1
    assert not bench.queue.messages


@pytest.mark.parametrize("fault", [AccessDenied("no"), HakeError("no"), ZeroDivisionError("no")])
def test_a_message_stays_when_what_comes_first_is_refused(bench: Bench, fault: Exception) -> None:
    letter, lost = Letter(fault), []
    bench.leases._on_lost = lambda lease, why: lost.append(why)
    bench.leases.ack(bench.hold(), letter)
    assert bench.leases.flush(5.0)
    assert len(letter.failures) == 1
    assert "no" in letter.failures[0]
    assert bench.fake.count(DELETE) == 0
    assert len(bench.queue.messages) == 1
    assert not lost


def test_what_comes_first_is_not_sent_for_a_message_that_another_consumer_may_have(bench: Bench) -> None:
    lease = bench.hold()
    letter = Letter(on_send=lambda: bench.clock.advance(VISIBILITY_S + 1))
    letter.faults = [AWAY] * 100
    bench.leases.ack(lease, letter)
    assert bench.leases.flush(5.0)
    assert letter.sent == 0
    assert letter.failures == ["away"]
    assert len(letter.faults) == 99
    late = bench.hold()
    bench.clock.advance(VISIBILITY_S + 1)
    bench.leases.ack(late, other := Letter())
    assert bench.leases.flush(5.0)
    assert other.sent == 0
    assert len(other.failures) == 1


def test_letters_that_wait_do_not_hold_up_deletes_and_renewals(bench: Bench) -> None:
    leave = threading.Event()
    letters = [Letter(on_send=lambda: leave.wait(10) and None) for _ in range(20)]
    for letter in letters:
        bench.leases.ack(bench.hold(), letter)
    kept, done = bench.hold(), bench.hold()
    bench.leases.ack(done)
    eventually(lambda: bench.fake.count(DELETE) == 1)
    bench.leases.wake()
    assert done.state is LeaseState.SETTLED
    bench.clock.advance(VISIBILITY_S * 0.6)
    bench.leases.wake()
    eventually(lambda: kept.held_until > bench.clock() + VISIBILITY_S * 0.9)
    leave.set()
    assert bench.leases.flush(10.0)
    assert [letter.sent for letter in letters] == [1] * 20
    assert len(bench.queue.messages) == 1


def test_after_the_end_a_message_is_turned_away_with_one_request(bench: Bench) -> None:
    lease = bench.hold()
    bench.leases.stop(5.0)
    bench.fake.fail(RELEASE, AWAY)
    bench.leases.turn_away([lease])
    assert bench.fake.count(RELEASE) == 1
    bench.leases.turn_away([lease])
    assert bench.queue.messages[0].visible_at <= bench.clock()


@given(
    kind=st.sampled_from(["ack", "renew", "release"]), has_first=st.booleans(), tries=st.integers(0, 50),
    left_s=st.sampled_from([-5.0, 0.0, 5.0]), is_stopping=st.booleans(),
)  # fmt: skip
def test_the_policy(kind: Kind, has_first: bool, tries: int, left_s: float, is_stopping: bool) -> None:
    settling = Settling(
        FakeClients(), visibility_s=VISIBILITY_S, clock=lambda: 100.0, on_renewed=lambda *_: None,
        on_refused=lambda *_: None,
    )  # fmt: skip
    if is_stopping:
        settling.hurry()
    lease = Lease(QueueUrl("u"), "h", 100.0 + left_s - VISIBILITY_S, VISIBILITY_S)
    letter = Letter() if has_first and kind == "ack" else None
    may_try = settling._may_try(Request(kind, QueueUrl("u"), [lease], letter), tries)
    if letter is not None and left_s <= 0:
        assert not may_try
    elif tries < 5:
        assert may_try
    else:
        assert may_try == (kind == "ack" and left_s > 0 and not is_stopping)


PAYLOAD = Pointer("shop", "q/x", 1)


def test_the_payload_of_a_message_is_done_with_once_its_ack_is_accepted(bench: Bench) -> None:
    lease = bench.hold()
    lease.owned = PAYLOAD
    bench.fake.fail(DELETE, AWAY)
    bench.fake.before(DELETE, lambda: None, bench.deleted.clear)
    bench.leases.ack(lease)
    assert bench.leases.flush(5.0)
    assert bench.deleted == [PAYLOAD]


def test_a_payload_stays_where_another_consumer_may_have_received_the_message(bench: Bench) -> None:
    """SQS accepts a delete by an old handle, and keeps the message."""
    lease = bench.hold()
    lease.owned = PAYLOAD
    bench.fake.before(DELETE, lambda: bench.clock.advance(VISIBILITY_S + 1))
    bench.leases.ack(lease)
    assert bench.leases.flush(5.0)
    assert bench.deleted == []


@pytest.mark.parametrize("how", ["release", "hide", "abandon", "refused"])
def test_a_payload_stays_where_the_message_does(bench: Bench, how: str) -> None:
    lease = bench.hold()
    lease.owned = PAYLOAD
    if how == "refused":
        bench.fake.fail(DELETE, AccessDenied("no"))
        bench.leases.ack(lease)
    elif how == "release":
        bench.leases.release([lease])
    elif how == "hide":
        bench.leases.hide(lease, 5)
    else:
        bench.leases.abandon(lease)
    assert bench.leases.flush(5.0)
    assert bench.deleted == []
