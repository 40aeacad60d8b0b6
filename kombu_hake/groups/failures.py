"""Final failures of handlers: *send* them to the group's dead letters with exception and history, then acknowledge.

Celery learns of a failure in the worker's main process (``Request.on_failure`` in ``celery/worker/request.py``), after
the last retry. A retry is not a failure, nor is a task that was revoked, ignored, or returned to the queue because its
worker process was lost (``reject_on_worker_lost``). If sending fails, the message returns to the queue: the handler
runs again, until AWS moves the message by the redrive policy after twenty receives.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, Reject, Retry, Terminated, TimeLimitExceeded, WorkerLostError
from celery.utils.serialization import get_pickled_exception
from celery.worker.request import Request

from kombu_hake.amqp import (
    COMPRESSION_HEADER,
    FIFO_SUFFIX,
    MESSAGE_ATTRIBUTES,
    PRIVATE_EXCHANGE,
    SQS_MAX_MESSAGE_BYTES,
    Changes,
    Envelope,
    combined,
    encode,
    is_task,
    pointer_attributes,
    typed_bytes,
)
from kombu_hake.amqp import group_of as group_of_properties
from kombu_hake.exceptions import HakeError
from kombu_hake.groups.messages import Parts, resendable, with_death
from kombu_hake.quoting import fields, guarded, quoted
from kombu_hake.receive import HakeMessage, SourceQueue

__all__ = ["GroupRequest", "group_of", "parts_of", "set_aside", "text_of"]

logger = guarded(logging.getLogger(__name__))
MAX_MESSAGE_CHARS = 1_000
MAX_TRACEBACK_CHARS = 6_000
#: Maximum length of an attribute of the dead letter.
MAX_ATTRIBUTE_CHARS = 256
#: A longer dead letter does not fit into a message with the attributes that say why it died.
_MAX_TEXT_CHARS = SQS_MAX_MESSAGE_BYTES - 2_048


def group_of(message: Any) -> str | None:
    """The queue that a message was received from; None if the transport does not say."""
    info = message.delivery_info or {}
    if info.get("exchange") not in ("", PRIVATE_EXCHANGE, info.get("routing_key")):
        return None
    key = info.get("routing_key")
    return str(key) if key else None


def text_of(body: bytes | str) -> str:
    """The body of a foreign message as text; kombu delivers it in UTF-8."""
    return body if isinstance(body, str) else body.decode("utf-8", "replace")


def parts_of(message: Any) -> Parts:
    """The parts of a received message, in kombu's terms."""
    body, headers = message.body, dict(message.headers)
    packed = getattr(message, "packed", None)
    if packed is not None:  # as it was sent
        body, headers[COMPRESSION_HEADER] = packed
    return Parts(body, message.content_type, message.content_encoding, headers, dict(message.properties))


class GroupRequest(Request):  # type: ignore[misc]
    """The Celery request of a handler's run in a worker."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Celery's hook; also called for retries and other outcomes that are not final."""
        exc = _exception_of(exc_info)
        group = group_of(self.message)
        is_held = isinstance(self.message, HakeMessage) and not self.message.is_lost  # a lost message runs again
        if is_held and group is not None and self._is_final(exc):
            self._set_aside(exc, exc_info)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _is_final(self, exc: BaseException) -> bool:
        """Return True if this handler is not run for this event again; as in Celery's ``on_failure``."""
        if isinstance(exc, Retry | Terminated | MemoryError) or self._already_revoked or self._already_cancelled:
            return False
        if isinstance(exc, Reject):
            return not exc.requeue
        if isinstance(exc, Ignore):
            return False
        task = self.task
        if isinstance(exc, WorkerLostError | SystemExit | KeyboardInterrupt):
            goes_back = task.acks_late and task.reject_on_worker_lost
            return not goes_back and not getattr(task, "retry_on_worker_lost", False)
        if isinstance(exc, TimeLimitExceeded):
            return bool(not task.acks_late or getattr(task, "acks_on_timeout", task.acks_on_failure_or_timeout))
        return True

    def _set_aside(self, exc: BaseException, exc_info: Any) -> None:
        death = {
            "exception": getattr(exc, "exc_cls_name", type(exc).__name__),
            "message": str(exc)[:MAX_MESSAGE_CHARS],
            "traceback": str(exc_info.traceback or "")[-MAX_TRACEBACK_CHARS:],
            "retries": self.request_dict.get("retries") or 0,
            "worker": self.hostname,
        }
        if set_aside(self.message, parts_of(self.message), "failed", death):
            self.acknowledge()
        else:  # not immediately: the handler would run in a loop while the dead letter cannot be sent
            self.message.abandon()
            self.acknowledged = True


def _exception_of(exc_info: Any) -> BaseException:
    exc = exc_info.exception
    if isinstance(exc, ExceptionWithTraceback):
        exc = exc.exc
    found: BaseException = get_pickled_exception(exc)
    return found


def set_aside(message: Any, parts: Parts, reason: str, details: Mapping[str, Any]) -> bool:
    """Send a message to the dead-letter queue of its queue, in a form that can be sent back unchanged.

    Args:
        parts: What to send; for a foreign message its text.
        reason: ``failed``, ``unhandled`` or ``malformed``.
        details: For its history: ``exception``, ``message``, ``traceback``, …

    Returns:
        True if the message may be deleted now; also if the queue has no dead-letter queue, and nothing was sent.
    """
    transport = getattr(message.channel, "connection", None)
    queue = group_of(message)
    if transport is None or queue is None:
        return False  # the connection is closed: unsettled messages are redelivered
    death = {
        "reason": reason,
        "queue": queue,
        "task": parts.headers.get("task"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **details,
    }
    attributes = _attributes(parts, death)
    max_chars = _MAX_TEXT_CHARS - typed_bytes(attributes)
    try:
        sent, text, of_payload = _dead_letter(message, parts, transport, queue, death, max_chars)
        source = SourceQueue(queue, transport.topology.queues.url(queue), transport.topology.queues.arguments(queue))
    except HakeError as exc:
        logger.error(
            "HAKE405 Cannot dead-letter a message of group %s: %s", queue, exc,
            extra=fields(
                queue=queue, task_id=parts.headers.get("id"), message_id=message.properties.get("message_id")
            ),
        )  # fmt: skip
        return False
    properties = {**sent.properties, "delivery_info": {"exchange": PRIVATE_EXCHANGE, "routing_key": queue}}
    envelope = Envelope(*sent._replace(properties=properties), is_kombu=True)
    raw = {
        "Body": text,
        "MessageId": message.properties.get("message_id"),
        "Attributes": _group_attribute(parts.properties, queue),
        "MessageAttributes": {**of_payload, **attributes},
    }
    lease = getattr(message, "lease", None)
    done: bool = transport.dead_letters.set_aside(envelope, raw, source, reason, lease)
    return done


def _dead_letter(
    message: Any, parts: Parts, transport: Any, queue: str, death: Mapping[str, Any], max_chars: int
) -> tuple[Parts, str, Mapping[str, Any]]:
    """The message to send, its text, and attributes. The text of one that is too large points to its payload in S3.

    Raises:
        HakeError: the text must be written to S3, and cannot be.
    """
    stored, lease = getattr(message, "stored", None), getattr(message, "lease", None)
    is_kept = stored is not None and stored.pointer is not None and (lease is None or lease.keeps_payload)
    is_stored = is_kept and parts.body is _received_body(message)
    if stored is not None and is_stored and len(parts.body) > max_chars:
        sent = _with_death(parts, death)
        changes: Changes = {}
        if is_task(parts.headers):
            changes = combined(stored.telling(), stored.changes_for(sent.as_dict(), PRIVATE_EXCHANGE, queue))
        return sent, stored.pointer.text, pointer_attributes(stored.pointer, changes)
    sent, text = _whole(parts, queue, death)
    if len(text) > max_chars:
        pointer = transport.dispatcher.store(text, sent.headers)
        if pointer is not None:
            return sent, pointer.text, pointer_attributes(pointer, {})
        # The message matters more than its history.
        sent, text = _whole(parts, queue, {k: v for k, v in death.items() if k not in ("message", "traceback")})
    if len(text) > max_chars:
        sent, text = _whole(parts, queue, None)
    return sent, text, {}


def _whole(parts: Parts, queue: str, death: Mapping[str, Any] | None) -> tuple[Parts, str]:
    """The message to send, and its text, which for a foreign message is unchanged."""
    sent = _with_death(parts, death)
    if not is_task(parts.headers):
        return sent, text_of(parts.body)
    return sent, encode(sent.as_dict(), PRIVATE_EXCHANGE, queue, uuid4().hex).text


def _with_death(parts: Parts, death: Mapping[str, Any] | None) -> Parts:
    headers = parts.headers if death is None else with_death(parts.headers, death)
    return resendable(parts._replace(headers=headers), parts.properties.get("sent_timestamp_ms"))


def _received_body(message: Any) -> Any:
    packed = getattr(message, "packed", None)
    return message.body if packed is None else packed[0]


def _attributes(parts: Parts, death: Mapping[str, Any]) -> dict[str, Any]:
    """The message's own attributes, so that it can be sent back, and those that operators search for."""
    own = parts.properties.get(MESSAGE_ATTRIBUTES) or {}
    given = parts.properties.get("attributes")
    texts = {name: text for name, text in given.items() if isinstance(text, str)} if isinstance(given, dict) else {}
    for name, value in (("hake-death-task", death["task"]), ("hake-death-exception", death.get("exception"))):
        if value:
            texts[name] = quoted(value, MAX_ATTRIBUTE_CHARS)  # SQS refuses control characters
    return {**own, **{name: {"DataType": "String", "StringValue": value} for name, value in texts.items()}}


def _group_attribute(properties: Mapping[str, Any], queue: str) -> dict[str, str]:
    group = group_of_properties(properties, is_fifo=queue.endswith(FIFO_SUFFIX))
    return {"MessageGroupId": group} if group else {}
