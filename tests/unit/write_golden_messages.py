"""Writes the golden wire messages of the version that is installed: a new folder for each new version.

::

    PYTHONPATH=.:tests:tests/unit .venv/bin/python tests/unit/write_golden_messages.py

Run it when a version is about to be released, and commit what it adds. Files that exist are never written again: they
are what is in the queues of users.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from unittest import mock
from uuid import UUID

import kombu
from celery import Celery
from fakes import ACCOUNT, REGION, FakeClients, connected
from golden_messages import FOLDER, NOW_S, plain, read, write
from kombu import Connection, Exchange, Producer
from kombu.transport.SQS import Channel as SqsChannel
from kombu.transport.SQS.SNS import SNS as SqsFanout

import kombu_hake
from kombu_hake._version import __version__
from kombu_hake.amqp.tasks import ORIGIN_HEADER, PRIVATE_EXCHANGE
from kombu_hake.channel import Channel
from kombu_hake.groups.messages import Parts, for_handler, with_death
from kombu_hake.groups.registry import Subscription

TASK_ID = "3b9f3b0a-7d0e-4a55-9d0f-1c9a5f0f7f10"
EVENT_ID = "8c4e2a96-0a35-4d4e-8f0c-2f2f8f1f6f01"
OWNER = "a4d2f6de-3f0b-3c53-8a3a-0d7f4a1f2b11"
ORDER = {"order_id": 7, "name": "Zoë"}
NOW = datetime.fromtimestamp(NOW_S, timezone.utc)
DEAD = "queue.dead"


@contextmanager
def caught() -> Iterator[tuple[Connection, Celery, list[dict[str, Any]]]]:
    """A connection and an app whose publishes are not sent, but noted."""
    found: list[dict[str, Any]] = []

    def note(self: Any, message: Any, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        found.append({"action": "publish", "message": message, "exchange": exchange, "routing_key": routing_key})

    with (
        connected(FakeClients()) as connection,
        mock.patch.object(Channel, "basic_publish", note),
        mock.patch("celery.app.amqp.anon_nodename", return_value="gen1@golden"),
        Celery("shop", set_as_current=False, broker="memory://") as app,
    ):
        yield connection, app, found


def ours() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, reason and recipe of each message that kombu_hake writes."""
    topic = [["orders", "topic", "order.#"]]
    with caught() as (connection, app, found):

        def task(*, queue: str = "q", bindings: Any = (), **options: Any) -> dict[str, Any]:
            options = options if "exchange" in options else {"queue": queue, **options}
            app.send_task(
                "shop.mail", (7,), {"name": "Zoë"}, task_id=TASK_ID, reply_to=OWNER, connection=connection, **options
            )
            return {**found.pop(), "queue": queue, "bindings": list(bindings)}

        def message(body: Any, *, bindings: Any = (), queue: str = "q", **options: Any) -> dict[str, Any]:
            options = {"exchange": "", "routing_key": queue, **options}
            Producer(connection).publish(body, **options)
            return {**found.pop(), "queue": queue, "bindings": list(bindings)}

        yield "task", "A task of protocol 2 by the default exchange", task()
        yield (
            "task_own_exchange",
            "The same by the direct exchange of the queue's name",
            task(exchange="q", routing_key="q", bindings=[["q", "direct", "q"]]),
        )
        yield (
            "task_direct",
            "A task by a direct exchange",
            task(exchange="mails", routing_key="urgent", bindings=[["mails", "direct", "urgent"]]),
        )
        yield (
            "task_topic",
            "A task by a topic exchange",
            task(exchange="orders", routing_key="order.placed.eu", bindings=topic),
        )
        yield (
            "task_fanout",
            "A task by a fanout exchange",
            task(exchange="news", routing_key="any", bindings=[["news", "fanout", ""]]),
        )
        yield (
            "task_priority",
            "A task with a priority, through a topic",
            task(exchange="orders", routing_key="order.placed", bindings=topic, priority=6),
        )
        yield "task_expires", "A task that expires", task(expires=NOW + timedelta(hours=1))
        yield "message_expiration", "A message with a time to live", message(ORDER, expiration=90)
        yield "task_eta", "A task with an ETA: sent with a delay", task(eta=NOW + timedelta(minutes=10))
        yield "task_eta_far", "A task with an ETA beyond the longest delay", task(eta=NOW + timedelta(days=3))
        yield "task_retried", "A retry, through the private exchange to its own queue", task(
            exchange=PRIVATE_EXCHANGE, routing_key="q", retries=2,
            headers={ORIGIN_HEADER: {"exchange": "orders", "routing_key": "order.placed"}},
            bindings=topic,
        )  # fmt: skip
        yield "task_gzip", "A compressed task: binary, with a header", task(compression="gzip")
        yield "task_fifo", "A task to a FIFO queue", task(queue="q.fifo", MessageGroupId="customer-7")
        yield (
            "message_fifo",
            "A message with its own deduplication id",
            message(ORDER, queue="q.fifo", MessageGroupId="customer-7", MessageDeduplicationId="order-7"),
        )
        yield "message_fair", "A message of a tenant to a standard queue", message(ORDER, MessageGroupId="tenant-7")
        yield "message_delayed", "A message with a delay", message(ORDER, DelaySeconds=30)
        yield "message_text", "Text that is not ASCII", message("Zoë ☃ 🐌", content_type="text/plain")
        yield "message_pickle", "A binary body", message(
            b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01n\x94K\x07s.",
            content_type="application/x-python-serialize", content_encoding="binary",
        )  # fmt: skip
        yield (
            "message_msgpack",
            "Another binary body",
            message(b"\x81\xa5order\x07\xff", content_type="application/x-msgpack", content_encoding="binary"),
        )
        yield "message_empty", "A message without a body", message(b"", content_type="text/plain")
        yield (
            "message_typed_headers",
            "Headers that only kombu's JSON knows",
            message(
                ORDER, headers={"at": NOW, "day": NOW.date(), "id": UUID(TASK_ID), "price": Decimal("9.90"), "n": 1}
            ),
        )
        yield "message_headers_exchange", "A message by a headers exchange", message(
            ORDER, exchange=Exchange("match", "headers"), routing_key="", headers={"region": "eu", "size": 3},
            bindings=[["match", "headers", ""]],
        )  # fmt: skip
        yield from _groups(app, connection, found)
        yield from _control(app, connection, found)
        deferred = write(task(eta=NOW + timedelta(days=3)))[1]
        yield "deferred_copy", "A copy of a task that is not due: it tells when it was first sent", {
            "action": "defer", "queue": "q", "message": deferred, "first_sent_ms": NOW_S * 1000, "delay_s": 900,
        }  # fmt: skip
        rejected = write(task(exchange="orders", routing_key="order.placed", bindings=topic))[1]
        for reason in ("rejected", "expired"):
            yield f"dead_letter_{reason}", "A dead letter in a dead-letter queue: attributes tell why", {
                "action": "set aside", "queue": "q", "message": rejected, "reason": reason,
            }  # fmt: skip
        yield "dead_letter_exchange", "A dead letter by x-dead-letter-exchange: headers tell why, as RabbitMQ's", {
            "action": "set aside", "queue": "q", "message": rejected, "reason": "rejected", "dead_queue": DEAD,
            "arguments": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD},
        }  # fmt: skip


def _groups(app: Celery, connection: Connection, found: list[Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    bindings = [["orders", "topic", "placed"]]
    topic = kombu_hake.Topic("orders", app=app)
    topic.send("placed", ORDER, event_id=EVENT_ID, connection=connection)
    event = found.pop()
    yield "event", "An event of a Topic", {**event, "queue": "stock", "bindings": bindings}
    received = write({**event, "queue": "stock", "bindings": bindings})[1]
    there = read(received, "stock", is_bound=True)
    parts = Parts(
        base64.b64decode(there["body_base64"]), there["content_type"], there["content_encoding"], there["headers"],
        {name: value for name, value in event["message"]["properties"].items() if name != "delivery_info"},
    )  # fmt: skip
    subscription = Subscription("orders", "placed", "stock", lambda app: "shop.reserve")
    run = for_handler(parts, subscription, "shop.reserve", "orders", "placed")
    again = {"action": "publish", "exchange": PRIVATE_EXCHANGE, "routing_key": "stock", "queue": "stock"}
    yield "handler_run", "The run of one of several handlers, to its group's queue", {
        **again, "message": run.as_dict(), "bindings": bindings,
    }  # fmt: skip
    subscription = Subscription("orders", "placed", "stock", lambda app: "shop.audit", as_mapping=True)
    mapping = for_handler(parts, subscription, "shop.audit", "orders", "placed")
    yield "handler_run_mapping", "A run whose handler takes the payload as one mapping", {
        **again, "message": mapping.as_dict(), "bindings": bindings,
    }  # fmt: skip
    death = {"reason": "failed", "error": "ValueError: no", "handler": "shop.reserve", "at": NOW.isoformat()}
    dead = run._replace(headers=with_death(run.headers, death))
    yield "handler_dead_letter", "A failed run with its history", {
        **again, "message": dead.as_dict(), "bindings": bindings,
    }  # fmt: skip


def _control(app: Celery, connection: Connection, found: list[Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    Producer(connection).publish(
        {"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None,
         "ticket": TASK_ID, "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": OWNER}},
        exchange=Exchange("celery.pidbox", "fanout", durable=False, delivery_mode="transient"), routing_key="",
        headers={"clock": 12, "expires": float(NOW_S + 60)}, expiration=60, serializer="json",
    )  # fmt: skip
    yield "control_request", "A command of remote control that wants replies", {
        **found.pop(), "queue": "w1.celery.pidbox", "bindings": [["celery.pidbox", "fanout", ""]],
    }  # fmt: skip
    app.control.mailbox._publish_reply(
        {"w1@golden": {"ok": "pong"}}, "reply.celery.pidbox", OWNER, TASK_ID,
        channel=connection.channel(), producer=Producer(connection),
    )  # fmt: skip
    yield "control_reply", "A worker's reply to it", {**found.pop(), "queue": f"{OWNER}.reply.celery.pidbox"}
    dispatcher = app.events.Dispatcher(connection, hostname="w1@golden")
    dispatcher.send("worker-heartbeat", freq=2.0, active=0, processed=3)
    yield "celery_event", "A worker's heartbeat", {
        **found.pop(), "queue": "celeryev.flower", "bindings": [["celeryev", "topic", "#"]],
    }  # fmt: skip


def kombus() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, reason and received message of what kombu's ``sqs://`` writes."""
    for is_base64 in (True, False):
        suffix = "base64" if is_base64 else "plain"
        for name, about, raw in _by_sqs(is_base64):
            yield f"{name}_{suffix}", about, raw


def _by_sqs(is_base64: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    sqs, sns = mock.Mock(), mock.Mock()
    sns.publish.return_value = {"ResponseMetadata": {"HTTPStatusCode": 200}}
    sqs.get_queue_attributes.return_value = {"Attributes": {"ApproximateNumberOfMessages": "0"}}
    base = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}"
    options = {
        "region": REGION,
        "supports_fanout": True,
        "sqs_base64_encoding": is_base64,
        "predefined_queues": {name: {"url": f"{base}/{name}"} for name in ("q", "q.fifo")},
    }
    with (
        mock.patch.object(SqsChannel, "sqs", return_value=sqs),
        mock.patch.object(SqsFanout, "get_client", return_value=sns),
        mock.patch.object(SqsFanout, "_get_or_create_topic", return_value="arn"),
        mock.patch("celery.app.amqp.anon_nodename", return_value="gen1@golden"),
        Connection("sqs://key:secret@", transport_options=options) as connection,
        Celery("shop", set_as_current=False, broker="memory://") as app,
    ):

        def received() -> dict[str, Any]:
            params = sqs.send_message.call_args.kwargs
            return _raw(params["MessageBody"], params.get("MessageAttributes"), params.get("MessageGroupId"))

        def task(queue: str = "q", **options: Any) -> dict[str, Any]:
            app.send_task(
                "shop.mail", (7,), {"name": "Zoë"}, task_id=TASK_ID, reply_to=OWNER, connection=connection,
                queue=queue, **options,
            )  # fmt: skip
            return received()

        yield "task", "A task of protocol 2", task()
        yield "task_eta", "A task with an ETA", task(eta=NOW + timedelta(minutes=10))
        yield "task_gzip", "A compressed task", task(compression="gzip")
        yield "task_fifo", "A task to a FIFO queue", task("q.fifo", MessageGroupId="customer-7")
        Producer(connection).publish(
            b"\x81\xa5order\x07\xff", routing_key="q", content_type="application/x-msgpack", content_encoding="binary"
        )
        yield "message_msgpack", "A binary body", received()
        Producer(connection).publish(ORDER, routing_key="q", headers={"at": NOW, "price": Decimal("9.90")})
        yield "message_typed_headers", "Headers that only kombu's JSON knows", received()
        if not is_base64:  # kombu publishes to SNS as plain text always
            channel = connection.channel()
            channel.exchange_declare = mock.Mock()
            channel.state.exchanges["news"] = {"type": "fanout", "table": []}
            channel.typeof = lambda exchange, default="direct": channel.exchange_types["fanout"]
            Producer(channel, auto_declare=False).publish(ORDER, exchange="news", routing_key="any")
            yield (
                "fanout",
                "A message by a fanout exchange through SNS, delivered raw",
                _raw(sns.publish.call_args.kwargs["Message"]),
            )


def others() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Writer, name, reason and received message of what neither writes."""
    text = json.dumps(ORDER, ensure_ascii=False)
    named = {"rk": "placed", "exchange": "orders", "event_id": EVENT_ID}
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in named.items()}
    writer = "a program with the AWS SDK"
    yield writer, "json_event", "JSON with attributes that make it an event", _raw(text, attributes)
    yield (
        writer,
        "json_event_bare",
        "JSON with a routing key alone: topic and id follow",
        _raw(text, {"rk": attributes["rk"], "weight": {"DataType": "Number", "StringValue": "7"}}),
    )
    yield writer, "json", "JSON without attributes", _raw(text)
    yield writer, "text", "Text that is no JSON", _raw("hello, wörld")
    envelope = json.loads((FOLDER / f"kombu_hake-{__version__}" / "task_topic.json").read_text())["received"]["Body"]
    for name, message in (("notification", envelope), ("notification_text", "hello")):
        yield (
            "SNS",
            name,
            "A notification without raw delivery",
            _raw(
                json.dumps(
                    {
                        "Type": "Notification",
                        "MessageId": "9d4c2c2c-6c3e-5b0a-8f39-70a3a9d4e111",
                        "TopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:orders",
                        "Message": message,
                        "Timestamp": "2026-01-01T00:00:00.000Z",
                        "SignatureVersion": "1",
                        "Signature": "c2lnbmF0dXJl",
                        "SigningCertURL": f"https://sns.{REGION}.amazonaws.com/SimpleNotificationService-0.pem",
                        "UnsubscribeURL": f"https://sns.{REGION}.amazonaws.com/?Action=Unsubscribe",
                        "MessageAttributes": {"rk": {"Type": "String", "Value": "order.placed.eu"}},
                    },
                    indent=2,
                )
            ),
        )


def _raw(body: str, attributes: Any = None, group: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "MessageId": "5fea7756-0ea4-451a-a703-a558b933e274",
        "ReceiptHandle": "handle-1",
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": str(NOW_S * 1000)},
    }
    if group:
        found["Attributes"]["MessageGroupId"] = group
    return {**found, "MessageAttributes": attributes} if attributes else found


def _save(folder: str, name: str, case: dict[str, Any]) -> None:
    path = FOLDER / folder / f"{name}.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(case), indent=1, ensure_ascii=False) + "\n")
    print(path.relative_to(FOLDER))


def _case(writer: str, about: str, raw: dict[str, Any], queue: str, *, is_bound: bool, **more: Any) -> dict[str, Any]:
    return {
        "writer": writer, "about": about, "queue": queue, "is_bound": is_bound, "received": raw, "recipe": None,
        "sent": None, "read": read(raw, queue, is_bound=is_bound), **more,
    }  # fmt: skip


def main() -> None:
    """Write what is missing."""
    for name, about, recipe in ours():
        sent, raw = write(recipe)
        queue = recipe.get("dead_queue", "the-dead") if recipe["action"] == "set aside" else recipe["queue"]
        is_bound = bool(recipe.get("bindings")) and recipe["exchange"] != recipe["queue"]
        case = _case(f"kombu_hake {__version__}", about, raw, queue, is_bound=is_bound, recipe=recipe, sent=sent)
        _save(f"kombu_hake-{__version__}", name, case)
    for name, about, raw in kombus():
        queue = "q.fifo" if "fifo" in name else "q"
        case = _case(f"kombu {kombu.__version__}, sqs://", about, raw, queue, is_bound=name.startswith("fanout"))
        _save(f"kombu-{kombu.__version__}-sqs", name, case)
    for writer, name, about, raw in others():
        _save("others", name, _case(writer, about, raw, "stock", is_bound=True))


if __name__ == "__main__":
    main()
