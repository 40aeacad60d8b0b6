"""One queue brought to what was declared, on an AWS that shows older states, beside writers that undo each other."""

import json
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeClients, make_settings

from kombu_hake.amqp import Binding, compile_filter, from_tags, message_attributes, named_topics
from kombu_hake.exceptions import QuotaExceeded
from kombu_hake.topology import QueueSpec, Timings, Topology
from kombu_hake.topology.chores import Chores

PLACED, PAID, SENT = (Binding("orders", "topic", key) for key in ("order.placed", "order.paid", "order.sent"))
EVENTS = Binding("events", "fanout")
THEIRS = {
    "Sid": "theirs",
    "Effect": "Allow",
    "Principal": {"Service": "s3.amazonaws.com"},
    "Action": "sqs:SendMessage",
    "Resource": "*",
}
LAG_S = 60.0
#: Until both checks that follow a write were made.
CHECKED_S = 120.0


class LateClients(FakeClients):
    """AWS that shows attributes and tags of queues as they were up to a minute ago, while :attr:`lag_s` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.lag_s = LAG_S
        self._history: dict[tuple[str, str], list[tuple[float, dict[str, str]]]] = {}

    def sqs(self, operation: str, **params: Any) -> dict[str, Any]:
        self._note()
        answer = super().sqs(operation, **params)
        self._note()
        if operation == "get_queue_attributes":
            shown = self._old("attributes", params["QueueUrl"])
            kept = {name: value for name, value in answer["Attributes"].items() if name != "Policy"}
            return {"Attributes": {**kept, **({"Policy": shown["Policy"]} if shown.get("Policy") else {})}}
        if operation == "list_queue_tags":
            return {"Tags": self._old("tags", params["QueueUrl"])}
        return answer

    def _note(self) -> None:
        for queue in self.queues.by_name.values():
            for kind, found in (("attributes", queue.attributes), ("tags", queue.tags)):
                known = self._history.setdefault((kind, queue.url), [])
                if not known or known[-1][1] != found:
                    known.append((self.clock(), dict(found)))

    def _old(self, kind: str, url: str) -> dict[str, str]:
        history = self._history[kind, url]
        shown = [state for at, state in history if at <= self.clock() - self.lag_s]
        return dict(shown[-1] if shown else history[0][1])


@pytest.fixture
def late() -> LateClients:
    return LateClients()


def process(fake: FakeClients, timings: Timings | None = None, **options: Any) -> Topology:
    """A process of its own on AWS, whose background work is done by :func:`pass_time`."""
    settings = make_settings(**options)
    chores = Chores(fake.clock)
    chores._background.stop(0.0)
    found = Topology(fake, settings, timings or Timings(queue_ready_s=0), fake.clock, chores)
    found.declare_exchange("orders", "topic")
    return found


def pass_time(fake: FakeClients, seconds: float, *processes: Topology) -> None:
    """Let time pass in small steps, with the background work of these processes."""
    for _ in range(int(seconds / 5)):
        fake.clock.advance(5)
        for one in processes:
            one.chores.work()


def declare(topology: Topology, *bindings: Binding, queue: str = "q", **arguments: Any) -> None:
    topology.declare_queue(QueueSpec(queue, arguments=arguments))
    for binding in bindings:
        topology.bind(queue, binding)


def policy(fake: FakeClients, queue: str = "q") -> list[dict[str, Any]]:
    text = fake.queues.queue(queue).attributes.get("Policy")
    found: list[dict[str, Any]] = json.loads(text)["Statement"] if text else []
    return found


def allowed(fake: FakeClients) -> set[str]:
    return {arn.rpartition(":")[2] for arn in named_topics(fake.queues.queue("q").attributes.get("Policy"))}


def attributes(fake: FakeClients, exchange: str = "orders", queue: str = "q") -> dict[str, str]:
    return fake.topics.by_name[exchange].subscriptions[fake.queues.queue(queue).arn].attributes


def filter_of(fake: FakeClients, queue: str = "q") -> Any:
    return json.loads(attributes(fake, queue=queue).get("FilterPolicy") or "{}")


def passing(*bindings: Binding) -> Any:
    return compile_filter(bindings).policy


@pytest.fixture
def no_warning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- late reads


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("lag_s", [0.0, 2.0, 59.0])
def test_declare_writes_attributes_three_times_at_most_however_late_reads_are(late: LateClients, lag_s: float) -> None:
    late.lag_s = lag_s
    topology = process(late)
    declare(topology, PLACED, PAID, EVENTS)
    assert late.count("set_queue_attributes") <= 3
    pass_time(late, CHECKED_S, topology)
    assert late.count("set_queue_attributes") <= 3
    assert allowed(late) == {"orders", "events"}
    assert filter_of(late) == passing(PLACED, PAID)


@pytest.mark.usefixtures("no_warning")
def test_process_that_starts_while_reads_are_late_narrows_nothing(late: LateClients) -> None:
    first, second = process(late), process(late)
    declare(first, PLACED, EVENTS)
    declare(second, PAID)
    for key in ("order.placed", "order.paid"):
        publish(late, "orders", key)
    assert late.queues.queue("q").bodies() == ["order.placed", "order.paid"]
    pass_time(late, 90, first, second)
    publish(late, "events", "k")  # the second process could not see the policy of the first one
    assert late.queues.queue("q").bodies() == ["order.placed", "order.paid", "k"]
    pass_time(late, 60, first, second)
    assert filter_of(late) == passing(PLACED, PAID)
    assert allowed(late) == {"orders", "events"}


def publish(fake: FakeClients, exchange: str, key: str) -> None:
    found = {name: {"DataType": "String", "StringValue": value} for name, value in message_attributes(key).items()}
    fake.sns("publish", TopicArn=fake.topics.by_name[exchange].arn, Message=key, MessageAttributes=found)


def overwrite(fake: FakeClients, *statements: dict[str, Any]) -> None:
    """Another writer replaces the policy."""
    text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)}) if statements else ""
    fake.sqs("set_queue_attributes", QueueUrl=fake.queues.queue("q").url, Attributes={"Policy": text})


@pytest.mark.parametrize("after_s", [0, 5, 30, 55])
def test_statement_that_another_writer_dropped_is_back_within_90_s(late: LateClients, after_s: int) -> None:
    topology = process(late)
    declare(topology, PLACED)
    pass_time(late, after_s, topology)
    overwrite(late, THEIRS)
    pass_time(late, 90, topology)
    assert allowed(late) == {"orders"}
    assert THEIRS in policy(late)


def test_statement_of_others_that_any_read_showed_is_never_dropped(late: LateClients) -> None:
    topology = process(late)
    topology.declare_queue(QueueSpec("q"))
    overwrite(late, THEIRS)
    late.lag_s = 0
    topology.bind("q", PLACED)
    late.lag_s = LAG_S  # the next read shows a state from before the statement
    topology.bind("q", EVENTS)
    assert THEIRS in policy(late)
    assert allowed(late) == {"orders", "events"}


def test_statement_of_others_that_a_write_dropped_unseen_is_written_back(late: LateClients) -> None:
    topology = process(late)
    topology.declare_queue(QueueSpec("q"))
    overwrite(late, THEIRS)  # not shown yet
    topology.bind("q", PLACED)
    pass_time(late, CHECKED_S, topology)
    overwrite(late, THEIRS, *policy(late))
    pass_time(late, 65, topology)
    topology.bind("q", EVENTS)
    assert THEIRS in policy(late)


def test_binding_that_another_process_overwrites_with_its_filter_is_back_soon(late: LateClients) -> None:
    first, second = process(late), process(late)
    declare(first, PLACED)
    pass_time(late, 10, first)
    attributes(late)["FilterPolicy"] = json.dumps(passing(PAID))
    pass_time(late, 90, first, second)
    assert filter_of(late) == passing(PLACED)


def test_binding_is_undone_while_reads_are_late(late: LateClients) -> None:
    topology = process(late)
    declare(topology, PLACED, PAID, EVENTS)
    topology.unbind("q", PAID)
    topology.unbind("q", EVENTS)
    assert filter_of(late) == passing(PLACED)
    assert allowed(late) == {"orders"}
    assert not late.topics.by_name["events"].subscriptions
    pass_time(late, CHECKED_S, topology)
    assert filter_of(late) == passing(PLACED)
    assert allowed(late) == {"orders"}


def test_binding_that_another_process_has_just_made_is_undone(late: LateClients) -> None:
    first, second = process(late), process(late)
    declare(first, PLACED, PAID)
    pass_time(late, 10, first)
    second.declare_queue(QueueSpec("q"))
    second.unbind("q", PAID)  # the tag is not shown yet
    pass_time(late, CHECKED_S + 70, first, second)
    assert from_tags(late.queues.queue("q").tags).bindings == {PLACED}
    assert filter_of(late) == passing(PLACED)


def test_deleted_exchange_leaves_nothing_though_tags_are_late(late: LateClients) -> None:
    first = process(late)
    declare(first, PLACED, EVENTS)
    pass_time(late, CHECKED_S, first)
    stranger = process(late)
    stranger.delete_exchange("orders")
    assert allowed(late) == {"events"}
    assert "orders" not in late.topics.by_name
    tags = late.queues.queue("q").tags
    assert [binding.exchange for binding in from_tags(tags).bindings] == ["events"]
    pass_time(late, CHECKED_S, first, stranger)
    assert allowed(late) == {"events"}


# --- repair


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients()


def mended(fake: FakeClients, topology: Topology, caplog: pytest.LogCaptureFixture) -> str:
    """What two checks log, which is one line."""
    caplog.clear()
    topology.check_bindings("q")
    topology.check_bindings("q")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return record.getMessage()


@pytest.mark.parametrize("reads", [True, False], ids=["which bound it", "which found it bound"])
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("FilterPolicy", '{"rk":["other"]}', "The filter"),
        ("RawMessageDelivery", "false", "wraps messages"),
        ("FilterPolicyScope", "MessageBody", "message body"),
    ],
)
def test_attribute_that_somebody_changed_is_mended_and_logged_once(
    fake: FakeClients, caplog: pytest.LogCaptureFixture, name: str, value: str, reason: str, reads: bool
) -> None:
    no_lag = Timings(0, 0, 0, 0)
    topology = process(fake, no_lag)
    declare(topology, PLACED, PAID)
    if not reads:
        topology = process(fake, no_lag)
        declare(topology, PLACED, PAID)
    right = dict(attributes(fake))
    attributes(fake)[name] = value
    assert reason in mended(fake, topology, caplog)
    assert {**right, "FilterPolicyScope": "MessageAttributes"}.items() >= attributes(fake).items()


def test_topic_that_the_policy_lacks_is_allowed_again(fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    declare(topology, PLACED, EVENTS)
    overwrite(fake, THEIRS)
    assert "does not allow the topics of events, orders" in mended(fake, topology, caplog)
    assert allowed(fake) == {"orders", "events"}
    assert THEIRS in policy(fake)


def test_lookup_that_made_a_subscription_is_mended(fake: FakeClients) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    declare(topology, PLACED)
    fake.topics.by_name["orders"].subscriptions.clear()
    declare(process(fake, Timings(0, 0, 0, 0)), PLACED)
    assert attributes(fake)["RawMessageDelivery"] == "true"
    assert filter_of(fake) == passing(PLACED)


@pytest.mark.parametrize("first", [EVENTS, Binding("events", "topic", "a")])
@pytest.mark.parametrize("second", [EVENTS, Binding("events", "topic", "b")])
def test_subscription_with_another_filter_is_mended(fake: FakeClients, first: Binding, second: Binding) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    declare(topology)
    before = {"FilterPolicy": json.dumps(passing(first) or {"rk": ["other"]})}
    topology.topics.subscribe("events", fake.queues.queue("q").arn, before)
    topology.bind("q", second)
    assert json.loads(attributes(fake, "events").get("FilterPolicy") or "{}") == (passing(second) or {})
    assert attributes(fake, "events")["RawMessageDelivery"] == "true"


def test_subscription_that_cannot_be_read_is_taken_as_it_is(fake: FakeClients) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    fake.deny("sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes")
    declare(topology, EVENTS)
    assert attributes(fake, "events") == {"RawMessageDelivery": "true"}


# --- priorities


def test_queue_that_gets_priorities_while_in_use_waits_for_nothing_and_loses_nothing(
    late: LateClients, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it sleeps"))
    late.lag_s = 0
    stamp(late)
    declare(process(late), PLACED)
    late.clock.advance(1_000)
    topology = process(late)
    topology.declare_queue(QueueSpec("q", arguments={"x-max-priority": 1}))
    late.clock.advance(1)
    topology.bind("q", PLACED)
    assert filter_of(late) == passing(PLACED)
    assert "is given priorities while it is in use" in caplog.text
    pass_time(late, 70, topology)
    assert filter_of(late) != passing(PLACED)


def test_new_queue_with_priorities_has_its_filters_at_once(late: LateClients, caplog: pytest.LogCaptureFixture) -> None:
    late.lag_s = 0
    stamp(late)
    topology = process(late)
    topology.declare_queue(QueueSpec("q", arguments={"x-max-priority": 1}))
    topology.bind("q", PLACED)
    assert filter_of(late) != passing(PLACED)
    assert "in use" not in caplog.text


def stamp(fake: FakeClients) -> None:
    """Have this AWS tell when the attributes of a queue were changed."""
    backend = fake.queues
    create, change = backend.create_queue, backend.set_queue_attributes

    def created(**params: Any) -> Any:
        answer = create(**params)
        backend.of_url(answer["QueueUrl"]).attributes.setdefault("LastModifiedTimestamp", str(int(fake.clock())))
        return answer

    def changed(**params: Any) -> Any:
        backend.of_url(params["QueueUrl"]).attributes["LastModifiedTimestamp"] = str(int(fake.clock()))
        return change(**params)

    backend.create_queue, backend.set_queue_attributes = created, changed  # type: ignore[method-assign]


def test_denied_dead_letter_queue_of_a_subscription_is_asked_for_once(
    fake: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    declare(process(fake, Timings(0, 0, 0, 0)), EVENTS)
    topology = process(fake, Timings(0, 0, 0, 0), dead_letter_queue="{queue}-dead")
    fake.deny("sns:SetSubscriptionAttributes")
    declare(topology, EVENTS)
    for _ in range(3):
        topology.check_bindings("q")
    assert caplog.text.count("are not kept") == 1


# --- tags


def test_worker_that_finds_its_bindings_reads_no_tags(fake: FakeClients) -> None:
    declare(process(fake, Timings(0, 0, 0, 0)), PLACED, PAID, EVENTS)
    fake.calls.clear()
    started = process(fake, Timings(0, 0, 0, 0))
    declare(started, PLACED, PAID, EVENTS)
    assert started.signs.kind(started.queues.url("q"), QueueSpec("q").kind) is None
    assert not fake.count("list_queue_tags", "tag_queue", "untag_queue", "set_queue_attributes")
    assert fake.counts() == {
        "get_queue_url": 1, "get_queue_attributes": 1, "subscribe": 2, "get_subscription_attributes": 2,
    }  # fmt: skip
    assert ("q", "orders", "order.paid") in started.list_bindings()


@pytest.mark.parametrize("bound", [Binding("orders", "topic", "order.#"), Binding("orders", "topic", "#")])
def test_binding_that_only_a_wider_one_covers_is_recorded(fake: FakeClients, bound: Binding) -> None:
    declare(process(fake, Timings(0, 0, 0, 0)), bound)
    declare(process(fake, Timings(0, 0, 0, 0)), PLACED)
    process(fake, Timings(0, 0, 0, 0)).unbind("q", bound)
    assert filter_of(fake) == passing(PLACED)


def test_tags_that_somebody_removed_are_written_again_in_the_background(fake: FakeClients) -> None:
    declare(process(fake, Timings(0, 0, 0, 0)), PLACED, EVENTS)
    tags = dict(fake.queues.queue("q").tags)
    fake.queues.queue("q").tags = {key: value for key, value in tags.items() if not key.startswith("hake:b:")}
    worker = process(fake, Timings(0, 0, 0, 0))
    declare(worker, PLACED, EVENTS)
    worker.signs.kind(worker.queues.url("q"), QueueSpec("q").kind)
    worker.check_bindings("q")
    assert fake.queues.queue("q").tags == tags


def test_one_queue_a_minute_is_healed(fake: FakeClients) -> None:
    worker = process(fake, Timings(0, 0, 0, 0))
    for number in range(5):
        worker.declare_queue(QueueSpec(f"q{number}"))
        worker.signs.kind(worker.queues.url(f"q{number}"), QueueSpec("").kind)
    fake.calls.clear()
    for minutes in range(1, 8):
        for number in range(5):
            worker.check_bindings(f"q{number}")
        assert fake.count("list_queue_tags") <= minutes
        fake.clock.advance(60)
    assert fake.count("list_queue_tags") == 5


def test_bindings_are_read_at_most_once_in_some_minutes_and_not_by_the_caller(late: LateClients) -> None:
    late.lag_s = 0
    declare(process(late), PLACED)
    worker = process(late)
    worker.declare_queue(QueueSpec("q"))
    late.calls.clear()
    for _ in range(60):
        worker.read_bindings("q", late.now_ms())
        assert not late.calls or late.calls[-1][0] == "list_queue_tags"
        pass_time(late, 10, worker)
    assert 2 <= late.count("list_queue_tags") <= 4


def test_message_is_judged_by_bindings_that_were_read_a_minute_after_it_was_sent(late: LateClients) -> None:
    worker = process(late)
    declare(worker, PLACED)
    sent_ms = late.now_ms()
    bindings, read_at, again_s = worker.read_bindings("q", sent_ms)
    while read_at <= sent_ms + 60_000:
        assert again_s > 0
        pass_time(late, 5 * (again_s // 5 + 1), worker)
        bindings, read_at, again_s = worker.read_bindings("q", sent_ms)
    assert bindings is not None
    assert PLACED in bindings.bindings


# --- quotas


def test_queue_whose_topic_has_as_many_filters_as_aws_allows_gets_everything(
    fake: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    limit_filters(fake, 1)
    first = process(fake, Timings(0, 0, 0, 0))
    declare(first, PLACED, queue="first")
    late_comer = process(fake, Timings(0, 0, 0, 0))
    declare(late_comer, PLACED, PAID)
    assert filter_of(fake) == {}
    assert filter_of(fake, "first") == passing(PLACED)
    for _ in range(3):
        late_comer.check_bindings("q")
    assert caplog.text.count("as many filtered subscriptions as AWS allows") == 1
    publish(fake, "orders", "order.sent")
    publish(fake, "orders", "order.paid")
    assert fake.queues.queue("q").bodies() == ["order.sent", "order.paid"]  # the consumer drops the first one
    known = late_comer.known_bindings("q")
    assert known is not None
    assert known.bindings == {PLACED, PAID}


def limit_filters(fake: FakeClients, most: int) -> None:
    subscribe, change = fake.topics.subscribe, fake.topics.set_subscription_attributes
    refusal = "A quota of AWS is used up (FilterPolicyLimitExceeded): Filter policy limit exceeded"

    def filtered(topic: Any) -> list[str]:
        return [one.arn for one in topic.subscriptions.values() if one.attributes.get("FilterPolicy", "{}") != "{}"]

    def subscribed(**params: Any) -> Any:
        topic = fake.topics.topic(params["TopicArn"])
        is_more = params["Endpoint"] not in topic.subscriptions and "FilterPolicy" in params.get("Attributes", {})
        if is_more and len(filtered(topic)) >= most:
            raise QuotaExceeded(refusal)
        return subscribe(**params)

    def changed(**params: Any) -> Any:
        topic = fake.topics.topic(params["SubscriptionArn"].rpartition(":")[0])
        is_filter = params["AttributeName"] == "FilterPolicy" and params["AttributeValue"] != "{}"
        if is_filter and len(filtered(topic)) >= most:
            raise QuotaExceeded(refusal)
        return change(**params)

    fake.topics.subscribe, fake.topics.set_subscription_attributes = subscribed, changed  # type: ignore[method-assign]


def test_tags_of_the_user_count_among_those_that_aws_allows(
    fake: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    topology.declare_queue(QueueSpec("q"))
    own = fake.queues.queue("q").tags
    own.update({f"team:{number}": "x" for number in range(44 - len(own))})
    keys = [Binding("orders", "direct", f"k{number}") for number in range(12)]
    for binding in keys:
        topology.bind("q", binding)
    assert len(own) <= 50
    assert filter_of(fake) == {}
    assert "everything" in caplog.text
    assert allowed(fake) == {"orders"}


def test_fleet_of_many_queues_checks_a_few_of_them_each_interval(fake: FakeClients) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    queues = [f"q{number}" for number in range(30)]
    for queue in queues:
        declare(topology, EVENTS, queue=queue)
    fake.calls.clear()
    random.seed(1)
    for _ in range(100):
        for queue in queues:
            topology.check_bindings(queue)
    assert 4 <= len(fake.calls) / 100 <= 8
    checked = {params["QueueUrl"] for operation, params in fake.calls if operation == "get_queue_attributes"}
    assert len(checked) == 30


def test_key_that_sns_cannot_use_is_warned_of_once(fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    topology = process(fake, Timings(0, 0, 0, 0), queue_attributes={"KmsMasterKeyId": "alias/aws/sqs"})
    declare(topology, PLACED, PAID, EVENTS)
    assert caplog.text.count("alias/aws/sqs") == 1
    topology.declare_queue(QueueSpec("direct"))
    assert "Queue direct" not in caplog.text


def test_deleted_queue_is_unsubscribed_without_a_list(fake: FakeClients) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    declare(topology, PLACED, EVENTS)
    topology.delete_queue("q")
    assert not any(topic.subscriptions for topic in fake.topics.by_name.values())
    assert not fake.count("list_subscriptions_by_topic")


# --- queues that are deleted meanwhile


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"it sleeps {seconds} s"))


@pytest.mark.usefixtures("no_sleep")
def test_queue_that_is_deleted_while_it_is_bound_is_made_again_in_the_background(fake: FakeClients) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    topology.declare_queue(QueueSpec("q"))
    url = topology.queues.url("q")
    fake.before("set_queue_attributes", lambda: fake.sqs("delete_queue", QueueUrl=url))
    topology.bind("q", PLACED)
    topology.bind("q", EVENTS)
    assert "q" not in fake.queues.by_name
    assert topology.queues.url("q") == url  # a consumer can be started
    pass_time(fake, 70, topology)
    assert allowed(fake) == {"orders", "events"}
    assert filter_of(fake) == passing(PLACED)
    assert topology.chores.work() is None  # nothing waits


@pytest.mark.usefixtures("no_sleep")
def test_topic_that_is_deleted_while_it_is_bound_is_made_again_at_once(fake: FakeClients) -> None:
    topology = process(fake, Timings(0, 0, 0, 0))
    declare(topology, EVENTS)
    arn = fake.topics.by_name["events"].arn
    fake.sns("create_topic", Name="orders")
    delete = fake.topics.by_name["orders"].arn
    fake.before("get_subscription_attributes", lambda: fake.sns("delete_topic", TopicArn=delete))
    topology.bind("q", PLACED)
    assert filter_of(fake) == passing(PLACED)
    assert fake.topics.by_name["events"].arn == arn


@pytest.mark.usefixtures("no_sleep")
def test_queue_for_what_sns_cannot_deliver_is_not_waited_for(fake: FakeClients) -> None:
    topology = process(fake, Timings(0, 0, 0, 0), dead_letter_queue="{queue}-dead")
    topology.declare_queue(QueueSpec("q"))
    name = "q-undelivered"
    url = fake.sqs("create_queue", QueueName=name)["QueueUrl"]
    fake.sqs("delete_queue", QueueUrl=url)
    topology.bind("q", PLACED)
    assert filter_of(fake) == passing(PLACED)
    assert name not in fake.queues.by_name
    pass_time(fake, 70, topology)
    assert name in fake.queues.by_name
    assert name in attributes(fake)["RedrivePolicy"]
