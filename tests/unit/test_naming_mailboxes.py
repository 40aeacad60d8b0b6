"""Names of kombu's mailboxes."""

import time
import warnings
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.matcher import match
from kombu.pidbox import Mailbox

from kombu_hake.amqp.naming import (
    answers_elsewhere,
    has_slow_pattern,
    is_command_queue,
    is_mailbox,
    is_reply_exchange,
    is_reply_queue,
    reply_queue,
)


@pytest.mark.parametrize("namespace", ["celery", "our.shop"])
def test_names_are_those_that_kombu_gives(namespace: str) -> None:
    mailbox = Mailbox(namespace, type="fanout")
    commands, replies = mailbox.exchange.name, mailbox.reply_exchange.name
    assert is_mailbox(commands)
    assert is_mailbox(replies)
    assert is_reply_exchange(replies)
    assert not is_reply_exchange(commands)
    waiting = mailbox.get_reply_queue()
    assert reply_queue(replies, waiting.routing_key) == waiting.name
    assert is_reply_queue(waiting.name)
    assert not is_reply_queue(mailbox.get_queue("w1@host.example").name)


@pytest.mark.parametrize("name", ["celery", "celeryev", "reply.celery", "orders.pidboxes"])
def test_other_exchanges_are_none(name: str) -> None:
    assert not is_mailbox(name)
    assert not is_reply_exchange(name)


COMMANDS = "celery@w1.example.celery.pidbox"
OWN_REPLIES = {"exchange": "reply.celery.pidbox", "routing_key": "5f0f3c55"}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("hostname", ["celery@w1.example", "celery@w1.reply.example", "w1"])
@pytest.mark.parametrize("namespace", ["celery", "our.shop"])
def test_a_queue_of_commands_is_told_from_one_of_replies(hostname: str, namespace: str) -> None:
    mailbox = Mailbox(namespace, type="fanout")
    commands = mailbox.get_queue(hostname).name
    assert is_command_queue(commands)
    assert not is_reply_queue(commands)
    assert not is_command_queue(mailbox.get_reply_queue().name)
    assert not answers_elsewhere(
        {"reply_to": {"exchange": mailbox.reply_exchange.name, "routing_key": mailbox.oid}}, commands
    )


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
