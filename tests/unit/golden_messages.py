"""Golden wire messages: how a file is read, and how today's code writes the same message again.

A file is JSON with:

``writer``, ``about``
    Who wrote the message (name and version), and why there is a file for it.
``recipe``
    What kombu_hake was given, in the typed form of :mod:`kombu.utils.json`; null for messages of other writers. See
    :func:`write`.
``sent``
    What SQS or SNS was given beside the body; null for messages of other writers.
``received``
    The message as ``ReceiveMessage`` returns it: ``Body``, ``MessageAttributes``, ``Attributes``, ``MessageId``.
``queue``, ``is_bound``
    Where it was received, and whether that queue has bindings.
``read``
    What every later version must make of it, as :func:`read` gives it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

from fakes import FakeClients, FakeClock
from kombu.utils import json as kombu_json
from publishing import Process

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.deferral import due_ms
from kombu_hake.amqp.envelope import decode, with_first_sent
from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.exceptions import MalformedMessage
from kombu_hake.groups.messages import event_of, foreign_event
from kombu_hake.publish.routes import QueueTarget
from kombu_hake.receive.dead_letters import DeadLetters, SourceQueue
from kombu_hake.receive.delivery import Delivery, Lease
from kombu_hake.receive.messages import sent_ms, to_message
from kombu_hake.topology.spec import QueueSpec

__all__ = ["FOLDER", "NOW_S", "plain", "read", "typed", "write"]

FOLDER = Path(__file__).parent / "golden" / "messages"
#: The time at which all messages are written: 2026-01-01T00:00:00Z.
NOW_S = 1_767_225_600
_ID = UUID("00000000-0000-4000-8000-000000000001")
_DEAD_QUEUE = "the-dead"
_SENDING = ("send_message", "publish")


def plain(value: Any) -> Any:
    """As JSON has it; types that JSON lacks in the typed form of kombu."""
    return json.loads(kombu_json.dumps(value))


def typed(value: Any) -> Any:
    """Undo :func:`plain`."""
    return kombu_json.loads(json.dumps(value))


def read(received: dict[str, Any], queue: str, *, is_bound: bool) -> dict[str, Any]:
    """What a consumer is handed for a received message, in the form of :func:`plain`."""
    delivery = Delivery(1, queue, queue, received, Lease(QueueUrl("u"), "handle", 0.0, 30.0))
    message = to_message(
        decode(received["Body"], queue), delivery, None, 1, "consumer", is_bound=is_bound, sent_ms=sent_ms(received)
    )
    body = message.body.encode() if isinstance(message.body, str) else message.body
    found: dict[str, Any] = {
        "body_base64": base64.b64encode(body).decode(),
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "headers": message.headers,
        "delivery_info": message.delivery_info,
        "properties": {name: value for name, value in message.properties.items() if name != "delivery_info"},
    }
    if message.content_type in ("application/json", "text/plain"):
        found["payload"] = message.payload
    due = due_ms(message.headers)
    if due is not None:
        found["due_ms"] = due
    event = event_of(message.headers)
    if event is not None:
        found["event"] = event
    if "attributes" in message.properties and message.content_type == "application/json":
        attributes, message_id = message.properties["attributes"], message.properties["message_id"]
        with contextlib.suppress(MalformedMessage):
            parts = foreign_event(body.decode(), attributes, message_id, {"orders": lambda key: True})
            found["foreign_event"] = parts.as_dict()
    return plain(found)


def write(recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What today's code sends for a recipe, and the message as it is received; all ids and times are fixed.

    Args:
        recipe: In the form of :func:`typed`. ``queue`` is declared with ``arguments`` and ``bindings`` (exchange, type,
            binding key). Then, by ``action``:

            * ``publish``: ``message``, as :meth:`kombu.transport.base.StdChannel.prepare_message` makes it, is
              published to ``exchange`` with ``routing_key``;
            * ``defer``: a copy of ``message``, which was received and is not due, is sent to the queue again;
            * ``set aside``: ``message``, which was received, is dead-lettered for ``reason``.
    """
    fake = FakeClients(FakeClock(float(NOW_S)))
    process, queue, arguments = Process(fake), recipe["queue"], recipe.get("arguments", {})
    topology, dispatcher = process.topology, process.dispatcher
    process.declare(queue, *(Binding(*binding) for binding in recipe.get("bindings", ())), **arguments)
    clock = mock.Mock(
        time=lambda: float(NOW_S), gmtime=lambda: time.gmtime(NOW_S), strftime=time.strftime, monotonic=time.monotonic
    )
    with (
        mock.patch("kombu_hake.publish.dispatch.uuid4", return_value=_ID),
        mock.patch("kombu_hake.publish.dispatch._new_tag", return_value=_ID.hex),
        mock.patch("kombu_hake.publish.dispatch.time", clock),
        mock.patch("kombu_hake.receive.dead_letters.time", clock),
    ):
        fake.calls.clear()
        where = queue
        message = recipe["message"]
        url = topology.queues.url(queue)
        if recipe["action"] == "publish":
            dispatcher.publish(message, recipe["exchange"], recipe["routing_key"], mandatory=True)
        elif recipe["action"] == "defer":
            text = with_first_sent(message["Body"], recipe["first_sent_ms"])
            dispatcher.send_copy(QueueTarget(queue, url), text, recipe["delay_s"], None, None)
        else:
            where = recipe.get("dead_queue", _DEAD_QUEUE)
            topology.declare_queue(QueueSpec(where))
            if "x-dead-letter-exchange" not in arguments:
                arn = topology.queues.arn(topology.queues.url(where))
                policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
                fake.sqs("set_queue_attributes", QueueUrl=url, Attributes={"RedrivePolicy": policy})
            letters = DeadLetters(fake, dispatcher.publish_now, topology.dead_queues.make_again)
            source = SourceQueue(queue, url, arguments)
            assert letters.set_aside(decode(message["Body"], queue), message, source, recipe["reason"])
    [(operation, params)] = [call for call in fake.calls if call[0] in _SENDING]
    fake.clock.advance(900)
    answer = fake.sqs(
        "receive_message", QueueUrl=topology.queues.url(where), MessageSystemAttributeNames=["All"],
        MessageAttributeNames=["All"],
    )  # fmt: skip
    [received] = answer["Messages"]
    beside = {name: value for name, value in params.items() if name not in ("QueueUrl", "MessageBody", "Message")}
    return {"operation": operation, **beside}, received
