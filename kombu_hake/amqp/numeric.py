"""Numbers that come from outside: properties of messages, arguments of queues, attributes in AWS's answers. Pure.

A publisher decides what stands where a number is expected. ``int()`` is the wrong tool for that: of
``Decimal("1E+900000000")`` it computes for as long as the process lives, of infinity it raises, and of text it accepts
much that is no number in JSON.
"""

from __future__ import annotations

import math
import re

__all__ = ["MAX_WHOLE", "whole"]

#: No number that is read is larger: as milliseconds since the epoch, it is in the year 33658.
MAX_WHOLE = 10**15
_DIGITS = re.compile(r"[+-]?[0-9]{1,20}")


def whole(value: object) -> int | None:
    """The whole number that *value* is; None for what is no number.

    Args:
        value: A number is an int (not a bool), a finite float, or text of at most twenty ASCII digits with or without
            a sign. Fractions are cut off.
    Returns:
        From -MAX_WHOLE to MAX_WHOLE; what is beyond counts as the limit.
    """
    if isinstance(value, str):
        found = int(value) if _DIGITS.fullmatch(value) else None
    elif isinstance(value, float):
        found = int(value) if math.isfinite(value) else None
    elif isinstance(value, int) and not isinstance(value, bool):
        found = int(value)
    else:
        found = None
    return None if found is None else max(-MAX_WHOLE, min(found, MAX_WHOLE))
