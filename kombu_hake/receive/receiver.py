"""Receive path: poller threads that long-poll the queues of one channel into its connection's inbox.

Threads
    Each consumed queue has one permanent poller. While polls return full batches and the consumer waits for more, it
    gets helpers, up to ``max_pollers``. Helpers poll briefly, and end when they receive nothing. All are daemon
    threads: an open long poll keeps no process alive.

Faults
    After a temporary fault (network, throttling, faults of AWS) a poller retries with growing pauses, and logs when the
    fault starts and ends. Until then polls are short, so that the end of an outage is noticed soon (:mod:`trouble`). A
    deleted queue is declared again if this process declared it. A permanent fault (a denied action) is passed to the
    consuming thread as an error, and the poller ends. A poller that ends for any other reason is restarted
    (:meth:`Receiver.look_after_pollers`).

Stop
    :meth:`Receiver.remove` and :meth:`Receiver.stop` return immediately. A poll that is still open then releases the
    messages that it receives. These may be messages that were released at the end, so a process that ends should wait a
    moment: :meth:`Receiver.wait_for_open_polls`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from kombu_hake.amqp import REPLY_POLL_S, SQS_MAX_WAIT_S, TEMPORARY, QueueUrl, is_reply_queue, label
from kombu_hake.aws import Clients, Pulse, Vital, Wait, answer_limit_s, backoff_s, forksafe, start_thread
from kombu_hake.config import Settings
from kombu_hake.exceptions import BrokerUnavailable, HakeError, QueueNotFound, QuotaExceeded
from kombu_hake.quoting import fields, guarded
from kombu_hake.receive.credit import UNLIMITED_BUFFER, Credit
from kombu_hake.receive.deliveries import Deliveries, Inbox
from kombu_hake.receive.delivery import Delivery, Lease
from kombu_hake.receive.messages import receive_count, sent_ms
from kombu_hake.receive.trouble import Hedge, Trouble
from kombu_hake.telemetry import PollClock, Telemetry

__all__ = ["Receiver", "receive_params", "report_poll"]

logger = guarded(logging.getLogger(__name__))
_HELPER_WAIT_S = 1
#: How often a poller without credit checks without being woken.
_LOOK_AGAIN_S = 5.0
#: How long to wait for more credit before requesting fewer messages.
_PATIENCE_S = 0.1
#: Maximum time to declare a deleted queue again.
_RECREATE_S = 300.0


def receive_params(url: QueueUrl, count: int, wait_s: int, visibility_s: int) -> dict[str, Any]:
    """The arguments of ReceiveMessage, the same for all callers."""
    return {
        "QueueUrl": url,
        "MaxNumberOfMessages": count,
        "WaitTimeSeconds": wait_s,
        "VisibilityTimeout": visibility_s,
        "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
        "MessageAttributeNames": ["All"],  # a dead letter keeps them
    }


def report_poll(
    telemetry: Telemetry, queue: str, started: float, answer: Mapping[str, Any], error: Exception | None, now_ms: int
) -> None:
    """Report a poll that has ended.

    Args:
        queue: As :func:`kombu_hake.amqp.label` calls it.
        started: When it started, by ``time.perf_counter``.
        now_ms: By AWS's clock.
    """
    seconds, messages = time.perf_counter() - started, answer.get("Messages") or []
    if telemetry.metrics.is_on():
        dwell_s = partial(_longest_dwell_s, messages, now_ms)
        telemetry.metrics.received(queue, len(messages), seconds, dwell_s=dwell_s, error=error)
    if messages and queue != TEMPORARY and telemetry.traces.is_on():
        telemetry.traces.received(queue, [raw.get("Body", "") for raw in messages], seconds)


def _longest_dwell_s(messages: Sequence[Mapping[str, Any]], now_ms: int) -> float | None:
    """The longest wait of the messages that were received for the first time.

    One value per poll: recording each message would cost more than all its other metrics.
    """
    sent = [sent_ms(raw) for raw in messages if receive_count(raw) == 1]
    first = min((at for at in sent if at is not None), default=None)
    return None if first is None else (now_ms - first) / 1000


class _Source:
    """One consumed SQS queue: a queue, or a priority level of one."""

    __slots__ = (
        "check_at",
        "clock",
        "closed",
        "ended",
        "for_helper",
        "for_main",
        "has_failed",
        "is_hopeless",
        "longest_poll_s",
        "main",
        "name",
        "pollers",
        "pulse",
        "queue",
        "rank",
        "url",
        "waiting",
    )

    def __init__(self, name: str, queue: str, url: QueueUrl, rank: int, lock: threading.RLock, check_at: float) -> None:
        self.name = name
        self.queue = queue
        self.url = url
        self.rank = rank
        self.longest_poll_s = REPLY_POLL_S if is_reply_queue(queue) else SQS_MAX_WAIT_S
        self.pollers = 0
        #: The permanent poller.
        self.main: threading.Thread | None = None
        #: Of that poller.
        self.pulse = Pulse()
        #: True if it ended with a permanent error: a denied action.
        self.has_failed = False
        #: When to check its bindings, monotonic; they have just been declared.
        self.check_at = check_at
        self.closed = False
        #: The permanent poller and its helpers wait here for credit; the number of waiting pollers by condition.
        self.for_main = threading.Condition(lock)
        self.for_helper = threading.Condition(lock)
        self.waiting = {self.for_main: 0, self.for_helper: 0}
        #: True if the permanent poller waits without any credit.
        self.is_hopeless = False
        #: A poller that pauses after a fault waits here.
        self.ended = threading.Condition(lock)
        #: For the age of its polls, if that is reported.
        self.clock: PollClock | None = None

    @property
    def has_poller(self) -> bool:
        """True if the permanent poller is alive."""
        return self.main is not None and self.main.is_alive()

    def close(self) -> None:
        """Make its pollers end. The lock is held."""
        self.closed = True
        for condition in (self.for_main, self.for_helper, self.ended):
            condition.notify_all()


class _Answer(NamedTuple):
    """The result of a poll."""

    messages: list[dict[str, Any]]
    #: When AWS's answer arrived, by the clock of the leases. The visibility timeout starts then at the latest.
    arrived_at: float


class _Reserved:
    """Credit that a poll has reserved, until it is returned; 0 afterwards."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class Receiver:
    """Polls for one channel, within its credit."""

    def __init__(
        self,
        channel_id: int,
        *,
        clients: Clients,
        settings: Settings,
        inbox: Inbox,
        deliveries: Deliveries,
        on_gone: Callable[[str], QueueUrl | None],
        on_check: Callable[[str], None],
        is_best_effort: Callable[[str], bool],
        hedge: Callable[[str], Hedge[_Answer]] = Hedge,
    ) -> None:
        """Store; nothing starts before :meth:`add`.

        Args:
            on_gone: Called in a poller thread with the name of a queue that no longer exists; returns the URL of the
                queue that replaces it, or None.
            on_check: Called regularly in a separate thread, to check the bindings of the queue.
            is_best_effort: Called with the name of a queue that may not be received from; True if the consumer should
                continue without it.
            hedge: Makes the attempts of a queue's poller in an outage, by the queue's name.
        """
        self._channel_id = channel_id
        self._clients = clients
        self._settings = settings
        self._telemetry = clients.telemetry
        self._inbox = inbox
        self._deliveries = deliveries
        self._on_gone = on_gone
        self._on_check = on_check
        self._is_best_effort = is_best_effort
        self._hedge = hedge
        self._fresh(0)
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The child has no pollers, and does not consume the parent's queues."""
        self._fresh(self._credit.prefetch_count)

    def _fresh(self, prefetch_count: int) -> None:
        self._lock = threading.RLock()  # re-entrant: stop() may run in a garbage collection, under the lock
        self._credit = Credit(prefetch_count)
        self._sources: dict[str, _Source] = {}
        #: How many messages must be returned before any waiting poller may get credit. 0 if a poll has returned or a
        #: poller has started to wait since the last check.
        self._returns_to_look = 0
        self._open_polls: Counter[QueueUrl] = Counter()
        self._came_back = threading.Condition(self._lock)

    def __repr__(self) -> str:
        polling = " ".join(f"{s.name}:{s.pollers}" for s in self._sources.values())
        return f"<Receiver {self._credit!r} pollers {polling}>"

    def add(self, queue: str, levels: Sequence[tuple[str, QueueUrl]]) -> None:
        """Start polling a queue.

        Args:
            levels: Logical name and URL of each SQS queue behind it, lowest priority first; usually one.
        """
        with self._lock:
            for rank, (name, url) in enumerate(levels):
                check_at = time.monotonic() + self._settings.check_bindings
                source = _Source(name, queue, url, rank, self._lock, check_at)
                if self._telemetry is not None:
                    source.clock = self._telemetry.metrics.poll_clock(label(queue))
                self._sources[name] = source
                self._credit.add(name, queue if len(levels) > 1 else "", rank)
                self._start_poller(source, is_helper=False)

    def remove(self, queue: str) -> None:
        """Stop polling a queue. The caller releases its buffered messages."""
        with self._lock:
            for source in [source for source in self._sources.values() if source.queue == queue]:
                del self._sources[source.name]
                source.close()
                self._credit.remove(source.name)
            self._wake_who_may_ask()

    def stop(self) -> None:
        """Stop polling. Does not wait for open long polls."""
        with self._lock:
            for source in self._sources.values():
                source.close()
            self._sources.clear()

    def wait_for_open_polls(self, urls: Collection[QueueUrl], timeout_s: float) -> bool:
        """After :meth:`stop`, wait until no poll of these queues is open and their messages are released."""
        with self._lock:
            return self._came_back.wait_for(lambda: not any(self._open_polls[url] for url in urls), timeout_s)

    def set_prefetch(self, count: int) -> None:
        """Change AMQP's prefetch count; 0 is no limit."""
        with self._lock:
            self._credit.prefetch_count = count
            self._wake_who_may_ask()

    def settled(self, source: str, count: int = 1) -> None:
        """Messages of *source* are settled (or, without a prefetch limit, handed over): there is credit again."""
        with self._lock:
            self._credit.returned(source, count)
            self._returns_to_look -= count
            if self._returns_to_look <= 0:
                self._wake_who_may_ask()

    @property
    def is_limited(self) -> bool:
        """True if there is a prefetch count."""
        return self._credit.prefetch_count > 0

    # --- poller threads

    def _start_poller(self, source: _Source, *, is_helper: bool) -> None:
        thread = start_thread(partial(self._poll_until_closed, source, is_helper), f"hake-poll-{source.name}")
        if thread is not None:
            source.pollers += 1
            if not is_helper:
                source.main = thread
        elif not is_helper:
            raise RuntimeError(f"Queue {source.queue!r} cannot be consumed: no thread can be started.")

    def look_after_pollers(self) -> None:
        """Restart pollers that have ended although their queue is consumed; cheap, for the consuming thread.

        A consumed queue has a poller as long as the process lives. This detects pollers that ended unexpectedly, or
        could not be started.
        """
        with self._lock:
            for source in list(self._sources.values()):
                if source.has_poller or source.has_failed or source.closed:
                    continue
                logger.error(
                    "HAKE004 The poller of queue %s has ended unexpectedly; starting another one.", source.queue,
                    extra=fields(queue=source.queue),
                )  # fmt: skip
                try:
                    self._start_poller(source, is_helper=False)
                except RuntimeError as exc:  # retried at the next call
                    logger.error("HAKE005 Cannot start a poller; retrying: %s", exc, extra=fields(queue=source.queue))

    def vitals(self) -> list[Vital]:
        """The pollers that a worker needs. Takes no lock: the caller must not get stuck with them."""
        return [
            Vital(f"the poller of queue {source.name}", source.pulse, source.has_poller)
            for source in list(self._sources.values())
            if not source.closed and not source.has_failed
        ]

    def _poll_until_closed(self, source: _Source, is_helper: bool) -> None:
        trouble = Trouble(source.name)
        hedge = self._hedge(source.name)
        failures = 0
        try:
            while True:
                try:
                    if not self._take_turn(source, is_helper, trouble, hedge):
                        return
                    failures = 0
                except Exception as exc:  # a bug of ours, or no memory: it must not end the consumer in silence
                    logger.exception(
                        "HAKE003 Unexpected error while receiving from queue %s; continuing.", source.queue,
                        extra=fields(queue=source.queue),
                    )  # fmt: skip
                    self._pause(max(trouble.pause_s(exc), backoff_s(failures)), source)
                    failures += 1
        finally:
            with self._lock:
                source.pollers -= 1

    def _take_turn(self, source: _Source, is_helper: bool, trouble: Trouble, hedge: Hedge[_Answer]) -> bool:
        """Wait for credit, and poll. Returns True to continue. Always returns the reserved credit."""
        if not is_helper:
            source.pulse.beat()
        reserved = _Reserved(self._await_credit(source, is_helper))
        if not reserved.count:
            return False
        url = source.url
        try:
            with self._lock:
                if source.closed:  # since there was credit; closing waits only for polls that were open by then
                    return False
                self._open_polls[url] += 1
            try:
                return self._poll_once(source, reserved, is_helper, trouble, hedge)
            finally:
                with self._lock:
                    self._open_polls[url] -= 1
                    self._came_back.notify_all()
        finally:
            if reserved.count:
                self._keep(source, reserved, None)

    def _poll_once(
        self, source: _Source, reserved: _Reserved, is_helper: bool, trouble: Trouble, hedge: Hedge[_Answer]
    ) -> bool:
        """Poll, and handle the result. Returns True to continue."""
        try:
            if trouble.is_outage:
                answer = self._probe(source, reserved.count, hedge)
            else:
                answer = self._poll(source, reserved.count, _HELPER_WAIT_S if is_helper else None)
        except HakeError as exc:
            self._keep(source, reserved, None)
            return self._survive(source, exc, trouble, is_helper)
        trouble.over()
        self._keep(source, reserved, answer)
        if not is_helper:
            self._check(source)
        return not is_helper or bool(answer and answer.messages)

    def _await_credit(self, source: _Source, is_helper: bool) -> int:
        """How many messages to request; 0 if this poller should end."""
        with self._lock:
            asked = 0 if source.closed else self._credit.ask(source.name)
            while not asked and not source.closed:
                if not is_helper:
                    source.pulse.beat()
                condition = source.for_helper if is_helper else source.for_main
                wait_s: float = _HELPER_WAIT_S
                if not is_helper:
                    source.is_hopeless = not self._credit.has_little(source.name)
                    # Returning credit wakes it. It also checks regularly, so that a lost wake-up costs only seconds.
                    wait_s = _LOOK_AGAIN_S if source.is_hopeless else _PATIENCE_S
                source.waiting[condition] += 1
                self._returns_to_look = 0
                try:
                    came = condition.wait(wait_s)
                finally:
                    source.waiting[condition] -= 1
                    self._returns_to_look = 0
                if source.closed or (is_helper and not came):
                    break
                is_dry = not came and not len(self._inbox)
                asked = self._credit.ask(source.name, even_little=is_dry)
            if asked:
                self._wake_who_may_ask()  # there may be enough for another one
            return asked

    def _wake_who_may_ask(self) -> None:
        """Wake one waiting poller of each queue for which there is enough credit. The lock is held.

        Waking all of them would take more processor time than the messages. Settled messages are counted, so that not
        each of them causes a check.
        """
        returns = UNLIMITED_BUFFER
        for source in self._sources.values():
            if source.waiting[source.for_main]:
                # Partial credit starts its patience timer, so it is woken for that too; after that, wake it only for
                # enough credit.
                starts_patience = source.is_hopeless and self._credit.has_little(source.name)
                short = 0 if starts_patience else self._credit.short_of(source.name)
                if not short:
                    source.is_hopeless = False
                    source.for_main.notify()
                else:
                    returns = min(returns, 1 if source.is_hopeless else short)
            elif source.waiting[source.for_helper]:
                short = self._credit.short_of(source.name)
                if not short:
                    source.for_helper.notify()
                else:
                    returns = min(returns, short)
        self._returns_to_look = returns

    def _poll(self, source: _Source, asked: int, wait_s: int | None) -> _Answer:
        wait = min(self._settings.wait_time_seconds, source.longest_poll_s if wait_s is None else wait_s)
        if source.rank and self._credit.is_busy(source.name):
            wait = 0  # the lower levels wait until this one is known to be empty
        params = receive_params(source.url, asked, wait, self._settings.visibility_timeout)
        if self._telemetry is None:
            answer = self._clients.sqs("receive_message", **params)
        else:
            answer = self._observed_poll(self._telemetry, source, params)
        return _Answer(answer.get("Messages") or [], self._deliveries.now())

    def _observed_poll(self, telemetry: Telemetry, source: _Source, params: Mapping[str, Any]) -> dict[str, Any]:
        started, queue = time.perf_counter(), label(source.queue)
        try:
            answer = self._clients.sqs("receive_message", **params)
        except HakeError as exc:
            report_poll(telemetry, queue, started, {}, exc, 0)
            raise
        if source.clock is not None:
            source.clock.polled()
        report_poll(telemetry, queue, started, answer, None, self._clients.now_ms())
        return answer

    def _check(self, source: _Source) -> None:
        """Check the bindings of the queue if that is due; in a thread, because AWS may be slow."""
        every_s = self._settings.check_bindings
        if not every_s or source.rank or time.monotonic() < source.check_at:  # the lowest level looks after all
            return
        # With jitter: processes that start together do not check together.
        source.check_at = time.monotonic() + every_s * forksafe.rng.uniform(0.75, 1.25)
        start_thread(partial(self._look_after, source), f"hake-check-{source.name}")

    def _look_after(self, source: _Source) -> None:
        try:
            self._on_check(source.queue)
        except HakeError as exc:
            logger.warning(
                "HAKE009 Cannot check the bindings of queue %s: %s", source.queue, exc, extra=fields(queue=source.queue)
            )
        except Exception:  # a bug of ours must not end the consumer in silence
            logger.exception(
                "HAKE010 Unexpected error while checking the bindings of queue %s; continuing.", source.queue,
                extra=fields(queue=source.queue),
            )  # fmt: skip

    def _probe(self, source: _Source, asked: int, hedge: Hedge[_Answer]) -> _Answer | None:
        """A short poll during an outage; further ones are started while it is not answered."""
        with Wait(answer_limit_s(self._settings, 0)):
            return hedge.first(
                lambda: self._poll(source, asked, 0),
                late=lambda more: self._keep(source, _Reserved(0), more),
                is_over=lambda: source.closed,
            )

    def _keep(self, source: _Source, reserved: _Reserved, answer: _Answer | None) -> None:
        """Pass on messages within the credit; release the surplus, and messages that arrived after the end."""
        messages, arrived_at = answer or ([], 0.0)
        visibility_s, settled = self._settings.visibility_timeout, self.settled
        deliveries = [
            Delivery(
                self._channel_id, source.queue, source.name, message,
                Lease(source.url, message["ReceiptHandle"], arrived_at, visibility_s, label(source.queue)), settled,
            )
            for message in messages
        ]  # fmt: skip
        with self._lock:
            asked = reserved.count
            # A closed source has no share any more; another source of the same queue may have replaced it.
            kept = 0 if source.closed else self._credit.received(source.name, asked, len(messages))
            reserved.count = 0
            self._returns_to_look = 0
            if not messages:
                self._wake_who_may_ask()  # reserved credit is free again, and lower levels may poll
            if kept:
                starving = not len(self._inbox)
                self._deliveries.arrived(deliveries[:kept])
                can_grow = source.pollers < self._settings.max_pollers
                if starving and kept == asked and can_grow and self._credit.may_ask(source.name):
                    self._start_poller(source, is_helper=True)
        if deliveries[kept:]:
            self._deliveries.turn_away(deliveries[kept:])

    def _survive(self, source: _Source, exc: HakeError, trouble: Trouble, is_helper: bool) -> bool:
        """Handle a failed poll. Returns True to continue."""
        if source.closed:  # the one poll that was still open
            return False
        if isinstance(exc, BrokerUnavailable | QuotaExceeded):
            if is_helper:  # only the permanent poller retries
                return False
            self._pause(trouble.pause_s(exc), source)
            return True
        if isinstance(exc, QueueNotFound):
            return self._find_again(source, exc, trouble)
        source.has_failed = source.has_failed or not is_helper
        if self._is_best_effort(source.queue):
            logger.warning(
                "HAKE012 Stopped consuming from queue %s: %s", source.queue, exc, extra=fields(queue=source.queue)
            )
        else:
            self._inbox.put([exc])
        return False

    def _find_again(self, source: _Source, exc: QueueNotFound, trouble: Trouble) -> bool:
        if source.closed:
            return False
        self._pause(trouble.pause_s(exc), source)
        try:
            with Wait(_RECREATE_S):
                url = None if source.closed else self._on_gone(source.name)
        except HakeError as again:
            logger.warning(
                "HAKE006 Queue %s does not exist and could not be recreated yet; retrying: %s", source.queue, again,
                extra=fields(queue=source.queue),
            )  # fmt: skip
            source.check_at = 0.0  # it may exist, but not be bound yet
            return True
        if url is not None:
            source.url = url
        return not source.closed

    def _pause(self, seconds: float, source: _Source) -> None:
        deadline = time.monotonic() + seconds
        with self._lock:
            while not source.closed and (left := deadline - time.monotonic()) > 0:
                source.ended.wait(left)
