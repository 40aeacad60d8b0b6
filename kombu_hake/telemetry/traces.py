"""Spans of publishing, receiving and processing, and the context that connects them.

The context travels in the message's headers, as the application's propagator writes it (``traceparent`` by default). So
it survives SNS, delays, retries and dead letters like any other header, and ``opentelemetry-instrumentation-celery``
reads and writes the same one.

Publish
    A message without a context gets one: that of a PRODUCER span, *send*, or *create* where a batch collects it. A
    message that has one keeps it, because an instrumentation above, or the publisher of the original, has made its
    span; *send* is a CLIENT span then. The exception is a retry, whose headers are copied from the message that is
    processed: it gets a span below the run that failed.
Batch
    A request of ``kombu_hake.batch()`` is a CLIENT span with a link to the context of each message.
Receive
    A poll that brings messages is a CLIENT span with the same links.
Process
    The run of a task, or a consumer's callback, is a CONSUMER span below the context of its message.

Nothing here raises. A context is read from untrusted messages: only text within :data:`MAX_CHARS` is parsed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, get_value, set_value
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from kombu_hake._version import __version__
from kombu_hake.quoting import quoted
from kombu_hake.telemetry import names
from kombu_hake.telemetry.providers import Provider
from kombu_hake.telemetry.safety import never_raises, report
from kombu_hake.telemetry.tally import Few
from kombu_hake.telemetry.values import Received

__all__ = ["MAX_CHARS", "Operation", "Processing", "Traces"]

#: W3C Baggage asks for 8192 bytes; other contexts are shorter.
MAX_CHARS = 8_192
_MAX_PARENT_CHARS = 512
_MAX_CHARS = 256
_MOST_DESTINATIONS = 1_000
#: In a body that is JSON, quotes inside of text are escaped: this is a key of an object, of the headers in ours.
_PARENT = re.compile(r'"traceparent": ?"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"', re.ASCII)
#: The header of W3C Trace Context, the only one that is read from a body.
_TRACE_PARENT = "traceparent"
_SCOPE_OF_CELERY = "opentelemetry.instrumentation.celery"
#: In a context: that of the message in processing.
_PROCESSED = "kombu_hake-processed"
_NOTHING = Context()


class _Headers(Getter[Mapping[str, Any]]):
    """Reads ASCII of bounded length, and nothing else."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(key)
        most = MAX_CHARS if key == "baggage" else _MAX_PARENT_CHARS
        return [value] if isinstance(value, str) and len(value) <= most and value.isascii() else None

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return [key for key in carrier if isinstance(key, str)]


_headers = _Headers()


class Operation:
    """A span around a block; not the current one, as nothing inside of our blocks makes spans."""

    __slots__ = ("_span", "message")

    def __init__(self, span: Span | None, message: Mapping[str, Any]) -> None:
        self._span = span
        #: The message to publish.
        self.message = message

    def __enter__(self) -> Operation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            self.failed(exc)
        self._end()

    @never_raises
    def failed(self, exc: BaseException) -> None:
        """The operation failed, for at least one of its messages."""
        if self._span is not None and self._span.is_recording():
            _set_error(self._span, type(exc).__name__, exc)

    @never_raises
    def _end(self) -> None:
        if self._span is not None:
            self._span.end()


class Processing:
    """The span of a message's processing, the current one until :meth:`end`; in one thread or task."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span, context: Context) -> None:
        self._span = span
        self._token = attach(context)

    @never_raises
    def end(self, error: str = "", exc: BaseException | None = None) -> None:
        """End it; *error* is the class of an exception, and *exc* the exception where there is one."""
        detach(self._token)
        try:
            if self._span.is_recording() and error:
                _set_error(self._span, error, exc)
        finally:
            self._span.end()


class Traces:
    """Makes spans. Safe to share between threads."""

    def __init__(self, provider: Any = None) -> None:
        """Use this provider, or the one that the application sets for the process."""
        self._tracer = trace.get_tracer("kombu_hake", __version__, provider)
        #: Whether the application has set a provider; without one, messages keep the headers that they have.
        self.is_on = Provider(trace.get_tracer_provider, "_TRACER_PROVIDER", provider).is_set
        self._destination = Few(_MOST_DESTINATIONS)
        self._cached: dict[tuple[str, str, str], dict[str, str]] = {}
        self._propagator: Any = None
        self._fields: tuple[str, ...] = ()

    def _propagated(self) -> tuple[str, ...]:
        """The names of the headers that the application's propagator reads."""
        propagator = propagate.get_global_textmap()
        if propagator is not self._propagator:
            self._propagator, self._fields = propagator, tuple(propagator.fields)
        return self._fields

    # --- publish

    def sending(self, message: Mapping[str, Any], destination: str, *, to_queue: bool, is_collected: bool) -> Operation:
        """The span of a publish; its ``message`` is the one to send: a copy with a context, or the same one.

        Args:
            message: In the form that ``basic_publish`` takes.
            to_queue: Whether it goes to SQS, and not to a topic.
            is_collected: Whether a batch collects it, and sends it later.
        """
        try:
            system = names.SQS if to_queue else names.SNS
            return self._sending(message, system, destination, names.CREATE if is_collected else names.SEND)
        except Exception as exc:
            report(exc)
            return Operation(None, message)

    def _sending(self, message: Mapping[str, Any], system: str, destination: str, operation: str) -> Operation:
        headers = message.get("headers") or {}
        has_context = any(name in headers for name in self._propagated())
        own = _context_of(headers) if has_context else trace.INVALID_SPAN_CONTEXT
        processed: Any = get_value(_PROCESSED) if own.is_valid else None
        if own.is_valid and not (isinstance(processed, SpanContext) and _same(own, processed)):
            if operation == names.CREATE:  # it was created elsewhere; the batch's span links to it
                return Operation(None, message)
            current = trace.get_current_span().get_span_context()
            parent = None if current.is_valid else _below(own)
            links = [] if not current.is_valid or _same(own, current) else [Link(own)]
            span = self._start(system, destination, operation, SpanKind.CLIENT, message, context=parent, links=links)
            return Operation(span, message)
        span = self._start(system, destination, operation, SpanKind.PRODUCER, message)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        return Operation(span, {**message, "headers": {**headers, **carrier}})

    def sending_together(self, destination: str, messages: Sequence[Mapping[str, Any]], *, to_queue: bool) -> Operation:
        """The span of a request that several messages share."""
        try:
            system = names.SQS if to_queue else names.SNS
            contexts = [_context_of(message.get("headers") or {}) for message in messages]
            span = self._start(system, destination, names.SEND, SpanKind.CLIENT, None, links=_links(contexts))
            span.set_attribute(names.BATCH_COUNT, len(messages))
        except Exception as exc:
            report(exc)
            return Operation(None, {})
        return Operation(span, {})

    # --- receive

    @never_raises
    def received(self, destination: str, texts: Sequence[str], seconds: float) -> None:
        """A poll that took *seconds* brought messages with these bodies."""
        contexts = map(_context_in, texts) if _TRACE_PARENT in self._propagated() else ()
        ended_at = time.time_ns()
        span = self._start(
            names.SQS, destination, names.RECEIVE, SpanKind.CLIENT, None, links=_links(contexts), context=_NOTHING,
            start_time=ended_at - round(seconds * 1e9),
        )  # fmt: skip
        span.set_attribute(names.BATCH_COUNT, len(texts))
        span.end(ended_at)

    def processing(self, received: Received, headers: Mapping[str, Any]) -> Processing | None:
        """Start the span of a message's processing, and make it the current one; None where that fails.

        Args:
            headers: Of the message; the application's propagator reads the context from them.
        """
        try:
            own = propagate.extract(headers, _NOTHING, _headers)
            attributes = self._of_message(received)
            name = f"{names.PROCESS} {attributes[names.DESTINATION]}"
            span = self._tracer.start_span(name, own, SpanKind.CONSUMER, attributes)
            context = trace.set_span_in_context(span, own)
            return Processing(span, set_value(_PROCESSED, trace.get_current_span(own).get_span_context(), context))
        except Exception as exc:
            report(exc)
            return None

    @never_raises
    def describe(self, received: Received) -> None:
        """Add what is known of the message to the current span, if Celery's instrumentation has made it."""
        span = trace.get_current_span()
        scope = getattr(span, "instrumentation_scope", None)  # of the SDK
        if span.is_recording() and getattr(scope, "name", "") == _SCOPE_OF_CELERY:
            span.set_attributes(self._of_message(received))

    # --- inside

    def _start(
        self,
        system: str,
        destination: str,
        operation: str,
        kind: SpanKind,
        message: Mapping[str, Any] | None,
        *,
        context: Context | None = None,
        links: Sequence[Link] = (),
        start_time: int | None = None,
    ) -> Span:
        attributes: Mapping[str, str] = self._attributes(system, destination, operation)
        message_id = None if message is None else _id_of(message)
        if message_id is not None:
            attributes = {**attributes, names.MESSAGE_ID: message_id}
        name = f"{operation} {attributes[names.DESTINATION]}"
        return self._tracer.start_span(name, context, kind, attributes, links, start_time)

    def _of_message(self, received: Received) -> dict[str, str | int]:
        found: dict[str, str | int] = {**self._attributes(names.SQS, received.queue, names.PROCESS)}
        if isinstance(received.receive_count, int):
            found[names.RECEIVE_COUNT] = received.receive_count
        texts = {
            names.MESSAGE_ID: received.id,
            names.TASK: received.task,
            names.GROUP: received.group,
            names.PUBLISHED_TO: received.exchange,
        }
        found.update((name, text) for name, text in texts.items() if isinstance(text, str) and len(text) <= _MAX_CHARS)
        return found

    def _attributes(self, system: str, destination: str, operation: str) -> dict[str, str]:
        found = self._cached.get((system, destination, operation))
        if found is None:
            where = self._destination(destination)
            found = {
                names.SYSTEM: system,
                names.DESTINATION: where,
                names.OPERATION: operation,
                names.OPERATION_TYPE: operation,
            }
            self._cached[system, where, operation] = found
        return found


def _context_of(headers: Mapping[str, Any]) -> SpanContext:
    """The span that the headers of a message name; an invalid one for none."""
    return trace.get_current_span(propagate.extract(headers, _NOTHING, _headers)).get_span_context()


def _context_in(text: str) -> SpanContext:
    """The same, from the body of a message that has not been parsed yet.

    Not by the propagator, which takes five times as long, and is asked for each message of a poll.
    """
    found = _PARENT.search(text) if '"traceparent"' in text else None
    if found is None:
        return trace.INVALID_SPAN_CONTEXT
    trace_id, span_id, flags = (int(digits, 16) for digits in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _below(parent: SpanContext) -> Context:
    return trace.set_span_in_context(trace.NonRecordingSpan(parent))


def _same(one: SpanContext, other: SpanContext) -> bool:
    return one.span_id == other.span_id and one.trace_id == other.trace_id


def _links(contexts: Iterable[SpanContext]) -> list[Link]:
    return [Link(context) for context in contexts if context.is_valid]


def _id_of(message: Mapping[str, Any]) -> str | None:
    """The id of a task or event, or else that of the message."""
    found = (message.get("headers") or {}).get("id") or message["properties"].get("message_id")
    return found if isinstance(found, str) and len(found) <= _MAX_CHARS else None


def _set_error(span: Span, error: str, exc: BaseException | None) -> None:
    span.set_attribute(names.ERROR, error)
    span.set_status(Status(StatusCode.ERROR, None if exc is None else _text(exc)))
    if isinstance(exc, Exception):
        span.record_exception(exc)


def _text(exc: BaseException) -> str:
    try:
        return quoted(str(exc))
    except Exception:  # the text of a foreign exception may raise
        return type(exc).__name__
