"""Results over ``rpc://``, from a prefork and from a solo worker; and broadcast queues."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from uuid import uuid4

import pytest
from celery import Celery, Signature, chain, chord, group
from celery.exceptions import TimeoutError as NoResultYet
from kombu import Queue
from support.celery_workers import Stage, Worker, stage, wait_until
from support.emulators import Emulator

POOLS = ("prefork", "solo")
TIMEOUT_S = 30

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def on_stage(moto: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    # A worker that ends in the middle of a poll may take a message with it, for as long as the visibility timeout.
    with stage(moto.url(f"p{uuid4().hex[:8]}", visibility_timeout=10), tmp_path_factory.mktemp("rpc")) as found:
        yield found


def start(on_stage: Stage, pool: str, *, ready: bool = True) -> Worker:
    return on_stage.start("apps.rpc", "-P", pool, "-c", "2", "-Q", f"{pool},news", name=pool, ready=ready)


@pytest.fixture(scope="module")
def workers(on_stage: Stage) -> dict[str, Worker]:
    found = {pool: start(on_stage, pool, ready=False) for pool in POOLS}
    on_stage.wait_until_ready(*found.values())
    return found


@pytest.fixture(scope="module")
def app(on_stage: Stage) -> Iterator[Celery]:
    with closing(Celery(broker=on_stage.broker, backend="rpc://", set_as_current=False)) as app:
        app.conf.task_queues = [Queue(pool) for pool in POOLS]
        yield app


@pytest.fixture(params=["prefork", pytest.param("solo", marks=pytest.mark.slow)])
def queue(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> str:
    """Of the worker that is to do it."""
    return str(request.param)


def task(app: Celery, queue: str, name: str, *args: object) -> Signature:
    return app.signature(name, args=args, queue=queue)


def test_chain(app: Celery, queue: str) -> None:
    steps = chain(task(app, queue, "add", 1, 2), task(app, queue, "add", 3), task(app, queue, "add", 4))
    assert steps.apply_async().get(timeout=TIMEOUT_S) == 10


def test_group(app: Celery, queue: str) -> None:
    result = group(task(app, queue, "add", number, number) for number in range(10)).apply_async()
    assert result.get(timeout=TIMEOUT_S) == [2 * number for number in range(10)]


def test_group_of_chains_across_both_workers(app: Celery, workers: dict[str, Worker]) -> None:
    crossing = [
        chain(task(app, "prefork", "add", number, 1), task(app, "solo", "add", 1), app=app) for number in range(5)
    ]
    assert group(crossing, app=app).apply_async().get(timeout=TIMEOUT_S) == [2, 3, 4, 5, 6]


def test_chord_is_refused_as_on_any_broker(app: Celery, queue: str) -> None:
    with pytest.raises(NotImplementedError, match="does not support chords"):
        chord([task(app, queue, "add", 1, 1)], task(app, queue, "add", 1)).apply_async()


def test_failure_arrives_as_the_exception(app: Celery, queue: str) -> None:
    with pytest.raises(ValueError, match="of no use"):
        task(app, queue, "fail", "of no use").apply_async().get(timeout=TIMEOUT_S)


def test_result_can_be_waited_for_again(app: Celery, queue: str) -> None:
    result = task(app, queue, "wait", 2).apply_async()
    with pytest.raises(NoResultYet):
        result.get(timeout=0.2)
    assert result.get(timeout=TIMEOUT_S) == "done"


def test_result_can_be_polled_for(on_stage: Stage, queue: str) -> None:
    """By a client that has not begun to wait: what waits gets the results, and only ``get`` looks there."""
    with closing(Celery(broker=on_stage.broker, backend="rpc://", set_as_current=False)) as client:
        first, second = (task(client, queue, "add", number, 0).apply_async() for number in (7, 8))
        wait_until(second.ready, "the second result")
        wait_until(first.ready, "the first result")
        assert (first.result, second.result) == (7, 8)


def test_several_clients_get_their_own(on_stage: Stage, workers: dict[str, Worker]) -> None:
    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(on_stage.python, "-m", "apps.rpc", name, "5") for name in POOLS]
        for client in clients:
            assert json.loads(client.result()) == [1, 2, 3, 4, 5]


def test_each_worker_has_its_copy_of_a_broadcast(app: Celery, on_stage: Stage, workers: dict[str, Worker]) -> None:
    app.send_task("hear", [70], exchange="news", routing_key="any")
    on_stage.runs.wait_for(2, number=70)
    on_stage.python("-c", "from apps.rpc import hear; hear.apply_async([71], queue='news')")
    on_stage.runs.wait_for(2, number=71)
    for number in (70, 71):
        assert sorted(run["worker"] for run in on_stage.runs.of(number=number)) == [*POOLS]


@pytest.mark.slow
def test_results_come_from_a_worker_that_was_restarted(
    app: Celery, on_stage: Stage, workers: dict[str, Worker]
) -> None:
    before = task(app, "solo", "add", 1, 1).apply_async()
    assert before.get(timeout=TIMEOUT_S) == 2
    workers["solo"].stop()
    waiting = task(app, "solo", "add", 2, 2).apply_async()
    workers["solo"] = start(on_stage, "solo")
    assert waiting.get(timeout=TIMEOUT_S) == 4
    app.send_task("hear", [72], exchange="news", routing_key="any")
    on_stage.runs.wait_for(2, number=72)


def test_no_worker_had_errors(workers: dict[str, Worker]) -> None:
    for worker in workers.values():
        assert [line for line in worker.errors() if "of no use" not in line and "Traceback" not in line] == []
