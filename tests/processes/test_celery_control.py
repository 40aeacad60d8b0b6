"""Every inspect and control command, on two workers, with AWS 20 ms away and Celery's own timeouts.

A worker that has to share two cores with everything else may take longer than Celery's second to answer, so a question
may be put again; on a quiet machine it never is.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from celery import Celery
from support.celery_workers import Stage, Worker, client, stage, wait_until
from support.emulators import Emulator
from support.proxy import Proxy

SECRET = "s3cr3t/+key"
LATENCY_S = 0.02
TRIES = 4
PATIENCE_S = 10
WORKERS = ("one@test", "two@test")
#: Errors that the workers log because the tests ask for what they can't do.
MEANT = ("unknown task nothing", "Autoscale not enabled", "Traceback", "SIGKILL")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def aws(moto: Emulator) -> Iterator[Emulator]:
    with Proxy(moto.endpoint_url, LATENCY_S) as proxy:
        yield replace(moto, port=urlsplit(proxy.endpoint_url).port, secret=quote(SECRET, safe=""))


@pytest.fixture(scope="module")
def on_stage(aws: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(aws.url(f"p{uuid4().hex[:8]}"), tmp_path_factory.mktemp("control")) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def workers(on_stage: Stage) -> list[Worker]:
    """Two that serve all tests, which leave them as they were; each has a queue of its own too."""
    options = ("-P", "prefork", "-c", "2")
    both = [
        on_stage.start("apps.controlled", *options, "-Q", f"celery,{name}", name=name, ready=False)
        for name in ("one", "two")
    ]
    on_stage.wait_until_ready(*both)
    return both


@pytest.fixture(scope="module")
def app(on_stage: Stage) -> Iterator[Celery]:
    """In this process, which knows the broker and nothing else."""
    with closing(client(on_stage)) as app:
        yield app


def put(question: Callable[[], Any], is_answered: Callable[[Any], bool]) -> Any:
    """Put a question until it is answered."""
    for _ in range(TRIES):
        answer = question()
        if is_answered(answer):
            return answer
    raise AssertionError(f"no answer but {answer}")


def inspect(app: Celery, question: str, *args: object, **kwargs: object) -> Any:
    """Each worker's answer."""
    inspector = app.control.inspect(limit=len(WORKERS))  # else it would wait a second for a third worker
    return put(partial(getattr(inspector, question), *args, **kwargs), lambda it: sorted(it or ()) == [*WORKERS])


def control(app: Celery, command: str, *args: object, **kwargs: object) -> Any:
    """What the workers answer to a command: one value, which they agree about.

    A command that must not be given twice has a ``timeout``.
    """
    give = partial(getattr(app.control, command), *args, reply=True, limit=len(WORKERS), **kwargs)
    answers = give() if "timeout" in kwargs else put(give, lambda found: names(found) == [*WORKERS])
    assert names(answers) == [*WORKERS]
    first, second = (value for answer in answers for value in answer.values())
    assert first == second
    return first


def names(answers: list[dict[str, Any]] | None) -> list[str]:
    return sorted(name for answer in answers or () for name in answer)


# --- inspect


def test_ping_ten_times_in_a_row(app: Celery) -> None:
    """kombu makes a reply queue for each."""
    for _ in range(10):
        assert inspect(app, "ping") == {name: {"ok": "pong"} for name in WORKERS}


def test_active_queues(app: Celery) -> None:
    found = inspect(app, "active_queues")
    assert {name: {queue["name"] for queue in queues} for name, queues in found.items()} == {
        "one@test": {"celery", "one"},
        "two@test": {"celery", "two"},
    }


def test_registered_tasks_and_their_settings(app: Celery) -> None:
    for tasks in inspect(app, "registered", "acks_late").values():
        assert "handle [acks_late=False]" in tasks


def test_clock(app: Celery) -> None:
    assert all(answer["clock"] > 0 for answer in inspect(app, "clock").values())


def test_stats_conf_and_report_do_not_show_the_secret(app: Celery) -> None:
    stats, report = inspect(app, "stats"), inspect(app, "report")
    conf = inspect(app, "conf", with_defaults=True)
    assert {stat["broker"]["transport"] for stat in stats.values()} == {"hake"}
    assert {found["worker_prefetch_multiplier"] for found in conf.values()} == {2}
    assert all("transport:hake" in found["ok"] for found in report.values())
    shown = json.dumps([stats, report, conf])
    for spelling in (SECRET, quote(SECRET), quote(SECRET, safe="")):
        assert spelling not in shown


def test_tasks_are_found_while_they_run_and_wait(on_stage: Stage, app: Celery) -> None:
    """active, reserved, query_task, scheduled; and revoke, which ends the running ones with ``terminate``."""
    queued = [app.send_task("sleep", [n, 600], queue=("one", "two")[n % 2]).id for n in range(6)]
    waiting = app.send_task("handle", [6], countdown=500, queue="one").id
    on_stage.runs.wait_for(4, event="start")
    for name, tasks in inspect(app, "active").items():
        assert {task["id"] for task in tasks} <= set(queued), name
        assert len(tasks) == 2
    reserved = {task["id"] for tasks in inspect(app, "reserved").values() for task in tasks}
    assert len(reserved) == 2
    running = set(queued) - reserved
    states = {
        task: state
        for answer in inspect(app, "query_task", *queued, waiting).values()
        for task, (state, _) in answer.items()
    }
    assert states == {**dict.fromkeys(running, "active"), **dict.fromkeys(reserved, "reserved")}
    # Tasks with an ETA wait in SQS, where no worker knows of them.
    assert inspect(app, "scheduled") == {name: [] for name in WORKERS}

    assert "flagged as revoked" in str(app.control.revoke(sorted(reserved), reply=True, limit=2))
    assert reserved <= set.intersection(*(set(found) for found in inspect(app, "revoked").values()))
    app.control.revoke(sorted(running), terminate=True, signal="SIGKILL")
    wait_until(lambda: inspect(app, "active") == {name: [] for name in WORKERS}, "the running tasks to end")
    assert on_stage.runs.of(event="end") == []
    assert len(on_stage.runs.of(event="start")) == 4


# --- control


def test_rate_limit(app: Celery) -> None:
    assert control(app, "rate_limit", "handle", "10/m") == {"ok": "new rate limit set successfully"}
    for tasks in inspect(app, "registered").values():
        assert "handle [rate_limit=10/m]" in tasks
    assert control(app, "rate_limit", "handle", 0) == {"ok": "rate limit disabled successfully"}
    assert control(app, "rate_limit", "nothing", "10/m") == {"error": "unknown task"}


def test_time_limit(app: Celery) -> None:
    assert control(app, "time_limit", "sleep", soft=5, hard=10) == {"ok": "time limits set successfully"}
    for tasks in inspect(app, "registered", "soft_time_limit", "time_limit").values():
        assert "sleep [soft_time_limit=5 time_limit=10]" in tasks
    assert control(app, "time_limit", "sleep") == {"ok": "time limits set successfully"}


def test_pool_grows_and_shrinks(app: Celery) -> None:
    def sizes() -> list[tuple[int, int]]:
        stats = inspect(app, "stats").values()
        return [(len(stat["pool"]["processes"]), stat["prefetch_count"]) for stat in stats]

    assert control(app, "pool_grow", 1, timeout=PATIENCE_S) == {"ok": "pool will grow"}
    wait_until(lambda: sizes() == [(3, 6), (3, 6)], "a third process")
    assert control(app, "pool_shrink", 1, timeout=PATIENCE_S) == {"ok": "pool will shrink"}
    wait_until(lambda: sizes() == [(2, 4), (2, 4)], "it to go")


def test_consumer_of_another_queue_is_added_and_cancelled(on_stage: Stage, app: Celery) -> None:
    def has_extra() -> set[bool]:
        return {"extra" in [queue["name"] for queue in queues] for queues in inspect(app, "active_queues").values()}

    assert control(app, "add_consumer", "extra") == {"ok": "add consumer extra"}
    wait_until(lambda: has_extra() == {True}, "the new queue")
    # At once, though an open long poll of the other queue could take all that may be prefetched.
    app.send_task("handle", [77], queue="extra")
    on_stage.runs.wait_for(1, number=77, timeout_s=8)
    assert control(app, "cancel_consumer", "extra") == {"ok": "no longer consuming from extra"}
    wait_until(lambda: has_extra() == {False}, "the queue to go")


def test_consumer_of_a_topic_exchange_is_added(on_stage: Stage, app: Celery) -> None:
    added = control(app, "add_consumer", "audit", exchange="orders", exchange_type="topic", routing_key="order.#")
    assert added == {"ok": "add consumer audit"}
    wait_until(
        lambda: all("audit" in str(queues) for queues in inspect(app, "active_queues").values()), "the new queue"
    )
    app.send_task("handle", [76], exchange="orders", routing_key="order.created.eu")
    on_stage.runs.wait_for(1, number=76, timeout_s=8)
    control(app, "cancel_consumer", "audit")


def test_revoked_task_does_not_run(on_stage: Stage, app: Celery, workers: list[Worker]) -> None:
    revoked = str(uuid4())
    assert "flagged as revoked" in control(app, "revoke", revoked)["ok"]
    app.send_task("handle", [78], task_id=revoked)
    app.send_task("handle", [79])
    on_stage.runs.wait_for(1, number=79)
    said = f"Discarding revoked task: handle[{revoked}]"
    wait_until(lambda: any(said in worker.log for worker in workers), "the revoked task in a log")
    assert on_stage.runs.of(number=78) == []


def test_events_are_enabled_and_disabled(app: Celery) -> None:
    assert control(app, "enable_events", timeout=PATIENCE_S) == {"ok": "task events enabled"}
    assert control(app, "enable_events") == {"ok": "task events already enabled"}
    assert control(app, "disable_events", timeout=PATIENCE_S) == {"ok": "task events disabled"}
    assert control(app, "heartbeat") is None


def test_pool_restarts_and_goes_on(app: Celery, on_stage: Stage) -> None:
    assert control(app, "pool_restart", timeout=PATIENCE_S) == {"ok": "reload started"}
    for number in range(81, 91):
        app.send_task("handle", [number])
    for number in range(81, 91):
        on_stage.runs.wait_for(1, number=number)


def test_autoscale_is_refused_by_workers_without_it(app: Celery) -> None:
    assert control(app, "autoscale", 3, 1) == {"error": "ValueError('Autoscale not enabled')"}


# --- to whom, and how many


@pytest.mark.parametrize(
    ("to", "who"),
    [
        ({"destination": ["two@test"]}, ["two@test"]),
        ({"pattern": "t*@test", "matcher": "glob"}, ["two@test"]),
        ({"pattern": "^on.@", "matcher": "pcre"}, ["one@test"]),
        ({}, [*WORKERS]),
    ],
)
def test_command_goes_to_those_it_names(app: Celery, to: dict[str, Any], who: list[str]) -> None:
    ask = partial(app.control.broadcast, "ping", reply=True, **to)
    assert names(put(ask, lambda answers: len(answers) >= len(who))) == who
    assert app.control.broadcast("ping", **to) is None


def test_limit_and_timeout_end_the_waiting(app: Celery) -> None:
    assert len(app.control.broadcast("ping", reply=True, limit=1, timeout=PATIENCE_S)) == 1
    assert app.control.ping(destination=["nobody@test"], timeout=0.2) == []
    seen: list[dict[str, Any]] = []
    app.control.broadcast("ping", reply=True, limit=2, timeout=PATIENCE_S, callback=seen.append)
    assert names(seen) == [*WORKERS]


def test_many_ask_at_once(on_stage: Stage) -> None:
    def ask(_: int) -> list[list[str]]:
        answers: list[list[str]] = json.loads(on_stage.python("-m", "apps.ask", "2"))
        return answers

    with ThreadPoolExecutor(2) as pool:
        found = [answer for answers in pool.map(ask, range(2)) for answer in answers]
    assert found == [[*WORKERS]] * 4


# --- the command line


def celery(on_stage: Stage, *arguments: str) -> str:
    return on_stage.python("-m", "celery", "-A", "apps.controlled", *arguments)


def test_commands_of_the_shell(on_stage: Stage) -> None:
    with ThreadPoolExecutor(2) as pool:
        status = pool.submit(celery, on_stage, "status")
        limited = pool.submit(celery, on_stage, "control", "rate_limit", "handle", "50/s")
        assert "2 nodes online." in status.result()
        assert limited.result().count("new rate limit set successfully") == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("times", range(2))
@pytest.mark.parametrize(
    "command",
    [
        *(f"inspect {name}" for name in (
            "ping", "active", "active_queues", "stats", "registered", "scheduled", "reserved", "revoked", "conf",
            "report", "clock", "query_task a b",
        )),
        *(f"control {name}" for name in (
            "rate_limit handle 9/m", "time_limit handle 5 10", "revoke a b", "terminate KILL a", "pool_grow 1",
            "pool_shrink 1", "add_consumer more", "cancel_consumer more", "enable_events", "disable_events",
            "heartbeat",
        )),
    ],
)  # fmt: skip
def test_each_command_of_the_shell(on_stage: Stage, command: str, times: int) -> None:
    answer = celery(on_stage, *command.split(), "--json")
    for name in WORKERS:
        assert name in answer
    assert SECRET not in answer
    assert quote(SECRET, safe="") not in answer


# --- the end


@pytest.mark.slow
def test_workers_that_autoscale_take_new_bounds_and_shut_down_by_name(on_stage: Stage, app: Celery) -> None:
    worker = on_stage.start("apps.controlled", "-P", "prefork", "--autoscale", "2,1", "-Q", "scaled", name="scaled")
    mine = {"destination": ["scaled@test"], "reply": True}
    assert app.control.autoscale(3, 2, **mine) == [{"scaled@test": {"ok": "autoscale now max=3 min=2"}}]
    assert "not supported with autoscale" in str(app.control.pool_grow(1, **mine))
    app.control.shutdown(destination=["scaled@test"])
    assert worker.wait_for_end(20) == 0
    assert worker.descendants() == []
    assert inspect(app, "ping") == {name: {"ok": "pong"} for name in WORKERS}


def test_shutdown_ends_all_and_nothing_is_said_of_the_secret(app: Celery, workers: list[Worker]) -> None:
    app.control.shutdown()
    for worker in workers:
        assert worker.wait_for_end(20) == 0
        assert worker.descendants() == []
        assert [line for line in worker.errors() if not any(meant in line for meant in MEANT)] == []
        assert SECRET not in worker.log
        assert quote(SECRET, safe="") not in worker.log
