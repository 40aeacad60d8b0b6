"""From AWS to the consumer's callback, and to the settled delivery.

In: long polls of the consumed queues, within the prefetch count. Out: :class:`HakeMessage` objects for kombu, leases
that are renewed until settled, deletes in batches, and dead letters.
"""

from __future__ import annotations

from kombu_hake.receive.dead_letters import DeadLetters, SourceQueue
from kombu_hake.receive.deferring import Deferring
from kombu_hake.receive.deliveries import Deliveries, How, Inbox, Item
from kombu_hake.receive.delivery import Delivery, Lease, LostLease, Why
from kombu_hake.receive.gate import Admitted, Gate, summary
from kombu_hake.receive.leases import Leases
from kombu_hake.receive.messages import CommandMessage, HakeMessage, about, receive_count, to_message
from kombu_hake.receive.payloads import Payloads
from kombu_hake.receive.receiver import Receiver, receive_params, report_poll

__all__ = [
    "Admitted",
    "CommandMessage",
    "DeadLetters",
    "Deferring",
    "Deliveries",
    "Delivery",
    "Gate",
    "HakeMessage",
    "How",
    "Inbox",
    "Item",
    "Lease",
    "Leases",
    "LostLease",
    "Payloads",
    "Receiver",
    "SourceQueue",
    "Why",
    "about",
    "receive_count",
    "receive_params",
    "report_poll",
    "summary",
    "to_message",
]
