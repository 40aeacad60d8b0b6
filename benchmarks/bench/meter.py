"""Measures one stretch of work in this process: time, processor, memory, requests."""

from __future__ import annotations

import resource
import time
from types import TracebackType
from typing import Any

from . import procfs
from .peers import Broker
from .standin import control


class Meter:
    """``with Meter(broker) as meter: ...`` in the main thread, and then ``meter.result(count)``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.requests: dict[str, int] = {}
        self.messages: dict[str, int] = {}

    def __enter__(self) -> Meter:
        if self._broker.is_aws:
            control(self._broker.side_url, reset=True)
        self._server_s = procfs.cpu_s(self._broker.server_pids)
        self._before, self.started_at = _usage(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self.started_at
        self.used = _usage().since(self._before)
        self.server_s = procfs.cpu_s(self._broker.server_pids) - self._server_s
        if self._broker.is_aws:
            stats = control(self._broker.side_url)
            self.requests, self.messages = stats["requests"], stats["messages"]

    def result(self, count: int) -> dict[str, Any]:
        """Figures for ``count`` messages.

        Returns:
            ``count``, ``seconds``, ``rate`` (per second), processor time as ``procfs.Usage.per_message``, ``server_us``
            (of the broker or stand-in), ``peak_mb`` (of this process, over its whole life), and on AWS ``requests`` and
            ``messages`` by action and ``per_message`` (requests).
        """
        figures: dict[str, Any] = {
            "count": count,
            "seconds": self.seconds,
            "rate": count / self.seconds,
            **self.used.per_message(count),
            "server_us": self.server_s / count * 1e6,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if self._broker.is_aws:
            figures |= {"requests": self.requests, "messages": self.messages}
            figures["per_message"] = sum(self.requests.values()) / count
        return figures


def _usage() -> procfs.Usage:
    own_s = time.process_time()
    return procfs.Usage(own_s=own_s, main_thread_s=time.thread_time(), tree_s=own_s)
