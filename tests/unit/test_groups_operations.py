"""What operators ask and do: groups with gaps where rights are missing, and dead letters that are never lost."""

import json
from collections.abc import Iterator
from typing import Any

import click
import pytest
from celery import Celery
from click.testing import CliRunner
from fakes import FakeClients, connected

from kombu_hake.admin import dead_letters as operations_dlq
from kombu_hake.admin.dead_letters import Wanted
from kombu_hake.admin.queues import Binding, Desk, Group, open_desk
from kombu_hake.amqp.envelope import encode
from kombu_hake.cli import graph as cli_graph
from kombu_hake.cli.main import hake
from kombu_hake.cli.tools import SPAN
from kombu_hake.exceptions import BrokerUnavailable, QueueNotFound
from kombu_hake.groups.messages import DEATHS_HEADER
from kombu_hake.groups.topic import Topic


def nothing(**payload: Any) -> None:
    """A handler."""


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients()


@pytest.fixture
def app(fake: FakeClients) -> Iterator[Celery]:
    app = Celery("shop", broker="hake://localhost:1/ns?region=eu-west-1", set_as_current=False)
    orders = Topic("orders", app=app)
    orders.on("placed", "paid", group="email", name="receipt")(nothing)
    orders.on("placed", group="stock", name="reserve")(nothing)
    with connected(fake):
        yield app


@pytest.fixture
def desk(app: Celery, fake: FakeClients) -> Iterator[Desk]:
    """Group ``email`` exists with an empty dead-letter queue, ``stock`` does not."""
    with open_desk(app) as desk:
        with app.connection_for_write() as connection:
            app.amqp.queues["email"](connection.default_channel).declare()
            app.amqp.queues["celery"](connection.default_channel).declare()
        fake.queues.create_queue("ns__email-dead")
        policy = {"deadLetterTargetArn": fake.queues.queue("ns__email-dead").arn, "maxReceiveCount": 20}
        fake.queues.queue("ns__email").attributes["RedrivePolicy"] = json.dumps(policy)
        yield desk


def bury(fake: FakeClients, number: int, *, task: str = "receipt", exception: str = "ValueError") -> None:
    """A dead letter as a worker sends it."""
    death = {"reason": "failed", "exception": exception, "message": f"boom {number}", "time": "now"}
    headers = {"task": task, "id": f"task-{number}", "retries": 3, "eta": "2020-01-01T00:00:00+00:00"}
    message = {
        "body": "[[], {}, {}]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {**headers, "hake_event": {"id": f"event-{number}"}, DEATHS_HEADER: [death]},
        "properties": {"correlation_id": f"task-{number}", "expiration": "1000"},
    }
    reason = {"hake-death-reason": {"DataType": "String", "StringValue": "failed"}}
    put(fake, "email-dead", encode(message, "hake.queue", "email", "tag").text, reason)


def put(fake: FakeClients, queue: str, text: str, attributes: dict[str, Any] | None = None) -> None:
    url = fake.sqs("get_queue_url", QueueName=f"ns__{queue}")["QueueUrl"]
    fake.sqs("send_message", QueueUrl=url, MessageBody=text, MessageAttributes=attributes)


def found(desk: Desk, wanted: Wanted | None = None, limit: int | None = None) -> list[str | None]:
    return [letter.task_id for some in operations_dlq.scan(desk, "email", wanted or Wanted(), limit) for letter in some]


class TestGroups:
    def test_what_is_there_and_what_is_not(self, desk: Desk, fake: FakeClients) -> None:
        bury(fake, 1)
        put(fake, "email", "{}")
        fake.ages["ns__email"] = 90.0
        email, stock = desk.groups()
        assert (email.ready, email.in_flight, email.delayed, email.oldest_s) == (1, 0, 0, 90.0)
        assert (email.dead_queue, email.dead, email.state) == ("email-dead", 1, "ok")
        assert email.bindings == [
            Binding("orders", "paid", ["receipt"], True),
            Binding("orders", "placed", ["receipt"], True),
        ]
        assert (stock.state, stock.ready, stock.dead_queue) == ("missing", None, None)
        assert stock.bindings == [Binding("orders", "placed", ["reserve"], False)]

    def test_others_that_listen_to_the_topic_are_found(self, desk: Desk, fake: FakeClients) -> None:
        from kombu import Exchange, Queue

        with desk.app.connection_for_write() as connection:
            Queue("audit", Exchange("orders", "topic"), "#")(connection.default_channel).declare()
        [audit] = [group for group in desk.groups() if not group.is_ours]
        assert (audit.name, audit.bindings) == ("audit", [Binding("orders", "#", [], True)])

    def test_a_binding_without_handler_is_told(self, desk: Desk) -> None:
        desk.topology.bind("email", _topic_binding("gone"))
        [item] = [item for item in desk.groups(["email"])[0].bindings if not item.handlers]
        assert (item.key, item.is_bound) == ("gone", True)

    def test_missing_rights_leave_gaps(self, desk: Desk, fake: FakeClients) -> None:
        put(fake, "email", "{}")
        fake.deny("sqs:ListQueueTags", "sns:ListSubscriptionsByTopic")
        fake.fail("get_metric_data", BrokerUnavailable("no such service here"))
        [email] = desk.groups(["email"])
        assert (email.ready, email.oldest_s, email.bindings[0].is_bound) == (1, None, None)
        assert len(desk.groups()) == 2

    def test_ages_are_asked_for_only_where_wanted(self, desk: Desk, fake: FakeClients) -> None:
        put(fake, "email", "{}")
        fake.calls.clear()
        desk.groups(with_ages=False)
        assert "get_metric_data" not in fake.counts()
        desk.groups()
        assert fake.counts()["get_metric_data"] == 1

    def test_reading_writes_nothing(self, desk: Desk, fake: FakeClients) -> None:
        fake.calls.clear()
        desk.groups()
        assert {name.split("_")[0] for name in fake.counts()} <= {"get", "list"}


def _topic_binding(key: str) -> Any:
    from kombu_hake.amqp.bindings import Binding

    return Binding("orders", "topic", key)


class TestScan:
    def test_looking_leaves_everything_visible(self, desk: Desk, fake: FakeClients) -> None:
        for number in range(25):
            bury(fake, number)
        assert len(found(desk)) == 25
        assert len(found(desk)) == 25

    @pytest.mark.parametrize(
        ("wanted", "ids"),
        [
            (Wanted(task="rec*"), ["task-1", "task-3"]),
            (Wanted(exception="Key*"), ["task-2"]),
            (Wanted(exception="boom 3"), ["task-3"]),
            (Wanted(ids=("task-1", "event-2")), ["task-1", "task-2"]),
            (Wanted(older_than_s=15), ["task-1", "task-2"]),
            (Wanted(newer_than_s=15), ["task-3"]),
            (Wanted(task="receipt", older_than_s=15), ["task-1"]),
        ],
    )
    def test_filters(self, desk: Desk, fake: FakeClients, wanted: Wanted, ids: list[str]) -> None:
        bury(fake, 1)
        bury(fake, 2, task="thank", exception="KeyError")
        fake.clock.advance(20)
        bury(fake, 3)
        assert found(desk, wanted) == ids

    def test_what_comes_while_it_runs_is_left_alone(self, desk: Desk, fake: FakeClients) -> None:
        for number in range(12):
            bury(fake, number)
        seen = []
        for letters in operations_dlq.scan(desk, "email", Wanted()):
            seen += [letter.task_id for letter in letters]
            fake.clock.advance(1)
            bury(fake, 99)
        assert "task-99" not in seen
        assert len(seen) == 12

    def test_a_group_without_dead_letter_queue(self, desk: Desk) -> None:
        with pytest.raises(QueueNotFound, match="'stock' has no dead-letter queue"):
            list(operations_dlq.scan(desk, "stock", Wanted()))


class TestRequeue:
    def sent_back(self, fake: FakeClients) -> list[dict[str, Any]]:
        return [json.loads(text) for text in fake.queues.queue("ns__email").bodies()]

    def test_it_goes_to_the_groups_queue_as_a_first_try_with_its_history(self, desk: Desk, fake: FakeClients) -> None:
        bury(fake, 1)
        outcome = operations_dlq.requeue(desk, "email", Wanted())
        assert (outcome.matched, outcome.done, outcome.failures) == (1, 1, [])
        [message] = self.sent_back(fake)
        headers = message["headers"]
        assert (headers["id"], headers["retries"], headers["eta"]) == ("task-1", 0, None)
        assert headers[DEATHS_HEADER][0]["message"] == "boom 1"
        assert "expiration" not in message["properties"]
        info = message["properties"]["delivery_info"]
        assert (info["exchange"], info["routing_key"]) == ("hake.queue", "email")
        assert found(desk) == []
        assert fake.count("publish") == 0

    def test_what_aws_does_not_accept_stays(self, desk: Desk, fake: FakeClients) -> None:
        for number in range(3):
            bury(fake, number)
        fake.fail_entries("send_message_batch", of=lambda entry: "task-1" in entry["MessageBody"])
        outcome = operations_dlq.requeue(desk, "email", Wanted())
        assert (outcome.matched, outcome.done, len(outcome.failures)) == (3, 2, 1)
        assert found(desk) == ["task-1"]

    def test_if_aws_is_away_all_stay(self, desk: Desk, fake: FakeClients) -> None:
        for number in range(3):
            bury(fake, number)
        fake.fail("send_message_batch", BrokerUnavailable("away"))
        assert operations_dlq.requeue(desk, "email", Wanted()).done == 0
        assert len(found(desk)) == 3

    def test_it_is_sent_before_it_is_deleted(self, desk: Desk, fake: FakeClients) -> None:
        bury(fake, 1)
        operations_dlq.requeue(desk, "email", Wanted())
        calls = [name for name, _ in fake.calls if name in ("send_message_batch", "delete_message_batch")]
        assert calls == ["send_message_batch", "delete_message_batch"]

    def test_limit(self, desk: Desk, fake: FakeClients) -> None:
        for number in range(5):
            bury(fake, number)
        assert operations_dlq.requeue(desk, "email", Wanted(), limit=2).done == 2
        assert len(found(desk)) == 3

    def test_text_of_others_goes_back_as_it_was(self, desk: Desk, fake: FakeClients) -> None:
        given = {"rk": {"DataType": "String", "StringValue": "placed"}}
        aside = {"hake-death-reason": {"DataType": "String", "StringValue": "malformed"}}
        put(fake, "email-dead", "no json", {**given, **aside})
        assert operations_dlq.requeue(desk, "email", Wanted()).done == 1
        [message] = fake.queues.queue("ns__email").messages
        assert (message.body, message.attributes) == ("no json", given)

    def test_an_event_that_aws_moved_itself_keeps_its_exchange(self, desk: Desk, fake: FakeClients) -> None:
        body = {"body": "[[],{},{}]", "headers": {"task": "kombu_hake.event", "id": "e"}, "content-type": "x"}
        text = encode({**body, "properties": {}}, "orders", "placed", "tag").text
        put(fake, "email-dead", text)
        operations_dlq.requeue(desk, "email", Wanted())
        [message] = self.sent_back(fake)
        assert message["properties"]["delivery_info"]["exchange"] == "orders"

    def test_purge_removes_what_is_wanted(self, desk: Desk, fake: FakeClients) -> None:
        bury(fake, 1)
        bury(fake, 2, task="thank")
        assert operations_dlq.purge(desk, "email", Wanted(task="thank")).done == 1
        assert found(desk) == ["task-1"]
        assert self.sent_back(fake) == []


class TestCommands:
    def run(self, desk: Desk, *arguments: str, code: int = 0, **options: Any) -> str:
        from celery.bin.base import CLIContext

        context = CLIContext(desk.app, no_color=True, workdir=None)
        result = CliRunner().invoke(hake, list(arguments), obj=context, **options)
        assert result.exit_code == code, result.output
        return result.output

    def test_groups(self, desk: Desk) -> None:
        lines = self.run(desk, "groups").splitlines()
        assert lines[1].split() == ["email", "0", "0", "0", "-", "0", "email-dead", "0", "ok"]
        assert lines[2].split() == ["stock", "-", "-", "-", "-", "-", "-", "-", "missing"]
        assert ["orders", "placed", "email", "receipt", "yes"] in [line.split() for line in lines]
        assert json.loads(self.run(desk, "groups", "email", "--json"))[0]["ready"] == 0

    def test_list_and_peek(self, desk: Desk, fake: FakeClients) -> None:
        bury(fake, 1)
        assert ["email", "1", "email-dead"] in [line.split() for line in self.run(desk, "dlq", "list").splitlines()]
        assert "ValueError: boom 1" in self.run(desk, "dlq", "list", "email")
        assert json.loads(self.run(desk, "dlq", "list", "email", "--json"))[0]["event_id"] == "event-1"
        assert "task id:   task-1" in self.run(desk, "dlq", "peek", "email", "--id", "event-1")
        assert "No such dead letter." in self.run(desk, "dlq", "peek", "email", "--id", "x")

    def test_a_dry_run_moves_nothing(self, desk: Desk, fake: FakeClients) -> None:
        bury(fake, 1)
        shown = self.run(desk, "dlq", "requeue", "email", "--dry-run")
        assert "1 dead letter of group email would be sent back." in shown
        self.run(desk, "dlq", "purge", "email", "--all", "--dry-run")
        assert found(desk) == ["task-1"]

    def test_export_writes_a_line_each(self, desk: Desk, fake: FakeClients, tmp_path: Any) -> None:
        bury(fake, 1)
        bury(fake, 2)
        self.run(desk, "dlq", "export", "email", "-o", str(tmp_path / "out"))
        lines = (tmp_path / "out").read_text().splitlines()
        assert [json.loads(line)["task_id"] for line in lines] == ["task-1", "task-2"]
        assert len(found(desk)) == 2

    def test_purging_wants_to_be_told_which_and_asks(self, desk: Desk, fake: FakeClients) -> None:
        bury(fake, 1)
        self.run(desk, "dlq", "purge", "email", code=2)
        self.run(desk, "dlq", "purge", "email", "--all", input="n\n", code=1)
        assert found(desk) == ["task-1"]
        assert "1 dead letter of group email removed." in self.run(desk, "dlq", "purge", "email", "--all", "-f")

    def test_a_failure_is_told_by_the_exit_code(self, desk: Desk, fake: FakeClients) -> None:
        bury(fake, 1)
        fake.fail_entries("send_message_batch")
        assert "not sent" in self.run(desk, "dlq", "requeue", "email", code=1)

    def test_errors_are_one_line(self, desk: Desk) -> None:
        output = self.run(desk, "dlq", "list", "stock", code=1)
        assert output.strip().startswith("Error: Group 'stock' has no dead-letter queue")

    @pytest.mark.parametrize("form", ["mermaid", "dot"])
    def test_graph_shows_everything(self, desk: Desk, form: str) -> None:
        drawn = self.run(desk, "graph", "--format", form)
        for name in ("orders", "email", "stock", "receipt", "reserve", "email-dead", "paid, placed"):
            assert name in drawn

    def test_a_graph_of_odd_names_is_still_one(self) -> None:
        groups = [Group('a"<b>&', [Binding("x#y", '"', ["h<"], True)], dead_queue="d")]
        assert '"x#35;y"' in cli_graph.mermaid(groups)
        assert '\\"' in cli_graph.dot(groups)

    @pytest.mark.parametrize(
        "name",
        [
            '"]\n  click a href "javascript:x"',
            "%%{init: {'theme': 'x'}}%%",
            "`**x**`",
            "a\x1b[2J\x00\ud800b",
            '\\"',
            "&lt;#lt;",
        ],
    )
    def test_a_name_cannot_change_a_graph(self, name: str) -> None:
        groups = [Group(name, [Binding(name, name, [name], True)], dead_queue=name)]
        plain = [Group("x", [Binding("x", "x", ["x"], True)], dead_queue="x")]
        for draw in (cli_graph.mermaid, cli_graph.dot):
            lines = draw(groups).split("\n")
            assert all(line.isprintable() for line in lines)
            assert len(lines) == len(draw(plain).split("\n"))
        drawn = cli_graph.mermaid(groups)
        assert not set("`\\").intersection(drawn)
        assert "%%" not in drawn
        assert all(line.count('"') in (0, 2) for line in drawn.split("\n"))

    def test_names_cannot_forge_lines_of_a_table(self) -> None:
        from kombu_hake.cli.tables import groups_table

        shown = groups_table([Group("a\nb\x1b[2J", [Binding("t\r", "k\u202e", ["h" * 5_000], True)], state="no\n")])
        assert shown.count("\n") == 4
        assert all(line.isprintable() for line in shown.split("\n"))
        assert len(shown) < 3_000

    @pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("9s", 9), ("15m", 900), ("2h", 7200), ("1.5d", 129600)])
    def test_lengths_of_time(self, text: str, seconds: float) -> None:
        assert SPAN.convert(text, None, None) == seconds

    def test_what_is_no_length_of_time(self) -> None:
        with pytest.raises(click.BadParameter, match="90s, 15m"):
            SPAN.convert("soon", None, None)
