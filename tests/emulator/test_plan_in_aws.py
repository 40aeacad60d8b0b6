"""``plan`` and ``apply`` on emulators, and on an AWS that shows changes a minute late. The cases are in unit tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from fake_aws import SLOW
from kombu import Connection, Exchange, Queue
from support.emulators import Emulator
from support.faults import FAULTS, Aws
from support.shops import made_app
from support.standin import StandIn

from kombu_hake import admin
from kombu_hake.admin import Admin, Plan

#: Those that leave nothing of another one.
TOGETHER = (
    "redrive policy altered", "dead-letter queue deleted", "undelivered queue deleted", "topic deleted",
    "subscription deleted", "filter altered", "not raw", "redrive policy of a subscription removed",
    "visibility timeout altered", "wait time altered", "attribute by option altered", "key altered", "tags removed",
    "tag altered", "tag of a binding removed", "tags of a topic removed", "policy removed",
)  # fmt: skip


def never(seconds: float) -> None:
    pytest.fail(f"waits {seconds} s")


@contextmanager
def connected(place: "Emulator | StandIn", namespace: str, name: str) -> Iterator[tuple[Admin, Aws]]:
    with admin.connect(made_app(place.url(namespace), name)) as broker:
        yield broker, Aws(place.client("sqs"), place.client("sns"), f"{namespace}__")


@pytest.mark.parametrize("name", ["attributes and tags", "priorities", "fifo"])
def test_from_nothing_and_with_everything_changed(moto: Emulator, name: str) -> None:
    with connected(moto, f"p{uuid4().hex[:8]}", name) as (broker, aws):
        assert broker.plan().changes
        assert not broker.apply(sleep=never).failures
        assert broker.plan() == Plan()
        if name != "attributes and tags":
            return
        before = aws.inventory()
        for fault in TOGETHER:
            FAULTS[fault].make(aws)
        shown = [f"{one.action} {one.what} {one.name}:" for one in broker.plan().changes]
        for fault in TOGETHER:
            for line in FAULTS[fault].lines:
                assert line.partition(":")[0].replace("__", aws.prefix) + ":" in shown
        done = broker.apply(sleep=never)
        assert (done.failures, done.remaining) == ((), Plan())
        assert broker.plan() == Plan()
        assert aws.inventory() == before


def test_on_an_emulator_that_enforces_policies(ministack: Emulator) -> None:
    with connected(ministack, f"p{uuid4().hex[:8]}", "groups") as (broker, aws):
        assert not broker.apply(sleep=never).failures
        assert broker.plan() == Plan()
        aws.sns.unsubscribe(SubscriptionArn=aws.subscription("orders", "email"))
        aws.set(aws.url("email"), VisibilityTimeout="60")
        assert [one.what for one in broker.plan().changes] == ["subscription", "attribute"]
        assert broker.apply(sleep=never).remaining == Plan()
        assert broker.plan() == Plan()


@pytest.fixture
def slow() -> Iterator[StandIn]:
    with StandIn(SLOW) as stand_in, stand_in.taken_for_aws():
        yield stand_in


def test_on_an_aws_that_shows_changes_late(slow: StandIn) -> None:
    """What another process plans after ``apply`` is nothing, though AWS still showed older states within it."""
    waited: list[str] = []

    def apply(**options: Any) -> None:
        with admin.connect(made_app(slow.url(), "groups")) as broker:
            done = broker.apply(sleep=slow.pass_time, on_progress=waited.append, **options)
            assert (done.failures, done.remaining) == ((), Plan())
        with admin.connect(made_app(slow.url(), "groups")) as broker:
            assert broker.plan() == Plan()

    apply()
    slow.pass_time(130)
    aws = Aws(slow.client("sqs"), slow.client("sns"), "standin__", slow.pass_time)
    aws.subscribe("FilterPolicy", '{"rk": ["other"]}')
    aws.set(aws.url("stock"), VisibilityTimeout="60", Policy="")
    aws.sqs.untag_queue(QueueUrl=aws.url("stock"), TagKeys=aws.binding_tags("stock"))
    slow.pass_time(130)
    waited.clear()
    apply()
    assert any("AWS does not show" in line for line in waited)
    slow.pass_time(130)
    with Connection(slow.url()) as connection:
        Queue("email", Exchange("orders", "topic"), "gone")(connection.default_channel).declare()
    slow.pass_time(130)
    apply(prune=lambda found: found)
    slow.pass_time(130)
    subscribed = slow.fake.topics.by_name["standin__orders"].subscriptions.values()
    filters = [one.attributes["FilterPolicy"] for one in subscribed]
    assert "gone" not in str(filters)
    written = slow.fake.counts()
    slow.pass_time(130)
    apply()
    after = slow.fake.counts()
    for operation in ("set_queue_attributes", "set_subscription_attributes", "tag_queue", "create_queue"):
        assert after[operation] == written[operation]
