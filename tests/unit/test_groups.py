"""Topic.on and Topic.publish: tasks, queues, ids, and what is sent."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task
from fakes import FakeClients, connected

import kombu_hake
from kombu_hake.amqp.tasks import EVENT_TASK
from kombu_hake.exceptions import DeclarationMismatch
from kombu_hake.groups.registry import Registry, Subscription, run_id
from kombu_hake.groups.topic import Topic


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("shop", broker="hake://localhost:1", set_as_current=False) as app:
        yield app


@pytest.fixture
def orders(app: Celery) -> Topic:
    return Topic("orders", app=app)


def nothing(**payload: Any) -> None:
    """A handler."""


def bindings(app: Celery, queue: str) -> set[tuple[str, str]]:
    return {(item.exchange.name, item.routing_key) for item in app.amqp.queues[queue].bindings}


class TestHandlers:
    def test_a_function_becomes_an_ordinary_task_with_its_options(self, app: Celery, orders: Topic) -> None:
        @orders.on("placed", group="email", name="receipt", bind=True, max_retries=5, rate_limit="1/s")
        def receipt(self: Task, order_id: int) -> tuple[str, int]:
            return self.name, order_id

        assert receipt(7) == ("receipt", 7)
        task = app.tasks["receipt"]
        assert (task.max_retries, task.rate_limit, task.acks_late) == (5, "1/s", True)

    def test_acks_late_is_yours_to_decide(self, app: Celery, orders: Topic) -> None:
        class Early(Task):
            acks_late = False

        orders.on("placed", group="email", name="by_base", base=Early)(nothing)
        orders.on("placed", group="email", name="by_option", acks_late=False)(nothing)
        assert not app.tasks["by_base"].acks_late
        assert not app.tasks["by_option"].acks_late

    def test_the_size_of_a_topic_is_an_argument_of_its_exchange(self, app: Celery) -> None:
        large = Topic("invoices", app=app, max_size=1_048_576)
        large.on("paid", group="email", name="paid")(nothing)
        app.finalize()
        [bound] = [item for item in app.amqp.queues["email"].bindings if item.exchange.name == "invoices"]
        assert bound.exchange.arguments == {"x-max-message-size": 1_048_576} == large.exchange.arguments
        assert not Topic("orders", app=app).exchange.arguments

    @pytest.mark.parametrize("size", [1, 2_000_000, "1 MiB"])
    def test_a_size_that_no_topic_can_have(self, app: Celery, size: Any) -> None:
        with pytest.raises(DeclarationMismatch, match="x-max-message-size of exchange 'orders'"):
            Topic("orders", app=app, max_size=size)

    def test_a_task_class(self, app: Celery, orders: Topic) -> None:
        @orders.on("placed", group="email", max_retries=9)
        class Receipt(Task):
            name = "receipt"

            def run(self, order_id: int) -> int:
                return order_id

        assert Receipt.name == "receipt"
        assert app.tasks["receipt"].run(7) == 7
        assert app.tasks["receipt"].max_retries == 9

    def test_one_task_in_two_groups(self, app: Celery, orders: Topic) -> None:
        @orders.on("placed", group="audit")
        @orders.on("placed", "paid", group="email", name="note")
        def note() -> None: ...

        app.finalize()
        assert bindings(app, "audit") >= {("orders", "placed")}
        assert bindings(app, "email") >= {("orders", "placed"), ("orders", "paid")}
        found = orders.event("placed", "e").results()
        assert found["audit"]["note"].id != found["email"]["note"].id

    def test_options_of_a_task_that_exists_are_refused(self, orders: Topic) -> None:
        task = orders.on("placed", group="email", name="note")(nothing)
        with pytest.raises(TypeError, match="max_retries"):
            orders.on("placed", group="audit", max_retries=1)(task)

    @pytest.mark.parametrize("option", ["queue", "exchange", "routing_key"])
    def test_where_a_handler_is_sent_is_decided_by_its_group(self, orders: Topic, option: str) -> None:
        with pytest.raises(TypeError, match=option):
            orders.on("placed", group="email", **{option: "x"})

    @pytest.mark.parametrize("name", ["", None, 5, ["orders"]])
    def test_a_topic_needs_a_name(self, app: Celery, name: Any) -> None:
        with pytest.raises(TypeError, match=r'a topic needs a name, such as Topic\("orders"\)'):
            Topic(name, app=app)

    @pytest.mark.parametrize("key", [None, 5, ["placed"]])
    def test_an_event_needs_a_key_that_is_text(self, orders: Topic, key: Any) -> None:
        with pytest.raises(TypeError, match="the key of an event must be text"):
            orders.publish(key)

    def test_a_key_and_a_group_are_needed(self, orders: Topic) -> None:
        with pytest.raises(TypeError, match="key"):
            orders.on(group="email")
        with pytest.raises(TypeError, match="group"):
            orders.on("placed", group="")

    def test_a_class_that_is_no_task_is_refused(self, orders: Topic) -> None:
        with pytest.raises(TypeError, match="Task"):
            orders.on("placed", group="email")(dict)

    def test_it_is_exported_by_the_package(self) -> None:
        assert kombu_hake.Topic is Topic


class TestQueues:
    def test_groups_are_added_to_the_default_queue(self, app: Celery, orders: Topic) -> None:
        orders.on("placed", group="email", name="receipt")(nothing)
        app.finalize()
        assert list(app.amqp.queues.consume_from) == ["celery", "email"]
        app.amqp.queues.select("email")
        assert list(app.amqp.queues.consume_from) == ["email"]

    def test_handlers_that_come_late_bind_too(self, app: Celery, orders: Topic) -> None:
        app.finalize()
        orders.on("placed", group="email", name="receipt")(nothing)
        orders.on("order.#", group="email", name="all")(nothing)
        assert bindings(app, "email") == {("email", "email"), ("orders", "placed"), ("orders", "order.#")}

    def test_a_queue_of_the_users_keeps_its_own_binding(self, app: Celery, orders: Topic) -> None:
        from kombu import Exchange, Queue

        app.conf.task_queues = [Queue("email", Exchange("mails", "fanout"), "any")]
        orders.on("placed", group="email", name="receipt")(nothing)
        app.finalize()
        assert bindings(app, "email") == {("mails", "any"), ("orders", "placed")}

    def test_calling_a_handler_itself_sends_to_its_group_alone(self, app: Celery, orders: Topic) -> None:
        receipt = orders.on("placed", group="email", name="receipt")(nothing)
        fake = FakeClients()
        with connected(fake) as connection:
            receipt.apply_async(connection=connection)
        assert fake.count("publish", "publish_batch") == 0
        assert len(fake.queues.queue("email").bodies()) == 1

    def test_a_handler_that_is_called_after_a_publish_is_sent_to_its_group(self, app: Celery, orders: Topic) -> None:
        orders.on("placed", group="email", name="receipt")(nothing)
        fake = FakeClients()
        with connected(fake) as connection:
            orders.send("placed", {}, connection=connection)  # Celery makes its router, and the app is not finalized
            app.tasks["receipt"].apply_async(connection=connection)
        assert len(fake.queues.queue("email").bodies()) == 1


class TestPublish:
    def test_one_request_whatever_the_number_of_groups(self, app: Celery, orders: Topic) -> None:
        for group in ("email", "stock", "audit"):
            orders.on("placed", group=group, name=group)(nothing)
        app.finalize()
        fake = FakeClients()
        with connected(fake) as connection:
            for group in ("email", "stock", "audit"):
                app.amqp.queues[group](connection.default_channel).declare()
            fake.calls.clear()
            event = orders.send("placed", {"order_id": 7}, connection=connection)
        assert fake.count("publish") == 1
        assert fake.count("create_queue", "send_message") == 0
        for group in ("email", "stock", "audit"):
            [text] = fake.queues.queue(group).bodies()
            envelope = json.loads(text)
            assert (envelope["headers"]["task"], envelope["headers"]["id"]) == (EVENT_TASK, event.id)
            assert json.loads(envelope["body"])[:2] == [[], {"order_id": 7}]

    def test_inside_a_batch_events_share_requests(self, app: Celery, orders: Topic) -> None:
        orders.on("placed", group="email", name="receipt")(nothing)
        app.finalize()
        fake = FakeClients()
        with connected(fake) as connection:
            app.amqp.queues["email"](connection.default_channel).declare()
            with kombu_hake.batch():
                for number in range(10):
                    orders.send("placed", {"order_id": number}, connection=connection)
        assert fake.count("publish", "publish_batch") == 1
        assert len(fake.queues.queue("email").bodies()) == 10

    def test_options_of_tasks_are_refused(self, orders: Topic) -> None:
        with pytest.raises(TypeError, match="link"):
            orders.send("placed", {}, link=None)

    def test_eagerly_it_runs_every_handler_of_the_key(self, app: Celery, orders: Topic) -> None:
        ran: list[Any] = []

        @orders.on("placed", group="email", name="a")
        def by_key(order_id: int) -> None:
            ran.append(("a", order_id))

        @orders.on("#", group="audit", name="b", as_mapping=True)
        def everything(event: dict[str, Any]) -> None:
            ran.append(("b", event))

        orders.on("paid", group="email", name="c")(nothing)
        app.conf.task_always_eager = True
        orders.publish("placed", order_id=7)
        assert ran == [("a", 7), ("b", {"order_id": 7})]

    def test_on_commit_it_waits_for_django(self, orders: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
        transaction = pytest.importorskip("django.db.transaction")
        waiting: list[tuple[Any, str | None]] = []
        monkeypatch.setattr(transaction, "on_commit", lambda send, using=None: waiting.append((send, using)))
        sent: list[Any] = []
        monkeypatch.setattr(Topic, "_send", lambda self, event, payload, options: sent.append((event, payload)))
        event = orders.publish_on_commit("placed", order_id=7)
        orders.send("placed", {}, on_commit="orders_db")
        assert sent == []
        waiting[0][0]()
        assert sent == [(event, {"order_id": 7})]
        assert [using for _, using in waiting] == [None, "orders_db"]


class TestIdentity:
    def test_ids_follow_from_event_group_and_handler(self) -> None:
        assert run_id("e", "email", "receipt") == "cba3d7d3-f48f-58ab-b4b8-5542a7defcd6"
        ids = {run_id(e, g, h) for e in "ab" for g in "cd" for h in "ef"}
        assert len(ids) == 8

    def test_ids_do_not_depend_on_where_the_parts_meet(self) -> None:
        assert run_id("e", "a", "bc") != run_id("e", "ab", "c")

    def test_results_can_be_asked_for_by_who_has_no_handlers(self, app: Celery) -> None:
        event = Topic("orders", app=app).event("placed", "e")
        assert event.results() == {}
        assert event.result("email", "receipt").id == run_id("e", "email", "receipt")


class TestRegistry:
    def test_two_keys_that_match_run_a_handler_once(self, app: Celery) -> None:
        registry = Registry()
        for key in ("order.*", "order.#", "paid"):
            registry.add(Subscription("orders", key, "email", lambda app: "receipt"), app)
        assert len(registry.matching(app, "orders", "order.placed")) == 1
        assert registry.matching(app, "orders", "shipped") == []
        assert registry.matching(app, "baskets", "paid") == []

    def test_subscriptions_of_an_app_are_not_those_of_another(self, app: Celery) -> None:
        registry = Registry()
        registry.add(Subscription("orders", "paid", "email", lambda app: "receipt"), app)
        assert registry.all(Celery("other", set_as_current=False)) == []
