"""Messages that are too large for SNS or SQS: their text is written to S3, and a pointer to it is sent.

The upload is part of the publish, in the thread of its caller: if it fails, the publish does. An object whose message
could not be sent is left to the bucket's lifecycle rule, because AWS may have accepted a message whose answer was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kombu_hake.amqp import (
    MAX_PAYLOAD_BYTES,
    Changes,
    Pointer,
    Store,
    has_too_many_values,
    is_json,
    most_values,
    pointer_attributes,
)
from kombu_hake.aws import Clients
from kombu_hake.exceptions import MessageTooLarge
from kombu_hake.publish.publisher import Outgoing

__all__ = ["Uploads", "check_values", "pointing"]


class Uploads:
    """Writes texts to S3. Safe to share between threads."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def put(self, pieces: Sequence[str], store: Store, *, is_for_queue: bool) -> Pointer:
        """Write the text of a message.

        Args:
            pieces: The text, in pieces.
            is_for_queue: The message goes to one queue, whose consumer deletes the object.
        Raises:
            MessageTooLarge: it is too large even for our consumers.
            BrokerUnavailable: S3 cannot be reached.
            AccessDenied: it needs ``s3:PutObject``.
        """
        size = sum(len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in pieces)
        if size > MAX_PAYLOAD_BYTES:
            raise MessageTooLarge(
                f"A message of {size:,} bytes is over the {MAX_PAYLOAD_BYTES:,} bytes that consumers take from S3: "
                "write the data to S3 yourself, and send its key.",
                size_bytes=size,
                limit_bytes=MAX_PAYLOAD_BYTES,
            )
        pointer = Pointer(store.bucket, store.new_key(is_for_queue=is_for_queue), size)
        self._clients.s3("upload", Bucket=pointer.bucket, Key=pointer.key, Pieces=pieces)
        return pointer


def check_values(message: Mapping[str, Any]) -> None:
    """Refuse a body that our consumers would refuse to decode.

    Raises:
        MessageTooLarge: it has too many values.
    """
    body = message.get("body")
    if isinstance(body, str | bytes) and is_json(message.get("content-type")) and has_too_many_values(body):
        most = most_values(len(body))
        raise MessageTooLarge(
            f"A message of {len(body):,} bytes holds more than {most:,} values, which consumers refuse to decode: send "
            "them as one text (CSV, base64), or write them to S3 yourself and send the key.",
            size_bytes=len(body),
            limit_bytes=MAX_PAYLOAD_BYTES,
        )


def pointing(prepared: Outgoing, text_bytes: int, pointer: Pointer, changes: Changes) -> Outgoing:
    """A message that points to the payload of *prepared*, and is otherwise the same.

    Args:
        text_bytes: Size of the text of *prepared*.
        changes: Differences from the payload.
    """
    added = pointer_attributes(pointer, changes)
    before: Mapping[str, Any] = prepared.parameters.get("MessageAttributes", {})
    parameters = {**prepared.parameters, "MessageAttributes": {**added, **before}}
    size = sum(len(name) + sum(map(len, item.values())) for name, item in added.items())
    text = pointer.text
    return Outgoing(text, parameters, prepared.size_bytes - text_bytes + len(text) + size)
