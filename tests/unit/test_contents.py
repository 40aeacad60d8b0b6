"""Unpacking and decoding what a message carries: bounded, by one module, and only what the app accepts."""

import ast
import bz2
import gzip
import json
import lzma
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import compression, serialization
from kombu.exceptions import ContentDisallowed

import kombu_hake
from kombu_hake.amqp import contents
from kombu_hake.amqp.contents import decoded, encoded, inflated, is_nested_too_deep
from kombu_hake.amqp.limits import MAX_INFLATED_BYTES, MAX_NESTING
from kombu_hake.exceptions import MalformedMessage

PACKAGE = Path(kombu_hake.__file__).parent
BOMB = b"\0" * (MAX_INFLATED_BYTES + 1)
CODECS = ["zlib", "gzip", "bzip2", "lzma", "xz"]


# --- one place

#: Modules that can run code, or fill the memory, by what they read.
READERS = {
    "pickle", "cPickle", "marshal", "shelve", "yaml", "dill", "cloudpickle", "msgpack", "zlib", "gzip", "bz2", "lzma",
    "kombu.serialization", "kombu.compression", "celery.utils.serialization",
}  # fmt: skip
#: What other modules take from these: nothing that reads a message's body.
HARMLESS = {
    ("groups/worker", "kombu.serialization", "prepare_accept_content"),
    # The exception that a pool process sent back; what it is was decided in the worker's own code.
    ("groups/failures", "celery.utils.serialization", "get_pickled_exception"),
}
JSON_MODULES = {"json", "kombu_json"}


def imported(tree: ast.Module) -> set[tuple[str, str]]:
    """(module, name) of each import; the name is empty for a module as a whole."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(str(node.module), alias.name) for alias in node.names}
            found |= {(f"{node.module}.{alias.name}", "") for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", [path for path in PACKAGE.rglob("*.py") if path.stem != "contents"], ids=lambda path: path.stem
)
def test_only_one_module_decodes_bodies(path: Path) -> None:
    tree = ast.parse(path.read_text())
    where = path.relative_to(PACKAGE).with_suffix("").as_posix()
    taken = {(where, module, name) for module, name in imported(tree) if module in READERS}
    assert taken <= HARMLESS
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("loads", "load", "decompress", "decode_from"):
            assert isinstance(node.value, ast.Name), ast.unparse(node)
            assert node.value.id in JSON_MODULES, ast.unparse(node)
        if isinstance(node, ast.Name):
            assert node.id not in ("loads", "decompress", "eval", "exec"), node.id


# --- compression


@pytest.mark.parametrize("codec", CODECS)
@given(body=st.binary())
def test_what_kombu_compresses_comes_back(codec: str, body: bytes) -> None:
    packed, content_type = compression.compress(body, codec)
    assert inflated(packed, codec) == inflated(packed, content_type) == body


@pytest.mark.parametrize("codec", CODECS)
def test_a_body_of_just_the_limit_is_unpacked_and_one_byte_more_is_not(codec: str) -> None:
    assert len(inflated(compression.compress(BOMB[1:], codec)[0], codec)) == MAX_INFLATED_BYTES
    with pytest.raises(MalformedMessage, match="decompresses to more than 16777216 bytes"):
        inflated(compression.compress(BOMB, codec)[0], codec)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_several_streams_are_one_body_and_share_the_limit(pack: Any) -> None:
    codec = "bzip2" if pack is bz2.compress else "lzma"
    assert inflated(pack(b"a") + pack(b"b") + b"rubbish", codec) == b"ab"
    with pytest.raises(MalformedMessage, match="more than"):
        inflated(pack(BOMB[: MAX_INFLATED_BYTES // 2]) * 3, codec)


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    compressor = bz2.BZ2Compressor()
    bomb = b"".join(compressor.compress(b"\0" * 10_000_000) for _ in range(50)) + compressor.flush()
    assert len(bomb) < 1_000
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            inflated(bomb, "bzip2")
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_INFLATED_BYTES
    finally:
        tracemalloc.stop()


def test_an_xz_header_cannot_ask_for_gigabytes() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28}]
    with pytest.raises(MalformedMessage, match="cannot be decompressed: LZMAError"):
        inflated(lzma.compress(b"x", filters=filters), "xz")


@pytest.mark.parametrize("codec", CODECS)
@given(body=st.binary())
def test_what_is_damaged_is_malformed(codec: str, body: bytes) -> None:
    packed = compression.compress(b"some text" * 20, codec)[0]
    for data in (packed[:-5], b"", b"\xff" + body, body + packed[3:]):
        with pytest.raises(MalformedMessage):
            inflated(data, codec)


@pytest.mark.parametrize("codec", ["none such", 7, ["bzip2"], {"a": 1}, "application/zlib"])
def test_an_unknown_codec_is_malformed(codec: Any) -> None:
    with pytest.raises(MalformedMessage, match="its compression codec is unknown"):
        inflated(b"x", codec)


def test_what_a_codec_of_the_app_unpacks_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compression._decoders, "application/x-own", lambda data: data * 1_000_000)
    assert len(inflated(b"abc", "application/x-own")) == 3_000_000
    with pytest.raises(MalformedMessage, match="more than"):
        inflated(b"abc" * 10, "application/x-own")


def test_brotli_that_cannot_be_bounded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class Decompressor:
            def process(self, data: bytes) -> bytes:
                raise AssertionError("without a limit")

    monkeypatch.setitem(compression._decoders, "application/x-brotli", lambda data: data)
    monkeypatch.setitem(compression._encoders, "application/x-brotli", lambda data: data)
    monkeypatch.setattr(contents, "import_module", lambda name: Old)
    with pytest.raises(MalformedMessage, match=r"Brotli 1\.2"):
        inflated(b"x", "application/x-brotli")


def test_gzip_files_are_not_what_kombu_calls_gzip() -> None:
    assert inflated(zlib.compress(b"a"), "gzip") == b"a"
    with pytest.raises(MalformedMessage):
        inflated(gzip.compress(b"a"), "gzip")


# --- decoding


def test_only_accepted_content_is_decoded() -> None:
    content_type, encoding, body = encoded([[], {}, None], "application/x-python-serialize")
    assert decoded(body, content_type, encoding, accept={content_type}) == [[], {}, None]
    for accept in ({"application/json"}, set(), None):
        with pytest.raises(ContentDisallowed):
            decoded(body, content_type, encoding, accept=accept)


def outcome(decode: Callable[[], Any]) -> Any:
    try:
        return repr(decode())
    except Exception as exc:
        return type(exc)


_parts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["__type__", "uuid"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.builds(lambda value: {"__type__": "datetime", "__value__": value}, inner | st.just("2030-01-01T00:00:00"))
    ),
    max_leaves=8,
)
_texts = st.one_of(
    st.builds(json.dumps, _parts, ensure_ascii=st.booleans()),
    st.builds(lambda part: json.dumps(part).replace("_", "\\u005f"), _parts),
    st.sampled_from(["", " ", "null", "{", "\ufeff{}", "[" * 100_000, '{"a": 1, "a": 2}', "NaN", "\x00"]),
    st.text(max_size=5),
)


@given(
    st.one_of(_texts, st.builds(lambda text: text.encode("utf-8", "surrogatepass"), _texts), st.binary(max_size=5)),
    st.sampled_from([None, {"application/json"}, {"application/x-msgpack"}]),
)
def test_json_is_decoded_as_kombu_does(body: bytes | str, accept: set[str] | None) -> None:
    ours = outcome(lambda: decoded(body, "application/json", "utf-8", accept=accept))
    assert ours == outcome(lambda: serialization.loads(body, "application/json", "utf-8", accept=accept))


def test_a_json_decoder_of_the_app_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(serialization.registry._decoders, "application/json", lambda data: ("own", data))
    assert decoded(b"{}", "application/json", "utf-8", accept={"application/json"}) == ("own", b"{}")


def test_a_compressed_body_is_decoded_and_encoded_again() -> None:
    content_type, encoding, body = encoded({"a": "é"}, "application/json", compression="zlib")
    assert decoded(body, content_type, encoding, accept={content_type}, compression="zlib") == {"a": "é"}


# --- nesting

ENOUGH = MAX_NESTING + 20
json_values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('[]{}"\\a')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.sampled_from('[]{}"\\')), inner, max_size=4),
    max_leaves=60,
)


@given(json_values)
def test_nesting_is_measured_whatever_the_strings_hold(value: Any) -> None:
    assert not is_nested_too_deep(json.dumps([value] * (MAX_NESTING + 1)))
    deep = json.dumps([value, "x"]) if value else "1"
    assert is_nested_too_deep(f"{'[' * ENOUGH}{deep}{']' * ENOUGH}")
    assert is_nested_too_deep(f"[{deep}, {'[' * ENOUGH}{']' * ENOUGH}]".encode())


@given(st.text(st.sampled_from('[]{}"\\,1é\ud800'), min_size=0, max_size=2_000))
def test_what_is_no_json_makes_no_trouble(text: str) -> None:
    is_nested_too_deep(text * 3)


def test_a_string_of_brackets_is_not_nested() -> None:
    assert not is_nested_too_deep(json.dumps(["[" * 100_000, '\\"[' * 100_000, '"']))
    # A chunk of what is looked at may end in a string.
    assert not is_nested_too_deep(json.dumps(["x" * 65_530 + "[" * 1_000]))


@pytest.mark.parametrize("pattern", ['\\"', '"', "[", "]", "[]", '"[', "\\", "{]", "[[[]]]"])
def test_no_text_takes_long(pattern: str) -> None:
    is_nested_too_deep(pattern * 2_000_000)


def inflated_json(unit: str) -> bytes:
    return ("[[" + unit * ((MAX_INFLATED_BYTES - 100) // len(unit)) + "0], {}, {}]").encode()


@pytest.mark.parametrize("unit", ["[],", "{},", "[[]],", '{"a":0},', "1.5,", "0,", "[" * 100 + "]" * 100 + ","])
def test_json_of_millions_of_values_is_not_built(unit: str) -> None:
    body = inflated_json(unit)
    started = time.thread_time()
    with pytest.raises(MalformedMessage, match="holds more than 1500000 values"):
        decoded(zlib.compress(body), "application/json", "utf-8", accept=None, compression="gzip")
    assert time.thread_time() - started < 1.0


@pytest.mark.parametrize("unit", [f'"{"x" * 20}",', '{"id":1234567890,"name":"a name","at":"2026-01-01T00:00:00"},'])
def test_a_large_body_of_usual_values_is_decoded(unit: str) -> None:
    body = inflated_json(unit)
    packed = zlib.compress(body)
    found = decoded(packed, "application/json", "utf-8", accept=None, compression="gzip")
    assert len(found[0]) == (MAX_INFLATED_BYTES - 100) // len(unit) + 1
