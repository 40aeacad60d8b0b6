"""Celery's messages: their headers and names, our own exchange, and the validation of tasks. Pure, without Celery.

Celery's worker reads the headers of a task in its main process and trusts their types: a name that is a list, a
time limit that is a word, or a body nested too deeply to be pickled raises outside of any task, and ends the worker.
A message in which :func:`fault_of` finds a fault never reaches Celery.

Source:
    ``celery/worker/consumer/consumer.py`` (``create_task_handler``), ``celery/worker/strategy.py``,
    ``celery/worker/request.py``, ``celery/concurrency/asynpool.py``, ``celery/app/amqp.py`` (``as_task_v2``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any

from kombu_hake.amqp.documents import SCALARS, is_deeper
from kombu_hake.amqp.limits import MAX_NESTING

__all__ = [
    "EVENT_HEADER",
    "EVENT_TASK",
    "MAX_NAME_CHARS",
    "ORIGIN_HEADER",
    "PRIVATE_EXCHANGE",
    "fault_of",
    "is_plain",
    "is_task",
    "is_time_limit",
]

#: Publishing here is a SendMessage to the queue that the routing key names; declaring it does nothing.
PRIVATE_EXCHANGE = "hake.queue"
#: Header of a task that was received through an exchange: ``{"exchange": …, "routing_key": …}`` of its first publish.
ORIGIN_HEADER = "hake-origin"
#: The task name that an event carries. No code runs under this name: a worker hands the event over to handlers.
EVENT_TASK = "kombu_hake.event"
#: Header of a handler's message: ``{"id": …, "topic": …, "key": …, "group": …}``.
EVENT_HEADER = "hake_event"
#: Longest name or id of a task. Celery logs both, and keeps ids in memory.
MAX_NAME_CHARS = 1_024
#: Outside these years, a time zone conversion overflows.
_YEARS = range(2, 9_998)
#: A hundred years; timers cannot wait for much longer.
_MAX_TIME_LIMIT_S = 3_200_000_000
_MAX_COUNT = 2**31


def is_task(headers: Mapping[str, Any]) -> bool:
    """Return True if the headers are those of a Celery task (protocol 2)."""
    return "task" in headers and "id" in headers


def fault_of(headers: Mapping[str, Any], properties: Mapping[str, Any], payload: Any) -> str | None:
    """What is wrong with a task message; None if nothing is.

    Args:
        headers: With ``task``; of a message of protocol 1, its payload.
        payload: The decoded body: ``[args, kwargs, embed]``, or a mapping with ``args`` and ``kwargs`` (protocol 1).
    Returns:
        A clause in ASCII that quotes nothing from the message, such as ``"id is a list, not text"``.
    """
    get = headers.get
    texts = [*map(get, _TEXTS), properties.get("reply_to"), properties.get("correlation_id")]
    if not (_TEXT_OR_NONE.issuperset(map(type, texts)) and all(map(str.isascii, filter(None, texts)))):
        for name, value in zip((*_TEXTS, "reply_to", "correlation_id"), texts, strict=True):
            if value is not None and (fault := _text(value)) is not None:
                return f"{name} {fault}"
    if texts[0] is None or texts[1] is None:
        return f"{_TEXTS[texts.index(None)]} is missing"
    if max(map(len, filter(None, texts[:_NAMES])), default=0) > MAX_NAME_CHARS:
        return f"a name or id is longer than {MAX_NAME_CHARS} characters"
    for name, check in _OTHERS:
        value = get(name)
        if value is not None and (fault := check(value)) is not None:
            return f"{name} {fault}"
    for values in (headers.values(), properties.values()):
        if any(is_deeper(value, MAX_NESTING) for value in values if value and type(value) not in SCALARS):
            return "its headers are nested too deep"
    return (_embed_fault(headers) if _SIGNATURES.intersection(headers) else None) or _payload_fault(payload)


def _payload_fault(payload: Any) -> str | None:
    if isinstance(payload, dict):
        args, kwargs, embed = payload.get("args", ()), payload.get("kwargs", {}), payload
    elif isinstance(payload, list | tuple) and len(payload) == 3:
        args, kwargs, embed = payload
    else:
        return f"its body is {_a(payload)}, not [args, kwargs, embed]"
    if not isinstance(args, list | tuple):
        return f"args is {_a(args)}, not a list"
    if not isinstance(kwargs, dict):
        return f"kwargs is {_a(kwargs)}, not an object"
    if embed is None:
        return None
    if not isinstance(embed, dict):
        return f"the third part of its body is {_a(embed)}, not an object"
    return _embed_fault(embed)


def _embed_fault(embed: Mapping[str, Any]) -> str | None:
    for name in _SIGNATURES:
        value = embed.get(name)
        if value is None:
            continue
        signatures = value if isinstance(value, list | tuple) and name != "chord" else [value]
        if not all(_is_signature(signature) for signature in signatures):
            return f"{name} is not a signature" if name == "chord" else f"{name} is not a list of signatures"
    return None


def _is_signature(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("task"), str)


def _a(value: Any) -> str:
    return f"of type {type(value).__name__}"


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"is {_a(value)}, not text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half of a surrogate pair"
    return None


def _moment(value: Any) -> str | None:
    if isinstance(value, str):
        from celery.utils.time import maybe_iso8601  # what Celery will do

        try:
            value = maybe_iso8601(value)
        except Exception:  # its parser passes on whatever int() and datetime() raise
            return "is not a date and time"
    if not isinstance(value, datetime):
        return f"is {_a(value)}, not a date and time"
    return None if value.year in _YEARS else "is too far away"


def _count(value: Any) -> str | None:
    if not isinstance(value, int):
        return f"is {_a(value)}, not an integer"
    return None if 0 <= value < _MAX_COUNT else "is out of range"


def _time_limits(value: Any) -> str | None:
    if value == [None, None]:
        return None
    if not isinstance(value, list | tuple) or len(value) not in (0, 2):
        return "is not a pair"
    for limit in value:
        if limit is not None and not (isinstance(limit, int | float) and is_time_limit(limit)):
            return "holds something other than seconds"
    return None


def is_time_limit(limit: float) -> bool:
    """Return True if *limit* is a valid time limit for Celery, in seconds: from 0 to a hundred years."""
    return 0 <= limit <= _MAX_TIME_LIMIT_S and not math.isnan(limit)


def _stamped(value: Any) -> str | None:
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(item, str) for item in value):
        return "is not a list of texts"
    return None


def _stamps(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"is {_a(value)}, not an object"


_SIGNATURES = frozenset({"callbacks", "errbacks", "chain", "chord"})
_TEXTS = ("task", "id", "shadow", "root_id", "parent_id", "group", "origin", "argsrepr", "kwargsrepr")
#: How many of these are names or ids.
_NAMES = 6
_TEXT_OR_NONE = frozenset({str, type(None)})
_OTHERS: tuple[tuple[str, Callable[[Any], str | None]], ...] = (
    ("group_index", _count),
    ("eta", _moment),
    ("expires", _moment),
    ("retries", _count),
    ("timelimit", _time_limits),
    ("stamped_headers", _stamped),
    ("stamps", _stamps),
    ("replaced_task_nesting", _count),
)


#: In the order of :func:`is_plain`. Celery writes all of them.
_PLAIN_HEADERS = itemgetter(
    "task", "id", "root_id", "origin", "argsrepr", "kwargsrepr", "parent_id", "group", "shadow", "group_index", "eta",
    "expires", "retries", "timelimit", "stamped_headers", "stamps", "replaced_task_nesting",
)  # fmt: skip
_NO_TIME_LIMITS = [None, None]
_NO_SIGNATURES = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def is_plain(headers: Mapping[str, Any], properties: Mapping[str, Any], payload: Any) -> bool:
    """Return True if a task message is so plain, as most are, that :func:`fault_of` has nothing to check.

    Four times as fast. Does not check how deep the headers are nested: :mod:`kombu_hake.amqp.envelope` treats a message
    with deep headers as a foreign one.

    Returns:
        True only if :func:`fault_of` finds nothing. False is inconclusive.
    """
    try:
        (
            task, id_, root_id, origin, argsrepr, kwargsrepr, parent_id, group, shadow, group_index, eta, expires,
            retries, time_limits, stamped_headers, stamps, nesting,
        ) = _PLAIN_HEADERS(headers)  # fmt: skip
        args, kwargs, embed = payload
        correlation_id, reply_to = properties["correlation_id"], properties["reply_to"]
    except (KeyError, TypeError, ValueError):
        return False
    return (
        type(task) is str
        and type(id_) is str
        and type(root_id) is str
        and type(origin) is str
        and type(argsrepr) is str
        and type(kwargsrepr) is str
        and type(correlation_id) is str
        and type(reply_to) is str
        and task.isascii()
        and id_.isascii()
        and root_id.isascii()
        and origin.isascii()
        and argsrepr.isascii()
        and kwargsrepr.isascii()
        and correlation_id.isascii()
        and reply_to.isascii()
        and len(task) + len(id_) + len(root_id) <= MAX_NAME_CHARS
        and (parent_id is None or _is_plain_name(parent_id))
        and (group is None or _is_plain_name(group))
        and shadow is None
        and eta is None
        and expires is None
        and stamped_headers is None
        and (group_index is None or (type(group_index) is int and 0 <= group_index < _MAX_COUNT))
        and type(retries) is int
        and 0 <= retries < _MAX_COUNT
        and type(nesting) is int
        and 0 <= nesting < _MAX_COUNT
        and time_limits == _NO_TIME_LIMITS
        and type(stamps) is dict
        and not stamps
        and type(payload) is list
        and type(args) is list
        and type(kwargs) is dict
        and embed == _NO_SIGNATURES
        and headers.keys().isdisjoint(_SIGNATURES)
    )


def _is_plain_name(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_NAME_CHARS and value.isascii()
