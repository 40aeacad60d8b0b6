"""What is written to AWS, and why: the difference of what is desired and what is observed, case by case."""

import json
from dataclasses import replace
from typing import Any

import pytest
from fakes import ACCOUNT, REGION, FakeClock
from hypothesis import given
from hypothesis import strategies as st
from unit.sns_model import passes

from kombu_hake.amqp import (
    Binding,
    BindingSet,
    QueueArn,
    QueueUrl,
    SubscriptionArn,
    TopicArn,
    compile_filter,
    filter_json,
    level_shares,
    message_attributes,
    narrowed,
    queue_policy,
)
from kombu_hake.topology.coverage import covers
from kombu_hake.topology.desired import Desired, Level, Undelivered
from kombu_hake.topology.diff import SetAttribute, Subscribe, Unsubscribe, WritePolicy, diff, found_in_place
from kombu_hake.topology.observed import Memory, Observed, Subscription
from kombu_hake.topology.spec import Plan
from kombu_hake.topology.timings import Timings
from kombu_hake.topology.verification import faults, unequal_filters

QUEUE = QueueArn(f"arn:aws:sqs:{REGION}:{ACCOUNT}:q")
SUBSCRIPTION = SubscriptionArn(f"arn:aws:sns:{REGION}:{ACCOUNT}:orders:1")
URL = QueueUrl("https://sqs/q")
PLACED, PAID, SENT = (Binding("orders", "topic", key) for key in ("order.placed", "order.paid", "order.sent"))
THEIRS = {
    "Sid": "theirs",
    "Effect": "Allow",
    "Principal": {"Service": "s3.amazonaws.com"},
    "Action": "sqs:SendMessage",
    "Resource": QUEUE,
}


def topic(exchange: str) -> TopicArn:
    return TopicArn(f"arn:aws:sns:{REGION}:{ACCOUNT}:{exchange}")


def desired(*bindings: Binding, **more: Any) -> Desired:
    found = BindingSet(frozenset(bindings), damaged=more.pop("damaged", frozenset()))
    removed = more.get("removed", frozenset())
    topics = {binding.exchange: topic(binding.exchange) for binding in {*bindings, *removed}}
    return Desired("q", found, (Level("q", QUEUE),), topics, **more)


def policy_of(*exchanges: str, others: list[dict[str, Any]] | None = None) -> str | None:
    before = json.dumps({"Version": "2012-10-17", "Statement": others}) if others else None
    return queue_policy(before, QUEUE, [topic(exchange) for exchange in exchanges]) or before


def observed(*bindings: Binding, policy: str | None = "", **attributes: str) -> Observed:
    """A queue that has just these bindings."""
    exchanges = sorted({binding.exchange for binding in bindings})
    shown = {"RawMessageDelivery": "true", "FilterPolicy": filter_json(compile_filter(bindings)), **attributes}
    subscriptions = {("q", exchange): Subscription(SUBSCRIPTION, shown) for exchange in exchanges}
    return Observed({"q": policy_of(*exchanges) if policy == "" else policy}, subscriptions)


def setting(name: str, value: str, reason: str = "") -> SetAttribute:
    return SetAttribute("q", "orders", SUBSCRIPTION, name, value, reason)


def test_queue_that_is_as_it_should_be_has_no_difference() -> None:
    assert diff(desired(PLACED, PAID), observed(PLACED, PAID)) == []


def test_new_queue_gets_its_policy_before_its_subscription() -> None:
    wanted = filter_json(compile_filter([PLACED]))
    changes = diff(desired(PLACED), Observed({"q": None}))
    assert changes == [
        WritePolicy("q", str(policy_of("orders")), ""),
        Subscribe("q", QUEUE, "orders", wanted, ""),
    ]
    assert [change.reason for change in changes] == [
        "The policy does not allow the topics of orders.",
        "Its subscription is not known here.",
    ]


def test_statements_of_others_are_kept() -> None:
    [change] = diff(desired(PLACED), observed(PLACED, policy=policy_of(others=[THEIRS])))
    assert isinstance(change, WritePolicy)
    assert json.loads(change.text)["Statement"][0] == THEIRS


def test_topic_that_the_policy_lacks_is_added() -> None:
    [change] = diff(desired(PLACED, Binding("events", "fanout")), replace_subscription("events", policy_of("orders")))
    assert change == WritePolicy("q", str(policy_of("events", "orders")), "")
    assert change.reason == "The policy does not allow the topics of events."


def replace_subscription(exchange: str, policy: str | None) -> Observed:
    found = observed(PLACED, policy=policy)
    return found.with_subscription("q", exchange, Subscription(SUBSCRIPTION, {"RawMessageDelivery": "true"}))


def test_changed_filter_is_mended() -> None:
    wanted = filter_json(compile_filter([PLACED, PAID]))
    [change] = diff(desired(PLACED, PAID), observed(PLACED, SENT))
    assert change == setting("FilterPolicy", wanted)
    assert change.reason == "The filter is not that of the queue's bindings."


def test_raw_delivery_is_switched_on() -> None:
    assert diff(desired(PLACED), observed(PLACED, RawMessageDelivery="false")) == [
        setting("RawMessageDelivery", "true")
    ]


def test_scope_of_the_body_is_mended() -> None:
    assert diff(desired(PLACED), observed(PLACED, FilterPolicyScope="MessageBody")) == [
        setting("FilterPolicyScope", "MessageAttributes")
    ]


def test_scope_of_the_body_with_a_filter_of_its_own_is_mended_in_the_order_that_sns_takes() -> None:
    shown = observed(PLACED, FilterPolicyScope="MessageBody", FilterPolicy='{"order":{"id":["1"]}}')
    assert diff(desired(PLACED), shown) == [
        setting("FilterPolicy", "{}"),
        setting("FilterPolicyScope", "MessageAttributes"),
        setting("FilterPolicy", filter_json(compile_filter([PLACED]))),
    ]


def test_scope_of_the_body_without_a_filter_is_left_alone() -> None:
    everything = Binding("orders", "fanout")
    assert diff(desired(everything), observed(everything, FilterPolicyScope="MessageBody")) == []


@pytest.mark.parametrize("name", ["DeliveryPolicy", "RedrivePolicy", "SubscriptionRoleArn"])
def test_attribute_of_an_operator_is_left_alone(name: str) -> None:
    keeper = Undelivered("q-undelivered", QUEUE)
    shown = observed(PLACED, **{"RedrivePolicy": "{}", name: "theirs"})
    assert diff(desired(PLACED, undelivered=keeper), shown) == []


def test_what_sns_cannot_deliver_is_kept_unless_that_was_denied() -> None:
    wanted = desired(PLACED, undelivered=Undelivered("q-undelivered", QUEUE))
    [change] = diff(wanted, observed(PLACED))
    assert change == setting("RedrivePolicy", json.dumps({"deadLetterTargetArn": QUEUE}))
    assert diff(wanted, replace(observed(PLACED), unkept=frozenset({SUBSCRIPTION}))) == []


def test_subscription_that_may_not_be_read_is_taken_as_right() -> None:
    shown = observed(PLACED).with_subscription("q", "orders", Subscription(SUBSCRIPTION, None))
    assert diff(desired(PAID), shown) == []


# --- what AWS refuses


def test_topic_with_as_many_filters_as_aws_allows_is_subscribed_without_one() -> None:
    full = replace(Observed({"q": policy_of("orders")}), full=frozenset({"orders"}))
    assert diff(desired(PLACED), full) == [Subscribe("q", QUEUE, "orders", "{}", "")]


def test_refused_filter_is_followed_by_a_wider_one() -> None:
    stars = Binding("orders", "topic", "a.*.c")
    first, second = (filter_json(compile_filter([stars], wildcards=wildcards)) for wildcards in (True, False))
    refused = Observed({"q": policy_of("orders")}, refused=frozenset({("q", "orders", first)}))
    assert diff(desired(stars), refused) == [Subscribe("q", QUEUE, "orders", second, "")]
    all_refused = replace(refused, refused=refused.refused | {("q", "orders", second)})
    assert diff(desired(stars), all_refused) == [Subscribe("q", QUEUE, "orders", "{}", "")]


# --- what may not be known


def test_damaged_tag_narrows_nothing() -> None:
    shown = observed(PLACED, PAID, Binding("orders", "topic", "x"), policy=policy_of("orders", "invoices"))
    [change] = diff(desired(PLACED, damaged=frozenset({"hake:b:1"})), shown)
    assert change == setting("FilterPolicy", "{}")
    assert "unreadable tag" in change.reason


def test_filter_that_passes_more_is_left_alone_while_tags_may_be_late() -> None:
    assert diff(desired(PLACED, is_settled=False), observed(PLACED, PAID, policy=policy_of("a", "orders"))) == []


def test_filter_of_a_binding_that_tags_do_not_show_yet_is_widened() -> None:
    [change] = diff(desired(PLACED, is_settled=False), observed(PAID))
    assert change == setting("FilterPolicy", "{}")
    assert diff(desired(PLACED), observed(PAID)) == [setting("FilterPolicy", filter_json(compile_filter([PLACED])))]


def test_filter_is_narrowed_by_what_is_unbound_though_tags_may_be_late() -> None:
    wanted = desired(PLACED, removed=frozenset({PAID}), is_settled=False)
    assert diff(wanted, observed(PLACED, PAID)) == [setting("FilterPolicy", filter_json(compile_filter([PLACED])))]
    assert diff(wanted, observed(PLACED, PAID, SENT)) == []


@pytest.mark.parametrize("settled", [True, False])
def test_last_binding_takes_policy_and_subscription_with_it(settled: bool) -> None:
    assert diff(desired(removed=frozenset({PAID}), is_settled=settled), observed(PAID)) == [
        WritePolicy("q", "", ""),
        Unsubscribe("q", QUEUE, "orders", SUBSCRIPTION, ""),
    ]


def test_subscription_stays_while_its_filter_passes_what_tags_may_not_show_yet() -> None:
    assert diff(desired(removed=frozenset({PAID}), is_settled=False), observed(PAID, SENT)) == []


# --- deleted exchanges


@pytest.mark.parametrize("more", [{}, {"is_settled": False}, {"damaged": frozenset({"hake:b:1"})}])
def test_deleted_exchange_leaves_policy_and_subscriptions_whatever_tags_may_hide(more: dict[str, Any]) -> None:
    events = Binding("events", "fanout")
    wanted = desired(PLACED, deleted=frozenset({"events"}), **more)
    wanted = replace(wanted, topics={**wanted.topics, "events": topic("events")})
    shown = replace(observed(PLACED, events), skipped=frozenset({"orders"}))
    assert diff(wanted, shown) == [
        WritePolicy("q", str(policy_of("orders")), ""),
        Unsubscribe("q", QUEUE, "events", SUBSCRIPTION, ""),
    ]
    assert [change.reason for change in diff(wanted, shown)][-1] == "The exchange is deleted."


def test_deleted_exchange_keeps_statements_of_others() -> None:
    wanted = replace(desired(deleted=frozenset({"orders"})), topics={"orders": topic("orders")})
    shown = observed(PLACED, policy=queue_policy(policy_of(others=[THEIRS]), QUEUE, [topic("orders")]))
    [change, _] = diff(wanted, shown)
    assert isinstance(change, WritePolicy)
    assert json.loads(change.text)["Statement"] == [THEIRS]


# --- faults: what verify tells of the same difference


def faults_of(wanted: Desired, shown: Observed) -> list[str]:
    """Faults, without what is in parentheses."""
    return [fault.replace(f" ({SUBSCRIPTION})", "") for fault in faults(wanted, shown)]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (observed(PLACED), []),
        (observed(PLACED, policy=policy_of("orders", "more")), []),
        (observed(PLACED, policy=None), ["The policy of queue 'q' does not allow"]),
        (observed(PLACED, RawMessageDelivery="false"), ["has no raw message delivery"]),
        (observed(PLACED, FilterPolicyScope="MessageBody"), ["filters on the message body"]),
        (observed(PLACED).with_subscription("q", "orders", None), ["is not subscribed to exchange 'orders'"]),
        (observed(PLACED).with_subscription("q", "orders", Subscription(SUBSCRIPTION, None)), []),
        (replace(observed(PLACED), skipped=frozenset({"orders"})), []),
        (
            replace(observed(PLACED).with_subscription("q", "orders", None), topicless=frozenset({"orders"})),
            ["Exchange 'orders' has no topic"],
        ),
        (
            replace(observed(PLACED).with_subscription("q", "orders", None), pending=frozenset({("q", "orders")})),
            ["waits to be confirmed"],
        ),
        (replace(observed(PLACED), is_closed_to_sns=True), ["a key that SNS cannot use"]),
        (observed(PAID), []),  # an unequal filter is a warning
    ],
)
def test_difference_is_told_as_faults(shown: Observed, expected: list[str]) -> None:
    found = faults_of(desired(PLACED), shown)
    assert len(found) == len(expected)
    assert all(part in fault for part, fault in zip(expected, found, strict=True))


def test_body_scope_of_a_queue_that_gets_everything_is_a_fault_where_it_filters() -> None:
    events = Binding("orders", "fanout")
    shown = observed(events, FilterPolicy='{"a":["b"]}', FilterPolicyScope="MessageBody")
    [fault] = faults_of(desired(events), shown)
    assert "filters on the message body" in fault
    assert not faults_of(desired(events), observed(events, FilterPolicyScope="MessageBody"))


@pytest.mark.parametrize(
    ("text", "is_missing", "expected"),
    [
        ("", False, "should have the dead-letter queue 'q-dead'"),
        ("[", False, "names no dead-letter queue"),
        ('{"deadLetterTargetArn": 5}', False, "names no dead-letter queue"),
        (json.dumps({"deadLetterTargetArn": QUEUE}), True, "which does not exist"),
        (json.dumps({"deadLetterTargetArn": QUEUE}), False, ""),
    ],
)
def test_faults_of_dead_letters(text: str, is_missing: bool, expected: str) -> None:
    wanted = desired(PLACED, dead_letters=Plan("q-dead", 3, True, True))
    found = faults_of(wanted, replace(observed(PLACED), redrive_policy=text, is_dead_queue_missing=is_missing))
    assert [expected in fault for fault in found] == [True] * bool(expected)


def test_filter_that_is_neither_ours_nor_none_is_unequal() -> None:
    stars = Binding("orders", "topic", "a.*.c")
    theirs = '{"rk":["x"]}'
    assert [one.text for one in unequal_filters(desired(stars), observed(PLACED, FilterPolicy=theirs))] == [theirs]
    for text in ("{}", *(filter_json(compile_filter([stars], wildcards=one)) for one in (True, False))):
        assert not unequal_filters(desired(stars), observed(PLACED, FilterPolicy=text))


# --- in place


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (observed(PLACED), True),
        (observed(PLACED, PAID, SENT), True),
        (observed(Binding("orders", "topic", "#")), False),  # passes it, and is no evidence that it is recorded
        (observed(Binding("orders", "topic", "order.#")), False),
        (observed(PAID), False),
        (observed(PLACED, policy=None), False),
        (observed(PLACED, RawMessageDelivery="false"), False),
        (observed(PLACED, FilterPolicyScope="MessageBody"), False),
        (observed(PLACED).with_subscription("q", "orders", None), False),
        (observed(PLACED).with_subscription("q", "orders", Subscription(SUBSCRIPTION, None)), False),
    ],
)
def test_bindings_are_found_in_place(shown: Observed, expected: bool) -> None:
    assert found_in_place(desired(PLACED), shown) is expected


# --- priorities


def levels() -> Desired:
    shares = level_shares(1)
    names = [Level("q", QUEUE, tuple(shares[0])), Level("q-1", QueueArn(f"{QUEUE}-1"), tuple(shares[1]))]
    return replace(desired(PLACED), levels=tuple(names), bindings=BindingSet(frozenset({PLACED}), max_priority=1))


def test_levels_come_before_the_lowest_one() -> None:
    changes = diff(levels(), Observed({"q": policy_of("orders"), "q-1": None}))
    assert [(type(change).__name__, getattr(change, "queue", "")) for change in changes] == [
        ("Subscribe", "q-1"),
        ("TagLevel", "q-1"),
        ("WritePolicy", "q-1"),
        ("Subscribe", "q"),
    ]


def test_exchange_that_leaves_priorities_out_stays_on_the_lowest_level() -> None:
    flat = replace(levels(), flat=frozenset({"orders"}))
    assert diff(flat, replace(observed(PLACED), policies={"q": policy_of("orders"), "q-1": None})) == []


def test_faults_of_a_level_name_it() -> None:
    shares = filter_json(narrowed(compile_filter([PLACED]), {"hake-priority": list(level_shares(1)[0])}))  # type: ignore[arg-type]
    shown = replace(observed(PLACED, FilterPolicy=shares), policies={"q": policy_of("orders"), "q-1": None})
    found = faults_of(levels(), shown)
    assert len(found) == 2
    assert all(fault.startswith("Of queue 'q', priority level 1: ") for fault in found)


def test_lowest_level_keeps_everything_until_aws_acts_on_the_policies_of_the_others() -> None:
    shown = observed(PLACED)
    shown = replace(shown, policies={**shown.policies, "q-1": queue_policy(None, f"{QUEUE}-1", [topic("orders")])})
    [level] = diff(levels(), replace(shown, is_level_new=True))
    assert (type(level), level.queue) == (Subscribe, "q-1")  # type: ignore[union-attr]
    assert [type(change) for change in diff(levels(), shown)] == [Subscribe, SetAttribute]


# --- coverage

KEYS = st.lists(st.sampled_from(["a", "b", "ab", "", "#", "*"]), max_size=4).map(".".join)
BINDING = st.builds(Binding, st.just("x"), st.sampled_from(["direct", "topic"]), KEYS)
BINDINGS = st.lists(BINDING, min_size=1, max_size=5)


@given(BINDINGS, BINDINGS, st.lists(KEYS, min_size=1, max_size=10), st.booleans())
def test_filter_that_covers_another_passes_what_that_passes(
    wide: list[Binding], narrow: list[Binding], keys: list[str], wildcards: bool
) -> None:
    first, second = compile_filter(wide, wildcards=wildcards), compile_filter(narrow)
    if covers(filter_json(first), filter_json(second)):
        for key in keys:
            attributes = message_attributes(key)
            assert passes(first.policy, attributes) or not passes(second.policy, attributes)
    assert covers(filter_json(second), filter_json(second))


@pytest.mark.parametrize("text", ["[", "5", '{"a": 5}', '{"$or": 5}', '{"$or": [5]}', '{"$or": [{"$or": []}]}'])
def test_text_that_is_no_filter_covers_nothing(text: str) -> None:
    assert not covers(text, '{"rk":["a"]}')
    assert covers("{}", text) is False or text == '{"a": 5}'


# --- late reads


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_late_read_of_a_policy_is_taken_for_what_was_written(clock: FakeClock) -> None:
    memory = Memory(Timings(), clock)
    assert memory.policy(URL, None) == (None, False)
    written = str(policy_of("orders"))
    memory.policy_written(URL, written)
    shown, is_overwritten = memory.policy(URL, None)
    assert not is_overwritten
    assert diff(desired(PLACED), observed(PLACED, policy=shown)) == []
    clock.advance(61)
    assert memory.policy(URL, None) == (None, False)


def test_statement_of_others_that_a_late_read_lacks_is_not_dropped(clock: FakeClock) -> None:
    memory = Memory(Timings(), clock)
    memory.policy(URL, policy_of(others=[THEIRS]))
    shown, _ = memory.policy(URL, None)
    [change] = diff(desired(PLACED), observed(PLACED, policy=shown))
    assert isinstance(change, WritePolicy)
    assert THEIRS in json.loads(change.text)["Statement"]


def test_statement_of_others_that_our_write_dropped_is_written_once_more(clock: FakeClock) -> None:
    memory = Memory(Timings(), clock)
    memory.policy_written(URL, str(policy_of("orders")))
    shown, is_overwritten = memory.policy(URL, policy_of(others=[THEIRS]))
    assert is_overwritten
    [change] = diff(desired(PLACED), replace(observed(PLACED, policy=shown), overwritten=frozenset({"q"})))
    assert isinstance(change, WritePolicy)
    assert THEIRS in json.loads(change.text)["Statement"]
    memory.policy_written(URL, change.text)
    for late in (None, policy_of("orders"), policy_of(others=[THEIRS])):
        assert memory.policy(URL, late)[1] is False


def test_what_others_wrote_beside_ours_needs_no_write(clock: FakeClock) -> None:
    memory = Memory(Timings(), clock)
    memory.policy_written(URL, str(policy_of("orders")))
    both = policy_of("orders", others=[THEIRS])
    assert memory.policy(URL, both)[1] is False


def test_late_read_of_tags_is_corrected_by_what_was_written(clock: FakeClock) -> None:
    memory = Memory(Timings(), clock)
    memory.tags_written(URL, {"hake:b:1": "x", "hake:b:2": None})
    assert memory.tags(URL, {"hake:b:2": "y", "Name": "q"}) == {"hake:b:1": "x", "Name": "q"}
    clock.advance(61)
    assert memory.tags(URL, {"hake:b:2": "y"}) == {"hake:b:2": "y"}


def test_tags_are_settled_when_reads_a_minute_apart_agree(clock: FakeClock) -> None:
    memory = Memory(Timings(), clock)
    assert not memory.are_tags_settled(URL)
    memory.tags(URL, {"hake:b:1": "x"})
    clock.advance(59)
    assert not memory.are_tags_settled(URL)
    clock.advance(1)
    assert memory.are_tags_settled(URL)
    memory.tags(URL, {"hake:b:1": "x", "hake:b:2": "y"})
    assert not memory.are_tags_settled(URL)


def test_emulator_is_believed_at_once(clock: FakeClock) -> None:
    memory = Memory(Timings(0, 0, 0, 0), clock)
    memory.policy_written(URL, str(policy_of("orders")))
    memory.tags_written(URL, {"hake:b:1": "x"})
    assert memory.policy(URL, None) == (None, False)
    assert memory.tags(URL, {}) == {}
    assert memory.are_tags_settled(URL)
