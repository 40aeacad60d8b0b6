"""Bindings as tags of a queue."""

import hashlib
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kombu_hake.amqp.bindings import MAX_BINDING_TAGS, Binding, BindingSet, from_tags, overflow_tags, to_tags

AWS_TAG_CHARS = re.compile(r"[A-Za-z0-9 _.:/=+@-]*")


def shortstr(max_bytes: int = 255) -> st.SearchStrategy[str]:
    """AMQP's short string, counted in bytes; lone surrogates too, which Python strings may hold."""

    def cut(text: str) -> str:
        while len(text.encode("utf-8", "surrogatepass")) > max_bytes:
            text = text[:-1]
        return text

    ordinary = st.sampled_from(["", "orders", "celery@host", "order.#", "*.created", "a b", "=", "=41", "a=b:c", "all"])
    return st.one_of(ordinary, st.text(st.characters(), max_size=255).map(cut))


types = st.sampled_from(["direct", "topic", "fanout", "headers"])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(["1", ""]),
)
arguments = st.dictionaries(shortstr(), values, max_size=4).map(lambda found: tuple(found.items()))
bindings = st.builds(Binding, shortstr(), types, shortstr(), arguments)


def typed(binding: Binding) -> list[tuple[str, type, object]]:
    return [(name, type(value), value) for name, value in binding.arguments]


@given(bindings)
@example(Binding("é" * 127, "topic", "日" * 85, (("x" * 255, "\ud800" * 80),)))
@example(Binding("", "headers", "", (("", ""),)))
def test_a_binding_survives_its_tags(binding: Binding) -> None:
    found = from_tags(to_tags(binding))
    assert found == BindingSet(frozenset({binding}))
    assert [typed(one) for one in found.bindings] == [typed(binding)]


@given(bindings)
def test_tags_have_legal_keys_and_values(binding: Binding) -> None:
    for key, value in {**to_tags(binding), **overflow_tags(binding.exchange, binding.exchange_type)}.items():
        assert key.startswith("hake:b:")
        assert len(key) <= 128
        assert 0 < len(value) <= 256
        assert AWS_TAG_CHARS.fullmatch(key)
        assert AWS_TAG_CHARS.fullmatch(value)
        assert value == value.strip(), "AWS may drop spaces at the ends"


@given(st.lists(bindings, max_size=6), st.lists(shortstr(), max_size=3))
def test_a_set_survives_its_tags_among_those_of_others(bound: list[Binding], overflowed: list[str]) -> None:
    tags = {"Name": "queue", "hake:owner": "x", "hake:b:": "topic a b", "hake:b:zz": "topic a b", "aws:b": ""}
    for binding in bound:
        tags.update(to_tags(binding))
    for exchange in overflowed:
        tags.update(overflow_tags(exchange, "topic"))
    assert from_tags(tags) == BindingSet(frozenset(bound), frozenset(overflowed))


@given(bindings, bindings)
def test_different_bindings_have_different_tags(one: Binding, other: Binding) -> None:
    assert (one == other) == (to_tags(one) == to_tags(other))
    assert one == other or not set(to_tags(one)) & set(to_tags(other))


@settings(max_examples=200)
@given(bindings, st.data())
def test_a_damaged_binding_is_skipped(binding: Binding, data: st.DataObject) -> None:
    tags = to_tags(binding)
    key = data.draw(st.sampled_from(sorted(tags)))
    value = data.draw(st.one_of(st.none(), st.just(tags[key][:-1]), st.text(max_size=20)))
    if value is None:
        del tags[key]
    elif value == tags[key]:
        return
    else:
        tags[key] = value
    assert from_tags(tags) == BindingSet()


@given(st.dictionaries(st.one_of(st.text(), st.from_regex(r"hake:b:[0-9a-f]{1,16}(:\d:\d)?")), st.text()))
def test_no_tags_make_reading_fail(tags: dict[str, str]) -> None:
    assert from_tags(tags) == BindingSet()


@pytest.mark.parametrize(
    "text",
    ["topic orders =FF", "headers e = a:i:x", "headers e = a:q:x", "headers e = a", "topic é", "queue e", "all t =FF"],
)
def test_text_that_is_not_of_our_making_is_skipped_though_its_digest_fits(text: str) -> None:
    digested = text.replace("all t", "all") if text.startswith("all") else text
    digest = hashlib.blake2b(digested.encode(), digest_size=8).hexdigest()
    assert from_tags({f"hake:b:{digest}": text}) == BindingSet()


@pytest.mark.parametrize(
    ("binding", "value"),
    [
        (Binding("orders", "fanout"), "fanout orders"),
        (Binding("orders", "direct", "orders"), "direct orders orders"),
        (Binding("celeryev", "topic", "worker.#"), "topic celeryev worker.=23"),
        (Binding("orders", "topic", "*.created"), "topic orders =2A.created"),
        (
            Binding("orders", "headers", "", (("x-match", "any"), ("size", 3), ("vip", True), ("region", None))),
            "headers orders = region:n: size:i:3 vip:b:1 x-match:s:any",
        ),
    ],
)
def test_ordinary_bindings_can_be_read_in_the_console(binding: Binding, value: str) -> None:
    assert list(to_tags(binding).values()) == [value]


def test_tags_do_not_change_between_releases() -> None:
    assert to_tags(Binding("orders", "topic", "order.*")) == {"hake:b:59732894d3c054ff": "topic orders order.=2A"}
    assert overflow_tags("orders", "topic") == {"hake:b:d4e16acf26ac2b45": "all topic orders"}


def test_a_damaged_overflow_tag_is_skipped() -> None:
    assert from_tags(dict.fromkeys(overflow_tags("orders", "topic"), "all topic other")) == BindingSet()


def test_overflow_is_keyed_by_the_exchange_alone() -> None:
    assert list(overflow_tags("orders", "topic")) == list(overflow_tags("orders", "fanout"))


def test_a_long_binding_takes_few_of_a_queues_tags() -> None:
    assert len(to_tags(Binding("e" * 255, "topic", "k" * 255))) == 3
    assert len(to_tags(Binding("é" * 127, "topic", "é" * 127))) <= MAX_BINDING_TAGS // 4


def test_arguments_are_equal_only_in_value_and_type() -> None:
    one, true, text = (Binding("e", "headers", "", (("a", value),)) for value in (1, True, "1"))
    assert len({one, true, text}) == 3
    assert Binding("e", "headers", "", (("b", 1), ("a", 2))) == Binding("e", "headers", "", (("a", 2), ("b", 1)))


def test_bindings_of_any_arguments_can_be_sorted() -> None:
    bound = [Binding("e", "headers", "", (("a", value),)) for value in ("x", 1, None, 0.5)]
    assert len(sorted(bound)) == 4


def test_set_knows_its_exchanges() -> None:
    one, two = Binding("one", "fanout"), Binding("two", "topic", "a.*")
    found = BindingSet(frozenset({one, two}), frozenset({"three"}))
    assert found.exchanges() == {"one", "two", "three"}
    assert found.for_exchange("two") == {two}


# --- priorities


@pytest.mark.parametrize(("text", "expected"), [("9", 9), ("", 0), ("nine", 0), ("-1", 0)])
def test_the_highest_priority_is_a_tag(text: str, expected: int) -> None:
    assert from_tags({"hake:max-priority": text}).max_priority == expected
