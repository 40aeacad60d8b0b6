"""What a task message must look like before Celery sees it."""

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp import envelope
from kombu_hake.amqp.documents import is_deeper
from kombu_hake.amqp.limits import MAX_NESTING
from kombu_hake.amqp.tasks import MAX_NAME_CHARS, fault_of, is_plain

EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
BODY = [[1], {"a": 1}, EMBED]
SURROGATE = "\ud800"


def headers(**changes: Any) -> dict[str, Any]:
    sent = Celery(set_as_current=False).amqp.as_task_v2("8d1b", "shop.add", (1,), {}).headers
    return {**json.loads(json.dumps(sent)), **changes}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_what_celery_sends_is_right() -> None:
    app = Celery(set_as_current=False)

    @app.task(name="add")
    def add(*_args: int) -> None: ...

    sent = app.amqp.as_task_v2(
        "id", "é.add", ("ü",), {"k": 1}, countdown=10, expires=20, group_id="g", group_index=3, retries=2,
        time_limit=10, soft_time_limit=9.5, callbacks=[add.s(1)], errbacks=[add.si(2)], chord=add.s(3),
        chain=[add.s(4), add.s(5)], root_id="r", parent_id="p", shadow="s", stamped_headers=["h"], h="value",
        replaced_task_nesting=1,
    )  # fmt: skip
    found = json.loads(json.dumps(sent.headers)), sent.properties, json.loads(json.dumps(sent.body, default=dict))
    assert fault_of(*found) is None
    sent = app.amqp.as_task_v1("id", "add", (1,), {}, countdown=10, expires=20, callbacks=[add.s(1)])
    body = json.loads(json.dumps(sent.body, default=dict))
    assert fault_of(body, sent.properties, body) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"eta": "2030-01-01T00:00:00"}, {"eta": "2030-01-01T00:00:00Z"}, {"eta": datetime.now(timezone.utc)},
        {"expires": "2030-01-01T00:00:00.123456+02:00"}, {"timelimit": [10, None]}, {"timelimit": [1.5, 1]},
        {"timelimit": None}, {"timelimit": []}, {"retries": None}, {"shadow": "x"}, {"own": nested(100)},
        {"stamped_headers": ["a"], "stamps": {"a": ["b"]}}, {"argsrepr": "é" * 5000},
    ],
)  # fmt: skip
def test_what_is_right_stays_right(changes: dict[str, Any]) -> None:
    assert fault_of(headers(**changes), {"reply_to": "r"}, BODY) is None


@pytest.mark.parametrize("name", ["task", "id", "shadow", "root_id", "parent_id", "group", "origin", "argsrepr"])
@pytest.mark.parametrize("value", [5, 1.5, True, ["a"], {"a": 1}, SURROGATE])
def test_text_must_be_text(name: str, value: Any) -> None:
    found = fault_of(headers(**{name: value}), {}, BODY)
    assert found is not None
    assert found.startswith(f"{name} ")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"id": None}, "id is missing"),
        ({"task": None}, "task is missing"),
        ({"id": "x" * (MAX_NAME_CHARS + 1)}, "a name or id is longer than 1024 characters"),
        ({"eta": 5}, "eta is of type int, not a date and time"),
        ({"eta": "tomorrow"}, "eta is not a date and time"),
        ({"eta": ""}, "eta is of type NoneType, not a date and time"),
        ({"eta": "0001-01-01T00:00:00+00:00"}, "eta is too far away"),
        ({"expires": "9999-12-31T23:59:59-14:00"}, "expires is too far away"),
        ({"expires": [1]}, "expires is of type list, not a date and time"),
        ({"retries": "1"}, "retries is of type str, not an integer"),
        ({"retries": -1}, "retries is out of range"),
        ({"retries": 2**31}, "retries is out of range"),
        ({"timelimit": [1]}, "timelimit is not a pair"),
        ({"timelimit": "ab"}, "timelimit is not a pair"),
        ({"timelimit": ["a", None]}, "timelimit holds something other than seconds"),
        ({"timelimit": [float("nan"), 1]}, "timelimit holds something other than seconds"),
        ({"timelimit": [float("inf"), 1]}, "timelimit holds something other than seconds"),
        ({"timelimit": [10**4000, 1]}, "timelimit holds something other than seconds"),
        ({"timelimit": [-1, 1]}, "timelimit holds something other than seconds"),
        ({"stamped_headers": "ab"}, "stamped_headers is not a list of texts"),
        ({"stamped_headers": [["a"]]}, "stamped_headers is not a list of texts"),
        ({"stamps": ["a"]}, "stamps is of type list, not an object"),
        ({"group_index": "a"}, "group_index is of type str, not an integer"),
        ({"errbacks": [1]}, "errbacks is not a list of signatures"),
        ({"chord": "x"}, "chord is not a signature"),
        ({"own": nested(MAX_NESTING + 2)}, "its headers are nested too deep"),
    ],
)
def test_faults_of_headers(changes: dict[str, Any], fault: str) -> None:
    assert fault_of(headers(**changes), {}, BODY) == fault


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (5, "its body is of type int, not [args, kwargs, embed]"),
        ([1, 2], "its body is of type list, not [args, kwargs, embed]"),
        ("abc", "its body is of type str, not [args, kwargs, embed]"),
        (["args", {}, {}], "args is of type str, not a list"),
        ([[], [], {}], "kwargs is of type list, not an object"),
        ([[], {}, [1]], "the third part of its body is of type list, not an object"),
        ([[], {}, {"callbacks": "x"}], "callbacks is not a list of signatures"),
        ([[], {}, {"chain": [{"task": 5}]}], "chain is not a list of signatures"),
        ([[], {}, {"chord": [{"task": "a"}]}], "chord is not a signature"),
        ({"args": 5}, "args is of type int, not a list"),
        ({"kwargs": 5}, "kwargs is of type int, not an object"),
    ],
)
def test_faults_of_bodies(body: Any, fault: str) -> None:
    assert fault_of(headers(), {}, body) == fault


@pytest.mark.parametrize("name", ["reply_to", "correlation_id"])
@pytest.mark.parametrize("value", [5, ["a"], SURROGATE])
def test_properties_that_celery_uses_are_text(name: str, value: Any) -> None:
    assert str(fault_of(headers(), {name: value}, BODY)).startswith(f"{name} ")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted({*headers(), "callbacks", "chord", "x"})), anything), anything, anything)
def test_whatever_a_message_says_there_is_an_answer(changes: dict[str, Any], reply_to: Any, body: Any) -> None:
    for payload in (BODY, body):
        found = fault_of({**headers(), **changes}, {"reply_to": reply_to}, payload)
        assert found is None or (found.isascii() and found.isprintable() and len(found) < 100)


def plain(**changes: Any) -> bool:
    return is_plain(headers(**changes), {"correlation_id": "8d1b", "reply_to": ""}, BODY)


def test_what_celery_sends_is_plain() -> None:
    assert plain()
    assert plain(parent_id="p", group="g", group_index=3, retries=2, own=1)


@given(
    st.dictionaries(st.sampled_from(sorted({*headers(), "callbacks", "chord", "x"})), anything, max_size=2),
    st.dictionaries(st.sampled_from(["reply_to", "correlation_id"]), anything, max_size=1),
    st.sampled_from([BODY, [[], {}, {**EMBED, "chain": 5}], (BODY[0], {}, EMBED), {"args": 1, "b": 2, "c": 3}, "abc"])
    | anything,
)
def test_what_is_plain_has_no_fault(changes: dict[str, Any], properties: dict[str, Any], body: Any) -> None:
    found, given_properties = {**headers(), **changes}, {"reply_to": "", "correlation_id": "8d1b", **properties}
    if is_plain(found, given_properties, body):
        assert fault_of(found, given_properties, body) is None


@pytest.mark.parametrize("name", sorted(headers()))
@pytest.mark.parametrize("value", [5.5, ["a"], {"a": 1}, SURROGATE, "x" * 5_000, 2**40, -1, True])
def test_nothing_that_has_a_fault_is_plain(name: str, value: Any) -> None:
    if fault_of(headers(**{name: value}), {}, BODY) is not None:
        assert not plain(**{name: value})


def test_headers_of_an_envelope_are_never_deep() -> None:
    """:func:`is_plain` counts on it."""
    for levels in (envelope.MAX_DEPTH - 5, MAX_NESTING + 2):
        text = json.dumps({"body": "x", "headers": {"x": nested(levels)}, "properties": {"delivery_tag": "1"}})
        found = envelope.decode(text, "q")
        assert not is_deeper(found.headers, MAX_NESTING)
        assert found.is_kombu is (levels < envelope.MAX_DEPTH)


def test_depth_counts_all_kinds_of_containers() -> None:
    value: Any = 1
    for number in range(MAX_NESTING + 1):
        value = (lambda v: [v], lambda v: {"a": v, "b": 1}, lambda v: (1, v))[number % 3](value)
    assert is_deeper(value, MAX_NESTING)
    assert not is_deeper([1, {"a": (2,)}], MAX_NESTING)
    assert not is_deeper("x" * 1000, MAX_NESTING)
