"""Handle events in a worker: find the handlers, and pass the event on.

One handler
    Only the headers of the message are changed to those of the handler's run. It is then passed to the handler's own
    strategy: Celery does rate limits, ETA, retries and everything else.

Several handlers
    One message for each is sent to the group's own queue, in one request; then the event is acknowledged. So each is
    retried, delayed and deleted separately. If a worker dies in between, they are sent again with the same ids, which
    are derived from the event's id.

No handler
    The queue is still bound to the key, or a newer version of the app handles it. The event is moved to the dead-letter
    queue, which is logged once for each key.

Foreign JSON
    It has no header by which Celery recognizes a task. In a group's queue it is converted to an event before Celery
    sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker.request import Request
from kombu.serialization import prepare_accept_content
from kombu.utils.imports import symbol_by_name

from kombu_hake.amqp import PRIVATE_EXCHANGE
from kombu_hake.aws import Once
from kombu_hake.exceptions import HakeError, MalformedMessage
from kombu_hake.groups.failures import GroupRequest, group_of, parts_of, set_aside, text_of
from kombu_hake.groups.messages import Parts, event_of, for_handler, foreign_event, resendable
from kombu_hake.groups.registry import registry
from kombu_hake.publish import NO_TENANT, batch
from kombu_hake.quoting import fields, guarded, quoted
from kombu_hake.receive import HakeMessage
from kombu_hake.worker import check_tasks, reject_unknown

__all__ = ["GroupStep", "event_strategy"]

logger = guarded(logging.getLogger(__name__))


class GroupStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Prepares a Celery worker for events; runs after the step that declares queues, before the one that consumes."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        _prepare_handlers(c.app)
        check_tasks(c)  # after foreign JSON has become an event
        c.create_task_handler = partial(_task_handler, c.app, c.create_task_handler)
        reject_unknown(c)

    def start(self, c: Any) -> None:
        """Log an error if the broker does not support events."""
        transport = c.connection.transport
        if transport.driver_type != "hake":
            logger.error("HAKE601 Topics and groups need a hake:// broker; this worker's is %s.", transport.driver_type)


def _prepare_handlers(app: Any) -> None:
    """Send the handlers' failures to the dead letters, with any request class."""
    for subscription in registry.all(app):
        task = app.tasks[subscription.name_in(app)]
        known = symbol_by_name(task.Request)
        if not issubclass(known, GroupRequest):
            task.Request = GroupRequest if known is Request else type(known.__name__, (GroupRequest, known), {})


def _task_handler(app: Any, create: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """``Consumer.create_task_handler``, which checks each message before Celery does."""
    on_task_received = create(*args, **kwargs)
    topics: dict[str, dict[str, Any]] = {}
    for subscription in registry.all(app):
        has_handlers = partial(_has_handlers, app, subscription.topic, subscription.group)
        topics.setdefault(subscription.group, {})[subscription.topic] = has_handlers

    def on_message(message: Any) -> Any:
        if isinstance(message, HakeMessage) and "attributes" in message.properties:
            group = group_of(message)
            if group in topics and not _adopt(message, topics[group]):
                return None
        return on_task_received(message)

    return on_message


def _has_handlers(app: Any, topic: str, group: str, key: str) -> bool:
    return bool(registry.matching(app, topic, key, group))


def _adopt(message: Any, topics: dict[str, Any]) -> bool:
    """Convert foreign JSON to an event; False if it is malformed and was moved to the dead letters."""
    properties = message.properties
    try:
        event = foreign_event(
            text_of(message.body), properties["attributes"], str(properties.get("message_id")), topics
        )
    except MalformedMessage as exc:
        group = group_of(message)
        logger.error(
            "HAKE605 Cannot read a message in the queue of group %s; moving it to the dead letters: %s.", group, exc,
            extra=fields(queue=group, message_id=properties.get("message_id")),
        )  # fmt: skip
        _settle_aside(message, parts_of(message), "malformed", str(exc))
        return False
    message.become(*event)
    return True


def _settle_aside(message: Any, parts: Parts, reason: str, text: str) -> None:
    if set_aside(message, parts, reason, {"message": text}):
        message.ack()
    else:
        message.abandon()


def event_strategy(task: Any, app: Any, consumer: Any, **_kwargs: Any) -> Callable[..., Any]:
    """Celery's strategy of the event task (``celery/app/task.py``, ``start_strategy``)."""
    is_new = Once()
    accept = prepare_accept_content(app.conf.accept_content)
    revoked = consumer.controller.state.revoked

    def on_event(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_kwargs: Any) -> Any:
        group, found = group_of(message), event_of(message.headers)
        if found is None or group is None:
            event_id = message.headers.get("id")
            logger.error(
                "HAKE606 Rejected an event without a topic or an id: %s", event_id,
                extra=fields(queue=group, task_id=event_id),
            )  # fmt: skip
            return reject(logger, consumer.connection_errors, False)
        topic, key, event_id = found
        if event_id in revoked:
            logger.info("Discarding revoked event: %s[%s]", topic, event_id)
            return ack(logger, consumer.connection_errors)
        event = parts_of(message)
        found_for = registry.matching(app, topic, key, group)
        names = [subscription.name_in(app) for subscription in found_for]
        try:
            handlers = [
                (name, for_handler(event, subscription, name, topic, key, accept=accept))
                for subscription, name in zip(found_for, names, strict=True)
            ]
        except MalformedMessage as exc:
            logger.error(
                "HAKE604 Cannot read an event in the queue of group %s; moving it to the dead letters: %s.", group, exc,
                extra=fields(queue=group, task_id=event_id),
            )  # fmt: skip
            return _settle_aside(message, event, "malformed", str(exc))
        if not handlers:
            if is_new((group, quoted(topic), quoted(key))):
                logger.error(
                    "HAKE602 Group %s has no handler for %r of topic %s. Such events go to its dead letters; once "
                    "there is a handler, `celery hake dlq requeue` runs them.",
                    group, key, topic, extra=fields(queue=group, task_id=event_id),
                )  # fmt: skip
            text = f"no handler for {quoted(key)!r} of topic {quoted(topic)}"
            return _settle_aside(message, event, "unhandled", text)
        if len(handlers) == 1:
            [(name, parts)] = handlers
            message.become(*parts)
            return consumer.strategies[name](message, None, ack, reject, callbacks)
        try:
            _send_each(message, group, event, [parts for _, parts in handlers])
        except HakeError as exc:
            logger.error(
                "HAKE607 Cannot send event %s of topic %s to its handlers; the event is redelivered: %s",
                event_id, topic, exc, extra=fields(queue=group, task_id=event_id),
            )  # fmt: skip
            return message.abandon()
        return ack(logger, consumer.connection_errors)

    return on_event


def _send_each(message: Any, group: str, event: Parts, parts: list[Parts]) -> None:
    stored, lease = getattr(message, "stored", None), getattr(message, "lease", None)
    # The payload of an event stays in S3, because other messages may point to it, unless this is the only one.
    is_shared = stored is not None and lease is not None and lease.owned is None
    with batch():
        for item in parts:
            sent = resendable(item, message.properties.get("sent_timestamp_ms")).as_dict()
            sent["properties"].setdefault("tenant", NO_TENANT)  # a run has its event's tenant, or none
            if is_shared and item.body is event.body:
                sent["stored"] = stored
            message.channel.basic_publish(sent, PRIVATE_EXCHANGE, group)
