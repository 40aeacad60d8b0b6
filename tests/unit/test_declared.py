"""What a Celery app declares, as values."""

import gc
from weakref import ref

import pytest
from celery import Celery
from celery._state import _deregister_app
from celery.local import Proxy
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from kombu_hake import Topic
from kombu_hake.admin.declared import Declared, DeclaredExchange, declared
from kombu_hake.amqp import Binding
from kombu_hake.exceptions import TopologyError
from kombu_hake.groups import registry


def made(**conf: object) -> Celery:
    app = Celery("shop", broker="hake://localhost:1/ns", set_as_current=False)
    app.conf.update(conf)
    return app


def found(app: Celery) -> Declared:
    app.finalize()
    return declared(app)


def names(app: Celery) -> dict[str, tuple[bool, bool]]:
    return {queue.name: (queue.is_group, queue.is_consumed) for queue in found(app).queues}


def test_default_queue_and_groups() -> None:
    app = made()
    Topic("orders", app=app).on("placed", group="email", name="receipt")(print)
    assert names(app) == {"celery": (False, True), "email": (True, True)}
    email = found(app).queue("email")
    assert email.bindings == (Binding("email", "direct", "email"), Binding("orders", "topic", "placed"))
    assert email.spec.arguments == {"x-dead-letter-queue": "?"}
    assert DeclaredExchange("orders", "topic") in found(app).exchanges


def test_queues_that_tasks_are_routed_to_are_not_consumed_by_that() -> None:
    app = made(
        task_queues=[Queue("video", Exchange("media", "topic"), "video.#")],
        task_routes=({"a": "one", "b.*": {"queue": "two"}}, [("c", {"queue": Queue("three")})], lambda *_, **__: None),
        beat_schedule={"nightly": {"task": "a", "schedule": 60, "options": {"queue": "four"}}},
    )

    @app.task(name="d", shared=False)
    def done() -> None:
        """A task."""

    app.finalize()
    app.tasks["d"].queue = "five"
    before = list(app.amqp.queues)
    assert names(app) == {
        "video": (False, True), **dict.fromkeys(("one", "two", "three", "four", "five"), (False, False))
    }  # fmt: skip
    assert list(app.amqp.queues) == before
    assert found(app).queue("one").bindings == (Binding("one", "direct", "one"),)


def test_no_queue_is_invented_where_celery_creates_none() -> None:
    app = made(task_queues=[Queue("video")], task_routes={"a": "one"}, task_create_missing_queues=False)
    assert list(names(app)) == ["video"]


def test_exchanges_that_are_only_published_to() -> None:
    app = made(task_routes={
        "a": {"exchange": "news", "exchange_type": "fanout", "routing_key": "x"}, "b": {"exchange": "other"}
    })  # fmt: skip
    exchanges = {exchange.name: exchange.type for exchange in found(app).exchanges}
    assert exchanges == {"celery": "direct", "news": "fanout", "other": None}


def test_arguments_as_kombu_sends_them() -> None:
    app = made(task_queues=[Queue("a", max_priority=3), Queue("b")], task_queue_max_priority=5)
    assert [queue.spec.arguments.get("x-max-priority") for queue in found(app).queues] == [3, 5]


def test_bindings_of_a_queue_replace_its_exchange() -> None:
    queue = Queue("a", [binding(Exchange("x", "fanout")), binding(Exchange("h", "headers"), arguments={"k": 1})])
    assert found(made(task_queues=[queue])).queues[0].bindings == (
        Binding("h", "headers", "", (("k", 1),)), Binding("x", "fanout"),
    )  # fmt: skip


def test_what_goes_away_is_left_out() -> None:
    app = made(task_queues=[
        Queue("stays"), Queue("expires", expires=60), Queue("mine", exclusive=True), Queue("there", no_declare=True),
        Broadcast("caches"),
    ])  # fmt: skip
    got = found(app)
    assert [queue.name for queue in got.queues] == ["stays"]
    assert {"expires", "mine", "there"} < set(got.other_queues)
    assert set(got.temporary) == {"celery.pidbox", "reply.celery.pidbox", "celeryev", "caches"}
    assert [exchange.name for exchange in got.exchanges] == ["celery"]


@pytest.mark.parametrize(
    "queue",
    [
        Queue("a", Exchange("x", "headers"), binding_arguments={"k": ["list"]}),
        Queue("a", Exchange("x", "x-delayed-message")),
    ],
)
def test_what_amqp_does_not_know_is_an_error(queue: Queue) -> None:
    with pytest.raises(TopologyError, match="xchange 'x'"):
        found(made(task_queues=[queue]))


# --- topics that are only published to


def topics(app: Celery) -> dict[str, DeclaredExchange]:
    return {exchange.name: exchange for exchange in found(app).exchanges if exchange.name != "celery"}


def test_topics_without_handlers() -> None:
    app, other = made(), made()
    kept = [Topic("orders", app=app), Topic("films", app=app, max_size=1_048_576, large_messages="s3://films-bucket")]
    shared = Topic("news-of-all")
    theirs = Topic("theirs", app=other)
    assert topics(app) == {
        "orders": DeclaredExchange("orders", "topic"),
        "films": DeclaredExchange(
            "films", "topic", {"x-max-message-size": 1_048_576, "x-large-messages": "s3://films-bucket"}
        ),
        "news-of-all": DeclaredExchange("news-of-all", "topic"),
    }
    assert set(topics(other)) == {"theirs", "news-of-all"}
    assert [topic.name for topic in (*kept, shared, theirs)] == ["orders", "films", "news-of-all", "theirs"]


def test_an_exchange_with_two_places_for_large_messages_is_an_error() -> None:
    one, other = (Exchange("x", arguments={"x-large-messages": f"s3://{name}-bucket"}) for name in ("one", "other"))
    with pytest.raises(TopologyError, match=r"'x'.*s3://other-bucket.*s3://one-bucket"):
        found(made(task_queues=[Queue("a", one), Queue("b", other)]))


def test_topic_of_the_current_app_by_its_proxy() -> None:
    app = made()
    orders = Topic("orders", app=Proxy(lambda: app))
    assert list(topics(app)) == [orders.name]


@pytest.mark.parametrize("sizes", [(300_000, 1_000_000, None), (None, 1_000_000, 300_000)])
def test_of_two_sizes_of_a_topic_the_larger_one_holds(sizes: tuple[int | None, ...]) -> None:
    app = made()
    orders = [Topic("orders", app=app, max_size=size) for size in sizes]
    Topic("orders", app=app, max_size=400_000).on("placed", group="email", name="receipt")(print)
    assert topics(app)["orders"].spec.max_size_bytes == 1_000_000
    assert len(orders) == 3


def test_topics_of_functions_are_not_kept() -> None:
    app = made()
    for number in range(1_000):
        Topic(f"made-in-function-{number}", app=app)
        Topic(f"made-in-function-shared-{number}")
    gc.collect()
    assert topics(app) == {}
    assert [topic for topic in registry._topics.values() if topic.exchange.name.startswith("made-in-function")] == []


def test_apps_of_topics_are_not_kept() -> None:
    app = made()
    app.topics = [Topic("orders", app=app)]
    seen = ref(app)
    _deregister_app(app)
    del app
    gc.collect()
    assert seen() is None
