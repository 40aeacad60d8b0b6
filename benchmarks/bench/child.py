"""What is measured from inside a fresh process: ``python -m bench.child NAME COUNT`` prints one JSON line.

The environment says which broker and queue (``Broker.environment``).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from .meter import Meter
from .peers import OF_ANOTHER_ENVIRONMENT, REGION, Broker
from .standin import control

PAYLOAD = "x" * 200
WARM_UP_COUNT = 20
LATENCY_WARM_UP_COUNT = 5
DRAIN_TIMEOUT_S = 30.0
THREADS = 16


def publish(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """kombu's Producer, one message per call; the like of it where there is no kombu."""
    if broker.peer in OF_ANOTHER_ENVIRONMENT:
        return _other(broker).publish(queue, count, WARM_UP_COUNT)  # type: ignore[no-any-return]
    if broker.peer == "boto3":
        return _publish_boto3(broker, queue, count)
    from kombu import Queue

    with connect(broker) as connection:
        producer = connection.Producer(serializer="json")
        Queue(queue, channel=connection.default_channel).declare()
        send = lambda number: producer.publish({"n": number, "text": PAYLOAD}, routing_key=queue)  # noqa: E731
        for number in range(WARM_UP_COUNT):
            send(number)
        with Meter(broker) as meter:
            for number in range(count):
                send(number)
    return meter.result(count)


def publish_exchange(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """The same to an exchange with one bound queue."""
    with _to_exchange(broker, queue) as publish_one:
        for number in range(WARM_UP_COUNT):
            publish_one(number)
        with Meter(broker) as meter:
            for number in range(count):
                publish_one(number)
    return meter.result(count)


def _publish_boto3(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """The floor: ``send_message`` of a body as large as kombu's, with a client as boto3 makes it."""
    from . import aws

    sqs = aws.client("sqs", broker.endpoint_url)
    url = sqs.create_queue(QueueName=queue)["QueueUrl"]
    for _ in range(WARM_UP_COUNT):
        sqs.send_message(QueueUrl=url, MessageBody=PAYLOAD * 3)
    with Meter(broker) as meter:
        for _ in range(count):
            sqs.send_message(QueueUrl=url, MessageBody=PAYLOAD * 3)
    return meter.result(count)


def delay(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """Celery's ``.delay()``, one thread."""
    from .tasks import noop

    for number in range(WARM_UP_COUNT):
        noop.delay(number)
    with Meter(broker) as meter:
        for number in range(count):
            noop.delay(number)
    return meter.result(count)


def delay_threads(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """Celery's ``.delay()`` from sixteen threads that start together."""
    from .tasks import noop

    barrier = threading.Barrier(THREADS + 1)
    failures: list[Exception] = []

    def send() -> None:
        try:
            noop.delay(-1)  # each thread's connection is made before the clock starts
            barrier.wait()
            for number in range(count // THREADS):
                noop.delay(number)
        except Exception as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=send) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    with Meter(broker) as meter:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return meter.result(count // THREADS * THREADS)


def batch(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """kombu's Producer within ``kombu_hake.batch()``; the others have no batch and just loop."""
    from kombu import Queue

    with connect(broker) as connection:
        producer = connection.Producer(serializer="json")
        Queue(queue, channel=connection.default_channel).declare()
        producer.publish({"n": -1, "text": PAYLOAD}, routing_key=queue)
        with Meter(broker) as meter, _batch(broker):
            for number in range(count):
                producer.publish({"n": number, "text": PAYLOAD}, routing_key=queue)
    return meter.result(count)


def batch_exchange(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """The same to an exchange with one bound queue."""
    with _to_exchange(broker, queue) as publish_one:
        publish_one(-1)
        with Meter(broker) as meter, _batch(broker):
            for number in range(count):
                publish_one(number)
    return meter.result(count)


def delay_batch(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """``.delay()`` in the same way."""
    from .tasks import noop

    noop.delay(-1)
    with Meter(broker) as meter, _batch(broker):
        for number in range(count):
            noop.delay(number)
    return meter.result(count)


def fill(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """Put tasks into the queue, by the quickest way the peer has. Not measured."""
    if broker.peer in OF_ANOTHER_ENVIRONMENT:
        return _other(broker).fill(queue, count)  # type: ignore[no-any-return]
    from .tasks import noop

    if not broker.is_aws:
        for number in range(count):
            noop.delay(number)
        return {}
    sent = noop.delay(0)
    control(broker.side_url, fill={"queue": queue, "count": count, "id": sent.id})
    return {}


def wire(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """A receive of ten and a delete of ten, by the package's own clients: ``count`` pairs from a filled queue."""
    receive, delete = _wire_calls(broker, queue)

    def pair() -> None:
        found = receive()["Messages"]
        entries = [{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(found)]
        deleted = delete(Entries=entries)["Successful"]
        assert len(found) == len(deleted) == 10

    for _ in range(WARM_UP_COUNT):
        pair()
    with Meter(broker) as meter:
        for _ in range(count):
            pair()
    return meter.result(count)


def consume(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """kombu's Consumer, each message acked in its callback; ``left`` must be 0."""
    from kombu import Queue

    from . import aws

    done = 0

    def on_message(message: Any) -> None:
        nonlocal done
        message.ack()
        done += 1

    connection = connect(broker)
    with connection.channel() as channel:
        consumer = connection.Consumer(Queue(queue), channel=channel, on_message=on_message, prefetch_count=100)
        with Meter(broker) as meter, consumer:
            while done < count:
                connection.drain_events(timeout=DRAIN_TIMEOUT_S)
        closing_at = time.perf_counter()
    connection.close()
    result = meter.result(done)
    result["close_s"] = time.perf_counter() - closing_at
    if broker.is_aws:
        result["left"] = aws.left_in(broker.side_url, queue)
    return result


def fan_out(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """Events to an exchange with ``BENCH_GROUPS`` queues, all consumed; published in a batch where the peer has it."""
    from kombu import Exchange, Queue

    group_count = int(os.environ["BENCH_GROUPS"])
    exchange = Exchange(f"{queue}-events", type="fanout")
    queues = [Queue(f"{queue}-{number}", exchange) for number in range(group_count)]
    received: list[int] = []

    def on_message(message: Any) -> None:
        message.ack()
        received.append(1)

    with connect(broker) as consuming:
        for each in queues:  # a channel for each group, as workers of their own would have
            consumer = consuming.Consumer(each, channel=consuming.channel(), on_message=on_message, prefetch_count=100)
            consumer.consume()
        with connect(broker) as publishing:
            producer = publishing.Producer(exchange=exchange, serializer="json")
            # What is made on first use is made before the clock starts; Redis subscribes in its first drain.
            if broker.peer == "redis":
                with suppress(TimeoutError):
                    consuming.drain_events(timeout=1)
            producer.publish({"n": -1})
            while len(received) < group_count:
                consuming.drain_events(timeout=DRAIN_TIMEOUT_S)
            received.clear()
            with Meter(broker) as meter:
                with _batch(broker):
                    for number in range(count):
                        producer.publish({"n": number, "text": PAYLOAD})
                published_s = time.perf_counter() - meter.started_at
                while len(received) < count * group_count:
                    consuming.drain_events(timeout=DRAIN_TIMEOUT_S)
    result = meter.result(count)
    result["publish_rate"] = count / published_s
    return result


def latency(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """Send time stamps to an idle worker, one at a time; the first few are to be left out."""
    import random

    from .tasks import stamp

    pause = random.Random(1)
    for _ in range(count + LATENCY_WARM_UP_COUNT):
        stamp.delay(time.time())
        time.sleep(pause.uniform(0.05, 0.09))
    return {}


def wake_up(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """The floor of ``latency``: one boto3 client sends, another has a long poll open."""
    from . import aws

    sender, receiver = aws.client("sqs", broker.endpoint_url), aws.client("sqs", broker.endpoint_url)
    url = sender.create_queue(QueueName=queue)["QueueUrl"]
    samples: list[float] = []

    def receive() -> None:
        while len(samples) < count:
            found = receiver.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=20)
            for message in found.get("Messages", []):
                samples.append(time.time() - float(message["Body"]))
                receiver.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    thread = threading.Thread(target=receive)
    thread.start()
    for _ in range(count):
        time.sleep(0.08)
        sender.send_message(QueueUrl=url, MessageBody=str(time.time()))
    thread.join()
    return {"samples": samples}


def first_publish(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """From the start of a process to its first accepted message; ``BENCH_STARTED_AT`` is when it was started."""
    from .tasks import noop

    imported_at = time.time()
    noop.delay(0)
    started_at = float(os.environ["BENCH_STARTED_AT"])
    return {"import_ms": (imported_at - started_at) * 1000, "published_ms": (time.time() - started_at) * 1000}


def import_time(broker: Broker, queue: str, count: int) -> dict[str, Any]:
    """What the transport adds to a process that has Celery already; whether boto3 came with it."""
    import celery
    from kombu.transport import resolve_transport

    assert celery.Celery
    started_at = time.perf_counter()
    resolve_transport(broker.peer if broker.peer != "rabbitmq" else "amqp")
    seconds = time.perf_counter() - started_at
    return {"import_ms": seconds * 1000, "has_boto3": "boto3" in sys.modules}


def _other(broker: Broker) -> Any:
    return importlib.import_module(f"bench.tasks_{broker.peer}")


def connect(broker: Broker) -> Any:
    """A kombu connection to the peer."""
    from kombu import Connection

    ssl = {"ca_certs": broker.ca_file} if broker.url.startswith("amqps:") else False
    return Connection(broker.url, transport_options=broker.options, ssl=ssl)


def _batch(broker: Broker) -> Any:
    if not broker.is_hake:
        return nullcontext()
    import kombu_hake

    return kombu_hake.batch()


@contextmanager
def _to_exchange(broker: Broker, queue: str) -> Iterator[Callable[[int], None]]:
    from kombu import Exchange, Queue

    exchange = Exchange(f"{queue}-events", type="fanout")
    with connect(broker) as connection:
        producer = connection.Producer(exchange=exchange, serializer="json")
        Queue(queue, exchange, channel=connection.default_channel).declare()
        yield lambda number: producer.publish({"n": number, "text": PAYLOAD})


def _wire_calls(broker: Broker, queue: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Receive and delete, with all parameters but the entries."""
    asked = {"MaxNumberOfMessages": 10, "WaitTimeSeconds": 20, "VisibilityTimeout": 120}
    names = {"AttributeNames": ["All"], "MessageAttributeNames": ["All"]}
    if broker.peer == "boto3":
        from . import aws

        sqs = aws.client("sqs", broker.endpoint_url)
        url = sqs.create_queue(QueueName=queue)["QueueUrl"]
        return (
            partial(sqs.receive_message, QueueUrl=url, **asked, **names),
            partial(sqs.delete_message_batch, QueueUrl=url),
        )
    clients_of, settings_of = _package()
    clients = clients_of(
        settings_of(access_key_id="bench", secret_access_key="bench", region=REGION, endpoint_url=broker.endpoint_url)
    )
    url = clients.sqs("create_queue", QueueName=queue)["QueueUrl"]
    return (
        partial(clients.sqs, "receive_message", QueueUrl=url, **asked, **names),
        partial(clients.sqs, "delete_message_batch", QueueUrl=url),
    )


def _package() -> tuple[Any, Any]:
    """``Clients`` and ``Settings``, wherever this version of the package has them."""
    import kombu_hake

    # The package that is installed in place would lend a baseline the modules that it lacks.
    if Path(kombu_hake.__file__).with_name("aws").is_dir():
        from kombu_hake.aws.clients import Clients
        from kombu_hake.config import Settings
    else:
        from kombu_hake.clients import Clients
        from kombu_hake.settings import Settings
    return Clients, Settings


SCENARIOS: dict[str, Callable[[Broker, str, int], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        *(publish, publish_exchange, batch, batch_exchange, delay, delay_threads, delay_batch),
        *(fill, wire, consume, fan_out),
        *(latency, wake_up, first_publish, import_time),
    )
}


def main() -> None:
    """Run one and print its result."""
    name, count = sys.argv[1], int(sys.argv[2])
    result = SCENARIOS[name](Broker.from_environment(), os.environ["BENCH_QUEUE"], count)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
