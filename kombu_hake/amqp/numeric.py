"""Read untrusted numbers: properties of messages, arguments of queues, attributes in AWS's answers. Pure.

A publisher may send anything where a number is expected. ``int()`` does not handle that: it never finishes for
``Decimal("1E+900000000")``, raises for infinity, and accepts text that is not a number in JSON.
"""

from __future__ import annotations

import math
import re

__all__ = ["MAX_WHOLE", "whole"]

#: The largest number that is returned; as milliseconds since the epoch, it is in the year 33658.
MAX_WHOLE = 10**15
_DIGITS = re.compile(r"[+-]?[0-9]{1,20}")


def whole(value: object) -> int | None:
    """Convert *value* to a whole number; None if it is not a number.

    Args:
        value: A number is an int (not a bool), a finite float, or text of at most twenty ASCII digits with or without
            a sign. Fractions are truncated.
    Returns:
        From -MAX_WHOLE to MAX_WHOLE; numbers beyond are clamped.
    """
    if value is None:
        return None
    if isinstance(value, str):
        found = int(value) if _DIGITS.fullmatch(value) else None
    elif isinstance(value, float):
        found = int(value) if math.isfinite(value) else None
    elif isinstance(value, int) and not isinstance(value, bool):
        found = int(value)
    else:
        found = None
    if found is None or -MAX_WHOLE <= found <= MAX_WHOLE:
        return found
    return MAX_WHOLE if found > 0 else -MAX_WHOLE
