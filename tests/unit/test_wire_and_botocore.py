"""The hot calls by our wire and by botocore's clients: the same requests, and the same results and errors.

``client_config`` makes botocore's client do the hot calls, so both ways are one class, :class:`Clients`.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

import pytest
import urllib3
from botocore.auth import SigV4Auth, _host_from_url
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import Credentials
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kombu_hake.aws import clients as clients_module
from kombu_hake.aws import waits_until
from kombu_hake.aws.clients import Clients
from kombu_hake.aws.http import Answer
from kombu_hake.aws.wire import OPERATIONS
from kombu_hake.config.settings import load, split_url
from kombu_hake.exceptions import BrokerUnavailable, ConfigurationError, HakeError, PublishError

#: Each example is two calls, one of them by botocore.
FEW = settings(max_examples=30, phases=[Phase.explicit, Phase.generate])
QUEUE_URL = "https://sqs.eu-west-1.amazonaws.com/111122223333/q"
TOPIC = "arn:aws:sns:eu-west-1:111122223333:t"


def make_clients(endpoint_url: str | None = None, **options: Any) -> Clients:
    options = {"region": "eu-west-1", "max_attempts": 1, **options}
    if endpoint_url is not None:
        options["endpoint_url"] = endpoint_url
    return Clients(load(split_url("hake://AKIA:secret@"), options, {}))


class Sent(NamedTuple):
    method: str
    #: Scheme and host included for botocore alone.
    url: str
    #: Names in lower case.
    headers: dict[str, str]
    body: bytes


class Way:
    """Makes calls; sends nothing."""

    def __init__(self, endpoint_url: str | None = None, **options: Any) -> None:
        self.clients = make_clients(endpoint_url, **options)
        self.sent: list[Sent] = []
        self.answer = Answer(200, {}, b"{}")

    def call(self, service: str, operation: str, params: Mapping[str, Any]) -> Any:
        """The result without the metadata, or the error."""
        self.prepare(service, operation)
        try:
            found = getattr(self.clients, service)(operation, **params)
        except HakeError as exc:
            return exc
        found.pop("ResponseMetadata", None)
        return {name: value for name, value in found.items() if value != []}

    def prepare(self, service: str, operation: str) -> None:
        raise NotImplementedError


class Ours(Way):
    def prepare(self, service: str, operation: str) -> None:
        wire = self.clients._find_wire(service)
        assert wire
        wire._pool = self  # type: ignore[assignment]

    def post(self, head: bytes, body: bytes, timeout_s: float) -> Answer:
        start, *lines = head.decode("ascii").split("\r\n")
        method, path, version = start.split(" ")
        assert version == "HTTP/1.1"
        headers = [line.partition(": ") for line in lines]
        found = {name.lower(): value for name, _, value in headers}
        assert len(found) == len(headers)
        self.sent.append(Sent(method, path, found, body))
        return self.answer


class Theirs(Way):
    def __init__(self, endpoint_url: str | None = None, **options: Any) -> None:
        super().__init__(endpoint_url, client_config={"max_pool_connections": 10}, **options)

    def prepare(self, service: str, operation: str) -> None:
        assert self.clients._find_wire(service) is False
        client = self.clients._client("receive" if operation == "receive_message" else service)
        client._endpoint.http_session._session = self

    def send(self, request: Any) -> AWSResponse:
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        body = request.body.encode() if isinstance(request.body, str) else request.body
        self.sent.append(Sent(request.method, request.url, headers, body))
        status, found, data = self.answer
        raw = urllib3.HTTPResponse(io.BytesIO(data), status=status, headers=found, preload_content=False)
        return AWSResponse(request.url, status, raw.headers, raw)


@pytest.fixture(scope="module", autouse=True)
def _no_patience() -> Iterator[None]:
    """Which calls are tried again, and how often, is not compared here."""
    with mock.patch.object(clients_module, "_PATIENCE_S", 0.0):
        yield


@pytest.fixture(scope="module")
def ours() -> Ours:
    return Ours()


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    return Theirs()


# --- requests

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(
    '{}"\\:,[] +%&;<>=~\n\r\x00é😀aZ0', max_size=80
)
_attributes = st.dictionaries(
    st.text("abcXYZ0_.-", min_size=1, max_size=8),
    st.fixed_dictionaries({"DataType": st.sampled_from(["String", "String.Array", "Number"]), "StringValue": _texts})
    | st.fixed_dictionaries({"DataType": st.just("Binary"), "BinaryValue": st.binary(min_size=1, max_size=40)}),
    max_size=3,
)
_fifo = {"MessageGroupId": _texts, "MessageDeduplicationId": _texts}
_ids = st.integers(0, 9).map(str)


def _entries(needed: dict[str, Any], optional: dict[str, Any] | None = None) -> Any:
    return st.lists(st.fixed_dictionaries({"Id": _ids, **needed}, optional=optional or {}), min_size=1, max_size=3)


_delay = {"DelaySeconds": st.integers(0, 900)}
_shapes: dict[tuple[str, str], Any] = {
    ("sqs", "send_message"): st.fixed_dictionaries(
        {"QueueUrl": st.just(QUEUE_URL) | _texts, "MessageBody": _texts},
        optional={"MessageAttributes": _attributes, **_delay, **_fifo},
    ),
    ("sqs", "send_message_batch"): st.fixed_dictionaries(
        {
            "QueueUrl": st.just(QUEUE_URL),
            "Entries": _entries({"MessageBody": _texts}, {"MessageAttributes": _attributes, **_delay, **_fifo}),
        }
    ),
    ("sqs", "receive_message"): st.fixed_dictionaries(
        {"QueueUrl": st.just(QUEUE_URL)},
        optional={
            "MaxNumberOfMessages": st.integers(1, 10),
            "WaitTimeSeconds": st.integers(0, 20),
            "VisibilityTimeout": st.integers(0, 43_200),
            "MessageAttributeNames": st.just(["All"]),
            "AttributeNames": st.lists(st.sampled_from(["All", "ApproximateReceiveCount", "SentTimestamp"])),
            "MessageSystemAttributeNames": st.just(["ApproximateReceiveCount"]),
        },
    ),
    ("sqs", "delete_message_batch"): st.fixed_dictionaries(
        {"QueueUrl": st.just(QUEUE_URL), "Entries": _entries({"ReceiptHandle": _texts})}
    ),
    ("sqs", "change_message_visibility_batch"): st.fixed_dictionaries(
        {
            "QueueUrl": st.just(QUEUE_URL),
            "Entries": _entries({"ReceiptHandle": _texts, "VisibilityTimeout": st.integers(0, 43_200)}),
        }
    ),
    ("sns", "publish"): st.fixed_dictionaries(
        {"TopicArn": st.just(TOPIC), "Message": _texts}, optional={"MessageAttributes": _attributes, **_fifo}
    ),
    ("sns", "publish_batch"): st.fixed_dictionaries(
        {
            "TopicArn": st.just(TOPIC),
            "PublishBatchRequestEntries": _entries({"Message": _texts}, {"MessageAttributes": _attributes, **_fifo}),
        }
    ),
}
EACH = pytest.mark.parametrize(("service", "operation"), _shapes, ids=[operation for _, operation in _shapes])
KEYS = Credentials("AKIA", "secret")


def test_every_hot_call_is_compared() -> None:
    assert set(_shapes) == {(service, name) for service, names in OPERATIONS.items() for name in names}


def signed_by_botocore(sent: Sent, service: str, endpoint_url: str, keys: Credentials = KEYS) -> str:
    """The Authorization header of a request of ours."""
    names = ("content-type", "x-amz-target")
    headers = {name: sent.headers[name] for name in names if name in sent.headers}
    request = AWSRequest(sent.method, endpoint_url + sent.url, headers=headers, data=sent.body)
    stamp = datetime.strptime(sent.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    with mock.patch("botocore.auth.get_current_datetime", return_value=stamp.replace(tzinfo=None)):
        SigV4Auth(keys, service, "eu-west-1").add_auth(request)
    assert sent.headers["host"] == _host_from_url(request.url)
    return str(request.headers["Authorization"])


def assert_same_request(service: str, mine: Sent, other: Sent, endpoint_url: str, keys: Credentials = KEYS) -> None:
    assert (mine.method, mine.url) == (other.method, urlsplit(other.url).path) == ("POST", "/")
    assert not urlsplit(other.url).query
    for name in ("content-type", "x-amz-target", "x-amz-security-token"):
        assert mine.headers.get(name) == other.headers.get(name)
    if service == "sqs":
        assert json.loads(mine.body) == json.loads(other.body)
    else:
        found = [dict(parse_qsl(one.body.decode("ascii"), keep_blank_values=True)) for one in (mine, other)]
        assert found[0] == found[1]
    assert mine.headers["authorization"] == signed_by_botocore(mine, service, endpoint_url, keys)


@EACH
def test_requests_are_those_of_botocore(service: str, operation: str, ours: Ours, theirs: Theirs) -> None:
    @FEW
    @given(_shapes[service, operation])
    def check(params: dict[str, Any]) -> None:
        for way in (ours, theirs):
            way.sent.clear()
            way.call(service, operation, params)
        [mine], [other] = ours.sent, theirs.sent
        assert_same_request(service, mine, other, f"https://{service}.eu-west-1.amazonaws.com")

    check()


SEND = ("sqs", "send_message", {"QueueUrl": QUEUE_URL, "MessageBody": "x"})
PUBLISH = ("sns", "publish", {"TopicArn": TOPIC, "Message": "x"})
BOTH_SERVICES = pytest.mark.parametrize(("service", "operation", "params"), [SEND, PUBLISH], ids=["sqs", "sns"])


@BOTH_SERVICES
@pytest.mark.parametrize(
    "endpoint_url",
    [
        "http://localhost",
        "http://localhost:80",
        "http://localhost:443",
        "http://localhost:4566",
        "http://localhost:4566/",
        "http://LocalHost:4566",
        "https://localhost",
        "https://localhost:443",
        "https://localhost:80",
        "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com",
        "http://127.0.0.1:1",
        "http://[::1]",
        "http://[::1]:80",
        "http://[::1]:4566",
    ],
)
def test_the_host_is_that_of_botocore(service: str, operation: str, params: Any, endpoint_url: str) -> None:
    ways = Ours(endpoint_url), Theirs(endpoint_url)
    for way in ways:
        way.call(service, operation, params)
    [mine], [other] = (way.sent for way in ways)
    assert_same_request(service, mine, other, endpoint_url.rstrip("/"))
    assert urlsplit(other.url).hostname in mine.headers["host"]


@BOTH_SERVICES
def test_a_session_token_is_sent_and_signed(service: str, operation: str, params: Any) -> None:
    ways = Ours(session_token="to/k+en=="), Theirs(session_token="to/k+en==")
    for way in ways:
        way.call(service, operation, params)
    [mine], [other] = (way.sent for way in ways)
    keys = Credentials("AKIA", "secret", "to/k+en==")
    assert_same_request(service, mine, other, f"https://{service}.eu-west-1.amazonaws.com", keys)


@BOTH_SERVICES
@pytest.mark.parametrize(
    "keys",
    [
        {"access_key_id": "a\r\nX: y"},
        {"access_key_id": "ä"},
        {"secret_access_key": "s\n"},
        {"secret_access_key": "\udcff"},
        {"session_token": "t\r\n\r\n"},
        {"session_token": "\udcff"},
    ],
)
def test_keys_that_are_none_are_refused_in_words(service: str, operation: str, params: Any, keys: Any) -> None:
    way = Ours()
    way.clients = Clients(replace(way.clients.settings, **keys))
    found = way.call(service, operation, params)
    assert isinstance(found, ConfigurationError)
    assert "credentials" in str(found)
    assert not way.sent


@BOTH_SERVICES
def test_a_secret_of_other_letters_signs_as_by_botocore(service: str, operation: str, params: Any) -> None:
    """Emulators take any."""
    way = Ours()
    way.clients = Clients(replace(way.clients.settings, secret_access_key="pässword"))
    way.call(service, operation, params)
    expected = signed_by_botocore(
        way.sent[0], service, f"https://{service}.eu-west-1.amazonaws.com", Credentials("AKIA", "pässword")
    )
    assert way.sent[0].headers["authorization"] == expected


SURROGATES: list[tuple[str, str, dict[str, Any]]] = [
    ("sqs", "send_message", {"QueueUrl": QUEUE_URL, "MessageBody": "x\ud800"}),
    ("sqs", "send_message", {"QueueUrl": QUEUE_URL, "MessageBody": "x", "MessageGroupId": "\udfff"}),
    ("sns", "publish", {"TopicArn": TOPIC, "Message": "x\ud800"}),
    ("sns", "publish", {"TopicArn": TOPIC, "Message": "x" * 100 + "\ud800"}),
    ("sns", "publish", {"TopicArn": TOPIC, "Message": "x", "MessageGroupId": "\udfff"}),
    ("sns", "publish_batch", {"TopicArn": TOPIC, "PublishBatchRequestEntries": [{"Id": "0", "Message": "\ud800"}]}),
]


@pytest.mark.parametrize(("service", "operation", "params"), SURROGATES)
def test_half_a_character_is_refused_in_words(service: str, operation: str, params: Any, ours: Ours) -> None:
    """AWS refuses it in JSON, where it can be sent; a form cannot hold it."""
    ours.sent.clear()
    ours.answer = Answer(400, {"x-amzn-query-error": "InvalidMessageContents;Sender"}, b'{"message": "no"}')
    found = ours.call(service, operation, params)
    assert isinstance(found, PublishError)
    assert len(ours.sent) == (service == "sqs")


# --- answers

_XMLNS = ' xmlns="http://sns.amazonaws.com/doc/2010-03-31/"'
_params: dict[str, dict[str, Any]] = {
    "send_message": {"QueueUrl": QUEUE_URL, "MessageBody": "x"},
    "send_message_batch": {"QueueUrl": QUEUE_URL, "Entries": [{"Id": str(i), "MessageBody": "x"} for i in range(3)]},
    "receive_message": {"QueueUrl": QUEUE_URL, "MaxNumberOfMessages": 10},
    "delete_message_batch": {
        "QueueUrl": QUEUE_URL,
        "Entries": [{"Id": str(i), "ReceiptHandle": "x"} for i in range(3)],
    },
    "change_message_visibility_batch": {
        "QueueUrl": QUEUE_URL,
        "Entries": [{"Id": str(i), "ReceiptHandle": "x", "VisibilityTimeout": 1} for i in range(3)],
    },
    "publish": {"TopicArn": TOPIC, "Message": "x"},
    "publish_batch": {
        "TopicArn": TOPIC,
        "PublishBatchRequestEntries": [{"Id": str(i), "Message": "x"} for i in range(3)],
    },
}


def outcome(found: Any) -> Any:
    """A result, or what callers can tell one error from another by."""
    if not isinstance(found, HakeError):
        return found
    is_away = isinstance(found, BrokerUnavailable)
    return type(found), is_away and found.is_throttle, is_away and found.is_clock_error


def both(service: str, operation: str, answer: Answer, ours: Ours, theirs: Theirs) -> tuple[Any, Any]:
    found = []
    for way in (ours, theirs):
        way.answer = answer
        way.clients._clock._read_at = float("-inf")
        found.append(outcome(way.call(service, operation, _params[operation])))
    return found[0], found[1]


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, json.dumps(value).encode())


_entry_done = st.fixed_dictionaries({"Id": st.sampled_from("012"), "MessageId": _texts})
_entry_failed = st.fixed_dictionaries(
    {"Id": st.sampled_from("012"), "Code": _texts, "SenderFault": st.booleans()}, optional={"Message": _texts}
)
_messages = st.fixed_dictionaries(
    {"MessageId": _texts, "ReceiptHandle": _texts, "Body": _texts},
    optional={
        "MD5OfBody": _texts,
        "Attributes": st.dictionaries(
            st.sampled_from(["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"]),
            st.integers(0, 10**15).map(str) | _texts,
        ),
        "MessageAttributes": st.dictionaries(
            _texts, st.fixed_dictionaries({"DataType": st.just("String"), "StringValue": _texts})
        ),
    },
)
_results: dict[str, Any] = {
    "send_message": st.fixed_dictionaries({}, optional={"MessageId": _texts, "SequenceNumber": _texts}),
    "receive_message": st.fixed_dictionaries({}, optional={"Messages": st.lists(_messages, max_size=11)}),
}
_batch_results = st.fixed_dictionaries(
    {}, optional={"Successful": st.lists(_entry_done, max_size=4), "Failed": st.lists(_entry_failed, max_size=4)}
)


@pytest.mark.parametrize("operation", OPERATIONS["sqs"])
def test_results_of_sqs_are_those_of_botocore(operation: str, ours: Ours, theirs: Theirs) -> None:
    @FEW
    @given(_results.get(operation, _batch_results))
    def check(result: dict[str, Any]) -> None:
        if operation in ("delete_message_batch", "change_message_visibility_batch"):
            for entry in result.get("Successful", ()):
                entry.pop("MessageId", None)
        mine, other = both("sqs", operation, json_answer(result), ours, theirs)
        assert mine == other

    check()


def xml(result: str, name: str = "Publish") -> bytes:
    return f"<{name}Response{_XMLNS}><{name}Result>{result}</{name}Result></{name}Response>".encode()


_xml_texts = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=30).map(escape)


@FEW
@given(st.lists(st.sampled_from(["MessageId", "SequenceNumber"]), unique=True), _xml_texts)
def test_results_of_publish_are_those_of_botocore(names: list[str], text: str) -> None:
    body = xml("".join(f"<{name}>{text}</{name}>" for name in names))
    mine, other = both("sns", "publish", Answer(200, {}, body), *_pair())
    assert mine == other


@FEW
@given(
    st.lists(st.tuples(st.sampled_from("012"), _xml_texts), max_size=4),
    st.lists(st.tuples(st.sampled_from("012"), _xml_texts, st.sampled_from(["true", "false"])), max_size=4),
)
def test_results_of_batches_are_those_of_botocore(
    done: list[tuple[str, str]], failed: list[tuple[str, str, str]]
) -> None:
    good = "".join(f"<member><Id>{i}</Id><MessageId>{text}</MessageId></member>" for i, text in done)
    bad = "".join(
        f"<member><Id>{i}</Id><Code>{text}</Code><SenderFault>{fault}</SenderFault></member>"
        for i, text, fault in failed
    )
    body = xml(f"<Successful>{good}</Successful><Failed>{bad}</Failed>", "PublishBatch")
    mine, other = both("sns", "publish_batch", Answer(200, {}, body), *_pair())
    assert mine == other


_made: list[tuple[Ours, Theirs]] = []


def _pair() -> tuple[Ours, Theirs]:
    if not _made:
        _made.append((Ours(), Theirs()))
    return _made[0]


CODES = [
    ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"),
    ("InvalidMessageContents", ""),
    ("OverLimit", ""),
    ("ReceiptHandleIsInvalid", ""),
    ("RequestThrottled", ""),
    ("ThrottlingException", "Throttling"),
    ("KmsThrottled", "KMS.ThrottlingException"),
    ("AccessDeniedException", "AccessDenied"),
    ("InvalidClientTokenId", ""),
    ("ExpiredToken", ""),
    ("SignatureDoesNotMatch", ""),
    ("InternalFailure", ""),
    ("ServiceUnavailable", ""),
    ("BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong"),
    ("Whatever", ""),
    ("NotFound", ""),
]
STATUSES = [400, 403, 404, 429, 500, 503]
MESSAGES = ["no", "", "Signature expired: 20260101T000000Z is now earlier than 20260101T001500Z", "<&>é\x1b[31m"]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(("code", "legacy"), CODES, ids=[code for code, _ in CODES])
def test_errors_of_sqs_are_those_of_botocore(status: int, code: str, legacy: str, ours: Ours, theirs: Theirs) -> None:
    types = (code, f"com.amazonaws.sqs#{code}", f"com.amazonaws.sqs#{code}:http://x/")
    headers = ({}, {"x_amzn_query_error": f"{legacy or code};Sender"}, {"x_amzn_query_error": ""})
    for number, text in enumerate(MESSAGES):
        for each, type_ in zip(headers, types, strict=True):
            body = {"__type": type_, ("message", "Message")[number % 2]: text}
            mine, other = both("sqs", "send_message", json_answer(body, status, **each), ours, theirs)
            assert mine == other, (body, each)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("code", [code for pair in CODES for code in pair if code])
def test_errors_of_sns_are_those_of_botocore(status: int, code: str, ours: Ours, theirs: Theirs) -> None:
    for text in MESSAGES[:3]:
        for xmlns in (_XMLNS, ""):
            body = (
                f"<ErrorResponse{xmlns}><Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error>"
                "<RequestId>r</RequestId></ErrorResponse>"
            )
            mine, other = both("sns", "publish", Answer(status, {}, body.encode()), ours, theirs)
            assert mine == other, body


BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "HTML": b"<!DOCTYPE html><html><body>AccessDenied</body></html>",
    "XHTML": b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><Error>no</Error></body></html>',
    "text": b"OK",
    "empty object": b"{}",
    "list": b"[1]",
    "null": b"null",
    "number": b"7",
    "truncated JSON": b'{"__type": "AccessDen',
    "JSON, not UTF-8": b'{"__type": "\xff"}',
    "JSON with a BOM": b'\xef\xbb\xbf{"MessageId": "m"}',
    "JSON in UTF-16": '{"MessageId": "m"}'.encode("utf-16"),
    "deep JSON": b"[" * 100_000,
    "odd types": b'{"__type": {"a": 1}, "message": ["AccessDenied"], "MessageId": 5, "Messages": 5, "Failed": 5}',
    "odd code": b'{"__type": "<script>", "message": "x"}',
    "huge ids": json.dumps({"MessageId": "m" * 100_000}).encode(),
    "huge number": b'{"MessageId": ' + b"1" * 10_000 + b"}",
    "truncated XML": b"<ErrorResponse><Error><Code>AccessDenied</Code>",
    "XML without an error": b"<ErrorResponse/>",
    "XML with an empty error": b"<ErrorResponse><Error/></ErrorResponse>",
    "XML with an empty code": b"<ErrorResponse><Error><Code/><Message/></Error></ErrorResponse>",
    "XML, not UTF-8": b"<ErrorResponse><Error><Code>\xff</Code></Error></ErrorResponse>",
    "XML with an entity": (
        b'<!DOCTYPE x [<!ENTITY a "AccessDenied">]><ErrorResponse><Error><Code>&a;</Code></Error></ErrorResponse>'
    ),
    "XML of two codes": b"<ErrorResponse><Error><Code>a</Code><Code>b</Code></Error></ErrorResponse>",
    "XML of another answer": b"<SubscribeResponse><SubscribeResult/></SubscribeResponse>",
    "XML of an answer without a result": b"<PublishResponse/>",
    "XML of an answer without an id": xml(""),
    "XML of an answer": xml("<MessageId>m</MessageId>"),
}
#: Where the two differ.
DIFFERENT: dict[str, set[str]] = {
    "sqs": {
        # botocore takes text that it cannot read for an empty object. AWS sends UTF-8.
        "JSON with a BOM",
        "JSON in UTF-16",
        # Fields that a result of this kind does not have are kept; botocore drops them.
        "huge ids",
        "odd code",
    },
    "sns": {
        # botocore expands entities. AWS sends none.
        "XML with an entity",
        # botocore gives None for the code, and "None" is taken for a code.
        "XML with an empty code",
    },
}


@pytest.mark.parametrize("status", [200, *STATUSES, 302, 413])
@EACH
def test_odd_answers_are_those_of_botocore(
    status: int, service: str, operation: str, ours: Ours, theirs: Theirs
) -> None:
    different = []
    for name, body in BODIES.items():
        mine, other = both(service, operation, Answer(status, {}, body), ours, theirs)
        if name in DIFFERENT[service]:
            assert mine == (BrokerUnavailable, False, False) or isinstance(mine, dict)
        elif mine != other:
            different.append((name, mine, other))
    assert different == []


@pytest.mark.parametrize("status", [200, *STATUSES])
@EACH
def test_any_answer_gives_a_result_or_an_error_of_ours(status: int, service: str, operation: str, ours: Ours) -> None:
    @FEW
    @given(body=st.binary(max_size=60), query_error=st.text(st.characters(max_codepoint=255), max_size=20))
    def check(body: bytes, query_error: str) -> None:
        ours.answer = Answer(status, {"x-amzn-query-error": query_error, "date": query_error}, body)
        ours.call(service, operation, _params[operation])

    check()


# --- who makes the call


def makes_calls(clients: Clients) -> dict[str, bool]:
    """For each service, whether our wire makes the hot calls."""
    return {service: bool(clients._find_wire(service)) for service in OPERATIONS}


OURS, BOTOCORES = {"sqs": True, "sns": True}, {"sqs": False, "sns": False}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "endpoint_url", "expected"),
    [
        ({}, None, OURS),
        ({}, "http://localhost:1", OURS),
        ({}, "http://localhost:1/", OURS),
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, None, BOTOCORES),
        ({"https_proxy": "http://127.0.0.1:9"}, None, BOTOCORES),
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, "http://localhost:1", OURS),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, "http://localhost:1", BOTOCORES),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, None, OURS),
        ({"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ".amazonaws.com"}, None, OURS),
        ({"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "*"}, None, OURS),
        (
            {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "sqs.eu-west-1.amazonaws.com"},
            None,
            {"sqs": True, "sns": False},
        ),
        ({"HTTPS_PROXY": ""}, None, OURS),
    ],
)
def test_a_proxy_means_that_botocore_makes_the_call(
    variables: dict[str, str], endpoint_url: str | None, expected: dict[str, bool], environment: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert makes_calls(make_clients(endpoint_url)) == expected


@pytest.mark.parametrize(
    "options", [{"client_config": {"max_pool_connections": 5}}, {"endpoint_url": "http://localhost:1/aws"}]
)
def test_what_only_botocore_can_do_is_left_to_it(options: dict[str, Any], environment: pytest.MonkeyPatch) -> None:
    assert makes_calls(make_clients(**options)) == BOTOCORES


@pytest.mark.parametrize("own", ["sqs", "sns"])
def test_each_service_may_have_an_endpoint_of_its_own(own: str, environment: pytest.MonkeyPatch) -> None:
    options = {f"{own}_endpoint_url": "http://localhost:7"}
    way, other = Ours("http://localhost:8", **options), Theirs("http://localhost:8", **options)
    for service, operation, params in (SEND, PUBLISH):
        for each in (way, other):
            each.sent.clear()
            each.call(service, operation, params)
        port = 7 if service == own else 8
        assert way.sent[0].headers["host"] == f"localhost:{port}" == urlsplit(other.sent[0].url).netloc
        wire = make_clients("http://localhost:8", **options)._find_wire(service)
        assert wire
        assert wire._pool._port == port


# --- waiting for an answer


@pytest.mark.parametrize("way", [Ours, Theirs])
@pytest.mark.parametrize(("wait_s", "least_s"), [(0, 20.0), (20, 30.0)])
def test_a_thread_that_waits_for_aws_says_until_when_at_the_latest(
    way: type[Ours] | type[Theirs], wait_s: int, least_s: float
) -> None:
    """Not before every time limit of the request is over, and not much later."""
    made, found = way(), []
    name = "post" if isinstance(made, Ours) else "send"
    send = getattr(made, name)

    def sent(*args: Any) -> Any:
        until = waits_until(threading.get_ident())
        assert until is not None
        found.append(until - time.monotonic())
        return send(*args)

    with mock.patch.object(made, name, sent):
        made.call("sqs", "receive_message", {"QueueUrl": QUEUE_URL, "WaitTimeSeconds": wait_s})
    assert least_s < found[0] < 180.0
    assert waits_until(threading.get_ident()) is None
