"""Messages that make the worker or this package fail: set aside, never in a loop, and nothing else suffers."""

import base64
import gc
import json
import logging
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from fakes import FakeClients, eventually
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Consumer, Producer, Queue

from kombu_hake.admin import dead_letters
from kombu_hake.amqp import envelope as envelope_module
from kombu_hake.amqp.contents import encoded
from kombu_hake.amqp.deferral import hide_s
from kombu_hake.amqp.envelope import decode
from kombu_hake.amqp.limits import SQS_MAX_VISIBILITY_S
from kombu_hake.channel import Channel
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, DeclarationMismatch, MalformedMessage
from kombu_hake.groups import failures as group_failures
from kombu_hake.groups.messages import Parts, for_handler, foreign_event
from kombu_hake.groups.registry import Subscription, run_id
from kombu_hake.worker import safeguard
from kombu_hake.worker import state as worker
from kombu_hake.worker.rejections import reject_undecodable

ASKED = {"x-dead-letter-queue": True}


@pytest.fixture
def in_worker(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The connection is that of a Celery worker."""
    consumer = SimpleNamespace(connection=connection)
    monkeypatch.setattr(worker, "_consumers", [lambda: consumer])
    return consumer


def declare(channel: Channel, **arguments: Any) -> None:
    Queue("q", queue_arguments=arguments)(channel).declare()


def send(fake: FakeClients, text: str, queue: str = "q") -> None:
    fake.sqs("send_message", QueueUrl=fake.queues.queue(queue).url, MessageBody=text)


def text_of(body: bytes | str = "[[1], {}, null]", content_type: str = "application/json", **headers: Any) -> str:
    data = body if isinstance(body, bytes) else body.encode()
    return json.dumps(
        {
            "body": base64.b64encode(data).decode(),
            "content-type": content_type,
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {"body_encoding": "base64", "delivery_tag": "1"},
        }
    )


def bodies(fake: FakeClients, queue: str) -> list[str]:
    return [message.body for message in fake.queues.queue(queue).messages]


def failing(error: BaseException) -> Callable[..., Any]:
    def fails(*_args: Any, **_kwargs: Any) -> None:
        raise error

    return fails


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- out of the callback


@pytest.mark.usefixtures("in_worker")
def test_what_makes_a_workers_callback_fail_is_a_dead_letter_and_the_next_is_handled(
    fake: FakeClients, connection: Connection, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    declare(channel, **ASKED)
    seen: list[Any] = []

    def callback(message: Any) -> None:
        seen.append(message)
        if len(seen) == 1:
            raise KeyError("\n\x1b[31m" + "x" * 10_000)
        message.ack()

    channel.basic_qos(0, 1, False)
    channel.basic_consume("q", callback=callback)
    send(fake, "first")
    connection.drain_events(timeout=10)
    send(fake, "second")
    connection.drain_events(timeout=10)
    assert [message.body for message in seen] == [b"first", b"second"]
    eventually(lambda: not fake.queues.queue("q").messages)
    [dead] = fake.queues.queue("q-dead").messages
    assert dead.body == "first"
    assert dead.attributes["hake-death-reason"]["StringValue"] == "error: KeyError"
    [line] = errors(caplog)
    assert seen[0].properties["message_id"] in line
    assert "in callback" in line  # where it was raised
    assert "\x1b" not in line
    assert len(line) < 6_000
    assert not channel.unsettled


@pytest.mark.usefixtures("in_worker")
def test_without_dead_letters_it_hides_for_longer_each_time(
    fake: FakeClients, connection: Connection, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    declare(channel)
    channel.basic_consume("q", callback=failing(TypeError()))
    send(fake, "x")
    for number, wait in enumerate((60, 120, 240), start=1):
        connection.drain_events(timeout=10)
        [stored] = fake.queues.queue("q").messages
        eventually(lambda number=number: fake.count("change_message_visibility_batch") == number)
        eventually(lambda stored=stored, wait=wait: stored.visible_at > fake.clock() + wait - 5)
        assert stored.visible_at <= fake.clock() + wait + 5
        assert f"It stays in {fake.queues.queue('q').url} and is redelivered in {wait} s." in errors(caplog)[-1]
        fake.clock.advance(wait + 5)
    assert len(errors(caplog)) == 3


@pytest.mark.usefixtures("in_worker")
@pytest.mark.parametrize("error", [AccessDenied("sns:Publish"), OSError("the network")])
def test_an_error_that_is_not_the_messages_makes_no_dead_letter(
    fake: FakeClients, connection: Connection, channel: Channel, error: Exception
) -> None:
    declare(channel, **ASKED)
    channel.basic_consume("q", callback=failing(error))
    send(fake, "x")
    connection.drain_events(timeout=10)
    [stored] = fake.queues.queue("q").messages
    assert stored.visible_at >= fake.clock() + 55
    assert bodies(fake, "q-dead") == []


@pytest.mark.usefixtures("in_worker")
@pytest.mark.parametrize("error", [BrokerUnavailable("away"), MemoryError(), SystemExit(0), KeyboardInterrupt()])
def test_what_ends_or_reconnects_a_worker_comes_through(
    fake: FakeClients, connection: Connection, channel: Channel, error: BaseException
) -> None:
    declare(channel, **ASKED)
    channel.basic_consume("q", callback=failing(error))
    send(fake, "x")
    with pytest.raises(type(error)):
        connection.drain_events(timeout=10)
    assert bodies(fake, "q-dead") == []
    assert bodies(fake, "q") == ["x"]


@pytest.mark.usefixtures("in_worker")
def test_a_callback_that_fails_after_it_has_settled_changes_nothing_and_is_logged(
    fake: FakeClients, connection: Connection, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    declare(channel, **ASKED)

    def callback(message: Any) -> None:
        message.ack()
        raise KeyError

    channel.basic_consume("q", callback=callback)
    send(fake, "x")
    connection.drain_events(timeout=10)
    eventually(lambda: not fake.queues.queue("q").messages)
    assert bodies(fake, "q-dead") == []
    [line] = errors(caplog)
    assert "after the message was settled: KeyError" in line


def test_without_a_worker_the_caller_gets_the_error_and_the_message_comes_again(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    declare(channel, **ASKED)
    seen: list[Any] = []

    def callback(message: Any) -> None:
        seen.append(message)
        raise KeyError("x")

    channel.basic_consume("q", callback=callback)
    send(fake, "x")
    with pytest.raises(KeyError):
        connection.drain_events(timeout=10)
    lease, leases = seen[0].lease, channel._leases
    assert leases.renewals_due(lease.received_at + 59) == []
    lease.held_until = lease.received_at
    leases._look_at = 0.0
    eventually(lambda: seen[0].is_lost)
    assert not leases._held


def test_without_a_worker_a_message_can_be_settled_after_its_callback_failed(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    declare(channel)
    seen: list[Any] = []

    def callback(message: Any) -> None:
        seen.append(message)
        raise StopAsyncIteration

    channel.basic_consume("q", callback=callback)
    send(fake, "x")
    with pytest.raises(StopAsyncIteration):
        connection.drain_events(timeout=10)
    seen[0].ack()
    eventually(lambda: not fake.queues.queue("q").messages)


@given(st.integers(0, 5_000), st.integers(0, SQS_MAX_VISIBILITY_S), st.floats(0, SQS_MAX_VISIBILITY_S))
def test_the_pause_grows_up_to_what_aws_allows(receives: int, visibility_s: int, held_s: float) -> None:
    found = hide_s(receives, visibility_s, held_s)
    assert found >= 1
    assert found + held_s <= SQS_MAX_VISIBILITY_S + 1
    assert hide_s(receives + 1, visibility_s, held_s) >= found
    if receives <= 1 and visibility_s + held_s < SQS_MAX_VISIBILITY_S - 200:
        assert found == max(1, visibility_s)


@pytest.mark.usefixtures("in_worker")
def test_a_rejection_that_fails_does_not_end_a_worker(
    fake: FakeClients, connection: Connection, channel: Channel, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    declare(channel, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q-dead"})
    send(fake, "x")
    message = channel.basic_get("q")
    assert message is not None
    monkeypatch.setattr(channel._gate._dead_letters, "_publish", failing(TypeError("a header")))
    message.reject()
    [stored] = fake.queues.queue("q").messages
    eventually(lambda: stored.visible_at >= fake.clock() + 55)
    [line] = errors(caplog)
    assert "(error: TypeError; TypeError 'a header'" in line
    assert "is redelivered in 60 s." in line


# --- compressed


@pytest.mark.parametrize("compression", ["zlib", "bzip2", "lzma"])
def test_a_compressed_task_has_no_header_that_its_body_does_not_keep(
    connection: Connection, channel: Channel, compression: str
) -> None:
    declare(channel)
    headers = {"task": "shop.mail", "id": "7f1c9d0e"}
    Producer(channel).publish({"a": 1}, routing_key="q", compression=compression, headers=headers)
    message = channel.basic_get("q")
    assert message is not None
    assert "compression" not in message.headers
    assert message.payload == {"a": 1}
    # Sent again as it is, it can be read.
    channel.basic_publish(
        {"body": message.body, "content-type": message.content_type, "content-encoding": message.content_encoding,
         "headers": message.headers, "properties": {}}, "", "q",
    )  # fmt: skip
    again = channel.basic_get("q")
    assert again is not None
    assert again.payload == {"a": 1}


@pytest.mark.parametrize("dead", [ASKED, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q-dead"}])
def test_a_rejected_compressed_message_is_readable_among_the_dead_letters(
    fake: FakeClients, connection: Connection, channel: Channel, dead: dict[str, Any]
) -> None:
    Queue("q-dead")(channel).declare()
    declare(channel, **dead)
    Producer(channel).publish({"a": 1}, routing_key="q", compression="zlib")
    message = channel.basic_get("q")
    assert message is not None
    message.reject()
    eventually(lambda: len(fake.queues.queue("q-dead").messages) == 1)
    found = channel.basic_get("q-dead")
    assert found is not None
    assert found.payload == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        text_of(b"x", compression="none such"),
        text_of(b"x", compression=["zlib"]),
        text_of(b"broken", compression="zlib"),
        text_of(zlib.compress(b" " * 20_000_000), compression="zlib"),
    ],
    ids=["unknown", "list", "broken", "too large"],
)
def test_what_cannot_be_decompressed_is_a_dead_letter_though_celery_acknowledges_it(
    fake: FakeClients, connection: Connection, channel: Channel, text: str
) -> None:
    declare(channel, **ASKED)
    send(fake, text)
    seen: list[Any] = []
    consumer = Consumer(channel, [Queue("q", queue_arguments=ASKED)], on_message=failing(AssertionError("delivered")))

    def on_decode_error(message: Any, exc: Exception) -> None:
        seen.append(exc)
        message.ack()

    worker_consumer = SimpleNamespace(on_decode_error=on_decode_error, task_consumer=consumer)
    reject_undecodable(worker_consumer)
    with consumer:
        connection.drain_events(timeout=10)
        eventually(lambda: not fake.queues.queue("q").messages)
    assert [type(exc) for exc in seen] == [MalformedMessage]
    assert bodies(fake, "q-dead") == [text]


# --- our own code


@pytest.mark.parametrize("how", ["consume", "get"])
@pytest.mark.parametrize("step", ["admit", "to_message"])
def test_a_message_that_our_own_code_fails_on_is_set_aside_and_the_next_is_delivered(
    fake: FakeClients, connection: Connection, channel: Channel, monkeypatch: pytest.MonkeyPatch, step: str, how: str
) -> None:
    from kombu_hake import channel as channel_module

    declare(channel, **ASKED)
    owner, name = (channel._gate, "admit") if step == "admit" else (channel_module, "to_message")
    real = getattr(owner, name)

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, real)
        raise RecursionError

    monkeypatch.setattr(owner, name, fails_once)
    channel.basic_qos(0, 1, False)
    send(fake, "first")
    if how == "consume":
        seen: list[Any] = []
        channel.basic_consume("q", callback=seen.append)
        eventually(lambda: len(connection.connection.inbox) > 0)
        send(fake, "second")
        connection.drain_events(timeout=10)
        message = seen[0]
    else:
        send(fake, "second")
        message = channel.basic_get("q")
    assert message.body == b"second"
    message.ack()
    eventually(lambda: not channel._leases._held)
    [dead] = fake.queues.queue("q-dead").messages
    assert dead.body == "first"
    assert dead.attributes["hake-death-reason"]["StringValue"] == "malformed: it cannot be read, RecursionError"


def test_a_body_that_is_no_text_and_no_json_either_is_handed_over_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"body": [1], "properties": {"delivery_tag": "1"}})
    assert decode(text, "q").body == b"[1]"
    for error in (TypeError("a key"), RecursionError(), ValueError("a number")):
        monkeypatch.setattr(envelope_module, "_encode", failing(error))
        found = decode(text, "q")
        assert (found.body, found.is_kombu, found.content_type) == (text, False, "text/plain")


def test_a_body_deeper_than_the_encoder_goes_is_handed_over_as_it_came() -> None:
    text = '{"properties": {"delivery_tag": "1"}, "body": %s}'
    for levels in range(400, 1_200, 20):
        assert decode(text % ("[" * levels + "]" * levels), "q").body


def test_attributes_that_a_publisher_put_into_the_envelope_are_not_those_of_a_foreign_message(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    declare(channel)
    send(fake, json.dumps({"body": "[]", "properties": {"delivery_tag": "1", "attributes": 7}}))
    message = channel.basic_get("q")
    assert message is not None
    assert "attributes" not in message.properties


@given(st.text(st.characters()))
def test_any_id_of_an_event_gives_runs_their_ids(event_id: str) -> None:
    assert run_id(event_id, "email", "receipt") == run_id(event_id, "email", "receipt")


# --- groups


def subscription(**options: Any) -> Subscription:
    return Subscription("orders", "#", "audit", lambda app: "audit", **options)


def event(body: bytes | str, content_type: str = "application/json", **headers: Any) -> Parts:
    return Parts(body, content_type, "utf-8", {"task": "kombu_hake.event", "id": "e", **headers}, {})


class Pickled:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_an_event_is_decoded_only_with_what_the_app_accepts(tmp_path: Path) -> None:
    made = tmp_path / "made"
    pickled = event(pickle.dumps([[], {"a": Pickled(made)}, {}]), "application/x-python-serialize")
    for accept in ({"application/json"}, None):
        with pytest.raises(MalformedMessage, match="its body cannot be decoded: ContentDisallowed"):
            for_handler(pickled, subscription(as_mapping=True), "audit", "orders", "placed", accept=accept)
    assert not made.exists()


@pytest.mark.parametrize(
    "body", ["5", "[]", "[1, 2]", "{}", '"abc"', '["args", {}, {}]', "[[], [1], {}]", "{not json", "\xff"]
)
def test_an_event_of_another_shape_is_malformed(body: str) -> None:
    with pytest.raises(MalformedMessage):
        for_handler(event(body), subscription(as_mapping=True), "a", "t", "k", accept={"application/json"})


@pytest.mark.parametrize("as_mapping", [True, False])
def test_a_compressed_event_stays_compressed_for_each_handler(as_mapping: bool) -> None:
    content_type, _, body = encoded([[], {"order": 7}, {}], "application/json", compression="zlib")
    found = for_handler(
        event(body, content_type, compression="zlib"), subscription(as_mapping=as_mapping), "a", "t", "k",
        accept={content_type},
    )  # fmt: skip
    assert found.headers["compression"] == "zlib"
    arguments = json.loads(zlib.decompress(found.body))[:2]  # type: ignore[arg-type]
    assert arguments == ([[{"order": 7}], {}] if as_mapping else [[], {"order": 7}])


@pytest.mark.parametrize("spelled", ["%FF", "%E0%A4", "a.%C3.b"])
def test_a_badly_encoded_key_is_malformed(spelled: str) -> None:
    with pytest.raises(MalformedMessage, match="its attribute 'rk' is not percent-encoded UTF-8"):
        foreign_event("{}", {"rk": spelled, "exchange": "orders"}, "m", {"orders": None})


def test_others_json_that_is_nested_too_deep_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="nested deeper than"):
        foreign_event('{"a": ' + "[" * 400 + "]" * 400 + "}", {}, "m", {"orders": None})


# --- what Celery is handed


def check(message: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    consumer = SimpleNamespace(create_task_handler=lambda: seen.append)
    assert safeguard.check_tasks(consumer)
    assert not safeguard.check_tasks(consumer)  # once
    consumer.create_task_handler()(message)
    return seen


@pytest.mark.parametrize(
    "text",
    [
        text_of(task="a"),
        text_of(task={"a": 1}, id="x"),
        text_of("[" * 400 + "]" * 400, task="a", id="x"),
        text_of('{"task": ["a"], "id": 5}'),
        text_of('{"args": 5}', task="a", id="x"),
        text_of("{}", task="a", id="x"),
    ],
)
def test_a_task_that_celery_would_stumble_over_never_reaches_it(
    fake: FakeClients, connection: Connection, channel: Channel, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    declare(channel, **ASKED)
    send(fake, text)
    message = channel.basic_get("q")
    assert message is not None
    message.accept = {"application/json"}
    assert check(message, monkeypatch) == []
    assert message.acknowledged
    eventually(lambda: not fake.queues.queue("q").messages)
    [dead] = fake.queues.queue("q-dead").messages
    assert dead.attributes["hake-death-reason"]["StringValue"].startswith("malformed: ")


@pytest.mark.parametrize(
    "text",
    [
        text_of(task="a", id="x"),
        text_of('{"task": "a", "id": "x", "args": [1]}'),
        text_of("{not json", task="a", id="x"),
        text_of("{not json"),
        text_of('{"order": 7}'),
        "just text",
    ],
)
def test_all_else_is_celerys(
    fake: FakeClients, connection: Connection, channel: Channel, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    declare(channel)
    send(fake, text)
    message = channel.basic_get("q")
    assert message is not None
    message.accept = {"application/json"}
    assert check(message, monkeypatch) == [message]
    assert not message.acknowledged


@pytest.mark.parametrize(
    ("text", "leads_to"),
    [
        (text_of('{"task": "a", "id": "x", "args": [1]}'), ("hake.queue", "q")),  # protocol 1
        (text_of('{"id": "x", "args": [1]}', task="a"), ("hake.queue", "q")),  # between the protocols
        (text_of('{"order": 7}'), ("", "inventory")),
        (text_of("{not json"), ("", "inventory")),
    ],
)
def test_a_task_of_protocol_1_leads_to_its_own_queue_alone(
    fake: FakeClients,
    connection: Connection,
    channel: Channel,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    leads_to: tuple[str, str],
) -> None:
    declare(channel)
    envelope = json.loads(text)
    envelope["properties"]["delivery_info"] = {"exchange": "", "routing_key": "inventory"}
    send(fake, json.dumps(envelope))
    message = channel.basic_get("q")
    assert message is not None
    message.accept = {"application/json"}
    assert check(message, monkeypatch) == [message]
    assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == leads_to


def test_what_the_pool_does_not_take_is_set_aside_and_leaves_nothing_behind(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    from celery.worker import state

    declare(channel, **ASKED)
    send(fake, text_of(task="a", id="x"))
    message = channel.basic_get("q")
    assert message is not None
    discarded: list[str] = []
    released: list[Any] = []

    class Request:
        id = "x"

    def job(payload: Any, name: str) -> Any:
        return SimpleNamespace(correlation_id="x", _payload=payload, discard=lambda: discarded.append(name))

    jobs = {1: job(None, "unsent"), 2: job(b"x", "sent")}
    request: Any = Request()
    request.message = message
    state.task_reserved(request)
    controller = SimpleNamespace(
        pool=SimpleNamespace(_pool=SimpleNamespace(_cache=jobs)), hub=SimpleNamespace(call_soon=released.append),
        _quick_release="release",
    )  # fmt: skip
    safeguard._guarded(controller, failing(RecursionError("pickling")))(request)
    assert "x" not in state.requests
    assert request not in state.reserved_requests
    assert (discarded, released) == (["unsent"], ["release"])
    [dead] = fake.queues.queue("q-dead").messages
    assert dead.attributes["hake-death-reason"]["StringValue"] == "the pool does not take it: RecursionError"


def test_only_the_workers_own_connection_is_guarded(connection: Connection, in_worker: Any) -> None:
    assert worker.is_of_worker(connection.transport)
    assert not worker.is_of_worker(None)
    assert not worker.is_of_worker(object())
    in_worker.connection = None
    assert not worker.is_of_worker(connection.transport)


def test_whatever_hands_a_request_to_the_pool_is_guarded_once(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    declare(channel, **ASKED)
    send(fake, text_of(task="a", id="x"))

    class Request:
        id = "x"
        message = channel.basic_get("q")

    request = Request()
    controller = SimpleNamespace(_process_task=failing(TypeError()), pool=None, hub=None)
    consumer = SimpleNamespace(
        controller=controller, on_task_request=failing(TypeError()), create_task_handler=lambda: None,
        add_task_queue=None, cancel_task_queue=None, task_consumer=SimpleNamespace(on_message="Celery's own"),
    )  # fmt: skip
    safeguard.on_ready(consumer)
    assert callable(consumer.task_consumer.on_message)
    before = (controller._process_task, consumer.on_task_request, consumer.task_consumer.on_message)
    safeguard.on_ready(consumer)
    assert before == (controller._process_task, consumer.on_task_request, consumer.task_consumer.on_message)
    consumer.on_task_request(request)
    assert len(fake.queues.queue("q-dead").messages) == 1
    for error in (MemoryError(), SystemExit()):
        with pytest.raises(type(error)):
            safeguard._guarded(controller, failing(error))(request)


def objects_of_ours() -> int:
    gc.collect()
    return sum(str(type(one).__module__).startswith("kombu_hake") for one in gc.get_objects())


def test_nothing_is_kept_of_messages_that_were_set_aside(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    declare(channel, **ASKED)

    def set_some_aside() -> None:
        for number in range(60):
            key = str(uuid4())
            send(fake, text_of(task=f"unknown.{key}", id=key) if number % 3 else f"no json {key}")
            message = channel.basic_get("q")
            assert message is not None
            message.quarantine(f"malformed: {key}")
            del message
        eventually(lambda: not fake.queues.queue("q").messages)

    set_some_aside()
    before = objects_of_ours()
    for _ in range(4):
        set_some_aside()
    eventually(lambda: objects_of_ours() < before + 60)  # 240 messages; what is on its way when counted


class Queues(dict[str, Any]):
    """What an app knows of queues, and of those that its worker consumes from."""

    def __init__(self, **queues: Any) -> None:
        super().__init__(queues)
        self.consume_from = dict(queues)


def worker_that_fails_to_change_queues(error: Exception) -> Any:
    queues, cancelled = Queues(known="known"), list[str]()

    def add_task_queue(queue: str, **_options: Any) -> None:
        queues[queue] = queues.consume_from[queue] = queue
        raise error

    return SimpleNamespace(
        controller=SimpleNamespace(_process_task=failing(error)), on_task_request=failing(error),
        create_task_handler=lambda: None, add_task_queue=add_task_queue, cancel_task_queue=failing(error),
        app=SimpleNamespace(amqp=SimpleNamespace(queues=queues)), connection_errors=(BrokerUnavailable,),
        task_consumer=SimpleNamespace(on_message=None, cancel_by_queue=cancelled.append), cancelled=cancelled,
    )  # fmt: skip


@pytest.mark.parametrize("error", [DeclarationMismatch("other type"), AccessDenied("no"), TypeError("odd option")])
def test_a_queue_that_cannot_be_added_by_remote_control_does_not_end_the_worker(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    consumer = worker_that_fails_to_change_queues(error)
    safeguard.on_ready(consumer)
    consumer.add_task_queue("new", exchange="x")
    consumer.cancel_task_queue("known")
    assert "add_task_queue of queue new" in caplog.text
    assert "cancel_task_queue of queue known" in caplog.text
    queues = consumer.app.amqp.queues
    assert (dict(queues), queues.consume_from) == ({"known": "known"}, {"known": "known"})  # nor does the next start
    assert consumer.cancelled == ["new"]


def test_a_queue_that_is_consumed_already_stays_when_it_cannot_be_added_again() -> None:
    consumer = worker_that_fails_to_change_queues(TypeError("odd"))
    safeguard.on_ready(consumer)
    consumer.add_task_queue("known")
    assert consumer.app.amqp.queues.consume_from == {"known": "known"}
    assert consumer.cancelled == []


def test_a_queue_that_cannot_be_added_because_aws_is_away_is_left_to_celery() -> None:
    consumer = worker_that_fails_to_change_queues(BrokerUnavailable("away"))
    safeguard.on_ready(consumer)
    with pytest.raises(BrokerUnavailable):
        consumer.add_task_queue("new")
    assert "new" in consumer.app.amqp.queues.consume_from  # consumed when the connection is back


def test_a_compressed_dead_letter_that_is_sent_back_can_be_read(
    fake: FakeClients, connection: Connection, channel: Channel
) -> None:
    declare(channel, **ASKED)
    send(fake, text_of(zlib.compress(b'[[], {"a": 1}, {}]'), task="a", id="x", compression="zlib"))
    message = channel.basic_get("q")
    assert message is not None
    assert group_failures.set_aside(message, group_failures.parts_of(message), "failed", {"message": "x"})
    [dead] = fake.queues.queue("q-dead").messages
    letter = dead_letters.read("q", {"Body": dead.body, "MessageAttributes": dead.attributes, "MessageId": "m"}, 0.0)
    send(fake, dead_letters.revived(letter, is_fifo=False)["MessageBody"])
    message.ack()
    again = channel.basic_get("q")
    assert again is not None
    assert again.payload == [[], {"a": 1}, {}]
    assert again.headers["hake_deaths"]
