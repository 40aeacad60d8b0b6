"""What the first start of a worker asks of AWS, and the next: the calls, counted on the way to an emulator.

The package takes the endpoint for AWS's, and waits as long as on AWS. Times are printed, not judged:
``pytest -s tests/emulator/test_first_start.py``.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue, binding
from support.emulators import Emulator
from support.loopback import as_aws
from support.proxy import Proxy

LATENCY_S = 0.01
#: A consumer group, its dead letters, and what SNS could not deliver to it.
GROUPS = [
    Queue(
        f"group-{i}",
        bindings=[
            binding(Exchange(f"group-{i}", "direct"), f"group-{i}"),
            binding(Exchange(f"topic-{i}", "topic"), "#" if i % 2 else "order.*"),
        ],
        queue_arguments={"x-dead-letter-queue": True},
    )
    for i in range(10)
]
_seconds = itertools.count(10)
BOUND = [Queue(f"bound-{i}", Exchange(f"events-{i}", "topic"), "order.*") for i in range(30)]


@pytest.fixture
def proxy(moto: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(moto.endpoint_url, latency_s=LATENCY_S) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", as_aws(proxy.endpoint_url))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield proxy


def start(proxy: Proxy, namespace: str, queues: list[Queue]) -> dict[str, int]:
    """Declare the queues as a process that knows nothing; the calls by action."""
    # What a process knows is shared by connections with the same options.
    url = f"hake:///{namespace}?region=us-east-1&connect_timeout={next(_seconds)}"
    proxy.reset_stats()
    started = time.monotonic()
    with Connection(url) as connection:
        Consumer(connection.channel(), queues)
        ready_s = time.monotonic() - started
        calls: dict[str, Any] = dict(sorted(proxy.stats()["requests"].items()))
    print(f"\n{len(queues)} queues ready in {ready_s:.1f} s with {sum(calls.values())} calls: {calls}")
    return calls


@pytest.mark.timeout(180)
def test_ten_groups_start_with_few_calls(proxy: Proxy, moto: Emulator) -> None:
    assert sum(start(proxy, "first-groups", GROUPS).values()) <= 160
    again = start(proxy, "first-groups", GROUPS)
    assert sum(again.values()) <= 60
    assert not {"TagQueue", "SetQueueAttributes", "SetSubscriptionAttributes", "CreateQueue"} & set(again)
    sqs = moto.client("sqs")
    for i in range(len(GROUPS)):
        url = sqs.get_queue_url(QueueName=f"first-groups__group-{i}")["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert f"group-{i}-dead" in attributes["RedrivePolicy"]
        assert f"topic-{i}" in attributes["Policy"]


@pytest.mark.timeout(180)
def test_thirty_bound_queues_start_with_few_calls(proxy: Proxy) -> None:
    assert sum(start(proxy, "first-bound", BOUND).values()) <= 395
    again = start(proxy, "first-bound", BOUND)
    # One more than queues: whether AWS answers.
    assert again == {"GetQueueAttributes": 30, "GetQueueUrl": 31, "GetSubscriptionAttributes": 30, "Subscribe": 30}
