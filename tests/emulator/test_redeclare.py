"""A group's queue that several processes delete and declare again, while AWS refuses names that were just deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from support.emulators import Emulator
from support.proxy import Proxy
from support.proxy_rules import Rule

#: The whole of it takes minutes: HAKE_STORM=25 for a hundred times from four processes.
ROUNDS = int(os.environ.get("HAKE_STORM", "3"))
PROCESSES = 4

_WORKER = """
import sys
from kombu import Connection, Exchange, Queue
url, rounds = sys.argv[1], int(sys.argv[2])
with Connection(url) as connection:
    queue = Queue("group", Exchange("orders", "fanout"), channel=connection.default_channel)
    for _ in range(rounds):
        queue.delete()
        queue.declare()
"""


def storm(url: str, rounds: int) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORKER, url, str(rounds)], stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=1100)
        assert worker.returncode == 0, errors


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("ban_s", "rounds"),
    [(2, ROUNDS), pytest.param(60, 1, marks=pytest.mark.slow)],
)
def test_storm_of_deletes_and_declares_ends_in_a_working_group(moto: Emulator, ban_s: int, rounds: int) -> None:
    aws = moto.in_namespace(f"storm{ban_s}")
    with Proxy(moto.endpoint_url, rules=[Rule("recreate_ban", seconds=ban_s)]) as proxy:
        url = aws.url().replace(moto.endpoint_url.partition("://")[2], proxy.endpoint_url.partition("://")[2])
        storm(url, rounds)
        with Connection(url) as connection:
            queue = Queue("group", Exchange("orders", "fanout"), channel=connection.default_channel)
            queue.declare()
            for number in range(10):
                Producer(connection).publish({"n": number}, exchange="orders")
            seen: list[int] = []
            with Consumer(connection, [queue], callbacks=[lambda body, m: (seen.append(body["n"]), m.ack())]):
                while len(seen) < 10:
                    connection.drain_events(timeout=10)
    assert sorted(seen) == list(range(10))
    sqs, sns = aws.client("sqs"), aws.client("sns")
    queue_url = sqs.get_queue_url(QueueName=f"{aws.namespace}__group")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    topic = sns.create_topic(Name=f"{aws.namespace}__orders")["TopicArn"]  # it exists: this finds it
    subscriptions = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert [s["Endpoint"] for s in subscriptions] == [attributes["QueueArn"]]
    assert len(json.loads(attributes["Policy"])["Statement"]) == 1
