"""Tasks that are not due yet wait in SQS: for as long as it takes, never started early, never counted to death."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from fakes import FakeClients, connected, eventually
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Producer

from kombu_hake.amqp.deferral import EARLY_S, MAX_HIDDEN, Deferral, How, due_ms, plan
from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.receive import settling as settling_module
from kombu_hake.receive.messages import receive_count

MINUTE_S, DAY_S = 60, 86_400
NOW = 1_000_000_000


def planned(left_s: float, **facts: Any) -> Deferral | None:
    known = {"sent": NOW, "receives": 1, "max_receives": None, "hidden": 0, **facts}
    return plan(int(NOW + left_s * 1000), NOW, **known)


# --- the decision


@pytest.mark.parametrize(
    ("left_s", "facts", "expected"),
    [
        (0, {}, None),
        (-5, {}, None),
        (EARLY_S, {}, None),
        (EARLY_S + 0.9, {}, None),  # SQS hides for whole seconds
        (EARLY_S + 1, {}, Deferral(How.HIDE, 1)),
        (1200, {}, Deferral(How.HIDE, 1198)),
        (3 * DAY_S, {}, Deferral(How.HIDE, 43_080)),
        (1200, {"max_receives": 3}, Deferral(How.HIDE, 1198)),
        (1200, {"max_receives": 3, "receives": 2}, Deferral(How.COPY, 900)),
        (1200, {"max_receives": 1}, Deferral(How.COPY, 900)),
        (100, {"max_receives": 1}, Deferral(How.COPY, 98)),
        (1200, {"hidden": MAX_HIDDEN}, Deferral(How.COPY, 900)),
        (1200, {"sent": NOW - 2 * DAY_S * 1000}, Deferral(How.COPY, 900)),
        (1200, {"sent": None}, Deferral(How.HIDE, 1198)),
        (1200, {"in_flight": 29_999}, Deferral(How.HIDE, 1198)),
        (1200, {"in_flight": 30_000}, Deferral(How.COPY, 900)),
        (1200, {"in_flight": 29_500, "hidden": 500}, Deferral(How.COPY, 900)),
        (3 * DAY_S, {"retention_s": 14 * DAY_S}, Deferral(How.HIDE, 43_080)),
        (3 * DAY_S, {"retention_s": DAY_S}, Deferral(How.HIDE, 43_080)),
        (3 * DAY_S, {"retention_s": 3600}, Deferral(How.COPY, 900)),
        (3 * DAY_S, {"retention_s": 60}, Deferral(How.COPY, 30)),
    ],
)
def test_how_a_message_waits(left_s: float, facts: dict[str, Any], expected: Deferral | None) -> None:
    assert planned(left_s, **facts) == expected


@given(
    left_s=st.floats(-10, 20 * DAY_S), receives=st.integers(1, 50), most=st.none() | st.integers(1, 50),
    hidden=st.integers(0, 2 * MAX_HIDDEN), age_s=st.floats(0, 14 * DAY_S),
)  # fmt: skip
def test_it_never_comes_later_than_it_should_and_never_dies_of_waiting(
    left_s: float, receives: int, most: int | None, hidden: int, age_s: float
) -> None:
    found = planned(left_s, receives=receives, max_receives=most, hidden=hidden, sent=NOW - int(age_s * 1000))
    if found is None:
        assert left_s < EARLY_S + 1.01
        return
    assert 1 <= found.seconds <= max(1.0, left_s - EARLY_S)
    if found.how is How.HIDE:
        assert found.seconds < 12 * 3600
        assert most is None or receives + 1 < most  # it comes once more by waiting, and once more to be tried again
        assert age_s + found.seconds < 4 * DAY_S
    else:
        assert found.seconds <= 900


@given(left_s=st.floats(0, 20 * DAY_S), retention_s=st.integers(60, 14 * DAY_S), age_s=st.floats(0, 14 * DAY_S))
def test_no_message_waits_for_longer_than_its_queue_keeps_it(left_s: float, retention_s: int, age_s: float) -> None:
    found = planned(left_s, retention_s=retention_s, sent=NOW - int(age_s * 1000))
    if found is not None:
        assert found.seconds + (age_s if found.how is How.HIDE else 0) < retention_s


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"eta": None}, {"eta": "soon"}, {"eta": "2026-11-23T10:00:00"}, {"eta": 7},
    ],
)  # fmt: skip
def test_what_has_no_time_is_due_at_once(headers: dict[str, Any]) -> None:
    assert due_ms({"task": "t", "id": "1", **headers}) is None


def test_only_tasks_are_deferred() -> None:
    eta = "1970-01-01T00:01:00Z"
    assert due_ms({"task": "t", "id": "1", "eta": eta}) == 60_000
    assert due_ms({"eta": eta}) is None


# --- the whole way, on a clock that is advanced


@pytest.fixture
def connection(fake: FakeClients) -> Iterator[Connection]:
    with connected(fake) as made:
        yield made


def publish(fake: FakeClients, connection: Connection, queue: str, wait_s: float, **options: Any) -> float:
    """A task as a fan-out leaves it in a queue: without a delay. When it is due, by the fake's clock."""
    due = fake.clock() + wait_s
    eta = (datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=due)).isoformat()
    Producer(connection).publish(
        [[], {}, {}], routing_key=queue, headers={"task": "t", "id": "1", "eta": eta}, **options
    )
    return due


def wait_for(fake: FakeClients, connection: Connection, queue: str, names: list[str]) -> Any:
    """Receive as an idle worker does, again and again, until the message is handed over."""
    channel = connection.default_channel
    while True:
        message = channel.basic_get(queue)
        if message is not None:
            return message
        connection.connection.leases.flush(5.0)
        waiting = [stored.visible_at for name in names for stored in fake.queues.queue(name).messages]
        assert len(waiting) == 1, "it is lost, or there are two"
        fake.clock.advance(max(0.0, waiting[0] - fake.clock()))


@pytest.mark.parametrize("most_receives", [None, 1, 2, 3, 20])
@pytest.mark.parametrize("wait_s", [5, 40, 20 * MINUTE_S, 13 * 3600, 3 * DAY_S, 12 * DAY_S])
def test_a_task_comes_when_it_is_due_and_not_into_the_dead_letter_queue(
    fake: FakeClients, connection: Connection, wait_s: float, most_receives: int | None
) -> None:
    arguments = {} if most_receives is None else {"x-dead-letter-queue": True, "x-delivery-limit": most_receives}
    connection.default_channel.queue_declare("q", arguments=arguments)
    due = publish(fake, connection, "q", wait_s)
    message = wait_for(fake, connection, "q", ["q"])
    early_s = due - fake.clock()
    assert 0 <= early_s <= EARLY_S + 1.1  # Celery's own timer does the rest
    if most_receives is not None:
        assert fake.queues.queue("q-dead").messages == []
        assert message.properties["receive_count"] <= max(1, most_receives - 1)  # one is left for a second try
    message.ack()


def test_a_task_is_not_lost_where_its_queue_keeps_messages_for_less_than_it_waits(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.default_channel.queue_declare("q")
    fake.queues.queue("q").attributes["MessageRetentionPeriod"] = "3600"
    due = publish(fake, connection, "q", 13 * 3600)
    message = wait_for(fake, connection, "q", ["q"])
    assert 0 <= due - fake.clock() <= EARLY_S + 1.1
    assert message.properties["sent_timestamp_ms"] > (due - 3600) * 1000
    assert caplog.text.count("Queue q keeps messages for 3600 s") == 1
    message.ack()


def test_a_task_waits_as_a_copy_where_a_quarter_of_the_quota_is_in_flight(
    fake: FakeClients, connection: Connection
) -> None:
    connection.default_channel.queue_declare("q")
    answer = fake.queues.get_queue_attributes

    def crowded(**params: Any) -> dict[str, Any]:
        if params["AttributeNames"] != ["ApproximateNumberOfMessagesNotVisible"]:
            return answer(**params)
        return {"Attributes": {"ApproximateNumberOfMessagesNotVisible": "30000"}}

    fake.queues.get_queue_attributes = crowded  # type: ignore[method-assign]
    in_flight = connection.connection._shared.deferring._in_flight
    url = QueueUrl(fake.queues.queue("q").url)
    in_flight.reading(url)
    eventually(lambda: in_flight.reading(url).in_flight == 30_000)
    publish(fake, connection, "q", 3600)
    assert connection.default_channel.basic_get("q") is None
    connection.connection.leases.flush(5.0)
    [copy] = fake.queues.queue("q").messages
    assert copy.visible_at == copy.sent_at + 900
    asked = [params["AttributeNames"] for operation, params in fake.calls if operation == "get_queue_attributes"]
    assert asked.count(["ApproximateNumberOfMessagesNotVisible"]) == 1
    # Beside the one read of the queue's policies when it is declared.
    assert sum("RedrivePolicy" in names and "Policy" not in names for names in asked) == 1


def test_a_copy_that_aws_could_not_take_is_sent_again_and_comes_no_later_for_that(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling_module, "backoff_s", lambda *args, **kwargs: 0.001)
    connection.default_channel.queue_declare("q", arguments={"x-dead-letter-queue": True, "x-delivery-limit": 1})
    publish(fake, connection, "q", 600)
    [waiting] = fake.queues.queue("q").messages
    fake.before("send_message", lambda: None, lambda: fake.clock.advance(100))
    fake.fail("send_message", BrokerUnavailable("away"), BrokerUnavailable("away", is_throttle=True))
    assert connection.default_channel.basic_get("q") is None
    eventually(lambda: waiting not in fake.queues.queue("q").messages)
    [copy] = fake.queues.queue("q").messages
    assert 490 <= copy.visible_at - copy.sent_at <= 498
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_copy_keeps_its_priority_level(fake: FakeClients, connection: Connection) -> None:
    arguments = {"x-max-priority": 2, "x-dead-letter-queue": True, "x-delivery-limit": 1}
    connection.default_channel.queue_declare("q", arguments=arguments)
    names = [name for name in fake.queues.by_name if name != "q-dead"]
    due = publish(fake, connection, "q", 40 * MINUTE_S, priority=2)
    level = next(name for name in names if fake.queues.queue(name).messages)
    assert level != "q"
    message = wait_for(fake, connection, "q", names)
    assert 0 <= due - fake.clock() <= EARLY_S + 1.1
    assert [name for name in names if fake.queues.queue(name).messages] == [level]
    message.ack()


def test_a_task_in_a_fifo_queue_is_left_to_the_worker(fake: FakeClients, connection: Connection) -> None:
    connection.default_channel.queue_declare("q.fifo")
    publish(fake, connection, "q.fifo", 3600)
    message = connection.default_channel.basic_get("q.fifo")
    assert message is not None
    message.ack()


def test_a_task_that_expires_while_it_waits_is_handed_to_celery(fake: FakeClients, connection: Connection) -> None:
    connection.default_channel.queue_declare("q")
    due = fake.clock() + 3600
    at = [(datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=t)).isoformat() for t in (due, due - 1800)]
    headers = {"task": "t", "id": "1", "eta": at[0], "expires": at[1]}
    Producer(connection).publish([[], {}, {}], routing_key="q", headers=headers)
    message = wait_for(fake, connection, "q", ["q"])
    assert message.headers["expires"] == at[1]  # Celery records that it was revoked
    message.ack()


def test_time_to_live_runs_on_through_copies(fake: FakeClients, connection: Connection) -> None:
    connection.default_channel.queue_declare("q", arguments={"x-dead-letter-queue": True, "x-delivery-limit": 1})
    publish(fake, connection, "q", 2 * 3600, expiration=3600)
    channel = connection.default_channel
    for _ in range(8):
        assert channel.basic_get("q") is None
        connection.connection.leases.flush(5.0)
        fake.clock.advance(900)
    assert fake.queues.queue("q").messages == []
    [dead] = fake.queues.queue("q-dead").messages
    assert json.loads(dead.body)["headers"]["id"] == "1"
    assert receive_count({}) == 1
