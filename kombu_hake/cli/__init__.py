"""``celery -A app hake …``: each command prints what :mod:`kombu_hake.admin` finds or does.

In: arguments and a Celery app. Out: text or JSON on standard output, notes on standard error, an exit code. Open
``main.py`` for ``groups`` and ``graph``; ``dlq.py``, ``janitor.py`` and ``cost.py`` hold one command each,
``tables.py`` and ``graph.py`` format the answers, ``tools.py`` is shared by the commands.
"""

from __future__ import annotations

from kombu_hake.cli.main import hake

__all__ = ["hake"]
