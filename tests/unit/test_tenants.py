"""Tenants: what SQS sees as MessageGroupId, where a message's tenant comes from, and what keeps it."""

import enum
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest
from fakes import FakeClients, connected
from hypothesis import example, given
from hypothesis import strategies as st
from test_dispatch import Process
from test_envelope import SqsSide

from kombu_hake.amqp import decode, group_of, is_tenant, tenant_of_group, tenant_text
from kombu_hake.amqp.tenants import group_id, is_group_id
from kombu_hake.config import load, split_url
from kombu_hake.exceptions import ConfigurationError, PublishError
from kombu_hake.publish import NO_TENANT
from kombu_hake.publish.tenants import Tenants

GROUP = re.compile(r"[!-~]{1,128}")
TASK = {"task": "shop.mail", "id": "1"}
#: Texts that come close to one another in AWS: our escapes, spaces, long ones that differ at the end.
texts = st.one_of(
    st.text("ab%2~:hake é☃", min_size=1, max_size=20),
    st.text(min_size=1, max_size=256),
    st.sampled_from(["x" * 127, "x" * 128, "x" * 129, "x" * 200 + "1", "x" * 200 + "2", "hake:a", "a b", "a%20b"]),
    st.builds("hake:{}".format, st.text("a%20~", max_size=10)),
).filter(is_tenant)
hostile = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.lists(st.text()), st.text(),
    st.dictionaries(st.text(), st.text()), st.just("x" * 100_000), st.just("a\nb"), st.just(""), st.just("\ud800"),
)  # fmt: skip


# --- the group id


@given(tenant=texts)
@example(tenant="Acme Corp")
def test_aws_allows_the_group_id_of_each_tenant(tenant: str) -> None:
    assert GROUP.fullmatch(group_id(tenant))


@given(one=texts, other=texts)
@example(one="Acme Corp", other="hake:Acme%20Corp")
@example(one="é" * 100, other="é" * 101)
def test_no_two_tenants_share_a_group_id(one: str, other: str) -> None:
    assert (group_id(one) == group_id(other)) == (one == other)


@given(first=st.lists(texts, max_size=30, unique=True))
def test_many_tenants_have_as_many_group_ids(first: list[str]) -> None:
    every = {*first, *map(group_id, first)} - {text for text in first if not is_tenant(text)}
    assert len(set(map(group_id, every))) == len(every)


@pytest.mark.parametrize(
    ("tenant", "group"),
    [
        ("acme", "acme"),
        ("customer-7", "customer-7"),
        ("https://shop.example/?a=1", "https://shop.example/?a=1"),
        ("Acme Corp", "hake:Acme%20Corp"),
        ("Café", "hake:Caf%C3%A9"),
        ("hake:x", "hake:hake:x"),
        ("a b~c", "hake:a%20b%7Ec"),
        ("x" * 128, "x" * 128),
    ],
)
def test_common_names_stay_readable(tenant: str, group: str) -> None:
    assert group_id(tenant) == group


def test_a_long_tenant_keeps_its_start() -> None:
    found = group_id("a long name " * 20)
    assert found.startswith("hake:a%20long%20name%20")
    assert len(found) == 128


@given(group=st.from_regex(GROUP, fullmatch=True))
def test_a_group_id_of_another_program_is_the_name_of_its_tenant(group: str) -> None:
    tenant = tenant_of_group(group)
    assert tenant is None if group.startswith("hake:") else group_id(str(tenant)) == group


@given(value=hostile)
def test_what_is_no_group_id_names_no_tenant(value: Any) -> None:
    tenant = tenant_of_group(value)
    assert tenant is None or (is_tenant(tenant) and is_group_id(tenant))


# --- what publishers give


class Plan(str, enum.Enum):
    GOLD = "gold"


@pytest.mark.parametrize(
    ("given", "tenant"), [("acme", "acme"), (7, "7"), (UUID(int=7), str(UUID(int=7))), (Plan.GOLD, "gold")]
)
def test_a_tenant_may_be_a_text_a_number_or_a_uuid(given: Any, tenant: str) -> None:
    assert tenant_text(given) == tenant
    assert type(tenant_text(given)) is str


@given(value=hostile)
@example(value=10**5000)
def test_a_tenant_is_sound_or_an_error_says_why_not(value: Any) -> None:
    fault = ""
    try:
        found = tenant_text(value)
    except ValueError as exc:
        fault = str(exc)
    assert (fault.isascii() and len(fault) < 150) if fault else is_tenant(found)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "1 to 256 printable characters, and this one has 0 characters"),
        ("x" * 100_000, "this one has 100,000 characters"),
        ("a\nb", "has a character that cannot be printed"),
        ({"a": 1}, "a text, a UUID or an int of usual size, not dict"),
        (True, "not bool"),
        (1.5, "not float"),
        (b"acme", "not bytes"),
    ],
)
def test_a_publish_for_an_impossible_tenant_fails_and_says_why(fake: FakeClients, value: Any, words: str) -> None:
    here = Process(fake)
    here.declare("q")
    fake.calls.clear()
    with pytest.raises(PublishError, match=re.escape(words)):
        here.publish("", "q", tenant=value)
    assert fake.calls == []


# --- what is received


def envelope(**properties: Any) -> str:
    return json.dumps({"body": "[]", "headers": {}, "properties": {"delivery_tag": "1", **properties}})


@given(tenant=hostile, group=hostile)
def test_what_a_message_says_of_its_tenant_is_sound_or_left_out(tenant: Any, group: Any) -> None:
    try:
        text = envelope(tenant=tenant, MessageGroupId=group)
    except (TypeError, ValueError):
        return
    found = decode(text, "q").properties
    assert is_tenant(found.get("tenant", "sound"))
    for is_fifo in (False, True):
        asked = group_of(found, is_fifo=is_fifo)
        assert asked is None or GROUP.fullmatch(asked) or re.fullmatch(r"-?\d+", asked)


# --- where it comes from


def sent(fake: FakeClients) -> list[tuple[str | None, Any]]:
    """Group id, and the tenant in the envelope, of each message that was sent."""
    found = []
    for operation, params in fake.calls:
        if operation in ("send_message", "publish"):
            text = params.get("MessageBody") or params["Message"]
            found.append((params.get("MessageGroupId"), json.loads(text)["properties"].get("tenant")))
    return found


def test_a_tenant_is_the_group_id_of_standard_queues_and_topics(fake: FakeClients) -> None:
    here = Process(fake)
    here.declare("q")
    here.publish("orders", "placed")  # creates the topic
    fake.calls.clear()
    for exchange, key in (("", "q"), ("orders", "placed")):
        here.publish(exchange, key, tenant="acme corp")
        here.publish(exchange, key)
        here.publish(exchange, key, tenant="acme", MessageGroupId="by-hand")
        here.publish(exchange, key, MessageGroupId=7)
        here.publish(exchange, key, tenant=None)
        here.publish(exchange, key, tenant=NO_TENANT)
    one = [("hake:acme%20corp", "acme corp"), (None, None), ("by-hand", "acme"), ("7", None), (None, None)]
    assert sent(fake) == [*one, (None, None)] * 2


@pytest.mark.parametrize("name", ["work.fifo", "events.fifo"])
def test_the_order_of_a_fifo_queue_is_not_the_tenants(fake: FakeClients, name: str) -> None:
    here = Process(fake)
    here.declare("work.fifo")
    exchange, key = ("", name) if name == "work.fifo" else (name, "k")
    here.publish(exchange, key)  # creates the topic
    fake.calls.clear()
    here.publish(exchange, key, tenant="acme")
    here.publish(exchange, key, tenant="acme", MessageGroupId="order-7")
    assert sent(fake) == [("default", "acme"), ("order-7", "acme")]


def test_kombus_sqs_transport_reads_a_message_of_a_tenant(fake: FakeClients) -> None:
    here = Process(fake)
    here.declare("q")
    here.publish("", "q", headers={**TASK, "retries": 0}, tenant="Acme Corp")
    [(_, params)] = [call for call in fake.calls if call[0] == "send_message"]
    message = SqsSide().read(params["MessageBody"])
    assert message.body == b"hello"
    assert message.headers == {**TASK, "retries": 0}


def named(tenants: Tenants, headers: Any = None, body: str = "", **properties: Any) -> Any:
    message = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers or {},
        "properties": properties,
    }
    return tenants.named(message, "", "q")["properties"].get("tenant")


def running(**properties: Any) -> Any:
    return lambda: properties


def test_what_a_task_publishes_has_its_tenant() -> None:
    tenants = Tenants(None, running(tenant="acme"))
    assert named(tenants, TASK) == "acme"
    assert named(tenants, delivery_mode=2) == "acme"  # a message that is no task
    assert named(tenants, TASK, tenant="beta") == "beta"
    assert named(tenants, TASK, tenant=None) is None
    assert named(tenants, TASK, MessageGroupId="g") is None  # it is the tenant


def test_replies_events_and_commands_have_no_tenant() -> None:
    assert named(Tenants("customer", running(tenant="acme")), {"customer": "acme"}, delivery_mode=1) is None


@pytest.mark.parametrize("properties", [{}, {"tenant": 7}, {"tenant": "a\nb"}, {"tenant": {"a": 1}}])
def test_a_task_without_a_sound_tenant_passes_none_on(properties: dict[str, Any]) -> None:
    assert named(Tenants(None, lambda: properties), TASK) is None


def test_a_key_of_an_order_leaves_the_tenant_as_it_is() -> None:
    tenants = Tenants(None, running(tenant="acme"))
    message = {"body": "", "headers": TASK, "properties": {"MessageGroupId": "order-7"}}
    for exchange, key in (("", "q.fifo"), ("hake.queue", "q.fifo"), ("events.fifo", "k")):
        assert tenants.named(message, exchange, key)["properties"]["tenant"] == "acme"


# --- the option tenant_from


def test_a_header_names_the_tenant() -> None:
    tenants = Tenants("customer", lambda: None)
    assert named(tenants, {**TASK, "customer": 7}) == "7"
    assert named(tenants, TASK) is None
    assert named(tenants, {**TASK, "customer": "acme"}, tenant="beta") == "beta"
    assert named(tenants, {**TASK, "customer": "acme"}, tenant=None) == "acme"
    assert named(tenants, {**TASK, "customer": "acme"}, tenant=NO_TENANT) is None
    with pytest.raises(PublishError, match=r"the header 'customer' \(option tenant_from\) must be .* not list"):
        named(tenants, {**TASK, "customer": ["acme"]})


def test_a_header_that_a_retry_has_from_a_hostile_message_is_ignored() -> None:
    tenants = Tenants("customer", running(tenant="acme"))
    assert named(tenants, {**TASK, "customer": {"a": 1}}) == "acme"
    assert named(tenants, {**TASK, "customer": "beta"}) == "beta"


@pytest.fixture
def shop() -> Iterator[types.ModuleType]:
    module = types.ModuleType("shop_for_tenants")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


BODY = json.dumps([[7], {"customer": "acme"}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])


def test_a_function_names_the_tenant(shop: types.ModuleType) -> None:
    seen = []

    def tenant_of(headers: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        seen.append((headers["task"], args, kwargs))
        return kwargs.get("customer")

    shop.tenant_of = tenant_of  # type: ignore[attr-defined]
    tenants = Tenants("shop_for_tenants:tenant_of", running(tenant="inherited"))
    assert named(tenants, TASK, BODY) == "acme"
    assert named(tenants, TASK, BODY, tenant="beta") == "beta"
    assert named(tenants, TASK, "[[], {}, {}]") == "inherited"
    assert seen == [("shop.mail", [7], {"customer": "acme"}), ("shop.mail", [], {})]


def test_a_message_that_is_no_task_has_no_arguments(shop: types.ModuleType) -> None:
    shop.tenant_of = lambda headers, args, kwargs: headers["x"] + str((args, kwargs))  # type: ignore[attr-defined]
    assert named(Tenants("shop_for_tenants:tenant_of", lambda: None), {"x": "acme"}, delivery_mode=2) == "acme((), {})"


def _fails(*_args: Any) -> Any:
    raise KeyError("customer")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_fails, "the function shop_for_tenants:tenant_of failed, so the message was not sent: KeyError("),
        (lambda *_args: ["acme"], "tenant_of returns (option tenant_from) must be a text, a UUID or an int"),
        (lambda: "acme", "TypeError"),
        (None, "AttributeError"),
    ],
)  # fmt: skip
def test_a_function_that_fails_fails_the_publish(shop: types.ModuleType, function: Any, words: str) -> None:
    if function is not None:
        shop.tenant_of = function  # type: ignore[attr-defined]
    with pytest.raises(PublishError, match=re.escape(words)):
        named(Tenants("shop_for_tenants:tenant_of", lambda: None), TASK, BODY)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module:f", "cannot import no_such_module:f: ModuleNotFoundError"),
        ("os:nothing", "cannot import os:nothing: AttributeError"),
        ("os:sep", "os:sep is not a function"),
    ],
)
def test_a_function_that_is_missing_is_found_when_the_connection_opens(path: str, words: str) -> None:
    expected = pytest.raises(ConfigurationError, match=f"Option tenant_from: {words}")
    with connected(FakeClients(), tenant_from=path) as connection, expected:
        connection.connect()


@pytest.mark.parametrize("value", [":f", "shop:", "shop.tenants:f()", "a:b:c", "1shop:f", "", 7])
def test_an_import_path_is_checked_with_the_other_options(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="tenant_from"):
        load(split_url("hake://"), {"region": "eu-west-1", "tenant_from": value}, {})


# --- the task that watches a chord


def unlock(options: Any) -> str:
    body = {"task": "shop.total", "args": [], "options": options}
    return json.dumps([["group-id", body], {"result": []}, {}])


def test_the_task_that_watches_a_chord_has_the_tenant_of_the_chord() -> None:
    headers = {"task": "celery.chord_unlock", "id": "1"}
    outside, inside = Tenants(None, lambda: None), Tenants(None, running(tenant="acme"))
    assert named(outside, headers, unlock({"tenant": "beta"})) == "beta"
    assert named(inside, headers, unlock({"tenant": "beta"})) == "beta"
    assert named(inside, headers, unlock({})) == "acme"
    assert named(inside, headers, unlock({"tenant": None})) is None
    for body in ("[]", "[[1], {}, {}]", "[[1, 2], {}, {}]", "no json", '[["id", {"options": 7}], {}, {}]'):
        assert named(inside, headers, body) == "acme"


# --- no cost where unused


def test_a_publish_without_a_tenant_costs_a_few_calls_of_python(fake: FakeClients) -> None:
    tenants = Tenants(None, lambda: None)
    message = {"body": "", "headers": TASK, "properties": {"delivery_mode": 2}}
    calls = []
    sys.setprofile(lambda frame, event, _arg: calls.append(event) if event == "call" else None)
    try:
        found = tenants.named(message, "", "q")
    finally:
        sys.setprofile(None)
    assert found is message
    assert len(calls) <= 4, calls
