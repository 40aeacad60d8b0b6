"""A blueprint as Terraform JSON (``.tf.json``), with ``import`` blocks for what exists. Pure.

Names and ARNs are literals, so that a file that is applied in another account or region fails instead of wiring queues
to the topics of another one. Every text is escaped: what AWS shows (tags, policies) was written by others, and
Terraform evaluates ``${…}`` in any text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kombu_hake._version import __version__
from kombu_hake.admin.export.existing import Existing
from kombu_hake.admin.export.names import terraform_name, terraform_pair
from kombu_hake.amqp import (
    SNS_MAX_MESSAGE_BYTES,
    SQS_MAX_MESSAGE_BYTES,
    Store,
    lifecycle_rules,
    parse_arn,
    readable_dead_queue,
)
from kombu_hake.topology import Blueprint, SnsSubscription, SnsTopic, SqsQueue

__all__ = ["terraform"]

Converter = Callable[[str], Any]


def _flag(text: str) -> bool:
    return text.lower() == "true"


_QUEUE: Mapping[str, tuple[str, Converter]] = {
    "FifoQueue": ("fifo_queue", _flag),
    "VisibilityTimeout": ("visibility_timeout_seconds", int),
    "MessageRetentionPeriod": ("message_retention_seconds", int),
    "MaximumMessageSize": ("max_message_size", int),
    "DelaySeconds": ("delay_seconds", int),
    "ReceiveMessageWaitTimeSeconds": ("receive_wait_time_seconds", int),
    "ContentBasedDeduplication": ("content_based_deduplication", _flag),
    "DeduplicationScope": ("deduplication_scope", str),
    "FifoThroughputLimit": ("fifo_throughput_limit", str),
    "KmsMasterKeyId": ("kms_master_key_id", str),
    "KmsDataKeyReusePeriodSeconds": ("kms_data_key_reuse_period_seconds", int),
    "SqsManagedSseEnabled": ("sqs_managed_sse_enabled", _flag),
}
#: The access policy is left out: Terraform leaves it alone if it is not in the file.
_TOPIC: Mapping[str, tuple[str, Converter]] = {
    "FifoTopic": ("fifo_topic", _flag),
    "ContentBasedDeduplication": ("content_based_deduplication", _flag),
    "FifoThroughputScope": ("fifo_throughput_scope", str),
    "ArchivePolicy": ("archive_policy", str),
    "DisplayName": ("display_name", str),
    "KmsMasterKeyId": ("kms_master_key_id", str),
    "SignatureVersion": ("signature_version", int),
    "TracingConfig": ("tracing_config", str),
    "DeliveryPolicy": ("delivery_policy", str),
    **{
        f"{name}{attribute}": (f"{protocol}_{argument}", convert)
        for protocol, name in (
            ("application", "Application"), ("firehose", "Firehose"), ("http", "HTTP"), ("lambda", "Lambda"),
            ("sqs", "SQS"),
        )
        for attribute, argument, convert in (
            ("SuccessFeedbackRoleArn", "success_feedback_role_arn", str),
            ("SuccessFeedbackSampleRate", "success_feedback_sample_rate", int),
            ("FailureFeedbackRoleArn", "failure_feedback_role_arn", str),
        )
    },
}  # fmt: skip
_SUBSCRIPTION: Mapping[str, tuple[str, Converter]] = {
    "RawMessageDelivery": ("raw_message_delivery", _flag),
    "FilterPolicy": ("filter_policy", str),
    "FilterPolicyScope": ("filter_policy_scope", str),
    "RedrivePolicy": ("redrive_policy", str),
    "ReplayPolicy": ("replay_policy", str),
}


def terraform(blueprint: Blueprint, existing: Existing, stores: Iterable[Store] = ()) -> dict[str, Any]:
    """The document, ready for ``json.dumps``.

    Args:
        blueprint: What is to be; of what exists, as it is (:func:`kombu_hake.admin.export.existing.completed`).
        existing: What gets an ``import`` block.
        stores: Where large messages are kept. The buckets are not ours; their lifecycle rules are.
    """
    queues = [queue for queue in blueprint.queues if not queue.is_predefined]
    topics = [topic for topic in blueprint.topics if topic.is_bound and not topic.is_predefined]
    subscriptions = [one for one in blueprint.subscriptions if not one.is_predefined]
    names: dict[str, str] = {queue.arn: terraform_name(queue.physical) for queue in queues}
    resources: dict[str, dict[str, Any]] = {
        "aws_sns_topic": {terraform_name(topic.physical): _topic(topic) for topic in topics},
        "aws_sqs_queue": {names[queue.arn]: _queue(queue, names) for queue in queues},
        "aws_sqs_queue_policy": {names[queue.arn]: _policy(queue, names) for queue in queues if queue.policy},
    }
    resources["aws_sns_topic_subscription"] = {
        _pair(one): _subscription(one, resources, names) for one in subscriptions
    }
    resources["aws_s3_bucket_lifecycle_configuration"] = dict(_lifecycles(stores))
    document: dict[str, Any] = {
        "//": f"Made by kombu_hake {__version__}: celery hake export terraform. Needs Terraform 1.5 or later with "
        "version 6.8 or later of the AWS provider.",
        "resource": {kind: found for kind, found in resources.items() if found},
    }
    imports = list(_imports(queues, topics, subscriptions, existing))
    return document | ({"import": imports} if imports else {})


# --- resources


def _queue(queue: SqsQueue, names: Mapping[str, str]) -> dict[str, Any]:
    # The provider's own default is 256 KiB.
    shown = {"MaximumMessageSize": str(SQS_MAX_MESSAGE_BYTES), **queue.attributes}
    if shown.get("KmsMasterKeyId"):  # the provider takes one of them
        shown.pop("SqsManagedSseEnabled", None)
    else:
        shown.pop("KmsDataKeyReusePeriodSeconds", None)
    found = {"name": queue.physical, **_arguments(_QUEUE, shown)}
    if queue.redrive:
        found["redrive_policy"] = _text(queue.redrive)
    if queue.redrive_allow:
        found["redrive_allow_policy"] = _text(queue.redrive_allow)
    dead = readable_dead_queue(queue.redrive)  # must exist before
    return _with_rest(found, queue.tags, [f"aws_sqs_queue.{names[dead]}"] if dead in names else [])


def _topic(topic: SnsTopic) -> dict[str, Any]:
    found = {"name": topic.physical, **_arguments(_TOPIC, topic.attributes)}
    size = topic.attributes.get("MaximumMessageSize", "")
    if size.isdecimal() and int(size) > SNS_MAX_MESSAGE_BYTES:
        found["//"] = f"The AWS provider cannot set MaximumMessageSize to {size}; hake apply can."
    return _with_rest(found, topic.tags, [])


def _policy(queue: SqsQueue, names: Mapping[str, str]) -> dict[str, Any]:
    url = f"${{aws_sqs_queue.{names[queue.arn]}.url}}"
    return {"queue_url": url, "policy": _text(queue.policy or "")}


def _subscription(
    one: SnsSubscription, resources: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, Any]:
    shown = dict(one.attributes)
    if "FilterPolicy" not in shown:  # the provider takes a scope only with a filter
        shown.pop("FilterPolicyScope", None)
    found = {"topic_arn": one.topic_arn, "protocol": "sqs", "endpoint": one.queue_arn}
    found |= _arguments(_SUBSCRIPTION, shown)
    # What SNS accepts must find the queue's door open: its policy comes first.
    needs = [("aws_sns_topic", terraform_name(parse_arn(one.topic_arn).name))]
    for arn in (one.queue_arn, readable_dead_queue(shown.get("RedrivePolicy"))):
        needs += [(kind, names[arn]) for kind in ("aws_sqs_queue", "aws_sqs_queue_policy") if arn in names]
    return _with_rest(found, {}, [f"{kind}.{name}" for kind, name in needs if name in resources[kind]])


def _lifecycles(stores: Iterable[Store]) -> Iterator[tuple[str, dict[str, Any]]]:
    """By bucket, the name and the body of its resource."""
    buckets: dict[str, list[dict[str, Any]]] = {}
    for store in stores:
        buckets.setdefault(store.bucket, []).extend(lifecycle_rules(store))
    for bucket, rules in buckets.items():
        yield (
            terraform_name(bucket.replace(".", "_")),
            {
                "bucket": bucket,
                "rule": [
                    {
                        "id": rule["ID"],
                        "status": rule["Status"],
                        "filter": {"prefix": rule["Filter"]["Prefix"]},
                        "expiration": {"days": rule["Expiration"]["Days"]},
                        "abort_incomplete_multipart_upload": {
                            "days_after_initiation": rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
                        },
                    }
                    for rule in rules
                ],
            },
        )


def _arguments(known: Mapping[str, tuple[str, Converter]], attributes: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute, (argument, convert) in known.items():
        if attributes.get(attribute):
            try:
                value = convert(attributes[attribute])
            except ValueError:  # of an option: Terraform names the fault
                value = attributes[attribute]
            found[argument] = _text(value) if isinstance(value, str) else value
    return found


def _with_rest(found: dict[str, Any], tags: Mapping[str, str], needs: list[str]) -> dict[str, Any]:
    if tags:
        # "aws:" tags are AWS's, and can't be set.
        found["tags"] = {_text(key): _text(tags[key]) for key in sorted(tags) if not key.startswith("aws:")}
    return found | ({"depends_on": list(dict.fromkeys(needs))} if needs else {})


def _pair(one: SnsSubscription) -> str:
    return terraform_pair(parse_arn(one.topic_arn).name, parse_arn(one.queue_arn).name)


def _text(value: str) -> str:
    """A text that Terraform does not evaluate."""
    return value.replace("${", "$${").replace("%{", "%%{")


# --- import blocks


def _imports(
    queues: list[SqsQueue], topics: list[SnsTopic], subscriptions: list[SnsSubscription], existing: Existing
) -> Iterator[dict[str, str]]:
    for topic in topics:
        if topic.arn in existing.topics:
            yield _import("aws_sns_topic", terraform_name(topic.physical), topic.arn)
    for queue in queues:
        found = existing.queues.get(queue.arn)
        if found is not None:
            yield _import("aws_sqs_queue", terraform_name(queue.physical), found.id)
            if found.attributes.get("Policy"):
                yield _import("aws_sqs_queue_policy", terraform_name(queue.physical), found.id)
    for one in subscriptions:
        known = existing.subscriptions.get((one.topic_arn, one.queue_arn))
        if known is not None:
            yield _import("aws_sns_topic_subscription", _pair(one), known.id)


def _import(kind: str, name: str, known_as: str) -> dict[str, str]:
    return {"to": f"{kind}.{name}", "id": _text(known_as)}
