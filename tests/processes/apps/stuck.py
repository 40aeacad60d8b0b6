"""A worker of which parts get stuck when a file appears, with shorter limits: ``celery -A apps.stuck worker``.

``STUCK`` names the file; its content says which part. The event loop goes on when the file is gone.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

from apps.plain import app
from kombu_hake import transport
from kombu_hake.receive import receiver
from kombu_hake.worker import health

__all__ = ["app"]

FILE = Path(os.environ["STUCK"])
if "REAL_LIMITS" not in os.environ:
    health.TURN_S, health.DEAD_S, health._EVERY_S = 6.0, 2.0, 0.2
    transport._LOOK_AFTER_S = receiver._LOOK_AGAIN_S = 1.0


def wanted(what: str) -> bool:
    return FILE.exists() and FILE.read_text() == what


class _Killed(BaseException):
    """Passes what catches errors."""


@worker_ready.connect(weak=False)
def prepare(sender: Any, **_kwargs: Any) -> None:
    main = threading.current_thread()

    def block_loop() -> None:
        while wanted("loop"):
            time.sleep(0.05)

    if sender.hub is not None:
        sender.hub.call_repeatedly(0.1, block_loop)

    poll = receiver.Receiver._poll
    start = receiver.start_thread

    def _poll(self: Any, source: Any, asked: int, wait_s: Any) -> Any:
        found = poll(self, source, asked, wait_s)
        if source.name == "celery" and (wanted("killed") or wanted("poller")):
            FILE.with_name("began").touch()
        if source.name == "celery" and wanted("killed"):
            raise _Killed
        while source.name == "celery" and wanted("poller"):
            time.sleep(0.05)
        return found

    def start_thread(target: Any, name: str) -> Any:
        if threading.current_thread() is main and wanted("killed"):  # the machine has no thread left
            return None
        return start(target, name)

    receiver.Receiver._poll = _poll  # type: ignore[method-assign]
    receiver.start_thread = start_thread
