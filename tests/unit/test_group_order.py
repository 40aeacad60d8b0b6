"""Batches to FIFO targets: each message group in order, whatever fails and whichever request is answered first."""

import random
import threading
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kombu_hake.amqp.naming import QueueUrl, TopicArn
from kombu_hake.exceptions import BrokerUnavailable, HakeError, PublishError, PublishFailed
from kombu_hake.publish import batching as batching_module
from kombu_hake.publish.batching import Batch, Published
from kombu_hake.publish.group_order import GroupOrder
from kombu_hake.publish.publisher import Outgoing, outgoing
from kombu_hake.publish.routes import QueueTarget, Target, TopicTarget

QUEUE = QueueTarget("q.fifo", QueueUrl("http://localhost/0/q.fifo"))
TOPIC = TopicTarget("t.fifo", TopicArn("arn:aws:sns:us-east-1:0:t.fifo"))
messages = st.lists(st.integers(0, 12), max_size=80)


@given(messages, st.randoms(use_true_random=False), st.floats(0, 0.5))
def test_of_each_group_one_message_is_in_flight_and_a_failed_one_stops_the_rest(
    groups: list[int], rng: random.Random, failing: float
) -> None:
    order: GroupOrder[int] = GroupOrder(max_bytes=100)
    left = list(enumerate(groups))
    requests: list[list[tuple[str, int]]] = []
    accepted: dict[str, list[int]] = defaultdict(list)
    lost: dict[str, list[int]] = defaultdict(list)
    while left or requests or order.ready:
        action = rng.choice(["add", "take", "answer"])
        if action == "add" and left:
            number, group = left.pop(0)
            if not order.add(str(group), number, 15):
                lost[str(group)].append(number)
        elif action == "take" and (request := order.take()):
            assert len(request) <= 6  # of fifteen bytes
            requests.append(request)
            in_flight = [group for request in requests for group, _ in request]
            assert len(in_flight) == len(set(in_flight))
        elif action == "answer" and requests:
            request = requests.pop(rng.randrange(len(requests)))
            results = [rng.random() >= failing for _ in request]
            for (group, number), is_accepted in zip(request, results, strict=True):
                (accepted if is_accepted else lost)[group].append(number)
            for number in order.answered([group for group, _ in request], results):
                lost[str(groups[number])].append(number)
    assert not order.is_in_flight
    for group in {str(group) for group in groups}:
        published = [number for number, found in enumerate(groups) if str(found) == group]
        assert accepted[group] == published[: len(accepted[group])]
        assert accepted[group] + sorted(lost[group]) == published


class FakeSender:
    """Accepts requests in any order, and refuses entries at random."""

    def __init__(self, failing: float = 0.0, seed: int = 0) -> None:
        self.accepted: dict[str, list[str]] = defaultdict(list)
        self.sizes: list[int] = []
        self.overlaps = 0
        self._failing = failing
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._in_flight: set[str] = set()
        self._turn = threading.Condition(self._lock)
        self._requests = 0

    def batch_limit(self, target: Target) -> int:
        return 262_144

    def send_batch(self, target: Target, items: list[tuple[Published, Outgoing]]) -> list[HakeError | None]:
        groups = [str(prepared.parameters["MessageGroupId"]) for _, prepared in items]
        with self._turn:
            self.sizes.append(len(items))
            self._requests += 1
            number = self._requests
            self.overlaps += len(self._in_flight & set(groups)) + len(groups) - len(set(groups))
            self._in_flight |= set(groups)
            # Some are answered only after a later one has come, or never will.
            if self._rng.random() < 0.3:
                self._turn.wait_for(lambda: self._requests > number, timeout=0.02)
            self._turn.notify_all()
            errors: list[HakeError | None] = []
            for group, (_, prepared) in zip(groups, items, strict=True):
                fails = self._rng.random() < self._failing
                if not fails:
                    self.accepted[group].append(prepared.text)
                errors.append(self._rng.choice([BrokerUnavailable, PublishError])("x") if fails else None)
            self._in_flight -= set(groups)
        return errors


def publish(batch: Batch, sender: FakeSender, target: Target, groups: Sequence[int]) -> None:
    for number, group in enumerate(groups):
        prepared = outgoing(f"{number:06}", {}, {"MessageGroupId": str(group)})
        batch.add(sender, target, Published("", "q", {"n": number}), prepared)


@pytest.mark.parametrize("target", [QUEUE, TOPIC], ids=["queue", "topic"])
@settings(max_examples=15, deadline=None)
@given(messages, st.integers(0, 1_000), st.sampled_from([0.0, 0.1, 0.4]))
def test_a_batch_keeps_the_order_of_each_group(target: Target, groups: list[int], seed: int, failing: float) -> None:
    sender, batch = FakeSender(failing, seed), Batch()
    failed = []
    try:
        publish(batch, sender, target, groups)
        batch.flush()
    except PublishFailed as exc:
        failed = [f"{published.message['n']:06}" for published, _ in exc.failed]
    finally:
        batch.close()
    assert sender.overlaps == 0
    assert (batch._outstanding, batch._outstanding_bytes) == (0, 0)
    for group in set(groups):
        texts = [f"{number:06}" for number, found in enumerate(groups) if found == group]
        accepted = sender.accepted[str(group)]
        assert accepted == texts[: len(accepted)]
        assert set(texts[len(accepted) :]) <= set(failed)
    assert len(failed) + sum(map(len, sender.accepted.values())) == len(groups)


def test_a_group_that_was_stopped_is_sent_again_after_the_failure_was_reported() -> None:
    sender, batch = FakeSender(failing=1.0), Batch()
    publish(batch, sender, QUEUE, [1, 1, 1])
    with pytest.raises(PublishFailed, match="to keep the order") as caught:
        batch.flush()
    assert len(caught.value.failed) == 3
    sender._failing = 0.0
    publish(batch, sender, QUEUE, [1, 1, 1])
    batch.flush()
    batch.close()
    assert sender.accepted["1"] == ["000000", "000001", "000002"]


def test_many_groups_share_requests() -> None:
    sender, batch = FakeSender(), Batch()
    publish(batch, sender, QUEUE, list(range(200)) * 3)
    batch.flush()
    batch.close()
    assert sum(sender.sizes) == 600
    assert len(sender.sizes) <= 120


def test_one_group_goes_one_by_one_and_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching_module, "MAX_OUTSTANDING", 20)
    sender, batch = FakeSender(), Batch()
    publish(batch, sender, QUEUE, [1] * 100)
    assert batch._outstanding <= 20
    batch.flush()
    batch.close()
    assert sender.sizes == [1] * 100
    assert sender.accepted["1"] == sorted(sender.accepted["1"])


def test_without_threads_the_order_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(batching_module, "MAX_OUTSTANDING", 500)
    sender, batch = FakeSender(), Batch()
    publish(batch, sender, QUEUE, [1, 2] * 1_000)
    batch.flush()
    assert sum(sender.sizes) == 2_000
    for texts in sender.accepted.values():
        assert texts == sorted(texts)
