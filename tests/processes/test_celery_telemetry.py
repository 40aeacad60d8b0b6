"""One event to three groups, one of which tries twice: its trace and its metrics, with Celery's instrumentation and
without, in a worker in this process; and in one with a prefork pool.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from support.celery_workers import stage, wait_until
from support.emulators import Emulator
from support.telemetry import Observed, context_of, is_child, links, observed

import kombu_hake
from kombu_hake import admin
from kombu_hake.telemetry import is_celery_instrumented, names

GROUPS = ("email", "inventory", "billing")
TRACE = "0af7651916cd43dd8448eb211c80319c"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
    # Celery's worker for tests leaves its event loop, and so its end of a socket pair, to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Shop:
    """An app with a worker in a thread of this process, that runs the handlers of all groups one after the other."""

    def __init__(self, aws: Emulator, seen: Observed) -> None:
        self.seen = seen
        self.runs: Counter[str] = Counter()
        self.is_down = False
        self.app = Celery("shop", broker=aws.url(uuid4().hex[:8]), set_as_current=True)
        self.app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
        self.orders = kombu_hake.Topic("orders", app=self.app)
        for group in ("email", "inventory"):
            self.orders.on("placed", group=group, name=f"shop.{group}")(self._handler(group))

        @self.orders.on("placed", group="billing", name="shop.billing", bind=True, max_retries=3)
        def charge(task: Any, order_id: int) -> None:
            if self.is_down:
                raise LookupError("no such card")
            if not task.request.retries:
                raise task.retry(countdown=0, exc=OSError("the bank is closed"))
            self.runs["billing"] += 1

    def _handler(self, group: str) -> Any:
        def handle(order_id: int) -> None:
            self.runs[group] += 1

        return handle

    def wait(self, **runs: int) -> None:
        wait_until(lambda: self.runs == Counter(runs), lambda: f"{runs}, only {self.runs}")

    def settled(self, count: int) -> None:
        """Wait until so many messages are settled: the spans of what led to them have ended."""
        wait_until(lambda: self.seen.total(names.SETTLED) >= count, lambda: str(self.seen.points(names.SETTLED)))


@pytest.fixture
def seen() -> Iterator[Observed]:
    with observed() as found:
        yield found


@pytest.fixture
def instrumented(seen: Observed) -> Iterator[None]:
    instrumentor = CeleryInstrumentor()
    instrumentor.instrument(tracer_provider=seen.tracer_provider, meter_provider=seen.meter_provider)
    try:
        yield
    finally:
        instrumentor.uninstrument()


@pytest.fixture
def shop(moto: Emulator, seen: Observed) -> Iterator[Shop]:
    found = Shop(moto, seen)
    setup_logging.connect(leave_logging)  # else Celery sets the level of the root logger for all tests that follow
    try:
        with start_worker(
            found.app, pool="solo", perform_ping_check=False, queues=list(GROUPS), shutdown_timeout=30, loglevel="ERROR"
        ):
            yield found
    finally:
        setup_logging.disconnect(leave_logging)
        found.app.close()


def leave_logging(**_kwargs: Any) -> None:
    """Have Celery leave logging as it is."""


def of_trace(seen: Observed, root: ReadableSpan) -> dict[str, int]:
    """How many spans of each name are in a trace."""
    return Counter(span.name for span in seen.spans() if context_of(span).trace_id == context_of(root).trace_id)


def test_the_trace_of_an_event(shop: Shop, seen: Observed) -> None:
    with seen.tracer.start_as_current_span("request"):
        event = shop.orders.publish("placed", order_id=7)
    shop.wait(email=1, inventory=1, billing=1)
    shop.settled(4)
    request, sent = seen.span("request"), seen.span("send orders")
    assert is_child(sent, request)
    assert sent.kind.name == "PRODUCER"
    assert (sent.attributes or {})[names.MESSAGE_ID] == event.id
    first = {group: seen.spans(f"process {group}")[0] for group in GROUPS}
    for group, span in first.items():
        assert is_child(span, sent)
        assert span.kind.name == "CONSUMER"
        found = dict(span.attributes or {})
        assert found.pop(names.ERROR, None) == ("OSError" if group == "billing" else None)
        assert found == {
            names.SYSTEM: "aws_sqs",
            names.DESTINATION: group,
            names.OPERATION: "process",
            names.OPERATION_TYPE: "process",
            names.GROUP: group,
            names.PUBLISHED_TO: "orders",
            names.TASK: f"shop.{group}",
            names.MESSAGE_ID: event.result(group, f"shop.{group}").id,
            names.RECEIVE_COUNT: 1,
        }
    again, [_, second] = seen.span("send billing"), seen.spans("process billing")
    assert is_child(again, first["billing"])
    assert again.kind.name == "PRODUCER"
    assert is_child(second, again)
    assert second.status.status_code.name == "UNSET"
    assert of_trace(seen, request) == {
        "request": 1,
        "send orders": 1,
        "process email": 1,
        "process inventory": 1,
        "process billing": 2,
        "send billing": 1,
    }
    for group in ("email", "inventory"):
        received = seen.span(f"receive {group}")
        assert received.parent is None
        assert links(received) == {context_of(sent).span_id}
    assert [links(span) for span in seen.spans("receive billing")] == [
        {context_of(sent).span_id},
        {context_of(again).span_id},
    ]


def test_the_trace_of_an_event_with_the_instrumentation_of_celery(
    instrumented: None, shop: Shop, seen: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_celery_instrumented()
    with seen.tracer.start_as_current_span("request"):
        shop.orders.publish("placed", order_id=7)
    shop.wait(email=1, inventory=1, billing=1)
    shop.settled(4)
    request, created = seen.span("request"), seen.span("apply_async/kombu_hake.event")
    sent = seen.span("send orders")
    assert is_child(created, request)
    assert created.kind.name == "PRODUCER"
    assert is_child(sent, created)
    assert sent.kind.name == "CLIENT"
    first = {group: seen.spans(f"run/shop.{group}")[0] for group in GROUPS}
    for group, span in first.items():
        assert is_child(span, created)
        found = span.attributes or {}
        assert found[names.DESTINATION] == found[names.GROUP] == group
        assert (found[names.SYSTEM], found[names.PUBLISHED_TO]) == ("aws_sqs", "orders")
        assert found[names.RECEIVE_COUNT] == 1
    again = seen.span("apply_async/shop.billing")
    assert is_child(again, first["billing"])
    assert is_child(seen.span("send billing"), again)
    assert is_child(seen.spans("run/shop.billing")[1], again)
    assert seen.spans("process") == []
    assert of_trace(seen, request) == {
        "request": 1,
        "apply_async/kombu_hake.event": 1,
        "send orders": 1,
        "run/shop.email": 1,
        "run/shop.inventory": 1,
        "run/shop.billing": 2,
        "apply_async/shop.billing": 1,
        "send billing": 1,
    }
    assert links(seen.span("receive email")) == {context_of(created).span_id}
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert seen.total(names.PROCESS_DURATION) == 4  # measured by us, whoever makes the spans


def test_a_publisher_without_handlers_has_a_whole_trace_too(
    instrumented: None, shop: Shop, seen: Observed, moto: Emulator
) -> None:
    """The instrumentation loses the span of a task that is not registered in the app that publishes."""
    web = Celery("web", broker=shop.app.conf.broker_url, set_as_current=True)
    with seen.tracer.start_as_current_span("request"):
        kombu_hake.Topic("orders", app=web).publish("placed", order_id=7)
    shop.wait(email=1, inventory=1, billing=1)
    shop.settled(4)
    created = seen.span("apply_async/kombu_hake.event")
    assert is_child(created, seen.span("request"))
    assert is_child(seen.span("send orders"), created)
    assert is_child(seen.span("run/shop.email"), created)
    web.close()


def test_a_batch_of_events_is_linked(shop: Shop, seen: Observed) -> None:
    with seen.tracer.start_as_current_span("request"), kombu_hake.batch():
        for order_id in range(2):
            shop.orders.publish("placed", order_id=order_id)
    shop.wait(email=2, inventory=2, billing=2)
    shop.settled(8)
    created = seen.spans("create orders")
    assert links(seen.span("send orders")) == {context_of(span).span_id for span in created}
    for span in created:
        below = [one.name for one in seen.spans() if is_child(one, span)]
        assert sorted(below) == ["process billing", "process email", "process inventory"]


def test_a_dead_letter_that_is_sent_back_goes_on_in_its_trace(shop: Shop, seen: Observed) -> None:
    shop.is_down = True
    shop.orders.publish("placed", order_id=7)
    wait_until(lambda: seen.total(names.DEAD), "a dead letter")
    [failed] = seen.spans("process billing")
    assert failed.status.status_code.name == "ERROR"
    assert (failed.attributes or {})[names.ERROR] == "LookupError"
    shop.is_down = False
    with admin.connect(shop.app) as broker:
        wait_until(lambda: broker.requeue("billing").done, "it to be sent back")
    shop.wait(email=1, inventory=1, billing=1)
    assert len({context_of(span).trace_id for span in seen.spans("process")}) == 1
    assert seen.points(names.DEAD) == [({names.DESTINATION: "billing", names.REASON: "failed"}, 1)]
    wait_until(lambda: seen.total(names.SETTLED, hake_outcome="dead_letter") == 1, "its delete to be counted")


def test_the_metrics_of_an_event(shop: Shop, seen: Observed) -> None:
    shop.orders.publish("placed", order_id=7)
    shop.wait(email=1, inventory=1, billing=1)
    shop.settled(4)
    assert seen.total(names.SENT, messaging_system="aws.sns", messaging_destination_name="orders") == 1
    assert seen.total(names.SENT, messaging_system="aws_sqs", messaging_destination_name="billing") == 1
    for group, count in {"email": 1, "inventory": 1, "billing": 2}.items():
        where = {"messaging_destination_name": group}
        assert seen.total(names.CONSUMED, **where) == count
        assert seen.total(names.SETTLED, hake_outcome="ack", **where) == count
        assert seen.total(names.PROCESS_DURATION, **where) == count
        assert seen.total(names.DWELL, **where) == count
    assert seen.total(names.PROCESS_DURATION, error_type="OSError") == 1
    assert seen.total(names.REQUESTS, hake_action="sns:Publish", hake_status="ok") == 1
    ages = {attributes[names.DESTINATION] for attributes, _ in seen.points(names.POLL_AGE)}
    assert set(GROUPS) <= ages


def test_tasks_that_run_at_once_have_no_spans_of_ours(moto: Emulator, seen: Observed) -> None:
    shop = Shop(moto, seen)
    shop.app.conf.task_always_eager = True
    shop.orders.publish("placed", order_id=7)
    assert shop.runs["email"] == 1
    assert seen.spans("process") == []
    assert seen.points(names.PROCESS_DURATION) == []
    shop.app.close()


def test_a_prefork_worker(moto: Emulator, tmp_path: Path) -> None:
    """Its main process receives, its children run the tasks; each reports its own part."""
    aws = moto.in_namespace(uuid4().hex[:8])
    with stage(aws.url(), tmp_path) as on:
        reports = {"HAKE_TEST_REPORTS": str(tmp_path / "reports")}
        worker = on.start("apps.traced", "-c", "2", "-Q", *[",".join(GROUPS)], environment=reports)
        parent = f"00-{TRACE}-b7ad6b7169203331-01"
        send = f"app.orders.send('placed', {{'order_id': 7}}, headers={{'traceparent': '{parent}'}})"
        on.python("-c", f"import apps.traced as app; {send}")

        def lines() -> list[dict[str, Any]]:
            return [json.loads(line) for path in tmp_path.glob("reports.*") for line in path.read_text().splitlines()]

        def spans() -> Counter[str]:
            return Counter(line["name"] for line in lines() if line["kind"] == "span")

        wait_until(
            lambda: (spans()["process billing"], spans()["process email"], spans()["receive billing"]) == (2, 1, 2),
            lambda: f"{lines()}\n{worker.log}",
        )
        processed = [line for line in lines() if line["name"].startswith("process ")]
        received = [line for line in lines() if line["name"].startswith("receive ")]
        assert {line["pid"] for line in received} == {worker.process.pid}
        assert worker.process.pid not in {line["pid"] for line in processed}
        assert {line["trace"] for line in processed} == {TRACE}
        worker.stop()
        settled = {line["pid"] for line in lines() if line["name"] == names.SETTLED and line["value"]}
        assert settled == {worker.process.pid}
        durations = {line["pid"] for line in lines() if line["name"] == names.PROCESS_DURATION}
        assert durations
        assert worker.process.pid not in durations
        assert worker.errors() == []
