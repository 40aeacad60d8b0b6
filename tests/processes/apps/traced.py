"""One topic and three groups, observed by an SDK in each process of a worker: ``celery -A apps.traced worker``.

Each process appends what it reports to a file of its own, one JSON object a line.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.signals import worker_process_init, worker_process_shutdown, worker_ready, worker_shutdown

import kombu_hake
from apps.notes import BROKER

app = Celery("traced", broker=BROKER)
app.conf.task_ignore_result = True
app.conf.worker_enable_remote_control = False
orders = kombu_hake.Topic("orders", app=app)


@orders.on("placed", group="email")
def send_receipt(order_id: int) -> None:
    """Nothing."""


@orders.on("placed", group="inventory")
def reserve(order_id: int) -> None:
    """Nothing."""


@orders.on("placed", group="billing", bind=True, max_retries=3)
def charge(self: Task, order_id: int) -> None:
    if not self.request.retries:
        raise self.retry(countdown=0, exc=OSError("the bank is closed"))


def write(**line: Any) -> None:
    path = Path(f"{os.environ['HAKE_TEST_REPORTS']}.{os.getpid()}")
    with path.open("a") as file:
        file.write(json.dumps({**line, "pid": os.getpid()}) + "\n")


@worker_ready.connect
@worker_process_init.connect
def set_up(**_: Any) -> None:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Spans(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for span in spans:
                context = span.get_span_context()
                write(kind="span", name=span.name, trace=context and f"{context.trace_id:032x}")
            return SpanExportResult.SUCCESS

    reader = InMemoryMetricReader()
    readers[:] = [reader]
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Spans()))
    trace.set_tracer_provider(provider)


#: That of this process.
readers: list[Any] = []


@worker_shutdown.connect
@worker_process_shutdown.connect
def write_metrics(**_: Any) -> None:
    data = readers[0].get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = point.count if hasattr(point, "count") else point.value
                    write(kind="metric", name=metric.name, value=value)
