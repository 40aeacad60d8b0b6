"""Topic.event_type: what is checked before anything is sent, what is on the wire, and what handlers get."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

import pydantic
import pytest
from celery import Celery, Task
from celery.exceptions import Retry
from fakes import FakeClients, connected

import kombu_hake
from kombu_hake.exceptions import InvalidEvent
from kombu_hake.groups.topic import EventType, Topic


@dataclass
class OrderPlaced:
    order_id: int
    at: datetime | None = None


class OrderPaid(TypedDict):
    order_id: int


class OrderShipped(pydantic.BaseModel):
    order_id: int
    parcels: int = 1


ROOT = Path(kombu_hake.__file__).parents[1]
MODELS: Any = pytest.mark.parametrize("model", [OrderPlaced, OrderPaid, OrderShipped])


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("shop", broker="hake://localhost:1", set_as_current=False) as app:
        yield app


@pytest.fixture
def orders(app: Celery) -> Topic:
    return Topic("orders", app=app)


@pytest.fixture
def placed(orders: Topic) -> EventType[Any, OrderPlaced]:
    return orders.event_type("placed", OrderPlaced)


class Wire:
    """A fake AWS with the queue of group ``email``, and what is sent to it."""

    def __init__(self, app: Celery, fake: FakeClients, connection: Any) -> None:
        self.app = app
        self.fake = fake
        self.connection = connection

    def bodies(self) -> list[Any]:
        """(args, kwargs) of each message in the group's queue."""
        return [json.loads(json.loads(text)["body"])[:2] for text in self.fake.queues.queue("email").bodies()]

    def headers(self) -> list[dict[str, Any]]:
        return [json.loads(text)["headers"] for text in self.fake.queues.queue("email").bodies()]


@pytest.fixture
def wire(app: Celery, orders: Topic) -> Iterator[Wire]:
    orders.on("placed", group="email", name="plain")(nothing)
    app.finalize()
    fake = FakeClients()
    with connected(fake) as connection:
        app.amqp.queues["email"](connection.default_channel).declare()
        fake.calls.clear()
        yield Wire(app, fake, connection)


def run(app: Celery, name: str, *args: Any, **payload: Any) -> Any:
    """As a worker runs a received message; raises what the handler raises."""
    return app.tasks[name].apply(args, payload, throw=True).result


class TestPublish:
    @MODELS
    def test_the_fields_are_the_payload_as_without_a_model(self, orders: Topic, wire: Wire, model: Any) -> None:
        event_type = orders.event_type("placed", model)
        orders.send("placed", event_type.model(order_id=7), event_id="e", connection=wire.connection)
        event_type.send(event_type.model(order_id=7), event_id="e", connection=wire.connection)
        Topic("orders", app=wire.app).send("placed", wire.bodies()[0][1], event_id="e", connection=wire.connection)
        first, second, untyped = wire.fake.queues.queue("email").bodies()
        assert without_tags(first) == without_tags(second) == without_tags(untyped)

    def test_what_json_lacks_is_text(self, placed: Any, wire: Wire) -> None:
        placed.send(OrderPlaced(7, datetime(2026, 1, 2, tzinfo=timezone.utc)), connection=wire.connection)
        assert wire.bodies() == [[[], {"order_id": 7, "at": "2026-01-02T00:00:00+00:00"}]]

    @MODELS
    def test_a_wrong_field_is_an_error_before_anything_is_sent(self, orders: Topic, wire: Wire, model: Any) -> None:
        event_type = orders.event_type("placed", model)
        for call in (
            lambda: event_type.publish(order_id="seven"),
            lambda: event_type.publish_on_commit(order_id="seven"),
            event_type.publish,
            lambda: event_type.send({"order_id": "seven"}, connection=wire.connection),
            lambda: orders.publish("placed", order_id="seven"),
            lambda: orders.publish("placed"),
            lambda: orders.send("placed", {"order_id": None}, connection=wire.connection),
        ):
            with pytest.raises(InvalidEvent, match=f"event 'placed' of topic 'orders' .* {model.__name__}: .*order_id"):
                call()
        assert not wire.fake.calls

    def test_publish_takes_the_arguments_of_the_class(self, placed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[Any] = []
        monkeypatch.setattr(Topic, "_send", lambda self, event, payload, options: sent.append((event, payload)))
        event = placed.publish(7, at=None)
        assert sent == [(event, {"order_id": 7, "at": None})]
        assert (event.topic, event.key) == (placed.topic, "placed")

    def test_on_commit_it_is_checked_at_once_and_waits_for_django(
        self, placed: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transaction = pytest.importorskip("django.db.transaction")
        waiting: list[Any] = []
        sent: list[Any] = []
        monkeypatch.setattr(transaction, "on_commit", lambda send, using=None: waiting.append(send))
        monkeypatch.setattr(Topic, "_send", lambda self, event, payload, options: sent.append(payload))
        order = OrderPlaced(7)
        placed.send(order, on_commit=True)
        order.order_id = 8  # the event is that of the moment
        assert not sent
        waiting[0]()
        assert sent == [{"order_id": 7, "at": None}]

    def test_options_of_tasks_are_refused(self, placed: Any) -> None:
        with pytest.raises(TypeError, match="link"):
            placed.send(OrderPlaced(7), link=None)

    def test_other_keys_are_free(self, orders: Topic, placed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[Any] = []
        monkeypatch.setattr(Topic, "_send", lambda self, event, payload, options: sent.append(payload))
        orders.publish("paid", anything="x")
        assert sent == [{"anything": "x"}]


class TestHandlers:
    @MODELS
    def test_a_handler_gets_an_instance(self, app: Celery, orders: Topic, model: Any) -> None:
        got: list[Any] = []
        orders.event_type("placed", model).on(group="email", name="receipt")(got.append)
        run(app, "receipt", order_id=7, of_a_newer_publisher=1)
        run(app, "receipt", {"order_id": 7})  # one mapping: a message of the time when it had as_mapping=True
        assert got == [model(order_id=7)] * 2
        assert isinstance(got[0], dict if model is OrderPaid else model)

    @MODELS
    def test_invalid_data_fails_the_task_and_nothing_else(self, app: Celery, orders: Topic, model: Any) -> None:
        ran: list[Any] = []
        orders.event_type("placed", model).on(group="email", name="receipt")(ran.append)
        for args, payload in (
            ((), {}),
            ((), {"order_id": "seven"}),
            ((), {"order_id": {"$": [1]}}),
            ((), {"self": 1, "args": 2, "cls": 3}),
            ((None,), {}),
            (([],), {}),
        ):
            result = app.tasks["receipt"].apply(args, payload)
            assert result.state == "FAILURE"
            assert isinstance(result.result, InvalidEvent)
            assert "order_id" in str(result.result) or args
        assert app.tasks["receipt"].apply((1, 2), {}).state == "FAILURE"
        assert not ran

    def test_bound_handlers_and_classes_get_the_task_too(self, app: Celery, placed: Any) -> None:
        @placed.on(group="email", name="bound", bind=True, max_retries=3)
        def bound(self: Task, order: OrderPlaced) -> tuple[str, int, int]:
            return self.name, self.max_retries, order.order_id

        @placed.on(group="email", max_retries=4)
        class Receipt(Task):
            name = "class"

            def run(self, order: OrderPlaced) -> tuple[str, int, int]:
                return self.name, self.max_retries, order.order_id

        assert run(app, "bound", order_id=7) == ("bound", 3, 7)
        assert run(app, "class", order_id=7) == ("class", 4, 7)
        assert app.tasks["class"].acks_late
        assert Receipt.name == "class"

    def test_it_is_called_as_its_function_and_has_its_signature(self, placed: Any) -> None:
        @placed.on(group="email", name="receipt")
        def receipt(order: OrderPlaced) -> int:
            """Send a receipt."""
            return order.order_id

        assert receipt(OrderPlaced(7)) == 7
        assert receipt.__doc__ == "Send a receipt."
        assert list(inspect.signature(receipt.run).parameters) == ["order"]

    def test_called_as_a_task_it_sends_to_its_group_alone(self, app: Celery, placed: Any, wire: Wire) -> None:
        placed.on(group="email", name="receipt")(nothing)
        receipt = app.tasks["receipt"]
        receipt.apply_async((OrderPlaced(7),), connection=wire.connection)
        receipt.s(OrderPlaced(8)).apply_async(connection=wire.connection)
        assert wire.bodies() == [[[], {"order_id": 7, "at": None}], [[], {"order_id": 8, "at": None}]]
        assert [headers["task"] for headers in wire.headers()] == ["receipt", "receipt"]
        assert wire.fake.count("publish", "publish_batch") == 0
        with pytest.raises(InvalidEvent, match="order_id must be int, not str"):
            receipt.delay(OrderPlaced("seven"))  # type: ignore[arg-type]

    def test_a_retry_sends_what_was_received(self, app: Celery, placed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        placed.on(group="email", name="receipt", autoretry_for=(Exception,), max_retries=2)(nothing)
        sent: list[Any] = []
        monkeypatch.setattr(app, "send_task", lambda name, args, kwargs, **options: sent.append((args, kwargs)))
        task = app.tasks["receipt"]
        received = {"order_id": "seven", "of_a_newer_publisher": 1}
        task.push_request(
            args=(), kwargs=received, id="i", called_directly=False, retries=0, is_eager=False,
            delivery_info={"exchange": "", "routing_key": "email"},
        )  # fmt: skip
        try:
            with pytest.raises(Retry):
                task.run(**received)
        finally:
            task.pop_request()
        assert sent == [((), received)]

    def test_one_task_in_two_groups(self, app: Celery, orders: Topic, placed: Any) -> None:
        @orders.event_type("changed", OrderPlaced).on(group="audit")
        @placed.on(group="email", name="note")
        def note(order: OrderPlaced) -> int:
            return order.order_id

        found = orders.event("changed", "e").results()
        assert [*found] == ["audit"]
        assert run(app, "note", order_id=7) == 7

    def test_a_task_that_gets_keyword_arguments_is_refused(self, app: Celery, placed: Any) -> None:
        with pytest.raises(TypeError, match="OrderPlaced"):
            placed.on(group="audit")(app.task(name="of_keywords")(nothing))

    def test_a_shared_task_is_the_handler_of_every_app(self) -> None:
        run_python(
            "from celery import Celery",
            "@placed.on(group='email', name='receipt')",
            "def receipt(order): return order.order_id",
            "for name in 'ab':",
            "    task = Celery(name).tasks['receipt']",
            "    assert task.acks_late",
            "    assert task.apply((), {'order_id': 7}).get() == 7",
            "    assert task.apply((), {'order_id': '7'}).state == 'FAILURE'",
        )

    def test_the_apps_own_task_class_is_kept(self, app: Celery, orders: Topic) -> None:
        class Own(Task):
            def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
                return "own", args, kwargs

        app.task_cls = Own
        orders.event_type("placed", OrderPlaced).on(group="email", name="receipt")(nothing)
        assert isinstance(app.tasks["receipt"], Own)
        assert app.tasks["receipt"].delay(OrderPlaced(7)) == ("own", (), {"order_id": 7, "at": None})

    def test_eagerly_typed_and_untyped_handlers_run(self, app: Celery, orders: Topic, placed: Any) -> None:
        got: list[Any] = []

        def record(**payload: Any) -> None:
            got.append(payload)

        placed.on(group="email", name="typed")(got.append)
        orders.on("#", group="audit", name="untyped")(record)
        app.conf.task_always_eager = True
        placed.publish(order_id=7)
        app.tasks["typed"].delay(OrderPlaced(8))
        assert got == [OrderPlaced(7), {"order_id": 7, "at": None}, OrderPlaced(8)]


class TestDeclaration:
    def test_a_key_has_one_model(self, orders: Topic, placed: Any) -> None:
        assert orders.event_type("placed", OrderPlaced).model is OrderPlaced
        with pytest.raises(TypeError, match="OrderPlaced"):
            orders.event_type("placed", OrderPaid)

    @pytest.mark.parametrize("key", ["", "order.*", "#", 7])
    def test_a_key_is_one_that_can_be_published(self, orders: Topic, key: Any) -> None:
        with pytest.raises(TypeError, match="wildcards"):
            orders.event_type(key, OrderPlaced)

    def test_where_a_handler_is_sent_is_decided_by_its_group(self, placed: Any) -> None:
        with pytest.raises(TypeError, match="queue"):
            placed.on(group="email", queue="other")
        with pytest.raises(TypeError, match="group"):
            placed.on(group="")

    def test_pydantic_is_imported_by_its_users_only(self) -> None:
        sources = (Path(kombu_hake.__file__).parent / "groups").glob("*.py")
        imports = re.compile(r"^\s*(from|import) pydantic", re.MULTILINE)
        assert not [path for path in sources if imports.search(path.read_text())]


def nothing(*_args: Any, **_payload: Any) -> None:
    """A handler."""


def run_python(*lines: str) -> None:
    """Run lines in an interpreter of its own, after the declaration of an event type ``placed``."""
    declared = (
        "from dataclasses import make_dataclass",
        "from kombu_hake import Topic",
        "placed = Topic('orders').event_type('placed', make_dataclass('Placed', [('order_id', int)]))",
    )
    subprocess.run([sys.executable, "-c", "\n".join([*declared, *lines])], check=True, cwd=ROOT)


def without_tags(text: str) -> dict[str, Any]:
    """An envelope without what differs from publish to publish."""
    envelope = json.loads(text)
    envelope["properties"].pop("delivery_tag", None)
    return dict(envelope)
