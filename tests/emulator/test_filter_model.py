"""The model of SNS filtering that the routing tests trust, compared with an emulator that filters."""

import json
import random
from typing import Any
from uuid import uuid4

import pytest
from support.emulators import Emulator
from unit import sns_model

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.policy import queue_policy
from kombu_hake.amqp.routing import compile_filter, message_attributes

WRITTEN_BY_HAND: list[dict[str, Any]] = [
    {"rk": ["a.b", "c"]},
    {"rk": [{"prefix": "a."}]},
    {"rk": [{"suffix": ".b"}, "b"]},
    {"rk": [{"wildcard": "a.*.c"}]},
    {"rk": [{"wildcard": "*.b.*"}]},
    {"rk": [{"wildcard": "*a*.*c"}]},
    {"tail": [{"exists": True}]},
    {"tail": [{"exists": False}]},
    {"rk": [{"prefix": "a"}], "words": [{"suffix": "|2"}]},
    {"$or": [{"rk": ["a"]}, {"words": [{"suffix": "|3"}]}]},
    {"$or": [{"rk": ["a"], "tail": [{"exists": True}]}, {"tail": [{"exists": False}], "words": [{"suffix": "|1"}]}]},
]
PATTERNS = [
    ["a.b"], [""], ["*"], ["*.*"], ["*.*.#"], ["a.*"], ["a.#"], ["#.c"], ["*.c"], ["a.*.c"], ["*.b.*"], ["*.b.#"],
    ["a.#.c"], ["#.b.#"], ["#.b.*"], ["a.*.#.c"], ["#.a.*.c.#"], ["a.b", "*.c", "#.a"], ["*.b.#", "a", "a.*"],
    ["*.a.#", "*.b.#", "*.c.#", "*.d.#", "*.e.#", "a"], ["ä.*", "#.\U0001f600"], ["*.*.*.#", 'a".#', "b\\.#"],
]  # fmt: skip
HEADERS: list[tuple[tuple[str, str | int | bool | None], ...]] = [
    (("region", "eu"),),
    (("region", "eu"), ("size", 3)),
    (("region", "eu"), ("size", 3), ("x-match", "any")),
    (("vip", True),),
    (("region", None), ("vip", False)),
]


def policies() -> list[dict[str, Any]]:
    compiled = [
        compile_filter([Binding("e", "topic", pattern) for pattern in bound], wildcards=wildcards).policy
        for bound in PATTERNS
        for wildcards in (True, False)
    ]
    compiled += [compile_filter([Binding("e", "headers", "", arguments)]).policy for arguments in HEADERS]
    unique = {json.dumps(policy, sort_keys=True): policy for policy in [*WRITTEN_BY_HAND, *compiled] if policy}
    return list(unique.values())


def messages() -> list[dict[str, str]]:
    generator = random.Random(7)
    keys = ["", "a", "b", "c", ".", "a.", ".b", "ä.b", "x.\U0001f600", 'a".b', "b\\.c", "*", "a.*", "#"]
    keys += [".".join(generator.choices("abcde", k=generator.randint(1, 5))) for _ in range(60)]
    headers: list[dict[str, object]] = [
        {"region": region, "size": size, "vip": vip}
        for region in ("eu", "us", 1) for size in (3, 3.0, "3") for vip in (True, False, 1)
    ]  # fmt: skip
    headers += [{}, {"region": "eu"}, {"size": 3}, {"region": ["list"]}, {str(i): i for i in range(9)}]
    return [message_attributes(key) for key in keys] + [message_attributes("a", found) for found in headers]


@pytest.mark.ministack
def test_the_model_delivers_what_an_emulator_delivers(ministack: Emulator) -> None:
    sns, sqs = ministack.client("sns"), ministack.client("sqs")
    run = uuid4().hex[:8]
    topic = sns.create_topic(Name=f"model-{run}")["TopicArn"]
    subscribed = []
    for i, policy in enumerate(policies()):
        assert sns_model.faults(policy) == []
        url = sqs.create_queue(QueueName=f"model-{run}-{i}")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": queue_policy(None, arn, [topic])})
        attributes = {"RawMessageDelivery": "true", "FilterPolicy": json.dumps(policy)}
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)
        subscribed.append((policy, url))

    published = messages()
    for first in range(0, len(published), 10):
        entries = [entry(number, published[number]) for number in range(first, min(first + 10, len(published)))]
        sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries)

    differences = []
    for policy, url in subscribed:
        expected = {i for i, found in enumerate(published) if sns_model.passes(policy, found)}
        delivered = drain(sqs, url)
        differences += [(policy, published[i]) for i in sorted(expected ^ delivered)]
    assert differences == []


def entry(number: int, attributes: dict[str, str]) -> dict[str, Any]:
    written = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    return {"Id": str(number), "Message": str(number), "MessageAttributes": written}


def drain(sqs: Any, url: str) -> set[int]:
    """The bodies of all messages in a queue. The emulator has delivered when Publish returns, so empty means empty."""
    found: set[int] = set()
    for _ in range(100):
        received = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", [])
        if not received:
            return found
        found |= {int(message["Body"]) for message in received}
    raise AssertionError("the queue does not run empty")
