"""A small compressed message takes as much memory as its sender likes.

Versions tried
    kombu 5.7.0, Python 3.11.
What happens
    `kombu.message.Message.__init__` decompresses whatever header `compression` names (zlib, bz2, lzma, …) before
    the body is looked at, without a limit. About 100 bytes of bz2 become 100 MB here; nested repetition gives
    more.
Expected
    A limit, by default or by configuration; a message over it counts as one that can't be decoded
    (`message.errors`).
Suggested change
    Decompress with the incremental decompressors (`zlib.decompressobj().decompress(data, max_length)` and its
    likes in `bz2` and `lzma`), and raise when there is more than, say, a `max_decompressed_size` of the consumer.

Run it with a limit, such as ``timeout 60``: exit code 1 and "REPRODUCED" while the fault is there.
"""

import bz2

from kombu.message import Message

SIZE_BYTES = 100_000_000

if __name__ == "__main__":
    bomb = bz2.compress(bytes(SIZE_BYTES))
    headers = {"compression": "application/x-bz2"}
    message = Message(body=bomb, headers=headers, content_type="application/json", content_encoding="utf-8")
    if len(message.body) == SIZE_BYTES:
        raise SystemExit(f"REPRODUCED: {len(bomb)} bytes became {len(message.body)}")
