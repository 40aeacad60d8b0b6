"""Topics and subscriptions: ARNs without asking, topics on demand, subscriptions as wanted."""

import logging

import pytest
from fakes import ACCOUNT, REGION, FakeClients, make_settings

from kombu_hake.amqp.naming import QueueArn
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, DeclarationMismatch, TopicNotFound, TopologyError
from kombu_hake.topology.topics import Topics

QUEUE_ARN = QueueArn(f"arn:aws:sqs:{REGION}:{ACCOUNT}:q")
EVERYTHING = {"RawMessageDelivery": "true"}


def arn(name: str) -> str:
    return f"arn:aws:sns:{REGION}:{ACCOUNT}:{name}"


@pytest.fixture
def topics(fake: FakeClients) -> Topics:
    return Topics(fake, make_settings())


def subscription(fake: FakeClients, topic: str = "orders") -> dict[str, str]:
    return fake.topics.by_name[topic].subscriptions[QUEUE_ARN].attributes


# --- ARNs


def test_an_arn_is_built_with_no_call_but_one_to_sts(fake: FakeClients, topics: Topics) -> None:
    assert [topics.arn(name) for name in ("a", "b", "a")] == [arn("a"), arn("b"), arn("a")]
    assert fake.counts() == {"get_caller_identity": 1}


def test_with_the_account_as_an_option_an_arn_needs_no_call(fake: FakeClients) -> None:
    assert Topics(fake, make_settings(account_id="444455556666")).arn("a") == f"arn:aws:sns:{REGION}:444455556666:a"
    assert not fake.calls


@pytest.mark.parametrize("error", [BrokerUnavailable("no route"), AccessDenied("no")])
def test_without_sts_the_topic_itself_tells_the_account(fake: FakeClients, topics: Topics, error: Exception) -> None:
    fake.fail("get_caller_identity", error)
    assert topics.arn("a") == arn("a")
    assert "a" in fake.topics.by_name
    assert topics.arn("b") == arn("b")
    assert "b" not in fake.topics.by_name


def test_a_predefined_topic_is_taken_as_it_is(fake: FakeClients) -> None:
    topics = Topics(fake, make_settings(predefined_exchanges={"a": arn("theirs")}))
    assert topics.arn("a") == arn("theirs")
    assert not fake.calls
    with pytest.raises(TopicNotFound, match="predefined"):
        topics.create("a")


# --- creating


def test_creating_a_topic_twice_is_fine(fake: FakeClients, topics: Topics) -> None:
    assert topics.create("orders", "fanout") == topics.create("orders", "fanout") == arn("orders")
    tags = fake.topics.by_name["orders"].tags
    assert tags["hake:made-by"].startswith("kombu_hake ")
    assert tags["hake:namespace"] == "-"


def test_a_topic_with_other_tags_is_taken_and_left_alone(fake: FakeClients, topics: Topics) -> None:
    fake.sns("create_topic", Name="orders", Tags=[{"Key": "team", "Value": "shop"}])
    assert topics.create("orders") == arn("orders")
    assert fake.topics.by_name["orders"].tags == {"team": "shop"}


def test_without_the_right_to_tag_a_topic_is_made_untagged(fake: FakeClients, topics: Topics) -> None:
    fake.deny("sns:TagResource")
    topics.create("orders")
    assert fake.topics.by_name["orders"].tags == {}


def test_without_the_right_to_create_it_says_so(fake: FakeClients, topics: Topics) -> None:
    fake.deny("sns:CreateTopic")
    with pytest.raises(AccessDenied) as caught:
        topics.create("orders")
    assert caught.value.action == "sns:CreateTopic"


def test_a_fifo_topic_is_made_as_one(fake: FakeClients, topics: Topics) -> None:
    assert topics.create("orders.fifo") == topics.create("orders.fifo") == arn("orders.fifo")
    assert fake.topics.by_name["orders.fifo"].attributes == {"FifoTopic": "true"}


def test_other_processes_can_learn_the_type_of_an_exchange(fake: FakeClients, topics: Topics) -> None:
    topics.create("orders", "fanout")
    other = Topics(fake, make_settings())
    assert other.seen_type("orders") is None
    assert other.recorded_type("orders") == "fanout"
    assert other.recorded_type("orders") == other.seen_type("orders") == "fanout"
    assert fake.count("list_tags_for_resource") == 1


@pytest.mark.parametrize("action", ["sns:ListTagsForResource", "nothing"])
def test_a_type_that_cannot_be_known_is_none(fake: FakeClients, topics: Topics, action: str) -> None:
    fake.deny(action)
    assert topics.recorded_type("missing") is None


@pytest.mark.parametrize("code", ["ConcurrentAccess", "StaleTag"])
def test_topic_whose_tags_are_being_changed_is_created_a_moment_later(
    fake: FakeClients, topics: Topics, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fake.fail("create_topic", *[BrokerUnavailable(f"sns:CreateTopic failed for now ({code}): x")] * 3)
    assert topics.create("orders") == arn("orders")
    fake.fail("create_topic", BrokerUnavailable("no route"))
    with pytest.raises(BrokerUnavailable):
        topics.create("other")


# --- subscribing


def test_a_subscription_is_raw_and_creates_the_topic(fake: FakeClients, topics: Topics) -> None:
    topics.subscribe("orders", QUEUE_ARN, EVERYTHING)
    assert subscription(fake) == {"RawMessageDelivery": "true"}


def test_a_filter_that_aws_refuses_is_an_error(topics: Topics) -> None:
    with pytest.raises(TopologyError, match="FilterPolicy"):
        topics.subscribe("orders", QUEUE_ARN, {"FilterPolicy": '{"rk":[]}'})


def test_a_subscription_with_other_attributes_is_a_mismatch(fake: FakeClients, topics: Topics) -> None:
    arn = topics.subscribe("orders", QUEUE_ARN, EVERYTHING)
    with pytest.raises(DeclarationMismatch):
        topics.subscribe("orders", QUEUE_ARN, {**EVERYTHING, "FilterPolicy": '{"rk":["a"]}'})
    assert topics.subscribe("orders", QUEUE_ARN, {}) == topics.find_subscription("orders", QUEUE_ARN) == arn
    assert subscription(fake) == EVERYTHING


def test_a_subscription_that_a_lookup_had_to_make_shows_that_it_was_not_there(
    fake: FakeClients, topics: Topics
) -> None:
    topics.create("orders")
    topics.find_subscription("orders", QUEUE_ARN)
    assert subscription(fake) == {}
    with pytest.raises(TopicNotFound):
        topics.find_subscription("nothing", QUEUE_ARN)


def test_unsubscribing_removes_this_queue_alone_and_is_fine_when_repeated(fake: FakeClients, topics: Topics) -> None:
    others = [QueueArn(f"arn:aws:sqs:{REGION}:{ACCOUNT}:other{number}") for number in range(230)]  # three pages
    for endpoint in [*others[:150], QUEUE_ARN, *others[150:]]:
        topics.subscribe("orders", endpoint, EVERYTHING)
    for _ in range(2):
        topics.unsubscribe("orders", QUEUE_ARN)
    assert set(fake.topics.by_name["orders"].subscriptions) == set(others)
    topics.unsubscribe("nothing", QUEUE_ARN)


# --- counting


def test_subscribers_are_counted_once_a_minute(fake: FakeClients, topics: Topics) -> None:
    assert topics.subscribers("orders") == 0
    fake.sns("create_topic", Name="orders")
    fake.sns("subscribe", TopicArn=arn("orders"), Protocol="sqs", Endpoint=QUEUE_ARN)
    assert topics.subscribers("orders") == 0
    assert fake.count("get_topic_attributes") == 1
    topics.forget_subscribers("orders")
    assert topics.subscribers("orders") == 1


def test_what_this_process_changes_it_counts_anew(topics: Topics) -> None:
    assert topics.subscribers("orders") == 0
    topics.subscribe("orders", QUEUE_ARN, EVERYTHING)
    assert topics.subscribers("orders") == 1
    topics.unsubscribe("orders", QUEUE_ARN)
    assert topics.subscribers("orders") == 0
    topics.delete("orders")
    topics.delete("orders")
    assert topics.subscribers("orders") == 0


def test_counts_that_lag_behind_are_not_believed(fake: FakeClients, topics: Topics) -> None:
    topics.subscribe("orders", QUEUE_ARN, EVERYTHING)
    stale = {"Attributes": {"SubscriptionsConfirmed": "0", "SubscriptionsPending": "0"}}
    fake.topics.get_topic_attributes = lambda TopicArn: stale  # type: ignore[method-assign]
    assert topics.subscribers("orders") == 1


def test_a_topic_that_cannot_be_read_has_an_unknown_number(
    fake: FakeClients, topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    fake.deny("sns:GetTopicAttributes")
    with caplog.at_level(logging.INFO):
        assert topics.subscribers("orders") is None
    assert not caplog.records


@pytest.mark.parametrize("operation", ["get_topic_attributes", "list_subscriptions_by_topic"])
def test_a_count_that_fails_is_no_answer(fake: FakeClients, topics: Topics, operation: str) -> None:
    fake.sns("create_topic", Name="orders")
    fake.fail(operation, BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        topics.subscribers("orders")
    fake.sns("subscribe", TopicArn=arn("orders"), Protocol="sqs", Endpoint=QUEUE_ARN)
    assert topics.subscribers("orders") == 1


def test_a_type_that_could_not_be_read_is_read_again(fake: FakeClients, topics: Topics) -> None:
    topics.create("orders", "fanout")
    other = Topics(fake, make_settings())
    fake.fail("list_tags_for_resource", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        other.recorded_type("orders")
    assert other.recorded_type("orders") == "fanout"
