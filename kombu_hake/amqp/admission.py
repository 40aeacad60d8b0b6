"""Decide whether to deliver a received message: does it match the queue's bindings, and has it expired? Pure.

A filter policy can pass more than the bindings ask for: AWS cannot express every pattern, an old filter stays in effect
for up to fifteen minutes, and an exchange may be subscribed without a filter. So the exact rule is always applied here.
If in doubt, a message is delivered.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from kombu_hake.amqp.bindings import BindingSet
from kombu_hake.amqp.envelope import Envelope
from kombu_hake.amqp.limits import MATCHED_KEY_MAX_CHARS
from kombu_hake.amqp.numeric import whole
from kombu_hake.amqp.routing import matches

__all__ = ["Verdict", "expires_at_ms", "is_bound", "needs_binding", "verdict"]


class Verdict(enum.Enum):
    """What to do with a received message."""

    DELIVER = "deliver"
    #: No binding of the queue matches it: it is deleted. RabbitMQ would not have routed it there.
    NOT_BOUND = "not bound"
    #: Its time to live has expired.
    EXPIRED = "expired"


def needs_binding(envelope: Envelope, queue: str) -> bool:
    """Return False for a message that was sent to the queue directly or by a foreign publisher: no binding applies."""
    info = envelope.properties["delivery_info"]
    exchange = info.get("exchange")
    return bool(envelope.is_kombu and exchange and not exchange == info.get("routing_key") == queue)


def is_bound(envelope: Envelope, queue: str, bindings: BindingSet | None) -> bool:
    """Return True if a binding matches the message, or if the bindings are unknown.

    Args:
        queue: Logical name of the queue it lies in.
        bindings: The known bindings of the queue; None if none are known.
    """
    if bindings is None or not needs_binding(envelope, queue):
        return True
    info = envelope.properties["delivery_info"]
    exchange = info["exchange"]
    if exchange in bindings.unfiltered:
        return True
    candidates = bindings.for_exchange(exchange)
    if not candidates:  # bindings do not apply: sent to the queue directly, or through a foreign subscription
        return True
    key = info.get("routing_key") or ""
    return len(key) > MATCHED_KEY_MAX_CHARS or any(matches(binding, key, envelope.headers) for binding in candidates)


def expires_at_ms(envelope: Envelope, sent_ms: int | None, queue_ttl_ms: int | None) -> int | None:
    """When the message expires, ms since the epoch by AWS's clock; None for never.

    ``expiration`` (ms, text, of the message) and ``x-message-ttl`` (of the queue): the earlier one. A Celery task with
    an ``expires`` of its own goes to Celery whatever its age: Celery must record that it was revoked.
    """
    if envelope.headers.get("task") and envelope.headers.get("expires"):
        return None
    expiration = envelope.properties.get("expiration")
    if expiration is None and queue_ttl_ms is None:  # nearly always
        return None
    limits = [limit for limit in (whole(expiration), queue_ttl_ms) if limit is not None]
    if not limits:
        return None
    # A copy is sent after the original. A later time comes from a publisher that wants to outlive the queue's limit.
    starts = [start for start in (whole(envelope.properties.get("first_sent_ms")), sent_ms) if start is not None]
    return min(starts) + min(limits) if starts else None


def verdict(
    envelope: Envelope,
    bindings: BindingSet | None,
    *,
    queue: str,
    arguments: Mapping[str, Any],
    sent_ms: int | None,
    now_ms: int,
) -> Verdict:
    """What to do with a message.

    Args:
        arguments: What the queue was declared with.
        sent_ms: SQS's SentTimestamp.
        now_ms: Ms since the epoch, by AWS's clock.
    """
    expires = expires_at_ms(envelope, sent_ms, whole(arguments.get("x-message-ttl")))
    if expires is not None and now_ms >= expires:
        return Verdict.EXPIRED
    return Verdict.DELIVER if is_bound(envelope, queue, bindings) else Verdict.NOT_BOUND
