"""The only door to AWS.

In: calls by name, with boto3's parameters. Out: boto3's answers, or errors of :mod:`kombu_hake.exceptions`. Also what
every caller of AWS needs: its clock, threads that survive a fork, back-off and caches.
"""

from __future__ import annotations

from kombu_hake.aws import clients, forksafe
from kombu_hake.aws.background import Background
from kombu_hake.aws.clients import Clients, shared_clients
from kombu_hake.aws.concurrency import Once, Reentry, SingleFlight, TtlCache, backoff_s
from kombu_hake.aws.error_table import entry_error
from kombu_hake.aws.senders import Senders, start_thread

__all__ = [
    "Background",
    "Clients",
    "Once",
    "Reentry",
    "Senders",
    "SingleFlight",
    "TtlCache",
    "backoff_s",
    "clients",
    "entry_error",
    "forksafe",
    "shared_clients",
    "start_thread",
]
