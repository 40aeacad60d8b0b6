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
Importing it does not connect; needs Celery. Open ``connection.py`` for :class:`Admin`, ``queues.py`` for counts and
bindings, ``plan.py`` for what AWS lacks and making it, ``declared.py`` and ``blueprint.py`` for what an app declares
and what that is in AWS, ``export/`` for infrastructure code, ``dead_letters.py`` for looking at dead letters and
sending them back, ``namespace.py`` for deleting an environment.
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
