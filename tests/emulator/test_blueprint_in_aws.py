"""The blueprint of an app is what declaring it really makes in an empty account."""

from uuid import uuid4

import pytest
from support.emulators import Emulator
from support.inventory import inventory, meaning
from support.shops import SHOPS, declare_all, made_app

from kombu_hake import admin
from kombu_hake.admin.declared import declared


@pytest.mark.parametrize("name", SHOPS)
def test_it_is_what_declaring_makes(moto: Emulator, name: str) -> None:
    aws = moto.in_namespace(f"b{uuid4().hex[:8]}")
    app = made_app(aws.url(), name)
    with admin.connect(app) as broker:
        expected = declared(app).blueprint(broker._clients.settings, broker._topology.home)
    declare_all(app)
    found = inventory(aws.client("sqs"), aws.client("sns"), f"{aws.namespace}__")
    queues = found["queues"]
    assert sorted(queues) == [queue.physical for queue in expected.queues]
    for queue in expected.queues:
        documents = {
            "Policy": queue.policy or "", "RedrivePolicy": queue.redrive or "",
            "RedriveAllowPolicy": queue.redrive_allow or "",
        }  # fmt: skip
        wanted = meaning(queue.attributes | documents)
        wanted.pop("RedriveAllowPolicy", None)  # moto does not know it; test_plan looks at it on the fake
        shown = queues[queue.physical]["attributes"]
        assert {key: shown.get(key) for key in wanted} == wanted
        assert not {"Policy", "RedrivePolicy"} & set(shown) - set(wanted)
        assert shown["QueueArn"] == queue.arn
        if name == "many bindings":  # in which order they come is by chance
            assert len(queues[queue.physical]["tags"]) == len(queue.tags)
        else:
            assert queues[queue.physical]["tags"] == queue.tags
    assert {name: topic["tags"] for name, topic in found["topics"].items()} == {
        topic.physical: topic.tags for topic in expected.topics if topic.is_bound
    }
    assert sorted(found["subscriptions"]) == sorted(
        (one.topic_arn.rpartition(":")[2], one.queue_arn.rpartition(":")[2]) for one in expected.subscriptions
    )
    for one in expected.subscriptions:
        shown = found["subscriptions"][one.topic_arn.rpartition(":")[2], one.queue_arn.rpartition(":")[2]]
        wanted = meaning(one.attributes)
        if "FilterPolicyScope" not in shown:
            wanted.pop("FilterPolicyScope", None)
        assert {key: shown.get(key) for key in ("FilterPolicy", "RedrivePolicy", *wanted)} == {
            "FilterPolicy": None, "RedrivePolicy": None, **wanted
        }  # fmt: skip
