"""Message bodies: packing, unpacking and decoding. The only module that decompresses or deserializes what a message
carries.

Bodies are untrusted. A body is deserialized only from content types that the caller accepts, and decompressed only up
to :data:`kombu_hake.amqp.limits.MAX_INFLATED_BYTES`. Pure.
"""

from __future__ import annotations

import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Collection
from importlib import import_module
from itertools import accumulate
from typing import Any

from kombu import compression as kombu_compression
from kombu import serialization
from kombu.utils import json as kombu_json

from kombu_hake.amqp.limits import (
    MAX_INFLATED_BYTES,
    MAX_INFLATED_VALUES,
    MAX_INFLATING_MEMORY_BYTES,
    MAX_NESTING,
    MAX_PAYLOAD_BYTES,
    SQS_MAX_MESSAGE_BYTES,
)
from kombu_hake.exceptions import MalformedMessage

__all__ = [
    "COMPRESSION_HEADER",
    "compressed",
    "decoded",
    "encoded",
    "has_too_many_values",
    "inflated",
    "is_codec",
    "is_json",
    "is_nested_too_deep",
    "most_values",
]

#: kombu names the codec of a compressed body in this header.
COMPRESSION_HEADER = "compression"
_UNUSUAL = object()
_JSON_TYPES = frozenset({"application/json", "application/x-hake-json"})
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_VALUES = bytes(set(range(256)) - set(b",[{"))
#: Levels that may be skipped when nesting is measured.
_SHALLOW = 10
_CHUNK_BYTES = 65_536
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def decoded(
    body: bytes | str,
    content_type: str | None,
    content_encoding: str | None,
    *,
    accept: Collection[str] | None,
    compression: Any = None,
) -> Any:
    """Decode a body.

    Args:
        accept: Content types to deserialize, as ``kombu.serialization.prepare_accept_content`` returns them. None
            allows those that kombu enables by default: neither pickle nor YAML.
        compression: The codec of a body that is still compressed.
    Raises:
        ContentDisallowed: the content type is not accepted.
        DecodeError: the body is damaged.
        MalformedMessage: it cannot be decompressed, or is too large.
    """
    if compression:
        body = inflated(body, compression)
    if is_json(content_type) and has_too_many_values(body):
        raise MalformedMessage(f"its body is JSON that holds more than {most_values(len(body))} values")
    if body and content_type == "application/json" and accept is not None and content_type in accept:
        found = _usual_json(body)
        if found is not _UNUSUAL:
            return found
    return serialization.loads(body, content_type, content_encoding, accept=accept)


def _usual_json(body: bytes | str) -> Any:
    """What kombu reads in JSON that has no values of its own types; :data:`_UNUSUAL` for all else, errors included.

    Half as much work as kombu's, which makes a decoder for each body and calls a function for each object.
    """
    if serialization.registry._decoders.get("application/json") is not kombu_json.loads:
        return _UNUSUAL  # the app has registered its own
    try:
        text = body if isinstance(body, str) else body.decode()
        if "__type__" in text or "\\u" in text:  # the mark of such a value, perhaps escaped
            return _UNUSUAL
        return json.loads(text)
    except (AttributeError, ValueError, RecursionError):
        return _UNUSUAL


def encoded(value: Any, content_type: str | None, *, compression: Any = None) -> tuple[str, str, bytes | str]:
    """Serialize a value like a message of that content type, JSON where no serializer is registered for it.

    Returns:
        Content type, content encoding, body.
    """
    serializer = serialization.registry.type_to_name.get(content_type, "json")
    new_type, encoding, body = serialization.dumps(value, serializer)
    if compression:
        body, _ = kombu_compression.compress(body, compression)
    return new_type, encoding, body


def compressed(body: bytes | str, content_type: str | None, codec: str) -> tuple[bytes, str] | None:
    """Compress a body as kombu does.

    Args:
        codec: A content type or alias that kombu knows, such as ``gzip``.
    Returns:
        The compressed body, and its codec for the header ``compression``. None if the body is better left alone: it
        does not become smaller, or its receivers would refuse to unpack it.
    """
    data = _as_bytes(body)
    if len(data) > MAX_INFLATED_BYTES or (is_json(content_type) and has_too_many_values(data)):
        return None
    packed, header = kombu_compression.compress(data, codec)
    in_base64 = -(-len(packed) // 3) * 4  # as the envelope writes what is not text
    return (packed, header) if in_base64 < len(data) else None


def is_codec(name: str) -> bool:
    """Return True if kombu can compress with this codec here; some need a further package."""
    try:
        kombu_compression.get_encoder(name)
    except KeyError:
        return False
    return True


def inflated(body: bytes | str, compression: Any) -> bytes:
    """Decompress a body, up to a limit.

    Args:
        compression: The value of the header ``compression``: a content type or alias that kombu knows.
    Raises:
        MalformedMessage: the codec is not installed or cannot be bounded, the data is damaged, or it unpacks to more
            than the limit.
    """
    data = _as_bytes(body)
    try:
        decompress = kombu_compression.get_decoder(compression)
    except (KeyError, TypeError):
        raise MalformedMessage("its compression codec is unknown") from None
    content_type = _content_type(compression)
    try:
        if content_type in _BOUNDED:
            found = _joined(data, _BOUNDED[content_type])
        elif content_type == "application/x-brotli":
            found = _brotli(data)
        else:  # the app's own codec, which has to enforce its own limits
            found = decompress(data)
    except MalformedMessage:
        raise
    except Exception as exc:
        raise MalformedMessage(f"its body cannot be decompressed: {type(exc).__name__}") from exc
    if len(found) > _most_bytes(data):
        raise _too_large(data)
    return found


def has_too_many_values(text: bytes | str) -> bool:
    """Return True if building the values of JSON could take too much memory. False for all that fits into a message."""
    if len(text) <= SQS_MAX_MESSAGE_BYTES:
        return False
    most = most_values(len(text))
    return _values(text) > most and len(_outside_of_strings(_as_bytes(text), _NOT_VALUES)) > most


def most_values(size: int) -> int:
    """How many values JSON of so many bytes may have: as dense as in the largest body that may be decompressed."""
    return MAX_INFLATED_VALUES * max(MAX_INFLATED_BYTES, size) // MAX_INFLATED_BYTES


def _most_bytes(data: bytes) -> int:
    """What a compressed body may be decompressed to. One that fits into a message may have the usual limit."""
    return max(MAX_INFLATED_BYTES, min(len(data) * MAX_INFLATED_BYTES // SQS_MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES))


def is_json(content_type: str | None) -> bool:
    """Return True if bodies of a content type are JSON."""
    return content_type in _JSON_TYPES


def is_nested_too_deep(text: bytes | str) -> bool:
    """Return True if JSON is nested deeper than :data:`kombu_hake.amqp.limits.MAX_NESTING`, give or take ten levels.

    Text with few brackets costs two counts. Text that is not JSON gives either result, and never raises.
    """
    if len(text) <= MAX_NESTING:
        return False
    data = _as_bytes(text)
    if data.count(b"[") + data.count(b"{") <= MAX_NESTING:
        return False
    brackets = _outside_of_strings(data, _NOT_BRACKETS)
    for _ in range(_SHALLOW):  # removes the brackets of shallow JSON at the speed of C
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(brackets) > before * 0.9:
            break
    depth = 0
    for start in range(0, len(brackets), _CHUNK_BYTES):
        depths = [*accumulate(map(_STEP.__getitem__, brackets[start : start + _CHUNK_BYTES]), initial=depth)]
        if max(depths) > MAX_NESTING:
            return True
        if min(depths) < 0:
            return False  # not JSON: the decoder will raise
        depth = depths[-1]
    return False


def _values(text: bytes | str) -> int:
    """Estimate the number of values in JSON. Commas and brackets in strings count too."""
    if isinstance(text, str):
        return sum(map(text.count, (",", "[", "{")))
    return sum(map(text.count, (b",", b"[", b"{")))


def _as_bytes(text: bytes | str) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)


def _content_type(compression: str) -> str:
    try:
        return str(kombu_compression.get_encoder(compression)[1])
    except KeyError:  # this app can only decode this content type
        return compression


def _outside_of_strings(data: bytes, dropped: bytes) -> bytes:
    """JSON outside of its strings, without the bytes *dropped*."""
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept: list[bytes] = []
    is_string = 0
    for start in range(0, len(data), _CHUNK_BYTES):
        pieces = data[start : start + _CHUNK_BYTES].split(b'"')
        kept.append(b"".join(pieces[is_string::2]).translate(None, dropped))
        is_string ^= (len(pieces) - 1) & 1
    return b"".join(kept)


def _too_large(data: bytes) -> MalformedMessage:
    return MalformedMessage(f"its body decompresses to more than {_most_bytes(data)} bytes")


def _joined(data: bytes, new: Callable[[], Any]) -> bytes:
    """Decompress all streams in *data*; the one-shot functions of bz2 and lzma accept several, one after the other."""
    parts: list[bytes] = []
    packed, left = data, _most_bytes(data) + 1
    while data:
        stream = new()
        try:
            parts.append(stream.decompress(data, left))
        except Exception:
            if len(parts) and not isinstance(stream, _Zlib):
                break  # trailing garbage after a complete stream is ignored, as by the one-shot functions
            raise
        left -= len(parts[-1])
        if left <= 0:
            raise _too_large(packed)
        if not stream.eof:
            raise EOFError("the compressed data ends too early")
        data = stream.unused_data
    if not parts:
        raise EOFError("there is no compressed data")
    return b"".join(parts)


class _Zlib:
    """A zlib stream with the interface of ``bz2.BZ2Decompressor``; trailing data is ignored: nothing
    writes it, and ``zlib.decompress`` refuses it.
    """

    unused_data = b""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(data, max_length)

    @property
    def eof(self) -> bool:
        return self._stream.eof


def _zstd() -> Any:
    try:
        module = import_module("compression.zstd")  # Python 3.14
    except ImportError:
        module = import_module("backports.zstd")
    return module.ZstdDecompressor(options={module.DecompressionParameter.window_log_max: 26})  # 64 MiB


def _brotli(data: bytes) -> bytes:
    try:
        brotli = import_module("brotli")
    except ImportError:
        brotli = import_module("brotlicffi")
    stream = brotli.Decompressor()
    try:
        found = stream.process(data, output_buffer_limit=_most_bytes(data) + 1)
    except TypeError:
        raise MalformedMessage("its brotli body cannot be decompressed with a limit; that needs Brotli 1.2") from None
    if len(found) <= _most_bytes(data) and not stream.is_finished():
        raise EOFError("the compressed data ends too early")
    return bytes(found)


#: By the content types of ``kombu/compression.py``.
_BOUNDED: dict[str, Callable[[], Any]] = {
    "application/x-gzip": _Zlib,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lambda: lzma.LZMADecompressor(memlimit=MAX_INFLATING_MEMORY_BYTES),
    "application/zstd": _zstd,
}
