"""A process that uses the broker, forks or spawns, and goes on: ``python -m apps.forks fork``; prints the outcome."""

import json
import multiprocessing
import os
import sys
import threading
import time
import traceback

from kombu import Connection, Exchange, Queue

from apps.notes import BROKER

CHILDREN = 3
EACH = 5
work = Queue("work", Exchange("work", "direct"), "work")
results = Queue("results")
shared = Connection(BROKER)


def publish(who: str, connection: Connection) -> None:
    producer = connection.Producer()
    for number in range(EACH):
        producer.publish({"who": who, "number": number}, routing_key="results")


def take(connection: Connection, count: int) -> list[dict]:
    """Consume *count* results and acknowledge them."""
    found: list[dict] = []

    def on_message(body: dict, message: object) -> None:
        found.append(body)
        message.ack()

    with connection.Consumer([results], callbacks=[on_message], prefetch_count=10):
        while len(found) < count:
            connection.drain_events(timeout=30)
    return found


def child(name: str) -> None:
    """What each child does: over the inherited connection, and over one of its own."""
    publish(name, shared)
    with Connection(BROKER) as own:
        publish(f"{name} own", own)
        own_queue = own.SimpleQueue(f"of {name}".replace(" ", "-"))
        own_queue.put("hello")
        message = own_queue.get(timeout=30)
        message.ack()
        own_queue.close()
    shared.close()
    deadline = time.monotonic() + 30  # threads end a moment after their connection
    while names := {name for name in hake_threads() if not name.startswith("hake-poll")}:
        assert time.monotonic() < deadline, names
        time.sleep(0.05)


def hake_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hake")]


def forked() -> list[int]:
    pids = []
    for number in range(CHILDREN):
        pid = os.fork()
        if not pid:
            try:
                child(f"child {number}")
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def started(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=child, args=(f"child {number}",)) for number in range(CHILDREN)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def main(how: str) -> None:
    held: list[object] = []
    work(shared.default_channel).declare()
    results(shared.default_channel).declare()
    shared.Producer().publish({"who": "parent"}, exchange=work.exchange, routing_key="work")
    with shared.Consumer([work], callbacks=[lambda body, message: held.append(message)], prefetch_count=1):
        shared.drain_events(timeout=30)  # held, and a poller is running
        before = threading.active_count()
        codes = forked() if how == "os.fork" else started(how)
        publish("parent", shared)
        found = take(shared, CHILDREN * EACH * 2 + EACH)
        held[0].ack()
        assert threading.active_count() <= before + 12, threading.enumerate()
    shared.close()
    counted: dict[str, int] = {}
    for body in found:
        counted[body["who"]] = counted.get(body["who"], 0) + 1
    print(json.dumps({"codes": codes, "counted": counted}))
    if any(codes):
        sys.exit("A child has failed.")  # so that the test shows what it wrote


if __name__ == "__main__":
    main(sys.argv[1])
