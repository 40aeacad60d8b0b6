"""Many workers on two cores: threads whose time is virtual, so that it passes while AWS is waited for, not while Python
computes.

One thread runs at a time, and the clock jumps to whatever is due next. What a fleet of fifty processes takes on fifty
machines is then the same here, however busy this machine is.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fakes import FakeClients, FakeClock

from kombu_hake.aws.clock import AwsClock
from kombu_hake.aws.retry import Tries
from kombu_hake.exceptions import BrokerUnavailable

#: How long a throttled control call is tried again (``aws/clients.py``).
_PATIENCE_S = 90.0


class VirtualTime:
    """Runs threads by turns. Inside of them ``time.sleep`` and ``time.monotonic`` are virtual."""

    def __init__(self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = clock
        self._waiting: list[tuple[float, int, threading.Event]] = []
        self._numbers = itertools.count()
        self._paused = threading.Event()
        self._threads: set[int] = set()
        self.errors: list[BaseException] = []
        sleep, monotonic = time.sleep, time.monotonic
        monkeypatch.setattr(time, "sleep", lambda s: self.sleep(s) if self._is_virtual() else sleep(s))
        monkeypatch.setattr(time, "monotonic", lambda: self.clock() if self._is_virtual() else monotonic())

    def _is_virtual(self) -> bool:
        return threading.get_ident() in self._threads

    def sleep(self, seconds: float) -> None:
        """In a thread of :meth:`run`: let others run until so much time has passed."""
        event = threading.Event()
        heapq.heappush(self._waiting, (self.clock() + max(0.0, seconds), next(self._numbers), event))
        self._paused.set()
        event.wait()

    def run(self, functions: Sequence[Callable[[], None]]) -> None:
        """Run functions, each in a thread, until all have returned. Raises the first error of one."""

        def begin(function: Callable[[], None], event: threading.Event) -> None:
            event.wait()
            self._threads.add(threading.get_ident())
            try:
                function()
            except BaseException as exc:
                self.errors.append(exc)
            self._threads.discard(threading.get_ident())
            self._paused.set()

        for function in functions:
            event = threading.Event()
            heapq.heappush(self._waiting, (self.clock(), next(self._numbers), event))
            threading.Thread(target=begin, args=(function, event), daemon=True).start()
        while self._waiting:
            at, _, event = heapq.heappop(self._waiting)
            self.clock.advance(max(0.0, at - self.clock()))
            self._paused.clear()
            event.set()
            assert self._paused.wait(60), "a thread neither sleeps nor ends"
        if self.errors:
            raise self.errors[0]


class VirtualClients:
    """As :class:`kombu_hake.aws.clients.Clients`, on a fake that is *latency_s* away. Repeats throttled calls."""

    def __init__(self, fake: FakeClients, virtual: VirtualTime, latency_s: float) -> None:
        self._fake = fake
        self._virtual = virtual
        self._latency_s = latency_s
        self._aws_clock = AwsClock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fake, name)

    def sqs(self, operation: str, **params: Any) -> dict[str, Any]:
        return self._call(self._fake.sqs, operation, params)

    def sns(self, operation: str, **params: Any) -> dict[str, Any]:
        return self._call(self._fake.sns, operation, params)

    def _call(self, call: Callable[..., dict[str, Any]], operation: str, params: dict[str, Any]) -> dict[str, Any]:
        tries = Tries(3, self._aws_clock, throttled_s=_PATIENCE_S)
        while True:
            self._virtual.sleep(self._latency_s)
            try:
                return call(operation, **params)
            except BrokerUnavailable as exc:
                pause_s = tries.pause_s(exc)
                if pause_s is None:
                    raise
                self._virtual.sleep(pause_s)
