"""What a Celery worker does with messages that it has not started: when it ends, and when their leases are lost."""

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from celery.exceptions import TaskRevokedError
from celery.worker import state
from fakes import eventually

from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.receive.delivery import About, Lease, LeaseState, Why
from kombu_hake.signals import lease_lost
from kombu_hake.worker import install, stopping
from kombu_hake.worker import state as worker
from kombu_hake.worker.lost_tasks import on_lost


class Channel:
    """What is done with a channel's deliveries."""

    def __init__(self) -> None:
        self.abandoned: list[int] = []
        self.calls: list[str] = []
        self.connection = self

    def abandon(self, delivery_tag: int) -> None:
        self.abandoned.append(delivery_tag)

    def wake(self) -> None:
        self.calls.append("wake")

    def stop_receiving(self) -> None:
        self.calls.append("stop receiving")

    def give_back_unstarted(self) -> None:
        self.calls.append("give back")


class Request:
    """A task that a worker has."""

    name = "t"

    def __init__(self, channel: Any, tag: int, job: Any = None) -> None:
        self.id = f"id-{tag}"
        self.message = SimpleNamespace(channel=channel, delivery_tag=tag)
        self._apply_result = weakref.ref(job) if job is not None else None
        self.cancelled: list[Any] = []
        state.requests[self.id] = self
        state.reserved_requests.add(self)

    def execute_using_pool(self, pool: Any) -> None:
        pool.append(self.id)

    def cancel(self, pool: Any, emit_retry: bool = True) -> None:
        if pool == "threads":
            raise NotImplementedError
        self.cancelled.append((pool, emit_retry))


#: Older Celery has them among the reserved ones.
SCHEDULED = getattr(state, "scheduled_requests", state.reserved_requests)


class Job(SimpleNamespace):
    """A result of a pool; weakly referable."""


@pytest.fixture(autouse=True)
def _state() -> Iterator[None]:
    yield
    for known in (state.requests, state.reserved_requests, state.active_requests, SCHEDULED):
        known.clear()
    worker._consumers.clear()


@pytest.fixture
def told() -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []

    def receive(sender: Any, **arguments: Any) -> None:
        found.append({"sender": sender, **{name: arguments[name] for name in ("task_id", "queue", "why", "request")}})

    lease_lost.connect(receive)
    yield found
    lease_lost.disconnect(receive)


def lost_lease(channel_id: int = 1, tag: int = 7) -> Lease:
    lease = Lease(QueueUrl("u"), "handle-1", 0.0, 30.0)
    lease.about = About(channel_id, tag, "q", "t", f"id-{tag}")
    lease.state = LeaseState.LOST
    return lease


# --- the end of a worker


def test_only_what_was_not_started_is_given_back_and_never_starts_then() -> None:
    channel, other = Channel(), Channel()
    future: Future[None] = Future()
    running: Future[None] = Future()
    running.set_running_or_notify_cancel()
    jobs = [Job(f=future), Job(f=running), Job(_write_to=None, _scheduled_for=None), Job(_write_to=object())]
    waiting, queued = Request(channel, 1), Request(channel, 2, jobs[0])
    Request(channel, 3, jobs[1])
    unwritten = Request(channel, 4, jobs[2])
    Request(channel, 5, jobs[3])
    Request(other, 6)
    later = Request(channel, 7)
    state.reserved_requests.discard(later)
    SCHEDULED.add(later)
    active = Request(channel, 8)
    state.active_requests.add(active)
    assert sorted(worker.unstarted_tags(channel)) == [1, 2, 4, 7]
    assert future.cancelled()
    started: list[str] = []
    for request in (waiting, queued, unwritten, later):
        with pytest.raises(TaskRevokedError):
            request.execute_using_pool(started)
    assert started == []
    assert waiting.id not in state.requests
    assert worker.unstarted_tags(other) == [6]


def test_a_job_of_a_thread_pool_can_be_taken_back_while_it_waits() -> None:
    """Celery's request knows its result by a weak reference alone."""
    future: Future[None] = Future()
    request = Request(Channel(), 1)
    request._apply_result = weakref.ref(stopping._keeping(lambda: Job(f=future))())
    gc.collect()
    assert worker.take_back(request)
    assert future.cancelled()
    assert not hasattr(future, "hake_result")  # nothing is kept of what is done


class WorkerConsumer(SimpleNamespace):
    """What a worker consumes with: hashable, as the sender of a signal must be."""

    __hash__ = object.__hash__


def consumer(channel: Channel) -> Any:
    return WorkerConsumer(
        app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from={}))),
        connection=SimpleNamespace(transport=SimpleNamespace(driver_type="hake")),
        task_consumer=SimpleNamespace(channel=channel, on_message=None),
        pool=SimpleNamespace(),
        blueprint=SimpleNamespace(on_close=lambda: channel.calls.append("Celery forgets")),
        controller=SimpleNamespace(
            wait_for_soft_shutdown=lambda: channel.calls.append("wait"), _process_task=lambda request: None
        ),
        on_task_request=lambda request: None,
        create_task_handler=lambda: None,
        on_decode_error=lambda message, exc: None,
        on_unknown_task=lambda body, message, exc: None,
    )


def calls(channel: Channel, count: int) -> list[str]:
    eventually(lambda: len(channel.calls) >= count)
    return channel.calls


@pytest.fixture
def ready() -> Iterator[tuple[Channel, Any]]:
    channel = Channel()

    found = consumer(channel)
    install()
    signals.worker_ready.send(sender=found)
    yield channel, found
    signals.worker_shutting_down.disconnect(dispatch_uid="kombu_hake.worker.stopping")
    for bell in stopping._bells:
        bell.stop()
    stopping._bells.clear()


def test_polling_stops_when_the_shutdown_begins(ready: tuple[Channel, Any]) -> None:
    channel, found = ready
    signals.worker_shutting_down.send(sender="w", sig="SIGTERM", how="Warm", exitcode=0)
    assert calls(channel, 2) == ["wake", "stop receiving"]
    assert worker.consumer_of_worker() is found


def test_a_worker_that_is_ready_again_has_one_thread_for_its_end(ready: tuple[Channel, Any]) -> None:
    channel, found = ready
    for _ in range(3):
        signals.worker_ready.send(sender=found)
    eventually(lambda: [thread.name for thread in threading.enumerate()].count("hake-stop") == 1)
    signals.worker_shutting_down.send(sender="w", sig="SIGTERM", how="Warm", exitcode=0)
    assert calls(channel, 2) == ["wake", "stop receiving"]


def test_what_was_not_started_is_given_back_before_celery_forgets_it(ready: tuple[Channel, Any]) -> None:
    channel, found = ready
    found.blueprint.on_close()
    assert channel.calls == ["wake", "stop receiving", "give back", "Celery forgets"]


def test_a_soft_shutdown_gives_back_while_it_waits(ready: tuple[Channel, Any]) -> None:
    channel, found = ready
    found.controller.wait_for_soft_shutdown()
    assert sorted(calls(channel, 4)) == ["give back", "stop receiving", "wait", "wake"]


def test_a_worker_of_another_broker_is_left_alone() -> None:
    channel = Channel()
    found = consumer(channel)
    found.connection.transport.driver_type = "redis"
    before = found.blueprint.on_close
    install()
    signals.worker_ready.send(sender=found)
    assert found.blueprint.on_close is before
    assert worker.consumer_of_worker() is None


# --- lost leases


def remember_pool(pool: Any) -> Any:
    class Consumer:
        pass

    found = Consumer()
    found.pool = pool  # type: ignore[attr-defined]
    worker.remember(found)
    return found


def test_a_waiting_task_is_dropped_and_told_of(told: list[dict[str, Any]]) -> None:
    channel = Channel()
    request = Request(channel, 7)
    on_lost(channel, lost_lease(), Why.REFUSED, terminate=False)
    assert told == [{"sender": "t", "task_id": "id-7", "queue": "q", "why": Why.REFUSED, "request": request}]
    assert channel.abandoned == [7]
    with pytest.raises(TaskRevokedError):
        request.execute_using_pool([])


@pytest.mark.parametrize(("terminate", "ended"), [(True, [("pool", False)]), (False, [])])
def test_a_running_task_is_ended_only_where_that_is_asked_for(
    told: list[dict[str, Any]], terminate: bool, ended: list[Any]
) -> None:
    channel, job, keep = Channel(), Job(_write_to=object()), remember_pool("pool")
    request = Request(channel, 7, job)
    on_lost(channel, lost_lease(), Why.LAPSED, terminate=terminate)
    assert request.cancelled == ended
    assert channel.abandoned == ([7] if terminate else [])
    assert len(told) == 1
    assert keep.pool == "pool"


@pytest.mark.parametrize("why", [Why.GONE, Why.ACK_FAILED])
def test_a_task_that_nobody_else_may_ever_run_is_never_ended(told: list[dict[str, Any]], why: Why) -> None:
    channel, job, keep = Channel(), Job(_write_to=object()), remember_pool("pool")
    request = Request(channel, 7, job)
    on_lost(channel, lost_lease(), why, terminate=True)
    assert request.cancelled == []
    assert channel.abandoned == []
    assert [item["why"] for item in told] == [why]
    assert keep.pool == "pool"


def test_what_was_renewed_after_all_goes_on(told: list[dict[str, Any]]) -> None:
    channel = Channel()
    Request(channel, 7)
    lease = lost_lease()
    lease.state = LeaseState.HELD
    on_lost(channel, lease, Why.LAPSED, terminate=True)
    assert channel.abandoned == []
    assert len(told) == 1


def test_a_pool_that_cannot_end_a_task_says_so(told: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    channel, job, keep = Channel(), Job(_write_to=object()), remember_pool("threads")
    Request(channel, 7, job)
    on_lost(channel, lost_lease(), Why.LAPSED, terminate=True)
    assert "cannot terminate task t[id-7]" in caplog.text
    assert channel.abandoned == []
    assert keep.pool == "threads"


def test_a_task_that_is_done_is_told_of_without_a_request(told: list[dict[str, Any]]) -> None:
    on_lost(None, lost_lease(), Why.ACK_FAILED, terminate=True)
    assert [item["request"] for item in told] == [None]


def test_what_was_never_handed_over_is_nobodys_task(told: list[dict[str, Any]]) -> None:
    lease = lost_lease()
    lease.about = None
    on_lost(Channel(), lease, Why.LAPSED, terminate=True)
    assert told == []
