"""The only door to AWS. No other package imports boto3, botocore or urllib3.

In: a call by its name with boto3's parameters, on a :class:`Clients` of one :class:`~kombu_hake.config.Settings`. Out:
boto3's answer, checked, or an error of :mod:`kombu_hake.exceptions`. Open ``clients.py`` for how a call is made,
``wire.py`` and ``sigv4.py`` for the fast path of five SQS calls, ``error_table.py`` and ``answers.py`` for AWS's
answers, ``concurrency.py``, ``senders.py`` and ``forksafe.py`` for caches, threads and forks, ``pulse.py`` for their
health.
"""

from __future__ import annotations

from kombu_hake.aws import forksafe
from kombu_hake.aws.background import Background
from kombu_hake.aws.clients import Clients, boto_client, shared_clients
from kombu_hake.aws.concurrency import Once, Reentry, SingleFlight, TtlCache, backoff_s
from kombu_hake.aws.error_table import entry_error
from kombu_hake.aws.pulse import Pulse, Vital, Wait, waits_until
from kombu_hake.aws.reach import unreachable_at
from kombu_hake.aws.retry import patience
from kombu_hake.aws.senders import Senders, start_thread
from kombu_hake.aws.wire import answer_limit_s

__all__ = [
    "Background",
    "Clients",
    "Once",
    "Pulse",
    "Reentry",
    "Senders",
    "SingleFlight",
    "TtlCache",
    "Vital",
    "Wait",
    "answer_limit_s",
    "backoff_s",
    "boto_client",
    "entry_error",
    "forksafe",
    "patience",
    "shared_clients",
    "start_thread",
    "unreachable_at",
    "waits_until",
]
