"""Requests about received messages (delete, renew, release): sent in a few threads, and retried here alone.

Policy
    :mod:`kombu_hake.aws` retries a request for a moment. After that, requests that fail for a temporary reason
    (throttling, the network, credentials) are retried here, with growing pauses:

    * a renewal, a few times; then it is due again immediately, see :mod:`kombu_hake.receive.leases`;
    * a release, a few times, and no longer than the message is hidden anyway;
    * a delete, as long as no other consumer can get the message. AWS may have to accept something else first
      (:class:`First`): a dead letter, or the copy of a deferred task. This is retried by the same rule.

    Requests that AWS refuses, or that failed to the end, are reported once to the owner of the lease. When
    :meth:`Settling.stop` stops waiting, nothing is retried any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from kombu_hake.amqp import Pointer, QueueUrl
from kombu_hake.aws import Clients, Senders, backoff_s, entry_error
from kombu_hake.exceptions import BrokerUnavailable, HakeError
from kombu_hake.quoting import guarded
from kombu_hake.receive.delivery import Lease, Outcome
from kombu_hake.telemetry import Telemetry

__all__ = ["First", "Kind", "Request", "Settling"]

logger = guarded(logging.getLogger(__name__))
#: With AWS ten milliseconds away one sender deletes some eight hundred messages a second.
_MAX_SENDERS = 12
#: Senders for requests with a :class:`First`: a throttled dead-letter queue must not delay renewals.
_MAX_SENDERS_ELSEWHERE = 2
_TRIES = 5

Kind = Literal["ack", "renew", "release"]


class First(Protocol):
    """What AWS must accept before a message is deleted."""

    def send(self) -> None:
        """Send it, once.

        Raises:
            BrokerUnavailable: it may be retried.
            HakeError: it must not be retried.
        """

    def failed(self, exc: Exception) -> None:
        """Log that it was not sent, and that the message stays."""


class Answer(NamedTuple):
    """What AWS did with each lease of a request."""

    done: list[Lease]
    #: Leases for which it failed temporarily, each with the reason.
    later: list[tuple[Lease, BrokerUnavailable]]
    #: Leases that it refused.
    refused: list[tuple[Lease, HakeError]]


class Request:
    """A request for up to ten leases of one queue."""

    __slots__ = ("first", "kind", "leases", "url")

    def __init__(self, kind: Kind, url: QueueUrl, leases: Sequence[Lease], first: First | None = None) -> None:
        self.kind = kind
        self.url = url
        #: Leases that are not done yet.

        self.leases = list(leases)
        #: What AWS must accept first; None once it has.
        self.first = first

    def send(self, clients: Clients, visibility_s: int) -> Answer:
        """Send the request, once.

        Raises:
            HakeError: the whole request failed.
        """
        entries = [{"Id": str(i), "ReceiptHandle": lease.receipt_handle} for i, lease in enumerate(self.leases)]
        if self.kind == "ack":
            answer = clients.sqs("delete_message_batch", QueueUrl=self.url, Entries=entries)
        else:
            timed = [
                {**entry, "VisibilityTimeout": visibility_s if self.kind == "renew" else lease.hide_s}
                for entry, lease in zip(entries, self.leases, strict=True)
            ]
            answer = clients.sqs("change_message_visibility_batch", QueueUrl=self.url, Entries=timed)
        failed = {int(item["Id"]): entry_error(item, "sqs", self.url) for item in answer.get("Failed") or ()}
        found = Answer([lease for i, lease in enumerate(self.leases) if i not in failed], [], [])
        for number, error in failed.items():
            if isinstance(error, BrokerUnavailable):
                found.later.append((self.leases[number], error))
            else:
                found.refused.append((self.leases[number], error))
        return found


class Settling:
    """Sends the requests of one connection. Safe to use from any thread; after a fork the owner creates a new one."""

    def __init__(
        self,
        clients: Clients,
        *,
        visibility_s: int,
        clock: Callable[[], float] = time.monotonic,
        on_renewed: Callable[[Sequence[Lease], float], None],
        on_refused: Callable[[Lease, Kind, HakeError], None],
        on_deleted: Callable[[Sequence[Pointer]], None] = lambda pointers: None,
    ) -> None:
        """
        Args:
            on_deleted: Gets the objects in S3 of messages that are settled, and that no other consumer has.
            on_renewed: Gets leases that AWS has renewed, and the time of the request; in a sending thread.
            on_refused: Gets a lease whose request AWS refused, or whose retries all failed, with the reason.
        """
        self._clients = clients
        self._visibility_s = visibility_s
        self._clock = clock
        self._on_renewed = on_renewed
        self._on_refused = on_refused
        self._on_deleted = on_deleted
        self._senders: Senders[Request] = Senders(self.do, most=_MAX_SENDERS, name="hake-sender")
        self._elsewhere: Senders[Request] = Senders(self.do, most=_MAX_SENDERS_ELSEWHERE, name="hake-dead-letters")
        self._is_stopping = False
        #: Set when :meth:`stop` stops waiting: nothing is retried.
        self._ended = threading.Event()

    @property
    def unanswered(self) -> int:
        """The number of requests that are not done."""
        return self._senders.unanswered + self._elsewhere.unanswered

    def submit(self, request: Request) -> None:
        """Queue a request; also after :meth:`stop`."""
        (self._senders if request.first is None else self._elsewhere).submit(request)

    def help(self) -> None:
        """Send in this thread the requests of threads that cannot be started."""
        self._senders.help()
        self._elsewhere.help()

    def wait(self, timeout_s: float) -> int:
        """Wait for the answers. Returns how many are missing at the end of the time."""
        ends_at = time.monotonic() + timeout_s
        self._senders.wait(timeout_s)
        self._elsewhere.wait(max(0.0, ends_at - time.monotonic()))
        return self.unanswered

    def hurry(self) -> None:
        """Retry deletes no longer than other requests: the connection is about to close."""
        self._is_stopping = True

    def stop(self, timeout_s: float) -> None:
        """Stop retrying, and end the threads."""
        self._is_stopping = True
        self._ended.set()
        self._senders.stop(timeout_s)
        self._elsewhere.stop(timeout_s)

    def do(self, request: Request) -> None:
        """Send a request in this thread, and retry it by the policy. Never raises."""
        try:
            self._try(request)
        except HakeError as exc:
            self._give_up(request, exc)
        except Exception as exc:  # a bug of ours or a strange answer must not end the thread in silence
            logger.exception("HAKE106 Unexpected error while settling messages; they are redelivered.")
            self._give_up(request, HakeError(repr(exc)))

    def _try(self, request: Request) -> None:
        error: HakeError | None = None
        tries = 0
        while self._may_try(request, tries):
            if tries:
                if self._ended.wait(backoff_s(tries - 1)):
                    break
                self._forget_late_releases(request)
            if not request.leases:
                return
            tries += 1
            asked_at = self._clock()
            try:
                if request.first is not None:
                    request.first.send()
                    request.first = None
                started = time.perf_counter()
                answer = request.send(self._clients, self._visibility_s)
            except BrokerUnavailable as exc:
                error = exc
                continue
            if self._clients.telemetry is not None and answer.done:
                _report(self._clients.telemetry, request.kind, answer.done, time.perf_counter() - started)
            if request.kind == "renew":
                self._on_renewed(answer.done, asked_at)
            if request.kind == "ack":
                self._forget_payloads(answer.done)
            for lease, refusal in answer.refused:
                self._on_refused(lease, request.kind, refusal)
            request.leases = [lease for lease, _ in answer.later]
            if not answer.later:
                return
            error = answer.later[0][1]
        if request.leases:
            raise error or BrokerUnavailable("there was no time left to try it")

    def _forget_payloads(self, leases: Sequence[Lease]) -> None:
        # SQS accepts the delete of a message that another consumer has received since, and keeps the message.
        now = self._clock()
        owned = [lease.owned for lease in leases if lease.owned is not None and lease.held_until > now]
        if owned:
            self._on_deleted(owned)

    def _may_try(self, request: Request, tries: int) -> bool:
        """Return True if a request may be tried once more after so many tries."""
        is_among_the_first = tries < _TRIES
        if request.first is None and (is_among_the_first or request.kind != "ack"):
            return is_among_the_first
        # A delete prevents a second run as long as no other consumer gets the message. After that, a dead letter would
        # be a copy of a message that is handled elsewhere.
        is_held = any(lease.held_until > self._clock() for lease in request.leases)
        return is_held and (is_among_the_first or not self._is_stopping)

    def _forget_late_releases(self, request: Request) -> None:
        """Drop leases that ran out while their release was retried: the messages are visible, or received elsewhere."""
        if request.kind == "release":
            now = self._clock()
            request.leases = [lease for lease in request.leases if lease.held_until > now]

    def _give_up(self, request: Request, exc: HakeError) -> None:
        if request.first is not None:  # it was not to be deleted yet: it is received again after its visibility timeout
            request.first.failed(exc)
            return
        for lease in request.leases:
            self._on_refused(lease, request.kind, exc)


def _report(telemetry: Telemetry, kind: Kind, done: Sequence[Lease], seconds: float) -> None:
    """Report what AWS has done with leases of one queue."""
    if not telemetry.metrics.is_on():
        return
    queue = done[0].queue
    if kind == "renew":
        telemetry.metrics.renewed(queue, len(done))
        return
    if kind == "ack":
        found = [lease.outcome for lease in done]
    else:
        found = [Outcome.DEFERRED if lease.hide_s else Outcome.RELEASED for lease in done]
    counts = {outcome.value: count for outcome, count in Counter(found).items()}
    telemetry.metrics.settled(queue, kind, counts, seconds)
