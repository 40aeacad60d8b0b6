"""Tags that can't be read stop no worker, and take nothing from a queue. On a strict AWS in memory."""

import hashlib
import json
import logging
from typing import Any

import pytest
from fakes import FakeClients, connected, make_settings
from kombu import Exchange, Producer, Queue

from kombu_hake.amqp.bindings import Binding, from_tags, to_tags
from kombu_hake.amqp.policy import allows
from kombu_hake.exceptions import AccessDenied, TopologyError
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topology import Topology

PLACED, PAID, SENT = (Binding("orders", "topic", key) for key in ("order.placed", "order.paid", "order.sent"))
HUGE = "9" * 256


def forged(text: str) -> dict[str, str]:
    """A tag whose digest is right, as anyone can compute it."""
    return {f"hake:b:{hashlib.blake2b(text.encode('utf-8', 'replace'), digest_size=8).hexdigest()}": text}


DAMAGED: list[dict[str, str]] = [
    {"hake:b:59732894d3c054ff": "topic orders"},
    {"hake:b:": "x"},
    {"hake:b:59732894d3c054ff:0:3": "/topic/"},
    {f"hake:b:{HUGE[:120]}": HUGE},
    {"hake:b:\x1b[2J": "\x00\r\n"},
    {"hake:b:\ud800": "\ud800"},
    forged("topic orders =FF"),
    forged("headers orders = a:i:x"),
    forged("headers orders = a:i:1e400"),
    forged("topic \u00e9"),
    forged("headers orders = " + " ".join(["a:q:"] * 40)),
]
#: Can be read, and is nothing that we write.
IMPOSSIBLE: list[dict[str, str]] = [
    forged("fanout"),
    forged("headers"),
    forged("fanout ="),
    {"hake:max-priority": HUGE},
    {"hake:max-priority": "-1"},
    {"hake:max-priority": "1e400"},
    forged("headers orders = a:f:nan"),
    forged("headers orders = a:f:1e400"),
    forged("headers orders = a:i:" + "9" * 200),
]


def process(fake: FakeClients, **options: Any) -> Topology:
    found = Topology(fake, make_settings(**options))
    found.declare_exchange("orders", "topic")
    return found


def made(fake: FakeClients, *bindings: Binding, **options: Any) -> Topology:
    """A process that has declared and bound the queue "email"."""
    found = process(fake, **options)
    found.declare_queue(QueueSpec("email"))
    for binding in bindings:
        found.bind("email", binding)
    return found


def damage(fake: FakeClients, *bindings: Binding) -> None:
    """Cut the end off the tags of these bindings."""
    tags = fake.queues.queue("email").tags
    for binding in bindings:
        for key in to_tags(binding):
            tags[key] = tags[key][:-1]


def filter_of(fake: FakeClients) -> Any:
    queue = fake.queues.queue("email")
    return json.loads(fake.topics.by_name["orders"].subscriptions[queue.arn].attributes.get("FilterPolicy") or "{}")


# --- reading


@pytest.mark.parametrize("tags", DAMAGED, ids=lambda tags: ascii(tags)[:60])
def test_what_cannot_be_read_is_named(tags: dict[str, str]) -> None:
    good = to_tags(PLACED)
    found = from_tags(good | tags)
    assert found.bindings == {PLACED}
    assert found.damaged == set(tags)
    assert found.is_partial == any(key.startswith("hake:b:") for key in tags)


@pytest.mark.parametrize("tags", IMPOSSIBLE, ids=lambda tags: ascii(tags)[:60])
def test_an_implausible_value_is_no_error(tags: dict[str, str]) -> None:
    assert PLACED in from_tags(to_tags(PLACED) | tags).bindings
    assert 0 <= from_tags(tags).max_priority <= 999_999


def test_what_is_ours_is_not_damaged() -> None:
    tags = to_tags(PLACED) | {"hake:max-priority": "9", "hake:made-by": "x", "Name": "hake:b:", "hake:t:59": "a b"}
    found = from_tags(tags | to_tags(Binding("e" * 255, "topic", "k" * 255)))
    assert not found.damaged
    assert not found.is_partial


# --- a worker starts


@pytest.mark.parametrize("tags", DAMAGED + IMPOSSIBLE, ids=lambda tags: ascii(tags)[:60])
def test_a_worker_binds_and_receives_whatever_the_tags_are(
    fake: FakeClients, tags: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    made(fake, PAID)
    fake.queues.queue("email").tags.update(tags)
    caplog.set_level(logging.INFO)
    with connected(fake) as connection:
        channel = connection.default_channel
        Queue("email", Exchange("orders", "topic"), "order.placed")(channel).declare()
        Producer(channel).publish("hello", exchange="orders", routing_key="order.placed")
        message = channel.basic_get("email")
        assert message is not None
        message.ack()
    assert not any(char in record.getMessage() for record in caplog.records for char in "\x1b\x00\r\ud800")


def test_one_warning_says_which_tags_and_how_to_remove_them(
    fake: FakeClients, caplog: pytest.LogCaptureFixture
) -> None:
    made(fake, PLACED, PAID)
    damage(fake, PAID)
    topology = process(fake)
    topology.bind("email", PLACED)
    topology.bind("email", SENT)
    topology.read_bindings("email")
    [said] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    [key] = to_tags(PAID)
    assert "tags of queue email" in said
    assert f"untag-queue --queue-url {fake.queues.queue('email').url} --tag-keys {key}" in said


@pytest.mark.parametrize("refused", [TopologyError("Invalid parameter"), AccessDenied("x", action="sns:Subscribe")])
def test_a_binding_of_others_that_cannot_be_made_stops_no_worker(
    fake: FakeClients, refused: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    made(fake, PLACED)
    fake.queues.queue("email").tags.update(to_tags(Binding("a-first", "fanout")))
    fake.fail("subscribe", refused, refused)  # the first one only looks whether the queue is bound already
    process(fake).bind("email", PAID)
    assert filter_of(fake) == {"rk": ["order.paid", "order.placed"]}
    assert "a-first" in caplog.text


def test_a_binding_of_its_own_that_cannot_be_made_is_an_error(fake: FakeClients) -> None:
    made(fake)
    fake.fail("subscribe", TopologyError("Invalid parameter"))
    with pytest.raises(TopologyError):
        process(fake).bind("email", PAID)


# --- nothing is lost


def test_a_filter_is_widened_and_not_narrowed_by_what_cannot_be_read(fake: FakeClients) -> None:
    made(fake, PLACED, PAID)
    damage(fake, PAID)
    process(fake).bind("email", SENT)
    assert filter_of(fake) == {}


def test_a_filter_that_has_the_binding_is_left_as_it_is(fake: FakeClients) -> None:
    made(fake, PLACED, PAID)
    before = filter_of(fake)
    damage(fake, PAID)
    process(fake).bind("email", PLACED)
    assert filter_of(fake) == before


def test_a_topic_stays_allowed_though_its_binding_cannot_be_read(fake: FakeClients) -> None:
    other = Binding("invoices", "fanout")
    made(fake, PLACED, other)
    damage(fake, other)
    process(fake).bind("email", PAID)
    queue = fake.queues.queue("email")
    for name in ("orders", "invoices"):
        assert allows(queue.attributes["Policy"], queue.arn, fake.topics.by_name[name].arn)
    assert queue.arn in fake.topics.by_name["invoices"].subscriptions


def test_what_no_readable_binding_asks_for_is_delivered(fake: FakeClients) -> None:
    made(fake, PLACED, PAID)
    damage(fake, PAID)
    with connected(fake) as connection:
        channel = connection.default_channel
        Queue("email", Exchange("orders", "topic"), "order.placed")(channel).declare()
        Producer(channel).publish("hello", exchange="orders", routing_key="order.paid")
        assert channel.basic_get("email") is not None


def test_unbinding_leaves_a_subscription_that_another_binding_may_need(fake: FakeClients) -> None:
    made(fake, PLACED, PAID)
    damage(fake, PAID)
    process(fake).unbind("email", PLACED)
    queue = fake.queues.queue("email")
    assert queue.arn in fake.topics.by_name["orders"].subscriptions
    assert allows(queue.attributes["Policy"], queue.arn, fake.topics.by_name["orders"].arn)


def test_removing_the_tag_narrows_again(fake: FakeClients) -> None:
    made(fake, PLACED, PAID)
    damage(fake, PAID)
    process(fake).bind("email", SENT)
    fake.sqs("untag_queue", QueueUrl=fake.queues.queue("email").url, TagKeys=list(to_tags(PAID)))
    process(fake).bind("email", SENT)
    assert filter_of(fake) == {"rk": ["order.placed", "order.sent"]}


def test_a_queue_with_impossible_tags_can_be_deleted(fake: FakeClients) -> None:
    topology = made(fake, PLACED)
    for tags in DAMAGED + IMPOSSIBLE:
        if len(fake.queues.queue("email").tags) < 45:
            fake.queues.queue("email").tags.update(tags)
    topology.delete_queue("email")
    assert "email" not in fake.queues.by_name
    assert not fake.topics.by_name["orders"].subscriptions
