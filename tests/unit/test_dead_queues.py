"""Dead-letter queues on request: who gets one, what is made and what is kept, and what becomes of it."""

import json
import logging
import threading
from typing import Any

import pytest
from fakes import ACCOUNT, REGION, FakeClients, make_settings

from kombu_hake.amqp import deferral
from kombu_hake.amqp.attributes import typed_bytes
from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.envelope import opaque
from kombu_hake.amqp.naming import IF_MADE, dead_name, undelivered_name
from kombu_hake.amqp.routing import message_attributes
from kombu_hake.exceptions import (
    BrokerUnavailable,
    ConfigurationError,
    MessageTooLarge,
    QueueNotFound,
    TopologyError,
    TopologyIncomplete,
)
from kombu_hake.receive.dead_letters import DeadLetters, SourceQueue
from kombu_hake.topology.spec import Plan, QueueSpec, plan
from kombu_hake.topology.topology import Topology

ASKED = {"x-dead-letter-queue": True}
ORDERS = Binding("orders", "fanout")


def made(fake: FakeClients, **options: Any) -> Topology:
    fake.settings = make_settings(**options)
    return Topology(fake, fake.settings)


def queue_arn(name: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def redrive(fake: FakeClients, queue: str) -> Any:
    return json.loads(fake.queues.queue(queue).attributes.get("RedrivePolicy") or "null")


def allows(fake: FakeClients, queue: str) -> Any:
    return json.loads(fake.queues.queue(queue).attributes.get("RedriveAllowPolicy") or "null")


def of_subscription(fake: FakeClients, topic: str, queue: str) -> Any:
    found = fake.topics.by_name[topic].subscriptions[queue_arn(queue)].attributes
    return json.loads(found.get("RedrivePolicy") or "null")


def publish(fake: FakeClients, topic: str = "orders") -> None:
    attributes = {n: {"DataType": "String", "StringValue": v} for n, v in message_attributes("k").items()}
    arn = f"arn:aws:sns:{REGION}:{ACCOUNT}:{topic}"
    fake.sns("publish", TopicArn=arn, Message="an event", MessageAttributes=attributes)


# --- who gets one


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        (QueueSpec("q"), {}, None),
        (QueueSpec("q", arguments={"x-dead-letter-queue": True}), {}, Plan("q-dead", 20, True, True)),
        (QueueSpec("q", arguments={"x-dead-letter-queue": IF_MADE}), {}, Plan("q-dead", 20, True, False)),
        (QueueSpec("q", arguments={"x-dead-letter-queue": "all-dead"}), {}, Plan("all-dead", 20, False, True)),
        (QueueSpec("q", arguments={**ASKED, "x-delivery-limit": 3}), {}, Plan("q-dead", 3, True, True)),
        (QueueSpec("q.fifo", arguments={"x-dead-letter-queue": "d"}), {}, Plan("d.fifo", 20, False, True)),
        (QueueSpec("q.fifo"), {"dead_letter_queue": "true"}, Plan("q-dead.fifo", 20, True, True)),
        (QueueSpec("q"), {"dead_letter_queue": "x-{queue}", "max_receive_count": 7}, Plan("x-q", 7, True, True)),
        (QueueSpec("x-q"), {"dead_letter_queue": "x-{queue}"}, None),
        (QueueSpec("q-dead"), {"dead_letter_queue": True}, None),
        (QueueSpec("q-undelivered.fifo"), {"dead_letter_queue": True}, None),
        (QueueSpec("q-dead", arguments=ASKED), {}, Plan("q-dead-dead", 20, True, True)),
        (QueueSpec("all-dead"), {"dead_letter_queue": "all-dead"}, None),
        (QueueSpec("q", arguments={"x-dead-letter-queue": False}), {"dead_letter_queue": True}, None),
        (QueueSpec("q", arguments={"x-dead-letter-exchange": "dlx"}), {"dead_letter_queue": True}, None),
        (QueueSpec("q", exclusive=True, arguments=ASKED), {}, None),
        (QueueSpec("q", auto_delete=True), {"dead_letter_queue": True}, None),
        (QueueSpec("q", arguments={"x-expires": 60_000}), {"dead_letter_queue": True}, None),
    ],
)
def test_who_gets_which(spec: QueueSpec, options: dict[str, Any], expected: Plan | None) -> None:
    assert plan(spec, make_settings(**options)) == expected


@pytest.mark.parametrize(
    ("queue", "asked"), [("q", "q"), ("q", "{queue}"), ("q", "dead.fifo"), ("q", 5), ("q.fifo", "q"), ("q", ["dead"])]
)
def test_a_dead_letter_queue_that_sqs_does_not_take_is_refused(queue: str, asked: Any) -> None:
    with pytest.raises(TopologyError, match="must be true, or the name of another queue, which is FIFO if this one is"):
        plan(QueueSpec(queue, arguments={"x-dead-letter-queue": asked}), make_settings())


def test_a_dead_letter_queue_of_a_fifo_queue_is_made_fifo() -> None:
    found = plan(QueueSpec("q.fifo", arguments={"x-dead-letter-queue": "dead"}), make_settings())
    assert found is not None
    assert found.name == "dead.fifo"


@pytest.mark.parametrize("limit", [0, 1001, "3", True, 2.5, None])
def test_a_delivery_limit_that_is_none_is_refused(limit: Any) -> None:
    spec = QueueSpec("q", arguments={**ASKED, "x-delivery-limit": limit})
    with pytest.raises(TopologyError, match=r"x-delivery-limit=.* must be a whole number from 1 to 1000"):
        plan(spec, make_settings())


@pytest.mark.parametrize("value", ["{queue}", "{name}-dead", "dead-{", 7])
def test_an_option_that_names_no_queue_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="dead_letter_queue"):
        make_settings(dead_letter_queue=value)


def test_dead_letter_queues_are_named_after_their_queue() -> None:
    assert [dead_name("email"), dead_name("email.fifo")] == ["email-dead", "email-dead.fifo"]
    assert [undelivered_name("a"), undelivered_name("a.fifo")] == ["a-undelivered", "a-undelivered.fifo"]


# --- what is made


def test_a_queue_that_asks_has_its_dead_letter_queue_when_it_is_declared(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments={**ASKED, "x-delivery-limit": 3}))
    assert redrive(fake, "q") == {"deadLetterTargetArn": queue_arn("q-dead"), "maxReceiveCount": 3}
    assert allows(fake, "q-dead") == {"redrivePermission": "byQueue", "sourceQueueArns": [queue_arn("q")]}
    assert fake.queues.queue("q-dead").attributes["MessageRetentionPeriod"] == str(14 * 86400)
    assert sorted(fake.queues.by_name) == ["q", "q-dead"]  # nothing for subscriptions that there are none of


def test_new_queue_has_all_in_few_calls(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    assert fake.count("create_queue") == 3
    assert fake.count("set_queue_attributes") == 1  # what the topic may send to the queue itself
    assert not fake.count("set_subscription_attributes")
    assert len(fake.calls) <= 16
    assert fake.queues.queue("q-dead").tags["hake:dead-letters-of"] == "q"
    assert fake.queues.queue("q-undelivered").tags["hake:dead-letters-of"] == "q"
    fake.calls.clear()
    again = made(fake)
    again.declare_queue(QueueSpec("q", arguments=ASKED))
    again.bind("q", ORDERS)
    assert len(fake.calls) <= 5


def test_dead_letter_queues_that_are_left_from_before_are_used(fake: FakeClients) -> None:
    for name in ("q-dead", "q-undelivered"):
        fake.sqs("create_queue", QueueName=name, Attributes={"MessageRetentionPeriod": "3600"})
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    assert redrive(fake, "q")["deadLetterTargetArn"] == queue_arn("q-dead")
    assert fake.queues.queue("q-dead").attributes["MessageRetentionPeriod"] == "3600"
    assert not fake.queues.queue("q-dead").tags.get("hake:dead-letters-of")
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    publish(fake)
    assert fake.queues.queue("q-undelivered").bodies() == ["an event"]


def test_predefined_dead_letter_queues_are_not_created(fake: FakeClients) -> None:
    urls = {}
    for name in ("q-dead", "q-undelivered"):
        urls[name] = fake.sqs("create_queue", QueueName=f"made-by-terraform-{name}")["QueueUrl"]
    topology = made(fake, predefined_queues=urls)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    assert sorted(fake.queues.by_name) == ["made-by-terraform-q-dead", "made-by-terraform-q-undelivered", "q"]
    assert redrive(fake, "q")["deadLetterTargetArn"] == queue_arn("made-by-terraform-q-dead")


def test_queues_that_are_each_others_dead_letter_queue_do_not_block(fake: FakeClients) -> None:
    topology = made(fake)
    threads = [
        threading.Thread(
            target=topology.declare_queue, args=(QueueSpec(a, arguments={"x-dead-letter-queue": b}),), daemon=True
        )
        for a, b in (("a", "b"), ("b", "a"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_the_option_is_for_all_queues_and_costs_one_call_a_process_afterwards(fake: FakeClients) -> None:
    made(fake, dead_letter_queue=True).declare_queue(QueueSpec("q"))
    fake.calls.clear()
    second = made(fake, dead_letter_queue=True)
    second.declare_queue(QueueSpec("q"))
    second.declare_queue(QueueSpec("q"))
    assert fake.counts() == {"get_queue_url": 2, "get_queue_attributes": 1}


def test_each_priority_level_is_redriven(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments={**ASKED, "x-max-priority": 2}))
    levels = [name for name in fake.queues.by_name if name != "q-dead"]
    assert len(levels) == 3
    assert {redrive(fake, name)["deadLetterTargetArn"] for name in levels} == {queue_arn("q-dead")}
    assert len(allows(fake, "q-dead")["sourceQueueArns"]) == 3


def test_an_operators_redrive_policy_is_kept(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q"))
    theirs = '{"deadLetterTargetArn": "arn:their:own", "maxReceiveCount": 5}'
    fake.queues.queue("q").attributes["RedrivePolicy"] = theirs
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    assert redrive(fake, "q")["deadLetterTargetArn"] == "arn:their:own"
    assert list(fake.queues.by_name) == ["q"]


@pytest.mark.parametrize("policy", [None, '{"redrivePermission": "denyAll"}'])
def test_a_dead_letter_queue_of_others_keeps_its_own_policy(fake: FakeClients, policy: str | None) -> None:
    """Without one everybody is let in, and others may count on that."""
    fake.sqs("create_queue", QueueName="all-dead")
    if policy:
        fake.queues.queue("all-dead").attributes["RedriveAllowPolicy"] = policy
    made(fake, dead_letter_queue="all-dead").declare_queue(QueueSpec("q"))
    assert allows(fake, "all-dead") == (json.loads(policy) if policy else None)
    assert redrive(fake, "q")["deadLetterTargetArn"] == queue_arn("all-dead")


def test_more_queues_than_aws_can_list_share_one(fake: FakeClients) -> None:
    topology = made(fake, dead_letter_queue="all-dead")
    for number in range(12):
        topology.declare_queue(QueueSpec(f"q{number}"))
        permission = "byQueue" if number < 10 else "allowAll"
        assert allows(fake, "all-dead")["redrivePermission"] == permission
    assert "sourceQueueArns" not in allows(fake, "all-dead")


def test_who_may_not_look_declares_all_the_same(fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    made(fake).declare_queue(QueueSpec("q", arguments=ASKED))
    fake.deny("sqs:GetQueueAttributes", "sqs:SetQueueAttributes")
    producer = made(fake)
    with caplog.at_level(logging.INFO):
        producer.declare_queue(QueueSpec("q", arguments=ASKED))
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_who_may_not_make_one_says_so_once_and_goes_on(fake: FakeClients, caplog: pytest.LogCaptureFixture) -> None:
    fake.sqs("create_queue", QueueName="q")
    fake.deny("sqs:SetQueueAttributes")
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "Queue q gets no dead-letter queue, because sqs:SetQueueAttributes is denied" in warnings[0]


def test_assume_asks_nothing_and_verify_tells_what_is_missing(fake: FakeClients) -> None:
    fake.sqs("create_queue", QueueName="q")
    fake.calls.clear()
    made(fake, topology="assume").declare_queue(QueueSpec("q", arguments=ASKED))
    assert not fake.calls
    verifying = made(fake, topology="verify")
    verifying.declare_queue(QueueSpec("q", arguments={"x-dead-letter-queue": IF_MADE}))
    verifying.verify()
    verifying = made(fake, topology="verify")
    verifying.declare_queue(QueueSpec("q", arguments=ASKED))
    with pytest.raises(TopologyIncomplete, match=r"'q' should have the dead-letter queue 'q-dead', .* of 20"):
        verifying.verify()
    assert list(fake.queues.by_name) == ["q"]


def test_a_predefined_queue_is_left_alone(fake: FakeClients) -> None:
    fake.sqs("create_queue", QueueName="q")
    url = fake.queues.queue("q").url
    made(fake, dead_letter_queue=True, predefined_queues={"q": url}).declare_queue(QueueSpec("q"))
    assert list(fake.queues.by_name) == ["q"]


def test_a_queue_that_is_made_again_gets_it_again(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    fake.clock.advance(61)
    assert topology.make_again("q") is not None
    assert redrive(fake, "q")["deadLetterTargetArn"] == queue_arn("q-dead")


# --- subscriptions


def test_what_sns_cannot_deliver_is_kept(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    assert of_subscription(fake, "orders", "q") == {"deadLetterTargetArn": queue_arn("q-undelivered")}
    fake.queues.queue("q").attributes["Policy"] = ""  # a mishap
    publish(fake)
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    publish(fake)
    assert fake.queues.queue("q-undelivered").bodies() == ["an event"] * 2
    assert fake.topics.lost == []


def test_each_exchange_of_a_queue_is_let_into_its_keeper(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    topology.bind("q", Binding("payments", "fanout"))
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q").url)
    publish(fake, "orders")
    publish(fake, "payments")
    assert len(fake.queues.queue("q-undelivered").bodies()) == 2


def test_without_a_dead_letter_queue_nothing_is_made_for_subscriptions(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q"))
    topology.bind("q", ORDERS)
    assert list(fake.queues.by_name) == ["q"]
    assert of_subscription(fake, "orders", "q") is None


def test_the_option_turns_it_off(fake: FakeClients) -> None:
    topology = made(fake, keep_undelivered=False)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    assert sorted(fake.queues.by_name) == ["q", "q-dead"]
    assert of_subscription(fake, "orders", "q") is None


def test_an_operators_dead_letter_queue_of_a_subscription_is_kept(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    subscription = fake.topics.by_name["orders"].subscriptions[queue_arn("q")]
    subscription.attributes["RedrivePolicy"] = '{"deadLetterTargetArn": "arn:their:own"}'
    other = made(fake)
    other.declare_queue(QueueSpec("q", arguments=ASKED))
    other.bind("q", ORDERS)
    assert of_subscription(fake, "orders", "q") == {"deadLetterTargetArn": "arn:their:own"}


@pytest.mark.parametrize("action", ["sqs:CreateQueue", "sns:SetSubscriptionAttributes"])
def test_a_binding_works_without_the_rights_to_keep_what_fails(
    fake: FakeClients, caplog: pytest.LogCaptureFixture, action: str
) -> None:
    before = made(fake)
    before.declare_queue(QueueSpec("q"))
    before.bind("q", ORDERS)
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    fake.deny(action)
    topology.bind("q", ORDERS)
    publish(fake)
    assert fake.queues.queue("q").bodies() == ["an event"]
    assert "are not kept" in caplog.text
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


# --- removal


def test_they_go_with_their_queue_when_they_are_empty(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    assert sorted(fake.queues.by_name) == ["q", "q-dead", "q-undelivered"]
    topology.delete_queue("q")
    assert list(fake.queues.by_name) == []


@pytest.mark.parametrize("holder", ["q-dead", "q-undelivered"])
def test_what_holds_messages_stays_for_a_person_to_find(
    fake: FakeClients, caplog: pytest.LogCaptureFixture, holder: str
) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.bind("q", ORDERS)
    fake.sqs("send_message", QueueUrl=fake.queues.queue(holder).url, MessageBody="a dead letter")
    fake.queues.queue(holder).attributes["Approximate"] = "late"
    topology.delete_queue("q")
    assert list(fake.queues.by_name) == [holder]
    assert fake.queues.queue(holder).bodies() == ["a dead letter"]
    assert f"its dead letters stay in queue {holder}" in caplog.text


def test_a_count_that_lags_behind_deletes_no_message(fake: FakeClients, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    fake.sqs("send_message", QueueUrl=fake.queues.queue("q-dead").url, MessageBody="a dead letter")
    monkeypatch.setattr(topology.queues, "counts", lambda name: (0, 0, 0))
    topology.delete_queue("q")
    assert list(fake.queues.by_name) == ["q-dead"]


def test_a_dead_letter_queue_of_others_or_of_many_stays(fake: FakeClients) -> None:
    fake.sqs("create_queue", QueueName="q-dead")
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    topology.declare_queue(QueueSpec("r", arguments={"x-dead-letter-queue": "shared"}))
    topology.delete_queue("q")
    topology.delete_queue("r")
    assert sorted(fake.queues.by_name) == ["q-dead", "shared"]


def test_a_queue_that_is_not_there_has_nothing_to_remove(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    for name in ("q", "q-dead"):
        fake.sqs("delete_queue", QueueUrl=fake.queues.queue(name).url)
    topology.forget("q")
    with pytest.raises(QueueNotFound):
        topology.delete_queue("q")


# --- how many receives there are to spend


def test_no_receive_is_spent_while_it_cannot_be_told_how_many_there_are(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments={**ASKED, "x-delivery-limit": 3}))
    url = topology.queues.url("q")
    letters = DeadLetters(fake, lambda *args, **kwargs: None, topology.dead_queues.make_again)
    fake.fail("get_queue_attributes", BrokerUnavailable("x"))
    in_doubt = letters.max_receives(url)
    now_ms = fake.now_ms()
    waiting = deferral.plan(now_ms + 600_000, now_ms, sent=now_ms, receives=2, max_receives=in_doubt, hidden=0)
    assert waiting is not None
    assert waiting.how is deferral.How.COPY
    assert letters.max_receives(url) == 3
    fake.deny("sqs:GetQueueAttributes")
    assert DeadLetters(fake, lambda *args, **kwargs: None, lambda *args: False).max_receives(url) is None


# --- where dead letters are sent


def place(letters: DeadLetters, topology: Topology, number: int) -> str:
    raw = {"Body": f"text {number}", "MessageId": str(number), "ReceiptHandle": "h"}
    source = SourceQueue("q", topology.queues.url("q"), {})
    return letters.place(opaque(raw["Body"], "q"), raw, source, "malformed")


def test_the_address_of_a_dead_letter_queue_is_asked_for_once(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    letters = DeadLetters(fake, lambda *args, **kwargs: None, topology.dead_queues.make_again)
    place(letters, topology, 0)
    fake.calls.clear()
    for number in range(1, 6):
        assert place(letters, topology, number) == fake.queues.queue("q-dead").url
    assert fake.counts() == {"send_message": 5}


def test_a_dead_letter_queue_that_was_deleted_and_recreated_gets_the_next_dead_letter(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    letters = DeadLetters(fake, lambda *args, **kwargs: None, topology.dead_queues.make_again)
    place(letters, topology, 0)
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue("q-dead").url)
    topology.forget("q-dead")
    fake.clock.advance(61)
    place(letters, topology, 1)
    assert [one.body for one in fake.queues.queue("q-dead").messages] == ["text 1"]


# --- dead letters that are larger than the dead-letter queue takes


def place_large(fake: FakeClients, topology: Topology, size: int = 300_000) -> str:
    letters = DeadLetters(
        fake, lambda *args, **kwargs: None, topology.dead_queues.make_again, topology.dead_queues.make_room
    )
    raw = {"Body": "x" * size, "MessageId": "1", "ReceiptHandle": "h"}
    source = SourceQueue("q", topology.queues.url("q"), {})
    return letters.place(opaque(raw["Body"], "q"), raw, source, reason="malformed")


def test_a_dead_letter_without_room_for_its_reason_keeps_the_attributes_of_its_publisher(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    own = {f"a{number}": {"DataType": "String", "StringValue": "x"} for number in range(8)}
    deaths = {f"hake-death-{name}": {"DataType": "String", "StringValue": "x" * 99} for name in ("task", "exception")}
    pointer = {"ExtendedPayloadSize": {"DataType": "Number", "StringValue": "7"}}
    body = "x" * (1_048_576 - typed_bytes({**own, **pointer}))
    letters = DeadLetters(fake, lambda *args, **kwargs: None, topology.dead_queues.make_again)
    raw = {"Body": body, "MessageId": "1", "MessageAttributes": {**own, **deaths, **pointer}}
    letters.place(opaque(body, "q"), raw, SourceQueue("q", topology.queues.url("q"), {}), "failed")
    [dead] = fake.queues.queue("q-dead").messages
    assert dead.attributes == {**own, **pointer}


def dead_size(fake: FakeClients, name: str = "q-dead") -> str:
    return str(fake.queues.queue(name).attributes["MaximumMessageSize"])


def test_a_dead_letter_queue_with_the_old_default_is_raised_when_a_dead_letter_needs_it(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    fake.queues.queue("q-dead").attributes["MaximumMessageSize"] = "262144"
    place_large(fake, topology, 200_000)
    assert dead_size(fake) == "262144"
    assert place_large(fake, topology) == fake.queues.queue("q-dead").url
    assert dead_size(fake) == "1048576"
    assert len(fake.queues.queue("q-dead").messages) == 2


@pytest.mark.parametrize("limit", ["100000", "262144"])
def test_any_other_dead_letter_queue_is_left_alone(fake: FakeClients, limit: str) -> None:
    """One whose limit was chosen; or one that an operator put into the redrive policy."""
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    if limit == "262144":
        fake.queues.create_queue("theirs")
        policy = {"deadLetterTargetArn": fake.queues.queue("theirs").arn, "maxReceiveCount": 3}
        fake.queues.queue("q").attributes["RedrivePolicy"] = json.dumps(policy)
    name = "theirs" if limit == "262144" else "q-dead"
    fake.queues.queue(name).attributes["MaximumMessageSize"] = limit
    for _ in range(2):
        with pytest.raises(MessageTooLarge):
            place_large(fake, topology)
    assert dead_size(fake, name) == limit
    assert fake.count("set_queue_attributes") == 0


def test_a_dead_letter_queue_that_could_not_be_raised_for_a_moment_is_raised_for_the_next_dead_letter(
    fake: FakeClients,
) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    fake.queues.queue("q-dead").attributes["MaximumMessageSize"] = "262144"
    fake.fail("set_queue_attributes", BrokerUnavailable("no answer"))
    with pytest.raises(BrokerUnavailable):
        place_large(fake, topology)
    assert place_large(fake, topology) == fake.queues.queue("q-dead").url
    assert dead_size(fake) == "1048576"


def test_without_the_right_to_raise_it_the_dead_letter_stays(fake: FakeClients) -> None:
    topology = made(fake)
    topology.declare_queue(QueueSpec("q", arguments=ASKED))
    fake.queues.queue("q-dead").attributes["MaximumMessageSize"] = "262144"
    fake.deny("sqs:SetQueueAttributes")
    for _ in range(2):
        with pytest.raises(MessageTooLarge):
            place_large(fake, topology)
    assert dead_size(fake) == "262144"
