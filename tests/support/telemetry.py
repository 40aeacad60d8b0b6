"""OpenTelemetry's SDK in memory, in place of the one that an application sets for its process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

if not os.environ.get("CI"):  # where it must be installed
    pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

import kombu_hake.telemetry as telemetry_module
from kombu_hake.telemetry import Telemetry

Attributes = dict[str, Any]


class Observed:
    """What was reported."""

    def __init__(self, **options: Any) -> None:
        """*options* of the tracer provider."""
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False, **options)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(self.meter_provider, self.tracer_provider)
        self.tracer = self.tracer_provider.get_tracer("test")

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """The spans that have ended, by their start; those whose name begins so."""
        found = [span for span in self._exporter.get_finished_spans() if span.name.startswith(name)]
        return sorted(found, key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        """The only span of this name."""
        [found] = [span for span in self.spans() if span.name == name]
        return found

    def forget(self) -> None:
        self._exporter.clear()

    def points(self, metric: str) -> list[tuple[Attributes, Any]]:
        """Attributes and value of each point of a metric: a number, or count and sum of a histogram."""
        data = self._reader.get_metrics_data()
        metrics = [
            item
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for item in scope.metrics
            if item.name == metric
        ]
        return [
            (dict(point.attributes or {}), (point.count, point.sum) if hasattr(point, "count") else point.value)
            for item in metrics
            for point in item.data.data_points
        ]

    def total(self, metric: str, **wanted: str) -> Any:
        """The sum of the points whose attributes have these values; ``_`` in a name stands for a dot."""
        found = self.points(metric)
        names = {name: name.replace("_", ".") for name in wanted}
        values = [
            value[0] if isinstance(value, tuple) else value
            for attributes, value in found
            if all(attributes.get(names[name]) == text for name, text in wanted.items())
        ]
        return sum(values)

    def close(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@contextmanager
def observed(**options: Any) -> Iterator[Observed]:
    """Report to memory inside of the block: what connects there, in place of what this process has loaded."""
    found, process = Observed(**options), telemetry_module._of_process
    before, process._found = process._found, []
    process._found.append(found.telemetry)
    try:
        yield found
    finally:
        process._found = before
        found.close()


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == context_of(parent).span_id


def links(span: ReadableSpan) -> set[int]:
    """The span ids that it links to."""
    return {link.context.span_id for link in span.links}
