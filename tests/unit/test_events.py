"""Events are sent aside: in order, never waited for, dropped where they can't be sent."""

import threading
from collections.abc import Iterator, Sequence

import pytest
from fakes import eventually

from kombu_hake.exceptions import BrokerUnavailable
from kombu_hake.publish import events as events_module
from kombu_hake.publish.events import Event, EventSender


class Bench:
    """A sender, and what it sent; ``gate`` holds the next sending up."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.faults: list[Exception] = []
        self.sender = EventSender(self._send)

    def _send(self, events: Sequence[Event]) -> None:
        self.reached.set()
        assert self.gate.wait(10)
        if self.faults:
            raise self.faults.pop(0)
        self.sent += [event.routing_key for event in events]

    def put(self, *keys: str) -> None:
        for key in keys:
            self.sender.put(Event({}, "celeryev", key))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(events_module, "_IDLE_S", 0.05)
    monkeypatch.setattr(events_module, "backoff_s", lambda *_, **__: 0.0)
    found = Bench()
    yield found
    found.gate.set()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "hake-events"])


def test_the_caller_does_not_wait(bench: Bench) -> None:
    bench.gate.clear()
    bench.put("a", "b", "c")
    assert bench.sent == []
    assert not bench.sender.flush(0.01)
    bench.gate.set()
    assert bench.sender.flush(10)
    assert bench.sent == ["a", "b", "c"]


def test_what_comes_after_a_pause_is_sent(bench: Bench) -> None:
    bench.put("a")
    assert bench.sender.flush(10)
    eventually(lambda: not bench.sender._background.is_alive)
    bench.put("b")
    assert bench.sender.flush(10)
    assert bench.sent == ["a", "b"]


def test_of_too_many_the_oldest_are_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_WAITING", 3)
    bench.gate.clear()
    bench.put("first")
    assert bench.reached.wait(10)
    bench.put("a", "b", "c", "d")
    bench.gate.set()
    assert bench.sender.flush(10)
    assert bench.sent == ["first", "b", "c", "d"]


def test_what_cannot_be_sent_is_dropped_and_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("a", "b"):
        bench.faults.append(BrokerUnavailable("no SNS"))
        bench.put(key)
        assert bench.sender.flush(10)
    bench.put("c")
    assert bench.sender.flush(10)
    assert bench.sent == ["c"]
    assert [record.getMessage() for record in caplog.records] == [
        "HAKE203 Could not send 1 events; tasks are not affected: no SNS"
    ]


def test_a_bug_does_not_end_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.faults.append(ValueError("a bug"))
    bench.put("a")
    assert bench.sender.flush(10)
    bench.put("b")
    assert bench.sender.flush(10)
    assert bench.sent == ["b"]
    assert caplog.records[0].exc_info


def test_a_forked_child_sends_nothing_of_the_parents(bench: Bench) -> None:
    bench.gate.clear()
    bench.sender.is_on = True
    bench.put("a")
    assert bench.reached.wait(10)
    bench.sender.reset_after_fork()
    assert not bench.sender.is_on
    assert bench.sender.flush(0)
    bench.gate.set()
