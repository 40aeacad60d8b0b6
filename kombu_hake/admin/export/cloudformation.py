"""A blueprint as a CloudFormation template. Pure.

Names are explicit, because processes find queues and topics by them, and ARNs are literals: a stack belongs to one
account and region. Queues and topics outlive the stack (``DeletionPolicy``), because queues hold messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kombu_hake._version import __version__
from kombu_hake.admin.export.names import logical_id
from kombu_hake.amqp import DOCUMENT_ATTRIBUTES, parse_arn, read_object, readable_dead_queue
from kombu_hake.exceptions import ConfigurationError
from kombu_hake.topology import Blueprint, SnsSubscription, SnsTopic, SqsQueue

__all__ = ["MAX_BYTES", "MAX_RESOURCES", "cloudformation", "template"]

MAX_RESOURCES = 500
#: Of a template that is uploaded to S3.
MAX_BYTES = 1_000_000
_VERSION = "2010-09-09"
_KEPT = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
_NUMBERS = {
    "DelaySeconds", "KmsDataKeyReusePeriodSeconds", "MaximumMessageSize", "MessageRetentionPeriod",
    "ReceiveMessageWaitTimeSeconds", "VisibilityTimeout",
}  # fmt: skip
_FLAGS = {"ContentBasedDeduplication", "FifoQueue", "FifoTopic", "RawMessageDelivery", "SqsManagedSseEnabled"}
_DOCUMENTS = DOCUMENT_ATTRIBUTES | {"FilterPolicy"}


def cloudformation(blueprint: Blueprint) -> dict[str, Any]:
    """The template, ready for ``json.dumps``.

    Raises:
        ConfigurationError: it exceeds what CloudFormation takes.
    """
    queues = [queue for queue in blueprint.queues if not queue.is_predefined]
    topics = [topic for topic in blueprint.topics if topic.is_bound and not topic.is_predefined]
    ids: dict[str, str] = {queue.arn: logical_id("Queue", queue.physical) for queue in queues}
    ids |= {topic.arn: logical_id("Topic", topic.physical) for topic in topics}
    gates: dict[str, str] = {queue.arn: logical_id("Policy", queue.physical) for queue in queues if queue.policy}
    resources: dict[str, Any] = {ids[topic.arn]: _topic(topic) for topic in topics}
    resources |= {ids[queue.arn]: _queue(queue, ids) for queue in queues}
    resources |= {gates[queue.arn]: _policy(queue, ids) for queue in queues if queue.policy}
    for one in blueprint.subscriptions:
        if not one.is_predefined:
            name = logical_id("Subscription", parse_arn(one.topic_arn).name, parse_arn(one.queue_arn).name)
            resources[name] = _subscription(one, ids, gates)
    return template(
        f"Queues and topics, made by kombu_hake {__version__}: celery hake export cloudformation", resources
    )


def template(description: str, resources: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """A whole template.

    Raises:
        ConfigurationError: it exceeds what CloudFormation takes.
    """
    found = {"AWSTemplateFormatVersion": _VERSION, "Description": description, **sections, "Resources": dict(resources)}
    size = len(json.dumps(found, separators=(",", ":")).encode())
    if len(resources) > MAX_RESOURCES or size > MAX_BYTES:
        raise ConfigurationError(
            f"The template would have {len(resources)} resources and {size:,} bytes, and CloudFormation takes "
            f"{MAX_RESOURCES} and {MAX_BYTES:,}. Give parts of the app (other task modules, other task_queues) an "
            "app and a stack of their own. 'export terraform' has no such limits."
        )
    return found


def _queue(queue: SqsQueue, ids: Mapping[str, str]) -> dict[str, Any]:
    properties = {"QueueName": queue.physical, **_properties(queue.attributes)}
    needs = []
    if queue.redrive:
        properties["RedrivePolicy"] = _document(queue.physical, "RedrivePolicy", queue.redrive)
        needs = [ids[arn] for arn in [readable_dead_queue(queue.redrive)] if arn in ids]
    if queue.redrive_allow:
        properties["RedriveAllowPolicy"] = _document(queue.physical, "RedriveAllowPolicy", queue.redrive_allow)
    return _resource("AWS::SQS::Queue", properties | _tags(queue.tags), needs) | _KEPT


def _topic(topic: SnsTopic) -> dict[str, Any]:
    properties = {"TopicName": topic.physical, **_properties(topic.attributes), **_tags(topic.tags)}
    return _resource("AWS::SNS::Topic", properties, []) | _KEPT


def _policy(queue: SqsQueue, ids: Mapping[str, str]) -> dict[str, Any]:
    properties = {
        "Queues": [{"Ref": ids[queue.arn]}],
        "PolicyDocument": _document(queue.physical, "Policy", queue.policy),
    }
    return _resource("AWS::SQS::QueuePolicy", properties, [])


def _subscription(one: SnsSubscription, ids: Mapping[str, str], gates: Mapping[str, str]) -> dict[str, Any]:
    found = _properties(one.attributes)
    properties = {"TopicArn": one.topic_arn, "Protocol": "sqs", "Endpoint": one.queue_arn, **found}
    # What SNS accepts must find the queue's door open: its policy comes first.
    keeper = readable_dead_queue(one.attributes.get("RedrivePolicy"))
    needs = [ids.get(one.topic_arn), *(gates.get(arn, ids.get(arn)) for arn in (one.queue_arn, keeper))]
    return _resource("AWS::SNS::Subscription", properties, [name for name in needs if name is not None])


def _properties(attributes: Mapping[str, str]) -> dict[str, Any]:
    return {name: _value(name, text) for name, text in sorted(attributes.items())}


def _value(name: str, text: str) -> Any:
    if name in _NUMBERS and text.isdecimal():
        return int(text)
    if name in _FLAGS:
        return text.lower() == "true"
    return read_object(text) if name in _DOCUMENTS else text


def _document(queue: str, name: str, text: str | None) -> dict[str, Any]:
    try:
        return read_object(text)
    except ValueError as exc:
        raise ConfigurationError(
            f"The {name} of queue {queue!r} is not a JSON object: {exc}. Correct queue_attributes."
        ) from exc


def _tags(tags: Mapping[str, str]) -> dict[str, Any]:
    return {"Tags": [{"Key": key, "Value": tags[key]} for key in sorted(tags)]} if tags else {}


def _resource(kind: str, properties: Mapping[str, Any], needs: list[str]) -> dict[str, Any]:
    return {"Type": kind, **({"DependsOn": sorted(set(needs))} if needs else {}), "Properties": dict(properties)}
