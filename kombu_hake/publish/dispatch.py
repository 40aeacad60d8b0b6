"""One publish from start to end: envelope, targets, send; and what to do if a target no longer exists.

Between the channel, which speaks AMQP, and the publisher, which speaks AWS.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import uuid4

from kombu_hake.amqp import (
    COMPRESSION_HEADER,
    FIFO_SUFFIX,
    MESSAGE_ATTRIBUTES,
    PRIORITY_ATTRIBUTE,
    PRIVATE_EXCHANGE,
    RAW_DELIVERY_MAX_ATTRIBUTES,
    SIZE_ATTRIBUTE,
    SQS_MAX_DELAY_S,
    SQS_MAX_MESSAGE_BYTES,
    Pointer,
    Wire,
    checked_attributes,
    compressed,
    delay_s,
    due_ms,
    encode,
    group_of,
    is_mailbox,
    is_reply_exchange,
    label,
    level_name,
    level_of,
    message_attributes,
    priority_attribute,
    typed_bytes,
    unwritable_properties,
    whole,
)
from kombu_hake.aws import forksafe, patience
from kombu_hake.config import Settings
from kombu_hake.exceptions import (
    AccessDenied,
    HakeError,
    MessageTooLarge,
    PublishError,
    QueueNotFound,
    ReplyQueueNotFound,
    TopicNotFound,
)
from kombu_hake.publish.batching import Published, batch, current_batch, no_batch
from kombu_hake.publish.delays import Delays
from kombu_hake.publish.events import Event, EventSender
from kombu_hake.publish.publisher import Outgoing, Publisher, outgoing, shown
from kombu_hake.publish.routes import QueueTarget, Routes, Target
from kombu_hake.publish.tenants import Tenants
from kombu_hake.publish.uploads import Uploads, check_values, pointing
from kombu_hake.quoting import fields, guarded
from kombu_hake.telemetry import Telemetry
from kombu_hake.topology import Topology

__all__ = ["Dispatcher", "send_parameters", "with_compression"]

logger = guarded(logging.getLogger(__name__))

#: A batch has no caller with a retry policy, so its requests are retried for longer than ``max_attempts``.
_BATCH_PATIENCE_S = 10.0
#: AMQP's delivery mode of a message that need not survive.
_TRANSIENT = 1
DEFAULT_GROUP_ID = "default"
#: Attributes of a message that has its headers among them: two are left for a payload in S3.
_MOST_WITH_HEADERS = RAW_DELIVERY_MAX_ATTRIBUTES - 2
#: Routing keys whose attributes are kept, and the longest of them: a key may come from a message.
_MOST_KEYS = 1_000
_MOST_KEY_CHARS = 256
_MAX_WARNED = 1_000
_warned: set[str] = set()


@dataclass
class _Large:
    """A message that may be too large for some of its targets."""

    wire: Wire
    message: Mapping[str, Any]
    exchange: str
    routing_key: str
    #: Those that need it.
    targets: list[Target]
    #: Where its payload is, once that was uploaded.
    pointer: Pointer | None = None


class Dispatcher:
    """Publishes messages. One per process and settings; safe to share between threads."""

    def __init__(
        self,
        topology: Topology,
        routes: Routes,
        publisher: Publisher,
        settings: Settings,
        running: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        """*running* returns the properties of the message of the task that this thread runs in a worker, or None."""
        self._topology = topology
        self._routes = routes
        self._publisher = publisher
        self._settings = settings
        self._telemetry: Telemetry | None = publisher.clients.telemetry
        self._limits = publisher.limits
        self._delays = Delays(publisher.clients)
        self._tenants = Tenants(settings.tenant_from, running)
        self._uploads = Uploads(publisher.clients)
        self._events = EventSender(self._publish_events)

    def publish_now(self, message: Mapping[str, Any], exchange: str, routing_key: str, *, mandatory: bool) -> None:
        """As :meth:`publish`, but outside of any batch, because the caller depends on its acceptance."""
        with no_batch():
            self.publish(message, exchange, routing_key, mandatory=mandatory)

    def publish(self, message: Mapping[str, Any], exchange: str, routing_key: str, *, mandatory: bool) -> None:
        """Send a message to all targets of exchange and routing key; returns when AWS has accepted it for all of them.

        Celery's events are an exception in a worker: see :mod:`kombu_hake.publish.events`.

        Raises: as :meth:`kombu_hake.channel.Channel.basic_publish`.
        """
        if self._events.is_on and self._is_event(message, exchange):
            self._events.put(Event(message, exchange, routing_key))
        elif self._telemetry is None or not self._telemetry.traces.is_on() or self._is_internal(exchange):
            self._publish(message, exchange, routing_key, mandatory)
        else:
            to_queue = self._is_to_queue(exchange, routing_key)
            destination, is_collected = label(routing_key) if to_queue else exchange, current_batch() is not None
            with self._telemetry.traces.sending(
                message, destination, to_queue=to_queue, is_collected=is_collected
            ) as operation:
                self._publish(operation.message, exchange, routing_key, mandatory)

    def _publish(self, message: Mapping[str, Any], exchange: str, routing_key: str, mandatory: bool) -> None:
        targets = self._routes.resolve(exchange, routing_key, mandatory=mandatory)
        priority = message["properties"].get("priority")
        if priority:
            targets = [self._at_level(target, priority) for target in targets]
        if not targets:
            return
        message = self._tenants.named(message, exchange, routing_key)
        given: dict[str, Any] = {}
        if MESSAGE_ATTRIBUTES in message["properties"]:
            message, targets, given = self._with_attributes(message, targets, exchange)
        delivery_tag = _new_tag()
        if self._settings.compress_above is not None and "stored" not in message:
            message = with_compression(message, self._settings.compress_above, self._settings.compression)
        try:
            wire = encode(message, exchange, routing_key, delivery_tag)
        except (TypeError, ValueError, RecursionError):
            message = _without_foreign_properties(message)
            wire = encode(message, exchange, routing_key, delivery_tag)
        published = Published(exchange, routing_key, message, mandatory)
        gathering = current_batch()
        if len(targets) > 1:  # what may turn out not to be needed goes first: if it fails, nothing was sent yet
            targets = sorted(targets, key=_is_needed)
        large = None
        if not self._topology.stores.is_empty:
            large = _Large(wire, message, exchange, routing_key, list(targets))
        for target in targets:
            prepared = self._prepare(target, wire, message, routing_key, given)
            if large is not None and prepared.size_bytes > self._limits.of(target, prepared.size_bytes):
                found = self._point(large, target, prepared)
                if found is None:
                    continue
                prepared = found
            if not _is_needed(target):
                self._send_if_needed(target, prepared, exchange)
                continue
            if gathering is not None:
                self._limits.check(target, prepared.size_bytes)  # now, and not when the batch is sent
                if gathering.add(self, target, published, prepared):
                    continue
            self._send(target, prepared, published)

    def _is_internal(self, exchange: str) -> bool:
        """Return True for an exchange that only Celery uses, for remote control or events. These have no spans."""
        return is_mailbox(exchange) or self._routes.is_event_exchange(exchange)

    def _is_to_queue(self, exchange: str, routing_key: str) -> bool:
        """Return True if a publish goes to a queue, as far as is known without a request; for its span."""
        if not exchange or exchange == PRIVATE_EXCHANGE:
            return True
        is_own = exchange == routing_key and self._settings.direct_exchanges == "auto"
        return is_own and self._topology.exchange_type(exchange) in (None, "direct")

    def check(self) -> None:
        """Import what the options name.

        Raises:
            ConfigurationError: ``tenant_from`` names a function that cannot be imported.
        """
        self._tenants.check()

    def send_events_aside(self) -> None:
        """From now on, send this process's events from a separate thread."""
        self._events.is_on = True

    def flush_events(self, timeout_s: float) -> None:
        """Wait until the events published so far are sent or dropped."""
        if not self._events.flush(timeout_s):
            logger.info("Some events were not sent within %s s.", timeout_s)

    def command_came(self) -> None:
        """A remote control command has arrived: a monitor may listen to events now."""
        self._routes.listeners.command_came()

    def _is_event(self, message: Mapping[str, Any], exchange: str) -> bool:
        # Celery's events are transient; a durable message is the user's own, even on a best-effort exchange.
        is_transient = message["properties"].get("delivery_mode") == _TRANSIENT
        return is_transient and self._routes.is_event_exchange(exchange)

    def _publish_events(self, events: Sequence[Event]) -> None:
        if len(events) == 1:
            self._publish(*events[0], mandatory=False)
            return
        with batch(in_flight=1):
            for event in events:
                self._publish(*event, mandatory=False)

    def send_copy(
        self, target: QueueTarget, text: str, delay_s: int, attributes: Mapping[str, Any] | None, group: str | None
    ) -> None:
        """Send the text of a received message to its queue again, with a delay.

        Args:
            attributes: ``MessageAttributes``, if it has any.
            group: ``MessageGroupId``, if it has one.
        Raises: as :meth:`publish`.
        """
        extra: dict[str, Any] = {"DelaySeconds": delay_s}
        if attributes:
            extra["MessageAttributes"] = attributes
        if group is not None:
            extra["MessageGroupId"] = group
        self._publisher.send(target, Outgoing(text, extra, len(text) + typed_bytes(attributes or {})))

    def store(self, text: str, headers: Mapping[str, Any]) -> Pointer | None:
        """Write the text of a message to one queue to S3; None if no bucket is configured for it.

        Raises: as :meth:`publish`.
        """
        store = self._topology.stores.of("", headers)
        return None if store is None else self._uploads.put([text], store, is_for_queue=True)

    def _point(self, large: _Large, target: Target, prepared: Outgoing) -> Outgoing | None:
        """The pointer to a message that is too large for a target; None if the target needs no message.

        Returns *prepared* if no bucket is configured for it.
        """
        if not _is_needed(target) and not self._routes.is_topic_needed(large.exchange):
            large.targets.remove(target)
            return None
        stored = large.message.get("stored")
        if stored is not None:
            changes = stored.changes_for(large.message, large.exchange, large.routing_key)
            return pointing(prepared, large.wire.size_bytes, stored.pointer, changes)
        if large.pointer is None:
            store = self._topology.stores.of(large.exchange, large.message.get("headers") or {})
            if store is None:
                return prepared
            check_values(large.message)
            is_for_queue = len(large.targets) == 1 and isinstance(target, QueueTarget)
            large.pointer = self._uploads.put(large.wire.pieces, store, is_for_queue=is_for_queue)
        return pointing(prepared, large.wire.size_bytes, large.pointer, {})

    def _at_level(self, target: Target, priority: Any) -> Target:
        """The priority level of a queue that has levels; the queue itself otherwise."""
        if not isinstance(target, QueueTarget):
            return target
        queues = self._topology.queues
        name = level_name(target.queue, level_of(priority, target.queue, queues.arguments(target.queue)))
        return target if name == target.queue else QueueTarget(name, queues.url(name))

    def batch_limit(self, target: Target) -> int:
        """As :meth:`kombu_hake.publish.limits.Limits.of_batch`."""
        return self._limits.of_batch(target)

    def send_batch(self, target: Target, items: list[tuple[Published, Outgoing]]) -> list[HakeError | None]:
        """Send up to ten messages to one target in one request, for up to ten seconds; for each its error, or None."""
        if self._telemetry is None or not self._telemetry.traces.is_on() or self._is_internal(items[0][0].exchange):
            return self._send_batch(target, items)
        messages, to_queue = [published.message for published, _ in items], isinstance(target, QueueTarget)
        with self._telemetry.traces.sending_together(shown(target), messages, to_queue=to_queue) as operation:
            errors = self._send_batch(target, items)
            for error in filter(None, errors):
                operation.failed(error)
        return errors

    def _send_batch(self, target: Target, items: list[tuple[Published, Outgoing]]) -> list[HakeError | None]:
        try:
            with patience(_BATCH_PATIENCE_S):
                errors = self._publisher.send_many(target, [prepared for _, prepared in items])
            if not any(errors):
                return errors
            return [
                self._try(target, item[1], item[0]) if isinstance(error, MessageTooLarge) else error
                for item, error in zip(items, errors, strict=True)
            ]
        except (QueueNotFound, TopicNotFound, AccessDenied, PublishError) as exc:  # one message may be the reason
            if isinstance(exc, MessageTooLarge):
                self._limits.forget(target)
            return [self._try(target, prepared, published) for published, prepared in items]
        except HakeError as exc:
            return [exc] * len(items)

    def _try(self, target: Target, prepared: Outgoing, published: Published) -> HakeError | None:
        try:
            if published.mandatory:  # an earlier message of the batch may have found out that it reaches no queue
                self._routes.resolve(published.exchange, published.routing_key, mandatory=True)
            self._send(target, prepared, published)
        except HakeError as exc:
            return exc
        return None

    def _send(self, target: Target, prepared: Outgoing, published: Published) -> None:
        try:
            self._publisher.send(target, prepared)
        except (QueueNotFound, TopicNotFound) as exc:
            for instead in self._instead(target, exc, published):
                self._publisher.send(instead, prepared)
        except AccessDenied as exc:
            if isinstance(target, QueueTarget) or not self._can_do_without(published.exchange):
                raise
            self._topology.give_up(published.exchange, exc)
        except MessageTooLarge:  # the queue takes less than AWS allows, or the topic less than it did
            smaller = self._point_after_refusal(target, prepared, published)
            if smaller is None:
                raise
            self._publisher.send(target, smaller)

    def _point_after_refusal(self, target: Target, prepared: Outgoing, published: Published) -> Outgoing | None:
        headers = published.message.get("headers") or {}
        store = self._topology.stores.of(published.exchange, headers)
        if store is None or not prepared.text or SIZE_ATTRIBUTE in prepared.parameters.get("MessageAttributes", ()):
            return None  # without its text, it was larger than any target takes, and had no place then
        is_for_queue = isinstance(target, QueueTarget)
        pointer = self._uploads.put([prepared.text], store, is_for_queue=is_for_queue)
        return pointing(prepared, len(prepared.text), pointer, {})

    def _send_if_needed(self, target: Target, prepared: Outgoing, exchange: str) -> None:
        """Publish to a topic that may not exist, or have no subscriptions."""
        try:
            self._publisher.send(target, prepared)
        except TopicNotFound:
            self._routes.topic_is_absent(exchange)
        except (AccessDenied, MessageTooLarge):
            if self._routes.is_topic_needed(exchange):
                raise

    def _with_attributes(
        self, message: Mapping[str, Any], targets: list[Target], exchange: str
    ) -> tuple[Mapping[str, Any], list[Target], dict[str, Any]]:
        """A message without its property ``message_attributes``, its targets, and what the property says.

        Raises:
            PublishError: it is not valid, for one of the targets.
        """
        properties = dict(message["properties"])
        given = properties.pop(MESSAGE_ATTRIBUTES)
        message = {**message, "properties": properties}
        if given is None:
            return message, targets, {}
        may_be_stored = not self._topology.stores.is_empty
        to_topic = any(not isinstance(target, QueueTarget) for target in targets)
        try:
            return message, targets, checked_attributes(given, to_topic=to_topic, may_be_stored=may_be_stored)
        except PublishError:
            needed = [target for target in targets if _is_needed(target)]
            if len(needed) == len(targets) or self._routes.is_topic_needed(exchange):
                raise
            return message, needed, checked_attributes(given, to_topic=False, may_be_stored=may_be_stored)

    def _prepare(
        self, target: Target, wire: Wire, message: Mapping[str, Any], routing_key: str, given: Mapping[str, Any]
    ) -> Outgoing:
        """The message to one target. Without its text, if that is larger than any target takes.

        Args:
            given: The attributes that its publisher gives it.
        """
        text = wire.text if wire.size_bytes <= SQS_MAX_MESSAGE_BYTES else ""
        if isinstance(target, QueueTarget):
            extra = send_parameters(message, target.queue, to_queue=True)
            delay = extra.get("DelaySeconds")
            if delay:
                is_deferred_again = _asked_delay(message["properties"]) is None
                extra["DelaySeconds"] = self._delays.allowed_s(target, delay, is_deferred_again=is_deferred_again)
            if not given:
                return Outgoing(text, extra, wire.size_bytes)
            return Outgoing(text, {**extra, "MessageAttributes": given}, wire.size_bytes + typed_bytes(given))
        priority = priority_attribute(message["properties"].get("priority"))
        if self._topology.exchange_type(target.exchange) == "headers":
            rest = _rest(routing_key, priority, message.get("headers") or {})
            if given and len(rest.parameters["MessageAttributes"]) + len(given) > _MOST_WITH_HEADERS:
                rest = _rest_of_key(routing_key, priority)  # without header values it passes all filters
        else:
            rest = _rest_of_key(routing_key, priority)
        extra = send_parameters(message, target.exchange, to_queue=False)
        parameters = {**rest.parameters, **extra} if extra else rest.parameters
        size_bytes = wire.size_bytes + rest.size_bytes
        if given:
            parameters = {**parameters, "MessageAttributes": {**given, **parameters["MessageAttributes"]}}
            size_bytes += typed_bytes(given)
        return Outgoing(text, parameters, size_bytes)

    def _instead(self, target: Target, exc: Exception, published: Published) -> list[Target]:
        mandatory = published.mandatory
        if not isinstance(target, QueueTarget):
            return self._routes.topic_is_gone(target.exchange, published.routing_key, mandatory=mandatory)
        if is_reply_exchange(published.exchange):
            self._topology.queues.forget(target.queue)
            raise ReplyQueueNotFound(f"The queue for this reply is gone: {exc}") from exc
        return self._routes.queue_is_gone(target.queue, mandatory=mandatory)

    def _can_do_without(self, exchange: str) -> bool:
        # Losing an event without listeners is harmless; losing a command is not.
        return self._settings.is_best_effort(exchange) and not is_mailbox(exchange)


def with_compression(message: Mapping[str, Any], above_bytes: int, codec: str) -> Mapping[str, Any]:
    """The message with a compressed body as kombu has it, if the body has more than *above_bytes*.

    A message that is compressed already, or that would not become smaller, is returned unchanged.

    Args:
        codec: kombu's name of it, such as ``gzip``.
    """
    body, headers = message["body"], message.get("headers") or {}
    if not isinstance(body, str | bytes) or len(body) <= above_bytes or headers.get(COMPRESSION_HEADER):
        return message
    found = compressed(body, message.get("content-type"), codec)
    if found is None:
        return message
    return {**message, "body": found[0], "headers": {**headers, COMPRESSION_HEADER: found[1]}}


def _without_foreign_properties(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message without the properties that cannot be written and mean nothing to AMQP or to us.

    RabbitMQ's client ignores unknown properties. A handler of ``before_task_publish`` that publishes again with its
    ``**kwargs`` passes the signal itself as a property.
    """
    dropped = unwritable_properties(message["properties"])
    for name in dropped:
        if _is_news(f"property {name!r}"):
            logger.warning(
                "HAKE204 Dropped the property %s of a message: its value, of type %s, cannot be written as JSON.",
                name,
                type(message["properties"][name]).__name__,
            )
    kept = {name: value for name, value in message["properties"].items() if name not in dropped}
    return {**message, "properties": kept}


def _new_tag() -> str:
    """A unique id of a publish."""
    return f"{forksafe.rng.getrandbits(128):032x}"


def _is_needed(target: Target) -> bool:
    return isinstance(target, QueueTarget) or target.is_needed


def _rest(routing_key: str, priority: str | None, headers: Mapping[str, Any] | None = None) -> Outgoing:
    """A message to an exchange without its text: its attributes, and their size.

    Args:
        priority: As attribute.
        headers: Of a message to a headers exchange.
    """
    attributes = message_attributes(routing_key, headers)
    if priority is not None:
        attributes[PRIORITY_ATTRIBUTE] = priority
    return outgoing("", attributes, {})


_cached_rest = lru_cache(maxsize=_MOST_KEYS)(_rest)


def _rest_of_key(routing_key: str, priority: str | None) -> Outgoing:
    """As :func:`_rest`; computed once for each routing key, unless that is too long to be kept."""
    return (_cached_rest if len(routing_key) <= _MOST_KEY_CHARS else _rest)(routing_key, priority)


def send_parameters(message: Mapping[str, Any], name: str, *, to_queue: bool) -> dict[str, Any]:
    """Parameters of SQS or SNS besides the body: from the message's properties, as kombu's SQS transport reads them,
    and from a task's ETA and tenant.

    Args:
        name: Name of the queue or exchange; FIFO ones end in ``.fifo``.
    Returns:
        ``DelaySeconds`` (queues that are not FIFO), ``MessageGroupId``, ``MessageDeduplicationId``.
    """
    properties = message["properties"]
    extra: dict[str, Any] = {}
    is_fifo = name.endswith(FIFO_SUFFIX)
    if "tenant" in properties or "MessageGroupId" in properties:
        group = group_of(properties, is_fifo=is_fifo)
        if group is not None:
            extra["MessageGroupId"] = group
    if is_fifo:
        extra.setdefault("MessageGroupId", DEFAULT_GROUP_ID)
        extra["MessageDeduplicationId"] = (
            _id_text(properties.get("MessageDeduplicationId"))
            or _task_run(message.get("headers") or {})
            or str(uuid4())
        )
        if to_queue and _asked_delay(properties) is not None and _is_news(f"FIFO queue {name!r}"):
            logger.warning(
                "HAKE206 Ignoring the delays of messages to queue %s: a FIFO queue cannot delay single messages.", name,
                extra=fields(queue=name),
            )  # fmt: skip
    elif to_queue:
        asked = _asked_delay(properties)
        delay = whole(asked) if asked is not None else None
        is_valid = delay is not None and 0 <= delay <= SQS_MAX_DELAY_S
        if asked is not None and not is_valid and _is_news(f"delay {name!r}"):
            logger.warning(
                "HAKE205 A message to queue %s asks for a delay of %s s, which is not a number from 0 to %d; using the "
                "nearest value, or no delay.", name, asked, SQS_MAX_DELAY_S, extra=fields(queue=name),
            )  # fmt: skip
        if delay is None:
            due = due_ms(message.get("headers") or {})
            delay = delay_s(due, int(time.time() * 1000)) if due is not None else 0
        seconds = max(0, min(SQS_MAX_DELAY_S, delay)) if delay else 0
        if seconds or is_valid:  # an explicit 0 overrides the queue's own delay
            extra["DelaySeconds"] = seconds
    return extra


def _asked_delay(properties: Mapping[str, Any]) -> Any:
    """The delay that the publisher asks for, by either of its names in ``sqs://``."""
    asked = properties.get("delay_seconds")
    return properties.get("DelaySeconds") if asked is None else asked


def _is_news(about: str) -> bool:
    """True the first time in this process: a warning for each message would flood the log."""
    if about in _warned or len(_warned) >= _MAX_WARNED:
        return False
    _warned.add(about)
    return True


def _task_run(headers: Mapping[str, Any]) -> str | None:
    """The id of a task's run: its retries are separate messages, which SQS must not treat as duplicates."""
    task_id, retries = _id_text(headers.get("id")), whole(headers.get("retries"))
    return f"{task_id}-{retries}" if task_id and retries else task_id


def _id_text(value: Any) -> str | None:
    """An id as text. A message that is sent again may have any value there; containers are not ids."""
    return None if value is None or isinstance(value, Mapping | list | tuple) else str(value)
