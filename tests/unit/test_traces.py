"""Spans of publishing, receiving and processing, and the context in a message's headers; without Celery."""

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClients, connected, eventually
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from support.telemetry import Observed, context_of, is_child, links, observed

from kombu_hake.amqp import decode, with_first_sent
from kombu_hake.exceptions import AccessDenied, PublishFailed
from kombu_hake.publish import batch
from kombu_hake.telemetry import Received, names
from kombu_hake.telemetry.traces import MAX_CHARS, Traces, _context_in, _context_of

OTHER_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def seen() -> Iterator[Observed]:
    with observed() as found:
        yield found


@pytest.fixture
def fake(seen: Observed) -> FakeClients:
    found = FakeClients()
    found.telemetry = seen.telemetry
    return found


@pytest.fixture
def connection(fake: FakeClients) -> Iterator[Connection]:
    with connected(fake) as found:
        channel = found.channel()
        channel.queue_declare("mails")
        channel.exchange_declare("orders", "topic")
        channel.queue_bind("mails", "orders", "#")
        yield found
        fake.end()


def headers(fake: FakeClients, queue: str = "mails") -> list[dict[str, Any]]:
    return [json.loads(text)["headers"] for text in fake.queues.queue(queue).bodies()]


def consume(connection: Connection, count: int = 1, callback: Any = None) -> list[Any]:
    taken: list[Any] = []

    def on_message(message: Any) -> None:
        taken.append(message)
        message.ack()
        if callback is not None:
            callback(message)

    channel = connection.channel()
    tag = channel.basic_consume("mails", callback=on_message)
    while len(taken) < count:
        connection.drain_events(timeout=5)
    channel.basic_cancel(tag)
    return taken


# --- publish


def test_a_publish_is_a_span_whose_context_the_message_carries(
    seen: Observed, fake: FakeClients, connection: Connection
) -> None:
    with seen.tracer.start_as_current_span("request") as request:
        connection.Producer().publish({}, exchange="orders", routing_key="placed.7", message_id="m-1")
    span = seen.span("send orders")
    assert span.kind.name == "PRODUCER"
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id
    assert dict(span.attributes or {}) == {
        names.SYSTEM: "aws.sns",
        names.DESTINATION: "orders",
        names.OPERATION: "send",
        names.OPERATION_TYPE: "send",
        names.MESSAGE_ID: "m-1",
    }
    context = context_of(span)
    assert headers(fake) == [{"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-03"}]


def test_a_message_to_a_queue_names_the_queue(seen: Observed, connection: Connection) -> None:
    connection.Producer().publish({}, routing_key="mails")
    attributes = seen.span("send mails").attributes or {}
    assert (attributes[names.SYSTEM], attributes[names.DESTINATION]) == ("aws_sqs", "mails")


def test_the_headers_of_the_caller_are_not_changed(fake: FakeClients, connection: Connection) -> None:
    mine = {"tenant": "a"}
    connection.Producer().publish({}, routing_key="mails", headers=mine)
    assert mine == {"tenant": "a"}
    assert headers(fake)[0].keys() == {"tenant", "traceparent"}


def test_a_context_that_an_instrumentation_has_written_stays(
    seen: Observed, fake: FakeClients, connection: Connection
) -> None:
    with seen.tracer.start_as_current_span("apply_async") as above:
        context = above.get_span_context()
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-03"
        connection.Producer().publish({}, routing_key="mails", headers={"traceparent": parent})
    span = seen.span("send mails")
    assert span.kind.name == "CLIENT"
    assert is_child(span, seen.span("apply_async"))
    assert links(span) == set()
    assert headers(fake) == [{"traceparent": parent}]


def test_a_context_of_another_trace_stays_and_is_linked(
    seen: Observed, fake: FakeClients, connection: Connection
) -> None:
    with seen.tracer.start_as_current_span("relay"):
        connection.Producer().publish({}, routing_key="mails", headers={"traceparent": OTHER_TRACE})
    span = seen.span("send mails")
    assert is_child(span, seen.span("relay"))
    assert links(span) == {0xB7AD6B7169203331}
    assert headers(fake) == [{"traceparent": OTHER_TRACE}]


def test_a_message_that_is_sent_on_stays_in_its_trace(seen: Observed, connection: Connection) -> None:
    connection.Producer().publish({}, routing_key="mails", headers={"traceparent": OTHER_TRACE})
    span = seen.span("send mails")
    assert context_of(span).trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert span.parent is not None
    assert span.parent.span_id == 0xB7AD6B7169203331


def test_a_publish_that_fails_is_an_error(seen: Observed, fake: FakeClients, connection: Connection) -> None:
    fake.deny("sqs:SendMessage")
    with pytest.raises(AccessDenied):
        connection.Producer().publish({}, routing_key="mails")
    span = seen.span("send mails")
    assert span.status.status_code.name == "ERROR"
    assert (span.attributes or {})[names.ERROR] == "AccessDenied"


def test_commands_replies_and_events_have_no_spans(seen: Observed, fake: FakeClients, connection: Connection) -> None:
    channel = connection.channel()
    for exchange, kind, queue in (("celery.pidbox", "fanout", "commands"), ("celeryev", "topic", "events")):
        channel.exchange_declare(exchange, kind)
        channel.queue_declare(queue)
        channel.queue_bind(queue, exchange, "#")
        connection.Producer().publish({}, exchange=exchange, routing_key="worker.heartbeat", delivery_mode=1)
    assert headers(fake, "commands") == headers(fake, "events") == [{}]
    assert seen.spans() == []


def test_a_span_that_is_not_sampled_is_carried_as_such(fake: FakeClients) -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    with observed(sampler=ALWAYS_OFF) as seen:
        fake.telemetry = seen.telemetry
        with connected(fake) as connection:
            connection.channel().queue_declare("mails")
            connection.Producer().publish({}, routing_key="mails")
        assert seen.spans() == []
    assert int(headers(fake)[0]["traceparent"][-2:], 16) & 1 == 0


def test_without_a_provider_headers_stay_as_they_are() -> None:
    traces = Traces()
    assert not traces.is_on()
    fake = FakeClients()
    fake.telemetry = SimpleNamespace(traces=traces, metrics=observed_metrics())
    with connected(fake) as connection:
        connection.channel().queue_declare("mails")
        connection.Producer().publish({}, routing_key="mails", headers={"traceparent": OTHER_TRACE})
    assert headers(fake) == [{"traceparent": OTHER_TRACE}]


def observed_metrics() -> Any:
    with observed() as seen:
        return seen.telemetry.metrics


# --- batches


def test_a_batch_request_links_to_its_messages(seen: Observed, fake: FakeClients, connection: Connection) -> None:
    with seen.tracer.start_as_current_span("request"), batch():
        for number in range(3):
            connection.Producer().publish({}, exchange="orders", routing_key="placed", message_id=f"m-{number}")
        assert seen.spans("send") == []
    created, sent = seen.spans("create orders"), seen.span("send orders")
    assert [span.kind.name for span in created] == ["PRODUCER"] * 3
    assert all(is_child(span, seen.span("request")) for span in [*created, sent])
    assert sent.kind.name == "CLIENT"
    assert links(sent) == {context_of(span).span_id for span in created}
    assert (sent.attributes or {})[names.BATCH_COUNT] == 3
    carried = {int(item["traceparent"].split("-")[2], 16) for item in headers(fake)}
    assert carried == links(sent)


def test_a_batch_request_whose_messages_fail_is_an_error(
    seen: Observed, fake: FakeClients, connection: Connection
) -> None:
    fake.deny("sqs:SendMessage")

    def publish_two() -> None:
        with batch():
            for _ in range(2):
                connection.Producer().publish({}, routing_key="mails")

    with pytest.raises(PublishFailed):
        publish_two()
    assert seen.span("send mails").status.status_code.name == "ERROR"


# --- receive and process


def test_receiving_links_to_what_was_published_and_processing_is_below_it(
    seen: Observed, connection: Connection
) -> None:
    connection.Producer().publish({"n": 1}, exchange="orders", routing_key="placed")
    current: list[Any] = []
    [message] = consume(connection, callback=lambda _: current.append(seen.tracer.start_span("inside")))
    current[0].end()
    sent, received = seen.span("send orders"), seen.span("receive mails")
    assert received.kind.name == "CLIENT"
    assert received.parent is None
    assert links(received) == {context_of(sent).span_id}
    assert (received.attributes or {})[names.BATCH_COUNT] == 1
    eventually(lambda: bool(seen.spans("process")))
    processed = seen.span("process mails")
    assert processed.kind.name == "CONSUMER"
    assert is_child(processed, sent)
    assert is_child(seen.span("inside"), processed)
    assert dict(processed.attributes or {}) == {
        names.SYSTEM: "aws_sqs",
        names.DESTINATION: "mails",
        names.OPERATION: "process",
        names.OPERATION_TYPE: "process",
        names.RECEIVE_COUNT: 1,
        names.MESSAGE_ID: message.properties["message_id"],
    }


def test_a_callback_that_raises_is_an_error(seen: Observed, connection: Connection) -> None:
    def fail(_message: Any) -> None:
        raise ValueError("no such order")

    connection.Producer().publish({}, routing_key="mails")
    with pytest.raises(ValueError, match="no such order"):
        consume(connection, callback=fail)
    span = seen.span("process mails")
    assert span.status.status_code.name == "ERROR"
    assert (span.attributes or {})[names.ERROR] == "ValueError"
    assert seen.total(names.PROCESS_DURATION, error_type="ValueError") == 1


def test_what_copies_the_headers_of_the_processed_message_gets_a_span_below_it(
    seen: Observed, connection: Connection
) -> None:
    """Celery's retry does, and nothing else tells it from a message that is sent on."""

    def retry(message: Any) -> None:
        if not message.headers.get("retries"):
            connection.Producer().publish({}, routing_key="mails", headers={**message.headers, "retries": 1})

    connection.Producer().publish({}, exchange="orders", routing_key="placed")
    consume(connection, 2, callback=retry)
    first, second = seen.spans("process mails")
    again = seen.span("send mails")
    assert is_child(first, seen.span("send orders"))
    assert is_child(again, first)
    assert is_child(second, again)
    assert len({context_of(span).trace_id for span in (first, again, second, seen.span("send orders"))}) == 1


def test_a_deferred_message_keeps_its_context(fake: FakeClients, connection: Connection) -> None:
    connection.Producer().publish({}, routing_key="mails", headers={"baggage": "tenant=a"})
    [text] = fake.queues.queue("mails").bodies()
    copy = decode(with_first_sent(text, 1), "mails")
    assert copy.headers == json.loads(text)["headers"]
    assert copy.headers.keys() == {"traceparent", "baggage"}


def test_a_dead_letter_keeps_its_context(fake: FakeClients, connection: Connection) -> None:
    channel = connection.channel()
    channel.queue_declare("orders", arguments={"x-dead-letter-queue": "orders-dead"})
    connection.Producer().publish({}, routing_key="orders")
    before = headers(fake, "orders")
    message = channel.basic_get("orders")
    assert message is not None
    message.reject()
    assert connection.transport.leases.flush(5.0)
    assert headers(fake, "orders-dead") == before


def test_baggage_is_there_while_a_message_is_processed(seen: Observed, connection: Connection) -> None:
    from opentelemetry import baggage

    found: list[Any] = []
    connection.Producer().publish({}, routing_key="mails", headers={"baggage": "tenant=a", "traceparent": OTHER_TRACE})
    consume(connection, callback=lambda _: found.append(baggage.get_baggage("tenant")))
    assert found == ["a"]
    assert baggage.get_baggage("tenant") is None


# --- hostile contexts

HOSTILE = [
    {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
    {"traceparent": "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    {"traceparent": ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]},
    {"traceparent": {"a": 1}},
    {"traceparent": 7},
    {"traceparent": OTHER_TRACE + " " * 100_000 + "\nx"},
    {"traceparent": "x" * 200_000},
    {"baggage": "a" * (MAX_CHARS + 1)},
    {"baggage": ["a=b"], "tracestate": {"a": "b"}},
    {"baggage": ",".join(f"k{n}=v" for n in range(1_000))},
    {"baggage": "=,=;=\u0000\ud800"},
]


@pytest.mark.parametrize("given_headers", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_context_is_ignored(
    seen: Observed, fake: FakeClients, connection: Connection, given_headers: dict[str, Any]
) -> None:
    started = time.process_time()
    url = fake.queues.queue("mails").url
    envelope = {
        "body": "e30=", "content-type": "application/json", "content-encoding": "utf-8", "headers": given_headers,
        "properties": {"delivery_info": {"exchange": "", "routing_key": "mails"}, "body_encoding": "base64",
                       "delivery_tag": "x"},
    }  # fmt: skip
    fake.sqs("send_message", QueueUrl=url, MessageBody=json.dumps(envelope))
    consume(connection)
    eventually(lambda: bool(seen.spans("process")))
    assert seen.span("process mails").parent is None
    assert links(seen.span("receive mails")) <= {0xB7AD6B7169203331}
    connection.Producer().publish({}, routing_key="mails", headers=given_headers)
    assert seen.span("send mails").parent is None
    assert time.process_time() - started < 20  # of a time that would grow with the square of the length


def test_a_trace_state_of_blanks_costs_no_time(seen: Observed, fake: FakeClients, connection: Connection) -> None:
    blanks = {"traceparent": OTHER_TRACE, "tracestate": " " * 200_000 + "x"}
    started = time.process_time()
    connection.Producer().publish({}, routing_key="mails", headers=blanks)
    [message] = consume(connection)
    assert message.headers == {"traceparent": OTHER_TRACE}
    assert time.process_time() - started < 20
    assert context_of(seen.span("process mails")).trace_id == 0x0AF7651916CD43DD8448EB211C80319C


@given(
    st.dictionaries(
        st.sampled_from(["traceparent", "tracestate", "baggage", "id"]),
        st.one_of(st.text(), st.integers(), st.lists(st.text()), st.none(), st.just(OTHER_TRACE)),
    )
)
def test_no_headers_raise(given_headers: dict[str, Any]) -> None:
    with observed() as seen:
        traces = seen.telemetry.traces
        message = {"headers": given_headers, "properties": {}}
        with traces.sending(message, "mails", to_queue=True, is_collected=False) as operation:
            assert operation.message["headers"].keys() >= given_headers.keys()
        with traces.sending_together("mails", [message], to_queue=True):
            pass
        running = traces.processing(Received("mails", given_headers.get("id"), 1), given_headers)
        assert running is not None
        running.end()
        assert len(seen.spans()) == 3


@pytest.mark.parametrize("version", ["00", "01", "fe", "ff", "0g"])
@pytest.mark.parametrize("trace_id", ["0af7651916cd43dd8448eb211c80319c", "0" * 32, "0AF7651916CD43DD8448EB211C80319C"])
@pytest.mark.parametrize("span_id", ["b7ad6b7169203331", "0" * 16, "b7ad"])
@pytest.mark.parametrize("flags", ["00", "01", "ff", "1"])
def test_a_body_and_headers_name_the_same_context(version: str, trace_id: str, span_id: str, flags: str) -> None:
    headers = {"traceparent": f"{version}-{trace_id}-{span_id}-{flags}"}
    of_body, of_headers = _context_in(json.dumps({"headers": headers})), _context_of(headers)
    assert of_body.is_valid == of_headers.is_valid
    assert not of_body.is_valid or of_body == of_headers


def test_with_a_propagator_of_another_format_a_receive_span_has_no_links(
    seen: Observed, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.channel().queue_declare("mails")
    connection.Producer().publish({}, routing_key="mails", headers={"traceparent": OTHER_TRACE})
    monkeypatch.setattr("opentelemetry.propagate.get_global_textmap", W3CBaggagePropagator)
    consume(connection)
    assert links(seen.span("receive mails")) == set()


def test_a_context_is_read_from_headers_and_not_from_the_text_of_a_body(
    seen: Observed, fake: FakeClients, connection: Connection
) -> None:
    body = json.dumps({"traceparent": OTHER_TRACE}, separators=(",", ":"))
    url = fake.queues.queue("mails").url
    envelope = {"body": body, "headers": {}, "properties": {"delivery_tag": "x"}}
    fake.sqs("send_message", QueueUrl=url, MessageBody=json.dumps(envelope, separators=(",", ":")))
    consume(connection)
    assert links(seen.span("receive mails")) == set()
