"""Commands of Celery's remote control that would end, freeze or misuse a worker."""

import math
import time
import warnings
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.matcher import match
from kombu.pidbox import Mailbox

from kombu_hake.amqp import answers_elsewhere, command_fault, has_slow_pattern

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
METHODS = (
    "add_consumer", "cancel_consumer", "time_limit", "autoscale", "pool_grow", "pool_shrink", "revoke", "terminate",
    "revoke_by_stamped_headers",
)  # fmt: skip
ARGUMENTS = (
    "queue", "exchange", "exchange_type", "routing_key", "soft", "hard", "max", "min", "n", "signal",
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("add_consumer", {"queue": 5}), ("add_consumer", {"queue": None}), ("add_consumer", {"queue": ""}),
        ("add_consumer", {"queue": ["q"]}), ("add_consumer", {}), ("add_consumer", {"queue": "q" * 256}),
        ("add_consumer", {"queue": "q", "exchange": 5}), ("add_consumer", {"queue": "q", "exchange": {"a": 1}}),
        ("add_consumer", {"queue": "q", "exchange": "x" * 256}), ("add_consumer", {"queue": "q", "routing_key": 5}),
        ("add_consumer", {"queue": "q", "exchange_type": "x-delayed"}),
        ("add_consumer", {"queue": "q", "exchange_type": ["direct"]}),
        ("cancel_consumer", {"queue": 5}), ("cancel_consumer", {"queue": {}}), ("cancel_consumer", {}),
        ("time_limit", {"task_name": "t", "hard": "x"}), ("time_limit", {"task_name": "t", "soft": []}),
        ("time_limit", {"task_name": "t", "soft": math.inf}), ("time_limit", {"task_name": "t", "hard": -1}),
        ("time_limit", {"task_name": "t", "hard": math.nan}), ("time_limit", {"task_name": "t", "hard": 10**400}),
        ("autoscale", {"max": "x"}), ("autoscale", {"max": 1.5}), ("autoscale", {"max": 3, "min": -1}),
        ("autoscale", {"max": math.nan}), ("pool_grow", {"n": "x"}), ("pool_grow", {"n": math.nan}),
        ("pool_grow", {"n": None}), ("pool_shrink", {"n": []}),
        ("revoke", {"task_id": "x", "terminate": True, "signal": 4_000}),
        ("revoke", {"task_id": "x", "signal": "SIG_BLOCK"}),
        ("terminate", {"task_id": "x", "signal": [9]}), ("revoke_by_stamped_headers", {"headers": {}, "signal": -1}),
    ],
)  # fmt: skip
def test_an_argument_that_would_end_a_worker_is_told(method: str, arguments: dict[str, Any]) -> None:
    fault = command_fault({"method": method, "arguments": arguments})
    assert fault is not None
    assert len(fault) < 200


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("add_consumer", {"queue": "q"}), ("add_consumer", {"queue": "q", "queue_durable": True}),
        ("add_consumer", {"queue": "q" * 255, "exchange": None, "exchange_type": None, "routing_key": None}),
        ("add_consumer", {"queue": "q", "exchange": "", "exchange_type": "topic", "routing_key": "a.#"}),
        ("cancel_consumer", {"queue": "q"}), ("time_limit", {"task_name": "t", "soft": 1, "hard": 2.5}),
        ("time_limit", {"task_name": "t", "soft": None, "hard": None}), ("time_limit", {}),
        ("autoscale", {"max": 10, "min": 0}), ("autoscale", {"max": 3, "min": None}), ("pool_grow", {}),
        ("pool_grow", {"n": 2}), ("pool_shrink", {"n": 1}), ("revoke", {"task_id": ["a"], "terminate": False}),
        ("revoke", {"task_id": "a", "signal": "SIGKILL"}), ("revoke", {"task_id": "a", "signal": "KILL"}),
        ("revoke", {"task_id": "a", "signal": 9}), ("terminate", {"task_id": "a", "signal": None}),
        ("ping", {"queue": 5}), ("of_the_app", {"n": "x", "max": []}),
    ],
)  # fmt: skip
def test_what_celery_sends_is_in_order(method: str, arguments: dict[str, Any]) -> None:
    assert command_fault({"method": method, "arguments": arguments}) is None


@pytest.mark.parametrize(
    "command",
    [
        {}, 5, None, [], {"method": ["add_consumer"]}, {"method": "add_consumer"},
        {"method": "add_consumer", "arguments": 5},
    ],
)  # fmt: skip
def test_what_celery_refuses_itself_is_left_to_it(command: object) -> None:
    assert command_fault(command) is None


@given(st.sampled_from(METHODS), st.dictionaries(st.sampled_from(ARGUMENTS), anything))
def test_any_arguments_are_judged(method: str, arguments: dict[str, Any]) -> None:
    fault = command_fault({"method": method, "arguments": arguments})
    assert fault is None or fault.isprintable()


# --- answers, and choosing workers

COMMANDS = "celery@w1.example.celery.pidbox"
OWN_REPLIES = {"exchange": "reply.celery.pidbox", "routing_key": "5f0f3c55"}


def test_a_command_of_kombu_asks_for_its_answer_in_its_own_mailbox() -> None:
    mailbox = Mailbox("our.shop", type="fanout")
    reply_to = {"exchange": mailbox.reply_exchange.name, "routing_key": mailbox.oid}
    assert not answers_elsewhere({"reply_to": reply_to}, mailbox.get_queue("celery@w1.example").name)


@pytest.mark.parametrize("command", [{}, {"reply_to": None}, {"method": "ping", "reply_to": OWN_REPLIES}, 5, None, []])
def test_a_command_may_ask_for_no_answer_or_for_one_in_its_mailbox(command: object) -> None:
    assert not answers_elsewhere(command, COMMANDS)


@pytest.mark.parametrize(
    "reply_to",
    [
        {"exchange": "orders", "routing_key": "x"},
        {"exchange": "", "routing_key": "billing"},
        {"exchange": "hake.queue", "routing_key": "billing"},
        {"exchange": "celery.pidbox", "routing_key": ""},
        {"exchange": "reply.other.pidbox", "routing_key": "x"},
        {"exchange": "reply.pidbox", "routing_key": "x"},
        {**OWN_REPLIES, "routing_key": ""},
        {**OWN_REPLIES, "routing_key": 5},
        {**OWN_REPLIES, "exchange": None},
        {"routing_key": "x"},
        "orders",
        ["orders"],
        1,
    ],
)
def test_a_command_that_asks_for_its_answer_elsewhere_is_told(reply_to: object) -> None:
    assert answers_elsewhere({"method": "ping", "reply_to": reply_to}, COMMANDS)


@given(anything, st.text(max_size=20).map(lambda name: f"{name}.pidbox"))
def test_any_place_for_an_answer_is_judged(reply_to: object, queue: str) -> None:
    refused = answers_elsewhere({"reply_to": reply_to}, queue)
    assert refused == bool(reply_to)  # what is generated is never the exchange of the mailbox's replies


@pytest.mark.parametrize(
    "pattern",
    ["(.|.)*!", "(a+)+!", "(?:a*)*b", ".*.*.*.*.*!", "(.|.)" * 20 + "!", ".{1,9}" * 9, "a" * 300, "(a?){40}a{40}"],
)
def test_a_regular_expression_that_may_freeze_a_worker_is_slow(pattern: str) -> None:
    assert has_slow_pattern({"method": "ping", "pattern": pattern, "matcher": "pcre"})


@pytest.mark.parametrize(
    "command",
    [
        {"pattern": r"web-\d+@.*", "matcher": "pcre"}, {"pattern": "^(web|mail)-.*", "matcher": "pcre"},
        {"pattern": "*.*.*.*.*.*", "matcher": "glob"}, {"pattern": "(.|.)*!", "matcher": None}, {"pattern": "(.|.)*!"},
        {"pattern": 5, "matcher": "pcre"}, {"matcher": "pcre"}, {}, 5, None, [],
    ],
)  # fmt: skip
def test_any_other_command_is_not_slow(command: object) -> None:
    assert not has_slow_pattern(command)


@given(st.text(st.sampled_from(".*+?{}|()[]ab19,^$!"), max_size=24))
def test_what_is_not_slow_matches_a_long_host_name_at_once(pattern: str) -> None:
    if has_slow_pattern({"pattern": pattern, "matcher": "pcre"}):
        return
    started = time.thread_time()
    with suppress(Exception), warnings.catch_warnings():  # most are no regular expressions
        warnings.simplefilter("ignore")
        match("celery@" + "a" * 64, pattern, "pcre")
    assert time.thread_time() - started < 1.0
