"""What ``export terraform`` writes, applied, is what the library would have made: nothing is left to do."""

import json
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from support.emulators import Emulator
from support.everything import declare_all, make_app, planned
from support.inventory import inventory
from support.terraform import Terraform

from kombu_hake import Topic, admin

FOREIGN = {"Sid": "Audit", "Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sqs:ReceiveMessage"}


def found(aws: Emulator) -> dict[str, Any]:
    return inventory(aws.client("sqs"), aws.client("sns"), f"{aws.namespace}__")


def export(app: Celery, *, imports: bool = True) -> dict[str, Any]:
    with admin.connect(app, offline=not imports) as broker:
        return broker.export_terraform(imports=imports)


def terraform(aws: Emulator, document: dict[str, Any]) -> Terraform:
    lacks = ("RedriveAllowPolicy",) if aws.name == "moto" else ()
    return Terraform(document, aws.client("sqs"), aws.client("sns"), lacks)


def account(aws: Emulator) -> str:
    return str(aws.client("sts").get_caller_identity()["Account"])


def test_what_is_applied_is_accepted_by_verify_and_left_alone_by_auto(aws: Emulator) -> None:
    document = export(make_app(aws, account_id=account(aws)), imports=False)
    assert "import" not in document
    applied = terraform(aws, document)
    assert applied.apply()
    assert applied.plan() == []
    assert planned(make_app(aws)) == []
    declare_all(make_app(aws, topology="verify"))
    before = found(aws)
    declare_all(make_app(aws))
    assert found(aws) == before
    assert terraform(aws, export(make_app(aws))).apply() == []


def test_what_exists_is_imported_as_it_is(aws: Emulator) -> None:
    declare_all(make_app(aws))
    sqs, sns = aws.client("sqs"), aws.client("sns")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__email")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    policy = json.loads(attributes["Policy"])
    policy["Statement"].append({**FOREIGN, "Resource": attributes["QueueArn"]})
    tuned = {"VisibilityTimeout": "77", "DelaySeconds": "3", "Policy": json.dumps(policy)}
    sqs.set_queue_attributes(QueueUrl=url, Attributes=tuned)
    sqs.tag_queue(QueueUrl=url, Tags={"owner": "%{if true}x%{endif}", "hake:made-by": "kombu_hake 0.9"})
    topic = f"arn:aws:sns:us-east-1:{account(aws)}:{aws.namespace}__orders"
    sns.set_topic_attributes(TopicArn=topic, AttributeName="DisplayName", AttributeValue="Orders ${1}")
    before = found(aws)
    document = export(make_app(aws))
    assert len(document["import"]) == sum(len(each) for each in document["resource"].values())
    assert terraform(aws, document).apply() == []
    assert found(aws) == before
    assert len(planned(make_app(aws))) == 1  # of what is declared, the visibility timeout was changed


def test_a_binding_of_another_app_is_kept(aws: Emulator) -> None:
    declare_all(make_app(aws))
    with make_app(aws).connection_for_write() as connection:
        Queue("email", channel=connection.default_channel).bind_to("news", "")
        Queue("email", channel=connection.default_channel).bind_to("orders", "paid")
    assert terraform(aws, export(make_app(aws))).apply() == []


def test_what_is_missing_is_made_beside_what_exists(aws: Emulator) -> None:
    declare_all(make_app(aws))
    sqs = aws.client("sqs")
    complete = found(aws)
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=f"{aws.namespace}__jobs-undelivered")["QueueUrl"])
    done = terraform(aws, export(make_app(aws))).apply()
    assert [what.partition(".")[0] for what in done] == ["create aws_sqs_queue", "create aws_sqs_queue_policy"]
    assert set(found(aws)["queues"]) == set(complete["queues"])


def test_without_aws_and_credentials_it_needs_region_and_account(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("shop", broker="hake:///shop?region=cn-north-1&account_id=123456789012", set_as_current=False)
    Topic("orders", app=app).on("placed", group="email", name="receipt")(print)
    [subscription] = export(app, imports=False)["resource"]["aws_sns_topic_subscription"].values()
    assert subscription["topic_arn"] == "arn:aws-cn:sns:cn-north-1:123456789012:shop__orders"
