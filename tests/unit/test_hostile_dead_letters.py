"""Any dead letter can be listed, looked at, sent back and removed, whatever its body and its attributes are."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner
from fakes import FakeClients, connected
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.admin import Admin, Selection, connect
from kombu_hake.admin.dead_letters import read, revived
from kombu_hake.cli.main import hake
from kombu_hake.cli.tables import letter_sheet, letters_table
from kombu_hake.groups.messages import DEATHS_HEADER
from kombu_hake.groups.topic import Topic

ESCAPES = "a\nfake line\r\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u200b\u2028\ud800"


def nested(depth: int, inner: Any = None) -> Any:
    value = inner
    for _ in range(depth):
        value = [value]
    return value


def envelope(body: Any = "[[], {}, {}]", properties: Any = None, **headers: Any) -> str:
    return json.dumps(
        {
            "body": body,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {"delivery_tag": "x", "body_encoding": "utf-8", **(properties or {})},
        }
    )


def text(value: str) -> dict[str, Any]:
    return {"DataType": "String", "StringValue": value}


def binary(value: Any) -> dict[str, Any]:
    return {"DataType": "Binary.x", "BinaryValue": value}


TASK = {"task": "t", "id": "1"}
#: Bodies that are not well-formed tasks: they are sent back byte for byte.
HOSTILE = {
    "a task of no text": envelope(task={"a": 1}, id=5),
    "lists for names": envelope(task=["t"], id=[[]]),
    "null names": envelope(task=None, id=None),
    "deep names": envelope(task=nested(300), id=nested(300)),
    "an event of no text": envelope(hake_event={"id": {"a": []}, "topic": 5, "key": None}, **TASK | {"id": 7}),
    "not JSON": "{",
    "noise": "\u0080\u00ff\U0010fffd",
    "no envelope": json.dumps({"body": 1, "properties": None}),
    "headers of no mapping": json.dumps({"body": "", "headers": [1], "properties": {"delivery_tag": 1}}),
    "broken base64": envelope("%%%", {"body_encoding": "base64"}),
    "body is an object": envelope({"a": nested(50)}),
    "escape sequences": envelope(task={ESCAPES: 1}, id=ESCAPES),
    "bare text": "a\nfake line\r\x9b31m\u202e\u200b\u2028",  # what SQS accepts of them
    "deep": "[" * 5_000 + "]" * 5_000,
    "typed": envelope(task={"__type__": "uuid", "__value__": "x"}, id={"__type__": "decimal", "__value__": "1"}),
}
#: What deaths may be in the header of a well-formed task.
DEATHS = {
    "no list": "x",
    "list of no mappings": [1, None, "x", []],
    "empty": [{}],
    "odd types": [{"exception": {"a": 1}, "message": ["x"], "traceback": 5, "time": {}, "reason": [], "retries": "x"}],
    "odd worker": [{"worker": {"a": 1}, "retries": {"b": 2}, "exception": None, "message": None}],
    "huge": [{"exception": "E", "message": "m" * 100, "traceback": "t" * 1_000}] * 500,
    "deep": [{"message": nested(300), "traceback": nested(300)}],
    "escape sequences": [dict.fromkeys(("exception", "message", "traceback", "time", "reason", "worker"), ESCAPES)],
    "typed": [{"time": {"__type__": "datetime", "__value__": "2020-01-01T00:00:00"}}],
    "not finite": [{"message": float("nan"), "time": float("inf")}],
}
ATTRIBUTES: dict[str, Any] = {
    "hake-death-reason": binary(b"\xff"),
    "hake-death-time": {"DataType": "Number", "StringValue": "1"},
    "rk": text("a.b"),
    "data": binary(b"\x00\xff"),
    "count": {"DataType": "Number.int", "StringValue": "5"},
}


def nothing(**payload: Any) -> None:
    """A handler."""


@pytest.fixture
def broker(fake: FakeClients) -> Iterator[Admin]:
    app = Celery("shop", broker="hake://localhost:1/ns?region=eu-west-1", set_as_current=False)
    Topic("orders", app=app).on("placed", group="email", name="receipt")(nothing)
    with connected(fake), connect(app) as broker:
        with app.connection_for_write() as connection:
            app.amqp.queues["email"](connection.default_channel).declare()
        fake.queues.create_queue("ns__email-dead")
        policy = {"deadLetterTargetArn": fake.queues.queue("ns__email-dead").arn, "maxReceiveCount": 20}
        fake.queues.queue("ns__email").attributes["RedrivePolicy"] = json.dumps(policy)
        yield broker


def run(broker: Admin, *arguments: str) -> str:
    from celery.bin.base import CLIContext

    result = CliRunner().invoke(hake, list(arguments), obj=CLIContext(broker.app, no_color=True, workdir=None))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def put(fake: FakeClients, body: str, attributes: Any = None) -> None:
    url = fake.sqs("get_queue_url", QueueName="ns__email-dead")["QueueUrl"]
    fake.sqs("send_message", QueueUrl=url, MessageBody=body, MessageAttributes=attributes)


def stored(fake: FakeClients, queue: str) -> list[tuple[str, dict[str, Any]]]:
    return [(message.body, message.attributes or {}) for message in fake.queues.queue(f"ns__{queue}").messages]


def is_plain(shown: str) -> bool:
    """Only newlines that the command wrote itself, or that are indented: nothing else that a terminal acts on."""
    return all(line.isprintable() for line in shown.split("\n")) and "\nfake line" not in shown


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_dead_letter_is_shown_and_sent_back_byte_for_byte(
    kind: str, broker: Admin, fake: FakeClients, tmp_path: Path
) -> None:
    body = HOSTILE[kind]
    put(fake, body, ATTRIBUTES)
    for arguments in (["list", "email"], ["peek", "email"], ["requeue", "email", "--dry-run"]):
        shown = run(broker, "dlq", *arguments)
        assert is_plain(shown)
        assert "No" not in shown.split("\n")[0]
    [found] = json.loads(run(broker, "dlq", "list", "email", "--json"))
    assert found["body"] == body
    assert found["attributes"]["data"] == base64.b64encode(b"\x00\xff").decode()
    run(broker, "dlq", "export", "email", "-o", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out").read_text()) | {"age_s": 0} == found | {"age_s": 0}
    assert "1 dead letter" in run(broker, "dlq", "requeue", "email", "--id", found["message_id"])
    assert stored(fake, "email-dead") == []
    kept = {name: item for name, item in ATTRIBUTES.items() if not name.startswith("hake-death-")}
    assert stored(fake, "email") == [(body, kept)]


@pytest.mark.parametrize("kind", DEATHS)
def test_any_history_is_shown_and_survives_the_way_back(kind: str, broker: Admin, fake: FakeClients) -> None:
    put(fake, envelope(**TASK, **{DEATHS_HEADER: DEATHS[kind]}))
    for arguments in (["list", "email"], ["peek", "email"], ["list", "email", "--exception", "V*"]):
        assert is_plain(run(broker, "dlq", *arguments))
    assert len(json.loads(run(broker, "dlq", "list", "email", "--json"))) == 1
    # A message nested deeper than any of ours counts as text, which has no task's name.
    run(broker, "dlq", "requeue", "email", *(() if kind == "deep" else ("--task", "t")))
    [(body, _)] = stored(fake, "email")
    assert json.dumps(json.loads(body)["headers"][DEATHS_HEADER]) == json.dumps(DEATHS[kind])


def test_hostile_dead_letters_are_removed(broker: Admin, fake: FakeClients) -> None:
    for body in HOSTILE.values():
        put(fake, body, ATTRIBUTES)
    assert f"{len(HOSTILE)} dead letters" in run(broker, "dlq", "purge", "email", "--all", "-f")
    assert stored(fake, "email-dead") == []


def test_a_huge_history_is_cut_where_it_is_shown_only(broker: Admin, fake: FakeClients) -> None:
    put(fake, envelope(**TASK, **{DEATHS_HEADER: DEATHS["huge"]}))
    shown = run(broker, "dlq", "peek", "email")
    assert "death 1 of 500" in shown
    assert "death 21 of" not in shown
    assert "… and 480 more" in shown
    assert len(json.loads(run(broker, "dlq", "list", "email", "--json"))[0]["deaths"]) == 500


def test_what_aws_says_of_a_failure_is_one_line(
    broker: Admin, fake: FakeClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(fake, "x")
    failed = [{"Id": "0", "Code": "X", "Message": ESCAPES}]
    sqs = fake.sqs

    def refuse(operation: str, **params: Any) -> Any:
        return {"Failed": failed} if operation == "send_message_batch" else sqs(operation, **params)

    monkeypatch.setattr(fake, "sqs", refuse)
    outcome = broker.requeue("email")
    assert len(outcome.failures) == 1
    assert outcome.failures[0].isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
deaths = st.dictionaries(
    st.sampled_from(["exception", "message", "traceback", "time", "reason", "worker"]), json_values
)
headers = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("task", "id", "argsrepr", "kwargsrepr", "retries", "eta", "hake_event"), json_values),
        DEATHS_HEADER: json_values | st.lists(deaths | json_values, max_size=3),
    },
)
envelopes = st.fixed_dictionaries(
    {
        "body": json_values,
        "properties": st.dictionaries(st.sampled_from(["delivery_tag", "body_encoding"]), json_values),
    },
    optional={"headers": headers | json_values, "content-type": json_values, "content-encoding": json_values},
)
bodies = st.one_of(
    envelopes.map(json.dumps),
    envelopes.map(lambda found: base64.b64encode(json.dumps(found).encode()).decode()),
    json_values.map(json.dumps),
    st.text(),
)
attributes = st.dictionaries(
    st.sampled_from(["hake-death-reason", "hake-death-time", "rk", "other"]),
    st.builds(text, st.text()) | st.builds(binary, st.binary() | st.just("AP8=")),
)


@given(body=bodies, attributes=attributes, is_fifo=st.booleans(), stamp=st.sampled_from(["1", "", "x", "9" * 30]))
def test_any_dead_letter_can_be_shown_and_sent_back(
    body: str, attributes: dict[str, Any], is_fifo: bool, stamp: str
) -> None:
    raw = {
        "Body": body,
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Attributes": {"SentTimestamp": stamp},
        "MessageAttributes": attributes,
    }
    letter = read("email", raw, 1_000.0)
    for conditions in ({"task": "t*", "exception": "*E*", "ids": ("1",)}, {"exception": "x"}, {"older_than_s": 1.0}):
        Selection(**conditions).matches(letter)
    for shown in (letters_table([letter]), letter_sheet(letter)):
        assert all(line.isprintable() for line in shown.split("\n"))
    assert letters_table([letter]).count("\n") == 1
    assert json.loads(json.dumps(letter.as_dict(), indent=2, allow_nan=False))["body"] == body
    entry = revived(letter, is_fifo=is_fifo)
    is_task = isinstance(letter.headers.get("task"), str) and isinstance(letter.headers.get("id"), str)
    if not is_task:
        assert entry["MessageBody"] == body
