"""Defer tasks that are not due yet: they wait in SQS, not in a worker's memory. Pure.

For Celery tasks with an ``eta`` (``countdown`` sets it). Without deferral a worker would hold the message until it is
due, SQS would deliver it to another worker after twelve hours at most, and thousands of them would fill the worker.

* Sent straight to a queue, a task is delayed by SQS: ``DelaySeconds``, up to fifteen minutes.
* A task that arrives too early (a longer wait, or a fan-out: SNS has no delay) is *deferred*: hidden until it is due,
  or for as long as AWS can hide a message. Each redelivery counts as a receive. If a dead-letter queue counts receives,
  the message is old for the queue's retention, many messages of the queue are in flight, or the message has a tenant, a
  copy with DelaySeconds replaces it instead.
* It is delivered a little early, so that Celery's own timer starts it on time.

A message in a FIFO queue is never deferred: it would hold up its group, and FIFO queues have no delay per message.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from kombu_hake.amqp.limits import (
    SQS_DEFAULT_RETENTION_S,
    SQS_MAX_DELAY_S,
    SQS_MAX_IN_FLIGHT,
    SQS_MAX_VISIBILITY_S,
)

__all__ = ["EARLY_S", "Deferral", "How", "delay_s", "due_ms", "hide_s", "plan"]

#: How long before it is due a task is delivered, seconds.
EARLY_S = 2.0
#: AWS refuses more than twelve hours since the receive; stay a little below.
_MAX_HIDE_S = SQS_MAX_VISIBILITY_S - 120
#: Half of AWS's default retention: a copy starts a new retention period, a hidden message does not.
_MAX_AGE_S = SQS_DEFAULT_RETENTION_S / 2
#: Hidden messages count as in flight, over all workers of a queue. Hide messages only below this number.
_MAX_IN_FLIGHT = SQS_MAX_IN_FLIGHT // 4
#: Messages that one process may hide beyond what AWS's latest count includes.
MAX_HIDDEN = 1_000
#: Receives that deferring may use up of a message whose receives a dead-letter queue counts.
_SPARE_RECEIVES = 2


class How(enum.Enum):
    """How a message waits."""

    HIDE = "hide"
    COPY = "copy"


class Deferral(NamedTuple):
    """What to do with a message that arrived early."""

    how: How
    #: For how long, whole seconds.
    seconds: int


def due_ms(headers: Mapping[str, Any]) -> int | None:
    """When a task is due, ms since the epoch; None if it is due at once, or if Celery decides that.

    Only a Celery task's timezone-aware ``eta`` counts.
    """
    eta = headers.get("eta")
    if not isinstance(eta, str) or "task" not in headers or "id" not in headers:
        return None
    try:
        moment = datetime.fromisoformat(eta.replace("Z", "+00:00"))
    except ValueError:
        return None
    return int(moment.timestamp() * 1000) if moment.tzinfo is not None else None


def delay_s(due: int | None, now: int) -> int:
    """``DelaySeconds`` for a message that is due at *due*; 0 for none. Both in ms since the epoch."""
    if due is None:
        return 0
    return max(0, min(SQS_MAX_DELAY_S, int((due - now) / 1000 - EARLY_S)))


def plan(
    due: int | None,
    now: int,
    *,
    sent: int | None,
    receives: int,
    max_receives: int | None,
    hidden: int,
    in_flight: int | None = None,
    retention_s: int | None = None,
    has_tenant: bool = False,
) -> Deferral | None:
    """How a message that was received at *now* waits; None if it is delivered.

    Args:
        due, now, sent: Ms since the epoch; *sent* is SQS's SentTimestamp.
        receives: Its receive count.
        max_receives: ``maxReceiveCount`` of the queue's redrive policy, if it has one.
        hidden: Messages that this process has hidden and *in_flight* does not include yet.
        in_flight: Messages of the queue that are received or hidden, over all consumers, by AWS's latest count; None if
            unknown.
        retention_s: For how long the queue keeps a message, seconds; None if unknown.
        has_tenant: Whether it has a MessageGroupId. SQS counts what is hidden as work in progress of that tenant, and
            serves others first; a delayed copy does not count.
    """
    if due is None:
        return None
    left_s = (due - now) / 1000 - EARLY_S
    if left_s < 1:
        return None
    hide_s = int(min(left_s, _MAX_HIDE_S))
    has_receives = max_receives is None or receives + _SPARE_RECEIVES <= max_receives
    age_s = (now - sent) / 1000 if sent is not None else 0.0
    max_age_s = _MAX_AGE_S if retention_s is None else min(_MAX_AGE_S, retention_s / 2)
    keeps = age_s + hide_s < max_age_s
    has_room = hidden < MAX_HIDDEN and (in_flight or 0) + hidden < _MAX_IN_FLIGHT
    if has_receives and keeps and has_room and not has_tenant:
        return Deferral(How.HIDE, hide_s)
    return Deferral(How.COPY, max(1, int(min(left_s, SQS_MAX_DELAY_S, max_age_s))))


def hide_s(receives: int, visibility_s: int, held_s: float) -> int:
    """Seconds to hide a message that cannot be handled: the visibility timeout, doubled with each receive.

    Args:
        receives: Its receive count, from 1.
        held_s: How long ago it was received; AWS hides it for twelve hours from then at most.
    """
    wanted: int = max(1, visibility_s) * 2 ** min(max(receives, 1) - 1, 16)
    return max(1, min(wanted, int(_MAX_HIDE_S - held_s)))
