"""Compression above a threshold: what is compressed, what is left alone, and that any kombu consumer reads it."""

import base64
import json
import random
import zlib
from typing import Any

import pytest
from fakes import FakeClients, connected
from hypothesis import given
from hypothesis import strategies as st
from kombu import Queue
from kombu.message import Message
from kombu.serialization import dumps
from kombu.transport.virtual import Channel as VirtualChannel

from kombu_hake.amqp.contents import compressed, inflated
from kombu_hake.amqp.envelope import encode
from kombu_hake.amqp.limits import MAX_INFLATED_BYTES, MAX_INFLATED_VALUES, SQS_MAX_MESSAGE_BYTES
from kombu_hake.exceptions import MalformedMessage
from kombu_hake.publish.dispatch import with_compression

TEXT = "the quick brown fox; " * 5_000
NOISE = random.Random(1).randbytes(100_000)
JSON = "application/json"


def message(body: Any, headers: dict[str, Any] | None = None, content_type: str = "text/plain") -> dict[str, Any]:
    return {
        "body": body,
        "content-type": content_type,
        "content-encoding": "utf-8",
        "headers": headers if headers is not None else {},
        "properties": {},
    }


@given(st.binary() | st.text() | st.integers(1, 3_000).map(lambda n: "ab" * n))
def test_what_is_compressed_is_smaller_and_is_what_it_was(body: bytes | str) -> None:
    plain = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    found = compressed(body, "text/plain", "gzip")
    if found is not None:
        assert inflated(*found) == plain
        assert len(base64.b64encode(found[0])) < len(plain)


@pytest.mark.parametrize("codec", ["gzip", "zlib", "bzip2", "lzma", "application/x-gzip"])
def test_any_codec_of_kombu_will_do(codec: str) -> None:
    found = compressed(TEXT, "text/plain", codec)
    assert found is not None
    assert inflated(*found) == TEXT.encode()


@pytest.mark.parametrize(
    "body",
    [
        NOISE,
        b"x" * (MAX_INFLATED_BYTES + 1),
        "[" + "0," * (MAX_INFLATED_VALUES + 1) + "0]",
        b"",
        None,
    ],
    ids=["does not shrink", "too large to unpack", "too many values to read", "empty", "none"],
)
def test_what_is_better_left_alone_is(body: Any) -> None:
    assert with_compression(given := message(body, content_type=JSON), 1_024, "gzip") is given


def test_only_bodies_above_the_threshold_are_compressed() -> None:
    above, at = message("x" * 2_001), message("x" * 2_000)
    assert with_compression(at, 2_000, "gzip") is at
    assert with_compression(above, 2_000, "gzip")["headers"] == {"compression": "application/x-gzip"}


def test_one_that_the_app_compressed_is_left_alone() -> None:
    body = zlib.compress(TEXT.encode())
    given = message(body, {"compression": "application/x-gzip"})
    assert with_compression(given, 10, "bzip2") is given


def test_what_the_caller_published_is_not_changed() -> None:
    given = message(TEXT, {"lang": "py"})
    found = with_compression(given, 10, "gzip")
    assert given == message(TEXT, {"lang": "py"})
    assert found["headers"] == {"lang": "py", "compression": "application/x-gzip"}
    assert (found["content-type"], found["content-encoding"]) == ("text/plain", "utf-8")


@pytest.mark.parametrize("value", [{"a": TEXT, "ü": [1, None]}, TEXT])
def test_a_consumer_of_any_kombu_transport_reads_it(value: Any) -> None:
    """As ``sqs://`` reads a message: base64 by ``body_encoding``, then kombu's own decompression."""
    content_type, encoding, body = dumps(value, "json")
    sent = with_compression({**message(body, content_type=content_type), "content-encoding": encoding}, 10, "gzip")
    payload = json.loads(encode(sent, "", "q", "1").text)
    channel = VirtualChannel.__new__(VirtualChannel)
    body = channel.decode_body(payload["body"], payload["properties"]["body_encoding"])
    received = Message(
        body,
        content_type=payload["content-type"],
        content_encoding=payload["content-encoding"],
        headers=payload["headers"],
        accept=[JSON],
    )
    assert received.decode() == value


# --- through the broker


def published(fake: FakeClients, body: Any, *, compression: str | None = None, **options: Any) -> tuple[str, Any]:
    """What is in the queue, and what a consumer reads."""
    with connected(fake, **options) as connection:
        Queue("q", channel=connection.default_channel).declare()
        connection.Producer().publish(body, routing_key="q", compression=compression)
        [text] = fake.queues.queue("q").bodies()
        received = Queue("q", channel=connection.default_channel).get()
        assert received is not None
        return text, received.payload


def test_off_by_default(fake: FakeClients) -> None:
    text, payload = published(fake, TEXT)
    assert payload == TEXT
    assert "compression" not in json.loads(text)["headers"]


def test_on_by_one_option(fake: FakeClients) -> None:
    text, payload = published(fake, TEXT, compress_above=65_536)
    assert payload == TEXT
    assert len(text) < 2_000
    sent = json.loads(text)
    assert sent["headers"] == {"compression": "application/x-gzip"}
    assert zlib.decompress(base64.b64decode(sent["body"])).decode() == TEXT


def test_another_codec(fake: FakeClients) -> None:
    text, payload = published(fake, TEXT, compress_above=65_536, compression="lzma")
    assert payload == TEXT
    assert json.loads(text)["headers"] == {"compression": "application/x-lzma"}


def test_the_apps_own_compression_comes_first(fake: FakeClients) -> None:
    text, payload = published(fake, TEXT, compression="bzip2", compress_above=1_024)
    assert payload == TEXT
    assert json.loads(text)["headers"] == {"compression": "application/x-bz2"}


def test_compression_comes_before_the_size_is_checked(fake: FakeClients) -> None:
    text, payload = published(fake, "x" * (2 * SQS_MAX_MESSAGE_BYTES), compress_above=65_536)
    assert payload == "x" * (2 * SQS_MAX_MESSAGE_BYTES)
    assert len(text) < 10_000


def test_a_bomb_is_not_unpacked(fake: FakeClients) -> None:
    """What others compressed is unpacked up to a limit, with this option or without."""
    url = fake.queues.create_queue("q")["QueueUrl"]
    bomb = message(zlib.compress(b"\0" * (MAX_INFLATED_BYTES + 1)), {"compression": "application/x-gzip"})
    fake.sqs("send_message", QueueUrl=url, MessageBody=encode(bomb, "", "q", "1").text)
    with connected(fake, compress_above=1_024) as connection:
        queue = Queue("q", channel=connection.default_channel)
        with pytest.raises(MalformedMessage, match="decompresses to more than"):
            queue.get()
