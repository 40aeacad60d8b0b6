"""The stand-in over HTTP, as boto3 sees it."""

import time
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config
from fake_aws import SLOW, AwsError
from fakes import ACCOUNT
from kombu import Connection, Exchange, Queue
from support.standin import REGION, RemoteStandIn, StandIn

from kombu_hake.aws.clients import Clients
from kombu_hake.config import load, split_url
from kombu_hake.exceptions import BrokerUnavailable, HakeError, QueueNotFound
from kombu_hake.topology import Timings


@pytest.fixture
def aws() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def sqs(aws: StandIn) -> Any:
    return aws.client("sqs")


@pytest.fixture
def sns(aws: StandIn) -> Any:
    return aws.client("sns")


def impatient(aws: StandIn, service: str) -> Any:
    """A client of boto3 that tries once."""
    return boto3.client(
        service,
        endpoint_url=aws.endpoint_url,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}),
    )


def test_errors_of_sqs_have_the_legacy_code_and_the_modeled_class(sqs: Any) -> None:
    with pytest.raises(sqs.exceptions.QueueDoesNotExist) as caught:
        sqs.get_queue_url(QueueName="missing")
    error = caught.value.response["Error"]
    assert error["Code"] == "AWS.SimpleQueueService.NonExistentQueue"
    assert error["QueryErrorCode"] == "QueueDoesNotExist"
    sqs.create_queue(QueueName="work", Attributes={"DelaySeconds": "1"})
    with pytest.raises(sqs.exceptions.QueueNameExists):
        sqs.create_queue(QueueName="work", Attributes={"DelaySeconds": "2"})


def test_errors_of_sns_have_their_class(sns: Any) -> None:
    with pytest.raises(sns.exceptions.NotFoundException):
        sns.get_topic_attributes(TopicArn=f"arn:aws:sns:{REGION}:{ACCOUNT}:missing")
    with pytest.raises(sns.exceptions.ResourceNotFoundException):
        sns.list_tags_for_resource(ResourceArn=f"arn:aws:sns:{REGION}:{ACCOUNT}:missing")
    with pytest.raises(sns.exceptions.InvalidParameterException, match="Topic Name"):
        sns.create_topic(Name="a.b")


def test_messages_pass_through_a_topic_as_they_were_sent(sqs: Any, sns: Any) -> None:
    url = sqs.create_queue(QueueName="work")["QueueUrl"]
    topic = sns.create_topic(Name="orders", Tags=[{"Key": "team", "Value": "a & b"}])["TopicArn"]
    queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:work"
    policy = (
        '{"Statement": [{"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage",'
        f' "Resource": "{queue}", "Condition": {{"ArnEquals": {{"aws:SourceArn": "{topic}"}}}}}}]}}'
    )
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue, Attributes={"RawMessageDelivery": "true"})
    attributes = {
        "text": {"DataType": "String", "StringValue": "<é&>"},
        "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    entry = {"Id": "1", "Message": "<body> & é\n", "MessageAttributes": attributes, "MessageGroupId": "tenant"}
    answer = sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=[entry])
    assert [item["Id"] for item in answer["Successful"]] == ["1"]
    [message] = sqs.receive_message(
        QueueUrl=url, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"], WaitTimeSeconds=5
    )["Messages"]
    assert (message["Body"], message["MessageAttributes"]) == ("<body> & é\n", attributes)
    assert message["Attributes"]["MessageGroupId"] == "tenant"
    assert sns.list_tags_for_resource(ResourceArn=topic)["Tags"] == [{"Key": "team", "Value": "a & b"}]


def test_pages_of_a_list(sns: Any) -> None:
    for i in range(101):
        sns.create_topic(Name=f"t{i}")
    pages = [len(page["Topics"]) for page in sns.get_paginator("list_topics").paginate()]
    assert pages == [100, 1]


def test_a_clock_that_is_sixteen_minutes_off_is_refused(aws: StandIn) -> None:
    aws.clock.advance(16 * 60)
    for service, operation in (("sqs", "list_queues"), ("sns", "list_topics")):
        with pytest.raises(botocore.exceptions.ClientError, match="Signature expired") as caught:
            getattr(impatient(aws, service), operation)()
        assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_the_date_is_that_of_the_stand_ins_clock(aws: StandIn) -> None:
    aws.clock.advance(600)
    clients = Clients(load(split_url(aws.url()), {}, {}))
    before = clients.now_ms()
    clients.sns("create_topic", Name="orders")
    assert clients.now_ms() - before > 590_000


def test_throttled_calls_are_tried_again(aws: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        aws.fake.settle()

    monkeypatch.setattr("time.sleep", sleep)
    aws.fake.use(SLOW)
    clients = Clients(load(split_url(aws.url()), {}, {}))
    url = clients.sqs("create_queue", QueueName="work")["QueueUrl"]
    for _ in range(8):
        clients.sqs("list_queue_tags", QueueUrl=url)
    assert waits
    assert aws.fake.count("list_queue_tags") > 8


def test_connections_that_take_it_for_aws_check_their_writes_in_its_time(aws: StandIn) -> None:
    aws.fake.use(SLOW)
    with aws.taken_for_aws(), Connection(aws.url()) as connection:
        channel = connection.default_channel
        assert channel.topology.timings == Timings()
        started = time.monotonic()
        Queue("work", Exchange("orders", "fanout"))(channel).declare()
        reads = aws.fake.count("get_queue_attributes")
        aws.pass_time(130)  # the checks that follow a write
        assert aws.fake.count("get_queue_attributes") > reads
        assert time.monotonic() - started < 60


def test_keys_of_an_assumed_role_come_from_sts(aws: StandIn) -> None:
    role = "arn:aws:iam::111122223333:role/worker"
    settings = load(split_url(aws.url(role_arn=role)), {}, {})
    with pytest.raises(QueueNotFound):
        Clients(settings).sqs("get_queue_url", QueueName="missing")
    assert aws.fake.count("assume_role") == 1
    aws.credentials_fail = AwsError("AccessDenied", "not authorized to perform: sts:AssumeRole")
    with pytest.raises(HakeError):
        Clients(settings).sqs("get_queue_url", QueueName="missing")


def test_keys_come_from_the_agent_of_a_container(aws: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.endpoint_url}/credentials")
    settings = load(split_url("hake://"), {"endpoint_url": aws.endpoint_url, "region": REGION}, {})
    with pytest.raises(QueueNotFound):
        Clients(settings).sqs("get_queue_url", QueueName="missing")
    assert aws.fake.count("credentials") == 1


def test_it_runs_in_a_process_of_its_own() -> None:
    with RemoteStandIn({"tag_reads_s": 7.0}) as aws:
        sqs = aws.client("sqs")
        url = sqs.create_queue(QueueName="work")["QueueUrl"]
        sqs.tag_queue(QueueUrl=url, Tags={"a": "b"})
        assert "Tags" not in sqs.list_queue_tags(QueueUrl=url)
        state = aws.control(settle=True)
        assert state["calls"] == {"create_queue": 1, "tag_queue": 1, "list_queue_tags": 1}
        assert (state["timings"]["tag_reads_s"], state["timings"]["filters_act_s"]) == (7.0, 900.0)
        assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"a": "b"}
        aws.control(outage={"code": "ServiceUnavailable"})
        with pytest.raises(BrokerUnavailable):
            Clients(load(split_url(aws.url()), {}, {})).sqs("get_queue_url", QueueName="work")
