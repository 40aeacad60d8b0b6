"""Whether anybody listens to events: seldom asked, and soon known when somebody begins to."""

from collections.abc import Callable

import pytest
from fakes import AdviceAtOnce, FakeClock

from kombu_hake.publish.listeners import HEARTBEAT_KEY, Listeners

HEARTBEAT_S = 2


class Bench:
    """Listeners whose count is told, and a worker that has heartbeats to send."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.count: int | None = 0
        self.asked = 0
        self.listeners = Listeners(self._ask, AdviceAtOnce.ask, self.clock)

    def _ask(self, exchange: str) -> int | None:
        self.asked += 1
        return self.count

    def heartbeat(self) -> bool:
        return self.listeners.is_heard("celeryev", HEARTBEAT_KEY)

    def beat(self, seconds: float) -> int:
        """Heartbeats for so long; how often was asked."""
        before = self.asked
        for _ in range(int(seconds / HEARTBEAT_S)):
            self.clock.advance(HEARTBEAT_S)
            self.heartbeat()
        return self.asked - before


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_idle_worker_that_nobody_listens_to_asks_six_times_an_hour(bench: Bench) -> None:
    assert not bench.heartbeat()
    assert bench.asked == 1
    assert bench.beat(1_200) <= 9  # soon at first, because workers and monitors are often started together
    assert bench.beat(3_600) == 6


def test_a_worker_with_task_events_asks_once_a_minute(bench: Bench) -> None:
    bench.beat(3_600)
    before = bench.asked
    for _ in range(3_600):
        bench.clock.advance(1)
        bench.listeners.is_heard("celeryev", "task.multi")
    assert 55 <= bench.asked - before <= 60


def test_somebody_is_believed_for_a_minute(bench: Bench) -> None:
    bench.count = 1
    assert bench.beat(3_600) == 60
    bench.count = 0
    bench.beat(62)
    assert not bench.heartbeat()


def test_a_command_ends_the_belief_in_nobody(bench: Bench) -> None:
    bench.beat(3_600)
    bench.count = 1
    bench.listeners.command_came()
    bench.clock.advance(HEARTBEAT_S)
    assert bench.heartbeat()


def test_after_a_command_that_came_too_early_it_is_asked_again_soon(bench: Bench) -> None:
    """AWS may show a new subscription late."""
    bench.beat(3_600)
    bench.listeners.command_came()
    bench.beat(HEARTBEAT_S)
    assert not bench.heartbeat()
    bench.count = 1
    bench.beat(6)
    assert bench.heartbeat()


def test_commands_in_a_row_do_not_each_ask(bench: Bench) -> None:
    bench.heartbeat()
    before = bench.asked
    for _ in range(100):
        bench.clock.advance(0.1)
        bench.listeners.command_came()
        bench.heartbeat()
    assert bench.asked - before <= 11


def test_where_the_count_may_not_be_read_there_is_somebody(bench: Bench) -> None:
    bench.count = None
    assert bench.heartbeat()


def test_what_aws_says_to_a_publish_is_believed(bench: Bench) -> None:
    bench.count = 1
    assert bench.heartbeat()
    bench.listeners.none_listens("celeryev")
    assert not bench.heartbeat()
    assert bench.asked == 1


def test_events_are_sent_until_the_count_is_known() -> None:
    questions: list[Callable[[], None]] = []
    clock = FakeClock()
    listeners = Listeners(lambda exchange: 0, lambda key, question: questions.append(question), clock)
    assert listeners.is_heard("celeryev", HEARTBEAT_KEY)
    questions.pop()()
    assert not listeners.is_heard("celeryev", HEARTBEAT_KEY)
    clock.advance(200)
    assert not listeners.is_heard("celeryev", HEARTBEAT_KEY)
    assert len(questions) == 1


def silence(bench: Bench, seconds: int) -> int:
    """Heartbeats for so long; the longest time without one that was sent, seconds."""
    longest = since = 0
    for _ in range(seconds // HEARTBEAT_S):
        bench.clock.advance(HEARTBEAT_S)
        since = 0 if bench.heartbeat() else since + HEARTBEAT_S
        longest = max(longest, since)
    return longest


def test_a_monitor_that_starts_with_a_worker_hears_it_though_counts_and_commands_are_late(bench: Bench) -> None:
    bench.heartbeat()
    assert silence(bench, 118) <= 6
    assert bench.asked <= 7
    assert silence(bench, 600) >= 100


def test_after_a_command_a_monitor_hears_a_worker_though_the_count_is_late(bench: Bench) -> None:
    bench.beat(3_600)
    before = bench.asked
    bench.listeners.command_came()
    assert silence(bench, 118) <= 6
    assert bench.asked - before <= 8


def test_a_topic_that_does_not_exist_yet_is_tried_every_few_seconds_at_the_start(bench: Bench) -> None:
    tried = 0
    for _ in range(60):
        bench.clock.advance(HEARTBEAT_S)
        if bench.heartbeat():
            tried += 1
            bench.listeners.none_listens("celeryev")
    assert 15 <= tried <= 25
    assert bench.asked <= 10
