"""Find remote control commands and events that would end, freeze or misuse a worker. Pure, without Celery.

An exception in the handler of a command is logged and answered (``Node.dispatch`` in ``kombu/pidbox.py``). Some
arguments raise later, where an exception ends the worker: a queue is added and removed by the event loop, a time limit
is read when a task starts, the limits of the pool's size are read by the autoscaler's thread, and a signal is sent when
the task to be terminated has started.

Source:
    ``celery/worker/control.py``, ``Consumer.add_task_queue`` and ``cancel_task_queue``
    (``celery/worker/consumer/consumer.py``), ``celery/worker/autoscale.py``, ``Request.terminate``
    (``celery/worker/request.py``).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from typing import Any, get_args

from kombu_hake.amqp.bindings import ExchangeType
from kombu_hake.amqp.naming import REPLY_PREFIX, is_mailbox
from kombu_hake.amqp.numeric import MAX_WHOLE
from kombu_hake.amqp.tasks import is_time_limit

__all__ = ["answers_elsewhere", "command_fault", "has_slow_pattern", "is_clock"]

#: As in AMQP 0-9-1, where names are short strings.
_MAX_NAME_CHARS = 255
_MAX_POOL_SIZE = 100_000
_MAX_PATTERN_CHARS = 256
#: Each choice in a regular expression multiplies the ways to match: with four, a host name takes milliseconds.
_MAX_CHOICES = 4
_CHOICE = re.compile(r"[*+?{|]")
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
_MISSING = object()


def command_fault(command: object) -> str | None:
    """What is wrong with the arguments of one of Celery's own commands; None if nothing is, and for any other command.

    Args:
        command: The decoded body.
    Returns:
        A clause that quotes nothing from the command, such as ``"queue is of type int, not text"``.
    """
    if not isinstance(command, Mapping):
        return None
    method, arguments = command.get("method"), command.get("arguments")
    if not isinstance(method, str) or not isinstance(arguments, Mapping):
        return None  # Celery refuses it
    for name, is_needed, check in _CHECKS.get(method, ()):
        value = arguments.get(name, _MISSING)
        fault = ("is missing" if is_needed else None) if value is _MISSING else check(value)
        if fault is not None:
            return f"{name} {fault}"
    return None


def answers_elsewhere(command: object, queue: str) -> bool:
    """Return True if a command asks for its answer anywhere but in a reply queue of its own mailbox.

    kombu declares the exchange that the command names, whatever it is, and publishes the answer there.

    Args:
        command: The decoded body.
        queue: The command queue it was received from.
    """
    reply_to = command.get("reply_to") if isinstance(command, Mapping) else None
    if not reply_to:
        return False
    if not isinstance(reply_to, Mapping):
        return True
    exchange, key = reply_to.get("exchange"), reply_to.get("routing_key")
    if not isinstance(exchange, str) or not isinstance(key, str) or not key or not exchange.startswith(REPLY_PREFIX):
        return True
    mailbox = exchange.removeprefix(REPLY_PREFIX)
    return not is_mailbox(mailbox) or not queue.endswith(f".{mailbox}")


def has_slow_pattern(command: object) -> bool:
    """Return True if a command selects workers by a regular expression that may take forever to match a host name.

    kombu matches it in the main process (``Node.handle_message``); ``(.|.)*!`` doubles the time with each character of
    the host name. The check is simple, and also rejects some expressions that are fast.

    Args:
        command: The decoded body.
    """
    if not isinstance(command, Mapping) or command.get("matcher") != "pcre":
        return False
    pattern = command.get("pattern")
    if not isinstance(pattern, str):
        return False  # kombu refuses it
    return (
        len(pattern) > _MAX_PATTERN_CHARS
        or len(_CHOICE.findall(pattern)) > _MAX_CHOICES
        or _REPEATED_GROUP.search(pattern) is not None
    )


def is_clock(value: object) -> bool:
    """Return True if this is the logical clock of a command or an event.

    A worker sets its own clock to the largest one that it has seen, and sends it with each event: a value that is not a
    number, or cannot be written as JSON, would make all its events fail.
    """
    return isinstance(value, int) and 0 <= value <= MAX_WHOLE


def _a(value: object) -> str:
    return f"is of type {type(value).__name__}"


def _name(value: object) -> str | None:
    if not isinstance(value, str):
        return f"{_a(value)}, not text"
    return None if 0 < len(value) <= _MAX_NAME_CHARS else f"does not have 1 to {_MAX_NAME_CHARS} characters"


def _text(value: object) -> str | None:
    """An exchange may be AMQP's default one, and a routing key empty."""
    return None if value is None or value == "" else _name(value)


def _exchange_type(value: object) -> str | None:
    is_known = value is None or value in ("", *get_args(ExchangeType))
    return None if is_known else "is not one of direct, topic, fanout and headers"


def _time_limit(value: object) -> str | None:
    is_known = value is None or (isinstance(value, int | float) and is_time_limit(value))
    return None if is_known else "is not a number of seconds"


def _size(value: object) -> str | None:
    is_known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_POOL_SIZE
    return None if is_known else f"is not a whole number from 0 to {_MAX_POOL_SIZE:,}"


def _size_or_none(value: object) -> str | None:
    return None if value is None else _size(value)


def _signal(value: object) -> str | None:
    if not value:
        return None  # Celery's default
    names = signal.Signals.__members__
    if isinstance(value, str):
        is_known = value in names or f"SIG{value}" in names
    else:
        is_known = isinstance(value, int) and value in signal.valid_signals()
    return None if is_known else "is not a signal of this system"


_Check = tuple[str, bool, Callable[[Any], str | None]]
#: The arguments to check, by command: name, whether it is required, and a function that finds what is wrong.
_CHECKS: Mapping[str, tuple[_Check, ...]] = {
    "add_consumer": (
        ("queue", True, _name),
        ("exchange", False, _text),
        ("exchange_type", False, _exchange_type),
        ("routing_key", False, _text),
    ),
    "cancel_consumer": (("queue", True, _name),),
    "time_limit": (("soft", False, _time_limit), ("hard", False, _time_limit)),
    "autoscale": (("max", False, _size_or_none), ("min", False, _size_or_none)),
    "pool_grow": (("n", False, _size),),
    "pool_shrink": (("n", False, _size),),
    "revoke": (("signal", False, _signal),),
    "terminate": (("signal", False, _signal),),
    "revoke_by_stamped_headers": (("signal", False, _signal),),
}
