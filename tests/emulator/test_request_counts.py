"""What the cost model says of single messages, counted on the wire."""

import time

from kombu import Connection, Consumer, Producer, Queue
from support.emulators import Emulator
from support.proxy import Proxy

MESSAGES = 12


def test_messages_that_come_one_at_a_time_take_three_requests_each(moto: Emulator) -> None:
    """Publish, receive, delete; and one poll that stays open (``kombu_hake.cli.cost``)."""
    with Proxy(moto.endpoint_url) as proxy:
        url = moto.in_namespace("trickle").url().replace(f":{moto.port}/", f":{proxy.endpoint_url.rpartition(':')[2]}/")
        with Connection(url) as connection, Connection(url) as publishing:
            jobs = Queue("jobs")(connection.default_channel)
            jobs.declare()
            producer = Producer(publishing)
            received: list[object] = []

            def on_message(body: object, message: object) -> None:
                received.append(body)
                message.ack()  # type: ignore[attr-defined]

            with Consumer(connection, [jobs], callbacks=[on_message], prefetch_count=8):
                for number in range(MESSAGES):
                    producer.publish(number, routing_key="jobs")
                    while len(received) <= number:
                        connection.drain_events(timeout=30)
                    while proxy.stats()["messages"].get("DeleteMessageBatch", 0) <= number:
                        time.sleep(0.01)
                counts = proxy.stats()["requests"]
    assert received == list(range(MESSAGES))
    assert counts["SendMessage"] == MESSAGES
    assert counts["DeleteMessageBatch"] == MESSAGES
    assert MESSAGES <= counts["ReceiveMessage"] <= MESSAGES + 2
