"""A received message in kombu's terms, and what a published one asks of SQS and SNS."""

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp.envelope import decode, encode
from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.amqp.tasks import ORIGIN_HEADER, PRIVATE_EXCHANGE, is_task
from kombu_hake.exceptions import MalformedMessage
from kombu_hake.publish.dispatch import send_parameters
from kombu_hake.receive.delivery import Delivery, Lease
from kombu_hake.receive.messages import HakeMessage, about, sent_ms, to_message

TASK = {"task": "shop.tasks.mail", "id": "7f1c9d0e", "lang": "py"}


def wire(exchange: str, routing_key: str, headers: dict[str, Any] | None = None) -> str:
    message = {
        "body": b"[[], {}, {}]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers or {},
        "properties": {"delivery_info": {}, "message_id": "mine"},
    }
    return encode(message, exchange, routing_key, "tag").text


def handed_over(text: str, queue: str = "q", *, is_bound: bool = False, **attributes: str) -> HakeMessage:
    raw = {"MessageId": "of-sqs", "Body": text, "Attributes": attributes}
    delivery = Delivery(1, queue, queue, raw, Lease(QueueUrl("u"), "handle", 0.0, 30.0))
    return to_message(decode(text, queue), delivery, None, 5, "consumer", is_bound=is_bound, sent_ms=sent_ms(raw))


# --- what a message says about itself


def test_a_first_delivery_is_not_redelivered() -> None:
    message = handed_over(wire("x", "k"), ApproximateReceiveCount="1", SentTimestamp="1700000000123")
    assert message.delivery_info["redelivered"] is False
    assert message.properties["receive_count"] == 1
    assert message.properties["sent_timestamp_ms"] == 1_700_000_000_123
    assert (message.delivery_tag, message.delivery_info["consumer_tag"]) == (5, "consumer")


def test_a_second_delivery_is_redelivered_and_says_how_often() -> None:
    message = handed_over(wire("x", "k"), ApproximateReceiveCount="3")
    assert message.delivery_info["redelivered"] is True
    assert message.properties["receive_count"] == 3
    # A retry carries headers on, and would carry the count with them.
    assert "receive_count" not in message.headers


def test_the_publishers_message_id_comes_before_that_of_sqs() -> None:
    assert handed_over(wire("x", "k")).properties["message_id"] == "mine"
    assert handed_over("foreign").properties["message_id"] == "of-sqs"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wire("x", "k", TASK), "task shop.tasks.mail[7f1c9d0e]"),
        (wire("x", "k"), "message mine"),
        ("?", "message of-sqs"),
    ],
)
def test_a_log_line_says_what_it_was(text: str, expected: str) -> None:
    assert str(about(handed_over(text), 1, 7, "q")) == expected


# --- group-scoped redelivery


@pytest.mark.parametrize(
    ("exchange", "routing_key", "is_bound", "expected"),
    [
        ("orders", "order.created", True, (PRIVATE_EXCHANGE, "q")),
        ("orders", "order.created", False, (PRIVATE_EXCHANGE, "q")),
        ("", "q", True, (PRIVATE_EXCHANGE, "q")),
        ("", "q", False, ("", "q")),
        ("q", "q", True, ("q", "q")),
        ("q", "q", False, ("q", "q")),
        ("other", "other", False, (PRIVATE_EXCHANGE, "q")),
        (PRIVATE_EXCHANGE, "q", True, (PRIVATE_EXCHANGE, "q")),
        (PRIVATE_EXCHANGE, "victim", True, (PRIVATE_EXCHANGE, "q")),
        (PRIVATE_EXCHANGE, "victim", False, (PRIVATE_EXCHANGE, "q")),
        (PRIVATE_EXCHANGE, "", False, (PRIVATE_EXCHANGE, "q")),
        ("", "victim", True, (PRIVATE_EXCHANGE, "q")),
        ("", "victim", False, (PRIVATE_EXCHANGE, "q")),
        ("", "", False, (PRIVATE_EXCHANGE, "q")),
        ("q", "victim", False, (PRIVATE_EXCHANGE, "q")),
        ("victim", "q", False, (PRIVATE_EXCHANGE, "q")),
        ("reply.celery.pidbox", "q", False, (PRIVATE_EXCHANGE, "q")),
    ],
)
def test_a_task_is_retried_in_its_own_queue_alone(
    exchange: str, routing_key: str, is_bound: bool, expected: tuple[str, str]
) -> None:
    message = handed_over(wire(exchange, routing_key, TASK), is_bound=is_bound)
    assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == expected
    assert message.properties["delivery_info"] == message.delivery_info


@pytest.mark.parametrize("is_bound", [False, True])
def test_any_other_message_keeps_its_exchange_and_key(is_bound: bool) -> None:
    message = handed_over(wire("orders", "order.created"), is_bound=is_bound)
    assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == ("orders", "order.created")
    assert ORIGIN_HEADER not in message.headers


def test_where_a_task_was_published_first_is_in_a_header_that_a_retry_keeps() -> None:
    first = handed_over(wire("orders", "order.created", TASK))
    origin = {"exchange": "orders", "routing_key": "order.created"}
    assert first.headers[ORIGIN_HEADER] == origin
    retried = handed_over(wire(PRIVATE_EXCHANGE, "q", first.headers))
    assert retried.headers[ORIGIN_HEADER] == origin


@pytest.mark.parametrize(
    ("exchange", "routing_key", "is_bound"),
    [("orders", "order.created", True), ("", "q", False), ("", "q", True), ("q", "q", False)],
)
def test_celery_publishes_a_retry_to_the_queue_that_the_task_lies_in(
    exchange: str, routing_key: str, is_bound: bool
) -> None:
    message = handed_over(wire(exchange, routing_key, TASK), is_bound=is_bound)
    app = Celery("test", broker="memory://", set_as_current=False)

    @app.task(name="t", shared=False)
    def task() -> None:
        """Nothing."""

    sent: list[tuple[str, str]] = []

    class Recorder:
        def publish(self, body: Any, exchange: str, routing_key: str, **_: Any) -> None:
            sent.append((exchange, routing_key))

    task.push_request(delivery_info=message.delivery_info, args=(), kwargs={}, id="1")
    try:
        signature = task.signature_from_request()
        options = app.amqp.router.route(dict(signature.options), "t")
        payload = app.amqp.as_task_v2("1", "t")
        known = {"exchange", "routing_key", "queue"}
        app.amqp.send_task_message(Recorder(), "t", payload, **{k: v for k, v in options.items() if k in known})
    finally:
        task.pop_request()
    assert sent in ([("", "q")], [("q", "q")], [(PRIVATE_EXCHANGE, "q")])


def test_a_task_is_told_by_its_headers() -> None:
    assert is_task(TASK)
    assert not is_task({"task": "t"})
    assert not is_task({"id": "1"})


# --- remote control

COMMANDS = "celery@w1.celery.pidbox"


def command(reply_to: Any, **more: Any) -> str:
    body = json.dumps({"method": "ping", "reply_to": reply_to, "ticket": "t", **more})
    message = {"body": body, "content-type": "application/json", "content-encoding": "utf-8", "properties": {}}
    return encode(message, "celery.pidbox", "", "tag").text


def test_a_command_that_wants_its_answer_elsewhere_can_not_be_decoded() -> None:
    message = handed_over(command({"exchange": "orders", "routing_key": "x" * 1000}), COMMANDS)
    with pytest.raises(MalformedMessage, match="not a reply queue") as caught:
        message.decode()
    assert caught.value.message_id == "of-sqs"
    assert len(str(caught.value)) < 500


def test_a_command_whose_pattern_could_freeze_the_worker_can_not_be_decoded() -> None:
    message = handed_over(command(None, pattern="(.|.)*!", matcher="pcre"), COMMANDS)
    with pytest.raises(MalformedMessage, match="take too long to match"):
        message.decode()
    assert handed_over(command(None, pattern="w.*", matcher="pcre"), COMMANDS).decode()["pattern"] == "w.*"


def test_a_command_whose_arguments_could_end_the_worker_can_not_be_decoded() -> None:
    message = handed_over(command(None, method="add_consumer", arguments={"queue": 5}), COMMANDS)
    with pytest.raises(MalformedMessage, match="add_consumer cannot be run: queue is of type int") as caught:
        message.decode()
    assert caught.value.message_id == "of-sqs"
    assert handed_over(command(None, method="add_consumer", arguments={"queue": "q"}), COMMANDS).decode()


CLOCKS = [10**4299, 10**16, -1, 1.5, float("inf"), float("nan"), "5", [1]]


@pytest.mark.parametrize("clock", CLOCKS, ids=[repr(clock)[:9] for clock in CLOCKS])
def test_a_clock_that_would_spoil_the_workers_own_is_left_out_of_commands_and_events(clock: Any) -> None:
    body = {"body": json.dumps({"method": "ping"}), "content-type": "application/json", "content-encoding": "utf-8"}
    message = {**body, "headers": {"clock": clock}, "properties": {}}
    command = handed_over(encode(message, "celery.pidbox", "", "tag").text, COMMANDS)
    assert command.decode()["method"] == "ping"
    assert command.headers["clock"] is None
    for events in ({"type": "worker-online", "clock": clock}, [{"clock": 1}, {"clock": clock}]):
        message = {**body, "body": json.dumps(events), "properties": {}}
        text = encode(message, "celeryev", "", "tag").text
        found = handed_over(text, "celeryev.7d1c").decode()
        assert found in ({"type": "worker-online"}, [{"clock": 1}, {}])
        assert "clock" in str(handed_over(text, "q").decode())


def test_events_with_a_clock_or_without_are_decoded() -> None:
    body = {"content-type": "application/json", "content-encoding": "utf-8", "properties": {}}
    for events in ({"type": "worker-online", "clock": 7}, {"type": "worker-online"}, [{"clock": 1}], 5):
        text = encode({**body, "body": json.dumps(events)}, "celeryev", "", "tag").text
        assert handed_over(text, "celeryev.7d1c").decode() == events


def test_a_command_that_wants_its_answer_in_the_reply_queue_is_decoded() -> None:
    message = handed_over(command({"exchange": "reply.celery.pidbox", "routing_key": "x"}), COMMANDS)
    assert message.decode()["method"] == "ping"


def test_any_other_message_may_say_what_it_likes_of_replies() -> None:
    assert handed_over(command({"exchange": "orders", "routing_key": "x"}), "q").decode()["reply_to"]
    reply = "0.reply.celery.pidbox"
    assert handed_over(command({"exchange": "orders", "routing_key": "x"}), reply).decode()["reply_to"]


# --- what it asks of SQS and SNS


def parameters(name: str = "q", *, to_queue: bool = True, headers: Any = None, **properties: Any) -> dict[str, Any]:
    return send_parameters({"headers": headers, "properties": properties}, name, to_queue=to_queue)


def in_seconds(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()


def test_a_plain_message_asks_for_nothing() -> None:
    assert parameters() == parameters(to_queue=False) == {}


@pytest.mark.parametrize(("delay", "expected"), [(5, 5), ("7", 7), (5.9, 5), (1e6, 900), (-3, None), (0, 0)])
@pytest.mark.parametrize("name", ["DelaySeconds", "delay_seconds"])
def test_a_delay_is_within_what_sqs_takes(name: str, delay: Any, expected: int | None) -> None:
    assert parameters(**{name: delay}).get("DelaySeconds") == expected


def test_neither_topics_nor_fifo_queues_have_delays() -> None:
    assert "DelaySeconds" not in parameters(to_queue=False, DelaySeconds=5)
    assert "DelaySeconds" not in parameters("q.fifo", DelaySeconds=5)
    assert "DelaySeconds" not in parameters(to_queue=False, headers={**TASK, "eta": in_seconds(60)})


def test_a_task_with_an_eta_is_delayed_by_sqs() -> None:
    assert 50 <= parameters(headers={**TASK, "eta": in_seconds(60)})["DelaySeconds"] <= 60
    assert parameters(headers={**TASK, "eta": in_seconds(10_000)})["DelaySeconds"] == 900
    assert "DelaySeconds" not in parameters(headers={**TASK, "eta": in_seconds(-60)})
    assert "DelaySeconds" not in parameters(headers={"eta": in_seconds(60)})
    assert parameters(headers={**TASK, "eta": in_seconds(60)}, DelaySeconds=3) == {"DelaySeconds": 3}


@given(st.text() | st.integers() | st.none() | st.lists(st.integers()))
def test_an_eta_that_is_none_is_celerys_business(eta: Any) -> None:
    assert "DelaySeconds" not in parameters(headers={**TASK, "eta": eta})


def test_group_ids_go_along_everywhere() -> None:
    assert parameters(MessageGroupId=7) == {"MessageGroupId": "7"}
    assert parameters(to_queue=False, MessageGroupId="tenant") == {"MessageGroupId": "tenant"}


@pytest.mark.parametrize("to_queue", [False, True])
def test_fifo_messages_have_a_group_and_a_deduplication_id(to_queue: bool) -> None:
    found = parameters("q.fifo", to_queue=to_queue)
    assert found["MessageGroupId"] == "default"
    assert found["MessageDeduplicationId"] != parameters("q.fifo", to_queue=to_queue)["MessageDeduplicationId"]
    given_both = parameters("q.fifo", to_queue=to_queue, MessageGroupId="g", MessageDeduplicationId="d")
    assert given_both == {"MessageGroupId": "g", "MessageDeduplicationId": "d"}


def test_a_task_is_deduplicated_by_its_id_and_its_retries_are_not() -> None:
    assert parameters("q.fifo", headers=TASK)["MessageDeduplicationId"] == TASK["id"]
    assert parameters("q.fifo", headers={**TASK, "retries": 0})["MessageDeduplicationId"] == TASK["id"]
    assert parameters("q.fifo", headers={**TASK, "retries": 1})["MessageDeduplicationId"] != TASK["id"]


def test_parameters_do_not_change_the_message() -> None:
    message = {"headers": dict(TASK), "properties": {"MessageGroupId": 1, "DelaySeconds": 3}}
    before = json.dumps(message)
    send_parameters(message, "q.fifo", to_queue=True)
    assert json.dumps(message) == before


DEEP = json.loads("[" * 900 + "]" * 900)


@pytest.mark.parametrize("value", [{"a": 1}, 5, None, ["\x1b"], "a\nb", "x" * 100_000, {"deep": DEEP}], ids=type)
def test_a_label_is_one_short_line_whatever_the_names_are(value: Any) -> None:
    message = HakeMessage(headers={"task": value, "id": value}, properties={"message_id": "m"}, body="")
    found = about(message, 1, 7, "q")
    assert str(found).isprintable()
    assert len(str(found)) < 500
    assert all(isinstance(part, str) for part in (found.task, found.task_id))
    message = HakeMessage(headers={}, properties={"message_id": value}, body="")
    assert str(about(message, 1, 7, "q")).isprintable()
