"""Spares ``celery worker`` the imports that only other commands need, which is a third of the work of a start.

They are Flower and the interactive shell of ``celery amqp``. Python imports this module at its start, as its folder is
on the path of workers.
"""

import sys
from types import ModuleType

if "worker" in sys.orig_argv:
    shell = ModuleType("click_repl")
    shell.register_repl = lambda group: None  # type: ignore[attr-defined]
    sys.modules["click_repl"] = shell
    sys.modules["flower"] = None  # type: ignore[assignment]
