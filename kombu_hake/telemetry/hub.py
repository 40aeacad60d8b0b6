"""Metrics and traces together, as the parts of a connection get them. Imports OpenTelemetry's API."""

from __future__ import annotations

from typing import Any

from kombu_hake.telemetry.metrics import Metrics
from kombu_hake.telemetry.traces import Traces

__all__ = ["Telemetry"]


class Telemetry:
    """What this process reports to OpenTelemetry. Safe to share between threads."""

    def __init__(self, meter_provider: Any = None, tracer_provider: Any = None) -> None:
        """Use these providers, or those that the application sets for the process, now or later."""
        self.metrics = Metrics(meter_provider)
        self.traces = Traces(tracer_provider)

    def is_on(self) -> bool:
        """Whether anything is reported: the application has set a provider of metrics or of traces."""
        return self.metrics.is_on() or self.traces.is_on()
