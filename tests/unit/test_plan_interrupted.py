"""``apply`` on an AWS that shows changes late and rations calls: killed before each write, and with a right missing.

Whatever happened, the next run finishes it: nothing declared is missing, nothing undeclared is left, and nothing of
others is touched.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from unittest import mock

import pytest
from fake_aws import QUICK, SLOW, AwsError, FakeClock, Timings
from fakes import REGION, FakeClients, connected, manual_chores
from kombu import Connection, Exchange, Queue, binding
from support.faults import FAULTS, Aws, FakeClient
from support.shops import made_app

from kombu_hake import admin
from kombu_hake.admin import Admin, Applied, Plan, Undeclared
from kombu_hake.config import Settings
from kombu_hake.topology import Topology
from kombu_hake.topology.chores import Chores

URL = f"hake://localhost:1/ns?region={REGION}"
WRITES = {
    "create_queue", "delete_queue", "set_queue_attributes", "tag_queue", "untag_queue", "create_topic", "delete_topic",
    "tag_resource", "set_subscription_attributes", "set_topic_attributes", "subscribe", "unsubscribe",
}  # fmt: skip
TOGETHER = (
    "redrive policy altered", "subscription deleted", "filter altered", "not raw", "visibility timeout altered",
    "tags removed", "tag of a binding removed", "policy removed",
)  # fmt: skip
KEEP: Callable[[list[Undeclared]], list[Undeclared]] = lambda found: []  # noqa: E731
PRUNE: Callable[[list[Undeclared]], list[Undeclared]] = lambda found: found  # noqa: E731


class Killed(BaseException):
    """As a signal that nothing handles."""


class World:
    """An AWS, and processes that operate the same app on it."""

    def __init__(self, name: str, timings: Timings) -> None:
        self.fake = FakeClients(FakeClock(1_800_000_000.0), timings=timings)
        self.aws = Aws(FakeClient(self.fake, "sqs"), FakeClient(self.fake, "sns"), "ns__", self.wait)
        self.kill_at: int | None = None
        self.writes = 0
        self._name = name
        self._chores: list[Chores] = []
        self._processes = 0
        self._call = self.fake._call
        self.fake._call = self._called  # type: ignore[method-assign]

    def _called(self, service: str, backend: Any, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        if operation in WRITES:
            self.writes += 1
            if self.writes == self.kill_at:
                raise Killed
        while True:
            try:
                return self._call(service, backend, operation, params)
            except AwsError as exc:  # as the real clients do
                if "Rate exceeded" not in exc.text:
                    raise
                self.fake.clock.advance(0.3)

    def topology(self, clients: Any, settings: Settings) -> Topology:
        self._chores.append(manual_chores(self.fake.clock))
        return Topology(clients, settings, clock=self.fake.clock, chores=self._chores[-1])

    def wait(self, seconds: float) -> None:
        while seconds > 0:
            self.fake.clock.advance(min(seconds, 5.0))
            seconds -= 5.0
            for chores in list(self._chores):
                chores.work()

    def settle(self) -> None:
        self.wait(200)
        self.fake.settle()

    @contextmanager
    def process(self) -> Iterator[Admin]:
        """A new one, which knows nothing of what others did."""
        self._processes += 1
        with admin.connect(made_app(URL, self._name, connect_timeout=5 + self._processes / 1000)) as broker:
            yield broker

    def apply(self, prune: Callable[[list[Undeclared]], list[Undeclared]] = KEEP) -> Applied:
        with self.process() as broker:
            return broker.apply(prune=prune, sleep=self.wait)

    def plan(self) -> Plan:
        with self.process() as broker:
            return broker.plan()

    def finishes(self, prune: Callable[[list[Undeclared]], list[Undeclared]] = KEEP) -> None:
        """An apply leaves nothing to do, also by what AWS shows later."""
        done = self.apply(prune)
        assert (done.failures, done.remaining) == ((), Plan())
        assert self.plan() == Plan()
        self.settle()
        assert self.plan() == Plan()

    def killed_at(self, number: int, prune: Callable[[list[Undeclared]], list[Undeclared]] = KEEP) -> bool:
        """Whether an apply was killed before this write, and not over by then."""
        self.writes, self.kill_at = 0, number
        try:
            self.apply(prune)
        except Killed:
            return True
        finally:
            self.kill_at = None
        return False


@contextmanager
def world(name: str, timings: Timings = SLOW) -> Iterator[World]:
    found = World(name, timings)
    with (
        mock.patch.object(Settings, "is_local", timings is QUICK),
        mock.patch("kombu_hake.transport.Topology", found.topology),
        mock.patch("time.sleep", found.fake.clock.advance),
        connected(found.fake),
    ):
        yield found


def kill_before_each_write(
    name: str,
    then: Callable[[World, dict[str, Any]], None],
    prepare: Callable[[World], dict[str, Any]] = lambda found: {},
    prune: Callable[[list[Undeclared]], list[Undeclared]] = KEEP,
) -> int:
    """Kill an apply before its first write, in a fresh world before its second, and so on until one is over.

    Args:
        then: Called in each world, with what *prepare* has returned for it.
    Returns:
        How many worlds there were.
    """
    number = 0
    is_over = False
    while not is_over:
        number += 1
        with world(name) as found:
            before = prepare(found)
            is_over = not found.killed_at(number, prune)
            then(found, before)
    return number


@pytest.mark.parametrize("name", ["groups", pytest.param("priorities", marks=pytest.mark.slow), "fifo"])
def test_apply_that_was_killed_is_finished_by_the_next(name: str) -> None:
    assert kill_before_each_write(name, lambda found, before: found.finishes()) > 10


def broken(found: World) -> dict[str, Any]:
    """Apply, and let others change much of it; what there was before."""
    found.apply()
    found.aws.sqs.create_queue(QueueName="ns__theirs")
    found.settle()
    before = found.aws.inventory()
    for fault in TOGETHER:
        FAULTS[fault].make(found.aws)
    found.settle()
    return before


def test_mending_that_was_killed_is_finished_by_the_next() -> None:
    def finish(found: World, before: dict[str, Any]) -> None:
        found.finishes()
        assert found.aws.inventory() == before

    assert kill_before_each_write("attributes and tags", finish, broken) > 5


def test_three_that_mend_at_once() -> None:
    with world("attributes and tags") as found:
        before = broken(found)
        threads = [Thread(target=found.apply) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found.settle()
        assert found.plan() == Plan()
        assert found.aws.inventory() == before


# --- what is no longer declared


def outdated(found: World) -> dict[str, Any]:
    """Apply, and let a worker of an older version declare more; what there was before."""
    found.apply()
    found.aws.sqs.create_queue(QueueName="ns__theirs")
    found.settle()
    before = found.aws.inventory()
    with Connection(f"{URL}&connect_timeout=9") as connection:
        channel = connection.default_channel
        both = [binding(Exchange("orders", "topic"), "gone"), binding(Exchange("old", "topic"), "a.#")]
        Queue("old", bindings=both, max_priority=2, queue_arguments={"x-dead-letter-queue": True})(channel).declare()
        for exchange in ("orders", "old"):
            Queue("email", Exchange(exchange, "topic"), "gone")(channel).declare()
    found.settle()
    return before


def test_prune_that_was_killed_is_finished_by_the_next() -> None:
    def finish(found: World, before: dict[str, Any]) -> None:
        found.wait(100)  # a comparison within a minute may show what was before
        found.finishes(PRUNE)
        assert found.aws.inventory() == before

    assert kill_before_each_write("groups", finish, outdated, PRUNE) > 15


@pytest.mark.parametrize("timings", [QUICK, SLOW], ids=["quick", "slow"])
@pytest.mark.parametrize(
    "action",
    [
        "sqs:DeleteQueue", "sqs:SetQueueAttributes", "sqs:UntagQueue", "sqs:ListQueues", "sqs:GetQueueAttributes",
        "sns:Unsubscribe", "sns:DeleteTopic", "sns:ListTopics", "sns:ListSubscriptionsByTopic",
        "sns:SetSubscriptionAttributes", "sns:GetSubscriptionAttributes",
    ],
)  # fmt: skip
def test_prune_without_a_right_says_so_and_is_finished_with_it(action: str, timings: Timings) -> None:
    with world("groups", timings) as found:
        before = outdated(found)
        found.fake.deny(action)
        done = found.apply(PRUNE)
        assert done.failures or done.remaining.unknown or done.remaining.notes
        left = found.plan().undeclared
        assert not {(one.what, one.name, one.reason) for one in done.removed} & {
            (one.what, one.name, one.reason) for one in left
        }
        found.fake.allow(action)
        found.wait(100)
        found.finishes(PRUNE)
        assert found.aws.inventory() == before


def test_subscription_that_no_binding_explains_is_listed_and_pruned_only_while_none_does() -> None:
    with world("groups") as found:
        found.apply()
        found.settle()
        found.aws.sns.subscribe(
            TopicArn=found.aws.topic("audit"), Protocol="sqs", Endpoint=found.aws.arn(found.aws.url("email"))
        )
        found.settle()
        [listed] = found.plan().undeclared
        assert (listed.what, listed.name) == ("subscription", "ns__audit -> ns__email")

        def bound_meanwhile(undeclared: list[Undeclared]) -> list[Undeclared]:
            with Connection(f"{URL}&connect_timeout=9") as connection:
                Queue("email", Exchange("audit", "topic"), "new")(connection.default_channel).declare()
            return undeclared

        done = found.apply(bound_meanwhile)
        assert done.removed == ()
        assert found.aws.subscription("audit", "email")
