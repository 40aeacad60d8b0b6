"""Compress the bodies of large messages, as kombu does it: any kombu consumer reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu_hake.amqp import COMPRESSION_HEADER, compressed

__all__ = ["with_compression"]


def with_compression(message: Mapping[str, Any], above_bytes: int, codec: str) -> Mapping[str, Any]:
    """The message with a compressed body, if the body has more than *above_bytes*.

    A message that is compressed already, or that would not become smaller, is returned unchanged.

    Args:
        message: In the form that ``basic_publish`` takes.
        codec: kombu's name of it, such as ``gzip``.
    """
    body, headers = message["body"], message.get("headers") or {}
    if not isinstance(body, str | bytes) or len(body) <= above_bytes or headers.get(COMPRESSION_HEADER):
        return message
    found = compressed(body, message.get("content-type"), codec)
    if found is None:
        return message
    return {**message, "body": found[0], "headers": {**headers, COMPRESSION_HEADER: found[1]}}
