"""``celery -A shop hake janitor``."""

import json
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from fakes import FakeClients, FakeClock, connected, make_presence, make_settings

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.naming import Namer
from kombu_hake.cli import janitor as cli_janitor
from kombu_hake.cli.main import hake
from kombu_hake.temporary.temporaries import Temporaries
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topology import Topology


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClients:
    fake = FakeClients(FakeClock(1_800_000_000.0))
    monkeypatch.setattr(cli_janitor, "_sleep", fake.clock.advance)
    return fake


@pytest.fixture
def app(fake: FakeClients) -> Iterator[Celery]:
    with connected(fake):
        yield Celery("shop", broker="hake://localhost:1/ns?region=eu-west-1", set_as_current=False)


def make(fake: FakeClients, name: str = "w1@host.celery.pidbox") -> str:
    """A queue whose process is never heard of again; its name in AWS."""
    topology = Topology(fake, make_settings("hake://localhost:1/ns"))
    temporaries = Temporaries(topology, make_presence(fake, topology))
    temporaries.declare(QueueSpec(name, exclusive=True))
    temporaries.create_fed(name, "celery.pidbox")
    topology.bind(name, Binding("celery.pidbox", "fanout"))
    return topology.queues.physical(name)


def run(app: Celery, *arguments: str) -> Result:
    context = CLIContext(app, no_color=True, workdir=None)
    return CliRunner().invoke(hake, ["janitor", *arguments], obj=context)


def test_it_says_what_it_would_remove_and_then_removes_it(fake: FakeClients, app: Celery) -> None:
    dead = make(fake)
    fake.clock.advance(700)
    alive = make(fake, "w2@host.celery.pidbox")
    dry = run(app, "--dry-run")
    assert dry.exit_code == 0
    header, *rows = dry.output.splitlines()
    assert header.split() == ["QUEUE", "KIND", "STATE", "MAY", "GO", "USED", "BY"]
    assert [row.split()[:3] for row in rows] == [[dead, "exclusive", "orphan"], [alive, "exclusive", "used"]]
    assert set(fake.queues.by_name) == {dead, alive}
    done = run(app, "--json")
    assert done.exit_code == 0
    assert "1 seem to be abandoned. They are checked again in 200 s" in done.output
    found = json.loads(done.output[done.output.index("{") :])
    assert {one["name"]: one["state"] for one in found["queues"]} == {dead: "removed", alive: "used"}
    assert set(fake.queues.by_name) == {alive}


def test_subscriptions_of_queues_that_are_gone_are_found_without_any_queue(fake: FakeClients, app: Celery) -> None:
    gone = make(fake)
    fake.sqs("delete_queue", QueueUrl=fake.queues.queue(gone).url)
    assert "would be removed: 1" in run(app, "--dry-run").output
    assert "There are no temporary queues" in run(app).output
    [topic] = fake.topics.by_name.values()
    assert not topic.subscriptions


def test_a_right_that_is_missing_ends_it_with_one_line_after_what_was_done(fake: FakeClients, app: Celery) -> None:
    make(fake)
    fake.clock.advance(700)
    fake.deny("sqs:DeleteQueue")
    done = run(app)
    assert done.exit_code == 1
    assert "orphan" in done.output
    assert "Error: AWS denies sqs:DeleteQueue" in done.output


@pytest.mark.parametrize("mode", ["verify", "assume"])
def test_where_workers_create_no_temporary_queues_those_of_others_are_found(
    fake: FakeClients, app: Celery, mode: str
) -> None:
    gone = make(fake)
    fake.clock.advance(700)
    app.conf.broker_transport_options = {"topology": mode}
    done = run(app)
    assert done.exit_code == 0
    assert gone not in fake.queues.by_name


def make_unproven(fake: FakeClients) -> None:
    tags = {"hake:namespace": "ns", "hake:temporary": "exclusive", "hake:user:a": "1 3 x"}
    fake.sqs("create_queue", QueueName="ns__billing", tags=tags)


def test_what_is_not_proved_to_be_temporary_is_listed_and_kept(fake: FakeClients, app: Celery) -> None:
    make_unproven(fake)
    done = run(app)
    assert done.exit_code == 0
    assert "unproven" in done.output
    assert "--unproven" in done.output
    assert set(fake.queues.by_name) == {"ns__billing"}


@pytest.mark.parametrize(("answer", "is_removed"), [("y\n", True), ("n\n", False), ("", False)])
def test_what_is_not_proved_goes_only_when_the_operator_says_so(
    fake: FakeClients, app: Celery, answer: str, is_removed: bool
) -> None:
    make_unproven(fake)
    context = CLIContext(app, no_color=True, workdir=None)
    done = CliRunner().invoke(hake, ["janitor", "--unproven"], obj=context, input=answer)
    assert "ns__billing" in done.output
    assert ("ns__billing" not in fake.queues.by_name) is is_removed


def test_a_dry_run_asks_nothing(fake: FakeClients, app: Celery) -> None:
    make_unproven(fake)
    done = run(app, "--dry-run", "--unproven")
    assert done.exit_code == 0
    assert set(fake.queues.by_name) == {"ns__billing"}


def test_names_of_incarnations_prove_themselves() -> None:
    from kombu_hake.amqp.naming import is_incarnation

    for namer in (Namer(), Namer("shop"), Namer("x" * 32)):
        for queue in ("q", "q" * 48, "orders.fifo"):
            name = namer.incarnation(queue)
            assert is_incarnation(name)
            assert len(name) <= 80
            assert namer.owns(name)
            assert name.endswith(".fifo") == queue.endswith(".fifo")
            stem = name.removesuffix(".fifo")
            flipped = "0" if stem[-1] != "0" else "1"
            assert not is_incarnation(stem[:-1] + flipped)
            assert not is_incarnation(f"x{name}")
    assert not is_incarnation("celery")
    assert not is_incarnation("a" * 47 + "-" + "0" * 32)
