"""What a worker does with an event: hand over, share out, set aside. On the fake AWS, with a consumer that notes."""

import base64
import json
import os
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry, WorkerLostError
from fakes import FakeClients, connected
from kombu import Connection, Queue
from kombu.exceptions import ContentDisallowed

from kombu_hake.amqp import PRIVATE_EXCHANGE, checked_attributes
from kombu_hake.exceptions import BrokerUnavailable, MalformedMessage
from kombu_hake.groups import failures as group_failures
from kombu_hake.groups import worker as group_worker
from kombu_hake.groups.failures import GroupRequest
from kombu_hake.groups.messages import DEATHS_HEADER, foreign_event, resendable, with_death
from kombu_hake.groups.registry import run_id
from kombu_hake.groups.topic import Topic
from kombu_hake.worker.rejections import UnknownTasks


def nothing(**payload: Any) -> None:
    """A handler."""


class Bench:
    """An app with topic ``orders``, its group ``email`` in a fake AWS, and a worker's consumer as far as it matters."""

    def __init__(self, connection: Connection, fake: FakeClients) -> None:
        self.app = Celery("shop", broker="hake://localhost:1", set_as_current=False)
        self.orders = Topic("orders", app=self.app)
        self.fake = fake
        self.connection = connection
        self.channel = connection.default_channel
        self.handed_over: list[tuple[str, Any]] = []
        self.revoked: set[str] = set()

    def handler(self, name: str, *keys: str, **options: Any) -> Task:
        return self.orders.on(*(keys or ("placed",)), group="email", name=name, **options)(nothing)

    def open(self) -> None:
        self.app.finalize()
        group_worker._prepare_handlers(self.app)
        self.app.amqp.queues["email"](self.channel).declare()

    def receive(self) -> Any:
        message = self.channel.basic_get("email")
        assert message is not None
        return message

    def handle(self, message: Any) -> None:
        consumer = SimpleNamespace(
            connection_errors=(),
            controller=SimpleNamespace(state=SimpleNamespace(revoked=self.revoked)),
            strategies={
                name: lambda message, *_args, name=name: self.handed_over.append((name, message))
                for name in self.app.tasks
            },
        )
        strategy = group_worker.event_strategy(None, self.app, consumer)
        create = group_worker._task_handler(
            self.app, lambda: lambda m: strategy(m, None, m.ack_log_error, m.reject_log_error, [])
        )
        create(message)

    def bodies(self, queue: str) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.fake.queues.queue(queue).bodies()]

    def settled(self) -> bool:
        return not self.channel.unsettled

    def comes_later(self) -> bool:
        """Whether a message stays in the group's queue, and out of sight for the visibility timeout."""
        [stored] = self.fake.queues.queue("email").messages
        return self.settled() and stored.visible_at >= self.fake.clock() + 55


@pytest.fixture
def bench() -> Iterator[Bench]:
    fake = FakeClients()
    with connected(fake) as connection:
        yield Bench(connection, fake)


def test_one_handler_gets_the_message_itself_under_an_id_of_its_own(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    event = bench.orders.send("placed", {"order_id": 7}, connection=bench.connection)
    bench.handle(bench.receive())
    [(name, message)] = bench.handed_over
    assert name == "receipt"
    mine = run_id(event.id, "email", "receipt")
    assert (message.headers["task"], message.headers["id"], message.headers["root_id"]) == ("receipt", mine, mine)
    assert message.properties["correlation_id"] == mine
    assert message.headers["hake_event"] == {"id": event.id, "topic": "orders", "key": "placed", "group": "email"}
    assert message.payload[1] == {"order_id": 7}
    assert message.delivery_info["routing_key"] == "email"
    assert not bench.settled()


def test_the_results_of_handlers_are_stored_though_an_event_has_none(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    bench.orders.send("placed", {}, connection=bench.connection)
    message = bench.receive()
    assert message.headers["ignore_result"] is True
    bench.handle(message)
    assert "ignore_result" not in bench.handed_over[0][1].headers


def test_an_event_that_a_task_published_stays_in_its_tree(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    bench.orders.send("placed", {}, connection=bench.connection)
    message = bench.receive()
    message.headers["root_id"] = "parent"
    bench.handle(message)
    assert bench.handed_over[0][1].headers["root_id"] == "parent"


def test_several_handlers_get_a_message_each_in_one_request(bench: Bench) -> None:
    bench.handler("receipt")
    bench.handler("thank", as_mapping=True)
    bench.handler("not_this", "paid")
    bench.open()
    event = bench.orders.send("placed", {"order_id": 7}, connection=bench.connection)
    message = bench.receive()
    bench.fake.calls.clear()
    bench.handle(message)
    assert bench.handed_over == []
    assert bench.fake.count("send_message_batch") == 1
    assert bench.settled()
    sent = [body for body in bench.bodies("email") if body["headers"]["task"] != "kombu_hake.event"]
    assert {body["headers"]["task"]: body["headers"]["id"] for body in sent} == {
        name: run_id(event.id, "email", name) for name in ("receipt", "thank")
    }
    arguments = {body["headers"]["task"]: json.loads(body["body"])[:2] for body in sent}
    assert arguments == {"receipt": [[], {"order_id": 7}], "thank": [[{"order_id": 7}], {}]}


def test_an_event_that_could_not_be_shared_out_comes_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.handler("receipt")
    bench.handler("thank")
    bench.open()
    bench.orders.send("placed", {}, connection=bench.connection)
    message = bench.receive()

    def refuse(*_args: Any) -> None:
        raise BrokerUnavailable("AWS is away")

    monkeypatch.setattr(message.channel, "basic_publish", refuse)
    bench.handle(message)
    assert bench.comes_later()
    assert "the event is redelivered" in caplog.text


def test_an_event_without_handler_is_set_aside_and_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.handler("receipt", "placed")
    bench.open()
    bench.orders.send("placed", {"order_id": 7}, connection=bench.connection)
    message = bench.receive()
    message.headers["hake-origin"]["routing_key"] = "gone"
    bench.handle(message)
    assert bench.settled()
    [dead] = bench.bodies("email-dead")
    assert dead["headers"][DEATHS_HEADER][0]["reason"] == "unhandled"
    assert dead["headers"]["task"] == "kombu_hake.event"
    assert caplog.text.count("has no handler for 'gone'") == 1


def test_attributes_that_a_publisher_gives_an_event_are_kept_by_its_dead_letter(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    given = {"team": {"DataType": "String", "StringValue": "shop"}}
    bench.orders.send("placed", {}, connection=bench.connection, message_attributes=given)
    message = bench.receive()
    assert message.properties["message_attributes"] == given
    message.headers["hake-origin"]["routing_key"] = "gone"
    bench.handle(message)
    [dead] = bench.fake.queues.queue("email-dead").messages
    assert dead.attributes.items() >= given.items()
    assert "message_attributes" not in dead.body


def test_a_revoked_event_is_acknowledged_and_nothing_runs(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    event = bench.orders.send("placed", {}, connection=bench.connection)
    bench.revoked.add(event.id)
    bench.handle(bench.receive())
    assert bench.handed_over == []
    assert bench.settled()


class TestMessagesOfOthers:
    def send(self, bench: Bench, text: str, **attributes: str) -> Any:
        given = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        url = bench.fake.sqs("get_queue_url", QueueName="email")["QueueUrl"]
        bench.fake.sqs("send_message", QueueUrl=url, MessageBody=text, MessageAttributes=given)
        return bench.receive()

    def test_a_key_named_args_is_no_protocol_1(self, bench: Bench) -> None:
        bench.handler("receipt")
        bench.open()
        bench.handle(self.send(bench, '{"args": [1], "kwargs": {}, "task": "x"}', rk="placed", event_id="e1"))
        [(_, message)] = bench.handed_over
        assert message.payload[1] == {"args": [1], "kwargs": {}, "task": "x"}
        assert message.headers["id"] == run_id("e1", "email", "receipt")

    def test_without_a_key_it_goes_to_who_wants_everything(self, bench: Bench) -> None:
        bench.handler("receipt")
        bench.handler("audit", "#", as_mapping=True)
        bench.open()
        bench.handle(self.send(bench, '{"order_id": 7}'))
        [(name, message)] = bench.handed_over
        assert (name, message.payload[0]) == ("audit", [{"order_id": 7}])

    @pytest.mark.parametrize("text", ["no json", "[1]", "7", "null"])
    def test_what_is_malformed_is_set_aside_as_it_was(self, bench: Bench, text: str) -> None:
        bench.handler("receipt")
        bench.open()
        bench.handle(self.send(bench, text, rk="placed"))
        assert bench.settled()
        [dead] = bench.fake.queues.queue("email-dead").messages
        assert dead.body == text
        assert dead.attributes["rk"]["StringValue"] == "placed"
        assert dead.attributes["hake-death-reason"]["StringValue"] == "malformed"

    def test_a_redelivery_keeps_the_id(self) -> None:
        first, second = (foreign_event("{}", {}, "m1", {"orders": None}) for _ in range(2))
        assert first.headers["id"] == second.headers["id"]

    def test_with_several_topics_the_key_or_an_attribute_tells_which(self) -> None:
        topics = {"orders": lambda key: key in ("placed", "both"), "baskets": lambda key: key in ("left", "both")}
        origins = [
            foreign_event("{}", attributes, "m", topics).headers["hake-origin"]["exchange"]
            for attributes in ({"rk": "placed"}, {"rk": "left"}, {"rk": "both", "exchange": "baskets"})
        ]
        assert origins == ["orders", "baskets", "baskets"]
        with pytest.raises(MalformedMessage, match="exchange"):
            foreign_event("{}", {"rk": "both"}, "m", topics)


class TestFailures:
    def request(self, bench: Bench, attributes: Any = None, chars: int = 0, **options: Any) -> GroupRequest:
        """Of a run whose event has attributes and so many more characters, as if it had been sent to the queue."""
        bench.handler("receipt", **options)
        bench.open()
        bench.orders.send("placed", {"order_id": 7}, connection=bench.connection)
        if attributes is not None:
            [stored] = bench.fake.queues.queue("email").messages
            stored.attributes = checked_attributes(attributes, to_topic=False, may_be_stored=False)
            envelope = json.loads(stored.body)
            args, kwargs, embed = json.loads(envelope["body"])
            stored.body = json.dumps({**envelope, "body": json.dumps([args, {**kwargs, "text": "x" * chars}, embed])})
        bench.handle(bench.receive())
        [(_, message)] = bench.handed_over
        return GroupRequest(
            message,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            app=bench.app,
            task=bench.app.tasks["receipt"],
            hostname="w1",
        )

    def fail(self, request: GroupRequest, exc: BaseException) -> None:
        try:
            raise exc
        except BaseException:
            request.on_failure(ExceptionInfo(), return_ok=True)

    def test_a_final_failure_is_sent_with_its_history_then_acknowledged(self, bench: Bench) -> None:
        request = self.request(bench)
        self.fail(request, ValueError("no such card"))
        assert request.acknowledged
        assert bench.settled()
        [dead] = bench.bodies("email-dead")
        [death] = dead["headers"][DEATHS_HEADER]
        assert (death["reason"], death["exception"], death["message"]) == ("failed", "ValueError", "no such card")
        assert (death["task"], death["queue"], death["worker"], death["retries"]) == ("receipt", "email", "w1", 0)
        assert "raise exc" in death["traceback"]
        assert dead["headers"]["id"] == request.id
        assert json.loads(dead["body"])[1] == {"order_id": 7}

    @pytest.mark.parametrize("exc", [Retry("later"), Ignore(), Reject("again", requeue=True)])
    def test_what_is_not_final_is_not_set_aside(self, bench: Bench, exc: Exception) -> None:
        self.fail(self.request(bench), exc)
        assert bench.bodies("email-dead") == []

    def test_a_lost_worker_process_is_final_unless_the_task_goes_back(self, bench: Bench) -> None:
        request = self.request(bench)
        assert request._is_final(WorkerLostError("killed"))
        request.task.reject_on_worker_lost = True
        assert not request._is_final(WorkerLostError("killed"))

    def test_a_rejection_is_set_aside_once(self, bench: Bench) -> None:
        self.fail(self.request(bench), Reject("bad card", requeue=False))
        assert len(bench.bodies("email-dead")) == 1

    def test_what_could_not_be_sent_goes_back_to_the_queue(self, bench: Bench) -> None:
        request = self.request(bench)
        bench.fake.fail("send_message", BrokerUnavailable("away"))
        self.fail(request, ValueError("no such card"))
        assert bench.comes_later()

    @pytest.mark.parametrize("count", [1, 10])
    def test_a_dead_letter_with_large_attributes_gives_up_its_history_for_them(self, bench: Bench, count: int) -> None:
        request = self.request(bench, {f"a{number}": b"\x00" * (60_000 // count) for number in range(count)}, 985_000)
        given = request.message.properties["message_attributes"]
        assert len(given) == count
        self.fail(request, ValueError("e" * 1_000))
        assert request.acknowledged
        [dead] = bench.fake.queues.queue("email-dead").messages
        assert given.items() <= dead.attributes.items()
        assert "traceback" not in json.loads(dead.body)["headers"][DEATHS_HEADER][0]

    def test_a_request_class_of_the_users_is_kept(self, bench: Bench) -> None:
        from celery.worker.request import Request

        class Mine(Request):
            mark = 1

        bench.handler("receipt", Request=Mine)
        bench.open()
        used = bench.app.tasks["receipt"].Request
        assert issubclass(used, GroupRequest)
        assert used.mark == 1

    def test_history_is_bounded(self) -> None:
        headers: dict[str, Any] = {}
        for number in range(30):
            headers = with_death(headers, {"number": number})
        assert [death["number"] for death in headers[DEATHS_HEADER]] == list(range(29, 19, -1))


class TestDeadQueue:
    def attributes(self, bench: Bench, name: str) -> dict[str, Any]:
        return bench.fake.queues.queue(name).attributes

    def test_it_is_made_with_both_policies(self, bench: Bench) -> None:
        bench.handler("receipt")
        bench.open()
        dead, live = bench.fake.queues.queue("email-dead"), bench.fake.queues.queue("email")
        assert json.loads(live.attributes["RedrivePolicy"]) == {"deadLetterTargetArn": dead.arn, "maxReceiveCount": 20}
        allowed = {"redrivePermission": "byQueue", "sourceQueueArns": [live.arn]}
        assert json.loads(dead.attributes["RedriveAllowPolicy"]) == allowed

    def test_one_that_an_operator_chose_is_kept(self, bench: Bench) -> None:
        bench.handler("receipt")
        Queue("email")(bench.channel).declare()
        chosen = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:1:theirs", "maxReceiveCount": 3})
        self.attributes(bench, "email")["RedrivePolicy"] = chosen
        bench.open()
        assert self.attributes(bench, "email")["RedrivePolicy"] == chosen
        assert "email-dead" not in bench.fake.queues.by_name

    def test_without_the_rights_the_group_works_without_it(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.handler("receipt")
        Queue("email")(bench.channel).declare()
        bench.fake.deny("sqs:CreateQueue")
        bench.open()
        assert "Queue email gets no dead-letter queue, because sqs:CreateQueue is denied" in caplog.text


def test_a_task_of_others_is_rejected_and_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.handler("receipt")
    bench.open()
    otherwise: list[Any] = []
    on_unknown_task = UnknownTasks(lambda *args: otherwise.append(args))
    for _ in range(2):
        bench.orders.send("placed", {}, connection=bench.connection)
        message = bench.receive()
        message.headers["task"] = "other.task"
        on_unknown_task(None, message, KeyError("other.task"))
    assert caplog.text.count("Group email receives task other.task, which its workers have not registered") == 1
    assert otherwise == []
    assert len(bench.bodies("email-dead")) == 2


def test_a_task_that_was_sent_to_this_queue_alone_is_celerys_business(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    bench.app.send_task("other.task", queue="email", connection=bench.connection)
    message = bench.receive()
    otherwise: list[Any] = []
    UnknownTasks(lambda *args: otherwise.append(args))(None, message, KeyError("other.task"))
    assert len(otherwise) == 1


def test_what_was_logged_of_unknown_tasks_is_forgotten_in_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.handler("receipt")
    bench.open()
    bench.orders.send("placed", {}, connection=bench.connection)
    message = bench.receive()
    monkeypatch.setattr(message, "reject_log_error", lambda *_args: None)
    on_unknown_task = UnknownTasks(lambda *_args: None)
    for number in [*range(1_500), 0]:
        message.headers["task"] = f"task-{number}\n"
        on_unknown_task(None, message, KeyError())
    assert caplog.text.count("task task-0\\n,") == 2


def test_what_was_logged_of_events_without_handler_is_forgotten_in_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.handler("receipt")
    bench.open()
    bench.orders.send("placed", {}, connection=bench.connection)
    message = bench.receive()
    monkeypatch.setattr(group_worker, "_settle_aside", lambda *_args: None)
    state = SimpleNamespace(state=SimpleNamespace(revoked=set()))
    on_event = group_worker.event_strategy(None, bench.app, SimpleNamespace(connection_errors=(), controller=state))
    for number in [*range(1_500), 0]:
        message.headers["hake-origin"]["routing_key"] = f"key-{number}\n"
        on_event(message, None, message.ack_log_error, message.reject_log_error, [])
    assert caplog.text.count("handler for 'key-0") == 2
    assert "\nkey" not in caplog.text


# --- messages that are not what they say


class Pickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def send_event(bench: Bench, body: bytes, content_type: str = "application/json", **headers: Any) -> None:
    """An event as a hostile publisher makes it."""
    origin = {"exchange": "orders", "routing_key": "placed"}
    text = json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": content_type,
            "content-encoding": "binary",
            "headers": {"task": "kombu_hake.event", "id": "e", "hake-origin": origin, **headers},
            "properties": {"body_encoding": "base64", "delivery_tag": "1"},
        }
    )
    bench.fake.sqs("send_message", QueueUrl=bench.fake.queues.queue("email").url, MessageBody=text)


@pytest.mark.parametrize("handlers", [1, 2])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_pickled_event_runs_no_code_and_is_a_dead_letter(
    bench: Bench, tmp_path: Path, handlers: int, compression: str | None
) -> None:
    for number in range(handlers):
        bench.handler(f"audit{number}", "#", as_mapping=True)
    bench.open()
    made = tmp_path / "made"
    body = pickle.dumps([[], {"a": Pickled(made)}, {}])
    headers = {"compression": compression} if compression else {}
    send_event(bench, zlib.compress(body) if compression else body, "application/x-python-serialize", **headers)
    message = bench.receive()
    message.accept = {"application/json"}
    with pytest.raises(ContentDisallowed):  # as the worker's check of tasks finds it
        message.decode()
    bench.handle(message)
    assert not made.exists()
    assert bench.handed_over == []
    assert bench.settled()
    [dead] = bench.bodies("email-dead")
    assert dead["headers"][DEATHS_HEADER][0]["reason"] == "malformed"
    assert pickle.dumps(1)[:2] == (zlib.decompress if compression else bytes)(base64.b64decode(dead["body"]))[:2]


@pytest.mark.parametrize("body", [b"5", b"[1, 2]", b"{not json", b"[[], [1], {}]", b"\xff"])
def test_an_event_whose_body_is_no_tasks_is_a_dead_letter(bench: Bench, body: bytes) -> None:
    bench.handler("audit", "#", as_mapping=True)
    bench.open()
    send_event(bench, body)
    bench.handle(bench.receive())
    assert bench.settled()
    assert len(bench.bodies("email-dead")) == 1


def test_a_compressed_event_reaches_each_of_several_handlers(bench: Bench) -> None:
    bench.handler("receipt")
    bench.handler("audit", "#", as_mapping=True)
    bench.open()
    send_event(bench, zlib.compress(b'[[], {"order_id": 7}, {}]'), compression="zlib")
    bench.handle(bench.receive())
    found = {}
    for _ in range(2):
        message = bench.receive()
        message.accept = {"application/json"}
        assert not message.errors
        found[message.headers["task"]] = message.payload[:2]
    assert found == {"receipt": [[], {"order_id": 7}], "audit": [[{"order_id": 7}], {}]}


def test_a_compressed_event_reaches_its_only_handler(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    send_event(bench, zlib.compress(b'[[], {"order_id": 7}, {}]'), compression="zlib")
    bench.handle(bench.receive())
    [(_, message)] = bench.handed_over
    assert message.payload[1] == {"order_id": 7}
    assert message.body == b'[[], {"order_id": 7}, {}]'
    assert "compression" not in message.headers


def test_a_compressed_event_without_a_handler_can_be_read_among_the_dead_letters(bench: Bench) -> None:
    bench.handler("receipt", "other")
    bench.open()
    send_event(bench, zlib.compress(b"[[], {}, {}]"), compression="zlib")
    bench.handle(bench.receive())
    dead = bench.channel.basic_get("email-dead")
    assert dead is not None
    assert not dead.errors
    assert dead.payload == [[], {}, {}]


def test_a_badly_encoded_key_of_others_is_a_dead_letter(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    rk = {"rk": {"DataType": "String", "StringValue": "%FF"}}
    url = bench.fake.queues.queue("email").url
    bench.fake.sqs("send_message", QueueUrl=url, MessageBody="{}", MessageAttributes=rk)
    bench.handle(bench.receive())
    assert bench.settled()
    assert len(bench.fake.queues.queue("email-dead").messages) == 1


@pytest.mark.parametrize("event_id", ["\ud800", "é", 5, ["a"]])
def test_an_event_of_any_id_is_handled(bench: Bench, event_id: Any) -> None:
    bench.handler("receipt")
    bench.open()
    send_event(bench, b"[[], {}, {}]", id=event_id)
    bench.handle(bench.receive())
    assert len(bench.handed_over) == 1


def test_an_event_without_an_id_is_a_dead_letter(bench: Bench) -> None:
    bench.handler("receipt")
    bench.open()
    send_event(bench, b"[[], {}, {}]", id=None)
    message = bench.receive()
    del message.headers["id"]
    bench.handle(message)
    assert bench.settled()
    assert not bench.handed_over
    assert len(bench.fake.queues.queue("email-dead").messages) == 1


@pytest.mark.parametrize("origin", ["text", 5, ["a"]])
def test_an_unknown_task_of_a_strange_origin_is_left_to_celery(bench: Bench, origin: Any) -> None:
    bench.handler("receipt")
    bench.open()
    left: list[Any] = []
    send_event(bench, b"[[], {}, {}]", task="none", **{"hake-origin": origin})
    UnknownTasks(lambda *args: left.append(args))(None, bench.receive(), KeyError("none"))
    assert len(left) == 1


@pytest.mark.parametrize("attributes", ["text", 5, ["a"], {"a": 1}])
@pytest.mark.parametrize("task", ["receipt", "line\nbreak", "\ud800", {"a": 1}])
def test_what_a_publisher_put_into_an_envelope_does_not_keep_it_from_the_dead_letters(
    bench: Bench, attributes: Any, task: Any
) -> None:
    bench.handler("receipt")
    bench.open()
    send_event(bench, b"[[], {}, {}]", task=task)
    message = bench.receive()
    message.properties["attributes"] = attributes
    group_failures.set_aside(message, group_failures.parts_of(message), "failed", {"message": "x", "exception": "X"})
    [dead] = bench.fake.queues.queue("email-dead").messages
    for item in dead.attributes.values():
        assert item["StringValue"].isprintable()


# --- events whose payload is in S3


@pytest.fixture
def large() -> Iterator[Bench]:
    fake = FakeClients()
    fake.objects.buckets.add("shop-payloads")
    with connected(fake, ack_linger_s=0.0, large_messages="s3://shop-payloads/prod") as connection:
        yield Bench(connection, fake)


def publish_large(bench: Bench) -> None:
    with bench.connection.Producer() as producer:
        bench.orders.send("placed", {"data": "x" * 1_500_000}, event_id="e-1", producer=producer)


def test_several_handlers_share_the_object_of_their_event(large: Bench) -> None:
    large.handler("mail")
    large.handler("thank")
    large.handler("map", as_mapping=True)
    large.open()
    publish_large(large)
    large.handle(large.receive())
    sent = large.fake.queues.queue("email").bodies()
    written = large.fake.objects.written
    assert [key.split("/")[1] for key in written] == ["t", "q"]  # the body of the third is another one
    assert sum(written[0] in body for body in sent) == 3  # with the event, until its ack
    messages = [large.receive() for _ in range(3)]
    found = {message.headers["task"]: message for message in messages}
    assert {name: message.headers["id"] for name, message in found.items()} == {
        name: run_id("e-1", "email", name) for name in ("mail", "thank", "map")
    }
    assert found["thank"].payload[1] == {"data": "x" * 1_500_000}
    assert found["map"].payload[0] == [{"data": "x" * 1_500_000}]
    assert found["thank"].properties["correlation_id"] == run_id("e-1", "email", "thank")
    assert found["mail"].headers["hake_event"]["key"] == "placed"
    for message in found.values():
        message.ack()
    large.connection.transport.leases.flush(10.0)
    large.connection.transport.payloads._deletes.wait(10.0)
    assert large.fake.objects.keys("shop-payloads") == written[:1]


def test_a_failure_points_to_the_same_object_and_has_its_history(large: Bench) -> None:
    large.handler("mail")
    large.open()
    publish_large(large)
    large.handle(large.receive())
    [(_, message)] = large.handed_over
    parts = group_failures.parts_of(message)
    assert group_failures.set_aside(message, parts, "failed", {"exception": "ValueError", "message": "no"})
    message.ack()
    [body] = large.fake.queues.queue("email-dead").bodies()
    [key] = large.fake.objects.written
    assert key in body
    dead = large.channel.basic_get("email-dead")
    assert dead.headers[DEATHS_HEADER][0]["message"] == "no"
    assert dead.headers["task"] == "mail"
    assert dead.payload[1] == {"data": "x" * 1_500_000}


def test_a_failure_after_an_early_ack_has_a_payload_of_its_own(large: Bench) -> None:
    """Without ``acks_late`` the ack comes first, and with it the end of the object."""
    large.handler("mail")
    large.handler("map", as_mapping=True, acks_late=False)
    large.open()
    publish_large(large)
    large.handle(large.receive())
    messages = {message.headers["task"]: message for message in (large.receive(), large.receive())}
    message = messages["map"]
    message.ack()
    large.connection.transport.leases.flush(10.0)
    large.connection.transport.payloads._deletes.wait(10.0)
    parts = group_failures.parts_of(message)
    assert group_failures.set_aside(message, parts, "failed", {"exception": "ValueError", "message": "no"})
    dead = large.channel.basic_get("email-dead")
    assert dead.payload[0] == [{"data": "x" * 1_500_000}]
    assert dead.headers[DEATHS_HEADER][0]["message"] == "no"


def test_handlers_do_not_delete_the_payload_that_an_event_of_its_own_object_had(large: Bench) -> None:
    """As after a requeue: the object is the message's own, and goes with its ack. The handlers get others."""
    large.handler("mail")
    large.handler("thank")
    large.open()
    publish_large(large)
    event = large.receive()
    again = resendable(group_failures.parts_of(event)).as_dict()
    large.channel.basic_publish(again, PRIVATE_EXCHANGE, "email")
    event.ack()
    large.handle(large.receive())
    large.connection.transport.leases.flush(10.0)
    large.connection.transport.payloads._deletes.wait(10.0)
    for message in (large.receive(), large.receive()):
        assert message.payload[1] == {"data": "x" * 1_500_000}
        message.ack()
    large.connection.transport.leases.flush(10.0)
    large.connection.transport.payloads._deletes.wait(10.0)
    assert [key.split("/")[1] for key in large.fake.objects.keys("shop-payloads")] == ["t"]


def test_handlers_have_the_tenant_of_their_event_and_no_other() -> None:
    fake = FakeClients()
    with connected(fake, tenant_from="lang") as connection, connected(fake) as publisher:
        bench = Bench(connection, fake)
        bench.handler("mail")
        bench.handler("thank")
        bench.open()
        for tenant in (None, "acme"):
            bench.orders.send("placed", {"n": 1}, connection=publisher, tenant=tenant)
            bench.handle(bench.receive())
            runs = [bench.receive(), bench.receive()]
            assert [message.properties.get("tenant") for message in runs] == [tenant, tenant]
            for message in runs:
                message.ack()
