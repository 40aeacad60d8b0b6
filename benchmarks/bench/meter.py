"""Measures one stretch of work in this process: time, processor, memory, requests."""

from __future__ import annotations

import resource
import time
from types import TracebackType
from typing import Any

from support.proxy_control import RemoteProxy

from .peers import Broker


class Meter:
    """``with Meter(broker) as meter: ...`` and then ``meter.result(count)``."""

    def __init__(self, broker: Broker) -> None:
        self._proxy = RemoteProxy(broker.proxy_url) if broker.proxy_url else None
        self.requests: dict[str, int] = {}

    def __enter__(self) -> Meter:
        if self._proxy:
            self._proxy.reset_stats()
        self._cpu_s, self._started_at = cpu_s(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._started_at
        self.cpu_s = cpu_s() - self._cpu_s
        if self._proxy:
            stats = self._proxy.stats()
            self.requests, self.proxy_cpu_s = stats["requests"], stats["cpu_s"]

    def result(self, count: int) -> dict[str, Any]:
        """Figures for ``count`` messages.

        Returns:
            ``count``, ``seconds``, ``rate`` (per second), ``cpu_ms`` (of this process, per message), ``peak_mb`` (over
            its whole life), and behind the proxy ``requests`` by action, ``per_message`` and ``proxy_load`` (0..1).
        """
        figures: dict[str, Any] = {
            "count": count,
            "seconds": self.seconds,
            "rate": count / self.seconds,
            "cpu_ms": self.cpu_s / count * 1000,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if self._proxy:
            figures["requests"] = self.requests
            figures["per_message"] = sum(self.requests.values()) / count
            figures["proxy_load"] = self.proxy_cpu_s / self.seconds
        return figures


def cpu_s() -> float:
    """Processor seconds of this process so far, user and system, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
