"""Real workers get hostile messages: they go on, run nothing but tasks, and lose nothing. A selection of the corpus.

All messages at all pools are what ``python -m hostile.campaign`` tries, and ``pytest -m release tests/hostile``.
"""

from pathlib import Path

import pytest
from support.emulators import Emulator

from hostile.arena import POOLS, arena, stop
from hostile.corpus import Hostile, corpus, selection
from hostile.judging import bulk, growth, one_by_one

#: What is tried in each run: the selection, and what ended or froze workers most thoroughly.
ALWAYS = (
    "code/pickle-4-mime-event", "code/pickle-4-mime-topic", "number-expiration/decimal-1e6", "header-task/dict",
    "event-header-id/surrogate", "foreign-key/odd-bad-utf8", "compression/bzip2-bomb-event", "redirect/retry-private",
    "body/argument-depth-480-task", "control/reply-to-topic", "control/pattern-slow", "number-priority/decimal-1e6",
    "control/add-consumer", "control/add-consumer-mismatch", "control/time-limit", "control/autoscale",
)  # fmt: skip
#: How many of the others; ``HAKE_HOSTILE_PATIENCE`` times five seconds is how long a good task may wait.
SMALL = 48


def small() -> list[Hostile]:
    chosen = {one.name: one for one in selection(SMALL)}
    return [*chosen.values(), *(one for one in corpus() if one.name in ALWAYS and one.name not in chosen)]


def test_what_is_always_tried_is_in_the_corpus() -> None:
    assert set(ALWAYS) <= {one.name for one in corpus()}


def tell(faulty: list[str]) -> str:
    return f"{len(faulty)} messages with faults:\n" + "\n".join(faulty)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("pool", "dead_letters"), [("prefork", True), ("threads", False)])
def test_a_worker_goes_on_after_each_hostile_message(
    moto: Emulator, tmp_path: Path, pool: str, dead_letters: bool
) -> None:
    with arena(moto, tmp_path, pool, dead_letters=dead_letters) as running:
        findings = one_by_one(running, small())
        code = stop(running)
    faulty = [str(finding) for finding in findings if finding.faults]
    assert not faulty, tell(faulty)
    assert code == 0


@pytest.mark.release
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("dead_letters", [True, False])
@pytest.mark.parametrize("pool", list(POOLS))
def test_every_pool_goes_on_after_every_message(moto: Emulator, tmp_path: Path, pool: str, dead_letters: bool) -> None:
    with arena(moto, tmp_path, pool, dead_letters=dead_letters) as running:
        findings = one_by_one(running, corpus())
    faulty = [str(finding) for finding in findings if finding.faults]
    assert not faulty, tell(faulty)


@pytest.mark.release
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("pool", "dead_letters"), [("prefork", True), ("threads", False)])
def test_good_tasks_run_once_among_5000_hostile_messages(
    moto: Emulator, tmp_path: Path, pool: str, dead_letters: bool
) -> None:
    with arena(moto, tmp_path, pool, dead_letters=dead_letters) as running:
        found = bulk(running, 5_000)
    assert not found.faults(most_requests=2.0)


@pytest.mark.release
@pytest.mark.timeout(4 * 3600)
def test_memory_and_log_are_bounded(moto: Emulator, tmp_path: Path) -> None:
    with arena(moto, tmp_path, "threads", dead_letters=True) as running:
        start, early, late = growth(running, (1_000, 10_000))
    assert late.restarts == 0
    assert late.memory_mib - early.memory_mib < 32
    assert late.log_bytes - start.log_bytes < 10_000 * 2_048
