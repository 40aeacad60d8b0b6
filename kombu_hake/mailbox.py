"""Names of kombu's mailboxes (remote control): their exchanges, and the queues that wait for replies. Pure.

``kombu/pidbox.py``: a command is published to ``<namespace>.pidbox``, and each answer to ``reply.<namespace>.pidbox``,
with the id of the mailbox that asked as routing key. That mailbox waits in the queue ``<id>.reply.<namespace>.pidbox``.
"""

from __future__ import annotations

__all__ = ["REPLY_POLL_S", "is_mailbox", "is_reply_exchange", "is_reply_queue", "reply_queue"]

_SUFFIX = ".pidbox"
#: Length of a long poll of a queue that waits for replies, s: who asks waits for about a second, and the poll that is
#: open when the waiting ends keeps its thread and its connection for so long.
REPLY_POLL_S = 2


def is_mailbox(exchange: str) -> bool:
    """Whether commands or replies of remote control go through this exchange."""
    return exchange.endswith(_SUFFIX)


def is_reply_exchange(exchange: str) -> bool:
    """Whether replies are published here: they go straight to a queue, with no SNS in between."""
    return exchange.startswith("reply.") and is_mailbox(exchange)


def reply_queue(exchange: str, routing_key: str) -> str:
    """The queue that waits for replies published to *exchange* (``Mailbox.get_reply_queue``)."""
    return f"{routing_key}.{exchange}"


def is_reply_queue(queue: str) -> bool:
    """Whether a queue waits for replies."""
    return is_reply_exchange(queue.partition(".")[2])
