"""Validate the shape of AWS's successful answers as soon as they are parsed. Pure.

A proxy, a captive portal or a broken middlebox may answer in AWS's place. Callers rely on these checks: a field that
they read exists and has the right type. Any other answer is not from AWS.

Missing entries of a batch are added: an entry that AWS reports neither as successful nor as failed counts as failed
through AWS's fault, so that it is sent again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from kombu_hake.exceptions import BrokerUnavailable

__all__ = ["checked", "has_request_id", "is_aws_code", "looks_like_success"]

#: An error code of AWS. If there is none, botocore gives the HTTP status, "Unknown" or nothing.
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{2,127}\Z", re.ASCII)
_NO_CODES = frozenset({"Unknown", "UnknownError"})
#: The root element of a successful answer of the query protocol, ``<PublishResponse xmlns=…>``.
_XML_ROOT = re.compile(rb"\s*(?:<\?xml[^>]{0,200}\?>)?\s*<[A-Za-z0-9]{1,100}Response[\s/>]")
_DIGITS = re.compile(r"[0-9]{1,20}\Z", re.ASCII)
#: AWS gives whole seconds since the epoch, emulators parts of them too.
_SECONDS = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?\Z", re.ASCII)
_ACCOUNT = re.compile(r"[0-9]{12}\Z", re.ASCII)
_ARN = re.compile(r"arn:[^:\s]+:[a-z]+:[^:\s]*:[^:\s]*:\S+\Z")
_NOT_NAMED = {"Code": "NotInAnswer", "Message": "The answer does not mention this entry.", "SenderFault": False}


class _Odd(Exception):
    """What is wrong with an answer, in a few words."""


def checked(service: str, operation: str, params: Mapping[str, Any], answer: object) -> dict[str, Any]:
    """Check that the answer of a successful call has the shape that callers rely on, and return it.

    Args:
        service: ``sqs``, ``sns``, ``sts`` or ``cloudwatch``.
        operation: boto3's name of the call.
        params: The arguments of the call.
        answer: The parsed answer.
    Raises:
        BrokerUnavailable: the answer is not from AWS.
    """
    try:
        found = _dict(answer, "the answer")
        check = _CHECKS.get((service, operation))
        if check is not None:
            check(params, found)
    except _Odd as exc:
        raise BrokerUnavailable(
            f"{service} did not answer {operation} as AWS does: {exc}. A proxy, a portal or another server may answer "
            "in its place."
        ) from None
    return found


def is_aws_code(code: object) -> bool:
    """Return True if *code* can be an error code of AWS, not a HTTP status, a missing code or another type."""
    return isinstance(code, str) and _CODE.match(code) is not None and code not in _NO_CODES


def looks_like_success(protocol: str, body: bytes) -> bool:
    """Return True if the body of a successful HTTP answer has AWS's format.

    Args:
        protocol: botocore's name of the service's protocol; protocols that we do not use pass.
    """
    if protocol == "query":
        return _XML_ROOT.match(body) is not None
    if protocol != "json" or not body:
        return True
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def has_request_id(headers: Mapping[str, str]) -> bool:
    """Return True if an answer has the id that AWS gives each request."""
    return any(headers.get(name) for name in ("x-amz-request-id", "x-amzn-requestid"))


# --- types


def _dict(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Odd(f"{name} is not an object")
    return value


def _texts(value: object, name: str) -> dict[str, str]:
    """A dict of text to text."""
    found = _dict(value, name)
    if not all(isinstance(key, str) and isinstance(text, str) for key, text in found.items()):
        raise _Odd(f"{name} contains values other than text")
    return found


def _list(answer: Mapping[str, Any], name: str) -> list[Any]:
    """An optional list."""
    value = answer.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _Odd(f"{name} is not a list")
    return value


def _text(answer: Mapping[str, Any], name: str) -> str:
    """A required text."""
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise _Odd(f"{name} is missing or not text")
    return value


def _optional(answer: dict[str, Any], name: str) -> Any:
    """An optional field; a null is removed, so that callers see only a missing field."""
    if answer.get(name) is None:
        answer.pop(name, None)
        return {}
    return answer[name]


def _optional_text(answer: Mapping[str, Any], name: str) -> None:
    if not isinstance(answer.get(name), str | None):
        raise _Odd(f"{name} is not text")


# --- actions


def _message_id(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    _text(answer, "MessageId")


def _queue_url(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    url = _text(answer, "QueueUrl")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _Odd("QueueUrl is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _Odd("QueueUrl is no URL")
    # The URL of another queue would send this queue's messages there.
    if unquote(parts.path).rpartition("/")[2] != params.get("QueueName"):
        raise _Odd("QueueUrl is that of another queue")


def _queue_attributes(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    attributes = _texts(_optional(answer, "Attributes"), "Attributes")
    for name, value in attributes.items():
        if name.startswith("ApproximateNumberOfMessages") and not _DIGITS.match(value):
            raise _Odd(f"attribute {name} is no number")
    if not _SECONDS.match(attributes.get("LastModifiedTimestamp", "0")):
        raise _Odd("attribute LastModifiedTimestamp is no time")
    # A queue may lack other attributes, but each has an ARN.
    if "QueueArn" in params.get("AttributeNames", ()) and not _ARN.match(attributes.get("QueueArn", "")):
        raise _Odd("attribute QueueArn is no ARN")


def _attributes(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    """Of a topic or a subscription."""
    attributes = _texts(answer.get("Attributes"), "Attributes")
    for name in ("SubscriptionsConfirmed", "SubscriptionsPending"):
        if name in attributes and not _DIGITS.match(attributes[name]):
            raise _Odd(f"attribute {name} is no number")


def _queue_tags(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    _texts(_optional(answer, "Tags"), "Tags")


def _topic_tags(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    for tag in _list(answer, "Tags"):
        found = _texts(tag, "Tags")
        if not {"Key", "Value"} <= set(found):
            raise _Odd("a tag has no Key or Value")


def _queues(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    if not all(isinstance(url, str) for url in _list(answer, "QueueUrls")):
        raise _Odd("QueueUrls contains values other than text")
    _optional_text(answer, "NextToken")


def _subscriptions(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    for one in _list(answer, "Subscriptions"):
        found = _texts(one, "Subscriptions")
        for name in ("SubscriptionArn", "Endpoint", "Protocol"):
            if name not in found:
                raise _Odd(f"a subscription has no {name}")
    _optional_text(answer, "NextToken")


def _topic_arn(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    arn = _text(answer, "TopicArn")
    if not _ARN.match(arn) or arn.rpartition(":")[2] != params.get("Name"):
        raise _Odd("TopicArn is not that of the topic")


def _subscription_arn(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    # We set ReturnSubscriptionArn, so AWS also returns the ARN of a subscription that is pending confirmation.
    if not _ARN.match(_text(answer, "SubscriptionArn")):
        raise _Odd("SubscriptionArn is not an ARN")


def _account(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    if not _ACCOUNT.match(_text(answer, "Account")):
        raise _Odd("Account is not an account number")


def _metrics(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    for result in _list(answer, "MetricDataResults"):
        found = _dict(result, "MetricDataResults")
        _text(found, "Id")
        if not all(isinstance(value, int | float) for value in _list(found, "Values")):
            raise _Odd("Values contains values other than numbers")


def _messages(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
    messages = _list(answer, "Messages")
    if len(messages) > int(params.get("MaxNumberOfMessages", 1)):
        raise _Odd("there are more messages than requested")
    for message in messages:
        _message(message)


def _message(found: object) -> None:
    # Not by _dict, _text and _texts: calling them for each message takes twice the time, a few percent of a receive.
    if not isinstance(found, dict):
        raise _Odd("a message is not an object")
    for name in ("MessageId", "ReceiptHandle"):
        value = found.get(name)
        if not isinstance(value, str) or not value:
            raise _Odd(f"{name} is missing or not text")
    if not isinstance(found.get("Body"), str):
        raise _Odd("Body is missing or not text")
    attributes = found.get("Attributes")
    if attributes is None:
        found.pop("Attributes", None)
    else:
        if not isinstance(attributes, dict):
            raise _Odd("Attributes is not an object")
        for value in attributes.values():
            if not isinstance(value, str):
                raise _Odd("Attributes contains values other than text")
        for name in ("ApproximateReceiveCount", "SentTimestamp"):
            if name in attributes and not _DIGITS.match(attributes[name]):
                raise _Odd(f"attribute {name} is no number")
    if "MessageAttributes" in found:
        for attribute in _dict(_optional(found, "MessageAttributes"), "MessageAttributes").values():
            shown = _dict(attribute, "a message attribute")
            for name in ("DataType", "StringValue"):
                _optional_text(shown, name)


def _batch(entries_name: str) -> Callable[[Mapping[str, Any], dict[str, Any]], None]:
    def check(params: Mapping[str, Any], answer: dict[str, Any]) -> None:
        asked = [entry["Id"] for entry in params[entries_name]]
        done = {_text(_dict(one, "Successful"), "Id") for one in _list(answer, "Successful")}
        failed: dict[str, dict[str, Any]] = {}
        for one in _list(answer, "Failed"):
            entry = _dict(one, "Failed")
            failed.setdefault(_text(entry, "Id"), {**entry, "SenderFault": entry.get("SenderFault") is True})
        for number in asked:
            if number not in done and number not in failed:
                failed[number] = {"Id": number, **_NOT_NAMED}
        answer["Failed"] = [failed[number] for number in asked if number in failed]

    return check


_CHECKS: Mapping[tuple[str, str], Callable[[Mapping[str, Any], dict[str, Any]], None]] = {
    ("sqs", "send_message"): _message_id,
    ("sqs", "send_message_batch"): _batch("Entries"),
    ("sqs", "delete_message_batch"): _batch("Entries"),
    ("sqs", "change_message_visibility_batch"): _batch("Entries"),
    ("sqs", "receive_message"): _messages,
    ("sqs", "get_queue_url"): _queue_url,
    ("sqs", "create_queue"): _queue_url,
    ("sqs", "get_queue_attributes"): _queue_attributes,
    ("sqs", "list_queue_tags"): _queue_tags,
    ("sqs", "list_queues"): _queues,
    ("sns", "publish"): _message_id,
    ("sns", "publish_batch"): _batch("PublishBatchRequestEntries"),
    ("sns", "create_topic"): _topic_arn,
    ("sns", "subscribe"): _subscription_arn,
    ("sns", "get_topic_attributes"): _attributes,
    ("sns", "get_subscription_attributes"): _attributes,
    ("sns", "list_subscriptions_by_topic"): _subscriptions,
    ("sns", "list_tags_for_resource"): _topic_tags,
    ("sts", "get_caller_identity"): _account,
    ("cloudwatch", "get_metric_data"): _metrics,
}
