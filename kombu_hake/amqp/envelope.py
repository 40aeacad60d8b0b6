"""Convert kombu's message dict to the body of an SQS message, and back. Pure.

On the wire the envelope is plain JSON of kombu's own shape::

    {"body": "[[7], {}, …]", "content-encoding": "utf-8", "content-type": "application/json",
     "headers": {…}, "properties": {"body_encoding": "utf-8", "delivery_info": {…}, "delivery_tag": "…", …}}

That is what kombu's SQS transport reads and (as base64) writes, so a fleet can move worker by worker. A body that is
UTF-8 text stays readable; any other is base64, and ``body_encoding`` records that: nothing is guessed about our
own messages. ``ensure_ascii`` keeps out every character that SQS refuses.

:func:`decode` never raises: a body that is not an envelope is delivered as text.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from kombu.utils import json as kombu_json

from kombu_hake.amqp.contents import has_too_many_values
from kombu_hake.amqp.documents import is_deeper
from kombu_hake.amqp.limits import SQS_MAX_MESSAGE_BYTES
from kombu_hake.amqp.numeric import whole
from kombu_hake.amqp.payloads import Changes
from kombu_hake.amqp.tasks import ORIGIN_HEADER
from kombu_hake.amqp.tenants import is_group_id, is_tenant

__all__ = [
    "FOREIGN_ATTRIBUTES",
    "Envelope",
    "Wire",
    "attributes_bytes",
    "decode",
    "drop_unsound",
    "encode",
    "opaque",
    "unwritable_properties",
    "with_first_sent",
]

#: Attributes of type String that foreign publishers may set on a message: its routing key, the exchange it was
#: published to (SNS leaves that out), an id of the event. Our own messages carry these in the envelope.
FOREIGN_ATTRIBUTES = ("rk", "exchange", "event_id")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode
#: Properties that the receiver sets on a received message.
_OF_RECEIVING = ("attributes", "message_attributes", "receive_count", "sent_timestamp_ms")
#: Headers of W3C Trace Context, and the longest that must be kept. Programs parse them as soon as they trace tasks, and
#: older versions of OpenTelemetry take time that grows with the square of the length.
_TRACE_HEADERS = ("traceparent", "tracestate")
_MAX_TRACE_CHARS = 512
#: Properties that must be text, as in AMQP; other types are dropped. Celery publishes a result to ``reply_to``.
_TEXTS = ("correlation_id", "message_id", "reply_to")
#: Deeper JSON is not taken as an envelope: code that handles it later (ours, Celery's, the pool's) overflows the stack.
MAX_DEPTH = 100
#: kombu marks a value of Python's own types so: ``{"__type__": "uuid", "__value__": {"hex": "…"}}``.
_MARKER = frozenset({"__type__", "__value__"})
#: Limits of a Decimal among the headers: characters, and the exponent, so that ``int()`` of it is fast.
_MAX_DECIMAL_CHARS = 100
_MAX_DECIMAL_EXPONENT = 300
#: Properties that AMQP, kombu or this package define. If one cannot be written, the publish raises.
_KNOWN_PROPERTIES = frozenset(
    {
        *("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to"),
        *("expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id"),
        *("delivery_info", "body_encoding", "delivery_tag", "first_sent_ms"),
        *("MessageGroupId", "MessageDeduplicationId", "DelaySeconds", "delay_seconds", "tenant"),
    }
)
_KOMBU_PROPERTIES = frozenset({"body_encoding", "delivery_info", "delivery_tag"})
#: An SNS notification holds these (DG-SNS "raw message delivery"); an operator's own subscription may send one.
_NOTIFICATION_KEYS = ("TopicArn", "Message", "MessageId")


class Envelope(NamedTuple):
    """A received message in kombu's terms."""

    #: The payload, as the publisher's serializer wrote it; for a foreign message its text.
    body: bytes | str
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    #: With ``delivery_info`` inside, always a dict.
    properties: dict[str, Any]
    #: Whether kombu wrote it; if not, the body is the whole text of the SQS message.
    is_kombu: bool


class Wire(NamedTuple):
    """A message as sent."""

    #: The text, in pieces where a body is larger than any queue or topic takes: joining them would copy it.
    pieces: tuple[str, ...]
    #: Size of the text in UTF-8, bytes. The text is ASCII, so this is also its length.
    size_bytes: int

    @property
    def text(self) -> str:
        """The text, as one."""
        return "".join(self.pieces)


def encode(message: Mapping[str, Any], exchange: str, routing_key: str, delivery_tag: str) -> Wire:
    """The body to send for *message*, a dict as :meth:`kombu.transport.base.StdChannel.prepare_message` makes it.

    Args:
        delivery_tag: An id of this publish; kombu's SQS transport requires the key.
    Raises:
        TypeError: a header or property has a type that neither JSON nor kombu's JSON encoder supports.
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
    if len(body) <= SQS_MAX_MESSAGE_BYTES:
        text = _json(envelope)
        return Wire((text,), len(text))
    del envelope["body"]
    pieces = ('{"body":', _encode(body), ",", _json(envelope)[1:])
    return Wire(pieces, sum(map(len, pieces)))


def _json(envelope: dict[str, Any]) -> str:
    try:
        return _encode(envelope)
    except TypeError:  # a datetime, UUID, Decimal … among the headers: kombu's encoder supports them, but is slower
        return str(kombu_json.dumps(envelope, separators=(",", ":")))


def unwritable_properties(properties: Mapping[Any, Any]) -> list[Any]:
    """Names of the properties that :func:`encode` cannot write, except those that AMQP, kombu or we define."""
    unknown = {name: value for name, value in properties.items() if name not in _KNOWN_PROPERTIES}
    return [name for name, value in unknown.items() if not _is_writable(name, value)]


def _is_writable(name: Any, value: Any) -> bool:
    try:
        kombu_json.dumps({name: value})
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def attributes_bytes(attributes: Mapping[str, str]) -> int:
    """Bytes that String attributes add to a message: name, type and value of each, in UTF-8."""
    return sum(len(name.encode()) + len("String") + len(value.encode()) for name, value in attributes.items())


def decode(text: str, queue: str, changes: Changes | None = None) -> Envelope:
    """Read the envelope in the body of an SQS message.

    Reads our own envelopes, those of kombu's SQS transport (plain and base64), and either inside an SNS notification.
    Values of Python's own types (datetime, UUID, Decimal, …) are restored in the headers alone; all else is plain JSON.

    Args:
        queue: Logical name; a foreign message counts as sent to it by the default exchange.
        changes: What differs from the text, where that is a payload in S3; a foreign message has none.
    """
    searched = _find(text)
    if searched is None:
        return _foreign(text, queue)
    found, found_in = searched
    may_have_types = '"__type__"' in found_in
    if changes:
        found = _changed(found, changes)
        may_have_types = True
    properties = found["properties"]
    for name in _OF_RECEIVING:
        properties.pop(name, None)
    drop_unsound(properties)
    properties["delivery_info"] = _delivery_info(properties.get("delivery_info"), queue)
    try:
        body = _body_from_text(found.get("body"), properties.get("body_encoding"))
    except (TypeError, ValueError, RecursionError):  # a body that is not text and that JSON cannot encode again
        return opaque(text, queue)
    return Envelope(
        body=body,
        content_type=_text_or_none(found.get("content-type")),
        content_encoding=_text_or_none(found.get("content-encoding")),
        headers=_headers(found.get("headers"), may_have_types=may_have_types),
        properties=properties,
        is_kombu=True,
    )


def drop_unsound(properties: dict[str, Any]) -> None:
    """Remove properties of a received message that this package relies on, and whose values are not valid."""
    for name in _TEXTS:
        if not isinstance(properties.get(name, ""), str):
            del properties[name]
    if "tenant" in properties and not is_tenant(properties["tenant"]):
        del properties["tenant"]
    if "MessageGroupId" in properties and not is_group_id(properties["MessageGroupId"]):
        del properties["MessageGroupId"]  # AWS would refuse the message if it were sent again


def _delivery_info(info: Any, queue: str) -> dict[str, Any]:
    """Make exchange and routing key text, whatever the publisher wrote: routing must not fail on them."""
    if not isinstance(info, dict):
        return {"exchange": "", "routing_key": queue}
    exchange, routing_key = info.get("exchange"), info.get("routing_key")
    if isinstance(exchange, str) and isinstance(routing_key, str):
        return info
    return {
        **info,
        "exchange": exchange if isinstance(exchange, str) else "",
        "routing_key": routing_key if isinstance(routing_key, str) else queue,
    }


def _changed(found: dict[str, Any], changes: Changes) -> dict[str, Any]:
    headers = found.get("headers")
    kept = {**headers, **changes.get("headers", {})} if isinstance(headers, dict) else dict(changes.get("headers", {}))
    for name in changes.get("without", ()):
        kept.pop(name, None)
    properties = {**found["properties"], **changes.get("properties", {})}
    return {
        **found,
        "headers": kept,
        "properties": {name: value for name, value in properties.items() if value is not None},
    }


def with_first_sent(text: str, first_sent_ms: int) -> str:
    """Add the time of the first send to a message that is sent again; an earlier time in it is kept.

    Text that is not a kombu message is returned unchanged.
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
    for name in _TRACE_HEADERS:
        value = headers.get(name)
        if value is not None and not (isinstance(value, str) and len(value) <= _MAX_TRACE_CHARS):
            headers = {key: kept for key, kept in headers.items() if key != name}
    origin = headers.get(ORIGIN_HEADER)
    if ORIGIN_HEADER in headers and not (
        isinstance(origin, dict) and all(isinstance(origin.get(key), str) for key in ("exchange", "routing_key"))
    ):
        headers = {name: value for name, value in headers.items() if name != ORIGIN_HEADER}
    return headers


def _with_types(value: Any) -> Any:
    """Restore the values that kombu's encoder has marked; anything else stays unchanged."""
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
    """Return True if it is safe to build the value: some constructors turn a few characters into an unusable value."""
    if kind == "decimal":
        if not isinstance(value, str) or len(value) > _MAX_DECIMAL_CHARS:
            return False
        number = Decimal(value)
        return number.is_finite() and abs(number.adjusted()) <= _MAX_DECIMAL_EXPONENT
    if kind == "uuid":  # other arguments give a value that cannot be pickled
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
    """Always bytes, as kombu's decompression requires."""
    if not isinstance(body, str):
        # kombu's own transports write text; any other value is delivered as JSON.
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
    if text.count("{") + text.count("[") <= MAX_DEPTH:  # nearly always the case, and fast to count
        return False
    return is_deeper(value, MAX_DEPTH)


def _is_kombu(candidate: Any) -> bool:
    if not isinstance(candidate, dict) or "body" not in candidate:
        return False
    # A foreign object may have "properties" and a "body", but hardly these keys in them; kombu always adds one of them.
    properties = candidate.get("properties")
    return isinstance(properties, dict) and not _KOMBU_PROPERTIES.isdisjoint(properties)


def _parse_either(text: str) -> tuple[Any, str]:
    """The decoded JSON of a text, plain or base64; and the JSON itself."""
    found = _parse(text)
    if found is not None:
        return found, text
    decoded = _from_base64(text) or ""
    return _parse(decoded), decoded


def _parse(text: str) -> Any:
    if not text or has_too_many_values(text):
        return None
    try:
        return _from_json(text)
    except (ValueError, RecursionError):
        return None


def _from_base64(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8")
    except ValueError:
        return None


def _foreign(text: str, queue: str) -> Envelope:
    found = opaque(text, queue)
    is_json = _parse(text) is not None or text.strip() == "null"
    return found._replace(content_type="application/json") if is_json else found


def opaque(text: str, queue: str) -> Envelope:
    """A message whose text is not parsed."""
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
