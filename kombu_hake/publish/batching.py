"""Publishing many messages in few requests: ``with kombu_hake.batch(): task.delay(…)``.

Inside the block all messages published by this thread (or asyncio task), over any hake:// connection, are collected.
Ten messages to one target, or as many as fit, share a request, and several requests are in flight at once. Memory is
bounded: a publisher that is faster than AWS waits. Leaving the block waits until AWS has accepted everything, or raises
one :class:`~kombu_hake.exceptions.PublishFailed` that lists the other messages. An exception in the block does not undo
publishes: the messages are sent, then the exception propagates.

Blocks nest: the outermost one sends. Order is kept within a request, but requests may overtake each other. Only FIFO
queues and topics keep the order of each message group: see :mod:`kombu_hake.publish.group_order`.

Celery's ``after_task_publish`` signal fires when a message is collected, before it is accepted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from kombu_hake.amqp import FIFO_SUFFIX, MAX_BATCH_ENTRIES
from kombu_hake.aws import Reentry, Senders, forksafe
from kombu_hake.exceptions import HakeError, PublishError, PublishFailed
from kombu_hake.publish.group_order import GroupOrder
from kombu_hake.publish.publisher import Outgoing
from kombu_hake.publish.routes import QueueTarget, Target
from kombu_hake.quoting import guarded

__all__ = ["Batch", "Published", "Session", "batch", "current_batch", "no_batch"]

logger = guarded(logging.getLogger(__name__))
IN_FLIGHT = 8
#: Number of collected messages that are not yet accepted at which a publisher waits.
MAX_OUTSTANDING = 1_000
#: The same in bytes: a thousand messages of 256 KiB would take too much memory.
MAX_OUTSTANDING_BYTES = 32 * 1024 * 1024


class Published(NamedTuple):
    """A published message, to identify it if it fails."""

    exchange: str
    routing_key: str
    message: Mapping[str, Any]
    #: Fail if no queue receives the message.
    mandatory: bool = False

    def __str__(self) -> str:
        headers = self.message.get("headers") or {}
        what = f"task {headers['task']}[{headers['id']}]" if "task" in headers and "id" in headers else "a message"
        return f"{what} to exchange {self.exchange!r} with routing key {self.routing_key!r}"


class SendsMany(Protocol):
    """The part of the dispatcher that a batch uses."""

    def batch_limit(self, target: Target) -> int:
        """The most bytes of one request."""

    def send_batch(self, target: Target, items: list[tuple[Published, Outgoing]]) -> list[HakeError | None]:
        """Send to one target. Returns for each item its error, or None. Does not raise."""


@dataclass(slots=True)
class _Group:
    """Messages to one target that will share a request."""

    sender: SendsMany
    target: Target
    items: list[tuple[Published, Outgoing]]
    #: The most bytes of one request, and what they have together.
    limit_bytes: int
    size_bytes: int = 0
    #: What it holds in memory: also the bodies of messages that point to their payload in S3.
    held_bytes: int = 0
    #: For a FIFO target, the message groups of the messages.
    lane: _Lane | None = None


class _Lane:
    """A FIFO target of a batch."""

    def __init__(self, sender: SendsMany, target: Target) -> None:
        self.sender = sender
        self.target = target
        self.order: GroupOrder[tuple[Published, Outgoing]] = GroupOrder(sender.batch_limit(target))
        self.is_submitting = False


class Batch:
    """Collects messages and sends them from a few threads. Messages may be added from several threads."""

    def __init__(self, in_flight: int = IN_FLIGHT) -> None:
        self._in_flight = max(1, in_flight)
        #: The sending threads work in the context of the block, so that their spans belong to the one that opened it.
        self._context = copy_context()
        self._entered = Reentry()
        #: True if the parent process opened it.
        self.is_inherited = False
        self._fresh()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The parent sends the collected messages. The child publishes singly, as it may never leave this block."""
        self.is_inherited = True
        self._entered = Reentry()
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.RLock()
        #: Notified when enough has been sent for a waiting publisher to continue.
        self._room = threading.Condition(self._lock)
        #: Notified when nothing is outstanding.
        self._empty = threading.Condition(self._lock)
        self._open: dict[tuple[int, str], _Group] = {}
        self._lanes: dict[tuple[int, str], _Lane] = {}
        #: How many threads wait for outstanding messages.
        self._waiting = 0
        self._senders: Senders[_Group] = Senders(self._send, most=self._in_flight, name="hake-batch")
        self._outstanding = 0
        self._outstanding_bytes = 0
        self._failed: list[tuple[Published, Exception]] = []

    def add(self, sender: SendsMany, target: Target, published: Published, outgoing: Outgoing) -> bool:
        """Collect one message, whose size was checked; waits while too many are outstanding.

        Returns:
            False in a signal handler (or finalizer) that interrupts this batch: send the message singly.
        """
        me, inside = threading.get_ident(), self._entered.threads
        if me in inside:
            return False
        try:
            inside.add(me)
            self._add(sender, target, published, outgoing)
        finally:
            inside.discard(me)
        return True

    def _add(self, sender: SendsMany, target: Target, published: Published, outgoing: Outgoing) -> None:
        address = target.url if isinstance(target, QueueTarget) else target.arn
        key, size_bytes = (id(sender), address), outgoing.size_bytes
        with self._lock:
            if self._outstanding >= MAX_OUTSTANDING or self._outstanding_bytes >= MAX_OUTSTANDING_BYTES:
                self._make_room()
            if address.endswith(FIFO_SUFFIX):
                lane = self._lanes.get(key)
                if lane is None:
                    lane = self._lanes[key] = _Lane(sender, target)
                self._add_in_order(lane, published, outgoing)
                return
            group = self._open.get(key)
            if group is not None and (
                group.size_bytes + size_bytes > group.limit_bytes or len(group.items) == MAX_BATCH_ENTRIES
            ):
                self._submit(self._open.pop(key))
                group = None
            if group is None:
                group = self._open[key] = _Group(sender, target, [], sender.batch_limit(target))
            item = published, outgoing
            held_bytes = _held_bytes(item)
            group.size_bytes += size_bytes
            group.held_bytes += held_bytes
            self._outstanding += 1
            self._outstanding_bytes += held_bytes
            group.items.append(item)  # after it is counted: an interrupt may follow this call
            if len(group.items) == MAX_BATCH_ENTRIES:
                self._submit(self._open.pop(key))

    def _add_in_order(self, lane: _Lane, published: Published, outgoing: Outgoing) -> None:
        if lane.order.add(_message_group(outgoing), (published, outgoing), outgoing.size_bytes):
            self._outstanding += 1
            self._outstanding_bytes += _held_bytes((published, outgoing))
            self._submit_in_order(lane)
        else:
            self._failed.append((published, _held_back(outgoing)))

    def refused(self, published: Published, error: Exception) -> None:
        """Record a message that could not be collected, for the :class:`PublishFailed` of the next flush."""
        with self._entered(), self._lock:
            self._failed.append((published, error))

    def flush(self) -> None:
        """Send the collected messages, and wait for AWS.

        Raises:
            PublishFailed: names each message that was not accepted, or is mandatory and reaches no queue.
        """
        with self._entered(), self._lock:
            self._waiting += 1
            try:
                self._submit_all()
                while self._outstanding:
                    self._empty.wait()
            finally:
                self._waiting -= 1
            for lane in self._lanes.values():
                lane.order.start_anew()
            failed, self._failed = self._failed, []
        if failed:
            raise PublishFailed(_report(failed), failed=failed)

    def close(self) -> None:
        """End the threads. Flush first."""
        self._senders.stop(0.0)

    # --- inside; the lock is held

    def _make_room(self) -> None:
        """Wait until half of the room is free. Waiting for each request would cost two thread switches per request."""
        self._waiting += 1
        try:
            while not self._has_room():
                self._submit_all()
                if not self._has_room():  # otherwise it was sent in this thread
                    self._room.wait()
        finally:
            self._waiting -= 1

    def _has_room(self) -> bool:
        return self._outstanding <= MAX_OUTSTANDING // 2 and self._outstanding_bytes <= MAX_OUTSTANDING_BYTES // 2

    def _submit_all(self) -> None:
        groups, self._open = list(self._open.values()), {}
        for group in groups:
            self._submit(group)
        for lane in self._lanes.values():
            self._submit_in_order(lane, partly_filled=True)

    def _submit_in_order(self, lane: _Lane, *, partly_filled: bool = False) -> None:
        """Send the messages to a FIFO target that may be sent: full requests, or any if none is in flight."""
        if lane.is_submitting:  # a request is sent in this thread, then the loop below continues
            return
        lane.is_submitting = True
        try:
            while lane.order.ready:
                is_worth_it = lane.order.ready >= MAX_BATCH_ENTRIES or partly_filled or self._waiting
                if lane.order.is_in_flight and not is_worth_it:
                    return
                items = [item for _, item in lane.order.take()]
                self._submit(_Group(lane.sender, lane.target, items, 0, held_bytes=_total_bytes(items), lane=lane))
        finally:
            lane.is_submitting = False

    def _submit(self, group: _Group) -> None:
        if not self._senders.submit(group):
            self._senders.help()  # in the caller's thread, the only one there is

    # --- the sending threads

    def _send(self, group: _Group) -> None:
        errors: list[HakeError | None]
        try:
            errors = self._context.copy().run(group.sender.send_batch, group.target, group.items)
        except Exception as exc:  # a bug of ours or an invalid answer: waiting threads must not hang
            logger.exception("HAKE209 Unexpected error while sending a batch.")
            errors = [PublishError(f"The batch failed: {exc!r}")] * len(group.items)
        with self._lock:
            self._failed += [
                (item[0], error) for item, error in zip(group.items, errors, strict=True) if error is not None
            ]
            self._settled(len(group.items), group.held_bytes)
            if group.lane is not None:
                message_groups = [_message_group(outgoing) for _, outgoing in group.items]
                held = group.lane.order.answered(message_groups, [error is None for error in errors])
                self._failed += [(published, _held_back(outgoing)) for published, outgoing in held]
                self._settled(len(held), _total_bytes(held))
                self._submit_in_order(group.lane)
            if self._has_room():
                self._room.notify_all()
            if not self._outstanding:
                self._empty.notify_all()

    def _settled(self, count: int, held_bytes: int) -> None:
        self._outstanding -= count
        self._outstanding_bytes -= held_bytes


def _total_bytes(items: list[tuple[Published, Outgoing]]) -> int:
    return sum(map(_held_bytes, items))


def _held_bytes(item: tuple[Published, Outgoing]) -> int:
    published, outgoing = item
    size_bytes, body = outgoing.size_bytes, published.message.get("body")
    return len(body) if isinstance(body, (str, bytes)) and len(body) > size_bytes else size_bytes


def _message_group(outgoing: Outgoing) -> str:
    return str(outgoing.parameters.get("MessageGroupId", ""))


def _held_back(outgoing: Outgoing) -> PublishError:
    return PublishError(
        f"Not sent, to keep the order: an earlier message of message group {_message_group(outgoing)!r} was not "
        "accepted. Publish both again, in order."
    )


_current: ContextVar[Batch | None] = ContextVar("kombu_hake_batch", default=None)


def current_batch() -> Batch | None:
    """The batch that collects this thread's messages, if it is inside a block."""
    found = _current.get()
    return None if found is None or found.is_inherited else found


@contextmanager
def no_batch() -> Iterator[None]:
    """Publish singly inside a batch block."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def batch(in_flight: int = IN_FLIGHT) -> Iterator[Batch]:
    """Collect the messages that this thread publishes in a ``with`` block into shared requests.

    Args:
        in_flight: Maximum number of concurrent requests.
    Yields:
        The batch; its ``flush()`` sends the messages collected so far and waits for AWS.
    Raises:
        PublishFailed: on leaving; ``failed`` lists each message that AWS did not accept with its error. If the block
            itself raised, that exception propagates and the failures are logged.
    """
    outer = current_batch()
    if outer is not None:
        yield outer
        return
    mine = Batch(in_flight)
    token = _current.set(mine)
    try:
        try:
            yield mine
        finally:
            _current.reset(token)
    except BaseException:
        _finish(mine, _log_failure)
        raise
    else:
        _finish(mine, None)


def _finish(mine: Batch, on_failure: Callable[[PublishFailed], None] | None) -> None:
    try:
        mine.flush()
    except PublishFailed as exc:
        if on_failure is None:
            raise
        on_failure(exc)
    finally:
        mine.close()


def _log_failure(exc: PublishFailed) -> None:
    logger.error("HAKE202 %s", exc)


class Session:
    """The batch of kombu's ``Producer.batch`` (``kombu/messaging.py``, ``_ProducerBatchState``).

    kombu's rule differs from :func:`batch`: an exception in its block discards messages that were not flushed.
    """

    def __init__(self, channel: Any, publish: Callable[..., None], max_size: int) -> None:
        #: kombu compares it with the channel that it publishes on.
        self.channel = channel
        self._publish = publish
        self._max_size = max_size
        self._waiting: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def publish(self, message: dict[str, Any], **options: Any) -> None:
        """Collect one message; flushes at ``max_size`` messages."""
        self._waiting.append((message, options))
        if len(self._waiting) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Send the collected messages. A message that cannot be sent does not block the others.

        Raises:
            PublishFailed: names each message that was not accepted, or is mandatory and reaches no queue.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            with batch() as gathering:
                for message, options in waiting:
                    try:
                        self._publish(message, **options)
                    except Exception as exc:
                        exchange, routing_key = options.get("exchange") or "", options.get("routing_key") or ""
                        mandatory = bool(options.get("mandatory"))
                        gathering.refused(Published(exchange, routing_key, message, mandatory), exc)

    def discard(self) -> None:
        """Discard the collected messages."""
        self._waiting.clear()

    def close(self) -> None:
        """Nothing to release."""


def _report(failed: list[tuple[Published, Exception]]) -> str:
    shown = "\n".join(f"  - {published}: {error}" for published, error in failed[:10])
    more = f"\n  … and {len(failed) - 10} more" if len(failed) > 10 else ""
    return f"AWS did not accept {len(failed)} messages of a batch:\n{shown}{more}"
