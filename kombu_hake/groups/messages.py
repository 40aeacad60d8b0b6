"""The messages of groups: convert an event to the message of a handler's run, foreign JSON to an event, and a failure
to an entry of the history. Pure: takes and returns the parts of kombu's messages.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote
from uuid import UUID, uuid5

from kombu_hake.amqp import (
    COMPRESSION_HEADER,
    EVENT_HEADER,
    EVENT_TASK,
    FOREIGN_ATTRIBUTES,
    MAX_NESTING,
    MESSAGE_ATTRIBUTES,
    ORIGIN_HEADER,
    decoded,
    encoded,
    is_nested_too_deep,
)
from kombu_hake.exceptions import MalformedMessage
from kombu_hake.groups.registry import Subscription, run_id

__all__ = [
    "DEATHS_HEADER",
    "Parts",
    "event_of",
    "for_handler",
    "foreign_event",
    "resendable",
    "with_death",
]

#: Header of a dead letter: its deaths, the latest first. It stays when the message is sent back.
DEATHS_HEADER = "hake_deaths"
MAX_DEATHS = 10
MAX_REPR_CHARS = 1_024
KEY_ATTRIBUTE, EXCHANGE_ATTRIBUTE, EVENT_ID_ATTRIBUTE = FOREIGN_ATTRIBUTES
_FOREIGN_EVENTS = UUID("5f0f3c55-7f4f-5d0b-9d0d-6a3b4a2c1e90")
#: Properties that :func:`kombu_hake.receive.messages.to_message` adds to those that were sent.
_OF_RECEIVING = frozenset(
    {"delivery_info", "delivery_tag", "receive_count", "message_id", "sent_timestamp_ms", "body_encoding", "attributes"}
    | {MESSAGE_ATTRIBUTES}
)


class Parts(NamedTuple):
    """The parts of a message, in kombu's terms."""

    body: bytes | str
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    properties: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """In the form that ``basic_publish`` takes."""
        return {
            "body": self.body,
            "content-type": self.content_type,
            "content-encoding": self.content_encoding,
            "headers": self.headers,
            "properties": self.properties,
        }


def event_of(headers: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """(topic, key, event id) of an event's message; None if its topic or its id is missing."""
    origin = headers.get(ORIGIN_HEADER)
    if not isinstance(origin, Mapping) or "id" not in headers:
        return None
    return str(origin.get("exchange")), str(origin.get("routing_key")), str(headers["id"])


def for_handler(
    event: Parts, subscription: Subscription, name: str, topic: str, key: str, *, accept: Collection[str] | None
) -> Parts:
    """The message of one handler's run, with the run's own id, which is derived from the event's.

    Args:
        event: Its headers contain the event's id as ``id``.
        name: Name of the handler's task.
        accept: Content types that the app accepts; only a handler with ``as_mapping`` needs the body decoded.
    Raises:
        MalformedMessage: the body has to be decoded, but cannot be, or is not that of a task.
    """
    event_id = str(event.headers["id"])
    mine = run_id(event_id, subscription.group, name)
    root = event.headers.get("root_id")
    headers = {
        **event.headers,
        "task": name,
        "id": mine,
        # An event that a task published belongs to that task's tree; any other run is a root.
        "root_id": mine if root in (None, event_id) else root,
        EVENT_HEADER: {"id": event_id, "topic": topic, "key": key, "group": subscription.group},
    }
    headers.pop("ignore_result", None)  # set on the event, which has no result: the handler decides for itself
    properties = {**event.properties, "correlation_id": mine}
    changed = event._replace(headers=headers, properties=properties)
    return _with_mapping(changed, accept) if subscription.as_mapping else changed


def _with_mapping(parts: Parts, accept: Collection[str] | None) -> Parts:
    """The keyword arguments as one positional mapping."""
    codec = parts.headers.get(COMPRESSION_HEADER)
    args, kwargs, embed = _arguments(parts, accept, codec)
    value = [[*args, kwargs], {}, embed]
    content_type, content_encoding, body = encoded(value, parts.content_type, compression=codec)
    headers = {**parts.headers, "argsrepr": repr((kwargs,))[:MAX_REPR_CHARS], "kwargsrepr": "{}"}
    return Parts(body, content_type, content_encoding, headers, parts.properties)


def _arguments(
    parts: Parts, accept: Collection[str] | None, codec: Any
) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
    event_id = str(parts.headers.get("id"))
    try:
        found = decoded(parts.body, parts.content_type, parts.content_encoding, accept=accept, compression=codec)
    except MalformedMessage:
        raise
    except Exception as exc:  # kombu's errors for damaged or unaccepted bodies
        raise MalformedMessage(f"its body cannot be decoded: {type(exc).__name__}", message_id=event_id) from exc
    if not isinstance(found, list | tuple) or len(found) != 3:
        raise MalformedMessage("its body is not [args, kwargs, embed]", message_id=event_id)
    args, kwargs, embed = found
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise MalformedMessage("its arguments are not a list and an object", message_id=event_id)
    return args, kwargs, embed


def resendable(parts: Parts, sent_ms: int | None = None) -> Parts:
    """Remove the properties that describe the receive; the time to live still counts from the first send."""
    properties = {name: value for name, value in parts.properties.items() if name not in _OF_RECEIVING}
    if sent_ms is not None and properties.get("expiration") is not None:
        properties.setdefault("first_sent_ms", sent_ms)
    return parts._replace(properties=properties)


def foreign_event(text: str, attributes: Mapping[str, str], message_id: str, topics: Mapping[str, Any]) -> Parts:
    """Convert a foreign message, plain JSON, to an event.

    Args:
        attributes: Its SNS message attributes, those of type String.
        topics: The topics that the group listens to; each with a function that returns whether it has handlers for a
            key.
    Raises:
        MalformedMessage: it is not a JSON object, is nested too deep, has a key that cannot be decoded, or its topic
            is ambiguous: SNS does not name it.
    """
    if is_nested_too_deep(text):
        raise MalformedMessage(f"its body is nested deeper than {MAX_NESTING} levels", message_id=message_id)
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise MalformedMessage(f"its body is not JSON: {exc}", message_id=message_id) from exc
    if not isinstance(payload, dict):
        raise MalformedMessage(f"its body is JSON, but not an object: {type(payload).__name__}", message_id=message_id)
    try:
        key = _decoded_key(attributes.get(KEY_ATTRIBUTE, ""))
    except UnicodeDecodeError as exc:
        raise MalformedMessage(
            f"its attribute {KEY_ATTRIBUTE!r} is not percent-encoded UTF-8", message_id=message_id
        ) from exc
    topic = attributes.get(EXCHANGE_ATTRIBUTE) or _only_topic(topics, key, message_id)
    event_id = attributes.get(EVENT_ID_ATTRIBUTE) or str(uuid5(_FOREIGN_EVENTS, message_id))
    headers = {
        "lang": "py",
        "task": EVENT_TASK,
        "id": event_id,
        "root_id": event_id,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": repr(payload)[:MAX_REPR_CHARS],
        ORIGIN_HEADER: {"exchange": topic, "routing_key": key},
    }
    # A list, so that no key of the payload can make Celery treat it as a message of protocol 1.
    body = json.dumps([[], payload, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return Parts(body, "application/json", "utf-8", headers, {"correlation_id": event_id, "reply_to": ""})


def _decoded_key(spelled: str) -> str:
    """As :func:`kombu_hake.amqp.globs.spell` writes it; most keys need no escape and are unchanged."""
    return "" if spelled == "%" else unquote(spelled, errors="surrogatepass")


def _only_topic(topics: Mapping[str, Any], key: str, message_id: str) -> str:
    wanted = [topic for topic, has_handlers in topics.items() if has_handlers(key)] if len(topics) > 1 else [*topics]
    if len(wanted) == 1:
        return wanted[0]
    raise MalformedMessage(
        f"the group listens to the topics {', '.join(sorted(topics))}, and it is unknown which of them this was "
        f"published to: have its publisher add the attribute {EXCHANGE_ATTRIBUTE!r}",
        message_id=message_id,
    )


def with_death(headers: Mapping[str, Any], death: Mapping[str, Any]) -> dict[str, Any]:
    """Headers with another death in the history."""
    before = headers.get(DEATHS_HEADER)
    history = [dict(death), *(before if isinstance(before, list) else [])]
    return {**headers, DEATHS_HEADER: history[:MAX_DEATHS]}
