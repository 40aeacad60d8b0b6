"""The fake refuses what AWS refuses, in AWS's words, and is late where AWS is late."""

import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from fake_aws import CREDENTIAL_FAILURES, QUICK, SIGNATURE_FAILURES, SLOW, AwsError
from fakes import ACCOUNT, REGION, FakeClients, eventually

from kombu_hake.exceptions import BrokerUnavailable, HakeError, QuotaExceeded, TopicNotFound

TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:orders"
EU = '{"region": ["eu"]}'


@pytest.fixture
def slow() -> FakeClients:
    return FakeClients(timings=SLOW)


def refused(fake: FakeClients, service: str, operation: str, **params: Any) -> AwsError:
    with pytest.raises(AwsError) as caught:
        fake.call(service, operation, params)
    return caught.value


def queue_arn(name: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def make_queue(fake: FakeClients, name: str, **attributes: str) -> str:
    return str(fake.sqs("create_queue", QueueName=name, Attributes=attributes)["QueueUrl"])


def policy_of(name: str) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn(name),
        "Condition": {"ArnEquals": {"aws:SourceArn": TOPIC}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def subscribe(fake: FakeClients, queue: str, **attributes: str) -> str:
    answer = fake.sns(
        "subscribe",
        TopicArn=TOPIC,
        Protocol="sqs",
        Endpoint=queue_arn(queue),
        Attributes={"RawMessageDelivery": "true", **attributes},
    )
    return str(answer["SubscriptionArn"])


def publish(fake: FakeClients, body: str, **attributes: str) -> None:
    typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    fake.sns("publish", TopicArn=TOPIC, Message=body, MessageAttributes=typed)


def bodies(fake: FakeClients, queue: str) -> list[str]:
    return fake.queues.queue(queue).bodies()


def bound(fake: FakeClients, queue: str, **attributes: str) -> str:
    """A queue that the topic delivers to; the ARN of its subscription."""
    fake.sns("create_topic", Name="orders")
    make_queue(fake, queue, Policy=policy_of(queue))
    return subscribe(fake, queue, **attributes)


# --- names and deletion


@pytest.mark.parametrize("name", ["", "a.b", "a b", "é", "q" * 81, "a.fifo", "a/b"])
def test_names_of_queues_are_letters_digits_hyphens_and_underscores(fake: FakeClients, name: str) -> None:
    assert refused(fake, "sqs", "create_queue", QueueName=name).code == "InvalidParameterValue"


@pytest.mark.parametrize("name", ["", "a.b", "a b", "t" * 257, "x.fifo"])
def test_names_of_topics_likewise_up_to_256(fake: FakeClients, name: str) -> None:
    error = refused(fake, "sns", "create_topic", Name=name)
    assert (error.code, error.status) == ("InvalidParameter", 400)
    assert "Topic Name" in error.text


def test_a_deleted_queue_can_be_created_again_after_sixty_seconds(fake: FakeClients) -> None:
    fake.sqs("delete_queue", QueueUrl=make_queue(fake, "work"))
    error = refused(fake, "sqs", "create_queue", QueueName="work")
    assert (error.code, error.shape) == (
        "AWS.SimpleQueueService.QueueDeletedRecently",
        "QueueDeletedRecently",
    )
    fake.clock.advance(60)
    make_queue(fake, "work")


def test_a_batch_to_a_deleted_queue_fails_whole(fake: FakeClients) -> None:
    url = make_queue(fake, "work")
    fake.sqs("delete_queue", QueueUrl=url)
    entries = [{"Id": "0", "MessageBody": "x"}]
    error = refused(fake, "sqs", "send_message_batch", QueueUrl=url, Entries=entries)
    assert (error.code, error.shape, error.status) == (
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        400,
    )


# --- attributes, tags, quotas


@pytest.mark.parametrize("name", ["FifoThroughputLimit", "DeduplicationScope", "ContentBasedDeduplication"])
def test_fifo_attributes_are_refused_on_standard_queues(fake: FakeClients, name: str) -> None:
    for error in (
        refused(fake, "sqs", "create_queue", QueueName="work", Attributes={name: "true"}),
        refused(fake, "sqs", "set_queue_attributes", QueueUrl=make_queue(fake, "work"), Attributes={name: "true"}),
    ):
        assert (error.code, error.text) == ("InvalidAttributeName", f"Unknown Attribute {name}.")


def test_a_queue_has_at_most_fifty_tags(fake: FakeClients) -> None:
    url = make_queue(fake, "work")
    fake.sqs("tag_queue", QueueUrl=url, Tags={f"theirs:{i}": "x" for i in range(49)})
    fake.sqs("tag_queue", QueueUrl=url, Tags={"theirs:0": "y", "ours": "x"})
    error = refused(fake, "sqs", "tag_queue", QueueUrl=url, Tags={"one more": "x"})
    assert error.code == "InvalidParameterValue"


def test_a_policy_has_at_most_8192_bytes_and_20_statements(fake: FakeClients) -> None:
    url = make_queue(fake, "work")
    [statement] = json.loads(policy_of("work"))["Statement"]
    for statements in ([{"Effect": "Allow"}] * 21, [{**statement, "Sid": "s" * 8_192}]):
        text = json.dumps({"Statement": statements})
        error = refused(fake, "sqs", "set_queue_attributes", QueueUrl=url, Attributes={"Policy": text})
        assert error.code == "InvalidAttributeValue"


def test_the_201st_filter_of_a_topic_is_refused_and_no_filter_is_not(fake: FakeClients) -> None:
    fake.sns("create_topic", Name="orders")
    for i in range(200):
        subscribe(fake, f"q{i}", FilterPolicy=EU)
    one_more = {"TopicArn": TOPIC, "Protocol": "sqs", "Endpoint": queue_arn("q200")}
    error = refused(fake, "sns", "subscribe", **one_more, Attributes={"FilterPolicy": EU})
    assert (error.code, error.status) == ("FilterPolicyLimitExceeded", 403)
    arn = fake.sns("subscribe", **one_more)["SubscriptionArn"]
    setting = {"SubscriptionArn": arn, "AttributeName": "FilterPolicy", "AttributeValue": EU}
    with pytest.raises(QuotaExceeded):
        fake.sns("set_subscription_attributes", **setting)


def test_a_topic_with_large_messages_has_at_most_100_subscriptions(fake: FakeClients) -> None:
    fake.sns("create_topic", Name="orders")
    for i in range(100):
        subscribe(fake, f"q{i}")
    large = {"TopicArn": TOPIC, "AttributeName": "MaximumMessageSize", "AttributeValue": "1048576"}
    fake.sns("set_topic_attributes", **large)
    error = refused(fake, "sns", "subscribe", TopicArn=TOPIC, Protocol="sqs", Endpoint=queue_arn("q100"))
    assert error.code == "InvalidParameter"
    fake.sns("set_topic_attributes", **{**large, "AttributeValue": "262144"})
    subscribe(fake, "q100")
    assert refused(fake, "sns", "set_topic_attributes", **large).code == "InvalidParameter"


def test_a_topic_takes_256_kib_or_what_it_was_raised_to(fake: FakeClients) -> None:
    bound(fake, "work")
    assert "Message too long" in refused(fake, "sns", "publish", TopicArn=TOPIC, Message="x" * 262_145).text
    fake.sns("set_topic_attributes", TopicArn=TOPIC, AttributeName="MaximumMessageSize", AttributeValue="1048576")
    publish(fake, "x" * 1_048_576)
    assert [len(body) for body in bodies(fake, "work")] == [1_048_576]


class TestInFlight:
    @pytest.fixture
    def url(self, fake: FakeClients) -> str:
        fake.queues.most_in_flight = 2
        url = make_queue(fake, "work")
        for i in range(3):
            fake.sqs("send_message", QueueUrl=url, MessageBody=str(i))
        fake.sqs("receive_message", QueueUrl=url, MaxNumberOfMessages=10)
        return url

    def test_a_short_poll_is_refused(self, fake: FakeClients, url: str) -> None:
        error = refused(fake, "sqs", "receive_message", QueueUrl=url)
        assert (error.code, error.status) == ("OverLimit", 403)

    def test_a_long_poll_returns_nothing_and_no_error(self, fake: FakeClients, url: str) -> None:
        before = fake.clock()
        assert fake.sqs("receive_message", QueueUrl=url, WaitTimeSeconds=20) == {}
        assert fake.clock() == before + 20

    def test_settling_one_makes_room(self, fake: FakeClients, url: str) -> None:
        handle = fake.queues.queue("work").messages[0].handles[-1]
        fake.sqs("delete_message", QueueUrl=url, ReceiptHandle=handle)
        assert [item["Body"] for item in fake.sqs("receive_message", QueueUrl=url)["Messages"]] == ["2"]


# --- idempotency


def test_creating_a_topic_again_compares_what_is_passed(fake: FakeClients) -> None:
    tags = [{"Key": "team", "Value": "shop"}]
    fake.sns("create_topic", Name="orders", Attributes={"DisplayName": "Orders"}, Tags=tags)
    for again in ({}, {"Attributes": {"DisplayName": "Orders"}}, {"Tags": tags}):
        assert fake.sns("create_topic", Name="orders", **again) == {"TopicArn": TOPIC}
    error = refused(fake, "sns", "create_topic", Name="orders", Attributes={"SignatureVersion": "2"})
    assert error.text == "Invalid parameter: Attributes Reason: Topic already exists with different attributes"
    more = [*tags, {"Key": "cost", "Value": "1"}]
    error = refused(fake, "sns", "create_topic", Name="orders", Tags=more)
    assert error.text == "Invalid parameter: Tags Reason: Topic already exists with different tags"


def test_subscribing_again_compares_what_is_passed_and_changes_nothing(fake: FakeClients) -> None:
    arn = bound(fake, "work", FilterPolicy=EU)
    again = {"TopicArn": TOPIC, "Protocol": "sqs", "Endpoint": queue_arn("work")}
    for same in (
        {},
        {"RawMessageDelivery": "True"},
        {"FilterPolicyScope": "MessageAttributes"},
        {"FilterPolicy": EU},
    ):
        assert fake.sns("subscribe", **again, Attributes=same) == {"SubscriptionArn": arn}
    for other in ({"RawMessageDelivery": "false"}, {"FilterPolicyScope": "MessageBody"}, {"FilterPolicy": "{}"}):
        error = refused(fake, "sns", "subscribe", **again, Attributes=other)
        assert error.text.endswith("Subscription already exists with different attributes")


def test_a_fifo_queue_cannot_subscribe_to_a_standard_topic(fake: FakeClients) -> None:
    fake.sns("create_topic", Name="orders")
    error = refused(fake, "sns", "subscribe", TopicArn=TOPIC, Protocol="sqs", Endpoint=queue_arn("work.fifo"))
    assert "FIFO SQS Queues can not be subscribed to standard SNS topics" in error.text


def test_tags_of_a_missing_topic_are_not_found(fake: FakeClients) -> None:
    error = refused(fake, "sns", "list_tags_for_resource", ResourceArn=TOPIC)
    assert (error.code, error.status) == ("ResourceNotFound", 404)
    with pytest.raises(TopicNotFound):
        fake.sns("list_tags_for_resource", ResourceArn=TOPIC)


# --- delivery


def test_a_subscription_keeps_its_scope_when_its_filter_is_set(fake: FakeClients) -> None:
    arn = bound(fake, "work", FilterPolicyScope="MessageBody")
    fake.sns("set_subscription_attributes", SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=EU)
    publish(fake, "text", region="eu")
    publish(fake, '{"region": "us"}', region="eu")
    publish(fake, '{"region": "eu"}')
    assert bodies(fake, "work") == ['{"region": "eu"}']
    setting = {"AttributeName": "FilterPolicyScope", "AttributeValue": "MessageAttributes"}
    fake.sns("set_subscription_attributes", SubscriptionArn=arn, **setting)
    publish(fake, "text", region="eu")
    assert bodies(fake, "work")[1:] == ["text"]


def test_a_raw_delivery_with_more_than_ten_attributes_is_discarded(fake: FakeClients) -> None:
    bound(fake, "work")
    publish(fake, "ten", **{f"a{i}": "x" for i in range(10)})
    publish(fake, "eleven", **{f"a{i}": "x" for i in range(11)})
    assert bodies(fake, "work") == ["ten"]
    assert fake.topics.lost == [("work", "more than ten attributes")]


def test_filters_compare_numbers(fake: FakeClients) -> None:
    bound(fake, "work", FilterPolicy='{"priority": [{"numeric": [">=", 3, "<", 6]}]}')
    for priority in ("2", "3", "5.5", "6"):
        number = {"priority": {"DataType": "Number", "StringValue": priority}}
        fake.sns("publish", TopicArn=TOPIC, Message=priority, MessageAttributes=number)
        publish(fake, f"text {priority}", priority=priority)
    assert bodies(fake, "work") == ["3", "5.5"]


# --- as slow as AWS


def test_reads_show_older_attributes_and_tags_for_a_while(slow: FakeClients) -> None:
    url = make_queue(slow, "work")
    slow.sqs("set_queue_attributes", QueueUrl=url, Attributes={"VisibilityTimeout": "90"})
    slow.sqs("tag_queue", QueueUrl=url, Tags={"team": "shop"})

    def seen() -> tuple[str, dict[str, Any]]:
        found = slow.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        return found["Attributes"]["VisibilityTimeout"], slow.sqs("list_queue_tags", QueueUrl=url)

    assert seen() == ("30", {})
    slow.clock.advance(59)
    assert seen() == ("30", {})
    slow.clock.advance(1)
    assert seen() == ("90", {"Tags": {"team": "shop"}})


def test_each_change_is_seen_in_its_turn(slow: FakeClients) -> None:
    url = make_queue(slow, "work")
    for value in ("40", "50"):
        slow.sqs("set_queue_attributes", QueueUrl=url, Attributes={"VisibilityTimeout": value})
        slow.clock.advance(30)
    found = []
    for _ in range(2):
        answer = slow.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["VisibilityTimeout"])
        found.append(answer["Attributes"]["VisibilityTimeout"])
        slow.clock.advance(30)
    assert found == ["40", "50"]


def test_reads_of_a_subscription_are_late(slow: FakeClients) -> None:
    arn = bound(slow, "work")
    slow.sns("set_subscription_attributes", SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=EU)
    for seconds, expected in ((0, None), (59, None), (1, EU)):
        slow.clock.advance(seconds)
        answer = slow.sns("get_subscription_attributes", SubscriptionArn=arn)
        assert answer["Attributes"].get("FilterPolicy") == expected


def test_what_is_published_before_the_policy_acts_is_lost(slow: FakeClients) -> None:
    slow.sns("create_topic", Name="orders")
    url = make_queue(slow, "work")
    subscribe(slow, "work")
    slow.sqs("set_queue_attributes", QueueUrl=url, Attributes={"Policy": policy_of("work")})
    slow.clock.advance(59)
    publish(slow, "lost")
    slow.clock.advance(1)
    publish(slow, "delivered")
    assert bodies(slow, "work") == ["delivered"]
    assert [queue for queue, _ in slow.topics.lost] == ["work"]


def test_a_new_subscription_and_a_changed_filter_act_late(slow: FakeClients) -> None:
    arn = bound(slow, "work")
    publish(slow, "too early", region="us")
    slow.clock.advance(15)
    slow.sns("set_subscription_attributes", SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=EU)
    publish(slow, "old filter", region="us")
    slow.clock.advance(900)
    publish(slow, "new filter", region="us")
    assert bodies(slow, "work") == ["old filter"]


def test_settling_is_the_wait_in_no_time(slow: FakeClients) -> None:
    arn = bound(slow, "work")
    slow.sns("set_subscription_attributes", SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=EU)
    before = slow.clock()
    slow.settle()
    publish(slow, "us", region="us")
    publish(slow, "eu", region="eu")
    assert bodies(slow, "work") == ["eu"]
    assert slow.clock() == before


def test_what_acts_before_a_call_is_read_as_late_as_ever(slow: FakeClients) -> None:
    arn = bound(slow, "work")
    slow.clock.advance(900)
    slow.act_before("publish")
    slow.sns("set_subscription_attributes", SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=EU)
    publish(slow, "us", region="us")
    publish(slow, "eu", region="eu")
    assert bodies(slow, "work") == ["eu"]
    assert "FilterPolicy" not in slow.sns("get_subscription_attributes", SubscriptionArn=arn)["Attributes"]


def test_tag_calls_of_the_account_share_five_a_second(slow: FakeClients) -> None:
    urls = [make_queue(slow, f"q{i}") for i in range(5)]
    for url in urls:
        slow.sqs("list_queue_tags", QueueUrl=url)
    error = refused(slow, "sqs", "tag_queue", QueueUrl=urls[0], Tags={"a": "b"})
    assert (error.code, error.text) == ("ThrottlingException", "Rate exceeded")
    slow.clock.advance(1)
    slow.sqs("tag_queue", QueueUrl=urls[0], Tags={"a": "b"})


def test_each_control_action_has_thirty_a_second_and_messages_have_no_budget(slow: FakeClients) -> None:
    url = bound(slow, "work") and slow.queues.queue("work").url
    for _ in range(31):
        slow.sqs("send_message", QueueUrl=url, MessageBody="x")
    for _ in range(29):
        slow.sns("create_topic", Name="orders")
    assert refused(slow, "sns", "create_topic", Name="orders").code == "Throttling"
    slow.sqs("get_queue_url", QueueName="work")


@pytest.mark.parametrize("name", CREDENTIAL_FAILURES)
def test_credentials_that_cannot_be_renewed_end_with_the_outage(fake: FakeClients, name: str) -> None:
    make_queue(fake, "work")
    fake.outage = CREDENTIAL_FAILURES[name]
    with pytest.raises(HakeError):
        fake.sqs("get_queue_url", QueueName="work")
    fake.outage = None
    fake.sqs("get_queue_url", QueueName="work")


@pytest.mark.parametrize("name", SIGNATURE_FAILURES)
def test_signatures_are_refused_as_aws_refuses_them(fake: FakeClients, name: str) -> None:
    fake.outage = SIGNATURE_FAILURES[name]
    assert refused(fake, "sqs", "list_queues").status in (400, 403)


def test_a_long_poll_of_one_queue_is_woken_by_its_messages_alone(fake: FakeClients) -> None:
    url, other = make_queue(fake, "work"), make_queue(fake, "other")
    found: list[Any] = []
    poll = threading.Thread(target=lambda: found.append(fake.sqs("receive_message", QueueUrl=url, WaitTimeSeconds=20)))
    poll.start()
    eventually(lambda: fake.count("receive_message") == 1)
    fake.sqs("send_message", QueueUrl=other, MessageBody="other")
    assert poll.is_alive()
    fake.sqs("send_message", QueueUrl=url, MessageBody="ours")
    poll.join(10)
    assert [message["Body"] for message in found[0]["Messages"]] == ["ours"]


def test_throttles_are_what_the_package_tries_again(slow: FakeClients) -> None:
    for timings in (replace(SLOW, control_per_s=1), QUICK):
        slow.use(timings)
        slow.sqs("list_queues")
        if timings is not QUICK:
            with pytest.raises(BrokerUnavailable) as caught:
                slow.sqs("list_queues")
            assert caught.value.is_throttle
