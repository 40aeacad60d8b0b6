"""What operators ask and do: groups with gaps where rights are missing, and dead letters that are never lost."""

import json
from collections.abc import Iterator
from typing import Any

import click
import pytest
from celery import Celery
from click.testing import CliRunner
from fakes import FakeClients, connected

from kombu_hake.admin import Admin, Binding, Group, Selection, connect, group_names
from kombu_hake.amqp.envelope import encode
from kombu_hake.cli import graph as cli_graph
from kombu_hake.cli.main import hake
from kombu_hake.cli.tools import SPAN
from kombu_hake.exceptions import BrokerUnavailable, ConfigurationError, QueueNotFound
from kombu_hake.groups.messages import DEATHS_HEADER
from kombu_hake.groups.topic import Topic


def nothing(**payload: Any) -> None:
    """A handler."""


@pytest.fixture
def app(fake: FakeClients) -> Iterator[Celery]:
    app = Celery("shop", broker="hake://localhost:1/ns?region=eu-west-1", set_as_current=False)
    orders = Topic("orders", app=app)
    orders.on("placed", "paid", group="email", name="receipt")(nothing)
    orders.on("placed", group="stock", name="reserve")(nothing)
    with connected(fake):
        yield app


@pytest.fixture
def broker(app: Celery, fake: FakeClients) -> Iterator[Admin]:
    """Group ``email`` exists with an empty dead-letter queue, ``stock`` does not."""
    with connect(app) as broker:
        with app.connection_for_write() as connection:
            app.amqp.queues["email"](connection.default_channel).declare()
            app.amqp.queues["celery"](connection.default_channel).declare()
        fake.queues.create_queue("ns__email-dead")
        policy = {"deadLetterTargetArn": fake.queues.queue("ns__email-dead").arn, "maxReceiveCount": 20}
        fake.queues.queue("ns__email").attributes["RedrivePolicy"] = json.dumps(policy)
        yield broker


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


def found(broker: Admin, selection: Selection | None = None, limit: int | None = None) -> list[str | None]:
    return [letter.task_id for letter in broker.dead_letters("email", selection or Selection(), limit=limit)]


class TestGroups:
    def test_what_is_there_and_what_is_not(self, broker: Admin, fake: FakeClients) -> None:
        bury(fake, 1)
        put(fake, "email", "{}")
        fake.ages["ns__email"] = 90.0
        email, stock = broker.groups()
        assert (email.ready, email.in_flight, email.delayed, email.oldest_s) == (1, 0, 0, 90.0)
        assert (email.dead_queue, email.dead, email.state) == ("email-dead", 1, "ok")
        assert email.bindings == [
            Binding("orders", "paid", ["receipt"], True),
            Binding("orders", "placed", ["receipt"], True),
        ]
        assert (stock.state, stock.ready, stock.dead_queue) == ("missing", None, None)
        assert stock.bindings == [Binding("orders", "placed", ["reserve"], False)]

    def test_others_that_listen_to_the_topic_are_found(self, broker: Admin, fake: FakeClients) -> None:
        from kombu import Exchange, Queue

        with broker.app.connection_for_write() as connection:
            Queue("audit", Exchange("orders", "topic"), "#")(connection.default_channel).declare()
        [audit] = [group for group in broker.groups() if not group.is_ours]
        assert (audit.name, audit.bindings) == ("audit", [Binding("orders", "#", [], True)])

    def test_a_binding_without_handler_is_told(self, broker: Admin) -> None:
        with broker.app.connection_for_write() as connection:
            connection.default_channel.queue_bind("email", "orders", "gone")
        [item] = [item for item in broker.groups(["email"])[0].bindings if not item.handlers]
        assert (item.key, item.is_bound) == ("gone", True)

    def test_missing_rights_leave_gaps(self, broker: Admin, fake: FakeClients) -> None:
        put(fake, "email", "{}")
        fake.deny("sqs:ListQueueTags", "sns:ListSubscriptionsByTopic")
        fake.fail("get_metric_data", BrokerUnavailable("no such service here"))
        [email] = broker.groups(["email"])
        assert (email.ready, email.oldest_s, email.bindings[0].is_bound) == (1, None, None)
        assert len(broker.groups()) == 2

    def test_ages_are_asked_for_only_where_wanted(self, broker: Admin, fake: FakeClients) -> None:
        put(fake, "email", "{}")
        fake.calls.clear()
        broker.groups(with_ages=False)
        assert "get_metric_data" not in fake.counts()
        broker.groups()
        assert fake.counts()["get_metric_data"] == 1

    def test_reading_writes_nothing(self, broker: Admin, fake: FakeClients) -> None:
        fake.calls.clear()
        broker.groups()
        assert {name.split("_")[0] for name in fake.counts()} <= {"get", "list"}


class TestScan:
    def test_looking_leaves_everything_visible(self, broker: Admin, fake: FakeClients) -> None:
        for number in range(25):
            bury(fake, number)
        assert len(found(broker)) == 25
        assert len(found(broker)) == 25

    @pytest.mark.parametrize(
        ("selection", "ids"),
        [
            (Selection(task="rec*"), ["task-1", "task-3"]),
            (Selection(exception="Key*"), ["task-2"]),
            (Selection(exception="boom 3"), ["task-3"]),
            (Selection(ids=("task-1", "event-2")), ["task-1", "task-2"]),
            (Selection(older_than_s=15), ["task-1", "task-2"]),
            (Selection(newer_than_s=15), ["task-3"]),
            (Selection(task="receipt", older_than_s=15), ["task-1"]),
        ],
    )
    def test_filters(self, broker: Admin, fake: FakeClients, selection: Selection, ids: list[str]) -> None:
        bury(fake, 1)
        bury(fake, 2, task="thank", exception="KeyError")
        fake.clock.advance(20)
        bury(fake, 3)
        assert found(broker, selection) == ids

    def test_what_comes_while_it_runs_is_left_alone(self, broker: Admin, fake: FakeClients) -> None:
        for number in range(12):
            bury(fake, number)
        seen = []
        for letter in broker.dead_letters("email"):
            seen.append(letter.task_id)
            fake.clock.advance(1)
            bury(fake, 99)
        assert "task-99" not in seen
        assert len(seen) == 12

    def test_a_group_without_dead_letter_queue(self, broker: Admin) -> None:
        with pytest.raises(QueueNotFound, match="'stock' has no dead-letter queue"):
            list(broker.dead_letters("stock"))


class TestRequeue:
    def sent_back(self, fake: FakeClients) -> list[dict[str, Any]]:
        return [json.loads(text) for text in fake.queues.queue("ns__email").bodies()]

    def test_it_goes_to_the_groups_queue_as_a_first_try_with_its_history(
        self, broker: Admin, fake: FakeClients
    ) -> None:
        bury(fake, 1)
        outcome = broker.requeue("email")
        assert (outcome.matched, outcome.done, outcome.failures) == (1, 1, [])
        [message] = self.sent_back(fake)
        headers = message["headers"]
        assert (headers["id"], headers["retries"], headers["eta"]) == ("task-1", 0, None)
        assert headers[DEATHS_HEADER][0]["message"] == "boom 1"
        assert "expiration" not in message["properties"]
        info = message["properties"]["delivery_info"]
        assert (info["exchange"], info["routing_key"]) == ("hake.queue", "email")
        assert found(broker) == []
        assert fake.count("publish") == 0

    def test_what_aws_does_not_accept_stays(self, broker: Admin, fake: FakeClients) -> None:
        for number in range(3):
            bury(fake, number)
        fake.fail_entries("send_message_batch", of=lambda entry: "task-1" in entry["MessageBody"])
        outcome = broker.requeue("email")
        assert (outcome.matched, outcome.done, len(outcome.failures)) == (3, 2, 1)
        assert found(broker) == ["task-1"]

    def test_if_aws_is_away_all_stay(self, broker: Admin, fake: FakeClients) -> None:
        for number in range(3):
            bury(fake, number)
        fake.fail("send_message_batch", BrokerUnavailable("away"))
        assert broker.requeue("email").done == 0
        assert len(found(broker)) == 3

    def test_it_is_sent_before_it_is_deleted(self, broker: Admin, fake: FakeClients) -> None:
        bury(fake, 1)
        broker.requeue("email")
        calls = [name for name, _ in fake.calls if name in ("send_message_batch", "delete_message_batch")]
        assert calls == ["send_message_batch", "delete_message_batch"]

    def test_limit(self, broker: Admin, fake: FakeClients) -> None:
        for number in range(5):
            bury(fake, number)
        assert broker.requeue("email", limit=2).done == 2
        assert len(found(broker)) == 3

    def test_text_of_others_goes_back_as_it_was(self, broker: Admin, fake: FakeClients) -> None:
        given = {"rk": {"DataType": "String", "StringValue": "placed"}}
        aside = {"hake-death-reason": {"DataType": "String", "StringValue": "malformed"}}
        put(fake, "email-dead", "no json", {**given, **aside})
        assert broker.requeue("email").done == 1
        [message] = fake.queues.queue("ns__email").messages
        assert (message.body, message.attributes) == ("no json", given)

    def test_an_event_that_aws_moved_itself_keeps_its_exchange(self, broker: Admin, fake: FakeClients) -> None:
        body = {"body": "[[],{},{}]", "headers": {"task": "kombu_hake.event", "id": "e"}, "content-type": "x"}
        text = encode({**body, "properties": {}}, "orders", "placed", "tag").text
        put(fake, "email-dead", text)
        broker.requeue("email")
        [message] = self.sent_back(fake)
        assert message["properties"]["delivery_info"]["exchange"] == "orders"

    def test_purge_removes_what_is_wanted(self, broker: Admin, fake: FakeClients) -> None:
        bury(fake, 1)
        bury(fake, 2, task="thank")
        assert broker.purge_dead_letters("email", Selection(task="thank")).done == 1
        assert found(broker) == ["task-1"]
        assert self.sent_back(fake) == []

    def test_an_unfinished_iteration_hides_nothing_once_the_connection_is_closed(
        self, app: Celery, broker: Admin, fake: FakeClients
    ) -> None:
        for number in range(3):
            bury(fake, number)
        with connect(app) as second:
            letters = second.dead_letters("email")
            next(letters)
            assert fake.queues.queue("ns__email-dead").messages[0].is_in_flight(fake.clock())
        assert len(found(broker)) == 3


class TestQueues:
    def test_group_names_need_no_connection(self, app: Celery, fake: FakeClients) -> None:
        assert group_names(app) == ["email", "stock"]
        assert fake.calls == []

    def test_an_app_of_another_broker_is_refused(self) -> None:
        app = Celery("shop", broker="memory://", set_as_current=False)
        with pytest.raises(ConfigurationError, match="memory://"), connect(app):
            pass

    def test_purging_a_queue_leaves_the_others(self, broker: Admin, fake: FakeClients) -> None:
        bury(fake, 1)
        put(fake, "email", "{}")
        put(fake, "celery", "{}")
        broker.purge_queue("email")
        assert fake.queues.queue("ns__email").messages == []
        assert len(fake.queues.queue("ns__celery").messages) == 1
        assert found(broker) == ["task-1"]

    def test_purging_a_queue_that_is_missing(self, broker: Admin) -> None:
        with pytest.raises(QueueNotFound):
            broker.purge_queue("stock")

    def test_deleting_the_namespace_leaves_nothing_of_it_and_all_others(self, broker: Admin, fake: FakeClients) -> None:
        for name in ("ns2__email", "email", "other"):
            fake.queues.create_queue(name)
        fake.topics.create_topic("ns2__orders")
        deleted = broker.delete_namespace("ns")
        assert {"ns__email", "ns__email-dead", "ns__orders"} <= set(deleted)
        assert set(fake.queues.by_name) == {"ns2__email", "email", "other"}
        assert set(fake.topics.by_name) == {"ns2__orders"}

    @pytest.mark.parametrize("name", ["", "n", "other", "ns__email"])
    def test_another_namespace_is_not_deleted(self, broker: Admin, fake: FakeClients, name: str) -> None:
        with pytest.raises(ConfigurationError, match="This app's namespace is 'ns'"):
            broker.delete_namespace(name)
        assert fake.count("delete_queue", "delete_topic") == 0

    def test_predefined_queues_stay(self, app: Celery, fake: FakeClients) -> None:
        url = fake.queues.create_queue("ns__kept")["QueueUrl"]
        app.conf.broker_transport_options = {"predefined_queues": {"kept": url}}
        with connect(app) as broker:
            broker.delete_namespace("ns")
        assert set(fake.queues.by_name) == {"ns__kept"}

    def test_what_aws_lists_for_a_while_after_its_deletion_does_not_stop_it(
        self, broker: Admin, fake: FakeClients
    ) -> None:
        url = fake.queues.create_queue("ns__gone")["QueueUrl"]
        arn = fake.topics.create_topic("ns__gone")["TopicArn"]
        fake.topics.create_topic("ns__last")
        # Both have just been listed when the first of the others is removed.
        fake.before("delete_queue", lambda: fake.queues.delete_queue(url) and None)
        fake.before("list_subscriptions_by_topic", lambda: fake.topics.delete_topic(arn) and None)
        deleted = broker.delete_namespace("ns")
        assert "ns__gone" not in deleted
        assert {"ns__email", "ns__orders", "ns__last"} <= set(deleted)
        assert (fake.queues.by_name, fake.topics.by_name) == ({}, {})


class TestCommands:
    def run(self, broker: Admin, *arguments: str, code: int = 0, **options: Any) -> str:
        from celery.bin.base import CLIContext

        context = CLIContext(broker.app, no_color=True, workdir=None)
        result = CliRunner().invoke(hake, list(arguments), obj=context, **options)
        assert result.exit_code == code, result.output
        return result.output

    def test_groups(self, broker: Admin) -> None:
        lines = self.run(broker, "groups").splitlines()
        assert lines[1].split() == ["email", "0", "0", "0", "-", "0", "email-dead", "0", "ok"]
        assert lines[2].split() == ["stock", "-", "-", "-", "-", "-", "-", "-", "missing"]
        assert ["orders", "placed", "email", "receipt", "yes"] in [line.split() for line in lines]
        assert json.loads(self.run(broker, "groups", "email", "--json"))[0]["ready"] == 0

    def test_groups_of_an_app_without_groups(self, fake: FakeClients) -> None:
        app = Celery("plain", broker="hake://localhost:1/ns?region=eu-west-1", set_as_current=False)
        with connected(fake), connect(app) as broker:
            assert "'hake queues' shows the other queues" in self.run(broker, "groups")

    def test_wrong_arguments_are_no_failed_check(self, broker: Admin) -> None:
        self.run(broker, "queues", "--max-ready", "many", code=1)
        self.run(broker, "nothing", code=1)

    def test_list_and_peek(self, broker: Admin, fake: FakeClients) -> None:
        bury(fake, 1)
        assert ["email", "1", "email-dead"] in [line.split() for line in self.run(broker, "dlq", "list").splitlines()]
        assert "ValueError: boom 1" in self.run(broker, "dlq", "list", "email")
        assert json.loads(self.run(broker, "dlq", "list", "email", "--json"))[0]["event_id"] == "event-1"
        assert "task id:   task-1" in self.run(broker, "dlq", "peek", "email", "--id", "event-1")
        assert "No such dead letter." in self.run(broker, "dlq", "peek", "email", "--id", "x")

    def test_a_dry_run_moves_nothing(self, broker: Admin, fake: FakeClients) -> None:
        bury(fake, 1)
        shown = self.run(broker, "dlq", "requeue", "email", "--dry-run")
        assert "1 dead letter of group email would be sent back." in shown
        self.run(broker, "dlq", "purge", "email", "--all", "--dry-run")
        assert found(broker) == ["task-1"]

    def test_export_writes_a_line_each(self, broker: Admin, fake: FakeClients, tmp_path: Any) -> None:
        bury(fake, 1)
        bury(fake, 2)
        self.run(broker, "dlq", "export", "email", "-o", str(tmp_path / "out"))
        lines = (tmp_path / "out").read_text().splitlines()
        assert [json.loads(line)["task_id"] for line in lines] == ["task-1", "task-2"]
        assert len(found(broker)) == 2

    def test_purging_wants_to_be_told_which_and_asks(self, broker: Admin, fake: FakeClients) -> None:
        bury(fake, 1)
        self.run(broker, "dlq", "purge", "email", code=1)
        self.run(broker, "dlq", "purge", "email", "--all", input="n\n", code=1)
        assert found(broker) == ["task-1"]
        assert "1 dead letter of group email removed." in self.run(broker, "dlq", "purge", "email", "--all", "-f")

    def test_a_failure_is_told_by_the_exit_code(self, broker: Admin, fake: FakeClients) -> None:
        bury(fake, 1)
        fake.fail_entries("send_message_batch")
        assert "not sent" in self.run(broker, "dlq", "requeue", "email", code=1)

    def test_errors_are_one_line(self, broker: Admin) -> None:
        output = self.run(broker, "dlq", "list", "stock", code=1)
        assert output.strip().startswith("Error: Group 'stock' has no dead-letter queue")

    @pytest.mark.parametrize("form", ["mermaid", "dot"])
    def test_graph_shows_everything(self, broker: Admin, form: str) -> None:
        drawn = self.run(broker, "graph", "--format", form)
        for name in ("orders", "email", "stock", "receipt", "reserve", "email-dead", "paid, placed"):
            assert name in drawn

    def test_a_graph_of_odd_names_is_still_one(self) -> None:
        groups = [Group('a"<b>&', bindings=[Binding("x#y", '"', ["h<"], True)], dead_queue="d")]
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
        groups = [Group(name, bindings=[Binding(name, name, [name], True)], dead_queue=name)]
        plain = [Group("x", bindings=[Binding("x", "x", ["x"], True)], dead_queue="x")]
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

        shown = groups_table([Group("a\nb\x1b[2J", "no\n", bindings=[Binding("t\r", "k\u202e", ["h" * 5_000], True)])])
        assert shown.count("\n") == 4
        assert all(line.isprintable() for line in shown.split("\n"))
        assert len(shown) < 3_000

    @pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("9s", 9), ("15m", 900), ("2h", 7200), ("1.5d", 129600)])
    def test_lengths_of_time(self, text: str, seconds: float) -> None:
        assert SPAN.convert(text, None, None) == seconds

    def test_what_is_no_length_of_time(self) -> None:
        with pytest.raises(click.BadParameter, match="90s, 15m"):
            SPAN.convert("soon", None, None)
