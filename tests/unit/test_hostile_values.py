"""Any JSON where a number, a type marker or a name is expected: no error, and no long computation."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kombu_hake.amqp.admission import expires_at_ms, is_bound, verdict
from kombu_hake.amqp.bindings import Binding, BindingSet
from kombu_hake.amqp.deferral import due_ms, plan
from kombu_hake.amqp.envelope import decode, encode, with_first_sent
from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.amqp.priorities import level_names, level_of, priority_attribute
from kombu_hake.groups.registry import Subscription
from kombu_hake.publish.dispatch import send_parameters
from kombu_hake.receive.delivery import Delivery, Lease
from kombu_hake.receive.messages import receive_count, sent_ms, to_message

#: ``int()`` of this holds the interpreter for good; of the smaller one below for half a minute.
ENDLESS = {"__type__": "decimal", "__value__": "1E+900000000"}
TASK = {"task": "t", "id": "1"}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=30),
    st.from_regex(r"[+-]?[0-9_]{1,40}([eE.][0-9]{1,9})?", fullmatch=True),
)
markers = st.fixed_dictionaries(
    {
        "__type__": st.sampled_from(["decimal", "datetime", "date", "time", "uuid", "bytes", "base64", "other"])
        | scalars,
        "__value__": st.sampled_from(["1E+900000000", "NaN", "sNaN", "Infinity", "1E-900000000", "2026-01-01", ""])
        | st.fixed_dictionaries({"hex": scalars}, optional={"is_safe": scalars, "version": scalars})
        | scalars,
    }
)
values = st.recursive(
    scalars | markers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def envelope_text(headers: Any = None, **properties: Any) -> str:
    return json.dumps({"body": "[]", "headers": headers or {}, "properties": {"delivery_tag": "t", **properties}})


def handed_over(text: str, queue: str = "q", **attributes: str) -> Any:
    raw = {"MessageId": "m", "Body": text, "Attributes": attributes}
    delivery = Delivery(1, queue, queue, raw, Lease(QueueUrl("u"), "handle", 0.0, 30.0))
    return to_message(decode(text, queue), delivery, None, 5, "consumer", is_bound=False, sent_ms=sent_ms(raw))


def judged(text: str, ttl: Any = None) -> Any:
    arguments = {} if ttl is None else {"x-message-ttl": ttl}
    return verdict(decode(text, "q"), None, queue="q", arguments=arguments, sent_ms=1_000, now_ms=2_000)


def in_a_process(statement: str) -> None:
    """Run in an interpreter of its own: one that is held in C code can be stopped by a kill only."""
    subprocess.run([sys.executable, "-c", statement], check=True, timeout=30, capture_output=True, text=True)


@pytest.mark.parametrize(
    "statement",
    [
        "from kombu_hake.amqp.admission import expires_at_ms; expires_at_ms(decode(text('expiration'), 'q'), 1, None)",
        "from kombu_hake.amqp.admission import expires_at_ms; expires_at_ms(decode(text('first_sent_ms'), 'q'), 1, 1)",
        "from kombu_hake.amqp.priorities import level_of;"
        "level_of(decode(text('priority'), 'q').properties['priority'], 'q', {'x-max-priority': 3})",
        "from kombu_hake.publish.dispatch import send_parameters;"
        "send_parameters(decode(text('DelaySeconds'), 'q')._asdict(), 'q', to_queue=True)",
        "from kombu_hake.amqp.priorities import priority_attribute;"
        "priority_attribute(decode(text('priority'), 'q').properties['priority'])",
    ],
)
def test_a_number_without_end_does_not_hold_the_interpreter(statement: str) -> None:
    given_text = (
        "import json\nfrom kombu_hake.amqp.envelope import decode\n"
        f"text = lambda name: json.dumps({{'body': '', 'properties': {{'delivery_tag': 't', name: {ENDLESS!r}}}}})\n"
    )
    in_a_process(given_text + statement)


def test_a_number_without_end_in_a_header_stays_as_it_is_written() -> None:
    headers = decode(envelope_text({"h": ENDLESS, "list": [ENDLESS]}), "q").headers
    assert headers == {"h": ENDLESS, "list": [ENDLESS]}


@given(values, values)
@example(ENDLESS, ENDLESS)
@example(float("inf"), float("nan"))
@example("9" * 5_000, 10**4_000)
def test_any_time_to_live_is_judged(expiration: Any, first_sent: Any) -> None:
    judged(envelope_text(expiration=expiration, first_sent_ms=first_sent))
    judged(envelope_text(first_sent_ms=first_sent), ttl=expiration)


@pytest.mark.parametrize("first_sent", [3_000, "3000", 10**14])
def test_a_message_can_not_put_off_its_end_by_the_time_of_its_first_sending(first_sent: Any) -> None:
    found = decode(envelope_text(expiration="500", first_sent_ms=first_sent), "q")
    assert expires_at_ms(found, 1_000, None) == 1_500


def test_a_key_that_takes_long_to_match_is_not_judged() -> None:
    bound = BindingSet(frozenset({Binding("x", "topic", "#.a.a.a.b", ())}))
    for words, expected in ((100, False), (500_000, True)):
        info = {"exchange": "x", "routing_key": "a." * words}
        assert is_bound(decode(envelope_text(delivery_info=info), "q"), "q", bound) is expected


def test_no_handler_is_looked_for_by_a_key_that_takes_long_to_match() -> None:
    subscription = Subscription("x", "#", "g", str)
    assert subscription.wants("x", "a." * 100)
    assert not subscription.wants("x", "a." * 500_000)


@given(values, values)
@example(float("inf"), 3)
@example(float("nan"), float("inf"))
@example(3, float("inf"))
@example("9" * 5_000, "9" * 5_000)
def test_any_priority_has_a_level(priority: Any, highest: Any) -> None:
    arguments = {"x-max-priority": highest}
    assert 0 <= level_of(priority, "q", arguments) < len(level_names("q", arguments))
    attribute = priority_attribute(priority)
    assert attribute is None or attribute.isdigit()


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(
    ["DelaySeconds", "delay_seconds", "MessageGroupId", "MessageDeduplicationId"], values)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(["task", "id", "eta", "retries"], values)),
    st.sampled_from(["q", "q.fifo"]), st.booleans())  # fmt: skip
@example({"DelaySeconds": "soon"}, {}, "q", True)
@example({"DelaySeconds": float("inf")}, {}, "q", True)
def test_any_property_can_be_sent_again(properties: Any, headers: Any, name: str, to_queue: bool) -> None:
    found = send_parameters({"headers": headers, "properties": properties}, name, to_queue=to_queue)
    assert 0 <= found.get("DelaySeconds", 1) <= 900  # an explicit 0 is kept
    assert all(isinstance(value, str) for key, value in found.items() if key != "DelaySeconds")


@given(values | st.datetimes().map(str) | st.datetimes().map(lambda at: f"{at.isoformat()}+14:00"))
@example("0001-01-01T00:00:00+14:00")
@example("9999-12-31T23:59:59-14:00")
@example("2026-01-01T00:00:00\ud800")
def test_any_eta_is_planned(eta: Any) -> None:
    due = due_ms({**TASK, "eta": eta})
    for receives in (1, 1_000):
        plan(due, 1_700_000_000_000, sent=1, receives=receives, max_receives=3, hidden=0)


@given(st.text(max_size=40) | st.none(), st.text(max_size=40) | st.none())
@example("", "1e9")
@example("²", "9" * 5_000)
def test_any_count_and_time_of_an_answer_is_read(count: Any, stamp: Any) -> None:
    raw = {"Attributes": {"ApproximateReceiveCount": count, "SentTimestamp": stamp}}
    assert receive_count(raw) >= 1
    assert sent_ms(raw) is None or isinstance(sent_ms(raw), int)


@given(
    st.dictionaries(st.text(max_size=8), values, max_size=4), st.dictionaries(st.text(max_size=8), values, max_size=4)
)
@example({"a": {"__type__": "uuid", "__value__": {"hex": "0" * 32, "is_safe": "x"}}}, {})
@example({"a": {"__type__": "decimal", "__value__": "sNaN"}}, {})
def test_any_envelope_is_read_and_written_again_as_it_was(headers: Any, properties: Any) -> None:
    text = envelope_text(headers, **properties)
    found = decode(text, "q")
    again = encode({**found._asdict(), "content-type": None, "content-encoding": None}, "x", "k", "t").text
    assert json.dumps(json.loads(with_first_sent(text, 5))["headers"]) == json.dumps(headers)
    assert repr(decode(again, "q").headers) == repr(found.headers)
    handed_over(text)


def test_a_copy_keeps_the_types_of_headers_as_they_were_written() -> None:
    headers = {
        "sum": {"__type__": "decimal", "__value__": "1.10"},
        "big": ENDLESS,
        "odd": {"__type__": "x", "__value__": 1},
    }
    assert json.loads(with_first_sent(envelope_text(headers), 5))["headers"] == headers


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [101, 480, 900, 100_000])
@pytest.mark.parametrize("place", ["headers", "body", "properties"])
def test_an_envelope_that_is_nested_too_deeply_is_handed_over_as_text(opening: str, depth: int, place: str) -> None:
    deep = opening * depth + "1" + ("]" if opening == "[" else "}") * depth
    parts = {"headers": '{"h": 1}', "body": '"x"', "properties": '{"delivery_tag": "t"}'}
    parts[place] = f'{{"delivery_tag": "t", "deep": {deep}}}'
    text = "{" + ", ".join(f'"{name}": {part}' for name, part in parts.items()) + "}"
    found = decode(text, "q")
    assert (found.is_kombu, found.body) == (False, text)
    assert with_first_sent(text, 5) == text


def test_what_only_a_receiver_can_know_is_not_taken_from_the_message() -> None:
    message = handed_over(envelope_text(attributes={"rk": "x"}, receive_count=9, sent_timestamp_ms=ENDLESS))
    assert "attributes" not in message.properties
    assert "sent_timestamp_ms" not in message.properties
    assert message.properties["receive_count"] == 1


@pytest.mark.parametrize("name", ["correlation_id", "message_id", "reply_to"])
@pytest.mark.parametrize("value", [5, ["billing"], {"a": 1}, None, True])
def test_a_property_that_must_be_text_is_dropped_as_anything_else(name: str, value: Any) -> None:
    assert name not in decode(envelope_text(**{name: value}), "q").properties
    assert decode(envelope_text(**{name: "text"}), "q").properties[name] == "text"


@pytest.mark.parametrize("origin", [5, "orders", [], {}, {"exchange": "x"}, {"exchange": 5, "routing_key": "k"}, None])
def test_an_origin_that_is_none_is_dropped(origin: Any) -> None:
    assert "hake-origin" not in decode(envelope_text({**TASK, "hake-origin": origin}), "q").headers
