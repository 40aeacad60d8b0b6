"""Numbers from outside: what counts as one."""

import decimal
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp.numeric import MAX_WHOLE, whole


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (-7, -7),
        (5.9, 5),
        (-5.9, -5),
        ("7", 7),
        ("+7", 7),
        ("-7", -7),
        ("007", 7),
        (10**4_000, MAX_WHOLE),
        (-(10**4_000), -MAX_WHOLE),
        (1e300, MAX_WHOLE),
        ("9" * 20, MAX_WHOLE),
    ],
)
def test_a_number_is_read_within_limits(value: Any, expected: int) -> None:
    assert whole(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, [], {}, [7], b"7", math.inf, -math.inf, math.nan),
        *("", "-", " 7", "7\n", "1_000", "²", "٣", "0x7", "1e3", "5.9", "9" * 21),
        *(decimal.Decimal(7), decimal.Decimal("1E+900000000")),
    ],
    ids=repr,
)
def test_what_is_no_number_is_none(value: Any) -> None:
    assert whole(value) is None


@given(st.integers(-MAX_WHOLE, MAX_WHOLE))
def test_a_whole_number_is_itself_also_as_text(value: int) -> None:
    assert whole(value) == whole(str(value)) == value


@given(st.text())
def test_any_text_is_read(value: str) -> None:
    found = whole(value)
    assert found is None or abs(found) <= MAX_WHOLE
