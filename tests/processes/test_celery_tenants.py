"""The group id of every message of a workflow, read from the queues."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_sqs import FakeQueue
from support.celery_workers import Stage, client, stage, wait_until
from support.standin import StandIn

from kombu_hake.admin import Selection, connect
from kombu_hake.amqp import decode

PUBLISH = """
from datetime import datetime, timedelta, timezone
from celery import chain, chord, group
from apps.tenants import *
for who, named in (("acme", {"tenant": "Acme Corp"}), ("nobody", {})):
    fans.apply_async((who,), **named)
    retries.apply_async((who,), **named)
    replaced.apply_async((who,), **named)
    rejected.apply_async((who,), **named)
    fails.apply_async((who,), link_error=step.si(who, "link_error"), **named)
    times_out.apply_async((who,), link_error=step.si(who, "errback of main"), time_limit=1, **named)
    step.apply_async((who, "links"), link=step.si(who, "link"), **named)
    chain(step.si(who, "chain"), step.si(who, "chain"), group(step.si(who, "in chain"), step.si(who, "in chain")),
          step.si(who, "chain end")).apply_async(**named)
    group(step.si(who, "outer group"), step.si(who, "outer group")).apply_async(**named)
    chord([step.si(who, "outer chord")] * 2, step.si(who, "outer chord body")).apply_async(**named)
    step.si(who, "signature").set(**named).apply_async()
    step.apply_async((who, "countdown"), countdown=1, **named)
    eta = datetime.now(timezone.utc) + timedelta(seconds=8)
    step.apply_async((who, "deferred"), exchange="orders", routing_key="later", eta=eta, **named)
    orders.send("placed", {"who": who}, **named)
    orders.send("shipped", {"who": who}, **named)
"""
GROUPS = {"acme": "hake:Acme%20Corp", "beta": "beta", "nobody": None, "by-hand": "by-hand"}
TENANTS = {"acme": "Acme Corp", "beta": "beta", "nobody": None, "by-hand": "by-hand"}
#: What of each of both is sent at least so often; a deferred copy and a requeued dead letter are further messages.
EXPECTED = {
    ("fans", ""): 1, ("retries", ""): 3, ("replaced", ""): 1, ("rejected", ""): 2, ("fails", ""): 1,
    ("times_out", ""): 1,
    **{("step", what): 1 for what in (
        "delay", "chord body", "fifo", "called", "after retries", "replacement", "links", "link", "chain end",
        "outer chord body", "signature", "link_error", "errback of main",
    )},
    **{("step", what): 2 for what in (
        "group", "chord", "in chain", "chain", "outer group", "outer chord", "countdown", "first handler",
        "second handler", "single handler",
    )},
    ("step", "deferred"): 1,
    ("celery.chord_unlock", ""): 3,
    ("kombu_hake.event", ""): 6,
    ("failing_handler", ""): 2,
}  # fmt: skip


class Sent:
    """Every message that arrives in a queue: as SendMessage, from a topic, or as a dead letter."""

    def __init__(self, aws: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        #: Queue, body, group id.
        self.all: list[tuple[str, str, str | None]] = []
        put = aws.fake.queues.put

        def record(queue: FakeQueue, body: str, attributes: Any, group: str | None, *args: Any) -> Any:
            self.all.append((queue.name, body, group))
            return put(queue, body, attributes, group, *args)

        monkeypatch.setattr(aws.fake.queues, "put", record)

    def of_work(self) -> list[tuple[str, str, str, str, str | None]]:
        """Tenant, task, what, queue and group id of each message that is not Celery's own traffic."""
        found = []
        for queue, text, group in self.all:
            envelope = decode(text, queue)
            body = json.loads(envelope.body)
            task = envelope.headers.get("task")
            if task is None and envelope.headers.get("what") != "plain":
                assert group is None, (queue, text)  # replies, events, commands
                continue
            args, kwargs = (body[0], body[1]) if task else ((), body)
            if task == "celery.chord_unlock":
                args = args[1]["args"][:1]
            who = kwargs["who"] if "who" in kwargs else args[0]
            found.append((who, task or "", args[1] if len(args) > 1 else "", queue, group))
        return found


@pytest.fixture
def aws() -> Iterator[StandIn]:
    with StandIn() as found:
        yield found


@pytest.fixture
def on_stage(aws: StandIn, tmp_path: Path) -> Iterator[Stage]:
    with stage(aws.url(), tmp_path) as found:
        yield found


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("threads", "gevent"))]
)
def test_every_message_of_a_workflow_has_the_group_id_of_its_tenant(
    aws: StandIn, on_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    monkeypatch.setenv("TENANTS_BACKEND", f"file://{tmp_path}")
    sent = Sent(aws, monkeypatch)
    worker = on_stage.start("apps.tenants", "-Q", "celery,email,stock,later,ordered.fifo", "-P", pool, "-c", "4")
    on_stage.python("-c", PUBLISH)

    wanted = {(who, *key): count for who in ("acme", "nobody") for key, count in EXPECTED.items()}
    wanted["acme", "step", "deferred"] = 2  # and its copy; a task without a tenant is hidden
    if pool != "prefork":  # has no time limits
        wanted = {key: count for key, count in wanted.items() if key[2] != "errback of main"}

    def missing() -> str:
        counts = Counter((who, task, what) for who, task, what, _, _ in sent.of_work())
        return str({key: (counts[key], count) for key, count in wanted.items() if counts[key] < count})

    wait_until(lambda: missing() == "{}", missing)
    with connect(client(on_stage)) as admin:  # as an operator sends dead letters back
        assert admin.requeue("celery", Selection(task="rejected")).done == 2
        assert admin.requeue("stock", Selection(task="failing_handler")).done == 4
    for who in ("acme", "nobody"):
        wanted[who, "rejected", ""] = 4
        wanted[who, "failing_handler", ""] = 6
    wait_until(lambda: missing() == "{}", missing)
    for who, task, what, queue, group in sent.of_work():
        expected = "default" if queue.endswith("ordered.fifo") else GROUPS[who]
        assert group == expected, (who, task, what, queue)
    worker.stop()
    for run in on_stage.runs.all():
        assert run["tenant"] == TENANTS[run["who"]], run
