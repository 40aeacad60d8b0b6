"""JSON documents stored in AWS that external tools may have written: policies, filters, redrive policies. Pure.

They are untrusted: reading takes bounded time for any text, and returns a value or raises ``ValueError``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from kombu_hake.amqp.limits import SNS_FILTER_MAX_BYTES
from kombu_hake.amqp.naming import Arn, parse_arn
from kombu_hake.exceptions import InvalidName

__all__ = [
    "DOCUMENT_ATTRIBUTES",
    "SCALARS",
    "dead_queue_arn",
    "is_deeper",
    "matches_wildcard",
    "read_object",
    "readable_dead_queue",
    "same_json",
]

#: Attributes of SQS queues whose value is a document.
DOCUMENT_ATTRIBUTES = {"Policy", "RedriveAllowPolicy", "RedrivePolicy"}
#: The longest document that AWS stores is a filter policy.
_MAX_CHARS = SNS_FILTER_MAX_BYTES
#: A filter policy on a message body nests deepest; AWS's own documents need about six levels.
_MAX_DEPTH = 32
_CONTAINERS = (dict, list, tuple, set, frozenset)
#: The types of most values; none of them is a container.
SCALARS = frozenset({str, int, type(None), bool, float, bytes})


def read_object(text: str | None, *, unique: bool = False, max_chars: int = _MAX_CHARS) -> dict[str, Any]:
    """The JSON object that a text holds; ``{}`` for None and for an empty text.

    Args:
        unique: Refuse objects in which a name occurs twice.
    Raises:
        ValueError: it is not a JSON object, or is longer or nested deeper than any document of AWS.
    """
    if not text:
        return {}
    if not isinstance(text, str):
        raise ValueError(f"it is a {type(text).__name__} and not a text")
    if len(text) > max_chars:
        raise ValueError(f"it has {len(text)} characters, and AWS keeps at most {max_chars}")
    if _depth(text) > _MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
    found = json.loads(text, object_pairs_hook=_unique if unique else None, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def same_json(one: str, other: str) -> bool:
    """Return True if two texts hold equal objects; texts that can't be read are equal only if they are the same."""
    if one == other:
        return True
    try:
        return read_object(one) == read_object(other)
    except ValueError:
        return False


def matches_wildcard(pattern: str, text: str, *, question_mark: bool = False) -> bool:
    """Return True if a text matches a pattern in which ``*`` is any characters, and, if asked for, ``?`` is any one.

    Takes no longer for more stars: each part between two stars is searched for once.
    """
    fixed = len(pattern) - pattern.count("*")
    if fixed > len(text):
        return False
    head, *middle = [_Part(part, question_mark) for part in re.split(r"\*+", pattern)]
    if not middle:
        return fixed == len(text) and head.is_at(text, 0)
    tail = middle.pop()
    at, end = head.chars, len(text) - tail.chars
    if at > end or not head.is_at(text, 0) or not tail.is_at(text, end):
        return False
    for part in middle:
        at = part.end_in(text, at, end)
        if at < 0:
            return False
    return True


class _Part:
    """The part between two stars."""

    def __init__(self, text: str, question_mark: bool) -> None:
        self._text = text
        self.chars = len(text)
        is_wild = question_mark and "?" in text
        self._regex = re.compile(".".join(map(re.escape, text.split("?"))), re.DOTALL) if is_wild else None

    def is_at(self, text: str, at: int) -> bool:
        if self._regex is not None:
            return self._regex.match(text, at) is not None
        return text.startswith(self._text, at)

    def end_in(self, text: str, at: int, end: int) -> int:
        """End of the first occurrence between *at* and *end*; -1 if there is none."""
        if self._regex is not None:
            match = self._regex.search(text, at, end)
            return -1 if match is None else match.end()
        found = text.find(self._text, at, end)
        return -1 if found < 0 else found + self.chars


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
    raise ValueError(f"{name} is not JSON")


def is_deeper(value: Any, levels: int) -> bool:
    """Return True if containers in *value* are nested in more than *levels* levels."""
    level = [value]
    for _ in range(levels):
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item if isinstance(item, _CONTAINERS) else ()
            if not SCALARS.issuperset(map(type, children)):  # nearly all are left here
                below += [child for child in children if isinstance(child, _CONTAINERS)]
        if not below:
            return False
        level = below
    return True


def dead_queue_arn(redrive_policy: str | None) -> Arn | None:
    """The ARN of the dead-letter queue that a redrive policy names; None where it names none.

    Raises:
        ValueError: it can't be read.
    """
    target = read_object(redrive_policy).get("deadLetterTargetArn")
    if not target:
        return None
    try:
        arn = parse_arn(str(target))
    except InvalidName as exc:
        raise ValueError("the dead-letter queue is no ARN") from exc
    if arn.service != "sqs":
        raise ValueError("the dead-letter queue is no queue")
    return arn


def readable_dead_queue(redrive_policy: str | None) -> str:
    """The ARN of the dead-letter queue that a redrive policy names; ``""`` for none, or none that can be read."""
    try:
        return str(dead_queue_arn(redrive_policy) or "")
    except ValueError:
        return ""
