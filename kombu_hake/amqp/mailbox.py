"""Names of kombu's mailboxes (remote control): their exchanges, and the queues that wait for replies. Pure.

``kombu/pidbox.py``: a command is published to ``<namespace>.pidbox``, and each answer to ``reply.<namespace>.pidbox``,
with the id of the mailbox that asked as routing key. That mailbox waits in the queue ``<id>.reply.<namespace>.pidbox``.
Each worker takes its commands from the queue ``<hostname>.<namespace>.pidbox``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = [
    "REPLY_POLL_S",
    "answers_elsewhere",
    "has_slow_pattern",
    "is_command_queue",
    "is_mailbox",
    "is_reply_exchange",
    "is_reply_queue",
    "reply_queue",
]

_SUFFIX = ".pidbox"
_REPLY = "reply."
#: Length of a long poll of a queue that waits for replies, s: who asks waits for about a second, and the poll that is
#: open when the waiting ends keeps its thread and its connection for so long.
REPLY_POLL_S = 2
_MAX_PATTERN_CHARS = 256
#: Each choice that a regular expression leaves multiplies the ways to match: with four, a host name takes milliseconds.
_MAX_CHOICES = 4
_CHOICE = re.compile(r"[*+?{|]")
_REPEATED_GROUP = re.compile(r"\)[*+?{]")


def is_mailbox(exchange: str) -> bool:
    """Whether commands or replies of remote control go through this exchange."""
    return exchange.endswith(_SUFFIX)


def is_reply_exchange(exchange: str) -> bool:
    """Whether replies are published here: they go straight to a queue, with no SNS in between."""
    return exchange.startswith(_REPLY) and is_mailbox(exchange)


def reply_queue(exchange: str, routing_key: str) -> str:
    """The queue that waits for replies published to *exchange* (``Mailbox.get_reply_queue``)."""
    return f"{routing_key}.{exchange}"


def is_reply_queue(queue: str) -> bool:
    """Whether a queue waits for replies."""
    owner, _, exchange = queue.partition(".")
    return "@" not in owner and is_reply_exchange(exchange)  # w@one.reply.example.celery.pidbox: a worker's commands


def is_command_queue(queue: str) -> bool:
    """Whether a queue holds commands for one worker."""
    return is_mailbox(queue) and not is_reply_queue(queue)


def answers_elsewhere(command: object, queue: str) -> bool:
    """Whether a command asks for its answer anywhere but in a reply queue of its own mailbox.

    kombu declares the exchange that the command names and publishes the answer there, whatever it is.

    Args:
        command: The decoded body.
        queue: The command queue that it lies in.
    """
    reply_to = command.get("reply_to") if isinstance(command, Mapping) else None
    if not reply_to:
        return False
    if not isinstance(reply_to, Mapping):
        return True
    exchange, key = reply_to.get("exchange"), reply_to.get("routing_key")
    if not isinstance(exchange, str) or not isinstance(key, str) or not key or not exchange.startswith(_REPLY):
        return True
    mailbox = exchange.removeprefix(_REPLY)
    return not is_mailbox(mailbox) or not queue.endswith(f".{mailbox}")


def has_slow_pattern(command: object) -> bool:
    """Tell whether a command selects workers by a regular expression that may take for ever to match a host name.

    kombu matches it in the main process (``Node.handle_message``); ``(.|.)*!`` doubles the time with each character of
    the host name. What counts as slow here is simple to check and wider than what really is.

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
