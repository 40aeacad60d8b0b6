"""Each role does its work with the exported policy; without any one of its actions something fails and names it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue
from support.emulators import Emulator
from support.rights import as_policies

import kombu_hake
from kombu_hake import Topic, admin
from kombu_hake.admin.declared import declared
from kombu_hake.admin.export.rights import GRANTS, Role
from kombu_hake.exceptions import AccessDenied, HakeError

pytestmark = pytest.mark.ministack
ORDERS = Exchange("orders", type="topic")
PLAIN = Queue("plain", Exchange("plain"), routing_key="plain")
#: A message was dead-lettered.
EXPECTED = "HAKE411"
#: ministack creates a topic with tags for anyone who may create one; tests/unit/test_topics.py looks at it.
NOT_ENFORCED = {"sns:TagResource"}
URL_OPTIONS = {"wait_time_seconds": 1, "unroutable": "ignore"}

Work = Callable[["Place"], None]


class Place:
    """An app, and what it does seen by a user with some rights and by one with all."""

    def __init__(self, root: Emulator, user: Emulator) -> None:
        self.root, self.user = root, user
        #: What went wrong: texts of errors, and the log.
        self.troubles: list[str] = []

    def app(self, aws: Emulator | None = None, *, worker_enable_remote_control: bool = False, **options: Any) -> Celery:
        app = Celery("shop", broker=(aws or self.user).url(**URL_OPTIONS, **options), set_as_current=False)
        app.conf.update(task_queues=[PLAIN], worker_enable_remote_control=worker_enable_remote_control)
        Topic("orders", app=app).on("placed", group="email", name="receipt")(print)
        app.finalize()
        return app

    @contextmanager
    def step(self) -> Iterator[None]:
        """What the rest of the work does not need."""
        try:
            yield
        except HakeError as exc:
            self.troubles.append(str(exc))


def declare(app: Celery) -> None:
    with app.connection_for_write() as connection:
        for queue in declared(app).queues:
            app.amqp.queues[queue.name](connection.default_channel).declare()


def produce(place: Place) -> None:
    with place.app().connection_for_write() as connection:
        producer = Producer(connection)
        with place.step():
            producer.publish("to a group", exchange="orders", routing_key="placed")
        with place.step():
            producer.publish("to a queue", routing_key="plain")
        with place.step(), kombu_hake.batch():
            for number in range(2):
                producer.publish(number, exchange="orders", routing_key="placed")


def consume(place: Place) -> None:
    with place.app(place.root).connection_for_write() as everyone:
        producer = Producer(everyone)
        for word in ("acked", "requeued", "rejected", "again"):
            producer.publish(word, exchange="orders", routing_key="placed")
        # As if SNS had delivered what no binding asks for, which only the tags can tell.
        envelope = producer.channel.prepare_message("unbound")
        envelope["properties"]["delivery_info"] = {"exchange": "orders", "routing_key": "unknown"}
        everyone.default_channel.basic_publish(envelope, exchange="", routing_key="email")
    with place.app().connection_for_write() as connection:
        channel = connection.default_channel
        email = place.app().amqp.queues["email"]
        with place.step():
            email(channel).declare()
        with place.step():
            PLAIN(channel).declare()
        with place.step():
            take(connection, email(channel), 4)
        with place.step():
            Producer(connection).publish("retried", routing_key="email")


def take(connection: Connection, queue: Queue, count: int) -> None:
    """Receive messages and settle each as it says; for a few seconds, if some of it fails."""
    seen: list[Message] = []
    with Consumer(connection, [queue], on_message=seen.append, auto_declare=False):
        for _ in range(8):
            with suppress(TimeoutError):
                connection.drain_events(timeout=1)
            while seen:
                message = seen.pop()
                count -= 1
                if message.payload == "requeued" and not message.headers.get("redelivered"):
                    message.requeue()
                elif message.payload == "rejected":
                    message.reject()
                else:
                    message.ack()
            if count <= 0:
                return


def declare_new(place: Place) -> None:
    with place.step(), admin.connect(place.app()) as broker:
        done = broker.apply(sleep=lambda _: None)
        place.troubles += [str(one) for one in (*done.failures, *done.remaining.changes, *done.remaining.unknown)]
    # Another process, as it were: connections with the same options share what they know.
    with place.step(), place.app(read_timeout=16).connection_for_write() as connection:
        channel = connection.default_channel
        # The type is read from the topic, and one more binding widens the filter.
        Queue("email", channel=channel).bind_to("orders", "paid")


def operate(place: Place) -> None:
    with place.app(place.root).connection_for_write() as everyone:
        Producer(everyone).publish("dead", routing_key="email-dead")
        Producer(everyone).publish("waiting", routing_key="plain")  # CloudWatch is asked only of queues with messages
    app = place.app()
    with admin.connect(app) as broker:
        with place.step():
            broker.groups(["email", "plain"])
        with place.step():
            broker.groups()
        with place.step():
            broker.export_terraform()
        with place.step():
            plan = broker.plan()
            place.troubles += [str(one) for one in (*plan.changes, *plan.unknown)]
        with place.step():
            list(broker.dead_letters("email"))
        with place.step():
            place.troubles += broker.requeue("email").failures
        with place.step():
            broker.purge_queue("plain")
        with place.step():
            broker.delete_namespace(place.user.namespace)


def unbind(place: Place) -> None:
    app = place.app()
    with place.step(), app.connection_for_write() as connection:
        email = app.amqp.queues["email"](connection.default_channel)
        email.declare()
        email.unbind_from(ORDERS, routing_key="placed")


def control(place: Place) -> None:
    """A worker that listens, ``celery inspect``, a monitor of events, and a janitor."""
    app = place.app(worker_enable_remote_control=True)
    stop, is_ready = threading.Event(), threading.Event()

    def serve() -> None:
        try:
            with app.connection_for_write() as connection:
                node = app.control.mailbox.Node(
                    "w@h", channel=connection.channel(), handlers={"ping": lambda _: "pong"}
                )
                with node.Consumer(callbacks=[node.handle_message]):
                    is_ready.set()
                    while not stop.is_set():
                        with suppress(TimeoutError):
                            connection.drain_events(timeout=0.1)
        except HakeError as exc:
            place.troubles.append(str(exc))
        finally:
            is_ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert is_ready.wait(30)
        with place.step():
            if app.control.inspect(timeout=1, limit=1).ping() != {"w@h": "pong"}:
                place.troubles.append("no pong")
        with place.step():
            monitor(place, app)
    finally:
        stop.set()
        thread.join(30)
    with place.step(), admin.connect(app) as broker:
        for _ in broker.remove_abandoned(admin.Report(), dry_run=True):
            pass


def monitor(place: Place, app: Celery) -> None:
    name = f"celeryev.{uuid4()}"
    events = Exchange("celeryev", type="topic")
    queue = Queue(name, events, routing_key="task.#", auto_delete=True)
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        bound = queue(channel)
        bound.declare()
        bound.bind_to(events, routing_key="worker.#")
        bound.bind_to(Exchange("celery.pidbox", type="fanout"))
        sqs = place.root.client("sqs")
        for url in sqs.list_queues(QueueNamePrefix=f"{place.root.namespace}__celeryev_").get("QueueUrls", ()):
            sqs.tag_queue(QueueUrl=url, Tags={"hake:user:0123456789ab": "1700000000 600 gone/1"})  # whom it outlived
        seen: list[Message] = []
        with Consumer(connection, [queue], on_message=seen.append, auto_declare=False):
            with app.events.Dispatcher(connection) as dispatcher:
                dispatcher.send("worker-online")
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.1)


class Case(NamedTuple):
    """Some work, and the role that it is the work of."""

    role: Role
    work: Work
    #: Of the grants that it needs.
    kinds: frozenset[str] = frozenset({"queues", "dead_queues", "topics"})
    has_control: bool = False
    #: A role that it needs as well.
    further: Role | None = None
    #: Actions that it does not need, but another case of the role.
    spared: frozenset[str] = frozenset()


CONTROL = frozenset({"temporary_queues", "control_topics", "namespace"})
CASES = {
    "producer": Case("producer", produce),
    "consumer": Case("consumer", consume),
    "declarer": Case("declarer", declare_new),
    "operator": Case("operator", operate, spared=frozenset({"sqs:UntagQueue"})),
    "operator who unbinds": Case("operator", unbind, further="declarer"),
    "remote control of a worker": Case("consumer", control, CONTROL, has_control=True),
    "remote control by an operator": Case("operator", control, CONTROL, has_control=True),
}


def without_one() -> Iterator[Any]:
    """Each action of each case. Most are for CI: they take a minute together."""
    for name, case in CASES.items():
        found = [grant.actions for grant in GRANTS if case.role in grant.roles and case.kinds & set(grant.kinds)]
        is_slow = name not in ("producer", "declarer")
        if name == "operator who unbinds":
            found = [("sqs:UntagQueue",)]
        for action in dict.fromkeys(action for actions in found for action in actions if action not in NOT_ENFORCED):
            if action not in case.spared and name != "remote control by an operator":  # who has a worker's grants
                yield pytest.param(name, action, marks=[pytest.mark.slow] if is_slow else [])


def troubles(root: Emulator, case: Case, without: str, caplog: pytest.LogCaptureFixture) -> str:
    """What goes wrong while the work is done with the exported rights."""
    everyone = Place(root, root)
    if case.role != "declarer":
        declare(everyone.app())
    with admin.connect(everyone.app(worker_enable_remote_control=case.has_control)) as broker:
        documents = broker.export_iam(case.role)
        documents += broker.export_iam(case.further) if case.further is not None else []
    place = Place(root, as_policies(root, documents, without))
    with caplog.at_level(logging.DEBUG if without else logging.WARNING, "kombu_hake"):
        caplog.clear()
        case.work(place)
        logged = [record.getMessage() for record in caplog.records]
    return "\n".join(place.troubles + [line for line in logged if not line.startswith(EXPECTED)])


@pytest.fixture
def root(ministack: Emulator) -> Emulator:
    return ministack.in_namespace(f"iam{uuid4().hex[:8]}")


@pytest.mark.parametrize("name", CASES)
def test_a_role_does_its_work(root: Emulator, name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert troubles(root, CASES[name], "", caplog) == ""


@pytest.mark.parametrize(("name", "action"), list(without_one()))
def test_without_any_action_something_fails_and_names_it(
    root: Emulator, name: str, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = troubles(root, CASES[name], action, caplog)
    assert action in found, found


def test_a_resource_of_another_app_is_not_allowed(root: Emulator) -> None:
    """The ARNs are those of the app: a pattern of the namespace would allow its neighbours too."""
    everyone = Place(root, root)
    declare(everyone.app())
    with everyone.app().connection_for_write() as connection:
        Queue("neighbour")(connection.default_channel).declare()
    with admin.connect(everyone.app()) as broker:
        user = as_policies(root, broker.export_iam("producer"))
    with everyone.app(user).connection_for_write() as connection, pytest.raises(AccessDenied) as caught:
        Producer(connection).publish("x", routing_key="neighbour")
    assert caught.value.action in ("sqs:GetQueueUrl", "sqs:SendMessage")
