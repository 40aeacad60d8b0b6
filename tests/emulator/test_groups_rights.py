"""The commands with the rights of somebody who may only look."""

import json
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner
from support.emulators import Emulator
from support.rights import as_user

from kombu_hake.cli.main import hake
from kombu_hake.groups.topic import Topic

pytestmark = pytest.mark.ministack
#: A part of AWS's own AmazonSQSReadOnlyAccess and AmazonSNSReadOnlyAccess.
LOOK = (
    "sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ListQueueTags", "sns:ListSubscriptionsByTopic",
    "sns:GetTopicAttributes",
)  # fmt: skip


def nothing(**payload: Any) -> None:
    """A handler."""


def make_app(aws: Emulator) -> Celery:
    app = Celery("shop", broker=aws.url(), set_as_current=False)
    Topic("orders", app=app).on("placed", group="email", name="receipt")(nothing)
    app.finalize()
    return app


def run(app: Celery, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(hake, list(arguments), obj=CLIContext(app, no_color=True, workdir=None))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def aws(ministack: Emulator) -> Emulator:
    """With the group ``email`` and its dead-letter queue."""
    root = ministack.in_namespace(f"g{uuid4().hex[:8]}")
    app = make_app(root)
    with app.connection_for_write() as connection:
        app.amqp.queues["email"](connection.default_channel).declare()
    return root


def test_groups_graph_and_counts_need_rights_to_look_alone(aws: Emulator) -> None:
    app = make_app(as_user(aws, LOOK))
    [email] = json.loads(run(app, "groups", "--json"))
    assert (email["state"], email["ready"], email["dead_queue"], email["dead"]) == ("ok", 0, "email-dead", 0)
    assert email["bindings"] == [{"topic": "orders", "key": "placed", "handlers": ["receipt"], "is_bound": True}]
    assert "email-dead" in run(app, "graph")
    assert "email-dead" in run(app, "dlq", "list")


def test_without_the_right_to_receive_the_letters_themselves_are_not_shown(aws: Emulator) -> None:
    output = run(make_app(as_user(aws, LOOK)), "dlq", "list", "email", code=1)
    assert "sqs:ReceiveMessage" in output


def test_with_no_rights_at_all_groups_says_so(aws: Emulator) -> None:
    [email] = json.loads(run(make_app(as_user(aws, ["sqs:ListQueues"])), "groups", "--json"))
    assert email["state"].startswith("unreadable") or email["state"] == "missing"
