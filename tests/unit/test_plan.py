"""``plan`` and ``apply``: from nothing, and after each kind of thing was changed or deleted elsewhere."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import fake_sns
import pytest
from celery import Celery
from click.testing import CliRunner, Result
from fakes import ACCOUNT, REGION, FakeClients, connected
from kombu import Exchange, Queue, binding
from support.faults import FAULTS, FAULTS_WITH_PRIORITIES, Aws, FakeClient, Fault, see_and_mend
from support.shops import SHOPS, declare_all, made_app

from kombu_hake import Topic, admin
from kombu_hake.admin import Admin, Applied, Plan
from kombu_hake.admin.blueprint import blueprint
from kombu_hake.admin.declared import declared
from kombu_hake.amqp import Binding, queue_policy, to_tags
from kombu_hake.cli.main import hake
from kombu_hake.exceptions import ConfigurationError, TopicNotFound

URL = f"hake://localhost:1/ns?region={REGION}"
READS = {
    "get_queue_url", "get_queue_attributes", "list_queue_tags", "list_queues", "list_topics", "get_caller_identity",
    "list_subscriptions_by_topic", "get_topic_attributes", "get_subscription_attributes", "list_tags_for_resource",
}  # fmt: skip


class Shop(NamedTuple):
    broker: Admin
    fake: FakeClients
    aws: Aws


@contextmanager
def opened(fake: FakeClients, app: Celery) -> Iterator[Shop]:
    with connected(fake), admin.connect(app) as broker:
        aws = Aws(FakeClient(fake, "sqs"), FakeClient(fake, "sns"), "ns__", fake.clock.advance)
        yield Shop(broker, fake, aws)


@contextmanager
def shop(name: str, **options: Any) -> Iterator[Shop]:
    with opened(FakeClients(), made_app(URL, name, **options)) as found:
        yield found


def never(seconds: float) -> None:
    pytest.fail(f"waits {seconds} s")


def lines(found: Plan) -> list[str]:
    return [f"{one.action} {one.what} {one.name}: {one.reason}" for one in found.changes]


def apply(broker: Admin, **options: Any) -> Applied:
    done = broker.apply(**{"sleep": never, **options})
    assert not done.failures
    assert done.remaining.changes == ()
    return done


# --- all that is declared


@pytest.mark.parametrize("name", SHOPS)
def test_from_nothing(name: str) -> None:
    with shop(name) as (broker, fake, _):
        found = broker.plan()
        assert {one.action for one in found.changes} == {"create"}
        assert found.unknown == found.undeclared == ()
        assert set(fake.counts()) <= READS
        done = apply(broker)
        assert sorted(map(str, done.changes)) == sorted(map(str, found.changes))
        created = [params["QueueName"] for operation, params in fake.calls if operation == "create_queue"]
        undelivered = [queue for queue in created if queue.endswith(("-undelivered", "-undelivered.fifo"))]
        assert len(set(undelivered)) == len(undelivered)
        fake.calls.clear()
        assert broker.plan() == Plan()
        assert apply(broker).changes == ()
        assert set(fake.counts()) <= READS


@pytest.mark.parametrize("name", SHOPS)
def test_nothing_differs_after_workers_declared_it(name: str) -> None:
    fake, app = FakeClients(), made_app(URL, name)
    with connected(fake):
        declare_all(app)
    with opened(fake, app) as (broker, _, _):
        assert broker.plan() == Plan()


@pytest.mark.parametrize("name", SHOPS)
def test_worker_that_starts_after_apply_writes_nothing(name: str) -> None:
    fake, app = FakeClients(), made_app(URL, name)
    with opened(fake, app) as (broker, _, _):
        apply(broker)
    fake.calls.clear()
    with connected(fake):
        declare_all(app)
    # Subscribe finds what is there, as the worker's rights are made for.
    assert set(fake.counts()) <= READS | {"subscribe"}


def test_blueprint_has_topics_of_bindings_and_of_what_is_published_to() -> None:
    app = made_app(URL, "plain")
    app.conf.task_routes = {"news": {"exchange": "news"}}
    with opened(FakeClients(), app) as (broker, _, _):
        found = blueprint(declared(app), broker._clients.settings, broker._topology.home)
    assert {topic.exchange: topic.is_bound for topic in found.topics} == {
        "media": True, "all": True, "regions": True, "news": False
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["auto", "verify", "assume"])
def test_topic_without_handlers_is_made(mode: str) -> None:
    with opened(FakeClients(), publisher(topology=mode)) as (broker, fake, _):
        expected = ["create topic ns__orders: The app publishes to exchange orders, which has no topic."]
        assert [line for line in lines(broker.plan()) if "topic" in line] == expected
        done = apply(broker)
        assert [change.name for change in done.changes if change.what == "topic"] == ["ns__orders"]
        topic = fake.topics.by_name["ns__orders"]
        assert topic.attributes["MaximumMessageSize"] == "1048576"
        assert topic.tags["hake:exchange-type"] == "topic"
        assert broker.plan() == Plan()


def test_topic_without_handlers_is_raised_and_otherwise_left_to_its_subscribers() -> None:
    fake = FakeClients()
    consumer = made_app(URL, "groups", queue_tags={"team": "consumers"})
    with opened(fake, consumer) as (broker, _, _):
        apply(broker)
    with opened(fake, publisher(queue_tags={"team": "producers"})) as (broker, _, _):
        assert [line for line in lines(broker.plan()) if "orders" in line] == [
            "change attribute ns__orders: MaximumMessageSize is 262144, but should be at least 1048576."
        ]
        apply(broker)
        assert fake.topics.by_name["ns__orders"].tags["team"] == "consumers"
        assert "ns__orders" not in {one.name for one in broker.plan().undeclared}


def test_topic_without_handlers_that_may_not_be_made_is_a_failure() -> None:
    with opened(FakeClients(), publisher()) as (broker, fake, _):
        fake.deny("sns:CreateTopic")
        done = broker.apply(sleep=never)
        assert any("topic ns__orders" in failure for failure in done.failures)
        assert [change.name for change in done.remaining.changes] == ["ns__orders"]


def test_topic_of_others_without_handlers_is_left_to_them() -> None:
    options = {"predefined_exchanges": {"orders": f"arn:aws:sns:{REGION}:999999999999:theirs"}}
    with opened(FakeClients(), publisher(**options)) as (broker, fake, _):
        apply(broker)
        assert broker.plan() == Plan()
        assert not fake.topics.by_name


def test_exchange_of_a_route_is_made_if_it_needs_a_topic() -> None:
    app = Celery("shop", broker=URL, set_as_current=False)
    app.conf.task_routes = {
        name: {"exchange": name, "exchange_type": name, "routing_key": "x"} for name in ("direct", "fanout", "topic")
    } | {"unknown": {"exchange": "unknown"}}
    with opened(FakeClients(), app) as (broker, fake, _):
        apply(broker)
        assert set(fake.topics.by_name) == {"ns__fanout", "ns__topic"}


def publisher(**options: Any) -> Celery:
    """Publishes to a topic, and has no handler."""
    app = Celery("publisher", broker=URL, set_as_current=False)
    app.conf.broker_transport_options = options
    app.conf.topics = [Topic("orders", app=app, max_size=1_048_576)]  # as the name in a module keeps it
    return app


def test_several_that_apply_and_workers_that_start_at_once() -> None:
    fake = FakeClients()
    with connected(fake):

        def work(number: int) -> None:
            app = made_app(URL, "groups")
            if number % 2:
                declare_all(app)
                return
            with admin.connect(app) as broker:
                broker.apply(sleep=lambda seconds: None)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
    with opened(fake, made_app(URL, "groups")) as (broker, _, _):
        assert broker.plan() == Plan()


# --- faults

FIFO_FAULTS = {
    "queue deleted": Fault(
        lambda aws: aws.delete(aws.url("jobs.fifo")), ["create queue __jobs.fifo:"], recreates="__jobs.fifo"
    ),
    "dead-letter queue deleted": Fault(
        lambda aws: aws.delete(aws.url("jobs-dead.fifo")), ["create queue __jobs-dead.fifo:"],
        recreates="__jobs-dead.fifo",
    ),
    "deduplication altered": Fault(
        lambda aws: aws.set(aws.url("jobs.fifo"), ContentBasedDeduplication="false"),
        ["change attribute __jobs.fifo: ContentBasedDeduplication is false, but is declared as true."],
    ),
    "subscription deleted": Fault(
        lambda aws: aws.sns.unsubscribe(SubscriptionArn=aws.subscription("work.fifo", "jobs.fifo")),
        ["create subscription __work.fifo -> __jobs.fifo:"],
    ),
}  # fmt: skip


def check(found: Shop, fault: Fault) -> None:
    broker, _, aws = found
    apply(broker)
    see_and_mend(aws, fault, lambda: lines(broker.plan()), lambda: lines(Plan(apply(broker).changes)))
    assert broker.plan() == Plan()


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_one_line_and_mended(name: str) -> None:
    with shop("attributes and tags") as found:
        check(found, FAULTS[name])


@pytest.mark.parametrize("name", FIFO_FAULTS)
def test_fault_of_fifo_is_one_line_and_mended(name: str) -> None:
    with shop("fifo") as found:
        check(found, FIFO_FAULTS[name])


@pytest.mark.parametrize("name", FAULTS_WITH_PRIORITIES)
def test_fault_of_priorities_is_one_line_and_mended(name: str) -> None:
    with shop("priorities") as found:
        check(found, FAULTS_WITH_PRIORITIES[name])


def test_sizes_are_raised_and_never_lowered() -> None:
    with shop("large messages") as (broker, fake, aws):
        apply(broker)
        topic = aws.topic("orders")
        size = "MaximumMessageSize"
        assert fake.topics.by_name["ns__orders"].attributes[size] == "1048576"
        aws.sns.set_topic_attributes(TopicArn=topic, AttributeName=size, AttributeValue="300000")
        aws.set(aws.url("email"), MaximumMessageSize="262144")
        assert lines(broker.plan()) == [
            "change attribute ns__email: MaximumMessageSize is 262144, but the queue is bound to an exchange with "
            "messages of up to 1048576 bytes.",
            "change attribute ns__orders: MaximumMessageSize is 300000, but should be at least 1048576.",
        ]
        apply(broker)
        assert broker.plan() == Plan()
        assert fake.topics.by_name["ns__orders"].attributes[size] == "1048576"
        fake.deny("sns:GetTopicAttributes")
        assert "Cannot tell the size of exchange orders" in broker.plan().unknown[0]
    with shop("groups") as (broker, fake, aws):
        apply(broker)
        aws.sns.set_topic_attributes(TopicArn=aws.topic("orders"), AttributeName=size, AttributeValue="300000")
        aws.set(aws.url("email"), MaximumMessageSize="262144")
        assert broker.plan() == Plan()


def test_a_dead_letter_queue_takes_what_its_queue_takes() -> None:
    with shop("groups") as (broker, fake, aws):
        apply(broker)
        aws.set(aws.url("email-dead"), MaximumMessageSize="262144")
        [line] = lines(broker.plan())
        assert line.startswith(
            "change attribute ns__email-dead: MaximumMessageSize is 262144, but its dead letters may "
        )
        apply(broker)
        assert fake.queues.queue("ns__email-dead").attributes["MaximumMessageSize"] == "1048576"
        for name in ("email", "email-dead"):
            aws.set(aws.url(name), MaximumMessageSize="262144")
        assert broker.plan() == Plan()


# --- quotas


def fill(aws: Aws, topic: str, count: int, start: int = 0) -> None:
    """Subscribe foreign queues to a topic, each with a filter."""
    for number in range(start, start + count):
        aws.sns.subscribe(
            TopicArn=aws.topic(topic), Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:theirs-{number}",
            Attributes={"FilterPolicy": '{"a": ["b"]}'},
        )  # fmt: skip


def filter_of(aws: Aws, topic: str, queue: str) -> str:
    shown = aws.sns.get_subscription_attributes(SubscriptionArn=aws.subscription(topic, queue))["Attributes"]
    return str(shown.get("FilterPolicy", "{}"))


def test_filter_that_a_topic_has_no_room_for_is_no_change_to_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    with shop("groups") as (broker, fake, aws):
        app = broker.app
        apply(broker)
        aws.sns.unsubscribe(SubscriptionArn=aws.subscription("orders", "email"))
        fill(aws, "orders", 199)
        found = broker.plan()
        assert [(one.action, one.what, one.name) for one in found.changes] == [
            ("create", "subscription", "ns__orders -> ns__email")
        ]
        assert "Filter" not in found.changes[0].reason
        [limited] = found.over_quota
        assert (limited.what, limited.name) == ("subscription", "ns__orders -> ns__email")
        done = apply(broker)
        assert done.changes == found.changes
        assert done.remaining == broker.plan() == Plan(over_quota=(limited,))
        assert filter_of(aws, "orders", "email") == "{}"
        result = run(fake, app, "plan")
        assert result.exit_code == 0
        assert result.output.splitlines() == [
            f"  over quota: subscription ns__orders -> ns__email: {limited.reason}",
            "Nothing to apply: AWS has all that the app declares, as far as its quotas allow.",
        ]
        assert run(fake, app, "apply").output == result.output
        assert json.loads(run(fake, app, "plan", "--json").output)["over_quota"] == [limited.as_dict()]
        before = aws.inventory()
        assert apply(broker).changes == ()
        assert aws.inventory() == before
    monkeypatch.setattr(fake_sns, "MOST_FILTERS", 300)
    other_process = made_app(URL, "groups", connect_timeout=9)
    with opened(fake, other_process) as (broker, _, aws):
        raised = apply(broker)
        assert raised.changes == (limited,)
        assert raised.remaining == broker.plan() == Plan()
        assert "placed" in filter_of(aws, "orders", "email")


def test_a_filter_over_quota_is_tried_beside_other_changes_of_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    with shop("groups") as (broker, fake, aws):
        apply(broker)
        aws.subscribe("FilterPolicy", "{}", queue="email")
        fill(aws, "orders", 199)
        aws.sqs.set_queue_attributes(QueueUrl=aws.url("email"), Attributes={"MessageRetentionPeriod": "3600"})
        found = broker.plan()
        assert (len(found.changes), len(found.over_quota)) == (1, 1)
    monkeypatch.setattr(fake_sns, "MOST_FILTERS", 300)
    with opened(fake, made_app(URL, "groups", connect_timeout=9)) as (broker, _, aws):
        assert apply(broker).remaining == broker.plan() == Plan()
        assert "placed" in filter_of(aws, "orders", "email")


def test_last_room_for_a_filter_is_planned_once() -> None:
    with shop("groups") as (broker, _, aws):
        apply(broker)
        for queue in ("email", "stock"):
            aws.subscribe("FilterPolicy", "{}", queue=queue)
        fill(aws, "orders", 199)
        found = broker.plan()
        assert (len(found.changes), len(found.over_quota)) == (1, 1)
        assert apply(broker).remaining == Plan(over_quota=found.over_quota)
        aws.subscribe("FilterPolicy", '{"rk": ["other"]}', queue=found.changes[0].name.rpartition("__")[2])
        assert len(broker.plan().changes) == 1  # one filter replaces another
        assert apply(broker).remaining == Plan(over_quota=found.over_quota)


@pytest.mark.parametrize("used", [197, 198, 200])
def test_levels_that_a_topic_has_no_room_for_are_left_out(used: int) -> None:
    with shop("priorities") as (broker, _, aws):
        apply(broker)
        for level in ("jobs", *(f"level {number}" for number in (1, 2, 3))):
            url = aws.url(level) if level == "jobs" else aws.level("jobs", int(level[-1]))
            aws.sns.unsubscribe(SubscriptionArn=aws.subscription("work", url.rpartition("__")[2]))
        fill(aws, "work", used)
        found = broker.plan()
        assert [one.name for one in found.over_quota] == ["ns__work -> ns__jobs"]
        assert [one.name for one in found.changes if one.action == "create"] == ["ns__work -> ns__jobs"]
        done = broker.apply(sleep=never)
        assert (done.failures, done.remaining) == ((), Plan(over_quota=found.over_quota))
        assert broker.plan() == Plan(over_quota=found.over_quota)


def test_subscription_that_sns_lists_after_its_deletion_is_missing() -> None:
    with shop("groups") as (broker, fake, _):
        apply(broker)
        fake.fail("get_subscription_attributes", TopicNotFound("Subscription does not exist"))
        found = broker.plan()
        assert found.unknown == ()
        assert [(one.action, one.what) for one in found.changes] == [("create", "subscription")]


# --- what is no longer declared


def hired(name: str, *queues: Queue, **options: Any) -> Celery:
    """An app with these queues."""
    app = Celery(name, broker=URL, set_as_current=False)
    app.conf.broker_transport_options = options
    app.conf.task_queues = list(queues)
    app.finalize()
    return app


VIDEO = Exchange("media", "topic")
KEPT = {"x-dead-letter-queue": True}


def before_and_after(fake: FakeClients) -> Celery:
    """Two queues, a level, dead letters and bindings are made; the app that is returned declares less."""
    both = [
        Queue("clips", VIDEO, routing_key="clip.#", queue_arguments=KEPT),
        Queue("films", Exchange("films", "topic"), routing_key="#", queue_arguments=KEPT, max_priority=1),
    ]
    with opened(fake, hired("before", *both)) as (broker, _, aws):
        apply(broker)
        bound = Queue("clips", VIDEO, routing_key="trailer.#")
        with broker.app.connection_for_write() as connection:
            bound(connection.default_channel).declare()
        theirs = aws.sqs.create_queue(QueueName="ns__theirs")["QueueUrl"]
        aws.sqs.tag_queue(QueueUrl=theirs, Tags={"hake:made-by": "kombu_hake 1.0", "hake:namespace": "other"})
        aws.sqs.create_queue(QueueName="ns__untagged")
        aws.sqs.create_queue(QueueName="other__queue")
        aws.sns.create_topic(Name="ns__untagged")
        aws.sqs.send_message(QueueUrl=aws.url("films-dead"), MessageBody="x")
    return hired("after", Queue("clips", VIDEO, routing_key="clip.#", queue_arguments={"x-dead-letter-queue": False}))


UNDECLARED = {
    ("binding", "ns__clips"),
    ("queue", "ns__clips-dead"),
    ("queue", "ns__clips-undelivered"),
    ("queue", "ns__films"),
    ("queue", "ns__films-dead"),
    ("queue", "ns__films-undelivered"),
    ("topic", "ns__films"),
}


def names(found: Any) -> set[tuple[str, str]]:
    """With levels, which have a hash in their names, left out."""
    return {(one.what, one.name) for one in found if "priority-1" not in one.name}


def test_what_is_no_longer_declared_is_listed_and_stays() -> None:
    fake = FakeClients()
    app = before_and_after(fake)
    with opened(fake, app) as (broker, _, aws):
        before = aws.inventory()
        found = broker.plan()
        assert found.changes == ()
        assert names(found.undeclared) == UNDECLARED
        assert len(found.undeclared) == len(UNDECLARED) + 1
        assert {one.name: one.messages for one in found.undeclared if one.messages} == {"ns__films-dead": 1}
        done = apply(broker)
        assert (done.changes, done.removed) == ((), ())
        assert aws.inventory() == before


@pytest.mark.parametrize("is_ours", [False, True])
def test_subscriptions_to_a_topic_of_others_are_theirs(is_ours: bool) -> None:
    """Also where the app publishes to it."""
    fake = FakeClients()
    app = made_app(URL, "groups")
    outside = Topic("outside", app=app)
    with opened(fake, app) as (broker, _, aws):
        apply(broker)
        aws.sns.delete_topic(TopicArn=aws.topic(outside.name))
        tags = {"hake:made-by": "kombu_hake 1.0", "hake:namespace": "ns"} if is_ours else {"team": "others"}
        aws.sns.create_topic(Name="ns__outside", Tags=[{"Key": key, "Value": tags[key]} for key in tags])
        aws.sns.subscribe(TopicArn=aws.topic("outside"), Protocol="sqs", Endpoint=aws.arn(aws.url("email")))
        listed = [(one.what, one.name) for one in broker.plan().undeclared]
        assert listed == ([("subscription", "ns__outside -> ns__email")] if is_ours else [])


def test_prune_removes_what_it_was_told_to_and_nothing_else() -> None:
    fake = FakeClients()
    app = before_and_after(fake)
    with opened(fake, app) as (broker, _, aws):
        done = apply(broker, prune=lambda found: found)
        assert names(done.removed) == UNDECLARED
        assert broker.plan() == Plan()
        left = aws.inventory()
        assert sorted(left["queues"]) == ["ns__clips", "ns__theirs", "ns__untagged"]
        assert sorted(left["topics"]) == ["ns__media", "ns__untagged"]
        assert list(left["subscriptions"]) == [("ns__media", "ns__clips")]
        assert "RedrivePolicy" not in left["queues"]["ns__clips"]["attributes"]
        shown = left["subscriptions"]["ns__media", "ns__clips"]
        assert "trailer" not in json.dumps(shown["FilterPolicy"])


def test_prune_of_some() -> None:
    fake = FakeClients()
    app = before_and_after(fake)
    with opened(fake, app) as (broker, _, aws):
        apply(broker, prune=lambda found: [one for one in found if (one.what, one.name) == ("queue", "ns__films")])
        left = aws.inventory()
        assert "ns__films" not in left["queues"]
        assert ("ns__films", "ns__films") not in left["subscriptions"]
        assert "ns__films-dead" in left["queues"]


def test_what_came_into_use_while_the_question_was_open_is_kept() -> None:
    fake = FakeClients()
    app = before_and_after(fake)
    with opened(fake, app) as (broker, _, aws):

        def approved(found: list[Any]) -> list[Any]:
            aws.sqs.send_message(QueueUrl=aws.url("films"), MessageBody="x")
            aws.sqs.tag_queue(QueueUrl=aws.url("clips-dead"), Tags={"hake:namespace": "theirs"})
            aws.sns.subscribe(TopicArn=aws.topic("films"), Protocol="sqs", Endpoint=aws.arn(aws.url("clips")))
            return found

        done = broker.apply(prune=approved, sleep=never)
        assert done.failures == ("queue ns__films is kept: it received messages after it was listed (0 then, 1 now).",)
        kept = {("queue", "ns__films"), ("queue", "ns__clips-dead"), ("topic", "ns__films")}
        assert names(done.removed) == UNDECLARED - kept
        assert {"ns__films", "ns__clips-dead"} <= set(aws.inventory()["queues"])


def test_prune_keeps_a_redrive_policy_to_a_queue_with_a_longer_name() -> None:
    fake = FakeClients()
    app = hired("after", Queue("mails", queue_arguments={"x-dead-letter-queue": "old-dead"}))
    with opened(fake, hired("before", Queue("old"))) as (broker, _, _):
        apply(broker)
    with opened(fake, app) as (broker, _, _):
        apply(broker)
        fake.calls.clear()
        assert names(apply(broker, prune=lambda found: found).removed) == {("queue", "ns__old")}
        assert "set_queue_attributes" not in fake.counts()


def test_topic_that_only_an_undeclared_binding_uses_goes_with_it() -> None:
    fake = FakeClients()
    bound = [binding(VIDEO, "clip.#"), binding(Exchange("news", "fanout"))]
    with opened(fake, hired("before", Queue("clips", bindings=bound, max_priority=1))) as (broker, _, _):
        apply(broker)
    with opened(fake, hired("after", Queue("clips", VIDEO, routing_key="clip.#"))) as (broker, _, aws):
        assert names(broker.plan().undeclared) == {("binding", "ns__clips"), ("topic", "ns__news")}
        apply(broker, prune=lambda found: found)
        assert broker.plan() == Plan()
        assert list(aws.inventory()["topics"]) == ["ns__media"]


def test_levels_of_a_higher_priority_stay_in_use() -> None:
    fake = FakeClients()
    with opened(fake, hired("before", Queue("jobs", VIDEO, routing_key="#", max_priority=3))) as (broker, _, _):
        apply(broker)
    with opened(fake, hired("after", Queue("jobs", VIDEO, routing_key="#", max_priority=1))) as (broker, _, aws):
        assert broker.plan() == Plan()
        aws.delete(aws.level("jobs", 3))
        assert [one.what for one in broker.plan().changes] == ["queue"]
        apply(broker)
        assert broker.plan() == Plan()


def test_version_that_made_a_queue_does_not_matter() -> None:
    with shop("groups") as (broker, fake, _):
        apply(broker)
        fake.queues.queue("ns__email").tags["hake:made-by"] = "kombu_hake 0.1"
        assert broker.plan() == Plan()
        fake.queues.queue("ns__email").tags["hake:made-by"] = "me"
        assert len(broker.plan().changes) == 1


def test_statement_by_option_is_declared() -> None:
    with shop("policy by option") as (broker, _, aws):
        apply(broker)
        aws.set(aws.url("both"), Policy="")
        assert lines(broker.plan()) == [
            "change policy ns__both: The policy does not allow the topics of all, media.",
            "change attribute ns__both: Policy is missing.",
        ]
        apply(broker)
        assert broker.plan() == Plan()
        attributes = aws.inventory()["queues"]["ns__both"]["attributes"]
        assert [one["Sid"] for one in attributes["Policy"]["Statement"]] == ["own", "HakeTopics"]


def test_topic_that_others_use_is_not_listed() -> None:
    fake = FakeClients()
    with opened(fake, hired("before", Queue("clips", VIDEO, routing_key="clip.#"))) as (broker, _, aws):
        apply(broker)
        theirs = aws.sqs.create_queue(QueueName="theirs")["QueueUrl"]
        aws.sns.subscribe(TopicArn=aws.topic("media"), Protocol="sqs", Endpoint=aws.arn(theirs))
    with opened(fake, hired("after", Queue("other"))) as (broker, _, _):
        assert names(broker.plan().undeclared) == {("queue", "ns__clips")}


def test_temporary_queues_and_those_in_use_otherwise_are_not_listed() -> None:
    fake = FakeClients()
    app = hired("now", Queue("clips"), Queue("going", expires=3600), Queue("elsewhere", no_declare=True))
    with opened(fake, app) as (broker, _, _):
        with app.connection_for_write() as connection:
            channel = connection.default_channel
            for queue in (Queue("elsewhere"), Queue("going", expires=3600), Queue("mine", exclusive=True)):
                queue(channel).declare()
        apply(broker)
        assert broker.plan() == Plan()


def test_without_a_namespace_queues_of_namespaces_are_not_listed() -> None:
    fake = FakeClients()
    with opened(fake, made_app(URL, "plain")) as (broker, _, _):
        apply(broker)
    with opened(fake, made_app(f"hake://localhost:1/?region={REGION}", "groups")) as (broker, _, _):
        assert broker.plan().undeclared == ()
        apply(broker)
        assert broker.plan() == Plan()


# --- what is created elsewhere


PREDEFINED = f"arn:aws:sqs:{REGION}:{ACCOUNT}:given"
GIVEN_TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:given"


def test_predefined_queue_is_bound_and_otherwise_left_alone() -> None:
    app = hired(
        "shop", Queue("given", VIDEO, routing_key="clip.#", queue_arguments=KEPT),
        predefined_queues={"given": {"url": PREDEFINED}}, queue_attributes={"DelaySeconds": "7"},
    )  # fmt: skip
    fake = FakeClients()
    with opened(fake, app) as (broker, _, aws):
        found = broker.plan()
        assert [one.what for one in found.changes] == ["topic"]
        assert "does not exist: create it" in found.unknown[0]
        url = aws.sqs.create_queue(QueueName="given")["QueueUrl"]
        before = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        shown = lines(broker.plan())
        assert [line.partition(":")[0] for line in shown] == [
            "create topic ns__media", "create subscription ns__media -> given", "change policy given",
            "change binding given",
        ]  # fmt: skip
        apply(broker)
        assert broker.plan() == Plan()
        after = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert {key: value for key, value in after.items() if "Timestamp" not in key and key != "Policy"} == {
            key: value for key, value in before.items() if "Timestamp" not in key
        }
        tags = aws.sqs.list_queue_tags(QueueUrl=url)["Tags"]
        assert all(key.startswith("hake:b:") for key in tags)


def test_nothing_is_made_between_a_predefined_queue_and_a_predefined_topic() -> None:
    app = hired(
        "shop", Queue("given", VIDEO, routing_key="clip.#"),
        predefined_queues={"given": {"url": PREDEFINED}}, predefined_exchanges={"media": {"arn": GIVEN_TOPIC}},
    )  # fmt: skip
    with opened(FakeClients(), app) as (broker, fake, aws):
        url = aws.sqs.create_queue(QueueName="given")["QueueUrl"]
        ours = queue_policy(None, aws.arn(url), [GIVEN_TOPIC]) or ""
        aws.set(url, Policy=ours)
        assert [text.partition("(")[0] for text in broker.plan().unknown] == [
            "The predefined topic of exchange 'media' "
        ]
        aws.sns.create_topic(Name="given")
        fake.calls.clear()
        assert broker.plan() == Plan()
        assert apply(broker).changes == ()
        assert set(fake.counts()) <= READS
        assert fake.queues.queue("given").attributes["Policy"] == ours


def test_predefined_topic_that_is_missing_is_a_failure_at_once() -> None:
    queue = Queue("clips", VIDEO, routing_key="clip.#")
    app = hired("shop", queue, predefined_exchanges={"media": {"arn": GIVEN_TOPIC}})
    with opened(FakeClients(), app) as (broker, _, aws):
        assert [one.what for one in broker.plan().changes] == ["queue"]
        done = broker.apply(sleep=never)
        assert "does not exist" in done.failures[0]
        assert [(one.what, one.name) for one in done.changes] == [("queue", "ns__clips")]
        assert done.remaining.changes == ()
        assert len(done.remaining.unknown) == 1
        aws.sns.create_topic(Name="given")
        apply(broker)
        assert broker.plan() == Plan()


def test_queue_of_another_account_is_left_to_its_owner() -> None:
    foreign = f"arn:aws:sqs:{REGION}:999999999999:theirs"
    app = hired("shop", Queue("theirs", VIDEO, routing_key="#"), predefined_queues={"theirs": {"url": foreign}})
    with opened(FakeClients(), app) as (broker, fake, _):
        found = broker.plan()
        assert found.changes == ()
        assert set(fake.counts()) <= READS


@pytest.mark.parametrize("mode", ["verify", "assume"])
def test_apply_makes_what_workers_may_not_make(mode: str) -> None:
    with shop("groups", topology=mode) as (broker, _, _):
        apply(broker)
        assert broker.plan() == Plan()
        with broker.app.connection_for_write() as connection:
            channel = connection.default_channel
            for name in ("email", "stock", "log"):
                broker.app.amqp.queues[name](channel).declare()
            channel.topology.verify()


# --- rights and limits


def test_what_may_not_be_read_is_said_and_not_guessed() -> None:
    with shop("groups") as (broker, fake, _):
        apply(broker)
        fake.deny("sqs:ListQueueTags", "sns:ListSubscriptionsByTopic", "sns:ListTagsForResource", "sqs:ListQueues")
        found = broker.plan()
        assert found.changes == ()
        text = "\n".join(found.unknown)
        assert "Cannot tell the tags of queue ns__email, and so its bindings, policy and filters: AWS denies" in text
        assert "Cannot tell the subscriptions of exchange orders: AWS denies sns:ListSubscriptionsByTopic" in text
        assert "Cannot tell the tags of exchange orders: AWS denies sns:ListTagsForResource" in text
        assert "Cannot look for queues that are no longer declared: AWS denies sqs:ListQueues" in found.notes[0]


@pytest.mark.parametrize(
    "action", ["sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sns:GetSubscriptionAttributes", "sns:ListTopics"]
)
def test_one_missing_right_to_read_changes_nothing(action: str) -> None:
    with shop("groups") as (broker, fake, _):
        apply(broker)
        fake.deny(action)
        found = broker.plan()
        assert found.changes == ()
        assert action in "\n".join(found.unknown + found.notes)


@pytest.mark.parametrize(
    "action", ["sqs:CreateQueue", "sqs:TagQueue", "sqs:SetQueueAttributes", "sns:Subscribe", "sns:CreateTopic"]
)
def test_what_may_not_be_made_is_a_failure_and_the_rest_is_made(action: str) -> None:
    with shop("groups") as (broker, fake, _):
        fake.deny(action)
        done = broker.apply(sleep=never)
        assert done.remaining.changes
        assert action in "\n".join(done.failures) or action == "sqs:TagQueue"
        fake.allow(action)
        apply(broker)
        assert broker.plan() == Plan()


@pytest.mark.parametrize("name", ["groups", "priorities", "fifo"])
def test_topic_of_queues_that_may_not_be_looked_for_is_not_reported_as_made(name: str) -> None:
    with shop(name) as (broker, fake, _):
        fake.deny("sqs:GetQueueUrl")
        done = broker.apply(sleep=never)
        assert done.changes == ()
        assert {one.what for one in done.remaining.changes} == {"topic"}
        assert done.remaining.unknown
        fake.allow("sqs:GetQueueUrl")
        assert {one.what for one in apply(broker).changes} >= {"topic", "queue", "subscription"}


@pytest.mark.parametrize(
    ("fault", "action"),
    [
        ("redrive policy of a subscription removed", "sns:SetSubscriptionAttributes"),
        ("redrive policy of a subscription altered", "sns:SetSubscriptionAttributes"),
        ("policy of the undelivered queue removed", "sqs:SetQueueAttributes"),
    ],
)
def test_what_workers_do_without_is_a_failure_of_apply_and_not_reported_as_made(fault: str, action: str) -> None:
    with shop("attributes and tags") as (broker, fake, aws):
        apply(broker)
        FAULTS[fault].make(aws)
        aws.sns.unsubscribe(SubscriptionArn=aws.subscription("orders", "stock"))
        found = broker.plan()
        fake.deny(action)
        done = broker.apply(sleep=never)
        [failure] = done.failures
        assert failure.startswith("queue email: ")
        assert action in failure
        assert {*done.changes, *done.remaining.changes} == set(found.changes)
        assert [one.name for one in done.changes] == ["ns__orders -> ns__stock"]
        fake.allow(action)
        assert apply(broker).changes == done.remaining.changes


def test_unknown_account_is_an_error_that_names_the_option() -> None:
    with shop("groups") as (broker, fake, _):
        fake.deny("sts:GetCallerIdentity")
        fake.fail("get_caller_identity", *[ConfigurationError("no STS")] * 5)
        with pytest.raises(ConfigurationError, match="account_id"):
            broker.plan()


def test_unreadable_policy_is_said_and_left_alone() -> None:
    with shop("groups") as (broker, _, aws):
        apply(broker)
        aws.set(aws.url("email"), Policy='{"Statement": 7}')
        found = broker.plan()
        assert "ns__email" in str(found.unknown) or "email" in str(found.unknown)
        assert [one for one in found.changes if one.what == "policy"] == []


def test_tags_and_policies_that_others_wrote_stop_nothing() -> None:
    fake = FakeClients()
    app = hired("shop", Queue("clips", VIDEO, routing_key="#"), name_style="kombu")
    with opened(fake, app) as (broker, _, aws):
        apply(broker)
        url = aws.url("clips")
        tags = {"hake:b:x": "?", "hake:max-priority": "99999999999", "hake:level-of": "\x00", "hake:user:x": "1 1"}
        impossible = to_tags(Binding("\N{SNOWMAN}" * 200, "topic", "#"))
        aws.sqs.tag_queue(QueueUrl=url, Tags=tags | impossible)
        theirs = aws.sqs.create_queue(QueueName="ns__theirs")["QueueUrl"]
        ours = {"hake:made-by": "kombu_hake 1", "hake:namespace": "ns"}
        aws.sqs.tag_queue(QueueUrl=theirs, Tags=tags | impossible | ours)
        aws.set(theirs, Policy=queue_policy(None, aws.arn(theirs), ["arn:aws:sns:eu-west-3:1:other"]) or "")
        found = broker.plan()
        assert "Cannot tell what differs for queue clips" in found.unknown[0]
        assert "Cannot tell whether queue ns__theirs is declared" in found.notes[0]
        aws.sqs.untag_queue(QueueUrl=url, TagKeys=list(impossible))
        aws.sqs.untag_queue(QueueUrl=theirs, TagKeys=list(impossible))
        found = broker.plan()
        assert found.unknown == found.notes == ()
        assert names(apply(broker, prune=lambda found: found).removed) == {("queue", "ns__theirs")}


def test_shorter_retention_is_marked_as_destructive() -> None:
    with shop("groups") as (broker, _, aws):
        apply(broker)
        aws.set(aws.url("email"), VisibilityTimeout="40")
        assert [one.is_destructive for one in broker.plan().changes] == [False]
    with shop("attributes and tags") as (broker, _, aws):
        apply(broker)
        aws.set(aws.url("email"), MessageRetentionPeriod="99999")
        assert [one.is_destructive for one in broker.plan().changes] == [True]


# --- commands


def run(fake: FakeClients, app: Celery, *arguments: str, stdin: str = "") -> Result:
    class Context:
        pass

    context = Context()
    context.app = app  # type: ignore[attr-defined]
    with connected(fake):
        return CliRunner().invoke(hake, arguments, obj=context, input=stdin, catch_exceptions=False)


def test_commands_and_their_exit_codes() -> None:
    fake, app = FakeClients(), made_app(URL, "groups")
    done = run(fake, app, "plan")
    assert done.exit_code == 2
    assert "+ queue ns__email: It is declared but does not exist." in done.output.splitlines()
    assert done.output.splitlines()[-1] == "13 changes to apply."
    done = run(fake, app, "plan", "--json")
    assert done.exit_code == 2
    assert json.loads(done.output)["changes"][0]["action"] == "create"
    done = run(fake, app, "apply")
    assert done.exit_code == 0
    assert "create queue ns__email: It is declared but does not exist." in done.output.splitlines()
    assert done.output.splitlines()[-1] == "13 changes made, nothing deleted."
    for command in ("plan", "apply"):
        done = run(fake, app, command)
        assert (done.exit_code, done.output) == (0, "Nothing to apply: AWS has all that the app declares.\n")
    for arguments in (
        ("export",), ("export", "nothing"), ("plan", "x"), ("queues", "--max-dead", "x"), ("check", "--wait", "9s"),
        ("apply", "--yes"), ("apply", "--yes", "--prune"),
    ):  # fmt: skip
        done = run(fake, app, *arguments)
        assert done.exit_code == 1
        assert done.output.startswith("Usage: hake")
        assert done.output.count("Usage:") == 1
    fake.deny("sqs:ListQueueTags")
    done = run(fake, app, "plan")
    assert done.exit_code == 1
    assert "? Cannot tell the tags of queue ns__email, and so its bindings" in done.output


def test_prune_asks_and_names_the_messages() -> None:
    fake = FakeClients()
    app = before_and_after(fake)
    assert run(fake, app, "plan").exit_code == 0
    done = run(fake, app, "plan", "--prune")
    assert done.exit_code == 2
    wanted = "  not declared: queue ns__films-dead: It belongs to queue ns__films. It holds 1 message."
    assert wanted in done.output.splitlines()
    assert run(fake, app, "apply", "--prune", "--yes").exit_code == 1  # wrong arguments
    done = run(fake, app, "apply", "--prune", stdin="n\n")
    assert done.exit_code == 0
    assert "ns__films" in fake.queues.by_name
    assert "queue ns__films-dead: It belongs to queue ns__films. It holds 1 message." in done.output
    done = run(fake, app, "apply", "--prune", "ns__films*", "--yes")
    assert done.exit_code == 0
    assert not [name for name in fake.queues.by_name if name.startswith("ns__films")]
    assert "ns__clips-dead" in fake.queues.by_name
    assert run(fake, app, "apply", "--prune", stdin="y\n").exit_code == 0
    assert run(fake, app, "plan", "--prune").exit_code == 0


def test_nothing_of_what_aws_shows_reaches_the_terminal_raw() -> None:
    fake, app = FakeClients(), made_app(URL, "groups")
    run(fake, app, "apply")
    fake.queues.queue("ns__email").tags["hake:namespace"] = "\x1b[31mred"
    output = run(fake, app, "plan").output
    assert "\x1b" not in output
    assert "\\x1b[31mred" in output
