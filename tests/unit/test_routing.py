"""Routing rules, filter policies and the attributes they judge; the two together against AMQP."""

import json
import random
import re
from itertools import product

import pytest
import sns_model
from amqp_model import amqp_topic_match
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.routing import Filter, compile_filter, filter_json, matches, message_attributes, narrowed

# Few words and short ones, so that keys and patterns often meet; digits and separators, because the attributes hold
# positions between separators; characters that need encoding.
WORDS = ["a", "b", "c", "ab", "", "1", "2", "3", "|", "a|b", "*a", "ä", "%61", '"', "\\", "\U0001f600", "\ud800", " "]
keys = st.lists(st.sampled_from(WORDS), max_size=6).map(".".join)
common_keys = st.lists(st.sampled_from("abc"), max_size=6).map(".".join)
pattern_words = st.one_of(st.sampled_from(["*", "#"]), st.sampled_from([*"abc", *WORDS]))
patterns = st.lists(pattern_words, max_size=6).map(".".join)
common_patterns = st.lists(st.sampled_from(["*", "#", "a", "b", "c"]), max_size=6).map(".".join)
any_key = st.one_of(common_keys, keys)
any_pattern = st.one_of(common_patterns, patterns)


def topic(pattern: str) -> Binding:
    return Binding("orders", "topic", pattern)


def headers_binding(**arguments: str | int | float | bool | None) -> Binding:
    named = {name.replace("_", "-") if name.startswith("x_") else name: value for name, value in arguments.items()}
    return Binding("orders", "headers", "", tuple(named.items()))


def passes(compiled: Filter, key: str, headers: dict[str, object] | None = None) -> bool:
    return sns_model.passes(compiled.policy, message_attributes(key, headers))


# --- the rules


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("order.*", ["order.eu", "order."], ["order", "order.eu.north", "", "orders.eu"]),
        ("order.#", ["order", "order.eu", "order.eu.north"], ["orders", ""]),
        ("#.eu", ["eu", "a.eu", "a.b.eu"], ["eu.a", "neu", ""]),
        ("*.created.#", ["a.created", "a.created.b.c"], ["created", "a.b.created"]),
        ("#", ["", "a", "a.b", "."], []),
        ("*", ["a", "#"], ["", ".", "a.b"]),
        ("", [""], ["a", "."]),
        ("a..b", ["a..b"], ["a.b", "a.x.b"]),
        ("#.*", ["a", "a.b"], [""]),
        ("a.#.b.#", ["a.b", "a.x.b", "a.b.b.x"], ["a", "b.a"]),
    ],
)
def test_topic_patterns_match_as_in_rabbitmq(pattern: str, matching: list[str], others: list[str]) -> None:
    assert [key for key in matching if not matches(topic(pattern), key)] == []
    assert [key for key in others if matches(topic(pattern), key)] == []


@given(any_pattern, any_key)
def test_topic_match_equals_the_definition(pattern: str, key: str) -> None:
    assert matches(topic(pattern), key) == amqp_topic_match(pattern, key)


def test_direct_compares_and_fanout_does_not() -> None:
    assert matches(Binding("orders", "direct", "a.*"), "a.*")
    assert not matches(Binding("orders", "direct", "a.*"), "a.b")
    assert matches(Binding("orders", "fanout", "a"), "b")


@pytest.mark.parametrize(
    ("binding", "headers", "expected"),
    [
        (headers_binding(region="eu"), {"region": "eu", "more": 1}, True),
        (headers_binding(region="eu"), {"region": "us"}, False),
        (headers_binding(region="eu"), {}, False),
        (headers_binding(x_match="all", region="eu", size=3), {"region": "eu", "size": 3}, True),
        (headers_binding(x_match="all", region="eu", size=3), {"region": "eu", "size": 4}, False),
        (headers_binding(x_match="any", region="eu", size=3), {"region": "us", "size": 3}, True),
        (headers_binding(x_match="any", region="eu", size=3), {"region": "us"}, False),
        (headers_binding(x_match="any"), {"region": "eu"}, False),
        (headers_binding(x_match="all"), {}, True),
        (headers_binding(), {"region": "eu"}, True),
        (headers_binding(region=None), {"region": ["a", "list"]}, True),
        (headers_binding(region=None), {}, False),
        (headers_binding(size=3), {"size": 3.0}, True),
        (headers_binding(size=3), {"size": "3"}, False),
        (headers_binding(size=1), {"size": True}, False),
        (headers_binding(flag=True), {"flag": True}, True),
        (headers_binding(flag=True), {"flag": 1}, False),
        (headers_binding(region="eu"), {"region": None}, False),
        (headers_binding(x_match="all", x_a="1"), {}, True),
        (headers_binding(x_match="all-with-x", x_a="1"), {}, False),
        (headers_binding(x_match="all-with-x", x_a="1"), {"x-a": "1"}, True),
        (headers_binding(x_match="any-with-x", x_a="1", b="2"), {"x-a": "1"}, True),
        (headers_binding(x_match="any", x_a="1", b="2"), {"x-a": "1"}, False),
    ],
)
def test_headers_match_as_in_rabbitmq(binding: Binding, headers: dict[str, object], expected: bool) -> None:
    assert matches(binding, "any.key", headers) is expected


# --- attributes


@given(st.text(max_size=300))
def test_attributes_are_few_never_empty_and_harmless(key: str) -> None:
    attributes = message_attributes(key)
    assert 1 <= len(attributes) <= 8
    for name, value in attributes.items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
        assert sns_model.text_faults(value) == []


def test_an_ordinary_routing_key_stays_as_it_is() -> None:
    assert message_attributes("order.created.eu")["rk"] == "order.created.eu"


@given(keys, keys)
def test_different_keys_have_different_attributes(one: str, other: str) -> None:
    assert (message_attributes(one)["rk"] == message_attributes(other)["rk"]) == (one == other)


def test_changing_the_attributes_of_one_message_leaves_the_next_alone() -> None:
    message_attributes("a.b")["rk"] = "spoilt"
    assert message_attributes("a.b")["rk"] == "a.b"


header_names = st.one_of(st.sampled_from(["region", "size", "x-a", "task", "id", "é" * 120]), st.text(max_size=12))
header_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([1.0, 0.5, -0.0]),
    st.sampled_from(["eu", "", "ä"]),
    st.text(max_size=5),
)
message_headers = st.dictionaries(
    header_names, st.one_of(header_values, st.lists(st.integers()), st.text(min_size=300, max_size=400)), max_size=9
)


@given(message_headers)
def test_header_attributes_have_legal_names_and_values(headers: dict[str, object]) -> None:
    attributes = message_attributes("key", headers)
    assert 1 <= len(attributes) <= 8
    for name, value in attributes.items():
        assert len(name) <= 256
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
        assert ".." not in name
        assert name.strip(".") == name
        assert not name.lower().startswith(("aws.", "amazon."))
        assert sns_model.text_faults(value) == []


def test_celery_task_headers_leave_room_for_the_users_own() -> None:
    celery = dict.fromkeys(["lang", "id", "root_id", "parent_id", "group", "retries", "timelimit", "origin"], "x")
    assert "h-tenant" in message_attributes("key", {**celery, "task": "app.add", "tenant": "t1"})


# --- filters


EXACT = {
    "a.b.c": {"rk": ["a.b.c"]},
    "": {"rk": ["%"]},
    "*": {"words": [{"suffix": "|1"}]},
    "*.*": {"words": [{"suffix": "|2"}]},
    "*.#": {"words": [{"prefix": "|1."}]},
    "*.*.#": {"words": [{"wildcard": "*|2.*"}]},
    "order.*": {"words": [{"prefix": "|1.order.2|"}]},
    "order.#": {"rk": ["order", {"prefix": "order."}]},
    "order.*.#": {"rk": [{"prefix": "order."}]},
    "#.eu": {"rk": [{"suffix": ".eu"}, "eu"]},
    "*.eu": {"words": [{"suffix": "|2.eu.1|2"}]},
    "a.*.c": {"words": [{"wildcard": "|1.a.3|*|3.c.1|3"}]},
    "*.b.*": {"words": [{"wildcard": "*|2.b.2|*"}]},
    "*.created.#": {"words": [{"wildcard": "*|2.created.*"}]},
    "a.#.z": {"rk": [{"wildcard": "a.*.z"}, "a.z"]},
    "#.m.#": {"rk": [{"suffix": ".m"}, {"wildcard": "*.m.*"}, "m", {"prefix": "m."}]},
    "a.*.c.#": {"words": [{"wildcard": "|1.a.*|3.c.*"}]},
    "#.error.*": {"words": [{"wildcard": "*.error.2|*"}]},
    "a.*.*.b.*.c": {"words": [{"wildcard": "|1.a.6|*|4.b.3|*|6.c.1|6"}]},
    "*.a.*.b.*.c.*": {"tail": [{"wildcard": "2.a.6|*|4.b.4|*|6.c.2|*"}]},
}


@pytest.mark.parametrize("pattern", EXACT)
def test_what_sns_can_express_is_exact(pattern: str) -> None:
    compiled = compile_filter([topic(pattern)])
    assert compiled == Filter(EXACT[pattern], exact=True)
    assert [key for key in short_keys() if passes(compiled, key) != amqp_topic_match(pattern, key)] == []


def test_patterns_that_start_with_a_star_become_prefixes_when_there_are_many() -> None:
    compiled = compile_filter(topic(f"*.{word}.#") for word in ["paid", "sent", "lost", "open", "done"])
    assert compiled.exact
    assert "wildcard" not in filter_json(compiled)
    assert {"tail", "words"} == {name for member in compiled.policy["$or"] for name in member}


def short_keys() -> list[str]:
    """Every key of up to four words out of a few, and some longer ones."""
    few = ["a", "b", "c", "m", "z", "eu", "order", "created", "error"]
    short = [".".join(words) for length in range(4) for words in product(few, repeat=length)]
    generator = random.Random(1)
    return short + [".".join(generator.choices(few, k=generator.randint(4, 8))) for _ in range(1000)]


@settings(max_examples=300)
@given(st.lists(any_pattern, min_size=1, max_size=5), st.lists(any_key, min_size=1, max_size=8), st.booleans())
@example(["a.#.a"], ["a"], True)
@example(["*.#.b"], ["b"], True)
@example(["a.*.#.*.a"], ["a.a.a"], True)
@example(["#.2.#"], ["a.b.c"], True)
def test_filter_and_check_together_are_amqp(bound: list[str], published: list[str], wildcards: bool) -> None:
    bindings = [topic(pattern) for pattern in bound]
    compiled = compile_filter(bindings, wildcards=wildcards)
    assert sns_model.faults(compiled.policy, wildcards=wildcards) == []
    for key in published:
        wanted = any(amqp_topic_match(pattern, key) for pattern in bound)
        passed = passes(compiled, key)
        assert passed >= wanted, "the filter is narrower than the bindings"
        assert (passed and any(matches(binding, key) for binding in bindings)) == wanted
        if compiled.exact:
            assert passed == wanted, "the filter claims to be exact"


@st.composite
def near_misses(draw: st.DrawFn) -> tuple[str, str]:
    """A pattern, and a key made from it: each ``*`` a word, each ``#`` a few, perhaps one thing changed."""
    words = draw(st.lists(st.sampled_from(["*", "#", "a", "b", "1"]), min_size=1, max_size=6))
    key: list[str] = []
    for word in words:
        if word in ("*", "#"):
            count = 1 if word == "*" else draw(st.integers(0, 2))
            key += draw(st.lists(st.sampled_from(["a", "b", "1"]), min_size=count, max_size=count))
        else:
            key.append(word)
    if key and draw(st.booleans()):
        at = draw(st.integers(0, len(key) - 1))
        key[at : at + 1] = draw(st.lists(st.sampled_from(["a", "b"]), max_size=2))
    return ".".join(words), ".".join(key)


@settings(max_examples=500)
@given(near_misses(), st.booleans())
def test_one_pattern_is_filtered_as_it_claims(pair: tuple[str, str], wildcards: bool) -> None:
    pattern, key = pair
    compiled = compile_filter([topic(pattern)], wildcards=wildcards)
    passed, wanted = passes(compiled, key), amqp_topic_match(pattern, key)
    assert passed == wanted if compiled.exact else passed >= wanted


@settings(max_examples=50, deadline=None)
@given(st.lists(any_pattern, min_size=20, max_size=60), st.lists(any_key, max_size=5), st.booleans())
def test_many_bindings_stay_within_the_limits(bound: list[str], published: list[str], wildcards: bool) -> None:
    compiled = compile_filter([topic(pattern) for pattern in bound], wildcards=wildcards)
    assert sns_model.faults(compiled.policy, wildcards=wildcards) == []
    for key in published:
        if any(amqp_topic_match(pattern, key) for pattern in bound):
            assert passes(compiled, key)


@pytest.mark.parametrize(
    "bound",
    [
        [f"key-{i}" for i in range(150)],
        [f"entity-{i}.*" for i in range(150)],
        [f"*.event-{i}" for i in range(150)],
        [f"*.event-{i}.#" for i in range(70)],
        [f"*.event-{i}.*" for i in range(150)],
        [f"entity-{i}.#" for i in range(75)],
        [f"entity-{i}.*.done" for i in range(10)],
        [f"entity-{i}.*" for i in range(20)] + [f"key-{i}" for i in range(20)] + [f"*.event-{i}.#" for i in range(20)],
    ],
    ids=lambda bound: f"{len(bound)} of {bound[0]}",
)
def test_many_bindings_of_the_common_shapes_are_exact(bound: list[str]) -> None:
    compiled = compile_filter(map(topic, bound))
    assert compiled.exact
    assert compiled.policy is not None
    assert sns_model.faults(compiled.policy) == []


def test_too_many_wildcards_become_prefixes() -> None:
    bound = [f"entity-{i}.*.done" for i in range(30)]
    compiled = compile_filter(map(topic, bound))
    assert sns_model.faults(compiled.policy) == []
    assert not compiled.exact
    assert passes(compiled, "entity-7.x.done")
    assert not passes(compiled, "entity-99.x.done")
    assert not passes(compiled, "other")


def test_patterns_that_wildcards_cannot_tell_apart_still_narrow() -> None:
    compiled = compile_filter([topic("#.b.*.d.#")])
    assert not compiled.exact
    assert not passes(compiled, "x.y")
    assert passes(compiled, "x.b.y.d")


def test_without_wildcards_the_filter_uses_prefixes_and_suffixes_only() -> None:
    bound = ["order.*", "order.#", "#.eu", "*.created.#", "a.*.c"]
    compiled = compile_filter(map(topic, bound), wildcards=False)
    assert "wildcard" not in filter_json(compiled)
    assert compiled.policy is not None
    assert all(passes(compiled, key) for key in ["order.x", "order", "x.eu", "x.created", "x.created.y", "a.b.c"])
    assert not passes(compiled, "invoice.sent")


@pytest.mark.parametrize("pattern", ["order.*", "order.#", "#.eu", "*.eu", "*.created.#", "*.b.*", "a.b", "*"])
def test_common_patterns_are_exact_without_wildcards_too(pattern: str) -> None:
    assert compile_filter([topic(pattern)], wildcards=False).exact


def test_everything_needs_no_filter() -> None:
    assert compile_filter([topic("#"), topic("a")]) == Filter(None, exact=True)
    assert compile_filter([topic("#.#")]) == Filter(None, exact=True)
    assert compile_filter([Binding("orders", "fanout")]) == Filter(None, exact=True)
    assert filter_json(Filter(None, exact=True)) == "{}"


def test_unfiltered_passes_everything_and_leaves_it_to_the_consumer() -> None:
    assert compile_filter([topic("a")], unfiltered=True) == Filter(None, exact=False)


def test_no_binding_passes_nothing() -> None:
    compiled = compile_filter([])
    assert not passes(compiled, "")
    assert not passes(compiled, "a.b.c")
    assert not passes(compiled, "a", {"region": "eu"})


@given(st.lists(any_key, min_size=1, max_size=5), any_key)
def test_direct_filters_are_exact(bound: list[str], key: str) -> None:
    compiled = compile_filter([Binding("orders", "direct", routing_key) for routing_key in bound])
    assert compiled.exact
    assert sns_model.faults(compiled.policy) == []
    assert passes(compiled, key) == (key in bound)


@given(st.lists(any_pattern, min_size=1, max_size=8), st.randoms())
def test_the_order_of_bindings_does_not_show(bound: list[str], generator: random.Random) -> None:
    shuffled = [*bound, bound[0]]
    generator.shuffle(shuffled)
    assert filter_json(compile_filter(map(topic, bound))) == filter_json(compile_filter(map(topic, shuffled)))


def test_filter_json_is_compact_and_sorted() -> None:
    text = filter_json(compile_filter([topic("b.#"), topic("a.*.c"), topic("a")]))
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_exchanges_of_two_types_lose_nothing() -> None:
    assert compile_filter([topic("a"), headers_binding(region="eu")]) == Filter(None, exact=False)
    mixed = compile_filter([topic("a.*"), Binding("orders", "direct", "b.*")])
    assert [key for key in ["a.x", "b.x", "b.*", "a"] if passes(mixed, key)] == ["a.x", "b.*"]


# --- headers


bound_arguments = st.builds(
    lambda mode, arguments: tuple({**arguments, **({"x-match": mode} if mode else {})}.items()),
    st.sampled_from(["", "all", "any", "all-with-x", "any-with-x"]),
    st.dictionaries(header_names, header_values, max_size=4),
)
headers_bindings = st.builds(lambda arguments: Binding("orders", "headers", "", arguments), bound_arguments)


@settings(max_examples=150)
@given(st.lists(headers_bindings, min_size=1, max_size=5), message_headers, st.booleans())
def test_headers_filters_are_never_narrower_than_amqp(
    bound: list[Binding], headers: dict[str, object], wildcards: bool
) -> None:
    compiled = compile_filter(bound, wildcards=wildcards)
    assert sns_model.faults(compiled.policy, wildcards=wildcards) == []
    if any(matches(binding, "key", headers) for binding in bound):
        assert passes(compiled, "key", headers)
        assert passes(compiled, "key"), "a publisher that does not know the type"
    elif compiled.exact:
        assert not passes(compiled, "key", headers)


def test_headers_are_filtered_by_sns_where_the_publisher_knows_the_type() -> None:
    compiled = compile_filter([headers_binding(x_match="all", region="eu", size=3), headers_binding(vip=True)])
    passed = [
        headers
        for headers in (
            {"region": "eu", "size": 3},
            {"region": "eu", "size": 4},
            {"region": "eu"},
            {"vip": True},
            {"vip": 1},
            {},
        )
        if passes(compiled, "key", headers)
    ]
    assert passed == [{"region": "eu", "size": 3}, {"vip": True}]


def test_any_of_several_headers_is_filtered() -> None:
    compiled = compile_filter([headers_binding(x_match="any", region="eu", size=3, vip=None)])
    assert passes(compiled, "key", {"region": "us", "size": 3})
    assert passes(compiled, "key", {"vip": "whatever"})
    assert not passes(compiled, "key", {"region": "us"})


def test_messages_with_more_headers_than_fit_pass_all_filters() -> None:
    compiled = compile_filter([headers_binding(region="eu")])
    assert passes(compiled, "key", {f"name-{i}": i for i in range(7)})


def test_conditions_on_many_headers_keep_those_that_most_bindings_use() -> None:
    arguments = dict.fromkeys("abcdefg", "x")
    compiled = compile_filter([headers_binding(**arguments), headers_binding(g="x")])
    assert sns_model.faults(compiled.policy) == []
    assert not passes(compiled, "key", {"a": "x"})
    assert passes(compiled, "key", {"g": "x"})


# --- further conditions


PRIORITY = {"hake-priority": [{"exists": False}, {"numeric": ["<=", 0]}]}


@pytest.mark.parametrize("wildcards", [True, False])
@pytest.mark.parametrize("patterns", [["a"], ["a.*", "#.b"], ["*.a.#", "b.#", "#.c.*"], ["a.b"]])
def test_a_condition_more_holds_for_every_branch(patterns: list[str], wildcards: bool) -> None:
    base = compile_filter([Binding("e", "topic", pattern) for pattern in patterns], wildcards=wildcards)
    found = narrowed(base, {"colour": ["red"]})
    assert found is not None
    assert found.exact == base.exact
    for key in ("a", "a.b", "x.a.y", "b", "b.c.d", "z.c", "zz", ""):
        attributes = message_attributes(key)
        assert sns_model.passes(found.policy, attributes | {"colour": "red"}) == sns_model.passes(
            base.policy, attributes
        )
        assert not sns_model.passes(found.policy, attributes)
        assert not sns_model.passes(found.policy, attributes | {"colour": "blue"})


def test_a_filter_that_sns_would_refuse_is_none() -> None:
    many = compile_filter([Binding("e", "direct", f"key{i}") for i in range(76)])
    assert narrowed(many, PRIORITY) is None
    assert narrowed(many, {"hake-priority": [{"numeric": [">", 0]}]}) is not None
    full = compile_filter([Binding("e", "headers", "", tuple((f"h{i}", i) for i in range(4)))])
    assert narrowed(full, PRIORITY) is None
