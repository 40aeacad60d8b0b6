"""JSON documents that AWS keeps for us and that others may have written: policies, filters, redrive policies. Pure.

They are read with suspicion: whatever the text is, reading it ends soon, and with a value or a ``ValueError``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from kombu_hake.limits import SNS_FILTER_MAX_BYTES

__all__ = ["excerpt", "read_object", "same_json"]

#: The longest document that AWS keeps for anyone is a filter policy.
_MAX_CHARS = SNS_FILTER_MAX_BYTES
#: A filter policy on a message body nests deepest; AWS's own documents need six or so.
_MAX_DEPTH = 32
_SHOWN_CHARS = 500


def read_object(text: str | None, *, unique: bool = False) -> dict[str, Any]:
    """The JSON object that a text holds; ``{}`` for None and for an empty text.

    Args:
        unique: Refuse objects in which a name occurs twice.
    Raises:
        ValueError: it is no JSON object, or longer or nested deeper than any document of AWS.
    """
    if not text:
        return {}
    if len(text) > _MAX_CHARS:
        raise ValueError(f"it has {len(text)} characters, and AWS keeps at most {_MAX_CHARS}")
    if _depth(text) > _MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
    found = json.loads(text, object_pairs_hook=_unique if unique else None, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def same_json(one: str, other: str) -> bool:
    """Whether two texts hold equal objects; texts that can't be read are equal only if they are the same."""
    if one == other:
        return True
    try:
        return read_object(one) == read_object(other)
    except ValueError:
        return False


def excerpt(text: object, most: int = _SHOWN_CHARS) -> str:
    """A text from outside, as it may be logged or put into an error: one printable line of *most* characters or so."""
    whole = str(text)
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in whole[:most])
    return line if len(whole) <= most else f"{line}... ({len(whole)} characters)"


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[][{}]', text, re.DOTALL):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    listed = list(pairs)
    found = dict(listed)
    if len(found) < len(listed):
        raise ValueError("a name occurs twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
