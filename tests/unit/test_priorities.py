"""Priority levels: which one a message belongs to, by the queue's arguments and by its filter policies alike."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp.priorities import level_name, level_names, level_of, level_shares, main_queue, priority_attribute

COMPARE = {">": float.__gt__, "<=": float.__le__}


def passes(share: list[dict[str, Any]], attribute: str | None) -> bool:
    """As SNS says it, for a message that has other attributes."""
    for value in share:
        if "exists" in value:
            if attribute is None:
                return True
        elif attribute is not None:
            terms = value["numeric"]
            if all(COMPARE[terms[i]](float(attribute), float(terms[i + 1])) for i in range(0, len(terms), 2)):
                return True
    return False


@given(st.integers(1, 300), st.one_of(st.none(), st.integers(-5, 1000)))
def test_a_message_passes_the_filter_of_its_level_and_no_other(highest: int, priority: int | None) -> None:
    shares = level_shares(highest)
    assert len(shares) == len(level_names("q", {"x-max-priority": highest}))
    passed = [level for level, share in enumerate(shares) if passes(share, priority_attribute(priority))]
    assert passed == [level_of(priority, "q", {"x-max-priority": highest})]


@given(st.integers(1, 300), st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_that_others_write_passes_exactly_one_filter(highest: int, priority: float) -> None:
    assert sum(passes(share, repr(priority)) for share in level_shares(highest)) == 1


@pytest.mark.parametrize("arguments", [{}, {"x-max-priority": 0}, {"x-max-priority": None}, {"x-max-priority": "no"}])
def test_a_queue_that_asks_for_no_priority_has_one_level(arguments: dict[str, Any]) -> None:
    assert level_names("q", arguments) == ["q"]
    assert level_of(9, "q", arguments) == 0


def test_a_fifo_queue_has_one_level() -> None:
    arguments = {"x-max-priority": 9}
    assert level_names("q.fifo", arguments) == ["q.fifo"]
    assert level_of(9, "q.fifo", arguments) == 0


def test_no_priority_asks_for_no_filter() -> None:
    assert level_shares(0) == []


@pytest.mark.parametrize("priority", [None, 0, -1, "", "high"])
def test_a_message_without_a_priority_has_no_attribute(priority: object) -> None:
    assert priority_attribute(priority) is None


def test_the_queue_of_a_level() -> None:
    assert [main_queue(level_name("jobs", level)) for level in range(4)] == ["jobs"] * 4
