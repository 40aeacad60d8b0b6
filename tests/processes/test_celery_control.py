"""Remote control and events of a running worker."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from celery import Celery
from kombu import pools
from support.celery_workers import Stage, Worker, stage, wait_until
from support.emulators import Emulator

ANSWER_TIMEOUT_S = 15.0
SECRET = "s3cr3t/+key"


@pytest.fixture(scope="module")
def on_stage(moto: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    aws = replace(moto, secret=quote(SECRET, safe=""))
    with stage(aws.url(f"p{uuid4().hex[:8]}"), tmp_path_factory.mktemp("control")) as found:
        yield found


@pytest.fixture(scope="module")
def worker(on_stage: Stage) -> Worker:
    """One that serves all tests that leave it as it was."""
    return on_stage.start("apps.plain", "-P", "prefork", "-c", "2", name="served")


@pytest.fixture(scope="module", autouse=True)
def _pools() -> Iterator[None]:
    """kombu's pools of connections outlive the app."""
    yield
    pools.reset()


@pytest.fixture(scope="module")
def app(on_stage: Stage) -> Iterator[Celery]:
    """In this process, which knows the broker and nothing else."""
    with closing(Celery(broker=on_stage.broker, set_as_current=False)) as app:
        yield app


def ask(app: Celery, question: str, *args: object) -> Any:
    """The answer of the one worker there is."""
    answers = getattr(app.control.inspect(timeout=ANSWER_TIMEOUT_S, limit=1), question)(*args)
    assert answers is not None, f"nobody answered {question}"
    return answers["served@test"]


@pytest.mark.timeout(90)
def test_ping(app: Celery, worker: Worker) -> None:
    assert ask(app, "ping") == {"ok": "pong"}


@pytest.mark.timeout(90)
def test_active_queues(app: Celery, worker: Worker) -> None:
    assert [queue["name"] for queue in ask(app, "active_queues")] == ["celery"]


@pytest.mark.timeout(90)
def test_registered_tasks(app: Celery, worker: Worker) -> None:
    assert {"handle", "sleep", "sleep_late"} <= set(ask(app, "registered"))


@pytest.mark.timeout(90)
def test_stats_do_not_show_the_secret(app: Celery, worker: Worker) -> None:
    stats = ask(app, "stats")
    assert stats["broker"]["transport"] == "hake"
    shown = json.dumps(stats)
    assert SECRET not in shown
    assert quote(SECRET, safe="") not in shown
    assert quote(SECRET) not in shown


@pytest.mark.timeout(90)
def test_prefetch_count_and_pool_change_at_run_time(app: Celery, worker: Worker) -> None:
    assert ask(app, "stats")["prefetch_count"] == 8
    app.control.pool_grow(1)
    wait_until(lambda: ask(app, "stats")["prefetch_count"] == 12, "a greater prefetch count")
    wait_until(lambda: len(ask(app, "stats")["pool"]["processes"]) == 3, "a third process")
    app.control.pool_shrink(1)
    wait_until(lambda: ask(app, "stats")["prefetch_count"] == 8, "the old prefetch count")


@pytest.mark.timeout(90)
def test_consumer_of_another_queue_is_added_and_cancelled(on_stage: Stage, app: Celery, worker: Worker) -> None:
    app.control.add_consumer("extra")
    wait_until(lambda: "extra" in [queue["name"] for queue in ask(app, "active_queues")], "the new queue")
    # At once, though an open long poll of the other queue could take all that may be prefetched.
    app.send_task("handle", [77], queue="extra")
    on_stage.runs.wait_for(1, number=77, timeout_s=8)
    app.control.cancel_consumer("extra")
    wait_until(lambda: "extra" not in [queue["name"] for queue in ask(app, "active_queues")], "the queue to go")


@pytest.mark.timeout(90)
def test_revoked_task_does_not_run(on_stage: Stage, app: Celery, worker: Worker) -> None:
    revoked = str(uuid4())
    app.control.revoke(revoked)
    wait_until(lambda: revoked in ask(app, "revoked"), "the revoke to arrive")
    app.send_task("handle", [78], task_id=revoked)
    app.send_task("handle", [79])
    on_stage.runs.wait_for(1, number=79)
    wait_until(lambda: f"Discarding revoked task: handle[{revoked}]" in worker.log, "the revoked task in the log")
    assert on_stage.runs.of(number=78) == []


@pytest.mark.timeout(90)
def test_no_error_was_logged_and_nothing_is_said_of_the_secret(worker: Worker) -> None:
    assert worker.errors() == []
    assert SECRET not in worker.log
    assert quote(SECRET, safe="") not in worker.log


@pytest.mark.timeout(120)
def test_events_are_seen_and_shutdown_ends_the_worker(moto: Emulator, on_stage: Stage) -> None:
    broker = moto.url(f"p{uuid4().hex[:8]}")
    seen: list[dict[str, Any]] = []
    ready, stop = threading.Event(), threading.Event()

    def watch() -> None:
        with closing(Celery(broker=broker, set_as_current=False)) as watching, watching.connection() as connection:
            receiver = watching.events.Receiver(connection, handlers={"*": seen.append})
            with receiver.consumer_context() as (consuming, _, _):
                ready.set()
                while not stop.is_set():
                    with suppress(TimeoutError):
                        consuming.drain_events(timeout=0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert ready.wait(20)
        on_stage.broker, before = broker, on_stage.broker
        worker = on_stage.start("apps.plain", "-P", "threads", "-c", "2", "-E", name="watched")
        on_stage.broker = before
        with closing(Celery(broker=broker, set_as_current=False)) as app:
            app.send_task("handle", [80])
            on_stage.runs.wait_for(1, number=80)
            wanted = {"task-succeeded", "worker-heartbeat"}
            wait_until(lambda: {event["type"] for event in seen} >= wanted, f"the events {seen}")
            started = time.monotonic()
            app.control.shutdown()
            assert worker.wait_for_end(20) == 0
            assert time.monotonic() - started < 15
        wait_until(lambda: "worker-offline" in {event["type"] for event in seen}, "the worker's farewell")
    finally:
        stop.set()
        watcher.join(20)
    assert worker.errors() == []
    assert worker.descendants() == []
