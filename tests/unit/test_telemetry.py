"""Metrics, and what decides whether there are any: no OpenTelemetry, no option, no SDK, an SDK that fails."""

import gc
import logging
import os
import subprocess
import sys
import threading
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import ClientError
from fakes import FakeClients, connected, eventually, make_settings
from hypothesis import given
from hypothesis import strategies as st
from kombu import Queue
from opentelemetry.metrics import NoOpMeterProvider, get_meter_provider
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, get_tracer_provider
from support.telemetry import Observed, observed
from test_forksafe import in_child

from kombu_hake.amqp import TEMPORARY, QueueUrl, label
from kombu_hake.aws import Clients
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    MessageTooLarge,
    PayloadMissing,
    PublishError,
    PublishFailed,
    QueueNotFound,
)
from kombu_hake.publish import batch
from kombu_hake.receive.delivery import Lease
from kombu_hake.receive.leases import Leases
from kombu_hake.telemetry import names, safety
from kombu_hake.telemetry.metrics import COUNTERS, HISTOGRAMS, MOST_A_SECOND, MOST_DESTINATIONS
from kombu_hake.telemetry.providers import Provider
from kombu_hake.telemetry.tally import OTHER, Few, Tally

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def seen() -> Any:
    with observed() as found:
        yield found


@pytest.fixture
def fake(seen: Observed) -> FakeClients:
    found = FakeClients()
    found.telemetry = seen.telemetry
    return found


# --- names


def test_names_are_those_of_the_semantic_conventions() -> None:
    assert (names.SQS, names.SNS) == ("aws_sqs", "aws.sns")
    assert (names.SYSTEM, names.DESTINATION) == ("messaging.system", "messaging.destination.name")
    assert (names.OPERATION, names.OPERATION_TYPE) == ("messaging.operation.name", "messaging.operation.type")
    assert (names.CREATE, names.SEND, names.RECEIVE) == ("create", "send", "receive")
    assert (names.PROCESS, names.SETTLE, names.ERROR) == ("process", "settle", "error.type")
    assert (names.GROUP, names.MESSAGE_ID) == ("messaging.consumer.group.name", "messaging.message.id")
    assert (names.SENT, names.CONSUMED) == ("messaging.client.sent.messages", "messaging.client.consumed.messages")
    assert names.OPERATION_DURATION == "messaging.client.operation.duration"
    assert names.PROCESS_DURATION == "messaging.process.duration"
    assert names.BATCH_COUNT == "messaging.batch.message_count"


@pytest.mark.parametrize(
    ("queue", "shown"),
    [
        ("email", "email"),
        ("live.email-2024", "live.email-2024"),
        ("worker@host.celery.pidbox", TEMPORARY),
        ("5f0f3c55-7f4f-3d0b-9d0d-6a3b4a2c1e90.reply.celery.pidbox", TEMPORARY),
        ("celeryev.5f0f3c55-7f4f-5d0b-9d0d-6a3b4a2c1e90", TEMPORARY),
        ("amq.gen-5f0f3c557f4f5d0b9d0d6a3b4a2c1e90", TEMPORARY),
        ("results-of-5F0F3C55-7F4F-5D0B-9D0D-6A3B4A2C1E90", TEMPORARY),
    ],
)
def test_queues_that_come_and_go_have_one_name(queue: str, shown: str) -> None:
    assert label(queue) == shown


# --- counting


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", "z"]), st.integers(1, 9))))
def test_a_tally_counts(additions: list[tuple[str, str, int]]) -> None:
    tally = Tally()
    for name, key, count in additions:
        tally.add(name, (key,), count)
    for name in "ab":
        expected = {key: sum(n for a, b, n in additions if (a, b) == (name, key)) for _, key, _ in additions}
        assert tally.counts(name) == {(key,): count for key, count in expected.items() if count}


def test_no_addition_is_lost_between_threads() -> None:
    tally = Tally()
    threads = [threading.Thread(target=lambda: [tally.add("a", ("x",)) for _ in range(2_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.counts("a") == {("x",): 8_000}


@given(st.lists(st.text()))
def test_few_names_pass(many: list[str]) -> None:
    few = Few(3)
    passed = {few(name) for name in many}
    assert len(passed - {OTHER}) <= 3
    assert all(len(name) <= 129 for name in passed)


# --- instruments


def test_messages_that_are_sent_received_and_settled_are_counted(seen: Observed, fake: FakeClients) -> None:
    with connected(fake) as connection:
        channel = connection.channel()
        queue = Queue("mails", channel=channel)
        queue.declare()
        producer = connection.Producer()
        producer.publish({"n": 1}, routing_key="mails")
        with batch():
            for n in range(3):
                producer.publish({"n": n}, routing_key="mails")
        taken: list[Any] = []
        with connection.Consumer(queue, callbacks=[lambda body, message: taken.append(message)], accept=["json"]):
            while len(taken) < 4:
                connection.drain_events(timeout=5)
            taken[0].ack()
            taken[1].ack()
            taken[2].requeue()
            taken[3].reject()
            assert connection.transport.leases.flush(5.0)
    mails = {"messaging_destination_name": "mails"}
    assert seen.total(names.SENT, messaging_system="aws_sqs", **mails) == 4
    assert seen.total(names.CONSUMED, **mails) >= 4
    assert seen.total(names.SETTLED, hake_outcome="ack", **mails) == 2
    assert seen.total(names.SETTLED, hake_outcome="released", **mails) >= 1
    assert seen.total(names.SETTLED, hake_outcome="dropped", **mails) == 1  # it has no dead-letter queue
    assert seen.total(names.OPERATION_DURATION, messaging_operation_type="send", **mails) == 2
    assert seen.total(names.OPERATION_DURATION, messaging_operation_type="receive", **mails) >= 1
    assert seen.total(names.OPERATION_DURATION, messaging_operation_type="settle", **mails) >= 1
    assert seen.total(names.PROCESS_DURATION, **mails) == 4
    assert 1 <= seen.total(names.DWELL, **mails) <= 4  # one for each poll
    [sizes] = [value for attributes, value in seen.points(names.BATCH) if attributes[names.OPERATION] == "send"]
    assert sizes == (1, 3)


def test_the_dwell_time_is_that_of_the_message_that_waited_longest(seen: Observed, fake: FakeClients) -> None:
    with connected(fake) as connection:
        channel = connection.channel()
        channel.queue_declare("mails")
        connection.Producer().publish({}, routing_key="mails")
        fake.clock.advance(30.0)
        message = channel.basic_get("mails")
        assert message is not None
        message.requeue()
        assert connection.transport.leases.flush(5.0)
        fake.clock.advance(30.0)
        assert channel.basic_get("mails") is not None  # received before: how long it waited is known
    assert [value for _, value in seen.points(names.DWELL)] == [(1, 30.0)]


def test_a_publish_to_a_topic_names_the_exchange(seen: Observed, fake: FakeClients) -> None:
    with connected(fake) as connection:
        channel = connection.channel()
        channel.exchange_declare("orders", "topic")
        channel.queue_declare("mails")
        channel.queue_bind("mails", "orders", "placed")
        connection.Producer().publish({}, exchange="orders", routing_key="placed")
    assert seen.total(names.SENT, messaging_system="aws.sns", messaging_destination_name="orders") == 1


def test_failures_are_counted_by_their_class(seen: Observed, fake: FakeClients) -> None:
    with connected(fake) as connection:
        connection.channel().queue_declare("mails")
        fake.deny("sqs:SendMessage")
        producer = connection.Producer()
        with pytest.raises(AccessDenied):
            producer.publish({}, routing_key="mails")
        fake.allow("sqs:SendMessage")
        fake.fail_entries(
            "send_message_batch", code="InvalidMessageContents", sender_fault=True, of=lambda entry: entry["Id"] == "1"
        )

        def publish_three() -> None:
            with batch():
                for _ in range(3):
                    producer.publish({}, routing_key="mails")

        with pytest.raises(PublishFailed, match="InvalidMessageContents"):
            publish_three()
    assert seen.total(names.SENT, error_type="AccessDenied") == 1
    assert seen.total(names.SENT, error_type="PublishError") == 1
    assert seen.total(names.SENT, messaging_destination_name="mails") == 4
    assert seen.total(names.OPERATION_DURATION, error_type="AccessDenied") == 1
    assert seen.total(names.OPERATION_DURATION, error_type="PublishError") == 0  # the request itself was answered


def test_dead_letters_are_counted_by_their_reason(seen: Observed, fake: FakeClients) -> None:
    with connected(fake) as connection:
        channel = connection.channel()
        channel.queue_declare("mails", arguments={"x-dead-letter-queue": "mails-dead"})
        connection.Producer().publish({}, routing_key="mails")
        message = channel.basic_get("mails")
        assert message is not None
        message.reject()
        assert connection.transport.leases.flush(5.0)
    assert seen.points(names.DEAD) == [({names.DESTINATION: "mails", names.REASON: "rejected"}, 1)]
    assert seen.total(names.SETTLED, hake_outcome="dead_letter") == 1
    assert seen.total(names.SETTLED, hake_outcome="ack") == 0


def test_free_text_is_no_reason(seen: Observed) -> None:
    for reason in ("failed", "malformed: it has 17 faults", "anything 42", "x" * 10_000):
        seen.telemetry.metrics.dead_lettered("mails", reason)
    assert {attributes[names.REASON] for attributes, _ in seen.points(names.DEAD)} == {"failed", "malformed", OTHER}


def test_leases_that_are_renewed_and_lost_are_counted(seen: Observed, fake: FakeClients) -> None:
    url = QueueUrl(fake.sqs("create_queue", QueueName="mails")["QueueUrl"])
    lost: list[Any] = []
    leases = Leases(fake, visibility_s=30, linger_s=0.1, clock=fake.clock, on_lost=lambda lease, why: lost.append(why))
    for _ in range(2):
        fake.sqs("send_message", QueueUrl=url, MessageBody="hello")
    raws = fake.sqs("receive_message", QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=30)["Messages"]
    held = [Lease(url, raw["ReceiptHandle"], fake.clock(), 30.0, "mails") for raw in raws]
    held.append(Lease(url, "no-such-handle", fake.clock(), 30.0, "mails"))
    leases.hold(held)
    fake.clock.advance(16.0)
    leases.wake()
    eventually(lambda: bool(seen.total(names.RENEWED)) and bool(lost))
    leases.release(held)
    leases.stop(5.0)
    assert seen.points(names.RENEWED) == [({names.DESTINATION: "mails"}, len(raws))]
    assert seen.points(names.LOST) == [({names.DESTINATION: "mails", names.REASON: "refused"}, 1)]
    assert seen.total(names.SETTLED, hake_outcome="lost") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "ok"),
        (BrokerUnavailable("slow down", is_throttle=True), "throttled"),
        (BrokerUnavailable("no route"), "unavailable"),
        (AccessDenied("no"), "denied"),
        (QueueNotFound("gone"), "missing"),
        (PayloadMissing("gone"), "missing"),
        (PublishError("bad"), "refused"),
    ],
)
def test_requests_are_counted_by_action_and_status(seen: Observed, error: Exception | None, status: str) -> None:
    seen.telemetry.metrics.requested("sqs", "delete_message_batch", error)
    assert seen.points(names.REQUESTS) == [({names.ACTION: "sqs:DeleteMessageBatch", names.STATUS: status}, 1)]


def test_requests_to_s3_are_counted_by_their_actions(seen: Observed) -> None:
    clients = Clients(make_settings())
    clients.telemetry = seen.telemetry
    missing = ClientError({"Error": {"Code": "NoSuchKey"}, "ResponseMetadata": {"HTTPStatusCode": 404}}, "GetObject")
    s3 = mock.Mock(upload=mock.Mock(return_value={}), download=mock.Mock(side_effect=missing))
    with mock.patch.object(clients, "_client", return_value=s3):
        clients.s3("upload", Bucket="shop-payloads", Key="prod/q/x", Pieces=["x"])
        with pytest.raises(PayloadMissing):
            clients.s3("download", Bucket="shop-payloads", Key="prod/q/x", MaxBytes=1)
    assert seen.points(names.REQUESTS) == [
        ({names.ACTION: "s3:PutObject", names.STATUS: "ok"}, 1),
        ({names.ACTION: "s3:GetObject", names.STATUS: "missing"}, 1),
    ]


def test_the_age_of_polls_is_that_of_the_oldest_poller_of_a_queue(seen: Observed) -> None:
    metrics = seen.telemetry.metrics
    clocks = [metrics.poll_clock("mails"), metrics.poll_clock("mails"), metrics.poll_clock("events")]
    clocks[0]._polled_at -= 100
    clocks[2]._polled_at -= 7
    ages = {attributes[names.DESTINATION]: value for attributes, value in seen.points(names.POLL_AGE)}
    assert 100 <= ages["mails"] < 160
    assert 7 <= ages["events"] < 60
    clocks[0].polled()
    assert max(value for _, value in seen.points(names.POLL_AGE)) < 60


def test_a_poller_that_has_ended_has_no_age_and_is_kept_alive_by_nothing(seen: Observed, fake: FakeClients) -> None:
    with connected(fake) as connection:
        channel = connection.channel()
        channel.queue_declare("mails")
        tag = channel.basic_consume("mails", callback=lambda message: None)
        eventually(lambda: len(seen.points(names.POLL_AGE)) == 1)
        channel.basic_cancel(tag)
        fake.end()

    def is_gone() -> bool:
        gc.collect()
        return not seen.points(names.POLL_AGE)

    eventually(is_gone)


def test_hostile_names_of_destinations_are_bounded(seen: Observed) -> None:
    for n in range(3 * MOST_DESTINATIONS):
        seen.telemetry.metrics.sent(f"queue-{n}", 1, 0.1, to_queue=True)
        seen.telemetry.metrics.processed("mails", 0.1, f"Error{n}")
    assert len(seen.points(names.SENT)) <= MOST_DESTINATIONS + 1
    assert seen.total(names.SENT) == 3 * MOST_DESTINATIONS
    assert len(seen.points(names.PROCESS_DURATION)) <= 101
    assert len(seen.telemetry.metrics._series) < 2 * MOST_DESTINATIONS + 300


def test_at_high_rates_durations_are_a_sample_and_counts_are_exact(seen: Observed) -> None:
    for _ in range(20 * MOST_A_SECOND):
        seen.telemetry.metrics.sent("mails", 1, 0.1, to_queue=True)
    assert seen.total(names.SENT) == 20 * MOST_A_SECOND
    assert MOST_A_SECOND <= seen.total(names.OPERATION_DURATION) < 20 * MOST_A_SECOND
    seen.telemetry.metrics.sent("orders", 1, 0.1, to_queue=False)  # a busy queue takes nothing from another one
    assert seen.total(names.OPERATION_DURATION, messaging_destination_name="orders") == 1


def test_every_instrument_has_a_unit_and_a_description() -> None:
    for item in (*COUNTERS.values(), *HISTOGRAMS.values()):
        assert item.unit
        assert item.description.endswith(".")


# --- forks


def test_a_forked_child_counts_its_own_work(seen: Observed) -> None:
    seen.telemetry.metrics.sent("mails", 5, 0.1, to_queue=True)
    clock = seen.telemetry.metrics.poll_clock("mails")

    def count() -> None:
        assert seen.telemetry.metrics._tally.counts(names.SENT) == {}
        assert seen.telemetry.metrics._observe_polls() == []
        seen.telemetry.metrics.sent("mails", 1, 0.1, to_queue=True)
        [count] = seen.telemetry.metrics._tally.counts(names.SENT).values()
        assert count == 1

    in_child(count)
    assert seen.total(names.SENT) == 5
    assert clock.age_s() >= 0


# --- off


def without(modules: str, statements: str) -> str:
    """What statements print in a process in which these modules cannot be imported."""
    script = f"""
import sys
for name in {modules.split()!r}:
    sys.modules[name] = None
import logging
logging.basicConfig(level="WARNING")
sys.path[:0] = ["tests"]
{statements}
loaded = sorted({{name.split(".")[0] for name, module in sys.modules.items() if module is not None}})
print("opentelemetry" in loaded)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


ROUND_TRIP = """
from fakes import FakeClients, connected, make_settings
from kombu_hake.aws import Clients
fake = FakeClients()
fake.telemetry = Clients(make_settings({options})).telemetry
with connected(fake) as connection:
    channel = connection.channel()
    channel.queue_declare("mails")
    taken = []
    channel.basic_consume("mails", callback=lambda message: (taken.append(message), message.ack()))
    connection.Producer().publish({{}}, routing_key="mails")
    while not taken:
        connection.drain_events(timeout=5)
print(fake.telemetry, len(taken))
"""


def test_without_the_api_everything_works() -> None:
    assert without("opentelemetry", ROUND_TRIP.format(options="")) == "None 1\nFalse\n"


def test_without_the_semantic_conventions_everything_works() -> None:
    assert without("opentelemetry.semconv", ROUND_TRIP.format(options="")).startswith("None 1\n")


def test_the_option_turns_it_off_and_imports_nothing() -> None:
    assert without("", ROUND_TRIP.format(options="telemetry=False")) == "None 1\nFalse\n"


SDK_SET_LATER = """
from types import SimpleNamespace
from kombu_hake.telemetry import load
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
{before}
telemetry, reader = load(), InMemoryMetricReader()
def request(): telemetry.metrics.requested("sqs", "send_message", None)
request()
print(telemetry.is_on(), telemetry.metrics._tally.counts("hake.requests"))
trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
print(telemetry.is_on(), telemetry.traces.is_on(), telemetry.metrics.is_on())
metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
request()
print(telemetry.metrics.is_on(), sum(telemetry.metrics._tally.counts("hake.requests").values()))
"""
#: An API that keeps its providers elsewhere.
ELSEWHERE = """
get_meter_provider, get_tracer_provider = metrics.get_meter_provider, trace.get_tracer_provider
metrics.get_meter_provider = type("Function", (), {"__call__": lambda self: get_meter_provider()})()
trace.get_tracer_provider = type("Function", (), {"__call__": lambda self: get_tracer_provider()})()
"""


@pytest.mark.parametrize("before", ["", ELSEWHERE])
def test_nothing_is_reported_until_an_sdk_is_set(before: str) -> None:
    assert without("", SDK_SET_LATER.format(before=before)) == "False {}\nTrue True False\nTrue 1\nTrue\n"


def test_the_variables_of_the_api_are_where_they_are_looked_for() -> None:
    """Elsewhere each message asks the API's functions, which take longer than all else that is done for metrics."""
    for function, name in ((get_meter_provider, "_METER_PROVIDER"), (get_tracer_provider, "_TRACER_PROVIDER")):
        assert name in function.__globals__


def test_providers_of_the_api_itself_are_none() -> None:
    for provider in (NoOpTracerProvider, ProxyTracerProvider, NoOpMeterProvider):
        assert not Provider(provider, "_NO_SUCH_VARIABLE").is_set()
    assert Provider(object, "_NO_SUCH_VARIABLE").is_set()


def test_an_api_that_lacks_something_is_reported() -> None:
    script = "import opentelemetry.metrics as m\ndel m.get_meter\n" + ROUND_TRIP.format(options="")
    assert "HAKE730" in without("", script)


def test_a_connection_has_the_telemetry_of_its_process(seen: Observed) -> None:
    assert Clients(make_settings()).telemetry is seen.telemetry
    assert Clients(make_settings(telemetry="off")).telemetry is None


# --- failures


def test_a_failing_sdk_fails_no_message(seen: Observed, fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("the exporter is broken")

    safety._reported.clear()
    metrics = seen.telemetry.metrics
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        for instrument in ("_duration", "_batch", "_dwell", "_process"):
            patch.setattr(metrics, instrument, type("Broken", (), {"record": fail}))
        patch.setattr(seen.telemetry.traces, "_tracer", type("Broken", (), {"start_span": fail}))
        with connected(fake) as connection:
            channel = connection.channel()
            channel.queue_declare("mails")
            taken: list[Any] = []
            channel.basic_consume("mails", callback=lambda message: (taken.append(message), message.ack()))
            connection.Producer().publish({}, routing_key="mails")
            with batch():
                connection.Producer().publish({}, routing_key="mails")
            while len(taken) < 2:
                connection.drain_events(timeout=5)
    assert sum("HAKE731" in record.message for record in caplog.records) == 1
    safety._reported.clear()


def test_a_message_that_is_too_large_is_not_counted_as_sent(seen: Observed, fake: FakeClients) -> None:
    with connected(fake) as connection:
        connection.channel().queue_declare("mails")
        with pytest.raises(MessageTooLarge):
            connection.Producer().publish("x" * 2_000_000, routing_key="mails")
    assert seen.total(names.SENT) == 0
