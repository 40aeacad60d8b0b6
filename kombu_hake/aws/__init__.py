"""The only door to AWS. No other package imports boto3, botocore or urllib3.

In: a call by its name with boto3's parameters, on a :class:`Clients` of one :class:`~kombu_hake.config.Settings`. Out:
boto3's answer, checked, or an error of :mod:`kombu_hake.exceptions`.

================================ =====================================================================================
to change                        open
================================ =====================================================================================
how a call is made, and retried  ``clients.py``, ``retry.py``; S3: ``s3.py``
the hot calls of SQS and SNS     ``wire.py``, and below it ``http.py``, ``sigv4.py``, ``query.py``
what an answer or error means    ``answers.py``, ``error_table.py``; how large and late it may be: ``timely.py``
credentials, AWS's clock         ``credentials.py``, ``clock.py``
threads, forks, caches           ``background.py``, ``senders.py``, ``forksafe.py``, ``concurrency.py``
whether a thread is stuck        ``pulse.py``
================================ =====================================================================================
"""

from __future__ import annotations

from kombu_hake.aws import forksafe
from kombu_hake.aws.background import Background
from kombu_hake.aws.clients import Clients, boto_client, shared_clients
from kombu_hake.aws.concurrency import Once, Reentry, SingleFlight, TtlCache, backoff_s
from kombu_hake.aws.error_table import entry_error
from kombu_hake.aws.pulse import Pulse, Vital, Wait, waits_until
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
    "waits_until",
]
