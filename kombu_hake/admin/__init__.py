"""Operate an app's queues, groups and dead letters from Python, as the ``celery hake`` commands do.

Start with :func:`connect`::

    from kombu_hake import admin

    with admin.connect(app) as broker:
        for queue in broker.queues():
            print(queue.name, queue.ready, queue.dead)
        for letter in broker.dead_letters("email"):
            print(letter.task, letter.reason, letter.exception)
        outcome = broker.requeue("email", admin.Selection(exception="ConnectionError"))

In: a Celery app. Out: values such as :class:`QueueInfo` and :class:`DeadLetter`, and the outcome of a requeue or purge.
Importing it does not connect; needs Celery.

============================= ========================================================================================
to change                     open
============================= ========================================================================================
what an operator can ask for  ``connection.py``: :class:`Admin`
counts and bindings           ``queues.py``
what AWS lacks, and making it ``plan.py``
what an app declares          ``declared.py``, and what that is in AWS
why messages do not arrive    ``check/``
infrastructure code           ``export/``
dead letters                  ``dead_letters.py``: looking at them, and sending them back
deleting an environment       ``namespace.py``
the health of a worker        ``worker_health.py``
============================= ========================================================================================
"""

from __future__ import annotations

from kombu_hake.admin.check import CheckReport, Finding, Probed, Right
from kombu_hake.admin.connection import Admin, connect, group_names
from kombu_hake.admin.dead_letters import DeadLetter, Outcome, Selection
from kombu_hake.admin.plan import Applied, Change, Plan, Undeclared
from kombu_hake.admin.queues import Binding, Group, QueueInfo, breaches
from kombu_hake.admin.worker_health import health
from kombu_hake.temporary import Found, Report

__all__ = [
    "Admin",
    "Applied",
    "Binding",
    "Change",
    "CheckReport",
    "DeadLetter",
    "Finding",
    "Found",
    "Group",
    "Outcome",
    "Plan",
    "Probed",
    "QueueInfo",
    "Report",
    "Right",
    "Selection",
    "Undeclared",
    "breaches",
    "connect",
    "group_names",
    "health",
]
