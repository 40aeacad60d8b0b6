"""Prefetch accounting: never too much, never nobody's turn, shares that are fair."""

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kombu_hake.receive.credit import UNLIMITED_BUFFER, Credit

QUEUES = ("a", "b", "c", "d")


def credit_of(prefetch: int, *queues: str) -> Credit:
    credit = Credit(prefetch)
    for queue in queues:
        credit.add(queue)
    return credit


def poll(credit: Credit, queue: str, brings: int, *, even_little: bool = False) -> int:
    """One poll of a queue that holds *brings* messages; how many were kept."""
    asked = credit.ask(queue, even_little=even_little)
    return credit.received(queue, asked, min(asked, brings))


class AnySequence(RuleBasedStateMachine):
    """Whatever pollers and consumers do, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.credit = Credit(0)
        self.open: set[str] = set()
        self.polls: list[tuple[str, int]] = []
        self.unsettled: list[str] = []

    @rule(count=st.integers(0, 25))
    def set_prefetch(self, count: int) -> None:
        self.credit.prefetch_count = count

    @rule(queue=st.sampled_from(QUEUES))
    def consume(self, queue: str) -> None:
        if queue not in self.open:
            self.open.add(queue)
            self.credit.add(queue)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        queue = data.draw(st.sampled_from(sorted(self.open)))
        self.open.remove(queue)
        self.credit.remove(queue)
        # Its open polls release what they bring and do not report.
        self.polls = [poll for poll in self.polls if poll[0] != queue]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), even_little=st.booleans())
    def ask(self, data: st.DataObject, even_little: bool) -> None:
        queue = data.draw(st.sampled_from(sorted(self.open)))
        may = self.credit.may_ask(queue)
        count = self.credit.ask(queue, even_little=even_little)
        assert 0 <= count <= 10
        assert count or not may
        if not count:
            return
        self.polls.append((queue, count))
        if self.used() > self.credit.limit:  # each queue keeps one poll for one message, though all is promised
            assert count == 1
            assert len(self.unsettled) < self.credit.limit

    @precondition(lambda self: self.polls)
    @rule(data=st.data())
    def poll_returns(self, data: st.DataObject) -> None:
        queue, asked = self.polls.pop(data.draw(st.integers(0, len(self.polls) - 1)))
        brings = data.draw(st.integers(0, asked))
        kept = self.credit.received(queue, asked, brings)
        assert 0 <= kept <= brings
        if len(self.unsettled) + brings <= self.credit.limit:
            assert kept == brings
        assert kept == 0 or len(self.unsettled) + kept <= self.credit.limit
        self.unsettled += [queue] * kept

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        self.credit.returned(self.unsettled.pop(data.draw(st.integers(0, len(self.unsettled) - 1))))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def let_all_come_to_rest(self, data: st.DataObject) -> None:
        """No state is a dead end: once polls have ended and work is done, every queue gets its turn, in any order."""
        for queue, asked in self.polls:
            self.credit.received(queue, asked, data.draw(st.sampled_from([0, asked])))
        for queue in [*self.unsettled, *(queue for queue, _ in self.polls for _ in range(10))]:
            self.credit.returned(queue)
        self.polls, self.unsettled = [], []
        assert self.credit.in_flight == 0
        for queue in data.draw(st.permutations(sorted(self.open))):
            count = self.credit.ask(queue, even_little=True)
            assert count >= 1
            self.polls.append((queue, count))

    def used(self) -> int:
        return len(self.unsettled) + sum(count for _, count in self.polls)

    @invariant()
    def counts_what_is_unsettled(self) -> None:
        assert self.credit.in_flight == len(self.unsettled)


AnySequence.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
test_any_sequence = AnySequence.TestCase


@given(st.integers(0, 30), st.integers(1, 5), st.booleans(), st.lists(st.integers(1, 9), min_size=1, max_size=4))
@settings(deadline=None)
def test_a_queue_gets_its_turn_beside_one_that_is_always_full(
    spare: int, queues: int, is_idle: bool, settle_pattern: list[int]
) -> None:
    others = [f"q{n}" for n in range(queues)]
    credit = credit_of(1 + queues + spare, "greedy", *others)
    work: deque[str] = deque()
    if is_idle:
        for queue in others:
            credit.received(queue, credit.ask(queue), 0)
    turns = dict.fromkeys(others, 0)
    for step in range(100):
        # The greedy one always goes first, and is always given what it asks for.
        work.extend(["greedy"] * poll(credit, "greedy", 10, even_little=True))
        for queue in others:
            asked = credit.ask(queue, even_little=True)
            turns[queue] += bool(asked)
            credit.received(queue, asked, 0)
        for _ in range(settle_pattern[step % len(settle_pattern)]):
            if work:
                credit.returned(work.popleft())
    assert all(count >= 5 for count in turns.values())


@given(st.integers(2, 60), st.integers(2, 5))
def test_busy_queues_share_alike(prefetch: int, queues: int) -> None:
    names = [f"q{n}" for n in range(min(queues, prefetch))]
    credit = credit_of(prefetch, *names)
    held = dict.fromkeys(names, 0)
    for _ in range(20):
        for queue in names:
            held[queue] += poll(credit, queue, 10, even_little=True)
    fair = prefetch // len(names)
    assert all(fair <= count <= fair + prefetch % len(names) for count in held.values())


def test_the_only_queue_asks_for_all_there_is() -> None:
    assert credit_of(4, "a").ask("a") == 4
    assert credit_of(40, "a").ask("a") == 10
    assert credit_of(0, "a").ask("a") == 10


def test_without_a_prefetch_count_memory_is_bounded() -> None:
    credit = credit_of(0, "a")
    kept = sum(poll(credit, "a", 10) for _ in range(50))
    assert kept == credit.in_flight == UNLIMITED_BUFFER
    assert not credit.may_ask("a")


def test_an_idle_queue_asks_for_one_and_keeps_no_credit_from_a_busy_one() -> None:
    credit = credit_of(20, "busy", "idle")
    poll(credit, "idle", 0)
    assert credit.ask("idle") == 1
    assert credit.ask("idle") == 0
    assert credit.ask("busy") == 10
    assert credit.ask("busy") == 9


def test_a_queue_that_has_messages_again_gets_its_fair_share() -> None:
    credit = credit_of(20, "a", "b")
    poll(credit, "b", 0)
    assert poll(credit, "b", 1) == 1
    assert poll(credit, "b", 10) == 9


@pytest.mark.parametrize(("prefetch", "settled", "asked"), [(4, 1, 0), (4, 2, 2), (40, 9, 0), (40, 10, 10), (1, 1, 1)])
def test_it_asks_again_when_that_pays(prefetch: int, settled: int, asked: int) -> None:
    credit = credit_of(prefetch, "a")
    while credit.may_ask("a"):
        poll(credit, "a", 10)
    credit.returned("a", settled)
    assert credit.ask("a") == asked


def test_a_free_place_is_filled_though_long_tasks_hold_the_others() -> None:
    credit = credit_of(4, "a")
    poll(credit, "a", 4)
    credit.returned("a")
    assert not credit.may_ask("a")
    assert credit.has_little("a")
    assert credit.ask("a", even_little=True) == 1
    assert credit.ask("a", even_little=True) == 0
    assert not credit.has_little("a")


def test_with_nothing_unsettled_it_asks_for_what_there_is() -> None:
    credit = credit_of(10, "a", "b")
    assert credit.ask("b") == 5
    assert credit.ask("a") == 5


def test_with_less_credit_than_queues_each_keeps_a_poll_for_one_and_the_surplus_goes_back() -> None:
    credit = credit_of(2, "a", "b", "c")
    assert [credit.ask(queue) for queue in "abc"] == [1, 1, 1]
    assert [credit.ask(queue) for queue in "abc"] == [0, 0, 0]
    assert [credit.received(queue, 1, 1) for queue in "abc"] == [1, 1, 0]
    assert [credit.ask(queue) for queue in "abc"] == [0, 0, 0]
    credit.returned("a")
    assert credit.ask("c") == 1


@pytest.mark.parametrize("prefetch", [1, 2, 3])
def test_with_less_credit_than_queues_each_gets_its_turn(prefetch: int) -> None:
    chance = random.Random(7)
    credit = credit_of(prefetch, *QUEUES)
    kept = dict.fromkeys(QUEUES, 0)
    for _ in range(200):
        polls = [queue for queue in QUEUES if credit.ask(queue)]
        chance.shuffle(polls)  # all are full, and answer in any order
        brought = {queue: credit.received(queue, 1, 1) for queue in polls}
        assert sum(brought.values()) <= prefetch
        for queue, count in brought.items():
            kept[queue] += count
            credit.returned(queue, count)
    assert all(count > 10 for count in kept.values())


def test_what_a_cancelled_queue_left_counts_until_it_is_settled() -> None:
    credit = credit_of(4, "a", "b")
    poll(credit, "a", 2)
    credit.remove("a")
    assert credit.in_flight == 2
    assert credit.ask("b", even_little=True) == 2
    credit.returned("a", 2)
    assert credit.in_flight == 0
    assert "a=" not in repr(credit)


def test_a_queue_that_is_consumed_again_is_not_held_up_by_its_old_poll() -> None:
    credit = credit_of(4, "a")
    assert credit.ask("a") == 4
    credit.remove("a")
    credit.add("a")
    assert credit.ask("a") == 4


def test_a_lower_prefetch_count_takes_effect_as_messages_are_settled() -> None:
    credit = credit_of(10, "a")
    poll(credit, "a", 10)
    credit.prefetch_count = 2
    credit.returned("a", 8)
    assert credit.ask("a", even_little=True) == 0
    credit.returned("a", 2)
    assert credit.ask("a") == 2


def test_messages_beyond_the_prefetch_count_are_not_kept() -> None:
    credit = credit_of(10, "a")
    asked = credit.ask("a")
    credit.prefetch_count = 3
    assert credit.received("a", asked, 10) == 3


@given(st.data(), st.integers(0, 25), st.integers(1, 3), st.integers(1, 3))
@settings(deadline=None)
def test_no_poller_is_owed_credit_before_as_many_are_returned_as_it_is_short_of(
    data: st.DataObject, prefetch: int, queues: int, ranks: int
) -> None:
    credit = credit_of(prefetch, *QUEUES[:queues])
    for rank in range(ranks):
        credit.add(f"level{rank}", "level", rank)
    names = [*QUEUES[:queues], *(f"level{rank}" for rank in range(ranks))]
    unsettled: list[str] = []
    polls: list[tuple[str, int]] = []
    for name, even_little, brings in data.draw(
        st.lists(st.tuples(st.sampled_from(names), st.booleans(), st.none() | st.integers(0, 10)), max_size=12)
    ):
        asked = credit.ask(name, even_little=even_little)
        polls += [(name, asked)] if asked else []
        if polls and brings is not None:
            polled, asked = polls.pop(0)
            unsettled += [polled] * credit.received(polled, asked, min(brings, asked))
    waiting = data.draw(st.sampled_from(names))
    short = credit.short_of(waiting)
    assert (short == 0) == credit.may_ask(waiting)
    for name in data.draw(st.permutations(unsettled))[: max(0, short - 1)]:
        credit.returned(name)
        assert not credit.may_ask(waiting)


def test_with_nothing_unsettled_a_poll_is_given_less_than_pays() -> None:
    credit = credit_of(20, "a", "b")
    poll(credit, "a", 2)
    assert (credit.ask("a"), credit.ask("b")) == (8, 10)
    assert credit.short_of("a") == 2
    credit.returned("a", 2)
    assert credit.ask("a") == 2


def test_a_queue_with_nothing_in_flight_polls_though_all_is_promised() -> None:
    credit = credit_of(10, "a")
    poll(credit, "a", 5)
    assert credit.ask("a") == 5
    credit.add("b")
    assert poll(credit, "b", 1) == 1
    assert credit.short_of("b") == 1
    credit.returned("b")
    assert credit.ask("b") == 1


@pytest.mark.parametrize(("prefetch", "short"), [(4, 2), (40, 10), (20, 10), (1, 1)])
def test_a_queue_that_is_alone_is_short_of_what_pays(prefetch: int, short: int) -> None:
    credit = credit_of(prefetch, "a")
    while credit.may_ask("a"):
        poll(credit, "a", 10)
    assert credit.short_of("a") == short


def test_too_many_settles_do_not_make_credit() -> None:
    credit = credit_of(4, "a")
    poll(credit, "a", 2)
    credit.returned("a", 9)
    credit.returned("nobody")
    assert credit.ask("a") == 4


def test_repr_shows_the_state() -> None:
    credit = credit_of(4, "a", "b")
    poll(credit, "b", 0)
    poll(credit, "a", 1)
    credit.ask("b")
    assert repr(credit) == "<Credit prefetch=4 a=1+0 b=0+1 idle>"


# --- priority levels


def levels(prefetch: int, *, count: int = 3) -> Credit:
    credit = Credit(prefetch)
    for rank in range(count):
        credit.add(f"q{rank}", "q", rank)
    return credit


def test_a_level_waits_while_a_higher_one_has_messages() -> None:
    credit = levels(10)
    assert [credit.may_ask(f"q{rank}") for rank in range(3)] == [False, False, True]
    poll(credit, "q2", 0)
    assert [credit.may_ask(f"q{rank}") for rank in range(2)] == [False, True]
    poll(credit, "q1", 0)
    assert credit.may_ask("q0")


def test_a_higher_level_that_waits_for_its_first_message_takes_no_credit() -> None:
    credit = levels(4)
    for name in ("q2", "q1"):
        poll(credit, name, 0)
    assert credit.ask("q2") == credit.ask("q1") == 1
    assert credit.ask("q0") == 4


def test_what_a_waiting_level_brings_beyond_the_prefetch_count_goes_back() -> None:
    credit = levels(2, count=2)
    poll(credit, "q1", 0)
    assert credit.ask("q1") == 1
    assert poll(credit, "q0", 2) == 2
    assert credit.received("q1", 1, 1) == 0


def test_a_lower_level_waits_again_once_a_higher_one_has_messages() -> None:
    credit = levels(4, count=2)
    poll(credit, "q1", 0)
    assert poll(credit, "q1", 1) == 1
    assert not credit.may_ask("q0")


def test_levels_of_one_queue_do_not_hold_up_another_queue() -> None:
    credit = levels(10, count=2)
    credit.add("other")
    assert credit.may_ask("other")
