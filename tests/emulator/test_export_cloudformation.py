"""What ``export cloudformation`` writes, made as a stack, is what the library would have made."""

import json
from typing import Any

import pytest
from celery import Celery
from support.emulators import Emulator
from support.everything import declare_all, make_app, planned
from support.inventory import inventory

from kombu_hake import admin

#: moto makes no policies, no subscriptions and no tags of topics of a stack: the rest is looked at.
MOTO_MAKES = {"AWS::SQS::Queue", "AWS::SNS::Topic"}


def found(aws: Emulator) -> dict[str, Any]:
    return inventory(aws.client("sqs"), aws.client("sns"), f"{aws.namespace}__")


def template(app: Celery) -> dict[str, Any]:
    with admin.connect(app) as broker:
        return broker.export_cloudformation()


def make_stack(aws: Emulator, document: dict[str, Any], **parameters: str) -> None:
    stacks = aws.client("cloudformation")
    name = f"stack-{aws.namespace}"
    stacks.create_stack(
        StackName=name,
        TemplateBody=json.dumps(document),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    stacks.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})


@pytest.mark.ministack
def test_a_stack_is_accepted_by_verify_and_left_alone_by_auto(ministack: Emulator) -> None:
    aws = ministack.in_namespace("cfn-all")
    make_stack(aws, template(make_app(aws)))
    assert planned(make_app(aws)) == []
    declare_all(make_app(aws, topology="verify"))
    before = found(aws)
    assert (len(before["queues"]), len(before["topics"]), len(before["subscriptions"])) == (21, 6, 11)
    declare_all(make_app(aws))
    assert found(aws) == before


def test_on_moto_a_stack_has_queues_and_topics_as_the_library_makes_them(moto: Emulator) -> None:
    made, declared = moto.in_namespace("cfn-made"), moto.in_namespace("cfn-decl")
    document = template(make_app(made))
    resources = {name: one for name, one in document["Resources"].items() if one["Type"] in MOTO_MAKES}
    make_stack(made, {**document, "Resources": resources})
    declare_all(make_app(declared))
    of_stack, of_library = (comparable(found(each), each.namespace) for each in (made, declared))
    assert of_stack == of_library
    assert (len(of_stack["queues"]), len(of_stack["topics"])) == (21, 6)


def comparable(inventory: dict[str, Any], namespace: str) -> dict[str, Any]:
    """What moto makes, apart from what differs between any two queues."""
    for queue in inventory["queues"].values():
        for name in ("Policy", "CreatedTimestamp", "LastModifiedTimestamp"):
            queue["attributes"].pop(name, None)
    kept = {"queues": inventory["queues"], "topics": sorted(inventory["topics"])}
    shown: dict[str, Any] = json.loads(json.dumps(kept).replace(namespace, "namespace"))
    return shown


@pytest.mark.ministack
def test_alarms_are_made_as_a_stack(ministack: Emulator) -> None:
    aws = ministack.in_namespace("cfn-alarms")
    with admin.connect(make_app(aws)) as broker:
        document = broker.export_alarms()
    make_stack(aws, document, MaxReady="5", NotificationTopicArn="arn:aws:sns:us-east-1:000000000000:on-call")
    pages = aws.client("cloudwatch").get_paginator("describe_alarms").paginate(AlarmNamePrefix="cfn-alarms__")
    shown = [alarm for page in pages for alarm in page["MetricAlarms"]]
    by_name = {alarm["AlarmName"]: alarm for alarm in shown}
    assert len(by_name) == len(document["Resources"])
    ready = by_name["cfn-alarms__email-ready"]
    assert (ready["Threshold"], ready["AlarmActions"]) == (5.0, ["arn:aws:sns:us-east-1:000000000000:on-call"])
    assert by_name["cfn-alarms__email-dead-dead-letters"]["Threshold"] == 0
