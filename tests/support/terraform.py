"""A small reader of Terraform JSON: makes with boto3 what the AWS provider would, and says what it would change.

It knows the four resources that ``hake export terraform`` writes, with the provider's defaults, and refuses any other
resource or argument. Interpolation is Terraform's: ``${aws_sqs_queue.NAME.url}`` and nothing else.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

__all__ = ["Terraform"]

_REFERENCE = re.compile(r"(?<!\$)\$\{(aws_sqs_queue\.[A-Za-z_][\w-]*)\.url\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
#: Argument of the provider to the attribute of AWS and the provider's default; None: left as AWS shows it.
_QUEUE = {
    "fifo_queue": ("FifoQueue", False),
    "visibility_timeout_seconds": ("VisibilityTimeout", 30),
    "message_retention_seconds": ("MessageRetentionPeriod", 345_600),
    "max_message_size": ("MaximumMessageSize", 262_144),
    "delay_seconds": ("DelaySeconds", 0),
    "receive_wait_time_seconds": ("ReceiveMessageWaitTimeSeconds", 0),
    "content_based_deduplication": ("ContentBasedDeduplication", False),
    "deduplication_scope": ("DeduplicationScope", None),
    "fifo_throughput_limit": ("FifoThroughputLimit", None),
    "kms_master_key_id": ("KmsMasterKeyId", ""),
    "kms_data_key_reuse_period_seconds": ("KmsDataKeyReusePeriodSeconds", None),
    "sqs_managed_sse_enabled": ("SqsManagedSseEnabled", None),
    "redrive_policy": ("RedrivePolicy", ""),
    "redrive_allow_policy": ("RedriveAllowPolicy", None),
}
_TOPIC = {
    "fifo_topic": ("FifoTopic", False),
    "content_based_deduplication": ("ContentBasedDeduplication", False),
    "fifo_throughput_scope": ("FifoThroughputScope", None),
    "display_name": ("DisplayName", ""),
    "kms_master_key_id": ("KmsMasterKeyId", ""),
    "signature_version": ("SignatureVersion", None),
    "tracing_config": ("TracingConfig", None),
    "delivery_policy": ("DeliveryPolicy", ""),
    "sqs_failure_feedback_role_arn": ("SQSFailureFeedbackRoleArn", ""),
}
_SUBSCRIPTION = {
    "raw_message_delivery": ("RawMessageDelivery", False),
    "filter_policy": ("FilterPolicy", ""),
    "filter_policy_scope": ("FilterPolicyScope", None),
    "redrive_policy": ("RedrivePolicy", ""),
    "replay_policy": ("ReplayPolicy", ""),
}
_REST = {
    "aws_sqs_queue": {"name", "tags", "depends_on"},
    "aws_sns_topic": {"//", "name", "tags", "depends_on"},
    "aws_sqs_queue_policy": {"queue_url", "policy"},
    "aws_sns_topic_subscription": {"topic_arn", "protocol", "endpoint", "depends_on"},
}
_ARGUMENTS: dict[str, dict[str, tuple[str, Any]]] = {
    "aws_sqs_queue": _QUEUE,
    "aws_sns_topic": _TOPIC,
    "aws_sqs_queue_policy": {},
    "aws_sns_topic_subscription": _SUBSCRIPTION,
}


class Terraform:
    """One document."""

    def __init__(self, document: dict[str, Any], sqs: Any, sns: Any, lacks: Collection[str] = ()) -> None:
        """The document is read as Terraform would: as JSON text.

        Args:
            lacks: Attributes that this AWS does not know.
        """
        self._sqs, self._sns, self._lacks = sqs, sns, lacks
        read = json.loads(json.dumps(document))
        assert set(read) <= {"//", "resource", "import"}
        self._resources: dict[str, dict[str, Any]] = {}
        for kind, found in read["resource"].items():
            for name, arguments in found.items():
                assert _NAME.match(name), f"{name} is no name"
                unknown = set(arguments) - set(_ARGUMENTS[kind]) - _REST[kind]
                assert not unknown, f"{kind} has no {unknown}"
                self._resources[f"{kind}.{name}"] = arguments
        self._ids: dict[str, str] = {}
        for block in read.get("import", ()):
            assert set(block) == {"to", "id"}
            assert block["to"] in self._resources
            assert block["to"] not in self._ids
            self._ids[block["to"]] = block["id"]

    def apply(self) -> list[str]:
        """Make what is not imported, and change what differs; each change in a word."""
        done = []
        for address in self._in_order():
            arguments = {key: self._value(value) for key, value in self._resources[address].items()}
            if address not in self._ids:
                self._ids[address] = self._create(address.partition(".")[0], arguments)
                done.append(f"create {address}")
            else:
                done += [f"{address}: {what}" for what in self._differences(address, arguments)]
        return done

    def plan(self) -> list[str]:
        """What differs of what is imported or was created."""
        found = []
        for address, arguments in self._resources.items():
            if address not in self._ids:
                found.append(f"create {address}")
                continue
            values = {key: self._value(value) for key, value in arguments.items()}
            found += [f"{address}: {what}" for what in self._differences(address, values)]
        return found

    # --- reading the document

    def _in_order(self) -> Iterator[str]:
        left = {address: set(self._needs(found)) for address, found in self._resources.items()}
        while left:
            free = sorted(address for address, needs in left.items() if not needs & set(left))
            assert free, f"a circle: {left}"
            yield from free
            for address in free:
                del left[address]

    def _needs(self, arguments: dict[str, Any]) -> Iterator[str]:
        for address in arguments.get("depends_on", ()):
            assert address in self._resources, f"{address} is not in the document"
            yield address
        for value in arguments.values():
            if isinstance(value, str):
                yield from _REFERENCE.findall(value)

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._value(key): self._value(each) for key, each in value.items()}
        if not isinstance(value, str):
            return value
        text = _REFERENCE.sub(lambda match: self._ids[match[1]], value)
        assert not re.search(r"(?<!\$)\$\{|(?<!%)%\{", text), f"Terraform would evaluate {text}"
        return text.replace("$${", "${").replace("%%{", "%{")

    # --- AWS

    def _create(self, kind: str, arguments: dict[str, Any]) -> str:
        wanted = {
            attribute: _written(arguments.get(argument, default))
            for argument, (attribute, default) in _ARGUMENTS[kind].items()
            if arguments.get(argument, default) not in (None, "", False)
        }
        if kind == "aws_sqs_queue":
            made = self._sqs.create_queue(
                QueueName=arguments["name"], Attributes=wanted, tags=arguments.get("tags", {})
            )
            return str(made["QueueUrl"])
        if kind == "aws_sqs_queue_policy":
            url = str(arguments["queue_url"])
            self._sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": arguments["policy"]})
            return url
        if kind == "aws_sns_topic":
            tags = [{"Key": key, "Value": value} for key, value in arguments.get("tags", {}).items()]
            return str(self._sns.create_topic(Name=arguments["name"], Attributes=wanted, Tags=tags)["TopicArn"])
        made = self._sns.subscribe(
            TopicArn=arguments["topic_arn"],
            Protocol=arguments["protocol"],
            Endpoint=arguments["endpoint"],
            Attributes=wanted,
            ReturnSubscriptionArn=True,
        )
        return str(made["SubscriptionArn"])

    def _differences(self, address: str, arguments: dict[str, Any]) -> Iterator[str]:
        kind, known_as = address.partition(".")[0], self._ids[address]
        shown, tags = self._shown(kind, known_as)
        for argument, (attribute, default) in _ARGUMENTS[kind].items():
            wanted = arguments.get(argument, default)
            if attribute in self._lacks:
                continue
            if wanted is not None and _meaning(_written(wanted)) != _meaning(shown.get(attribute) or ""):
                yield f"{argument}: {shown.get(attribute)} -> {wanted}"
        if kind == "aws_sqs_queue_policy" and _meaning(arguments["policy"]) != _meaning(shown.get("Policy", "")):
            yield f"policy: {shown.get('Policy')} -> {arguments['policy']}"
        if tags is not None and tags != arguments.get("tags", {}):
            yield f"tags: {tags} -> {arguments.get('tags')}"

    def _shown(self, kind: str, known_as: str) -> tuple[dict[str, str], dict[str, str] | None]:
        if kind in ("aws_sqs_queue", "aws_sqs_queue_policy"):
            shown = self._sqs.get_queue_attributes(QueueUrl=known_as, AttributeNames=["All"])["Attributes"]
            tags = self._sqs.list_queue_tags(QueueUrl=known_as).get("Tags", {})
            return shown, tags if kind == "aws_sqs_queue" else None
        if kind == "aws_sns_topic":
            listed = self._sns.list_tags_for_resource(ResourceArn=known_as).get("Tags", [])
            shown = self._sns.get_topic_attributes(TopicArn=known_as)["Attributes"]
            return shown, {tag["Key"]: tag["Value"] for tag in listed}
        shown = self._sns.get_subscription_attributes(SubscriptionArn=known_as)["Attributes"]
        return {"FilterPolicyScope": "MessageAttributes", **shown}, None  # which AWS shows always


def _written(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _meaning(text: str) -> Any:
    """Documents are compared by what they say, as the provider does; false is nothing, for AWS shows only what is."""
    if text in ("", "{}", "false"):
        return ""
    try:
        return json.loads(text)
    except ValueError:
        return text
