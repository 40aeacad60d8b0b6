"""Dead letters: list them, send them back, export them, remove them.

SQS shows messages only by receiving them, which hides them for a while. So a *scan* receives everything, and at its end
makes messages visible again that it did not remove. Messages that arrive while it runs are ignored: one whose handler
fails again would be sent back forever.

A message is sent back only to its original queue, never to the topic. It is deleted after AWS has accepted it there, so
a crash in between leaves two copies, never none.

A purge deletes the payload in S3 with its letter, as a worker does with its ack: only after AWS has accepted that, and
only what a message to one queue has to itself (:meth:`kombu_hake.amqp.payloads.Store.owns`).

A dead letter may contain anything, which may be why it failed. Its headers are read as text, whatever type they have; a
message that is not a well-formed task is sent back as it was received.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Any
from uuid import uuid4

from kombu_hake.admin.declared import declared, stores
from kombu_hake.admin.queues import QueueReader
from kombu_hake.amqp import (
    EVENT_HEADER,
    FIFO_SUFFIX,
    MAX_BATCH_ENTRIES,
    PRIVATE_EXCHANGE,
    SIZE_ATTRIBUTE,
    SQS_MAX_BATCH_BYTES,
    Pointer,
    QueueUrl,
    changes_in,
    combined,
    decode,
    drop_unsound,
    encode,
    given_attributes,
    group_of,
    has_pointer,
    is_task,
    pointer_attributes,
    pointer_in,
)
from kombu_hake.exceptions import HakeError
from kombu_hake.groups import DEATHS_HEADER, Parts, resendable
from kombu_hake.publish import make_batches
from kombu_hake.quoting import quoted

__all__ = ["DeadLetter", "Outcome", "Selection", "purge", "requeue", "scan"]

#: How long a scan hides received messages; a scan that takes longer receives them again, and skips them.
HIDE_S = 300
_WAIT_S = 1
_DEATH_ATTRIBUTES = "hake-death-"
#: Characters of a name, an id or an exception's text, and of arguments.
_NAME_CHARS, _TEXT_CHARS = 1_000, 10_000
#: Levels of a history in JSON; deeper levels are shown as text.
_MAX_DEPTH = 20
#: A larger integer is shown as text: Python refuses to format it.
_MAX_BITS = 10_000
#: The parts of a message attribute that can be sent.
_OF_ATTRIBUTE = ("DataType", "StringValue", "BinaryValue")


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter as it was received.

    Attributes:
        group: The original queue of the message.
        headers: Headers of the message, such as Celery's ``task``, ``id`` and ``retries``.
        properties: Properties of the message, such as ``correlation_id``.
        contents: The task's arguments in readable form; for a message that is not a task, its text.
        raw: The message as ReceiveMessage returned it.
    """

    group: str
    raw: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, Any] = field(repr=False)
    properties: Mapping[str, Any] = field(repr=False)
    contents: str = field(repr=False)
    now_s: float = field(repr=False)
    #: If the message itself gives no reason.
    likely_reason: str = "received too often"

    @property
    def message_id(self) -> str:
        """SQS's id of the message in the dead-letter queue."""
        return str(self.raw.get("MessageId", ""))

    @property
    def task(self) -> str | None:
        """Name of the task."""
        return _text_or_none(self.headers.get("task"))

    @property
    def task_id(self) -> str | None:
        """Id of the task; it is kept when the message is sent back."""
        return _text_or_none(self.headers.get("id"))

    @property
    def event_id(self) -> str | None:
        """Id of the event, if it is a run of one."""
        event = self.headers.get(EVENT_HEADER)
        return _text_or_none(event.get("id")) if isinstance(event, Mapping) else None

    @property
    def deaths(self) -> list[dict[str, Any]]:
        """Its history, the latest first. Empty if AWS moved it, or if no failure of a task dead-lettered it."""
        deaths = self.headers.get(DEATHS_HEADER)
        return [death for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []

    @property
    def reason(self) -> str:
        """``failed``, ``unhandled``, ``malformed``, ``rejected``, ``expired``; by AWS ``received too often``,
        ``undelivered``.
        """
        return self._attribute("reason") or self.likely_reason

    @property
    def exception(self) -> str | None:
        """Name of the exception's class."""
        return _text_or_none(self.deaths[0].get("exception")) if self.deaths else None

    @property
    def message(self) -> str:
        """Text of the exception."""
        return _text_or_none(self.deaths[0].get("message"), _TEXT_CHARS) or "" if self.deaths else ""

    @property
    def pointer(self) -> Pointer | None:
        """Where its payload is, if that is in S3 and the message says so in the right form."""
        with suppress(HakeError):
            return pointer_in(self.raw)
        return None

    @property
    def sent_ms(self) -> int:
        """When it became a dead letter, ms since the epoch. If AWS moved it, when it was first sent."""
        stamp = str((self.raw.get("Attributes") or {}).get("SentTimestamp", ""))
        return int(stamp) if stamp.isdecimal() and len(stamp) < 20 else 0

    @property
    def age_s(self) -> float:
        """Seconds since then."""
        return max(0.0, self.now_s - self.sent_ms / 1000)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON, including the body as it is in the queue. Binary attributes are in base64."""
        names = ("group", "message_id", "task", "task_id", "event_id", "reason", "exception", "message", "contents")
        return {
            **{name: getattr(self, name) for name in names},
            "age_s": round(self.age_s, 1),
            "deaths": _jsonable(self.deaths),
            "body": self.raw.get("Body"),
            "attributes": {name: _attribute_text(item) for name, item in self._attributes().items()},
        }

    def _attributes(self) -> Mapping[str, Any]:
        return self.raw.get("MessageAttributes") or {}

    def _attribute(self, name: str) -> str | None:
        item = self._attributes().get(_DEATH_ATTRIBUTES + name) or {}
        return item.get("StringValue")


def _text_or_none(value: Any, most: int = _NAME_CHARS) -> str | None:
    """A value of a message as text; text of any length is unchanged."""
    return value if value is None or isinstance(value, str) else quoted(value, most)


def _attribute_text(item: Mapping[str, Any]) -> str | None:
    binary = item.get("BinaryValue")
    if isinstance(binary, bytes):  # botocore decodes it, the fast path does not
        return base64.b64encode(binary).decode("ascii")
    return item.get("StringValue") if binary is None else str(binary)


def _jsonable(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """The same for ``json.dumps``: a header may be too deep, or of a type of kombu's JSON (a date, a UUID)."""
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, int) and value.bit_length() < _MAX_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict) and depth:
        return {str(key): _jsonable(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [_jsonable(item, depth - 1) for item in value]
    return quoted(value, _TEXT_CHARS)


def read(group: str, raw: Mapping[str, Any], now_s: float, *, undelivered: bool = False) -> DeadLetter:
    """A received message as a dead letter of a group."""
    reason = "undelivered" if undelivered else "received too often"
    if has_pointer(raw):
        return _read_pointer(group, raw, now_s, reason)
    envelope = decode(raw.get("Body", ""), group)
    text = envelope.body if isinstance(envelope.body, str) else envelope.body.decode("utf-8", "replace")
    headers = envelope.headers
    arguments = [_text_or_none(headers.get(name), _TEXT_CHARS) or "" for name in ("argsrepr", "kwargsrepr")]
    contents = " ".join(shown for shown in arguments if shown not in ("", "()", "{}"))
    contents = contents if is_task(envelope.headers) else text
    return DeadLetter(group, raw, envelope.headers, envelope.properties, contents, now_s, reason)


def _read_pointer(group: str, raw: Mapping[str, Any], now_s: float, reason: str) -> DeadLetter:
    """A dead letter whose payload is in S3, as far as the message itself tells: the payload may be large."""
    try:
        pointer, changes = pointer_in(raw), changes_in(raw)
    except HakeError:
        pointer, changes = None, {}
    headers, properties = changes.get("headers", {}), dict(changes.get("properties", {}))
    drop_unsound(properties)
    shown = [_text_or_none(headers.get(name), _TEXT_CHARS) or "" for name in ("argsrepr", "kwargsrepr")]
    where = str(raw.get("Body", ""))[:_TEXT_CHARS]
    if pointer is not None:
        where = f"({pointer.size_bytes:,} bytes in {pointer.url})"
    contents = " ".join([*(text for text in shown if text not in ("", "()", "{}")), where])
    return DeadLetter(group, raw, headers, properties, contents, now_s, reason)


@dataclass(frozen=True)
class Selection:
    """Selects the dead letters that meet every given condition; all, if none is given.

    Attributes:
        task: Glob on the task's name.
        exception: Glob on the name of the exception's class, or a text that the exception's message contains.
        older_than_s: Minimum age as a dead letter, seconds.
        newer_than_s: Maximum age as a dead letter, seconds.
        ids: Ids of messages, tasks or events.
        undelivered: Select from the messages that SNS could not deliver to the queue, instead of its dead letters.
    """

    task: str | None = None
    exception: str | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None
    ids: tuple[str, ...] = ()
    undelivered: bool = False

    def matches(self, letter: DeadLetter) -> bool:
        """Return True if the dead letter is selected."""
        if self.task is not None and not fnmatchcase(letter.task or "", self.task):
            return False
        if self.exception is not None and not self._is_exception(letter):
            return False
        if self.older_than_s is not None and letter.age_s < self.older_than_s:
            return False
        if self.newer_than_s is not None and letter.age_s > self.newer_than_s:
            return False
        return not self.ids or not {letter.message_id, letter.task_id, letter.event_id}.isdisjoint(self.ids)

    def _is_exception(self, letter: DeadLetter) -> bool:
        pattern = str(self.exception)
        return fnmatchcase(letter.exception or "", pattern) or pattern in letter.message


@dataclass
class Outcome:
    """The outcome of a requeue or purge.

    Attributes:
        matched: Dead letters that were selected.
        done: Those that were sent back, or deleted.
        failures: A line with AWS's reason for each that is still in the dead-letter queue.
        notes: A line for each bucket whose payloads could not be deleted with the dead letters; its lifecycle rule
            deletes them.
    """

    matched: int = 0
    done: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


#: Ids of messages that have been processed.
Taken = set[str]


def scan(
    queues: QueueReader, group: str, selection: Selection, limit: int | None = None, *, taken: Taken | None = None
) -> Generator[list[DeadLetter], None, None]:
    """The selected dead letters of a group, up to ten at a time.

    Args:
        limit: Maximum number.
        taken: Messages that the caller removed during the scan; all others are made visible again at its end.
    Raises:
        QueueNotFound: the group has no dead-letter queue.
    """
    _, url = queues.dead_queue_of(group, undelivered=selection.undelivered)
    started_ms = queues.clients.now_ms()
    handles: dict[str, str] = {}
    left = limit
    try:
        while left is None or left > 0:
            now_s, undelivered = queues.clients.now_ms() / 1000, selection.undelivered
            letters = [read(group, raw, now_s, undelivered=undelivered) for raw in _receive(queues, url)]
            new = [letter for letter in letters if letter.message_id not in handles]
            handles |= {letter.message_id: _handle(letter) for letter in letters}
            if not new:
                return
            found = [letter for letter in new if letter.sent_ms <= started_ms and selection.matches(letter)][:left]
            left = None if left is None else left - len(found)
            if found:
                yield found
    finally:
        _show_again(queues, url, [handle for message_id, handle in handles.items() if message_id not in (taken or ())])


def _receive(queues: QueueReader, url: QueueUrl) -> list[dict[str, Any]]:
    answer = queues.clients.sqs(
        "receive_message",
        QueueUrl=url,
        MaxNumberOfMessages=MAX_BATCH_ENTRIES,
        WaitTimeSeconds=_WAIT_S,
        VisibilityTimeout=HIDE_S,
        MessageSystemAttributeNames=["All"],
        MessageAttributeNames=["All"],
    )
    return list(answer.get("Messages") or [])


def _show_again(queues: QueueReader, url: QueueUrl, handles: list[str]) -> None:
    for start in range(0, len(handles), MAX_BATCH_ENTRIES):
        entries = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
            for number, handle in enumerate(handles[start : start + MAX_BATCH_ENTRIES])
        ]
        queues.clients.sqs("change_message_visibility_batch", QueueUrl=url, Entries=entries)


def requeue(
    queues: QueueReader,
    group: str,
    selection: Selection,
    *,
    limit: int | None = None,
    rate: float | None = None,
    on_progress: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """See :meth:`kombu_hake.admin.connection.Admin.requeue`."""
    target = queues.topology.queues.url(group)
    return _move(
        queues, group, selection, lambda letters: _send(queues, target, letters), limit, rate, on_progress,
        left="sent back, but not deleted",
    )  # fmt: skip


def purge(
    queues: QueueReader,
    group: str,
    selection: Selection,
    *,
    limit: int | None = None,
    on_progress: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """See :meth:`kombu_hake.admin.connection.Admin.purge_dead_letters`."""
    on_deleted = _Payloads(queues).delete
    return _move(
        queues, group, selection, lambda letters: [None] * len(letters), limit, None, on_progress,
        left="not deleted", on_deleted=on_deleted,
    )  # fmt: skip


class _Payloads:
    """Deletes the payloads in S3 of purged letters."""

    def __init__(self, queues: QueueReader) -> None:
        self._clients = queues.clients
        self._stores = cache(lambda: stores(declared(queues.app), queues.clients.settings))
        self._failed: set[str] = set()

    def delete(self, letters: list[DeadLetter], outcome: Outcome) -> None:
        for pointer in filter(None, (letter.pointer for letter in letters)):
            if pointer.bucket in self._failed:
                continue
            try:
                if any(store.owns(pointer) for store in self._stores()):
                    self._clients.s3("delete_object", Bucket=pointer.bucket, Key=pointer.key)
            except HakeError as exc:
                self._failed.add(pointer.bucket)
                outcome.notes.append(
                    f"Payloads stay in bucket {pointer.bucket} for its lifecycle rule to delete: {exc}"
                )


#: Processes dead letters; returns for each None, or the reason why it must stay.
_Action = Callable[[list[DeadLetter]], "list[str | None]"]


def _move(
    queues: QueueReader,
    group: str,
    selection: Selection,
    act: _Action,
    limit: int | None,
    rate: float | None,
    on_progress: Callable[[Outcome], None] | None,
    *,
    left: str,
    on_deleted: Callable[[list[DeadLetter], Outcome], None] = lambda letters, outcome: None,
) -> Outcome:
    """*left*: what is to be said of a letter that AWS did not delete."""
    _, url = queues.dead_queue_of(group, undelivered=selection.undelivered)
    outcome = Outcome()
    taken: Taken = set()
    with closing(scan(queues, group, selection, limit, taken=taken)) as found:
        for letters in found:
            began = time.monotonic()
            outcome.matched += len(letters)
            reasons = act(letters)
            outcome.failures += [reason for reason in reasons if reason is not None]
            accepted = [letter for letter, reason in zip(letters, reasons, strict=True) if reason is None]
            # One that cannot be deleted now must not be shown, and sent again, at once.
            taken |= {letter.message_id for letter in accepted}
            deleted = _delete(queues, url, accepted, outcome, left)
            outcome.done += len(deleted)
            on_deleted(deleted, outcome)
            if on_progress is not None:
                on_progress(outcome)
            if rate:
                time.sleep(max(0.0, len(letters) / rate - (time.monotonic() - began)))
    return outcome


def _handle(letter: DeadLetter) -> str:
    return str(letter.raw["ReceiptHandle"])


def _delete(
    queues: QueueReader, url: QueueUrl, letters: list[DeadLetter], outcome: Outcome, left: str
) -> list[DeadLetter]:
    """Delete letters; returns those that AWS has deleted."""
    if not letters:
        return []
    entries = [{"Id": str(number), "ReceiptHandle": _handle(letter)} for number, letter in enumerate(letters)]
    failed = queues.clients.sqs("delete_message_batch", QueueUrl=url, Entries=entries).get("Failed") or []
    reasons = {int(item["Id"]): _reason(item) for item in failed}
    outcome.failures += [f"{letters[number].message_id}: {left}, {why}" for number, why in reasons.items()]
    return [letter for number, letter in enumerate(letters) if number not in reasons]


def _reason(failed: Mapping[str, Any]) -> str:
    """AWS's reason for not accepting an entry of a batch."""
    return quoted(failed.get("Message") or failed.get("Code"), _NAME_CHARS)


def _send(queues: QueueReader, target: QueueUrl, letters: list[DeadLetter]) -> list[str | None]:
    entries = [revived(letter, is_fifo=target.endswith(FIFO_SUFFIX)) for letter in letters]
    sizes = [_size_bytes(entry) for entry in entries]
    reasons: list[str | None] = [None] * len(letters)
    for indexes in make_batches(sizes, SQS_MAX_BATCH_BYTES):
        batch = [{**entries[index], "Id": str(index)} for index in indexes]
        try:
            failed = queues.clients.sqs("send_message_batch", QueueUrl=target, Entries=batch).get("Failed") or []
            said = {int(item["Id"]): _reason(item) for item in failed}
        except HakeError as exc:
            said = {index: str(exc) for index in indexes}
        for index, reason in said.items():
            reasons[index] = f"{letters[index].message_id}: not sent, {reason}"
    return reasons


def revived(letter: DeadLetter, *, is_fifo: bool) -> dict[str, Any]:
    """What to send to the group's queue: the message as a first try, with its history. Pure.

    Returns:
        An entry of SendMessageBatch without its ``Id``. A message that is not a well-formed task is unchanged.
    """
    attributes = {
        name: {part: item[part] for part in _OF_ATTRIBUTE if item.get(part) is not None}
        for name, item in letter._attributes().items()
        if not name.startswith(_DEATH_ATTRIBUTES)
    }
    entry: dict[str, Any] = {"MessageBody": letter.raw["Body"]}
    first_try = None if has_pointer(letter.raw) else _as_first_try(letter)
    if SIZE_ATTRIBUTE in attributes:
        attributes |= _pointer_as_first_try(letter)
    if first_try is not None:
        entry["MessageBody"] = first_try
        attributes = given_attributes(letter.raw)
    if attributes:
        entry["MessageAttributes"] = attributes
    system = letter.raw.get("Attributes") or {}
    group = system.get("MessageGroupId") or group_of(letter.properties, is_fifo=is_fifo)
    if is_fifo:
        entry["MessageGroupId"] = str(group or "default")
        entry["MessageDeduplicationId"] = uuid4().hex
    elif group:
        entry["MessageGroupId"] = str(group)
    return entry


def _pointer_as_first_try(letter: DeadLetter) -> Mapping[str, Any]:
    """Attributes by which the payload in S3 of a dead letter becomes that of a first try; ``{}`` if it is malformed."""
    try:
        pointer, changes = letter.pointer, changes_in(letter.raw)
    except HakeError:
        return {}
    if pointer is None:
        return {}
    anew = {"retries": 0, "eta": None, "expires": None}
    return pointer_attributes(
        pointer, combined(changes, {"headers": anew, "properties": {"expiration": None, "first_sent_ms": None}})
    )


def _as_first_try(letter: DeadLetter) -> str | None:
    """None if it cannot be changed without a risk of damage, such as a task whose id is not text."""
    if not is_task(letter.headers) or not all(isinstance(letter.headers[name], str) for name in ("task", "id")):
        return None
    with suppress(ValueError, TypeError, RecursionError):  # a header that cannot be written back as it was read
        return _changed_to_first_try(letter)
    return None


def _changed_to_first_try(letter: DeadLetter) -> str:
    envelope = decode(letter.raw["Body"], letter.group)
    info = envelope.properties["delivery_info"]
    # ETA and expiry of the first run have no meaning for a run that an operator requests.
    headers = {**envelope.headers, "retries": 0, "eta": None, "expires": None}
    sent = resendable(Parts(*envelope[:3], headers, envelope.properties))
    for name in ("expiration", "first_sent_ms"):
        sent.properties.pop(name, None)
    exchange, key = info.get("exchange") or PRIVATE_EXCHANGE, info.get("routing_key") or letter.group
    if exchange == PRIVATE_EXCHANGE:
        key = letter.group
    return encode(sent.as_dict(), exchange, key, uuid4().hex).text


def _size_bytes(entry: Mapping[str, Any]) -> int:
    text = json.dumps(entry, ensure_ascii=False, default=lambda data: "x" * len(data))  # a binary attribute
    return len(text.encode("utf-8", "surrogatepass"))
