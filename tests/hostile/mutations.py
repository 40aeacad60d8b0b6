"""Odd values, and changes to documents and texts: what the fuzz tests are made of. Each takes its own ``Random``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

__all__ = ["legal", "odd", "odd_text", "spoilt", "spoilt_text", "words"]

_LEAVES: Sequence[Any] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**64), 10**400, 1.5, -0.0, 1e308, float("nan"), float("inf"), "", " ",
    "0", "-1", "1e9", "9" * 5_000, "٣", "²", "1E+1000000", "nan", "true", "\ud800", "\x00", "\x1b[2J", "a\r\nb", "%",
    "%zz", "%ED%A0%80", "*", "#", "a.*.#", "." * 300, "x" * 3_000, "\U0001f600", "\ufeff", "__proto__", "hake.queue",
    "orders", "email", "application/x-python-serialize", "gzip", "base64", "utf-16", "kombu_hake.event", [], {}, [[]],
    [None], {"a": 1}, {"": ""}, {"__type__": "decimal", "__value__": "1E+1000000"},
    {"__type__": "datetime", "__value__": 5},
    {"__type__": "uuid", "__value__": {"hex": "0" * 32, "version": 9}},
    {"__type__": "bytes", "__value__": "\ud800"},
    {"exchange": "orders", "routing_key": "paid"}, {"exchange": "hake.queue", "routing_key": "victim"}, ["a"] * 500,
    "2026-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59",
)  # fmt: skip
_KEYS = (
    "task", "id", "eta", "expires", "expiration", "first_sent_ms", "priority", "delivery_info", "hake-origin",
    "hake_event", "hake_deaths", "x-death", "compression", "body", "headers", "properties", "content-type",
    "content-encoding", "body_encoding", "timelimit", "stamps", "root_id", "reply_to", "MessageGroupId",
    "DelaySeconds", "message_id", "attributes", "exchange", "routing_key", "", "\ud800", "__class__",
    "tenant",
)  # fmt: skip


def odd(random: Random) -> Any:
    """A value that hardly suits."""
    return copy.deepcopy(random.choice(_LEAVES))


def odd_text(random: Random) -> str:
    """A text that hardly suits."""
    while not isinstance(found := odd(random), str):
        pass
    return found


def spoilt(random: Random, document: Any, *, odd_value: Callable[[Random], Any] = odd) -> Any:
    """A copy of a JSON document with one to four changes."""
    document = copy.deepcopy(document)
    for _ in range(random.randint(1, 4)):
        holder, key = _place(random, document)
        if holder is None:
            return odd_value(random)
        action = random.randrange(6)
        if action <= 2:
            holder[key] = odd_value(random)
        elif action == 3:
            del holder[key]
        elif action == 4:
            holder[key] = [holder[key]] if random.random() < 0.5 else {"a": holder[key]}
        elif isinstance(holder, dict):
            holder[random.choice(_KEYS)] = odd_value(random)
        else:
            holder.insert(random.randrange(len(holder) + 1), odd_value(random))
    return document


def _place(random: Random, document: Any) -> tuple[Any, Any]:
    """A container and a key in it; (None, None) where the document has none."""
    places = []
    stack = [document]
    while stack:
        here = stack.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        places += [(here, key) for key in keys]
        stack += [here[key] for key in keys if isinstance(here[key], dict | list)]
    return random.choice(places) if places else (None, None)


def spoilt_text(random: Random, text: str) -> str:
    """The text with some of it removed, repeated, or replaced."""
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice((1, 2, 8, 50)))
        action = random.randrange(4)
        if action == 0:
            text = text[:start] + text[end:]
        elif action == 1:
            text = text[:end] + text[start:end] * random.choice((1, 2, 30)) + text[end:]
        elif action == 2:
            text = text[:start] + odd_text(random)[:200] + text[end:]
        else:
            text = text[:start] + random.choice('{}[]",:\\%*#.0é=') + text[end:]
    return text


def legal(text: str) -> str:
    """As JSON text that SQS accepts: everything beyond ASCII escaped, control characters left out."""
    escaped = json.dumps(text)[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return escaped or " "


def words(random: Random, most: int = 12) -> str:
    """Words and wildcards with dots between them."""
    choice = ("a", "b", "paid", "*", "#", "", "x" * 50, "%", "é", "\ud800", "**", "a*")
    return ".".join(random.choice(choice) for _ in range(random.randrange(most)))
