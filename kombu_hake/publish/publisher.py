"""Send messages: one request per message, or shared requests if several threads publish at the same time.

Group commit
    While a request to a target (a queue or a topic) is in flight, new publishes to it wait. When it returns, the first
    waiting thread becomes the leader: it sends as many messages as fit into one batch, and the others wait for its
    answer. So a single publisher never waits for another one, and sixteen threads share two or three requests. A
    publish returns when AWS has accepted it, and raises if AWS has not.

Re-entry
    A signal handler, or a finalizer, may publish while its own thread is publishing. That publish cannot continue
    before the handler returns, so the handler waits for no other thread: its message is sent in a separate request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kombu_hake.amqp import (
    MAX_BATCH_ENTRIES,
    PRIORITY_ATTRIBUTE,
    attributes_bytes,
    label,
)
from kombu_hake.aws import Clients, Reentry, Wait, backoff_s, entry_error, forksafe
from kombu_hake.exceptions import BrokerUnavailable, HakeError, MessageTooLarge, PublishError
from kombu_hake.publish.limits import Limits
from kombu_hake.publish.routes import QueueTarget, Target
from kombu_hake.telemetry import Telemetry

__all__ = ["Outgoing", "Publisher", "make_batches"]

#: With one request in flight the next publishes wait for its whole round trip, with three for a third of it; more would
#: make the batches small again. Start a further request only for at least this many messages.
_IN_FLIGHT = 3
_WORTH_IT = 4
_ENTRY_TRIES = 4
#: The longest time that a request of another thread takes, with its retries.
_OTHERS_S = 300.0
#: Position of a message in its request to its error.
_Failed = dict[int, HakeError]
#: Attributes that are not of type String. "Number" has the same length, so the size of a message does not change.
_TYPES = {PRIORITY_ATTRIBUTE: "Number"}
_INTERRUPTED = "The thread that sent this message together with its own was interrupted (%r): it may not be sent."


class Outgoing(NamedTuple):
    """A message to one target."""

    #: The body: ASCII, as the envelope writes it.
    text: str
    #: Parameters of the API besides the body: MessageAttributes, DelaySeconds, MessageGroupId, MessageDeduplicationId.
    #: Do not change them: messages share their attributes.
    parameters: Mapping[str, Any]
    #: Size of body and attributes, UTF-8.
    size_bytes: int


def make_batches(sizes: Sequence[int], max_bytes: int) -> list[range]:
    """Split messages into consecutive batches of at most ten messages and *max_bytes*.

    Args:
        sizes: Bytes of each message, each at most *max_bytes*.
    Returns:
        Index ranges; together all of *sizes*, none empty.
    """
    batches: list[range] = []
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == MAX_BATCH_ENTRIES or total + size > max_bytes):
            batches.append(range(start, index))
            start, total = index, 0
        total += size
    if len(sizes) > start:
        batches.append(range(start, len(sizes)))
    return batches


class _Waiting:
    """A publish that has not been answered yet."""

    __slots__ = ("done", "error", "leads", "outgoing")

    #: Set when the publish is answered or gets the lead. Created only for a publish that waits, because that is slow.
    done: threading.Event

    def __init__(self, outgoing: Outgoing) -> None:
        self.outgoing = outgoing
        self.leads = False
        self.error: BaseException | None = None


class _Lane:
    """The queue of publishes for one target."""

    __slots__ = ("in_flight", "waiting")

    def __init__(self) -> None:
        self.in_flight = 0
        self.waiting: list[_Waiting] = []


class Publisher:
    """Sends to queues and topics. One per process and settings; safe to share between threads."""

    def __init__(self, clients: Clients, limits: Limits) -> None:
        self.clients = clients
        self.limits = limits
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._entered = Reentry()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The parent answers its own publishes."""
        self._lock = threading.Lock()
        self._lanes = {}
        self._entered = Reentry()

    def send(self, target: Target, outgoing: Outgoing) -> None:
        """Send one message; returns when AWS has accepted it.

        Raises:
            MessageTooLarge: nothing was sent.
            HakeError: AWS did not accept it, or its answer was lost (then it may have been accepted).
        """
        self.limits.check(target, outgoing.size_bytes)
        me, inside = threading.get_ident(), self._entered.threads
        if me in inside:
            self._single(target, outgoing)
            return
        try:
            inside.add(me)
            self._send_with_others(target, outgoing)
        finally:
            inside.discard(me)

    def send_many(self, target: Target, batch: Sequence[Outgoing]) -> list[HakeError | None]:
        """Send up to ten messages in one request, and retry the entries that AWS could not accept for now.

        Returns:
            For each message its error, or None if it was accepted; in the given order.
        Raises:
            HakeError: the first request failed as a whole. It is not retried here: :mod:`kombu_hake.aws` has
                already.
        """
        errors: list[HakeError | None] = [None] * len(batch)
        left = list(range(len(batch)))
        for attempt in range(_ENTRY_TRIES):
            if attempt:
                time.sleep(backoff_s(attempt))
            try:
                failed = self._request(target, [batch[i] for i in left])
            except HakeError as exc:
                if not attempt:
                    raise
                for index in left:  # the others were accepted before
                    errors[index] = _copy(exc)
                break
            for index in left:
                errors[index] = None
            for position, error in failed.items():
                errors[left[position]] = error
            left = [left[position] for position, error in failed.items() if isinstance(error, BrokerUnavailable)]
            if not left:
                break
        return errors

    def _send_with_others(self, target: Target, outgoing: Outgoing) -> None:
        address = target.url if isinstance(target, QueueTarget) else target.arn
        me = _Waiting(outgoing)
        lane: _Lane | None = None
        try:
            with self._lock:
                lane = self._lanes.get(address)
                if lane is None:
                    lane = self._lanes[address] = _Lane()
                if lane.in_flight < (_IN_FLIGHT if len(lane.waiting) + 1 >= _WORTH_IT else 1):
                    lane.in_flight += 1
                    me.leads = True
                else:
                    me.done = threading.Event()
                    lane.waiting.append(me)
            if not me.leads:
                with Wait(_OTHERS_S):
                    me.done.wait()
            if me.leads:
                self._lead(target, lane, me)
        finally:  # Celery's time limits interrupt a thread anywhere; leadership must not be lost with it
            if lane is not None:
                self._leave(lane, me, address)
        if me.error is not None:
            raise me.error

    def _lead(self, target: Target, lane: _Lane, me: _Waiting) -> None:
        """Send *me* and the publishes that wait with it."""
        batch = [me]
        try:
            if lane.waiting:  # one that comes after this waits for the next leader
                with self._lock:
                    self._take(target, lane, batch)
            if len(batch) == 1:
                self._single(target, me.outgoing)
            else:
                self._together(target, batch)
        except BaseException as exc:  # a KeyboardInterrupt of this thread must not look like success in the others
            me.error = exc
            for waiting in batch[1:]:
                # Each thread raises its own error: a traceback is written into the instance.
                waiting.error = _copy(exc) if isinstance(exc, HakeError) else BrokerUnavailable(_INTERRUPTED % exc)
        finally:
            for waiting in batch[1:]:
                waiting.done.set()

    def _together(self, target: Target, batch: Sequence[_Waiting]) -> None:
        """Send the messages of several threads; each gets its own error."""
        try:
            errors = self.send_many(target, [waiting.outgoing for waiting in batch])
        except PublishError as exc:
            if isinstance(exc, MessageTooLarge):
                self.limits.forget(target)
            # AWS refuses the whole request for one bad entry, such as a group id with a space: find out which
            errors = [self._try_single(target, waiting.outgoing) for waiting in batch]
        for waiting, error in zip(batch, errors, strict=True):
            waiting.error = error

    def _try_single(self, target: Target, outgoing: Outgoing) -> HakeError | None:
        try:
            self._single(target, outgoing)
        except HakeError as exc:
            return exc
        return None

    def _leave(self, lane: _Lane, me: _Waiting, address: str) -> None:
        """Pass leadership on if *me* has it; also if *me* is interrupted while waiting."""
        with self._lock:
            if me in lane.waiting:
                lane.waiting.remove(me)
            if not me.leads:
                return
            me.leads = False
            lane.in_flight -= 1
            if lane.waiting:
                heir = lane.waiting.pop(0)
                heir.leads = True
                lane.in_flight += 1
                heir.done.set()
            elif not lane.in_flight:
                self._lanes.pop(address, None)

    def _take(self, target: Target, lane: _Lane, batch: list[_Waiting]) -> None:
        """Move the waiting publishes that fit into the leader's request to its *batch*."""
        sizes = [w.outgoing.size_bytes for w in (*batch, *lane.waiting)]
        count = len(make_batches(sizes, self.limits.of_batch(target))[0]) - 1
        batch += lane.waiting[:count]  # before they are removed: if interrupted in between, they get an error
        del lane.waiting[:count]

    def _single(self, target: Target, outgoing: Outgoing) -> None:
        telemetry = self.clients.telemetry
        is_reported = telemetry is not None and telemetry.metrics.is_on()
        started = time.perf_counter() if is_reported else 0.0
        text, parameters, size_bytes = outgoing
        try:
            try:
                if isinstance(target, QueueTarget):
                    self.clients.sqs("send_message", QueueUrl=target.url, MessageBody=text, **parameters)
                else:
                    self.clients.sns("publish", TopicArn=target.arn, Message=text, **parameters)
            except MessageTooLarge as exc:
                raise self.limits.refused(target, size_bytes, exc) from exc
        except HakeError as exc:
            if telemetry is not None and is_reported:
                _report(telemetry, target, started, 1, [exc])
            raise
        if telemetry is not None and is_reported:
            _report(telemetry, target, started, 1, ())

    def _request(self, target: Target, batch: Sequence[Outgoing]) -> _Failed:
        """Make one batch request. Returns position to error for the failed messages."""
        telemetry = self.clients.telemetry
        if telemetry is None or not telemetry.metrics.is_on():
            return self._request_many(target, batch)
        started = time.perf_counter()
        try:
            failed = self._request_many(target, batch)
        except HakeError as exc:
            _report(telemetry, target, started, len(batch), [exc] * len(batch))
            raise
        _report(telemetry, target, started, len(batch), list(failed.values()))
        return failed

    def _request_many(self, target: Target, batch: Sequence[Outgoing]) -> _Failed:
        if isinstance(target, QueueTarget):
            entries = [{"Id": str(i), "MessageBody": o.text, **o.parameters} for i, o in enumerate(batch)]
            answer = self.clients.sqs("send_message_batch", QueueUrl=target.url, Entries=entries)
            service, where = "sqs", target.queue
        else:
            entries = [{"Id": str(i), "Message": o.text, **o.parameters} for i, o in enumerate(batch)]
            answer = self.clients.sns("publish_batch", TopicArn=target.arn, PublishBatchRequestEntries=entries)
            service, where = "sns", target.exchange
        return {int(f["Id"]): self._entry_error(f, service, where, target, batch) for f in answer.get("Failed") or ()}

    def _entry_error(
        self, failed: Mapping[str, Any], service: str, where: str, target: Target, batch: Sequence[Outgoing]
    ) -> HakeError:
        error = entry_error(failed, service, where)
        if isinstance(error, MessageTooLarge):
            return self.limits.refused(target, batch[int(failed["Id"])].size_bytes, error)
        return error


def _report(telemetry: Telemetry, target: Target, started: float, count: int, errors: Sequence[HakeError]) -> None:
    """Report a request that has ended, and which of its messages were not accepted."""
    seconds, to_queue = time.perf_counter() - started, isinstance(target, QueueTarget)
    telemetry.metrics.sent(shown(target), count, seconds, errors, to_queue=to_queue)


def shown(target: Target) -> str:
    """The name of a target in metrics and spans."""
    return label(target.queue) if isinstance(target, QueueTarget) else target.exchange


def outgoing(text: str, attributes: Mapping[str, str], extra: Mapping[str, Any]) -> Outgoing:
    """An :class:`Outgoing` with its size.

    Args:
        text: ASCII, as the envelope writes it.
        extra: DelaySeconds, MessageGroupId, MessageDeduplicationId.
    """
    if not attributes:
        return Outgoing(text, extra, len(text))
    parameters = {
        "MessageAttributes": {
            name: {"DataType": _TYPES.get(name, "String"), "StringValue": value} for name, value in attributes.items()
        },
        **extra,
    }
    return Outgoing(text, parameters, len(text) + attributes_bytes(attributes))


def _copy(error: HakeError) -> HakeError:
    rebuild, args = error.__reduce__()
    copy: HakeError = rebuild(*args)
    return copy
