"""``celery -A app hake …``: each command prints what :mod:`kombu_hake.admin` finds or does.

In: arguments and a Celery app. Out: text or JSON on standard output, notes on standard error, an exit code. Each
command is in the module of its name; ``apply`` is in ``plan.py``, and ``groups`` in ``queues.py``. Open ``main.py`` for
their list, ``tables.py`` for the format of the answers, ``tools.py`` for what commands share.
"""

from __future__ import annotations

from kombu_hake.cli.main import hake

__all__ = ["hake"]
