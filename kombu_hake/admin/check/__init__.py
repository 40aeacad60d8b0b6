"""Find out why messages do not arrive, or soon may not: :func:`check`.

In: an app's declarations, and what AWS shows. Out: :class:`CheckReport`, a list of :class:`Finding`. Open
``findings.py`` for all that can be found, ``reading.py`` for what is asked of AWS, ``queues.py``, ``subscriptions.py``,
``stores.py`` and ``place.py`` for how it is judged (pure), ``rights.py`` for the roles, and ``probe.py`` for the proof
of a delivery.
"""

from __future__ import annotations

from kombu_hake.admin.check.findings import CODES, Code, Finding
from kombu_hake.admin.check.probe import Probed
from kombu_hake.admin.check.rights import Right
from kombu_hake.admin.check.running import CheckReport, check

__all__ = ["CODES", "CheckReport", "Code", "Finding", "Probed", "Right", "check"]
