"""Envelope: what goes out comes back; kombu's ``sqs://`` reads ours and we read its; nothing foreign makes it raise."""

import base64
import datetime
import decimal
import json
import re
import uuid
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.asynchronous.aws.sqs.message import AsyncMessage
from kombu.compression import compress
from kombu.transport.SQS import Channel as SqsChannel
from kombu.transport.virtual.base import Message as VirtualMessage
from kombu.utils.json import dumps as kombu_dumps

from kombu_hake.amqp.envelope import Envelope, attributes_bytes, decode, encode
from kombu_hake.receive.delivery import Delivery, Lease
from kombu_hake.receive.messages import HakeMessage, to_message

URL = "https://sqs.eu-west-1.amazonaws.com/111122223333/q"
#: Every character that SQS takes in a body (API reference, SendMessage).
ALLOWED_BY_SQS = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


class SqsSide(SqsChannel):
    """kombu's SQS channel without a connection: only what turns messages into bodies and back."""

    _noack_queues = frozenset()

    def __init__(self) -> None:
        pass

    def body_of(self, message: dict[str, Any], *, is_base64: bool) -> str:
        # As ``kombu.transport.SQS.Channel._put`` does it.
        return AsyncMessage().encode(kombu_dumps(message)) if is_base64 else kombu_dumps(message)

    def prepared(self, body: bytes | str, **given: Any) -> dict[str, Any]:
        """As ``virtual.Channel.basic_publish`` hands it to ``_put``."""
        text, encoding = self.encode_body(body, self.body_encoding)
        message = self.prepare_message(text, **given)
        message["properties"].update(
            body_encoding=encoding,
            delivery_tag="tag",
            delivery_mode=2,
            delivery_info={"exchange": "orders", "routing_key": "order.created"},
        )
        return message

    def read(self, body: str) -> VirtualMessage:
        payload = self._message_to_python({"Body": body, "ReceiptHandle": "handle"}, "q", URL)
        return VirtualMessage(payload, channel=self)


def prepared(body: Any, **given: Any) -> dict[str, Any]:
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": "1"},
        "properties": {"delivery_info": {}, "priority": 0, "correlation_id": "c"},
        **given,
    }


def sent(body: Any, **given: Any) -> str:
    return encode(prepared(body, **given), "orders", "order.created", "tag").text


def handed_over(text: str, queue: str = "q") -> HakeMessage:
    raw = {"MessageId": "m", "Body": text, "Attributes": {"ApproximateReceiveCount": "1"}}
    delivery = Delivery(1, queue, queue, raw, Lease(URL, "handle", 0.0, 30.0))
    return to_message(decode(text, queue), delivery, None, 1, "consumer", is_bound=False, sent_ms=None)


def is_decoded(envelope: Envelope) -> bool:
    info = envelope.properties["delivery_info"]
    return isinstance(envelope.headers, dict) and all(isinstance(info[key], str) for key in ("exchange", "routing_key"))


texts = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


# --- out and back


@given(st.one_of(st.binary(), texts.map(str.encode)))
@example(b"\x00\x01")
@example(b"\xff")
@example(b"")
def test_bytes_come_back_byte_for_byte(body: bytes) -> None:
    message = handed_over(sent(body))
    assert message.body == body
    assert message.headers == {"id": "1"}


@given(texts)
def test_text_comes_back(body: str) -> None:
    assert handed_over(sent(body)).body == body.encode()


@given(
    st.one_of(st.binary(), st.text()),
    # The header of an origin is dropped where it is none.
    st.dictionaries(texts.filter("hake-origin".__ne__), json_values, max_size=3),
)
def test_what_is_sent_is_taken_by_sqs_and_of_the_size_it_says(body: bytes | str, headers: dict[str, Any]) -> None:
    wire = encode(prepared(body, headers=headers), "x" * 9, "\N{SNOWMAN}", "tag")
    assert wire.size_bytes == len(wire.text.encode())
    assert ALLOWED_BY_SQS.fullmatch(wire.text)
    assert decode(wire.text, "q").headers == headers


@pytest.mark.parametrize("header", ["a", datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)])
def test_the_text_of_a_large_body_is_that_of_any_other_without_being_joined(header: Any) -> None:
    body = '"\N{SNOWMAN}\\\n' * 400_000
    wire = encode(prepared(body, headers={"h": header}), "orders", "order.created", "tag")
    assert len(wire.pieces) > 1
    assert wire.size_bytes == len(wire.text)
    [small] = encode(prepared("BODY", headers={"h": header}), "orders", "order.created", "tag").pieces
    assert wire.text == small.replace('"BODY"', json.dumps(body))
    assert decode(wire.text, "q").body == body.encode()


def test_a_text_body_stays_readable() -> None:
    wire = json.loads(sent(b'[[7], {}, {"chord": null}]'))
    assert wire["body"] == '[[7], {}, {"chord": null}]'
    assert wire["properties"]["body_encoding"] == "utf-8"


def test_exchange_and_routing_key_travel_in_the_envelope() -> None:
    found = decode(sent(b"{}"), "q")
    assert found.is_kombu
    assert found.properties["delivery_info"] == {"exchange": "orders", "routing_key": "order.created"}
    assert found.properties["correlation_id"] == "c"
    assert (found.content_type, found.content_encoding) == ("application/json", "utf-8")


def test_the_message_that_is_sent_is_not_changed() -> None:
    message = prepared(b"{}")
    before = json.dumps({**message, "body": None}, sort_keys=True)
    encode(message, "orders", "key", "tag")
    assert json.dumps({**message, "body": None}, sort_keys=True) == before


def test_headers_of_pythons_own_types_come_back() -> None:
    headers = {
        "at": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
        "day": datetime.date(2026, 1, 2),
        "id": uuid.UUID(int=7),
        "sum": decimal.Decimal("1.10"),
        "raw": b"\xff",
        "text": b"a",
    }
    assert decode(sent(b"{}", headers=headers), "q").headers == headers


def test_a_header_of_an_unknown_type_is_refused_when_it_is_sent() -> None:
    with pytest.raises(TypeError):
        sent(b"{}", headers={"x": object()})


@pytest.mark.parametrize("method", ["zlib", "bzip2"])
@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 5000])
def test_a_compressed_body_comes_back(method: str, body: bytes) -> None:
    squeezed, content_type = compress(body, method)
    assert handed_over(sent(squeezed, headers={"compression": content_type})).body == body


def test_a_compressed_body_that_happens_to_be_text_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compress.__globals__["_decoders"], "application/x-rot", lambda data: bytes(reversed(data)))
    assert handed_over(sent(b"cba", headers={"compression": "application/x-rot"})).body == b"abc"


def test_size_of_attributes_counts_names_types_and_values() -> None:
    assert attributes_bytes({}) == 0
    assert attributes_bytes({"rk": "é"}) == len("rk") + len("String") + 2


# --- kombu's sqs://


@given(st.one_of(st.binary(min_size=1), texts.map(str.encode).filter(bool)), st.booleans())
def test_messages_of_kombus_sqs_transport_are_understood(body: bytes, is_base64: bool) -> None:
    theirs = SqsSide()
    message = theirs.prepared(body, content_type="application/x", content_encoding="binary", headers={"task": "t"})
    found = handed_over(theirs.body_of(message, is_base64=is_base64))
    assert found.body == body
    assert (found.content_type, found.content_encoding) == ("application/x", "binary")
    assert found.headers == {"task": "t"}
    assert found.properties["delivery_info"]["routing_key"] == "order.created"


@given(st.one_of(st.binary(min_size=1), texts.map(str.encode).filter(bool)))
def test_kombus_sqs_transport_understands_ours(body: bytes) -> None:
    found = SqsSide().read(sent(body))
    assert found.body == body
    assert (found.content_type, found.content_encoding) == ("application/json", "utf-8")
    assert found.headers == {"id": "1"}
    assert found.delivery_info["exchange"] == "orders"
    assert found.properties["correlation_id"] == "c"


# --- foreign bodies

S3_EVENT = json.dumps({"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": "a b.jpg"}}}]})
NOTIFICATION = {
    "Type": "Notification",
    "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
    "TopicArn": "arn:aws:sns:eu-west-1:111122223333:orders",
    "Timestamp": "2026-01-01T00:00:00.000Z",
}


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        (S3_EVENT, "application/json"),
        ("[1, 2]", "application/json"),
        ("42", "application/json"),
        ("null", "application/json"),
        ('"text"', "application/json"),
        ("{}", "application/json"),
        ('{"body": "x"}', "application/json"),
        ('{"body": "x", "properties": []}', "application/json"),
        ('{"properties": {}}', "application/json"),
        (json.dumps({**NOTIFICATION, "Message": "hello"}), "application/json"),
        (json.dumps({**NOTIFICATION, "Message": "[1]"}), "application/json"),
        (json.dumps({**NOTIFICATION, "Message": 5}), "application/json"),
        ("hello", "text/plain"),
        ("", "text/plain"),
        ("\x00", "text/plain"),
        ('{"body": "x", "properties": {"a"', "text/plain"),
        ("<xml/>", "text/plain"),
        ("[" * 100_000, "text/plain"),
        ("1" * 10_000, "text/plain"),
        (base64.b64encode(b"\xff\xfe").decode(), "text/plain"),
    ],
)
def test_a_body_of_others_is_handed_over_as_its_text(text: str, content_type: str) -> None:
    found = decode(text, "q")
    assert not found.is_kombu
    assert (found.body, found.content_type, found.content_encoding) == (text, content_type, "utf-8")
    assert found.properties["delivery_info"] == {"exchange": "", "routing_key": "q"}
    assert handed_over(text).body == text.encode()


def test_a_plain_consumer_can_decode_the_body_of_others() -> None:
    assert handed_over(S3_EVENT).payload["Records"][0]["eventSource"] == "aws:s3"
    assert handed_over("hello").payload == "hello"


@pytest.mark.parametrize("is_base64", [False, True])
def test_a_message_inside_an_sns_notification_is_found(is_base64: bool) -> None:
    theirs = SqsSide()
    inner = theirs.body_of(theirs.prepared(b"hello"), is_base64=is_base64)
    for text in (inner, sent(b"hello")):
        found = decode(json.dumps({**NOTIFICATION, "Message": text}), "q")
        assert found.is_kombu
        assert handed_over(json.dumps({**NOTIFICATION, "Message": text})).body == b"hello"


wild_properties = st.fixed_dictionaries(
    {},
    optional={
        "body_encoding": st.sampled_from(["base64", "utf-8", 5, None, []]),
        "delivery_info": json_values | st.fixed_dictionaries({"exchange": json_values, "routing_key": json_values}),
        "message_id": json_values,
    },
)
wild_envelopes = st.fixed_dictionaries(
    {"body": json_values, "properties": wild_properties},
    optional={"headers": json_values, "content-type": json_values, "content-encoding": json_values},
)
marked = st.fixed_dictionaries(
    {
        "__type__": st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "no"])
        | json_values,
        "__value__": json_values,
    }
)
any_texts = st.one_of(
    texts,
    st.binary().map(lambda data: base64.b64encode(data).decode()),
    json_values.map(json.dumps),
    wild_envelopes.map(json.dumps),
    wild_envelopes.map(lambda found: json.dumps({**NOTIFICATION, "Message": json.dumps(found)})),
    marked.map(lambda value: json.dumps({"body": "x", "properties": {}, "headers": {"h": value}})),
    wild_envelopes.map(json.dumps).map(lambda text: text[: len(text) // 2]),
)


@given(any_texts)
@example('{"__type__": "datetime", "__value__": 5}')
@example('{"__type__": "decimal", "__value__": "junk"}')
@example('{"__type__": ["x"], "__value__": 1}')
@example('{"body": "x", "properties": {"delivery_info": {"exchange": [], "routing_key": 5}}}')
@example('{"body": "x", "properties": {}, "headers": {"compression": ["x"]}}')
@example('{"body": 1e999, "properties": {"expiration": Infinity}}')
def test_no_text_makes_it_raise(text: str) -> None:
    assert is_decoded(decode(text, "q"))
    message = handed_over(text)
    assert message.errors or isinstance(message.body, bytes)


def test_headers_that_only_look_like_kombus_types_are_handed_over_as_they_are() -> None:
    headers = {"at": {"__type__": "datetime", "__value__": "soon"}}
    text = json.dumps({"body": "x", "properties": {"delivery_tag": "1"}, "headers": headers})
    assert decode(text, "q").headers == {"at": {"__type__": "datetime", "__value__": "soon"}}


@pytest.mark.parametrize(
    "foreign",
    [
        {"body": "a house", "properties": {"rooms": 7}},
        {"body": "a house", "properties": {}},
        {"body": "a house", "properties": [], "headers": {}},
        {"properties": {"delivery_tag": "t"}},
    ],
)
def test_an_object_of_others_that_looks_alike_is_handed_over_whole(foreign: dict[str, object]) -> None:
    text = json.dumps(foreign)
    found = decode(text, "q")
    assert (found.is_kombu, found.body) == (False, text)
