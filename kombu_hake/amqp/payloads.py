"""Payloads in S3: where they are kept, and the message that points to one. Pure.

A message that is too large goes to S3 in the format of AWS's extended clients (``amazon-sqs-java-extended-client-lib``,
``amazon-sqs-extended-client``): the object is the text of the message, and the message that is sent is a *pointer*,

    ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "…", "s3Key": "…"}]

with the attribute ``ExtendedPayloadSize``, the bytes of the object. Their consumers read ours, and we read theirs.

Keys
    Below the prefix of a :class:`Store`, objects of messages to one queue are in ``q/``, and those of messages that may
    reach a topic in ``t/``: several queues may share the latter, so no consumer deletes them. Whatever a message says,
    only objects are read whose bucket is configured and whose key is plain and below the prefix, and only those are
    deleted whose key is exactly one that :meth:`Store.new_key` makes in ``q/``.

Changes
    A deferred, dead-lettered or requeued message points to the same object, whose text cannot be changed. What differs
    from it is in the attribute ``hake-changes``: ``{"headers": {…}, "without": ["header"], "properties": {…}}``. A
    property that is null is removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

from kombu.utils import json as kombu_json

from kombu_hake.amqp.documents import is_deeper
from kombu_hake.amqp.limits import MAX_PAYLOAD_BYTES, SQS_MAX_MESSAGE_BYTES
from kombu_hake.amqp.numeric import whole
from kombu_hake.exceptions import MalformedMessage

__all__ = [
    "PAYLOAD_ATTRIBUTES",
    "SIZE_ATTRIBUTE",
    "Changes",
    "Pointer",
    "Store",
    "changes_in",
    "combined",
    "difference",
    "has_pointer",
    "lifecycle_rules",
    "parse_store",
    "pointer_attributes",
    "pointer_in",
]

SIZE_ATTRIBUTE = "ExtendedPayloadSize"
_OLD_SIZE_ATTRIBUTE = "SQSLargePayloadSize"
_CHANGES_ATTRIBUTE = "hake-changes"
#: Attributes that belong to the pointer, not to the message it stands for.
PAYLOAD_ATTRIBUTES = frozenset({SIZE_ATTRIBUTE, _OLD_SIZE_ATTRIBUTE, _CHANGES_ATTRIBUTE})
_CLASS = "software.amazon.payloadoffloading.PayloadS3Pointer"
_CLASSES = (_CLASS, "com.amazon.sqs.javamessaging.MessageS3Pointer")
#: A bucket's name and a key of at most 1,024 bytes, and room for escapes.
_MAX_POINTER_CHARS = 16_384
_MAX_CHANGES_CHARS = SQS_MAX_MESSAGE_BYTES  # ten histories of failures may be in it
_MAX_CHANGES_DEPTH = 100
_MAX_PREFIX_CHARS = 512
#: S3's rules for the names of general purpose buckets (S3 User Guide, "bucket naming rules").
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_ADDRESS = re.compile(r"[0-9]+(?:\.[0-9]+){3}", re.ASCII)
_RESERVED = re.compile(r"(?:xn--|sthree-|amzn-s3-demo-).*|.*(?:--x-s3|--table-s3|\.mrap)", re.ASCII)
#: S3's safe characters, in parts between slashes. HTTP clients may remove "." and "..", and "%" may be decoded twice.
_KEY = re.compile(r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9!_.*'()-]+(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9!_.*'()-]+)*", re.ASCII)
_MAX_KEY_CHARS = 1_024
_EXPIRE_DAYS = 30
_ABORT_DAYS = 2
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)

#: What differs from the object that a message points to; see the head of the module. ``{}`` for nothing.
Changes = Mapping[str, Any]


class Pointer(NamedTuple):
    """Where the payload of a message is."""

    bucket: str
    key: str
    #: By the message, which may lie.
    size_bytes: int

    @property
    def text(self) -> str:
        """The body of the message that is sent in its place."""
        return json.dumps([_CLASS, {"s3BucketName": self.bucket, "s3Key": self.key}])

    @property
    def url(self) -> str:
        """For people."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class Store:
    """A bucket, and the prefix of its keys that are ours; an empty prefix for all."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def base(self) -> str:
        """What each key starts with."""
        return f"{self.prefix}/" if self.prefix else ""

    def new_key(self, *, is_for_queue: bool) -> str:
        """A key that no other object has.

        Args:
            is_for_queue: Whether the message goes to one queue, so that its consumer deletes the object.
        """
        return f"{self.base}{'q' if is_for_queue else 't'}/{uuid4().hex}"

    def holds(self, pointer: Pointer) -> bool:
        """Return True if an object may be read: it is in this bucket, below the prefix, and its key is plain."""
        key = pointer.key
        is_plain = len(key) <= _MAX_KEY_CHARS and _KEY.fullmatch(key) is not None
        return pointer.bucket == self.bucket and is_plain and key.startswith(self.base)

    def owns(self, pointer: Pointer) -> bool:
        """Return True if an object may be deleted: :meth:`new_key` makes such keys for messages to one queue."""
        base = f"{self.base}q/"
        return (
            pointer.bucket == self.bucket
            and pointer.key.startswith(base)
            and _ID.fullmatch(pointer.key[len(base) :]) is not None
        )


def lifecycle_rules(store: Store) -> list[dict[str, Any]]:
    """The rules of its bucket by which S3 deletes what no consumer does, as S3's API has them.

    They are about our own objects alone; longer than two retentions, of a queue and of its dead-letter queue.
    """
    return [
        {
            "ID": f"kombu_hake {store.base}{part}",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{store.base}{part}/"},
            "Expiration": {"Days": _EXPIRE_DAYS},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _ABORT_DAYS},
        }
        for part in ("q", "t")
    ]


def parse_store(value: object) -> Store:
    """The store that a URL names, ``s3://bucket/prefix``.

    Raises:
        ValueError: with the end of a sentence that starts with "must be".
    """
    if not isinstance(value, str) or not value.startswith("s3://"):
        raise ValueError("like s3://bucket/prefix")
    bucket, _, prefix = value.removeprefix("s3://").partition("/")
    prefix = prefix.removesuffix("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _ADDRESS.fullmatch(bucket) or _RESERVED.fullmatch(bucket):
        raise ValueError(
            "like s3://bucket/prefix, with the name of a general purpose bucket: 3 to 63 lower-case letters, digits, "
            "'.' and '-'"
        )
    if prefix and (len(prefix) > _MAX_PREFIX_CHARS or not _KEY.fullmatch(prefix)):
        raise ValueError(
            f"like s3://bucket/prefix, with a prefix of at most {_MAX_PREFIX_CHARS} letters, digits and !-_.*'(), in "
            "parts between single slashes, none of them '.' or '..'"
        )
    return Store(bucket, prefix)


def has_pointer(raw: Mapping[str, Any]) -> bool:
    """Return True if a received message points to its payload."""
    attributes = raw.get("MessageAttributes")
    return attributes is not None and (SIZE_ATTRIBUTE in attributes or _OLD_SIZE_ATTRIBUTE in attributes)


def pointer_in(raw: Mapping[str, Any]) -> Pointer | None:
    """Where the payload of a received message is; None if the message is its own payload.

    Raises:
        MalformedMessage: it says that it is a pointer, but is none, or points to more than we take.
    """
    if not has_pointer(raw):
        return None
    attributes = raw["MessageAttributes"]
    given = attributes.get(SIZE_ATTRIBUTE) or attributes.get(_OLD_SIZE_ATTRIBUTE) or {}
    size = whole(given.get("StringValue"))
    body = raw.get("Body") or ""
    try:
        kind, place = json.loads(body if len(body) <= _MAX_POINTER_CHARS else "")
        bucket, key = place["s3BucketName"], place["s3Key"]
    except (ValueError, TypeError, KeyError, RecursionError):
        kind = bucket = key = None
    if kind not in _CLASSES or not isinstance(bucket, str) or not isinstance(key, str):
        raise MalformedMessage("its attributes say that its payload is in S3, but its body is no pointer to an object")
    if size is None or not 0 <= size <= MAX_PAYLOAD_BYTES:
        raise MalformedMessage(
            f"its payload in S3 is not of 0 to {MAX_PAYLOAD_BYTES:,} bytes, by its attribute {SIZE_ATTRIBUTE}"
        )
    return Pointer(bucket, key, size)


def changes_in(raw: Mapping[str, Any]) -> Changes:
    """What a received message changes in the payload that it points to.

    Raises:
        MalformedMessage: the attribute is not of the form that we write.
    """
    given = (raw.get("MessageAttributes") or {}).get(_CHANGES_ATTRIBUTE)
    if given is None:
        return {}
    text = given.get("StringValue")
    try:
        found = json.loads(text) if isinstance(text, str) and len(text) <= _MAX_CHANGES_CHARS else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _are_changes(found):
        raise MalformedMessage(f"its attribute {_CHANGES_ATTRIBUTE} cannot be read")
    return found


def _are_changes(found: dict[str, Any]) -> bool:
    without = found.get("without", [])
    return (
        isinstance(found.get("headers", {}), dict)
        and isinstance(found.get("properties", {}), dict)
        and isinstance(without, list)
        and all(isinstance(name, str) for name in without)
        and not is_deeper(found, _MAX_CHANGES_DEPTH)
    )


def _changes_text(changes: Changes) -> str:
    """*changes* as the value of an attribute: ASCII.

    Raises:
        TypeError: a value has no form in JSON.
    """
    return str(kombu_json.dumps(dict(changes), separators=(",", ":"), ensure_ascii=True))


def combined(before: Changes, more: Changes) -> Changes:
    """Changes of a message that is sent on with *more*."""
    headers = {**before.get("headers", {}), **more.get("headers", {})}
    without = {*before.get("without", ()), *more.get("without", ())} - set(more.get("headers", ()))
    headers = {name: value for name, value in headers.items() if name not in without}
    found = {
        "headers": headers,
        "without": sorted(without),
        "properties": {**before.get("properties", {}), **more.get("properties", {})},
    }
    return {name: value for name, value in found.items() if value}


def pointer_attributes(pointer: Pointer, changes: Changes) -> dict[str, dict[str, str]]:
    """The attributes of a message that points to a payload and changes it, as SQS and SNS take them."""
    found = {SIZE_ATTRIBUTE: {"DataType": "Number", "StringValue": str(pointer.size_bytes)}}
    if changes:
        found[_CHANGES_ATTRIBUTE] = {"DataType": "String", "StringValue": _changes_text(changes)}
    return found


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """The changes that make the headers *after* of the headers *before*."""
    headers = {name: value for name, value in after.items() if name not in before or before[name] != value}
    return combined({}, {"headers": headers, "without": [name for name in before if name not in after]})
