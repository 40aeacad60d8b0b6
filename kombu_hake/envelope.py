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
from typing import Any, NamedTuple

from kombu.utils import json as kombu_json

__all__ = [
    "FOREIGN_ATTRIBUTES",
    "Envelope",
    "Wire",
    "attributes_bytes",
    "decode",
    "encode",
    "opaque",
    "with_first_sent",
]

#: What others may say about a message of theirs, as attributes of type String: its routing key, the exchange it was
#: published to (SNS leaves that out), an id of the event. Our own messages say all that in the envelope.
FOREIGN_ATTRIBUTES = ("rk", "exchange", "event_id")
_encode = json.JSONEncoder(separators=(",", ":")).encode
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


def attributes_bytes(attributes: Mapping[str, str]) -> int:
    """What String attributes add to the size of a message: name, type and value of each, UTF-8."""
    return sum(len(name.encode()) + len("String") + len(value.encode()) for name, value in attributes.items())


def decode(text: str, queue: str) -> Envelope:
    """The envelope in the body of an SQS message.

    Understands our own, those of kombu's SQS transport (plain and base64), and either inside an SNS notification.

    Args:
        queue: Logical name; a foreign message counts as sent to it by the default exchange.
    """
    found = _find(text)
    if found is None:
        return _foreign(text, queue)
    properties = dict(found["properties"])
    properties["delivery_info"] = _delivery_info(properties.get("delivery_info"), queue)
    try:
        body = _body_from_text(found.get("body"), properties.get("body_encoding"))
    except (TypeError, ValueError, RecursionError):  # a body that is no text, and that JSON cannot write again
        return opaque(text, queue)
    headers = found.get("headers")
    return Envelope(
        body=body,
        content_type=_text_or_none(found.get("content-type")),
        content_encoding=_text_or_none(found.get("content-encoding")),
        headers=headers if isinstance(headers, dict) else {},
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
    """The same message, to be sent again, with the time of its first sending; one that tells it is left as it is.

    What is no kombu message is returned unchanged.
    """
    found = _find(text)
    if found is None:
        return text
    found["properties"].setdefault("first_sent_ms", first_sent_ms)
    return str(kombu_json.dumps(found, separators=(",", ":")))


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


def _find(text: str) -> dict[str, Any] | None:
    """kombu's dict in *text*, or None."""
    outer = _parse_either(text)
    if _is_kombu(outer):
        return dict(outer)
    if not isinstance(outer, dict) or outer.get("Type") != "Notification":
        return None
    if not all(isinstance(outer.get(key), str) for key in _NOTIFICATION_KEYS):
        return None
    inner = _parse_either(outer["Message"])
    return dict(inner) if _is_kombu(inner) else None


def _is_kombu(candidate: Any) -> bool:
    if not isinstance(candidate, dict) or "body" not in candidate:
        return False
    # An object of others may well have "properties" and a "body"; hardly these in them, one of which kombu always adds.
    properties = candidate.get("properties")
    return isinstance(properties, dict) and not _KOMBU_PROPERTIES.isdisjoint(properties)


def _parse_either(text: str) -> Any:
    """What the text holds as JSON, plain or in base64."""
    found = _parse(text)
    return _parse(_from_base64(text)) if found is None else found


def _parse(text: str | None) -> Any:
    if not text:
        return None
    try:
        if '"__type__"' in text:  # kombu's encoder marks a datetime, UUID, … so, and only kombu's decoder knows them
            with contextlib.suppress(Exception):  # they raise whatever the constructors raise
                return kombu_json.loads(text)
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
