"""SQS (JSON protocol) and SNS (query protocol) as a proxy sees them: pure functions on requests and responses.

Read: which action, on what, how many messages. Write: errors as AWS words them, batches with entries taken out,
batch responses with entries put in, receive responses with messages put in or taken out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from email.utils import formatdate
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote_plus, urlencode

from .proxy_http import Message, header, response, with_body

JSON_TYPE = "application/x-amz-json-1.0"
REQUEST_ID = "00000000-0000-4000-8000-000000000000"

DATA_ACTIONS = frozenset(
    {
        *("SendMessage", "SendMessageBatch", "Publish", "PublishBatch", "ReceiveMessage"),
        *("DeleteMessage", "DeleteMessageBatch", "ChangeMessageVisibility", "ChangeMessageVisibilityBatch"),
    }
)
"""Everything else is control plane."""

_QUEUE_URL = re.compile(rb'"Queue(?:Url|Name)":\s*"([^"]+)"')
_ARN_FIELD = re.compile(rb"(?:^|&)(?:TopicArn|SubscriptionArn)=([^&]+)")
_ACTION_FIELD = re.compile(rb"(?:^|&)Action=([^&]+)")
_ENTRY_FIELD = re.compile(r"PublishBatchRequestEntries\.member\.(\d+)\.(.+)")


_OF_OBJECTS = {b"PUT": "PutObject", b"GET": "GetObject", b"DELETE": "DeleteObject"}


class Request(NamedTuple):
    """One AWS call: ``service`` is ``sqs``, ``s3`` or ``sns`` (anything that speaks the query protocol)."""

    service: str
    action: str
    message: Message

    @property
    def body(self) -> bytes:
        return self.message.body

    @property
    def target(self) -> str:
        """Name of the queue, ARN of the topic or subscription, or path of the object; ``""`` when it names none."""
        if self.service == "s3":
            return self.message.head.split(b" ", 2)[1].partition(b"?")[0].decode()
        if self.service == "sqs":
            found = _QUEUE_URL.search(self.body)
            return found[1].decode().rsplit("/", 1)[-1] if found else ""
        found = _ARN_FIELD.search(self.body)
        return unquote_plus(found[1].decode()) if found else ""


def parse_request(message: Message) -> Request:
    """Service and action of a request; the action is ``""`` where there is none."""
    target = header(message.head, b"x-amz-target")
    if target:
        return Request("sqs", target.rsplit(b".", 1)[-1].decode(), message)
    method, _, path = message.head.partition(b"\r\n")[0].partition(b" ")
    if method in _OF_OBJECTS and path.count(b"/") > 2:  # the bucket, the key, and the version of HTTP
        return Request("s3", _OF_OBJECTS[method], message)
    found = _ACTION_FIELD.search(message.body)
    return Request("sns", found[1].decode() if found else "", message)


def sent_count(request: Request) -> int:
    """Messages a request is about: entries of a batch, else 1.

    Counts field names in the raw text. Inside a message these have escaped quotes (JSON) or an escaped equals
    sign (form), so they cannot be mistaken.
    """
    if not request.action.endswith("Batch"):
        return 1
    return request.body.count(b'"Id":') if request.service == "sqs" else request.body.count(b".Id=")


def received_count(body: bytes) -> int:
    """Messages in the body of a receive response."""
    return body.count(b'"ReceiptHandle":')


# ---- errors


def error(service: str, status: int, code: str, text: str, *, shape: str = "") -> Message:
    """An error response as the service words it.

    Args:
        service: ``sqs``, ``s3`` or ``sns``.
        status: HTTP status; 500 and above blame the receiver.
        code: What boto3 shows as ``Error.Code``: for SQS the legacy code.
        text: Message.
        shape: SQS only: name of the modelled error where it differs from ``code``.
    """
    fault = "Receiver" if status >= 500 else "Sender"
    if service == "sqs":
        body = json.dumps({"__type": f"com.amazonaws.sqs#{shape or code}", "message": text}).encode()
        headers = {"x_amzn_query_error": f"{code};{fault}", "x_amzn_RequestId": REQUEST_ID}
        return response(status, JSON_TYPE, body, **headers)
    if service == "s3":
        body = f"<Error><Code>{code}</Code><Message>{text}</Message><RequestId>{REQUEST_ID}</RequestId></Error>"
        return response(status, "application/xml", body.encode())
    body = (
        '<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error>'
        f"<Type>{fault}</Type><Code>{code}</Code><Message>{text}</Message></Error>"
        f"<RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
    ).encode()
    return response(status, "text/xml", body)


def server_error(request: Request, status: int) -> Message:
    """500 or 503."""
    code = "InternalFailure" if request.service == "sqs" else "InternalError"
    code = "ServiceUnavailable" if status == 503 else code
    return error(request.service, status, code, "We encountered an internal error. Please try again.")


def throttled(request: Request, *, in_older_words: bool = False) -> Message:
    """SQS answers 400 ThrottlingException or 403 RequestThrottled, SNS 429 Throttled or 400 Throttling."""
    words = {
        "sqs": ((400, "ThrottlingException"), (403, "RequestThrottled")),
        "sns": ((429, "Throttled"), (400, "Throttling")),
        "s3": ((503, "SlowDown"), (503, "SlowDown")),
    }
    status, code = words[request.service][in_older_words]
    return error(request.service, status, code, "Rate exceeded")


def expired(request: Request) -> Message:
    """403: temporary credentials whose time is over."""
    return error(
        request.service, 403, "ExpiredToken", "The security token included in the request is expired",
        shape="ExpiredTokenException",
    )  # fmt: skip


def signature_expired(request: Request) -> Message:
    """403: the time of the signature is not AWS's."""
    text = "Signature expired: the time of the request is more than 15 min. from now"
    return error(request.service, 403, "SignatureDoesNotMatch", text, shape="InvalidSignatureException")


def signed_at(request: Request) -> float | None:
    """When the request says that it was signed, seconds since the epoch; None where it does not say."""
    stamp = header(request.message.head, b"x-amz-date").decode()
    try:
        return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def with_date(answer: Message, now_s: float) -> Message:
    """A response whose ``Date`` is this time."""
    lines = [
        line for line in answer.head.removesuffix(b"\r\n\r\n").split(b"\r\n") if not line.lower().startswith(b"date:")
    ]
    lines.append(b"Date: " + formatdate(now_s, usegmt=True).encode())
    return answer._replace(head=b"\r\n".join(lines) + b"\r\n\r\n")


def new_keys(now_s: float, live_s: float) -> Message:
    """Temporary keys as the agent of a container gives them out; the token says when that was."""
    expires = datetime.fromtimestamp(now_s + live_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys = {"AccessKeyId": "test", "SecretAccessKey": "test", "Token": f"{now_s:.3f}", "Expiration": expires}
    return response(200, "application/json", json.dumps(keys).encode())


def key_age_s(request: Request, now_s: float) -> float | None:
    """The age of the keys of :func:`new_keys` that signed the request; None for other keys."""
    try:
        return now_s - float(header(request.message.head, b"x-amz-security-token"))
    except ValueError:
        return None


def access_denied(request: Request) -> Message:
    """403 with the action and the resource in the text."""
    code, shape = {"sqs": ("AccessDenied", "AccessDeniedException"), "sns": ("AuthorizationError", "")}[request.service]
    text = (
        "User: arn:aws:iam::123456789012:user/proxy is not authorized to perform: "
        f"{request.service.upper()}:{request.action} on resource: {request.target or '*'}"
    )
    return error(request.service, 403, code, text, shape=shape)


def deleted_recently() -> Message:
    """SQS's answer to CreateQueue within sixty seconds after DeleteQueue."""
    return error(
        "sqs",
        400,
        "AWS.SimpleQueueService.QueueDeletedRecently",
        "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
        shape="QueueDeletedRecently",
    )


# ---- batches


def take_entries(request: Request, is_taken: Callable[[dict[str, str]], bool]) -> tuple[Request, list[str], bool]:
    """A batch request without the entries that ``is_taken`` says.

    Returns:
        The smaller request, the ids taken out in order, and whether any entry is left. ``is_taken`` sees an SQS
        entry as boto3 has it, an SNS entry as its form fields without the common prefix.
    """
    if request.service == "sqs":
        fields = json.loads(request.body)
        entries = fields["Entries"]
        fields["Entries"] = [entry for entry in entries if not is_taken(entry)]
        taken = [entry["Id"] for entry in entries if entry not in fields["Entries"]]
        if not taken:
            return request, [], True
        body, is_any_left = json.dumps(fields).encode(), bool(fields["Entries"])
        return request._replace(message=with_body(request.message, body)), taken, is_any_left
    other, entries_by_number = _sns_entries(request.body)
    kept = [entry for entry in entries_by_number.values() if not is_taken(entry)]
    taken = [entry["Id"] for entry in entries_by_number.values() if entry not in kept]
    if not taken:
        return request, [], True
    for number, entry in enumerate(kept, 1):
        other += [(f"PublishBatchRequestEntries.member.{number}.{field}", value) for field, value in entry.items()]
    return request._replace(message=with_body(request.message, urlencode(other).encode())), taken, bool(kept)


def _sns_entries(body: bytes) -> tuple[list[tuple[str, str]], dict[str, dict[str, str]]]:
    other: list[tuple[str, str]] = []
    entries: dict[str, dict[str, str]] = {}
    for name, value in parse_qsl(body.decode(), keep_blank_values=True):
        found = _ENTRY_FIELD.fullmatch(name)
        if found:
            entries.setdefault(found[1], {})[found[2]] = value
        else:
            other.append((name, value))
    return other, entries


def empty_batch_response(request: Request) -> Message:
    """The response to a batch of which nothing was forwarded, to be filled by ``add_results``."""
    if request.service == "sqs":
        return response(200, JSON_TYPE, b"{}")
    body = (
        '<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult>'
        f"</PublishBatchResult><ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata>"
        "</PublishBatchResponse>"
    )
    return response(200, "text/xml", body.encode())


def add_results(
    service: str,
    answer: Message,
    *,
    failed: Iterable[str] = (),
    succeeded: Iterable[str] = (),
    code: str = "InternalError",
) -> Message:
    """A batch response with more entries.

    Args:
        failed: Ids to report as failed by the service's own fault, with ``code``.
        succeeded: Ids to report as done (SQS delete and visibility batches, which report an id and nothing else).
    """
    if answer.status != 200:
        return answer
    text = "The proxy failed this entry."
    if service == "sqs":
        fields = json.loads(answer.body)
        more = [{"Id": entry_id, "Code": code, "Message": text, "SenderFault": False} for entry_id in failed]
        if more:
            fields["Failed"] = fields.get("Failed", []) + more
        done = [{"Id": entry_id} for entry_id in succeeded]
        if done:
            fields["Successful"] = fields.get("Successful", []) + done
        return with_body(answer, json.dumps(fields).encode())
    members = "".join(
        f"<member><Id>{entry_id}</Id><Code>{code}</Code><Message>{text}</Message><SenderFault>false</SenderFault></member>"
        for entry_id in failed
    )
    xml = answer.body.decode().replace("<Failed/>", "<Failed></Failed>")
    if "</Failed>" in xml:
        xml = xml.replace("</Failed>", members + "</Failed>")
    else:
        xml = xml.replace("</PublishBatchResult>", f"<Failed>{members}</Failed></PublishBatchResult>")
    return with_body(answer, xml.encode())


# ---- receives


def messages_of(answer: Message) -> list[dict[str, Any]]:
    """Messages in a receive response; ``[]`` for an empty one or an error."""
    return json.loads(answer.body).get("Messages", []) if answer.status == 200 else []


def with_messages(answer: Message, messages: list[dict[str, Any]]) -> Message:
    """The receive response with these messages instead of its own."""
    fields = {"Messages": messages} if messages else {}
    return with_body(answer, json.dumps(fields).encode())


def receive_less(request: Request, by_count: int) -> Request | None:
    """The receive for fewer messages, not waiting for any; None when that leaves nothing to ask for."""
    fields = json.loads(request.body)
    left = int(fields.get("MaxNumberOfMessages", 1)) - by_count
    if left < 1:
        return None
    return with_fields(request, MaxNumberOfMessages=left, WaitTimeSeconds=0)


def with_fields(request: Request, **changes: Any) -> Request:
    """An SQS request with fields set anew."""
    fields = json.loads(request.body) | changes
    return request._replace(message=with_body(request.message, json.dumps(fields).encode()))
