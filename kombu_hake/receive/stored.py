"""The payload in S3 of one received message, and how its dead letter or copy refers to it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kombu_hake.amqp import (
    Changes,
    Envelope,
    Pointer,
    combined,
    decode,
    difference,
    pointer_attributes,
)

__all__ = ["Stored"]

#: Headers that identify a dead letter for operators, if they are text of at most this many characters.
_TELLING = ("task", "id", "argsrepr", "kwargsrepr")
_MAX_TELLING_CHARS = 4_096
#: Properties that describe the encoding of the text.
_OF_THE_TEXT = frozenset({"body_encoding", "delivery_tag"})


class Stored:
    """The payload in S3 of one received message."""

    __slots__ = ("_give_back", "_text", "changes", "fault", "outline", "pointer")

    def __init__(self, pointer: Pointer | None, changes: Changes, fault: str = "") -> None:
        #: None if the message does not say where its payload is.
        self.pointer = pointer
        #: Changes of the message to its payload.
        self.changes = changes
        #: Why it cannot be read; the reason of a dead letter.
        self.fault = fault
        #: The message without its body, once it has been handed over.
        self.outline: Envelope | None = None
        self._text: str | None = None
        self._give_back: Callable[[], None] | None = None

    def arrived(self, text: str, give_back: Callable[[], None] | None = None) -> None:
        """Keep the payload until :meth:`take`; *give_back* is called then, or by :meth:`drop`."""
        self._text, self._give_back = text, give_back

    def take(self, queue: str) -> Envelope:
        """The message, once. The text is not kept: the body of the envelope is a copy."""
        text, self._text = self._text, None
        envelope = decode(text or "", queue, self.changes)
        del text
        self.drop()
        self.outline = envelope._replace(body=b"")
        return envelope

    def drop(self) -> None:
        """Free the room that it takes. Idempotent; any thread."""
        self._text, give_back, self._give_back = None, self._give_back, None
        if give_back is not None:
            give_back()

    def attributes(self, more: Changes) -> dict[str, dict[str, str]]:
        """The attributes of another message that points to the same payload, with *more* changed in it."""
        return {} if self.pointer is None else pointer_attributes(self.pointer, combined(self.changes, more))

    def changes_for(self, message: Mapping[str, Any], exchange: str, routing_key: str) -> Changes:
        """What to change in the payload so that it becomes another message with the same body.

        Args:
            message: As ``basic_publish`` takes it.
        """
        if self.outline is None:
            return {}
        properties = {
            **message["properties"],
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
        }
        before = self.outline.properties
        differing = {name: value for name, value in properties.items() if before.get(name) != value}
        removed = dict.fromkeys(name for name in before if name not in properties and name not in _OF_THE_TEXT)
        headers = difference(self.outline.headers, message.get("headers") or {})
        return combined(self.changes, {**headers, "properties": {**differing, **removed}})

    def telling(self) -> Changes:
        """Headers that identify the message for operators, who see only the pointer: as changes without effect."""
        headers = self.outline.headers if self.outline is not None else {}
        texts = {name: headers[name] for name in _TELLING if isinstance(headers.get(name), str)}
        return {"headers": {name: text for name, text in texts.items() if len(text) <= _MAX_TELLING_CHARS}}
