"""An SDK of OpenTelemetry that exports to nowhere, for what metrics and traces cost in a measured process.

``BENCH_TELEMETRY`` says what is set up: nothing (``off``; ``api``, the package's default), ``metrics``, or ``traces``
and metrics. Exports happen as usual, every second, so that their cost is measured too.
"""

from __future__ import annotations

import os

EVERY_MS = 1_000


def set_up() -> None:
    """Set the providers of this process; children that it forks have them too."""
    case = os.environ.get("BENCH_TELEMETRY", "off")
    if case in ("off", "api"):
        return
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        MetricExporter,
        MetricExportResult,
        MetricsData,
        PeriodicExportingMetricReader,
    )
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Metrics(MetricExporter):
        def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: object) -> MetricExportResult:
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 0, **_: object) -> None:
            return None

    class Spans(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            assert not spans or isinstance(next(iter(spans)), ReadableSpan)  # type: ignore[call-overload]
            return SpanExportResult.SUCCESS

    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(Metrics(), EVERY_MS)]))
    if case == "traces":
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(Spans(), max_queue_size=8_192, schedule_delay_millis=EVERY_MS))
        trace.set_tracer_provider(provider)
