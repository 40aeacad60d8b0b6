"""Tags, policies and filters as an attacker or an accident may leave them in AWS, and what reading them must keep to.

``CASES`` has a strategy and a check for each kind. A check raises an ``AssertionError`` or whatever the package should
not have raised. A run of many examples: ``HAKE_FUZZ_EXAMPLES=100000 pytest tests/unit/test_hostile_topology.py``.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

from hypothesis import strategies as st

from kombu_hake.amqp import ownership
from kombu_hake.amqp.bindings import Binding, from_tags, to_tags
from kombu_hake.amqp.documents import matches_wildcard, read_object, same_json
from kombu_hake.amqp.limits import SQS_POLICY_MAX_BYTES
from kombu_hake.amqp.naming import parse_arn
from kombu_hake.amqp.policy import (
    PolicyTooLarge,
    PolicyUnreadable,
    allows,
    named_topics,
    namespace_policy,
    queue_policy,
)
from kombu_hake.amqp.priorities import level_shares
from kombu_hake.amqp.routing import compile_filter, filter_json, matches, without_priorities
from kombu_hake.exceptions import HakeError
from kombu_hake.quoting import escaped

__all__ = ["CASES", "MOST_S", "Case", "documents", "examples", "filter_policies", "policies", "tags", "within"]

#: No input may take longer than this, seconds. Measured as CPU time of the thread: other processes do not count.
MOST_S = 1.0
QUEUE = "arn:aws:sqs:eu-west-1:111122223333:email"
TOPICS = [f"arn:aws:sns:eu-west-1:111122223333:{name}" for name in ("orders", "orders-eu", "x" * 200)]
PATTERNS = ("order.placed", "order.*", "#", "*.created.#", "#.a.#.a.#.a.#.b", "a.*.c")
#: Of a tag's value.
_MOST_CHARS = 256


def examples(usual: int = 100) -> int:
    """How many examples to try: *usual*, unless HAKE_FUZZ_EXAMPLES says otherwise."""
    return int(os.environ.get("HAKE_FUZZ_EXAMPLES") or usual)


@contextmanager
def within(most_s: float = MOST_S) -> Any:
    """Fail when what is inside takes longer."""
    started = time.thread_time()
    yield
    taken_s = time.thread_time() - started
    assert taken_s < most_s, f"it took {taken_s:.2f} s"


# --- pieces

numbers = st.sampled_from(
    ["0", "-1", "1e400", "-1e400", "nan", "NaN", "Infinity", "9" * 20, "9" * 256, "\u0661\u0662", "1_000", "0x10", " 1"]
) | st.integers().map(str)
controls = st.sampled_from(["\x00", "\x1b[2J", "\r\n", "\u202e", "\ud800", "\x7f", "\u2028", "=FF", "=ED=A0=80", "%"])
texts = st.one_of(st.text(max_size=40), numbers, controls, st.text("*?#.|%=:/ a", max_size=_MOST_CHARS))
stars = st.one_of(
    st.builds(
        lambda part, count: part * count + "b",
        st.sampled_from(["*", "*a", "a*", "?*", "*?", "**a"]),
        st.integers(1, 2000),
    ),
    st.text("*?ab", max_size=200),
)
words = st.builds(
    lambda part, count: ".".join([part] * count), st.sampled_from(["#", "*", "a", "#.a", "*.#"]), st.integers(1, 3_000)
)
bindings = st.builds(
    Binding, texts, st.sampled_from(["direct", "topic", "fanout", "headers"]), st.one_of(texts, words),
    st.dictionaries(texts, st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts), max_size=4).map(
        lambda found: tuple(found.items())
    ),
)  # fmt: skip


def _digested(text: str, prefix: str) -> dict[str, str]:
    """A tag with a digest that is right, as anyone can compute it."""
    import hashlib

    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return {f"{prefix}{digest}": text}


# --- tags

_keys = st.one_of(
    st.sampled_from(["hake:temporary", "hake:used", "hake:condemned", "hake:namespace", "hake:max-priority"]),
    st.builds("hake:user:{}".format, texts),
    st.from_regex(r"\Ahake:[bt]:[0-9a-f]{1,16}(:\d{1,3}:\d{1,3})?\Z"),
    st.builds("hake:b:{}".format, texts),
    st.builds("hake:t:{}".format, texts),
    texts,
)
_values = st.one_of(
    texts,
    st.sampled_from(["exclusive", "auto-delete", "expires=0", "expires=9999999999", "auto-delete expires=1"]),
    st.builds("{} {} {}".format, numbers, numbers, texts),
    st.builds("expires={}".format, numbers),
    st.builds("{} {} {}".format, st.sampled_from(["topic", "headers", "all", "queue"]), texts, texts),
)
_records = st.one_of(
    bindings.map(to_tags),
    st.builds(_digested, _values, st.sampled_from(["hake:b:", "hake:t:"])),
    st.dictionaries(_keys, _values, max_size=3),
)


def _joined(records: list[dict[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for record in records:
        found |= record
    return found


#: All tags of a queue.
tags = st.lists(_records, max_size=12).map(_joined)


def check_tags(found: dict[str, str]) -> None:
    """Reading the tags of a queue, and what follows from them without asking AWS."""
    with within():
        owned = ownership.read(found)
        if owned is not None:
            due_s = owned.due_s()
            assert due_s is None or abs(due_s - 1.8e9) < 1e13
            assert owned.limit_s() <= 86_400
            assert all(user.who.isprintable() and len(user.who) <= 100 for user in owned.users)
            owned.live_users(1.8e9)
        bound = from_tags(found)
        assert bound.damaged <= set(found)
        level_shares(bound.max_priority)
        for exchange in bound.exchanges():
            of_exchange = bound.for_exchange(exchange)
            for wildcards in (True, False):
                filter_json(compile_filter(of_exchange, wildcards=wildcards))
        for binding in bound.bindings:
            matches(binding, "order.placed", {"a": 1})
            matches(binding, ".".join("a" * 127), {})
        for key in bound.damaged:
            assert escaped(key, None).isprintable()


# --- JSON documents

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, stars, st.just(int("9" * 400)))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


def _deep(opening: str, closing: str, depth: int) -> str:
    return opening * depth + closing * depth


_broken = st.one_of(
    texts,
    st.builds(
        _deep,
        st.sampled_from(["[", '{"a":', '{"Statement":[', '{"$or":[']),
        st.sampled_from(["", "]", "}", "]}"]),
        st.integers(1, 5_000),
    ),
    st.builds(lambda digits: '{"Statement": ' + "9" * digits + "}", st.integers(1, 10_000)),
    st.just('{"Statement": [], "Statement": []}'),
    st.just('{"a": NaN}'),
    st.just('{"Version": "' + "x" * 300_000 + '"}'),
    values.map(json.dumps),
)
_conditions = st.dictionaries(
    st.sampled_from(["ArnEquals", "ArnLike", "StringNotLike", "StringEqualsIfExists", "Bool", "NumericLessThan"])
    | texts,
    st.dictionaries(st.sampled_from(["aws:SourceArn", "AWS:SourceAccount", "aws:x"]) | texts, values, max_size=3)
    | values,
    max_size=3,
)
_arns = st.one_of(
    st.sampled_from([QUEUE, *TOPICS]), stars, st.builds("arn:aws:{}:{}:{}:{}".format, texts, texts, texts, stars)
)
_statements = st.fixed_dictionaries(
    {},
    optional={
        "Sid": st.sampled_from(["HakeTopics", "HakeNamespace"]) | values,
        "Effect": st.sampled_from(["Allow", "Deny"]) | values,
        "Action": st.sampled_from(["sqs:SendMessage", "sqs:*", "*"]) | values,
        "Resource": _arns | st.lists(_arns, max_size=3) | values,
        "Principal": st.sampled_from(["*", {"Service": "sns.amazonaws.com"}, {"AWS": "*"}]) | values,
        "Condition": _conditions
        | st.builds(lambda arns: {"ArnLike": {"aws:SourceArn": arns}}, st.lists(_arns, max_size=5))
        | values,
    },
)
#: The text of a queue's access policy.
policies = st.one_of(
    _broken,
    st.builds(
        lambda found: json.dumps({"Version": "2012-10-17", "Statement": found}),
        st.lists(_statements, max_size=5) | values,
    ),
)


def check_policy(text: str) -> None:
    """Reading a queue's access policy, and computing the one to write."""
    for topic in TOPICS:
        with within():
            allows(text, QUEUE, topic)
    others = _other_statements(text)
    for compute in (
        lambda: queue_policy(text, QUEUE, TOPICS),
        lambda: queue_policy(text, QUEUE, [*TOPICS, *named_topics(text)]),
        lambda: queue_policy(text, QUEUE, []),
        lambda: namespace_policy(text, QUEUE, "arn:aws:sns:eu-west-1:111122223333:shop__*"),
    ):
        with within():
            try:
                new = compute()
            except PolicyUnreadable:
                continue
            except PolicyTooLarge:
                new = None
        assert others is not None or not text, "what can't be read was overwritten"
        if new:
            assert len(new) <= SQS_POLICY_MAX_BYTES
            kept = [
                one for one in json.loads(new)["Statement"] if one.get("Sid") not in ("HakeTopics", "HakeNamespace")
            ]
            assert [json.dumps(one) for one in kept] == [json.dumps(one) for one in others or []]


def _other_statements(text: str) -> list[Any] | None:
    """The statements of others; None where the text is no policy."""
    try:
        found = json.loads(text)["Statement"]
    except (ValueError, RecursionError, TypeError, KeyError, IndexError):
        return None
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return None
    return [one for one in found if one.get("Sid") not in ("HakeTopics", "HakeNamespace")]


_operators = st.one_of(
    texts,
    values,
    st.builds(
        lambda name, operand: {name: operand},
        st.sampled_from(
            ["prefix", "suffix", "wildcard", "anything-but", "equals-ignore-case", "exists", "numeric", "cidr"]
        ),
        st.one_of(stars, values),
    ),
)
_branches = st.dictionaries(
    st.sampled_from(["rk", "words", "tail", "hake-priority", "hake-task", "$or"]) | texts,
    st.lists(_operators, max_size=6) | values,
    max_size=4,
)
#: The text of a subscription's filter policy.
filter_policies = st.one_of(
    _broken,
    _branches.map(json.dumps),
    st.builds(lambda members: json.dumps({"$or": members}), st.lists(_branches, max_size=6) | values),
    st.builds(lambda text, count: json.dumps({"rk": [{"wildcard": text}] * count}), stars, st.integers(1, 2_000)),
    st.builds(lambda count: json.dumps({"$or": [{"rk": ["x", {"prefix": "y"}]}] * count}), st.integers(1, 3_000)),
)


def check_filter(text: str) -> None:
    """Judging a subscription's filter policy."""
    wanted = [Binding("orders", "topic", pattern) for pattern in PATTERNS]
    for bound in ([Binding("orders", "direct", "a" * 250)], wanted[:1], wanted):
        with within():
            without_priorities(text)
            same_json(text, filter_json(compile_filter(bound)))
    assert escaped(text).isprintable()


#: The text of a redrive policy, or a redrive allow policy.
documents = st.one_of(
    _broken,
    st.fixed_dictionaries(
        {},
        optional={
            "deadLetterTargetArn": _arns | values,
            "maxReceiveCount": values,
            "redrivePermission": st.sampled_from(["byQueue", "allowAll", "denyAll"]) | values,
            "sourceQueueArns": st.lists(_arns) | values,
        },
    ).map(json.dumps),
)


def check_document(text: str) -> None:
    """Reading any other document."""
    with within():
        try:
            found = read_object(text)
        except ValueError:
            return
        target = found.get("deadLetterTargetArn")
        if isinstance(target, str):
            try:
                parse_arn(target)
            except HakeError:
                return


wildcards = st.tuples(stars | texts, st.one_of(texts, st.builds("{}{}".format, st.just("a" * 300), texts)))


def check_wildcard(found: tuple[str, str]) -> None:
    """Matching a pattern with stars."""
    pattern, text = found
    for question_mark in (False, True):
        with within(0.5):
            matches_wildcard(pattern, text, question_mark=question_mark)


patterns = st.tuples(words | st.lists(st.sampled_from(["#", "*", "a", "b"]), max_size=120).map(".".join), words)


def check_pattern(found: tuple[str, str]) -> None:
    """An AMQP pattern, as a tag, a binding or ``Topic.on`` may have it, against a routing key."""
    pattern, key = found
    with within():
        matches(Binding("orders", "topic", pattern), key)
        for can_wildcard in (True, False):
            compile_filter([Binding("orders", "topic", pattern)] * 3, wildcards=can_wildcard)


class Case(NamedTuple):
    """What to try, and what must hold."""

    name: str
    strategy: st.SearchStrategy[Any]
    check: Callable[[Any], None]


CASES = (
    Case("tags", tags, check_tags),
    Case("policies", policies, check_policy),
    Case("filters", filter_policies, check_filter),
    Case("documents", documents, check_document),
    Case("wildcards", wildcards, check_wildcard),
    Case("patterns", patterns, check_pattern),
)
