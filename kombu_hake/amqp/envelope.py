"""kombu's message dict to the body of an SQS message, and back. Pure.

On the wire the envelope is plain JSON of kombu's own shape::

    {"body": "[[7], {}, …]", "content-encoding": "utf-8", "content-type": "application/json",
     "headers": {…}, "properties": {"body_encoding": "utf-8", "delivery_info": {…}, "delivery_tag": "…", …}}

That is what kombu's SQS transport reads and (as base64) writes, so a fleet can move worker by worker. A body that is
UTF-8 text stays readable; any other is base64, and ``body_encoding`` says so: nothing is guessed about our own
messages. ``ensure_ascii`` keeps out every character that SQS refuses.

:func:`decode` never raises: what is no envelope is handed over as its text.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from kombu.utils import json as kombu_json

from kombu_hake.amqp.numeric import whole
from kombu_hake.amqp.tasks import ORIGIN_HEADER

__all__ = [
    "FOREIGN_ATTRIBUTES",
    "Envelope",
    "Wire",
    "attributes_bytes",
    "decode",
    "encode",
    "opaque",
    "unwritable_properties",
    "with_first_sent",
]

#: What others may say about a message of theirs, as attributes of type String: its routing key, the exchange it was
#: published to (SNS leaves that out), an id of the event. Our own messages say all that in the envelope.
FOREIGN_ATTRIBUTES = ("rk", "exchange", "event_id")
_encode = json.JSONEncoder(separators=(",", ":")).encode
#: Properties that a received message gets from its receiver.
_OF_RECEIVING = ("attributes", "receive_count", "sent_timestamp_ms")
#: Properties that are text in AMQP; as anything else they are dropped. Celery publishes a result to ``reply_to``.
_TEXTS = ("correlation_id", "message_id", "reply_to")
#: Deeper JSON is no envelope: what would handle it next, in our code, Celery's or the pool's, runs out of stack.
MAX_DEPTH = 100
#: kombu marks a value of Python's own types so: ``{"__type__": "uuid", "__value__": {"hex": "…"}}``.
_MARKER = frozenset({"__type__", "__value__"})
#: Limits of a Decimal among the headers: characters, and the exponent, so that ``int()`` of it takes no time.
_MAX_DECIMAL_CHARS = 100
_MAX_DECIMAL_EXPONENT = 300
#: Properties with a meaning, in AMQP, to kombu or here. One that cannot be written is an error of the publisher.
_KNOWN_PROPERTIES = frozenset(
    {
        *("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to"),
        *("expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id"),
        *("delivery_info", "body_encoding", "delivery_tag", "first_sent_ms"),
        *("MessageGroupId", "MessageDeduplicationId", "DelaySeconds", "delay_seconds"),
    }
)
_KOMBU_PROPERTIES = frozenset({"body_encoding", "delivery_info", "delivery_tag"})
#: An SNS notification holds these (DG-SNS "raw message delivery"); an operator's own subscription may send one.
_NOTIFICATION_KEYS = ("TopicArn", "Message", "MessageId")


class Envelope(NamedTuple):
    """A received message in kombu's terms."""

    #: The payload, as the publisher's serializer made it; of a foreign message its text.
    body: bytes | str
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    #: With ``delivery_info`` inside, always a dict.
    properties: dict[str, Any]
    #: Whether it was made by kombu; if not, the body is the whole text of the SQS message.
    is_kombu: bool


class Wire(NamedTuple):
    """A message as it is sent."""

    text: str
    #: UTF-8 bytes of the text. It is ASCII, so they are its characters.
    size_bytes: int


def encode(message: Mapping[str, Any], exchange: str, routing_key: str, delivery_tag: str) -> Wire:
    """The body to send for *message*, a dict as :meth:`kombu.transport.base.StdChannel.prepare_message` makes it.

    Args:
        delivery_tag: An id of this publishing; kombu's SQS transport wants the key to be there.
    Raises:
        TypeError: a header or property is of a type that neither JSON nor kombu's JSON knows.
    """
    body, body_encoding = _body_to_text(message["body"])
    properties = message["properties"]
    delivery_info = {**properties.get("delivery_info", {}), "exchange": exchange, "routing_key": routing_key}
    envelope = {
        "body": body,
        "content-encoding": message.get("content-encoding"),
        "content-type": message.get("content-type"),
        "headers": message.get("headers") or {},
        "properties": {
            **properties,
            "body_encoding": body_encoding,
            "delivery_info": delivery_info,
            "delivery_tag": delivery_tag,
        },
    }
    try:
        text = _encode(envelope)
    except TypeError:  # a datetime, UUID, Decimal … among the headers: kombu's encoder knows them and is slower
        text = str(kombu_json.dumps(envelope, separators=(",", ":")))
    return Wire(text, len(text))


def unwritable_properties(properties: Mapping[Any, Any]) -> list[Any]:
    """Names of the properties that :func:`encode` cannot write, other than those with a meaning."""
    unknown = {name: value for name, value in properties.items() if name not in _KNOWN_PROPERTIES}
    return [name for name, value in unknown.items() if not _is_writable(name, value)]


def _is_writable(name: Any, value: Any) -> bool:
    try:
        kombu_json.dumps({name: value})
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def attributes_bytes(attributes: Mapping[str, str]) -> int:
    """What String attributes add to the size of a message: name, type and value of each, UTF-8."""
    return sum(len(name.encode()) + len("String") + len(value.encode()) for name, value in attributes.items())


def decode(text: str, queue: str) -> Envelope:
    """The envelope in the body of an SQS message.

    Understands our own, those of kombu's SQS transport (plain and base64), and either inside an SNS notification.
    Values of Python's own types (datetime, UUID, Decimal, …) are restored in the headers alone; all else is plain JSON.

    Args:
        queue: Logical name; a foreign message counts as sent to it by the default exchange.
    """
    searched = _find(text)
    if searched is None:
        return _foreign(text, queue)
    found, found_in = searched
    properties = {
        name: value
        for name, value in found["properties"].items()
        if name not in _OF_RECEIVING and (name not in _TEXTS or isinstance(value, str))
    }
    properties["delivery_info"] = _delivery_info(properties.get("delivery_info"), queue)
    try:
        body = _body_from_text(found.get("body"), properties.get("body_encoding"))
    except (TypeError, ValueError, RecursionError):  # a body that is no text, and that JSON cannot write again
        return opaque(text, queue)
    return Envelope(
        body=body,
        content_type=_text_or_none(found.get("content-type")),
        content_encoding=_text_or_none(found.get("content-encoding")),
        headers=_headers(found.get("headers"), may_have_types='"__type__"' in found_in),
        properties=properties,
        is_kombu=True,
    )


def _delivery_info(info: Any, queue: str) -> dict[str, Any]:
    """With exchange and routing key as text, whoever wrote them: what routes on them must not trip."""
    if not isinstance(info, dict):
        return {"exchange": "", "routing_key": queue}
    exchange, routing_key = info.get("exchange"), info.get("routing_key")
    return {
        **info,
        "exchange": exchange if isinstance(exchange, str) else "",
        "routing_key": routing_key if isinstance(routing_key, str) else queue,
    }


def with_first_sent(text: str, first_sent_ms: int) -> str:
    """The same message, to be sent again, with the time of its first sending; an earlier time in it is kept.

    What is no kombu message is returned unchanged.
    """
    searched = _find(text)
    if searched is None:
        return text
    found, _ = searched
    known = whole(found["properties"].get("first_sent_ms"))
    if known is None or known > first_sent_ms:
        found["properties"] = {**found["properties"], "first_sent_ms": first_sent_ms}
    return _encode(found)


def _headers(given: Any, *, may_have_types: bool) -> dict[str, Any]:
    headers = given if isinstance(given, dict) else {}
    if may_have_types:
        headers = {name: _with_types(value) for name, value in headers.items()}
    origin = headers.get(ORIGIN_HEADER)
    if ORIGIN_HEADER in headers and not (
        isinstance(origin, dict) and all(isinstance(origin.get(key), str) for key in ("exchange", "routing_key"))
    ):
        headers = {name: value for name, value in headers.items() if name != ORIGIN_HEADER}
    return headers


def _with_types(value: Any) -> Any:
    """JSON with the values that kombu's encoder has marked; what does not look like its work stays as it is."""
    if isinstance(value, list):
        return [_with_types(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: _with_types(item) for name, item in value.items()}
    if found.keys() != _MARKER:
        return found
    try:
        if _is_harmless(found["__type__"], found["__value__"]):
            return kombu_json.object_hook(found)
    except Exception:  # noqa: S110 - the constructors raise what they like, those that an app registered too
        pass
    return found


def _is_harmless(kind: Any, value: Any) -> bool:
    """Whether kombu may build the value: some constructors make of a few characters what nobody can work with."""
    if kind == "decimal":
        if not isinstance(value, str) or len(value) > _MAX_DECIMAL_CHARS:
            return False
        number = Decimal(value)
        return number.is_finite() and abs(number.adjusted()) <= _MAX_DECIMAL_EXPONENT
    if kind == "uuid":  # other arguments make one that can't be pickled
        return isinstance(value, dict) and value.keys() == {"hex"}
    return True


def _body_to_text(body: Any) -> tuple[str, str]:
    if isinstance(body, str):
        return body, "utf-8"
    data = bytes(body) if body is not None else b""
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii"), "base64"


def _body_from_text(body: Any, encoding: Any) -> bytes:
    """Always bytes, because that is what kombu's decompression takes."""
    if not isinstance(body, str):
        # kombu's own transports write text; whatever else is there is handed over as JSON.
        return b"" if body is None else _encode(body).encode()
    if encoding == "base64":
        with contextlib.suppress(ValueError):
            return base64.b64decode(body, validate=True)
    return body.encode("utf-8", "surrogatepass")


def _find(text: str) -> tuple[dict[str, Any], str] | None:
    """kombu's dict in *text*, and the JSON that it was found in; or None."""
    outer, outer_text = _parse_either(text)
    if _is_kombu(outer):
        return None if _is_deep(outer, outer_text) else (outer, outer_text)
    if not isinstance(outer, dict) or outer.get("Type") != "Notification":
        return None
    if not all(isinstance(outer.get(key), str) for key in _NOTIFICATION_KEYS):
        return None
    inner, inner_text = _parse_either(outer["Message"])
    return (inner, inner_text) if _is_kombu(inner) and not _is_deep(inner, inner_text) else None


def _is_deep(value: Any, text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:  # nearly always, and counted fast
        return False
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return True
        inside = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
        level = [item for item in inside if isinstance(item, dict | list)]
    return False


def _is_kombu(candidate: Any) -> bool:
    if not isinstance(candidate, dict) or "body" not in candidate:
        return False
    # An object of others may well have "properties" and a "body"; hardly these in them, one of which kombu always adds.
    properties = candidate.get("properties")
    return isinstance(properties, dict) and not _KOMBU_PROPERTIES.isdisjoint(properties)


def _parse_either(text: str) -> tuple[Any, str]:
    """What the text holds as JSON, plain or in base64; and the JSON."""
    found = _parse(text)
    if found is not None:
        return found, text
    decoded = _from_base64(text) or ""
    return _parse(decoded), decoded


def _parse(text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_base64(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8")
    except ValueError:
        return None


def _foreign(text: str, queue: str) -> Envelope:
    is_json = _parse(text) is not None or text.strip() == "null"
    return Envelope(
        body=text,
        content_type="application/json" if is_json else "text/plain",
        content_encoding="utf-8",
        headers={},
        properties={"delivery_info": {"exchange": "", "routing_key": queue}},
        is_kombu=False,
    )


def opaque(text: str, queue: str) -> Envelope:
    """A message whose text is not looked into."""
    return Envelope(
        body=text,
        content_type="text/plain",
        content_encoding="utf-8",
        headers={},
        properties={"delivery_info": {"exchange": "", "routing_key": queue}},
        is_kombu=False,
    )


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
