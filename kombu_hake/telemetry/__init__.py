"""Metrics and traces through OpenTelemetry's API; which SDK collects them, if any, is the application's choice.

In: what the other packages have done, reported where it is decided. Out: instruments and spans of OpenTelemetry.
:func:`load` imports OpenTelemetry, and only where it is installed and not turned off; the rest of the package keeps the
:class:`Telemetry` that it returns, or None, and checks just that. Open ``metrics.py`` for an instrument, ``traces.py``
for a span, ``names.py`` for what they are called.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from kombu_hake.quoting import guarded
from kombu_hake.telemetry.safety import report
from kombu_hake.telemetry.values import Received

if TYPE_CHECKING:
    from kombu_hake.telemetry.metrics import PollClock
    from kombu_hake.telemetry.traces import Processing
else:  # these modules import OpenTelemetry; others need the names for annotations alone
    PollClock = Processing = Any

__all__ = ["PollClock", "Processing", "Received", "Telemetry", "is_celery_instrumented", "load", "report"]

logger = guarded(logging.getLogger(__name__))


class Telemetry:
    """Metrics and traces together, as the parts of a connection get them. Safe to share between threads."""

    def __init__(self, meter_provider: Any = None, tracer_provider: Any = None) -> None:
        """Import OpenTelemetry, and use these providers, or those that the application sets for the process, now or
        later.
        """
        from kombu_hake.telemetry.metrics import Metrics
        from kombu_hake.telemetry.traces import Traces

        self.metrics = Metrics(meter_provider)
        self.traces = Traces(tracer_provider)

    def is_on(self) -> bool:
        """Return True if anything is reported: the application has set a provider of metrics or of traces."""
        return self.metrics.is_on() or self.traces.is_on()


class _OfProcess:
    """The telemetry of this process, once it has been asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[Telemetry | None] = []

    def reset_after_fork(self) -> None:
        """A child counts its own work."""
        self._lock = threading.Lock()
        for telemetry in self._found:
            if telemetry is not None:
                telemetry.metrics.reset_after_fork()

    def get(self) -> Telemetry | None:
        """Import it at the first call."""
        if not self._found:
            with self._lock:
                if not self._found:
                    self._found.append(_import())
        return self._found[0]


def load() -> Telemetry | None:
    """The telemetry of this process; None where OpenTelemetry's API or its semantic conventions are not installed."""
    return _of_process.get()


def _import() -> Telemetry | None:
    try:
        return Telemetry()
    except Exception as exc:  # an installation that is incomplete may raise anything; messages matter more
        if isinstance(exc, ModuleNotFoundError) and (exc.name or "").split(".")[0] == "opentelemetry":
            logger.debug("No metrics and traces: %s.", exc)
        else:
            logger.warning(
                "HAKE730 No metrics and traces: OpenTelemetry cannot be used (%r). Install the versions that "
                "kombu-hake[otel] asks for, or set the option telemetry to false.", exc
            )  # fmt: skip
        return None


def is_celery_instrumented() -> bool:
    """Return True if ``opentelemetry-instrumentation-celery`` is active here: it makes the spans of tasks."""
    module = sys.modules.get("opentelemetry.instrumentation.celery")
    # Not CeleryInstrumentor(): some versions start anew when they are called again.
    instance = getattr(getattr(module, "CeleryInstrumentor", None), "_instance", None)
    return bool(getattr(instance, "is_instrumented_by_opentelemetry", False))


_of_process = _OfProcess()
os.register_at_fork(after_in_child=_of_process.reset_after_fork)
