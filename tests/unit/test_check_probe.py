"""The probe of `hake check`: it proves deliveries, touches nothing that others use, and leaves nothing behind."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner
from fake_aws import SLOW
from fakes import ACCOUNT, REGION, FakeClients, connected
from kombu import Exchange, Queue
from support.shops import declare_own

from kombu_hake.admin import CheckReport, Report, connect
from kombu_hake.admin.check.facts import Expected
from kombu_hake.admin.check.probe import Probe, Probed, _with_arns, of_probes
from kombu_hake.admin.check.reading import Reader
from kombu_hake.admin.declared import declared
from kombu_hake.cli.check import check as check_command
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable
from kombu_hake.groups.topic import Topic
from kombu_hake.temporary import Janitor

MADE = {"create_queue", "create_topic", "subscribe"}


def nothing(**payload: Any) -> None:
    """A handler."""


def shop() -> Celery:
    app = Celery("shop", broker=f"hake://localhost:1/ns?region={REGION}", set_as_current=False)
    orders = Topic("orders", app=app)
    orders.on("placed", "paid", group="email", name="receipt")(nothing)
    orders.on("placed", group="stock", name="reserve")(nothing)
    app.conf.task_queues = [
        Queue("celery"),
        Queue("everything", Exchange("orders", "topic"), "#"),
        Queue("ranked", Exchange("work", "topic"), "job.*.#", max_priority=9),
        Queue("by-header", Exchange("heads", "headers"), binding_arguments={"x-match": "all", "kind": "a"}),
        Queue("jobs.fifo", Exchange("jobs.fifo", "topic"), "job"),
    ]
    return app


@pytest.fixture
def app(fake: FakeClients) -> Iterator[Celery]:
    app = shop()
    with connected(fake):
        declare_own(app)
        yield app


def probe(app: Celery, **options: Any) -> CheckReport:
    with connect(app) as broker:
        return broker.check(probe=True, wait_s=0, **options)


def outcomes(report: CheckReport) -> dict[str, str]:
    return {name: probed.outcome for probed in report.probes for name in probed.subscriptions}


def things(fake: FakeClients) -> tuple[set[str], set[str]]:
    topics = fake.sns("list_topics")["Topics"]
    return set(fake.queues.by_name), {topic["TopicArn"] for topic in topics}


def test_every_kind_of_subscription_is_proved_and_nothing_is_left(app: Celery, fake: FakeClients) -> None:
    before = things(fake)
    report = probe(app)
    assert report.findings == ()
    assert set(outcomes(report).values()) == {"delivered"}
    assert set(outcomes(report)) == {
        "email <- orders", "stock <- orders", "everything <- orders", "by-header <- heads", "jobs.fifo <- jobs.fifo",
        "ranked <- work", "ranked (level 1) <- work", "ranked (level 2) <- work", "ranked (level 3) <- work",
    }  # fmt: skip
    assert things(fake) == before
    assert not fake.topics.lost


def test_nothing_that_others_use_is_touched(app: Celery, fake: FakeClients) -> None:
    """No publish to a real topic, no receive from a real queue, no change of either."""
    fake.calls.clear()
    probe(app, roles=["operator"])
    for name, params in fake.calls:
        if name.startswith(("get_", "list_", "simulate_")):
            continue
        address = str(params.get("TopicArn") or params.get("QueueUrl") or params.get("SubscriptionArn"))
        is_empty = not any(value for key, value in params.items() if key not in ("QueueUrl", "TopicArn"))
        assert "hake-probe" in address or name in ("create_queue", "create_topic") or is_empty, (name, params)
        if name in ("create_queue", "create_topic"):
            assert "hake-probe" in (params.get("QueueName") or params["Name"])


def test_queues_that_are_alike_share_a_copy(fake: FakeClients) -> None:
    app = Celery("shop", broker=f"hake://localhost:1/ns?region={REGION}", set_as_current=False)
    app.conf.task_queues = [Queue(f"audit{number}", Exchange("news", "fanout")) for number in range(5)]
    with connected(fake):
        declare_own(app)
        report = probe(app)
    assert [(len(one.subscriptions), one.outcome) for one in report.probes] == [(5, "delivered")]


def test_many_kinds_are_tried_in_turn(fake: FakeClients) -> None:
    app = Celery("shop", broker=f"hake://localhost:1/ns?region={REGION}", set_as_current=False)
    app.conf.task_queues = [Queue(f"q{number}", Exchange("work", "topic"), f"k{number}") for number in range(23)]
    lines: list[str] = []
    with connected(fake):
        declare_own(app)
        report = probe(app, on_progress=lines.append)
    assert [probed.outcome for probed in report.probes] == ["delivered"] * 23
    assert sum(line.startswith("Creating topic") for line in lines) == 2


def test_an_app_without_topics_has_nothing_to_probe(fake: FakeClients) -> None:
    app = Celery("plain", broker=f"hake://localhost:1/ns?region={REGION}", set_as_current=False)
    lines: list[str] = []
    with connected(fake):
        declare_own(app)
        report = probe(app, on_progress=lines.append)
    assert (report.probes, report.findings) == ((), ())
    assert lines == ["There is no subscription to probe."]


def policy_of(fake: FakeClients, queue: str, policy: str) -> None:
    fake.queues.queue(f"ns__{queue}").attributes["Policy"] = policy


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda fake: policy_of(fake, "email", ""), "does not allow"),
        (
            lambda fake: policy_of(
                fake, "email",
                fake.queues.queue("ns__email").attributes["Policy"].replace(
                    '"Statement":[', '"Statement":[{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*"},'
                ),
            ),
            "denies it",
        ),
        (
            lambda fake: subscription(fake, "email").attributes.update(FilterPolicy='{"rk":["other"]}'),
            "filter does not pass",
        ),
        (
            lambda fake: subscription(fake, "email").attributes.update(
                FilterPolicy='{"key":["placed"]}', FilterPolicyScope="MessageBody"
            ),
            "message body",
        ),
    ],
)  # fmt: skip
def test_what_keeps_messages_out_keeps_the_probe_out(
    app: Celery, fake: FakeClients, plant: Callable[[FakeClients], object], reason: str
) -> None:
    plant(fake)
    before = things(fake)
    report = probe(app)
    [finding] = [finding for finding in report.findings if finding.code == "probe-undelivered"]
    assert finding.where == "email <- orders"
    assert reason in finding.what
    assert outcomes(report)["stock <- orders"] == "delivered"
    assert things(fake) == before


def subscription(fake: FakeClients, queue: str) -> Any:
    topic = fake.topics.topic(f"arn:aws:sns:{REGION}:{ACCOUNT}:ns__orders")
    return topic.subscriptions[f"arn:aws:sqs:{REGION}:{ACCOUNT}:ns__{queue}"]


# --- AWS is late


def on_slow_aws(app: Celery, fake: FakeClients, wait_s: float) -> list[Probed]:
    """A probe by the clock of the fake, on an AWS where changes act late from now on."""
    with app.connection_for_write() as connection:
        transport = connection.connection
        made = declared(app)
        plan = made.blueprint(transport.settings, transport.topology.home)
        expected = Expected(made, plan, transport.settings)
        facts = Reader(fake, transport.topology.home).read(expected)  # type: ignore[arg-type]
        fake.use(SLOW)
        one = Probe(fake, transport.topology.home, is_late=True, clock=fake.clock)  # type: ignore[arg-type]
        return one.run(expected, facts, wait_s)


def test_a_probe_waits_for_what_acts_late(app: Celery, fake: FakeClients) -> None:
    probed = on_slow_aws(app, fake, 120.0)
    assert {one.outcome for one in probed} == {"delivered"}
    assert max(one.seconds for one in probed) > 0
    assert fake.count("publish") > len(probed)


def test_a_probe_that_is_over_too_soon_is_late_and_not_a_failure(app: Celery, fake: FakeClients) -> None:
    before = things(fake)
    probed = on_slow_aws(app, fake, 0.5)
    assert {one.outcome for one in probed} == {"late"}
    assert {finding.code for finding in of_probes(probed)} == {"probe-late"}
    assert things(fake) == before


def test_nothing_that_comes_in_the_time_that_aws_needs_is_a_failure(app: Celery, fake: FakeClients) -> None:
    fake.topics._deliver = lambda *args: "lost"  # type: ignore[method-assign]
    probed = on_slow_aws(app, fake, 100.0)
    assert {one.outcome for one in probed} == {"undelivered"}
    assert all("Not even a queue that allows the topic" in one.reason for one in probed)


@pytest.mark.parametrize(("wait_s", "outcome"), [(100.0, "late"), (901.0, "undelivered")])
def test_a_filter_has_fifteen_minutes_to_act(app: Celery, fake: FakeClients, wait_s: float, outcome: str) -> None:
    real = fake.topics._deliver

    def deliver(topic: Any, subscription: Any, *rest: Any) -> str:
        return "not yet" if subscription.has_filter else real(topic, subscription, *rest)

    fake.topics._deliver = deliver  # type: ignore[method-assign]
    probed = {name: one for one in on_slow_aws(app, fake, wait_s) for name in one.subscriptions}
    assert probed["email <- orders"].outcome == outcome
    assert probed["everything <- orders"].outcome == "delivered"


# --- it cannot be made


@pytest.mark.parametrize("action", ["sns:CreateTopic", "sqs:CreateQueue", "sns:Subscribe", "sqs:TagQueue"])
def test_a_missing_right_is_named(app: Celery, fake: FakeClients, action: str) -> None:
    before = things(fake)
    fake.deny(action)
    report = probe(app, roles=["producer"])
    assert {finding.code for finding in report.findings} == {"probe-failed"}
    assert all(action in finding.what for finding in report.findings)
    assert things(fake) == before


@pytest.mark.parametrize("operation", ["publish", "receive_message", "subscribe"])
def test_everything_is_removed_after_an_error(app: Celery, fake: FakeClients, operation: str) -> None:
    before = things(fake)
    fake.fail(operation, *[BrokerUnavailable("gone")] * 4)
    report = probe(app, roles=["declarer"])
    assert {finding.code for finding in report.findings} == {"probe-failed"}
    assert things(fake) == before


def test_everything_is_removed_after_an_interrupt(app: Celery, fake: FakeClients) -> None:
    before = things(fake)
    fake.fail("publish", KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        probe(app, roles=["declarer"])
    assert things(fake) == before


#: Before which request a probe is killed: the first of its kind, or a later one.
KILLED = [
    ("create_queue", 0), ("create_queue", 1), ("create_topic", 0), ("subscribe", 0), ("subscribe", 2), ("publish", 0),
    ("receive_message", 1), ("unsubscribe", 0), ("delete_topic", 0), ("delete_queue", 0), ("delete_queue", 2),
]  # fmt: skip


class Killed(BaseException):
    """As a signal that nothing handles."""


def kill(app: Celery, fake: FakeClients, operation: str, number: int) -> None:
    """Run a probe that ends before a request, and removes nothing afterwards."""

    def end(*_: Probe) -> None:
        patch.setattr(Probe, "_remove", end)
        raise Killed

    fake.before(operation, *[lambda: None] * number, end)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        probe(app, roles=["declarer"])


def swept(app: Celery, fake: FakeClients) -> Report:
    found = Report()
    with connect(app) as broker:
        for wait_s in broker.remove_abandoned(found):
            fake.clock.advance(wait_s)
    return found


@pytest.mark.parametrize(("operation", "number"), KILLED)
@pytest.mark.parametrize("mode", ["auto", "verify"])
def test_what_a_killed_probe_leaves_is_found_and_removed(
    app: Celery, fake: FakeClients, operation: str, number: int, mode: str
) -> None:
    before = things(fake)
    app.conf.broker_transport_options = {"topology": mode}
    kill(app, fake, operation, number)
    left = things(fake)
    assert len(left[1]) <= len(before[1]) + 1
    assert swept(app, fake).queues or left == before
    assert things(fake) == left  # it may still run
    fake.clock.advance(1_900)
    with connect(app) as broker:
        codes = [finding.code for finding in broker.check().findings]
    assert ("abandoned-queue" in codes) == (left != before)
    swept(app, fake)
    assert things(fake) == before
    assert not [one for topic in fake.topics.by_name.values() for one in topic.subscriptions if "hake-probe" in one]


def test_a_background_janitor_without_the_right_leaves_a_probe_to_the_command(app: Celery, fake: FakeClients) -> None:
    before = things(fake)
    kill(app, fake, "publish", 0)
    fake.clock.advance(1_900)
    fake.deny("sns:DeleteTopic")
    with connect(app) as broker:
        janitor = Janitor(fake, broker._clients.settings, broker._topology.topics, broker._topology.home)  # type: ignore[arg-type]
        for wait_s in janitor.sweep(Report(), is_own=lambda url: True):
            fake.clock.advance(wait_s)
    [topic] = things(fake)[1] - before[1]
    assert topic.rpartition(":")[2] in things(fake)[0] - before[0]
    with pytest.raises(AccessDenied, match="sns:DeleteTopic"):
        swept(app, fake)
    fake.allow("sns:DeleteTopic")
    swept(app, fake)
    assert things(fake) == before


def test_what_stays_is_named(app: Celery, fake: FakeClients) -> None:
    fake.deny("sns:DeleteTopic")
    found = [finding for finding in probe(app).findings if finding.code == "probe-failed"]
    assert found
    assert all("hake-probe" in finding.what and "sns:DeleteTopic" in finding.what for finding in found)
    fake.allow("sns:DeleteTopic")
    fake.clock.advance(1_900)
    swept(app, fake)
    assert not [name for names in things(fake) for name in names if "hake-probe" in name]


# --- copies of policies


QUEUE, TOPIC = "arn:aws:sqs:r:1:ns__q", "arn:aws:sns:r:1:ns__t"
ARNS = {QUEUE: "arn:aws:sqs:r:1:ns__probe", TOPIC: "arn:aws:sns:r:1:ns__probe"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (QUEUE, ARNS[QUEUE]),
        (TOPIC, ARNS[TOPIC]),
        ("arn:aws:sns:r:1:ns__*", "arn:aws:sns:r:1:ns__*"),
        ("arn:aws:sns:r:1:ns__t*", ARNS[TOPIC]),
        ("*", "*"),
        ("sqs:SendMessage", "sqs:SendMessage"),
        ("arn:aws:sqs:r:1:ns__q-dead", "arn:aws:sqs:r:1:ns__q-dead"),
    ],
)
def test_a_policy_is_copied_with_other_arns(before: str, after: str) -> None:
    copied = json.loads(_with_arns(json.dumps({"Statement": [{"Resource": [before]}]}), ARNS))
    assert copied == {"Statement": [{"Resource": [after]}]}


def test_an_unreadable_policy_is_copied_as_it_is() -> None:
    assert _with_arns("{no policy", ARNS) == "{no policy"
    assert _with_arns("", ARNS) == ""


def test_the_command_explains_its_options() -> None:
    text = CliRunner().invoke(check_command, ["--help"]).output
    assert "--probe" in text
    assert "--wait" in text
