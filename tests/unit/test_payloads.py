"""Pointers to payloads in S3: their format, which keys are ours, and what a message changes in its payload."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kombu_hake.amqp import decode, encode
from kombu_hake.amqp.payloads import (
    Pointer,
    Store,
    changes_in,
    combined,
    difference,
    has_pointer,
    parse_store,
    pointer_attributes,
    pointer_in,
)
from kombu_hake.exceptions import MalformedMessage

STORE = Store("shop-payloads", "prod/mails")
OURS = "0123456789abcdef0123456789abcdef"


def received(body: str, **attributes: str) -> dict[str, Any]:
    found = {name: {"DataType": "Number", "StringValue": value} for name, value in attributes.items()}
    return {"Body": body, "MessageAttributes": found}


def pointing_to(key: str, bucket: str = STORE.bucket, size: int = 5) -> dict[str, Any]:
    pointer = Pointer(bucket, key, size)
    return {"Body": pointer.text, "MessageAttributes": pointer_attributes(pointer, {})}


# --- the URL


@pytest.mark.parametrize(
    ("url", "store"),
    [
        ("s3://shop-payloads", Store("shop-payloads")),
        ("s3://shop-payloads/", Store("shop-payloads")),
        ("s3://shop-payloads/prod", Store("shop-payloads", "prod")),
        ("s3://shop-payloads/prod/mails/", STORE),
        ("s3://a.b-c.1/!_.-x*'()/y", Store("a.b-c.1", "!_.-x*'()/y")),
    ],
)
def test_a_url_names_a_bucket_and_a_prefix(url: str, store: Store) -> None:
    assert parse_store(url) == store
    assert parse_store(str(store)) == store


@pytest.mark.parametrize(
    "url",
    [
        *("", "shop-payloads/prod", "S3://shop-payloads", "https://shop-payloads/prod", None, 7, b"s3://shop-payloads"),
        *("s3://", "s3:///prod", "s3://ab", "s3://Shop", "s3://shop_payloads", "s3://-shop", "s3://shop-", "s3://a..b"),
        *("s3://192.168.0.1", f"s3://{'a' * 64}", "s3://shop--x-s3", "s3://xn--shop", "s3://sh\u00f6p", "s3://shop\n"),
        *("s3://shop//prod", "s3://shop/prod//mails", "s3://shop/../mails", "s3://shop/prod/.", "s3://shop/a b"),
        *("s3://shop/a%2fb", "s3://shop/\u00e4", "s3://shop/a?x=1", f"s3://shop/{'a' * 513}", "s3://shop/prod\n"),
    ],
)
def test_a_url_that_is_none_is_refused(url: object) -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/prefix"):
        parse_store(url)


# --- keys


@pytest.mark.parametrize("prefix", ["", "prod", "prod/mails"])
def test_new_keys_are_below_the_prefix_and_only_those_of_one_queue_may_be_deleted(prefix: str) -> None:
    store = Store("shop", prefix)
    of_queue, of_topic = (Pointer("shop", store.new_key(is_for_queue=is_q), 1) for is_q in (True, False))
    assert store.holds(of_queue)
    assert store.owns(of_queue)
    assert store.holds(of_topic)
    assert not store.owns(of_topic)
    assert of_queue.key.startswith(f"{prefix}/q/" if prefix else "q/")
    assert store.new_key(is_for_queue=True) != of_queue.key


@pytest.mark.parametrize(
    "key",
    [
        f"prod/mails/t/{OURS}",
        f"prod/mails/q/{OURS[:-1]}",
        f"prod/mails/q/{OURS}0",
        f"prod/mails/q/{OURS.upper()}",
        f"prod/mails/q/{OURS}/",
        f"prod/mails/q/{OURS}\n",
        f"prod/mails/q/x/{OURS}",
        f"prod/mails/q/../q/{OURS}",
        f"prod/mails/q//{OURS}",
        f"prod/mails//q/{OURS}",
        f"prod/mails%2fq/{OURS}",
        f"prod/other/q/{OURS}",
        f"/prod/mails/q/{OURS}",
        "prod/mails/q/" + "\u0660" * 32,
        f"q/{OURS}",
        "prod/mails/q/",
        "",
    ],
)
def test_a_key_that_is_not_exactly_of_our_form_is_never_deleted(key: str) -> None:
    assert not STORE.owns(Pointer(STORE.bucket, key, 1))


@given(st.text(max_size=80))
def test_no_text_but_a_key_of_ours_may_be_deleted(key: str) -> None:
    assert not STORE.owns(Pointer(STORE.bucket, key, 1))
    assert not STORE.owns(Pointer(STORE.bucket, f"prod/mails/q/{key}", 1))


def test_a_key_of_another_bucket_is_foreign() -> None:
    theirs = Pointer("shop-payloads-2", f"prod/mails/q/{OURS}", 1)
    assert not STORE.owns(theirs)
    assert not STORE.holds(theirs)


@pytest.mark.parametrize(
    "key",
    [
        "prod/mails/../secrets",
        "prod/mails/./q/x",
        "prod/mails//x",
        "prod/mails/",
        "prod/mails",
        "prod/mailsx/q",
        "prod/mails/%2e%2e/x",
        "prod/mails/\u00e4",
        "prod/mails/a\\b",
        "prod/mails/a b",
        "prod/mails/a?versionId=1",
        "prod/mails/a\n",
        "prod/mails/" + "a" * 1_024,
    ],
)
def test_a_key_outside_of_the_prefix_or_with_odd_characters_is_not_read(key: str) -> None:
    assert not STORE.holds(Pointer(STORE.bucket, key, 1))


def test_keys_of_other_clients_below_the_prefix_are_read_and_not_deleted() -> None:
    theirs = Pointer(STORE.bucket, "prod/mails/4e5c9b8a-7a4b-4c39-9d0f-2f3a1f0d2c11", 1)
    assert STORE.holds(theirs)
    assert not STORE.owns(theirs)
    assert Store(STORE.bucket).holds(Pointer(STORE.bucket, "4e5c9b8a-7a4b-4c39-9d0f-2f3a1f0d2c11", 1))


# --- pointers


def test_a_pointer_has_the_form_of_the_extended_clients() -> None:
    pointer = Pointer("shop", "q/x", 17)
    assert json.loads(pointer.text) == [
        "software.amazon.payloadoffloading.PayloadS3Pointer",
        {"s3BucketName": "shop", "s3Key": "q/x"},
    ]
    assert pointer_attributes(pointer, {}) == {"ExtendedPayloadSize": {"DataType": "Number", "StringValue": "17"}}
    assert pointer_in(received(pointer.text, ExtendedPayloadSize="17")) == pointer


def test_the_pointers_of_old_clients_are_read() -> None:
    body = '["com.amazon.sqs.javamessaging.MessageS3Pointer",{"s3BucketName":"shop","s3Key":"x"}]'
    assert pointer_in(received(body, SQSLargePayloadSize="17")) == Pointer("shop", "x", 17)


@pytest.mark.parametrize("raw", [{"Body": "x"}, {"Body": "x", "MessageAttributes": {}}, received("x", rk="1")])
def test_any_other_message_is_its_own_payload(raw: dict[str, Any]) -> None:
    assert not has_pointer(raw)
    assert pointer_in(raw) is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "[]",
        '["a","b"]',
        '["software.amazon.payloadoffloading.PayloadS3Pointer"]',
        '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"shop"}]',
        '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"shop","s3Key":7}]',
        '["java.lang.Runtime",{"s3BucketName":"shop","s3Key":"x"}]',
        '[["software.amazon.payloadoffloading.PayloadS3Pointer"],{"s3BucketName":"shop","s3Key":"x"}]',
        "[" * 10_000,
        '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"shop","s3Key":"' + "x" * 20_000 + '"}]',
    ],
)
def test_a_body_that_is_no_pointer_is_malformed(body: str) -> None:
    with pytest.raises(MalformedMessage):
        pointer_in(received(body, ExtendedPayloadSize="17"))


@pytest.mark.parametrize("size", ["-1", "x", "", "1e400", str(2**40), "NaN", "\u0661" * 5000])
def test_a_size_that_is_none_or_too_large_is_malformed(size: str) -> None:
    with pytest.raises(MalformedMessage):
        pointer_in(received(Pointer("shop", "x", 1).text, ExtendedPayloadSize=size))


# --- changes


def envelope(**headers: Any) -> str:
    message = {"body": "x", "content-type": "text/plain", "headers": headers, "properties": {"expiration": "5"}}
    return encode(message, "orders", "placed", "tag").text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"headers":[]}',
        '{"properties":7}',
        '{"without":"task"}',
        '{"without":[7]}',
        '{"headers":' + '{"a":' * 200 + "1" + "}" * 201,
        '{"headers":{"a":"' + "x" * 1_100_000 + '"}}',
    ],
)
def test_changes_that_are_none_are_malformed(text: str) -> None:
    with pytest.raises(MalformedMessage):
        changes_in(received("x", **{"hake-changes": text}))


def test_changes_replace_add_and_remove() -> None:
    changes = {
        "headers": {"retries": 0, "eta": None, "new": [1]},
        "without": ["gone"],
        "properties": {"expiration": None, "first_sent_ms": 7},
    }
    found = decode(envelope(task="t", retries=3, eta="soon", gone=1), "email", changes)
    assert found.headers == {"task": "t", "retries": 0, "eta": None, "new": [1]}
    assert "expiration" not in found.properties
    assert found.properties["first_sent_ms"] == 7
    assert found.properties["delivery_info"] == {"exchange": "orders", "routing_key": "placed"}


def test_a_foreign_payload_is_not_changed() -> None:
    found = decode("hello", "email", {"headers": {"task": "t"}})
    assert (found.body, found.headers, found.is_kombu) == ("hello", {}, False)


def test_changes_survive_the_attribute() -> None:
    changes = {"headers": {"text": "\u00e4\n", "none": None}, "without": ["a"]}
    attributes = pointer_attributes(Pointer("shop", "x", 1), changes)
    assert all(item["StringValue"].isascii() for item in attributes.values())
    assert changes_in({"Body": "", "MessageAttributes": attributes}) == changes


HEADERS = st.dictionaries(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 2)))


@given(HEADERS, HEADERS, HEADERS)
def test_changes_of_changes_lead_to_the_last_state(first: Any, second: Any, third: Any) -> None:
    changes = combined(difference(first, second), difference(second, third))
    assert decode(envelope(**first), "email", changes).headers == third


def test_a_text_that_would_become_too_many_values_is_not_parsed() -> None:
    """2 million empty lists: 130 MiB. The same, as a string in a message, is one value."""
    dense = "[" + "[]," * 2_000_000 + "0]"
    found = decode(dense, "email")
    assert (found.is_kombu, found.content_type, found.body) == (False, "text/plain", dense)
    hidden = base64.b64encode(dense.encode()).decode()
    assert decode(hidden, "email").content_type == "text/plain"
    message = {"body": dense, "content-type": "text/plain", "headers": {}, "properties": {}}
    assert decode(encode(message, "", "email", "tag").text, "email").body == dense.encode()
