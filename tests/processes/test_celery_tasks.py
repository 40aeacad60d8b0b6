"""Celery as its users run it: workers and publishers in processes of their own, one embedded AWS between them."""

from collections import Counter
from pathlib import Path

import pytest
from support.celery_workers import Stage, stop_together, wait_until
from unit.amqp_model import amqp_topic_match

GROUPS = ("email", "inventory", "analytics")

FIVE_LINES = """
from celery import Celery
app = Celery("five", broker={broker!r})
@app.task
def add(x, y):
    return x + y
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_five_line_app_runs_a_task_of_another_process(on_stage: Stage, tmp_path: Path, pool: str) -> None:
    (tmp_path / "five.py").write_text(FIVE_LINES.format(broker=on_stage.broker))
    assert "kombu_hake" not in FIVE_LINES
    worker = on_stage.start("five", "-P", pool, "-c", "2", cwd=tmp_path)
    on_stage.python("-c", "from five import add; add.delay(2, 2)", cwd=tmp_path)
    wait_until(lambda: "succeeded in" in worker.log, "the task in the log", 30)
    assert worker.log.rstrip().endswith(": 4")
    worker.stop()
    assert worker.errors() == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_200_events_of_a_process_that_declared_nothing_reach_three_groups(on_stage: Stage) -> None:
    """Each group runs each once, and two workers of one group share its work."""
    workers = [
        on_stage.start("apps.groups", "-Q", group, "-P", "threads", "-c", "4", name=name, ready=False)
        for name, group in (("email1", "email"), ("email2", "email"), ("stock", "inventory"), ("sums", "analytics"))
    ]
    on_stage.wait_until_ready(*workers)
    on_stage.python("-m", "apps.publish", "handle", "--exchange", "orders", "--count", "200")
    on_stage.runs.wait_for(600, timeout_s=90)
    # Stopping gives back whatever a worker still holds: what runs afterwards would show up as a run too many.
    stop_together(*workers)
    assert [worker.errors() for worker in workers] == [[]] * len(workers)
    runs = on_stage.runs.all()
    for group in GROUPS:
        ran = Counter(run["number"] for run in runs if run["queue"] == group)
        assert ran == dict.fromkeys(range(200), 1), group
    shared = Counter(run["worker"] for run in runs if run["queue"] == "email")
    assert min(shared["email1"], shared["email2"]) > 20


@pytest.mark.timeout(120)
def test_retry_in_one_group_runs_in_that_group_only(on_stage: Stage) -> None:
    workers = [
        on_stage.start("apps.groups", "-Q", group, "-P", "threads", "-c", "1", name=group, ready=False)
        for group in GROUPS
    ]
    on_stage.wait_until_ready(*workers)
    on_stage.python(
        "-m", "apps.publish", "handle_with_trouble", "--exchange", "orders", "--keys", "order.placed",
        "--more", '["inventory", 2]',
    )  # fmt: skip
    on_stage.runs.wait_for(3, queue="inventory")
    on_stage.runs.wait_for(1, queue="email")
    on_stage.runs.wait_for(1, queue="analytics")
    # A retry that went to other groups too would arrive no later than this one, which follows it.
    on_stage.python("-m", "apps.publish", "handle", "--exchange", "orders", "--keys", "last")
    on_stage.runs.wait_for(3, number="last")
    stop_together(*workers)
    assert [worker.errors() for worker in workers] == [[]] * len(workers)
    runs = on_stage.runs.of(number="order.placed")
    assert Counter(run["queue"] for run in runs) == {"email": 1, "inventory": 3, "analytics": 1}
    assert sorted(run["retries"] for run in runs if run["queue"] == "inventory") == [0, 1, 2]
    # Where it was published first stays readable, in every try.
    assert [run["origin"] for run in runs] == [{"exchange": "orders", "routing_key": "order.placed"}] * 5
    assert len({run["id"] for run in runs}) == 1


@pytest.mark.timeout(120)
def test_each_worker_gets_what_rabbitmq_would_give_it(on_stage: Stage) -> None:
    bindings = {
        "first": ["order.*", "order.#"], "second": ["#.eu", "*.created.#"], "third": ["invoice.paid.us"],
        "fourth": ["#"],
    }  # fmt: skip
    workers = [
        on_stage.start("apps.patterns", "-Q", queues, "-P", "threads", "-c", "2", name=f"w{i}", ready=False)
        for i, queues in enumerate(("first", "second", "third,fourth"))
    ]
    on_stage.wait_until_ready(*workers)
    keys = [
        "order", "order.created", "order.created.eu", "order.created.us", "order.paid", "order.paid.eu", "order.a.b.c",
        "invoice", "invoice.created", "invoice.created.eu", "invoice.paid.us", "invoice.paid.eu", "invoice.paid", "eu",
        "x.eu", "created", "x.created", "created.eu", "orders.created", "order..eu",
    ]  # fmt: skip
    on_stage.python("-m", "apps.publish", "handle", "--exchange", "events", "--keys", *keys)
    expected = {
        queue: sorted(key for key in keys if any(amqp_topic_match(pattern, key) for pattern in patterns))
        for queue, patterns in bindings.items()
    }
    assert len(keys) == 20
    on_stage.runs.wait_for(sum(map(len, expected.values())))
    stop_together(*workers)
    assert [worker.errors() for worker in workers] == [[]] * len(workers)
    # A task that was fanned out carries its queue's name as routing key, so that a retry goes there alone.
    runs = on_stage.runs.all()
    assert {queue: sorted(run["key"] for run in runs if run["routing_key"] == queue) for queue in bindings} == expected
