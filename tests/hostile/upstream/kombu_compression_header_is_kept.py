"""A message that kombu has decompressed can't be sent again: its header still says that it is compressed.

Versions tried
    kombu 5.7.0, Python 3.11.
What happens
    `kombu.message.Message.__init__` decompresses the body and leaves the header `compression` in place. Whoever
    publishes the body and headers of a received message again (a dead-letter queue, a shovel, a requeue on another
    exchange) sends a plain body that is labelled as compressed. The next consumer gets `message.errors`, and
    Celery acknowledges it: the message is lost.
Expected
    Body and headers of a `Message` fit each other.
Suggested change
    Remove the header when the body was decompressed (and keep its value as `message.compression`, if it is of
    use).

Run it with a limit, such as ``timeout 60``: exit code 1 and "REPRODUCED" while the fault is there.
"""

from kombu.compression import compress
from kombu.message import Message


def received(body: bytes | str, headers: dict[str, str]) -> Message:
    return Message(body=body, headers=headers, content_type="application/json", content_encoding="utf-8")


if __name__ == "__main__":
    body, codec = compress("[[], {}, {}]", "gzip")
    first = received(body, {"compression": codec})
    assert first.payload == [[], {}, {}]
    again = received(first.body, dict(first.headers))
    if again.errors:
        raise SystemExit(f"REPRODUCED: the message can't be read when it is sent again: {again.errors[0][1]!r}")
