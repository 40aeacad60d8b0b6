"""What a process may do to a broker in its life: ``python -m apps.lives many 200``; prints what came of it as JSON."""

import atexit
import gc
import json
import os
import signal
import sys
import threading
import time
from typing import Any

from celery import Celery
from kombu import Connection
from kombu.asynchronous import Hub

from apps.notes import BROKER

app = Celery("lives", broker=BROKER)


@app.task(name="note_down")
def note_down(who: str) -> None:
    raise NotImplementedError("Nobody runs it: the test counts the messages.")


def resources() -> dict[str, int]:
    gc.collect()
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return {
        "threads": len([thread for thread in threading.enumerate() if thread.name.startswith("hake")]),
        "sockets": len([target for target in targets if target.startswith("socket:")]),
        "descriptors": len(targets),
    }


def use(connection: Connection) -> None:
    """Publish, consume and acknowledge one message, with an event loop as a worker has one."""
    hub = Hub()
    found: list[Any] = []
    connection.connect()
    connection.register_with_event_loop(hub)
    with connection.Consumer([connection.SimpleQueue("many").queue], on_message=found.append):
        connection.Producer().publish("hello", routing_key="many")
        while not found:
            connection.drain_events(timeout=30)
    found[0].ack()
    hub.close()


def many(count: str) -> dict[str, Any]:
    """Connections that are opened and closed, with equal and with ever new settings, and some that are forgotten."""
    for _ in range(5):  # warm up: caches, pools
        with Connection(BROKER) as connection:
            use(connection)
    before = resources()
    for number in range(int(count)):
        options = {"visibility_timeout": 30 + number} if number % 2 else {}
        with Connection(BROKER, transport_options=options) as connection:
            use(connection)
    for _ in range(int(count) // 5):
        use(Connection(BROKER))
    gc.collect()
    deadline = time.monotonic() + 30  # open polls end by themselves, and keepers look up every other second
    while resources()["threads"] and time.monotonic() < deadline:
        time.sleep(0.1)
    return {"before": before, "after": resources()}


def signals() -> dict[str, Any]:
    """A handler that publishes, while the main thread and others publish to the same queue."""
    handled = 0
    producer = Connection(BROKER).Producer()
    main = threading.main_thread().ident
    over = threading.Event()

    def on_signal(*_args: object) -> None:
        nonlocal handled
        producer.publish("handler", routing_key="many")
        handled += 1

    def shoot() -> None:
        shots = 0
        while not over.wait(0.003):
            if handled == shots < 30:  # one at a time: handlers that interrupt each other need no broker for trouble
                shots += 1
                signal.pthread_kill(main, signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, on_signal)
    others = [threading.Thread(target=lambda: [producer.publish("x", routing_key="many") for _ in range(20)])]
    others.append(threading.Thread(target=shoot))
    producer.channel.queue_declare("many")
    for thread in others:
        thread.start()
    for _ in range(60):
        producer.publish("main", routing_key="many")
    others[0].join()
    over.set()
    others[1].join()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with Connection(BROKER) as connection:
        size = connection.SimpleQueue("many").qsize()
    return {"handled": handled, "stored": size}


def exits() -> dict[str, Any]:
    """Publishes from a thread that outlives the main one, from ``__del__`` and from an exit handler; closes nothing."""
    connection = Connection(BROKER)
    queue = connection.SimpleQueue("many")
    for _ in range(3):
        queue.put("x")
    first, second = queue.get(timeout=30), queue.get(timeout=30)
    first.ack()
    assert second  # not acknowledged: visible again at once

    class Last:
        def __del__(self) -> None:
            note_down.delay("del")

    def late() -> None:
        threading.main_thread().join()
        note_down.delay("thread")
        import kombu_hake

        with kombu_hake.batch():
            for number in range(25):
                note_down.delay(f"batch {number}")

    atexit.register(note_down.delay, "exit handler")
    threading.Thread(target=late).start()
    globals()["last"] = Last()
    atexit.register(lambda: globals().pop("last"))
    return {}


if __name__ == "__main__":
    print(json.dumps({"many": many, "signals": signals, "exits": exits}[sys.argv[1]](*sys.argv[2:])))
