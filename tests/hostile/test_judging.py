"""The suite sees each fault: a worker that is a stand-in commits them."""

import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hostile import judging
from hostile.arena import Arena
from hostile.corpus import TASKS, TOPIC, Hostile
from hostile.judging import Finding, one_by_one

MESSAGE = Hostile("group/what", "text")


class StandIn:
    """An :class:`Arena` whose worker runs the good task at once, and else does what *fault* says."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.is_alive = True
        self.runs: dict[int, list[float]] = {}
        self.odd_runs: list[str] = []
        self.restarts = 0
        self.worker = SimpleNamespace(process=SimpleNamespace(returncode=1))
        self.log = SimpleNamespace(new=lambda: "a line about id-1" if self.fault == "log" else "a line")
        self.proxy = SimpleNamespace(forget=lambda: None, bodies={}, deliveries=Counter())

    def send(self, message: Hostile) -> str | None:
        self.is_alive = self.fault != "death"
        if self.fault == "run":
            self.odd_runs.append("id-1")
        self.proxy.deliveries = Counter({"id-1": 9 if self.fault == "loop" else 1})
        return None if message.is_to_topic else "id-1"

    def send_good(self, number: int, _queue: str) -> None:
        if self.is_alive and self.fault != "freeze":
            self.runs[number] = [time.time() + (999 if self.fault == "late" else 0)]

    def until(self, condition: Callable[[], object], _timeout_s: float) -> bool:
        return bool(condition())

    def has_run(self, number: int) -> bool:
        return number in self.runs

    def read_runs(self) -> None:
        """They are up to date."""

    def unsettled(self, _queue: str) -> tuple[int, int]:
        return (0, 1) if self.fault == "held" else (0, 0)

    def take_dead_letters(self) -> list[str]:
        return ["text"] if self.fault == "dead letter" else []

    def take_redirected(self) -> list[str]:
        return ["text"] if self.fault == "redirect" else []

    def new_topics(self) -> set[str]:
        return {"new"} if self.fault == "topic" else set()

    def executed(self) -> list[str]:
        return ["group/what"] if self.fault == "code" else []

    def lost_pool_processes(self) -> int:
        return int(self.fault == "pool")

    def memory_mib(self) -> float:
        return 100.0

    def peak_memory_mib(self) -> float:
        return 1_800.0 if self.fault == "memory" else 110.0

    def purge(self) -> None:
        """It holds nothing."""

    def restart(self) -> None:
        self.restarts += 1
        self.is_alive = True


def found(fault: str, message: Hostile = MESSAGE) -> tuple[Finding, StandIn]:
    stand_in = StandIn(fault)
    [finding] = one_by_one(cast(Any, stand_in), [message])
    return finding, stand_in


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("death", "the worker ended (1)"), ("freeze", "the good task never ran"), ("late", "the good task waited"),
        ("none", "it left no trace"), ("code", "it ran code (group/what)"), ("pool", "1 processes of the pool ended"),
        ("redirect", "it reached another queue"), ("topic", "it created the topics ['new']"),
        ("loop", "it was delivered 9 times"), ("memory", "it took 1700 MiB"),
    ],
)  # fmt: skip
def test_each_fault_is_seen(fault: str, says: str) -> None:
    finding, _ = found(fault)
    assert any(says in one for one in finding.faults)


@pytest.mark.parametrize(
    ("way", "outcome"), [("run", "run"), ("log", "logged"), ("dead letter", "dead letter"), ("held", "in queue")]
)
def test_what_can_be_found_is_no_fault(way: str, outcome: str) -> None:
    finding, _ = found(way)
    assert (finding.outcome, finding.faults) == (outcome, ())


def test_what_a_filter_keeps_out_is_no_fault() -> None:
    finding, _ = found("none", Hostile("group/what", "text", TOPIC))
    assert (finding.outcome, finding.faults) == ("not delivered", ())


@pytest.mark.parametrize("fault", ["death", "freeze"])
def test_a_worker_that_is_of_no_use_is_replaced(fault: str) -> None:
    _, stand_in = found(fault)
    assert stand_in.restarts == 1


def test_the_stand_in_has_what_is_used_of_an_arena() -> None:
    assert {name for name in vars(StandIn) if not name.startswith("_")} <= set(dir(Arena))
    assert MESSAGE.queue == TASKS
    assert judging.LATE_S == 5.0
