# ruff: noqa: E501, RUF001 - tables of data, one case a line
"""Hostile messages as data: what anyone who may publish to a topic or send to a queue can put into it.

Each :class:`Hostile` has a name of the form ``group/what``, which reports and failures use. AWS accepts every one of
them: the size and the characters are within its limits (``test_corpus.py`` checks that).

A body that tries to run code appends the message's name to the file that ``HOSTILE_MARKER`` names in the worker's
environment. That file must never appear.

:data:`MARK` is the id in the messages. :meth:`Hostile.copy` replaces it, for runs that need many distinct messages.
"""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

__all__ = [
    "CONTROL", "EVENTS", "GROUP", "MARK", "MARKER", "TASKS", "TOPIC", "VICTIM", "Hostile", "corpus", "envelope",
    "good", "selection",
]  # fmt: skip

#: Where a message is sent: to the SQS queue of plain tasks, to that of the group, to the SNS topic that the group
#: listens to, or to the topics of Celery's remote control and of its events.
TASKS, GROUP, TOPIC, CONTROL, EVENTS = "tasks", "shop", "orders", "celery.pidbox", "celeryev"
TOPICS = (TOPIC, CONTROL, EVENTS)
#: A queue, and an exchange, that no message here may reach.
VICTIM = "victim"
#: The id of every message.
MARK = "5ca1ab1e-0000-4000-8000-00000000beef"
#: Environment variable that names the file which executed code writes to.
MARKER = "HOSTILE_MARKER"
PICKLE, YAML, MSGPACK = "application/x-python-serialize", "application/x-yaml", "application/x-msgpack"
#: Of one that takes the interpreter's memory: far over what a worker needs.
_BOMB_BYTES = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True)
class Hostile:
    """One message.

    Attributes:
        name: Unique; ``group/what``.
        text: Body of the SQS or SNS message.
        to: One of the destinations above.
        attributes: Message attributes of type String.
        may_vanish: It needs no trace: messages of remote control and events are never kept.
        mark: Its id.
    """

    name: str
    text: str
    to: str = TASKS
    attributes: Mapping[str, str] = field(default_factory=dict)
    may_vanish: bool = False
    mark: str = MARK

    @property
    def queue(self) -> str:
        """The queue whose good tasks come after it."""
        return TASKS if self.to in (TASKS, CONTROL, EVENTS) else GROUP

    @property
    def is_to_topic(self) -> bool:
        """Whether it is published through SNS."""
        return self.to in TOPICS

    def copy(self, mark: str) -> Hostile:
        """The same message with another id, and whatever follows from it, such as task and exchange names."""
        attributes = {name: value.replace(MARK, mark) for name, value in self.attributes.items()}
        return replace(self, text=self.text.replace(MARK, mark), attributes=attributes, mark=mark)


class _Code:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self._command,)


def _command(name: str) -> str:
    return f'echo {name} >> "${MARKER}"'


_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
#: A task that runs if the rest of its message is understood; ``hostile.app`` has it.
_TASK = "hostile.accept"


def envelope(
    body: str | Any = None,
    *,
    headers: Mapping[str, Any] | Any = None,
    properties: Mapping[str, Any] | Any = None,
    **more: Any,
) -> dict[str, Any]:
    """kombu's message dict of a task; ``headers`` and ``properties`` replace and add to the usual ones.

    Args:
        body: Text, or what to write as JSON; None for no arguments.
        more: Further keys of the envelope; with ``-`` written as ``_``.
    """
    usual_headers = {
        "lang": "py", "task": _TASK, "id": MARK, "root_id": MARK, "parent_id": None, "group": None, "retries": 0,
        "eta": None, "expires": None, "timelimit": [None, None], "argsrepr": "()", "kwargsrepr": "{}",
        "origin": "gen1@publisher", "shadow": None, "stamps": {}, "stamped_headers": None,
    }  # fmt: skip
    usual_properties = {
        "correlation_id": MARK, "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": "utf-8",
        "delivery_tag": MARK, "delivery_info": {"exchange": "", "routing_key": TASKS},
    }  # fmt: skip
    if headers is None or isinstance(headers, Mapping):
        headers = {**usual_headers, **(headers or {})}
    if properties is None or isinstance(properties, Mapping):
        properties = {**usual_properties, **(properties or {})}
    text = body if isinstance(body, str) else json.dumps([[], {}, _EMBED] if body is None else body)
    made = {
        "body": text, "content-encoding": "utf-8", "content-type": "application/json",
        "headers": headers, "properties": properties,
    }  # fmt: skip
    return made | {name.replace("_", "-"): value for name, value in more.items()}


def good(number: int, queue: str) -> str:
    """The body of a task that must run: once, in this queue."""
    task_id = f"900d0000-0000-4000-8000-{number:012d}"
    return json.dumps(
        envelope(
            [[number], {}, _EMBED],
            headers={"task": "hostile.good", "id": task_id, "root_id": task_id},
            properties={"correlation_id": task_id, "delivery_info": {"exchange": "", "routing_key": queue}},
        )
    )


def _event(body: str | Any = None, *, key: str = "paid", headers: Any = None, **more: Any) -> dict[str, Any]:
    """An event as :meth:`kombu_hake.Topic.publish` makes it. ``paid`` has one handler, ``placed`` two."""
    mine = {"task": "kombu_hake.event", "hake-origin": {"exchange": TOPIC, "routing_key": key}, **(headers or {})}
    properties = {"delivery_info": {"exchange": TOPIC, "routing_key": key}, **more.pop("properties", {})}
    return envelope([[], {"number": 1}, _EMBED] if body is None else body, headers=mine, properties=properties, **more)


# --- odd values ---------------------------------------------------------------------------------------------------


def _typed(kind: str, value: Any) -> dict[str, Any]:
    """What kombu's JSON decoder makes an object of this type from."""
    return {"__type__": kind, "__value__": value}


class _Raw:
    """JSON text that ``json.dumps`` would not write."""

    def __init__(self, text: str) -> None:
        self.text = text


_TYPED = {
    "decimal-1e6": _typed("decimal", "1E+1000000"),
    "decimal-9e8": _typed("decimal", "1E+900000000"),
    "decimal-nan": _typed("decimal", "sNaN"),
    "datetime": _typed("datetime", "9999-12-31T23:59:59.999999-23:59"),
    "date": _typed("date", "0001-01-01"),
    "uuid": _typed("uuid", {"hex": "0" * 32, "version": 99}),
    "bytes": _typed("base64", "//8="),
    "no-type": _typed("os.system", "id"),
    "type-is-list": {"__type__": ["decimal"], "__value__": 1},
}
_NUMBERS = {
    "negative": -1,
    "huge": _Raw("1" + "0" * 400),
    "5000-digits": _Raw("9" * 5000),
    "1e999": _Raw("1e999"),
    "nan": _Raw("NaN"),
    "bool": True,
    "text-unicode-digits": "٣٤",
    "text-superscript": "²",
    "text-5000-digits": "9" * 5000,
    "text-huge-decimal": "1E+900000000",
}
_SHAPES = {
    "null": None,
    "number": 5,
    "list": [1, {"a": 1}],
    "dict": {"a": {"b": 1}},
    "empty": "",
    "text": "what",
    "surrogate": "\ud800",
    "control": "x\x1b[2J\r\n[2026-01-01 00:00:00,000: CRITICAL/MainProcess] forged",
    "long": "x" * 20_000,
}
_HEADERS = (
    "task", "id", "eta", "expires", "timelimit", "retries", "stamps", "stamped_headers", "group", "group_index",
    "root_id", "parent_id", "origin", "lang", "shadow", "argsrepr", "ignore_result", "replaced_task_nesting",
    "delivery_info", "reply_to", "compression", "clock", "hostname", "hake-origin", "hake_event", "hake_deaths",
    "x-death",
)  # fmt: skip
_PROPERTIES = (
    "correlation_id", "reply_to", "delivery_mode", "priority", "expiration", "first_sent_ms", "delivery_info",
    "body_encoding", "delivery_tag", "message_id", "MessageGroupId", "MessageDeduplicationId", "DelaySeconds",
    "receive_count", "attributes", "application_headers", "tenant",
)  # fmt: skip
#: A value of each shape suits some header; these are then in order, so no message is made.
_IN_ORDER = {
    "shadow": {"null", "empty", "text", "long"}, "origin": {"null", "empty", "text", "long", "control"},
    "lang": {"text", "empty"}, "argsrepr": {"null", "empty", "text"}, "hostname": {"text", "null", "empty", "long"},
    "eta": {"null", "empty"}, "expires": {"null"}, "parent_id": {"null"}, "group": {"null", "text"},
    "task": {"long"}, "correlation_id": {"text"}, "ignore_result": {"null"}, "clock": {"null", "number"},
}  # fmt: skip
_NUMERIC = ("retries", "eta", "expires", "timelimit", "priority", "expiration", "first_sent_ms", "DelaySeconds")


def _dump(value: Any) -> str:
    """JSON, with :class:`_Raw` as it stands."""
    raws: list[str] = []

    def default(item: Any) -> str:
        raws.append(item.text)
        return f"@raw{len(raws) - 1}@"

    text = json.dumps(value, default=default)
    for number, raw in enumerate(raws):
        text = text.replace(f'"@raw{number}@"', raw)
    return text


def _odd_headers() -> Iterator[Hostile]:
    for header in _HEADERS:
        for shape, value in _SHAPES.items():
            if shape not in _IN_ORDER.get(header, ()):
                yield Hostile(f"header-{header}/{shape}", _dump(envelope(headers={header: value})))
    for header in ("hake-origin", "hake_event", "hake_deaths", "x-death", "id", "root_id", "retries", "eta"):
        for shape in ("null", "number", "list", "dict", "text", "surrogate"):
            name = f"event-header-{header}/{shape}"
            yield Hostile(name, _dump(_event(headers={header: _SHAPES[shape]})), GROUP)


def _odd_properties() -> Iterator[Hostile]:
    # An event with two handlers is published again, with all its properties.
    for name in _PROPERTIES:
        for shape in ("null", "number", "list", "dict", "text", "surrogate", "control"):
            if shape in _IN_ORDER.get(name, ()):
                continue
            made = _event(key="placed", properties={name: _SHAPES[shape]})
            yield Hostile(f"property-{name}/{shape}", _dump(made), GROUP)


def _odd_numbers() -> Iterator[Hostile]:
    for name in _NUMERIC:
        for shape, value in {**_NUMBERS, **_TYPED}.items():
            if name in ("retries", "eta", "expires", "timelimit"):
                if shape in ("date", "no-type", "type-is-list", "uuid", "text-superscript"):
                    continue
                given = [value, value] if name == "timelimit" else value
                # Zero or less ends the task at once, which is its publisher's to say.
                if (name, shape) not in (("timelimit", "negative"), ("timelimit", "bool")):
                    yield Hostile(f"number-{name}/{shape}", _dump(envelope(headers={name: given})))
            else:
                yield Hostile(f"number-{name}/{shape}", _dump(_event(key="placed", properties={name: value})), GROUP)


def _typed_everywhere() -> Iterator[Hostile]:
    """kombu's typed JSON where text is expected."""
    for shape, value in _TYPED.items():
        for place in ("task", "id", "hake-origin"):
            yield Hostile(f"typed-{place}/{shape}", _dump(envelope(headers={place: value})))
        yield Hostile(f"typed-argument/{shape}", _dump(_event([[], {"number": value}, _EMBED])), GROUP)
        yield Hostile(f"typed-body/{shape}", _dump({**envelope(), "body": value}))
        yield Hostile(f"typed-foreign/{shape}", _dump({"number": value}), TOPIC, {"rk": "paid", "event_id": MARK})


# --- code ---------------------------------------------------------------------------------------------------------


def _code() -> Iterator[Hostile]:
    """Bodies that run a command when they are decoded with what they claim to be."""

    def pickled(name: str, protocol: int) -> str:
        return base64.b64encode(pickle.dumps([[], {"a": _Code(_command(name))}, {}], protocol)).decode()

    for protocol in (0, 2, 4):
        for short, content_type in (("mime", PICKLE), ("application", "application/pickle"), ("name", "pickle")):
            name = f"code/pickle-{protocol}-{short}"
            more = {"content_type": content_type, "content_encoding": "binary"}
            base_64 = {"body_encoding": "base64"}
            yield Hostile(f"{name}-task", _dump(envelope(pickled(name, protocol), properties=base_64, **more)))
            made = _event(pickled(name, protocol), properties=base_64, **more)
            yield Hostile(f"{name}-event", _dump(made), GROUP)
            if protocol == 4:
                yield Hostile(f"{name}-topic", _dump(made), TOPIC, {"rk": "paid"})
                mapped = _event(pickled(name, protocol), key="placed", properties=base_64, **more)
                yield Hostile(f"{name}-two-handlers", _dump(mapped), TOPIC, {"rk": "placed"})
    for label, text in {
        "apply": "!!python/object/apply:os.system ['{}']",
        "new": "!!python/object/new:os.system ['{}']",
        "args": "[[!!python/object/apply:os.system ['{}']], {{}}, {{}}]",
    }.items():
        name = f"code/yaml-{label}"
        body = text.format(_command(name))
        yield Hostile(f"{name}-task", _dump(envelope(body, content_type=YAML)))
        yield Hostile(f"{name}-event", _dump(_event(body, content_type=YAML)), GROUP)
    msgpacked = base64.b64encode(b"\x93\x90\x81\xa1a\xc1\x80").decode()
    packed = {"content_type": MSGPACK, "content_encoding": "binary", "properties": {"body_encoding": "base64"}}
    yield Hostile("code/msgpack-task", _dump(envelope(msgpacked, **packed)))
    yield Hostile("code/msgpack-event", _dump(_event(msgpacked, **packed)), GROUP)
    name = "code/pickle-compressed"
    squeezed = base64.b64encode(zlib.compress(base64.b64decode(pickled(name, 4)))).decode()
    made = _event(
        squeezed, headers={"compression": "gzip"}, content_type=PICKLE, content_encoding="binary",
        properties={"body_encoding": "base64"},
    )  # fmt: skip
    yield Hostile(name, _dump(made), GROUP)
    for to, key in ((CONTROL, ""), (EVENTS, "worker.heartbeat")):
        name = f"code/pickle-{to}"
        made = envelope(
            pickled(name, 4), headers={}, properties={"body_encoding": "base64"}, content_type=PICKLE,
            content_encoding="binary",
        )  # fmt: skip
        yield Hostile(name, _dump(made), to, {"rk": key} if key else {"x": "y"}, may_vanish=True)


def _content_types() -> Iterator[Hostile]:
    claims = ("text/plain", "application/data", "", "application/json; charset=utf-7", "x" * 5000, "application/xml")
    for number, claim in enumerate(claims):
        yield Hostile(f"content-type/{number}-task", _dump(envelope(content_type=claim)))
        yield Hostile(f"content-type/{number}-event", _dump(_event(content_type=claim)), GROUP)
    for claim in ("rot13", "idna", "undefined", "unicode_escape", "hex", "base64", "utf-16", "nowhere", "\x00", "bz2"):
        yield Hostile(f"content-encoding/{claim.strip(chr(0)) or 'nul'}", _dump(envelope(content_encoding=claim)))
    for shape in ("null", "number", "list", "dict", "surrogate"):
        yield Hostile(f"content-type/{shape}", _dump(envelope(content_type=_SHAPES[shape])))
        yield Hostile(f"content-encoding/{shape}", _dump(envelope(content_encoding=_SHAPES[shape])))
        yield Hostile(f"content-type/{shape}-event", _dump(_event(content_type=_SHAPES[shape])), GROUP)


# --- compression --------------------------------------------------------------------------------------------------


@cache
def _bombs() -> dict[str, bytes]:
    """Compression header to what a GiB, or as much as fits into a message, becomes of it."""
    zeros = b"0" * (4 * _MIB)
    times = _BOMB_BYTES // len(zeros)
    return {
        "gzip": zlib.compress(b"0" * (64 * _MIB), 9),  # deflate gets no smaller than a thousandth
        # Both decode streams that follow one another.
        "bzip2": bz2.compress(zeros) * times,
        "lzma": lzma.compress(zeros, preset=1) * (times // 2),
    }


def _compressed() -> Iterator[Hostile]:
    base_64 = {"body_encoding": "base64"}
    body = json.dumps([[], {"number": 1}, _EMBED]).encode()
    for codec, bomb in _bombs().items():
        text = base64.b64encode(bomb).decode()
        head = {"compression": codec}
        yield Hostile(f"compression/{codec}-bomb-task", _dump(envelope(text, headers=head, properties=base_64)))
        yield Hostile(f"compression/{codec}-bomb-event", _dump(_event(text, headers=head, properties=base_64)), GROUP)
        cut = base64.b64encode(bomb[: len(bomb) // 2]).decode()
        yield Hostile(f"compression/{codec}-cut", _dump(envelope(cut, headers=head, properties=base_64)))
        twice = base64.b64encode(bomb + b"what follows").decode()
        yield Hostile(f"compression/{codec}-trailing", _dump(_event(twice, headers=head, properties=base_64)), GROUP)
    # A codec of Python's that decompresses, by the name of a character set.
    for codec, kind in (("bz2_codec", "bzip2"), ("zlib_codec", "gzip")):
        text = base64.b64encode(_bombs()[kind]).decode()
        made = envelope(text, content_encoding=codec, properties=base_64)
        yield Hostile(f"content-encoding/{codec}-bomb", _dump(made))
    for claim in ("brotli", "zstd", "application/x-gzip", "nowhere", "GZIP", "\x00"):
        label = claim.rpartition("/")[2].strip("\x00") or "nul"
        yield Hostile(f"compression/{label}-claimed", _dump(envelope(headers={"compression": claim})))
        yield Hostile(f"compression/{label}-claimed-event", _dump(_event(headers={"compression": claim})), GROUP)
    plain = base64.b64encode(zlib.compress(body)).decode()
    for key in ("paid", "placed"):
        made = _event(plain, key=key, headers={"compression": "gzip"}, properties=base_64)
        yield Hostile(f"compression/honest-{key}", _dump(made), TOPIC, {"rk": key})


# --- shapes of bodies and envelopes -------------------------------------------------------------------------------


def _bodies() -> Iterator[Hostile]:
    deep = {f"deep-{depth}": "[" * depth + "]" * depth for depth in (500, 5_000, 100_000)}
    deep_objects = {f"deep-objects-{depth}": '{"a":' * depth + "1" + "}" * depth for depth in (500, 5_000, 30_000)}
    texts = {
        "empty": "", "null": "null", "number": "5", "string": '"x"', "true": "true", "empty-list": "[]",
        "one": "[[]]", "two": "[[], {}]", "four": "[[], {}, {}, {}]", "dict": "{}", "args-dict": "[{}, {}, {}]",
        "args-text": '["abc", {}, {}]', "args-number": "[5, {}, {}]", "args-null": "[null, null, null]",
        "kwargs-list": "[[], [], {}]", "kwargs-text": '[[], "a", {}]', "kwargs-number": "[[], 5, {}]",
        "kwargs-surrogate": '[[], {"\\ud800": 1}, {}]', "kwargs-self": '[[], {"self": 1, "task": 2}, {}]',
        "kwargs-proto": '[[], {"__proto__": {"a": 1}, "__class__": 1, "__init__": 2}, {}]', "embed-list": "[[], {}, []]",
        "embed-text": '[[], {}, "abc"]', "embed-number": "[[], {}, 7]", "nan": "[[NaN, Infinity], {}, {}]",
        "not-json": "{'a': 1}", "half": '[[], {"a": ', "bom": "\ufeff[[], {}, {}]", "digits": f"[[{'9' * 5000}], {{}}, {{}}]",
        "duplicate-keys": '[[], {"a": 1, "a": 2}, {}]', **deep, **deep_objects,
    }  # fmt: skip
    for label, text in texts.items():
        yield Hostile(f"body/{label}-task", _dump(envelope(text)))
        yield Hostile(f"body/{label}-event", _dump(_event(text)), GROUP)
    for depth in (400, 480, 900):
        nested = f'[[], {{"number": {"[" * depth}1{"]" * depth}}}, {{}}]'
        yield Hostile(f"body/argument-depth-{depth}-task", _dump(envelope(nested)))
        yield Hostile(f"body/argument-depth-{depth}-event", _dump(_event(nested)), GROUP)
    for label, embed in {
        "callbacks-text": {"callbacks": "x"}, "callbacks-list": {"callbacks": [5, None]},
        "errbacks-dict": {"errbacks": {"task": 5}}, "errbacks-nested": {"errbacks": [{"task": {"a": 1}}]},
        "chain-number": {"chain": 5}, "chain-odd": {"chain": [{"task": None, "args": 5}]},
        "chord-text": {"chord": "x"}, "chord-odd": {"chord": {"task": [], "options": 5, "subtask_type": "chord"}},
        "subtask-type": {"callbacks": [{"task": "x", "subtask_type": "os.system", "args": []}]},
        "unknown-keys": {"__class__": 1, "os": "system"},
    }.items():  # fmt: skip
        yield Hostile(f"embed/{label}", _dump(envelope([[], {}, {**_EMBED, **embed}])))
    for name in (
        "map",
        "starmap",
        "chunks",
        "group",
        "chain",
        "chord",
        "chord_unlock",
        "accumulate",
        "backend_cleanup",
    ):
        made = envelope([["x", 5, {"a": None}], {}, _EMBED], headers={"task": f"celery.{name}"})
        yield Hostile(f"builtin/{name}", _dump(made))
    big = "x" * (200 * 1024)
    yield Hostile("size/argument", _dump(_event([[], {"number": big}, _EMBED])), GROUP)
    yield Hostile("size/task-name", _dump(envelope(headers={"task": big})))
    yield Hostile("size/header", _dump(envelope(headers={"x": big})))
    yield Hostile("size/many-headers", _dump(envelope(headers={f"header-{i}": i for i in range(10_000)})))
    yield Hostile("size/many-arguments", _dump(envelope([list(range(30_000)), {}, _EMBED])))
    many = _event([[], {f"k{i}": i for i in range(10_000)}, _EMBED])
    yield Hostile("size/many-keywords", _dump(many), GROUP)
    yield Hostile("size/deaths", _dump(_event(headers={"hake_deaths": [{"reason": "x"}] * 5_000})), GROUP)


def _protocol_1() -> Iterator[Hostile]:
    """The older form of a task: all in the body, no headers."""
    whole = {"task": _TASK, "id": MARK, "args": [], "kwargs": {}, "retries": 0}
    changes: dict[str, Mapping[str, Any]] = {
        "task-dict": {"task": {"a": 1}}, "task-null": {"task": None}, "task-unknown": {"task": f"unknown.{MARK}"},
        "id-list": {"id": [1]}, "args-text": {"args": "abc"}, "args-number": {"args": 7}, "kwargs-list": {"kwargs": [1]},
        "eta-number": {"eta": 5}, "expires-list": {"expires": [1]}, "timelimit-text": {"timelimit": "x"},
        "retries-text": {"retries": "x"}, "callbacks": {"callbacks": 5}, "chord": {"chord": "x"}, "utc": {"utc": []},
        "taskset": {"taskset": {"a": 1}},
    }  # fmt: skip
    for label, change in changes.items():
        made = envelope({**whole, **change}, headers=[], properties=None)
        yield Hostile(f"protocol-1/{label}", _dump({**made, "headers": {}}))


def _envelopes() -> Iterator[Hostile]:
    for part in ("headers", "properties", "body"):
        for shape in ("null", "number", "list", "dict", "text"):
            made = {**envelope(), part: _SHAPES[shape]}
            yield Hostile(f"envelope-{part}/{shape}", _dump(made))
            yield Hostile(f"envelope-{part}/{shape}-event", _dump({**_event(), part: _SHAPES[shape]}), GROUP)
    text = _dump(envelope())
    pickled = base64.b64encode(pickle.dumps({"a": _Code(_command("text/pickle"))})).decode()
    for label, body in {
        "base64": base64.b64encode(text.encode()).decode(),
        "base64-twice": base64.b64encode(base64.b64encode(text.encode())).decode(),
        "base64-broken": base64.b64encode(text.encode()).decode()[:-3] + "*",
        "base64-binary": base64.b64encode(bytes(range(256))).decode(),
        "pickle": pickled,
        "bom": "\ufeff" + text,
        "half": text[: len(text) // 2],
        "twice": text + text,
        "not-json": text.replace('"', "'"),
        "whitespace": " \n\t ",
        "quoted": json.dumps(text),
        "number": "5",
        "null": "null",
        "string": '"x"',
        "list": json.dumps([envelope()]),
        "deep": "[" * 100_000,
        "deep-closed": "[" * 50_000 + "]" * 50_000,
        "deep-in-headers": _dump(envelope(headers={"x": _Raw("[" * 50_000 + "]" * 50_000)})),
        "deep-480-in-headers": _dump(envelope(headers={"x": _Raw("[" * 480 + "]" * 480)})),
        "digits": "9" * 100_000,
        "typed": '{"__type__": "decimal", "__value__": "1E+900000000"}',
        "proto": '{"__proto__": {"task": "x"}, "constructor": 1}',
        "xml": "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        "forged-log": "line\r\n[2026-01-01 00:00:00,000: CRITICAL/MainProcess] forged \x7f",
        "tab": "\t" * 200_000,
    }.items():
        if "\x1b" not in body:
            yield Hostile(f"text/{label}", body)
            yield Hostile(f"text/{label}-group", body, GROUP)
    for encoding in ("base64", "BASE64", "hex", "rot13", "", "utf-16"):
        broken = envelope("=== not it ===", properties={"body_encoding": encoding})
        yield Hostile(f"body-encoding/{encoding or 'empty'}", _dump(broken))
    binary = base64.b64encode(b"\xff\xfe[[], {}, {}]\xed\xa0\x80").decode()
    yield Hostile("body-encoding/bad-utf8", _dump(envelope(binary, properties={"body_encoding": "base64"})))
    bad_event = _event(binary, properties={"body_encoding": "base64"})
    yield Hostile("body-encoding/bad-utf8-event", _dump(bad_event), GROUP)
    yield Hostile("body-encoding/surrogates", '{"body": "\\ud800\\udfff\\ud800", "properties": {"delivery_tag": "1"}}')


def _notifications() -> Iterator[Hostile]:
    """What SNS writes where raw delivery is off, around odd things."""
    usual = {"Type": "Notification", "MessageId": MARK, "TopicArn": "arn:aws:sns:us-east-1:123456789012:x"}
    for label, wrapped in {
        "number": 5, "null": None, "list": [1], "dict": {"a": 1}, "empty": "", "text": "plain", "json": '{"a": 1}',
        "task": _dump(envelope()), "half": _dump(envelope())[:50], "base64": "====", "deep": "[" * 100_000,
        "nested": json.dumps({**usual, "Message": json.dumps({**usual, "Message": "{}"})}),
        "unknown-task": _dump(envelope(headers={"task": f"unknown.{MARK}"})),
        "task-is-list": _dump(envelope(headers={"task": [1]})),
    }.items():  # fmt: skip
        yield Hostile(f"notification/{label}", json.dumps({**usual, "Message": wrapped}))
        yield Hostile(f"notification/{label}-group", json.dumps({**usual, "Message": wrapped}), GROUP)
    confirmation = {"Type": "SubscriptionConfirmation", "SubscribeURL": "http://127.0.0.1:1/", "Token": "x"}
    yield Hostile("notification/confirmation", json.dumps({**usual, **confirmation, "Message": "confirm"}))


# --- foreign JSON, routing, redirection ---------------------------------------------------------------------------


def _foreign() -> Iterator[Hostile]:
    payload = json.dumps({"number": 1, "note": MARK})
    for label, key in {
        "percent": "%", "percent-odd": "%zz", "percent-cut": "pa%6", "surrogate": "%ED%A0%80", "nul": "%00",
        "newline": "paid%0Aforged", "bad-utf8": "%FF%FE", "dots": "..", "many-dots": "." * 250, "star": "*", "hash": "#",
        "quoted": "pa%69d", "long": "x" * 1_000, "unicode": "％", "unknown": f"unknown.{MARK}", "escape": "%1B%5B2J",
    }.items():  # fmt: skip
        yield Hostile(f"foreign-key/{label}", payload, TOPIC, {"rk": key, "event_id": MARK})
        yield Hostile(f"foreign-key/{label}-queue", payload, GROUP, {"rk": key, "event_id": MARK})
    # These have handlers: one, or two after "odd.two".
    for label, end in {
        "surrogate": "%ED%A0%80", "nul": "%00", "newline": "%0Aforged", "escape": "%1B%5B2J", "many": "a." * 400,
        "bad-utf8": "%FF", "long": "x" * 2_000,
    }.items():  # fmt: skip
        for start in ("odd", "odd.two"):
            name = f"foreign-key/{start}-{label}"
            yield Hostile(name, payload, TOPIC, {"rk": f"{start}.{end}", "event_id": MARK})
            made = _event(headers={"hake-origin": {"exchange": TOPIC, "routing_key": f"{start}.\ud800{end}"}})
            yield Hostile(f"{name}-event", _dump(made), GROUP)
    for label, exchange in {
        "private": "hake.queue", "unknown": f"unknown.{MARK}", "long": "x" * 2_000, "newline": "a\nb",
        "control": CONTROL, "percent": "%00", "victim": VICTIM,
    }.items():  # fmt: skip
        attributes = {"rk": "paid", "exchange": exchange, "event_id": MARK}
        yield Hostile(f"foreign-exchange/{label}", payload, TOPIC, attributes)
    for label, event_id in {
        "long": "x" * 5_000,
        "newline": "a\nforged",
        "unicode": "\U0001f600" * 50,
        "dots": "../..",
    }.items():
        yield Hostile(f"foreign-id/{label}", payload, TOPIC, {"rk": "paid", "event_id": event_id})
        yield Hostile(f"foreign-id/{label}-two", payload, TOPIC, {"rk": "placed", "event_id": event_id})
    for label, text in {
        "proto": '{"__proto__": {"a": 1}, "__class__": 2}', "surrogate-key": '{"\\ud800": 1}', "not-json": "no json",
        "surrogate": '{"a": "\\ud800"}', "args": '{"args": 1, "kwargs": 2, "task": 3, "id": 4, "self": 5}',
        "list": "[1]", "number": "5", "null": "null", "deep": '{"a":' * 20_000 + "1" + "}" * 20_000,
        "deep-480": '{"number": ' + "[" * 480 + "]" * 480 + "}", "digits": '{"number": ' + "9" * 5_000 + "}",
        "nan": '{"number": NaN}', "body-and-properties": '{"body": 5, "properties": {}}',
        "properties-only": '{"body": "x", "properties": {"delivery_tag": [1]}}', "typed": '{"__type__": "uuid"}',
        "empty-object": "{}", "empty-key": '{"": 1, " ": 2}',
    }.items():  # fmt: skip
        yield Hostile(f"foreign/{label}", text, TOPIC, {"rk": "paid"})
        yield Hostile(f"foreign/{label}-two", text, TOPIC, {"rk": "placed"})
    many = {f"attribute-{i}": str(i) for i in range(9)}
    yield Hostile("foreign/attributes", payload, TOPIC, {"rk": "paid", **many})
    yield Hostile("foreign/no-attribute", payload, TOPIC)
    yield Hostile("foreign/no-attribute-queue", payload, GROUP)
    yield Hostile("foreign/no-attribute-tasks", payload, TASKS)


def _redirection() -> Iterator[Hostile]:
    """Messages that name another queue or exchange for what follows from them."""
    private = {"exchange": "hake.queue", "routing_key": VICTIM}
    retry = {"task": "hostile.retry"}
    for label, info in {
        "private": private, "default": {"exchange": "", "routing_key": VICTIM},
        "exchange": {"exchange": VICTIM, "routing_key": VICTIM}, "odd": {"exchange": 5, "routing_key": [VICTIM]},
        "surrogate": {"exchange": "hake.queue", "routing_key": "\ud800"},
        "empty": {"exchange": "hake.queue", "routing_key": ""},
    }.items():  # fmt: skip
        yield Hostile(f"redirect/retry-{label}", _dump(envelope(headers=retry, properties={"delivery_info": info})))
        made = _event(key="placed", properties={"delivery_info": info})
        yield Hostile(f"redirect/event-{label}", _dump(made), GROUP)
        grouped = envelope(headers={**retry, "hake-origin": private}, properties={"delivery_info": info})
        yield Hostile(f"redirect/retry-group-{label}", _dump(grouped), GROUP)
        failing = envelope(headers={"task": "hostile.fail"}, properties={"delivery_info": info})
        yield Hostile(f"redirect/fail-{label}", _dump(failing), GROUP)
    for label, origin in {
        "victim": private, "odd": {"exchange": {"a": 1}, "routing_key": 5}, "surrogate": {"exchange": "\ud800", "routing_key": "x"},
        "long": {"exchange": "x" * 5_000, "routing_key": "y" * 5_000}, "empty": {}, "unknown-key": {"exchange": TOPIC, "routing_key": f"unknown.{MARK}"},
        "unknown-topic": {"exchange": f"unknown.{MARK}", "routing_key": "paid"},
    }.items():  # fmt: skip
        yield Hostile(f"origin/{label}-event", _dump(_event(headers={"hake-origin": origin})), GROUP)
        unknown = envelope(headers={"task": f"unknown.{MARK}", "hake-origin": origin})
        yield Hostile(f"origin/{label}-unknown-task", _dump(unknown), GROUP)
    for label, made in {
        "tasks": envelope(headers={"task": f"unknown.{MARK}"}),
        "through-topic": envelope(
            headers={"task": f"unknown.{MARK}"},
            properties={"delivery_info": {"exchange": TOPIC, "routing_key": "paid"}},
        ),
    }.items():
        yield Hostile(f"unknown-task/{label}", _dump(made))
        yield Hostile(f"unknown-task/{label}-group", _dump(made), GROUP)
    reply = envelope(properties={"reply_to": VICTIM, "correlation_id": VICTIM})
    yield Hostile("redirect/reply-to", _dump(reply))


# --- remote control and events ------------------------------------------------------------------------------------


def _control() -> Iterator[Hostile]:
    usual: dict[str, Any] = {
        "method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None, "ticket": MARK,
        "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": MARK},
    }  # fmt: skip
    changes: dict[str, Mapping[str, Any]] = {
        "method-unknown": {"method": f"unknown.{MARK}"}, "method-number": {"method": 5}, "method-null": {"method": None},
        "method-list": {"method": [1]}, "method-dict": {"method": {"a": 1}}, "method-dunder": {"method": "__class__"},
        "arguments-null": {"arguments": None}, "arguments-list": {"arguments": [1]}, "arguments-text": {"arguments": "x"},
        "arguments-unknown": {"arguments": {"what": 1}}, "arguments-state": {"arguments": {"state": 1, "self": 2}},
        "destination-number": {"destination": 5}, "destination-dict": {"destination": {"a": 1}},
        "pattern-number": {"pattern": 5, "matcher": "glob"}, "matcher-unknown": {"pattern": "*", "matcher": "nowhere"},
        "matcher-list": {"pattern": "*", "matcher": [1]}, "pattern-broken": {"pattern": "(", "matcher": "pcre"},
        "pattern-slow": {"pattern": "(.|.)*!", "matcher": "pcre"}, "ticket-dict": {"ticket": {"a": 1}},
        "reply-to-victim": {"reply_to": {"exchange": VICTIM, "routing_key": VICTIM}},
        "reply-to-queue": {"reply_to": {"exchange": "", "routing_key": VICTIM}},
        "reply-to-private": {"reply_to": {"exchange": "hake.queue", "routing_key": VICTIM}},
        "reply-to-topic": {"reply_to": {"exchange": f"unknown.{MARK}", "routing_key": "x"}},
        "reply-to-text": {"reply_to": "x"}, "reply-to-list": {"reply_to": [1]}, "reply-to-odd": {"reply_to": {"exchange": 5, "routing_key": {"a": 1}}},
        "reply-to-empty": {"reply_to": {}},
        "revoke-odd": {"method": "revoke", "arguments": {"task_id": {"a": 1}, "terminate": "x"}},
        "revoke-many": {"method": "revoke", "arguments": {"task_id": [f"x{i}" for i in range(20_000)]}},
        "revoke-signal": {"method": "revoke", "arguments": {"task_id": "x", "terminate": True, "signal": "NOWHERE"}},
        "revoke-stamped": {"method": "revoke_by_stamped_headers", "arguments": {"headers": 5}},
        "rate-limit": {"method": "rate_limit", "arguments": {"task_name": [1], "rate_limit": {"a": 1}}},
        "time-limit": {"method": "time_limit", "arguments": {"task_name": "hostile.good", "hard": "x", "soft": []}},
        "autoscale": {"method": "autoscale", "arguments": {"max": "x", "min": {}}},
        "grow": {"method": "pool_grow", "arguments": {"n": "x"}},
        "election": {"method": "election", "arguments": {"id": [], "topic": {}, "action": 5}},
        "query": {"method": "query_task", "arguments": {"ids": 5}},
        "add-consumer": {"method": "add_consumer", "arguments": {"queue": 5}},
        "add-consumer-mismatch": {
            "method": "add_consumer", "arguments": {"queue": "odd", "exchange": CONTROL, "exchange_type": "direct"},
        },
        "cancel-consumer": {"method": "cancel_consumer", "arguments": {"queue": {"a": 1}}},
        "hello": {"method": "hello", "arguments": {"from_node": {"a": 1}, "revoked": 5}},
        "hello-revoked": {"method": "hello", "arguments": {"from_node": "x@y", "revoked": {"a": "x" * 1000}}},
        "conf": {"method": "conf", "arguments": {"with_defaults": {"a": 1}}},
    }  # fmt: skip
    for label, change in changes.items():
        made = envelope({**usual, **change}, headers={"clock": 1, "expires": None})
        yield Hostile(f"control/{label}", _dump(_control_envelope(made)), CONTROL, {"x": "y"}, may_vanish=True)
    for label, text in {
        "null": "null",
        "list": "[1]",
        "text": '"x"',
        "number": "5",
        "empty": "",
        "deep": "[" * 50_000,
    }.items():
        made = _control_envelope(envelope(text))
        yield Hostile(f"control/body-{label}", _dump(made), CONTROL, {"x": "y"}, may_vanish=True)
    for shape in ("null", "text", "list", "dict", "number"):
        for name in ("clock", "expires"):
            made = _control_envelope(envelope(usual), {name: _SHAPES[shape]})
            yield Hostile(f"control-{name}/{shape}", _dump(made), CONTROL, {"x": "y"}, may_vanish=True)
    huge = _control_envelope(envelope(usual), {"clock": 10**4_300 - 1})
    yield Hostile("control-clock/huge", _dump(huge), CONTROL, {"x": "y"}, may_vanish=True)
    yield Hostile("control/foreign", "no json", CONTROL, {"x": "y"}, may_vanish=True)
    yield Hostile("control/foreign-json", '{"method": "ping"}', CONTROL, {"rk": "%zz"}, may_vanish=True)


def _control_envelope(made: dict[str, Any], headers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    info = {"exchange": CONTROL, "routing_key": ""}
    return {
        **made,
        "headers": {"clock": 1, "expires": None, **(headers or {})},
        "properties": {**made["properties"], "delivery_info": info},
    }


def _events() -> Iterator[Hostile]:
    """Celery's events. Workers send them and read none on this transport (``celery.worker.consumer.gossip``)."""
    beat = {
        "hostname": "other@host", "utcoffset": 0, "pid": 1, "clock": 5, "freq": 2.0, "active": 0, "processed": 0,
        "loadavg": [0, 0, 0], "sw_ident": "py-celery", "sw_ver": "5", "sw_sys": "Linux", "timestamp": 1.0,
        "type": "worker-heartbeat",
    }  # fmt: skip
    changes: dict[str, Mapping[str, Any]] = {
        "hostname-list": {"hostname": [1]}, "hostname-null": {"hostname": None}, "type-unknown": {"type": "what"},
        "type-number": {"type": 5}, "type-dict": {"type": {"a": 1}}, "type-dashes": {"type": "-"}, "clock-text": {"clock": "x"},
        "clock-dict": {"clock": {}}, "clock-huge": {"clock": 10**30}, "clock-negative": {"clock": -5},
        "timestamp-text": {"timestamp": "x"}, "timestamp-huge": {"timestamp": 1e300}, "utcoffset": {"utcoffset": "x"},
        "freq": {"freq": {"a": 1}}, "online": {"type": "worker-online", "hostname": {"a": 1}},
        "offline": {"type": "worker-offline", "hostname": 5}, "task": {"type": "task-received", "uuid": {"a": 1}},
        "elect": {"type": "worker-elect", "id": [], "topic": 5, "action": {}, "cver": "x"},
        "elect-ack": {"type": "worker-elect-ack", "id": MARK},
    }  # fmt: skip
    for label, change in changes.items():
        yield _of_event(label, json.dumps({**beat, **change}))
    missing = {name: value for name, value in beat.items() if name != "hostname"}
    yield _of_event("no-hostname", json.dumps(missing))
    for label, text in {
        "null": "null",
        "number": "5",
        "list": "[5, null]",
        "many": json.dumps([beat] * 200),
        "text": '"x"',
        "empty": "",
    }.items():
        yield _of_event(f"body-{label}", text)
    yield Hostile("event/foreign", "no json", EVENTS, {"rk": "worker.heartbeat"}, may_vanish=True)
    yield Hostile("event/foreign-json", '{"type": []}', EVENTS, {"rk": "worker.heartbeat"}, may_vanish=True)
    yield Hostile("event/bad-key", '{"type": []}', EVENTS, {"rk": "worker.%zz"}, may_vanish=True)


def _of_event(label: str, text: str) -> Hostile:
    made = envelope(text, properties={"delivery_info": {"exchange": EVENTS, "routing_key": "worker.heartbeat"}})
    body = _dump({**made, "headers": {"hostname": "other@host"}})
    return Hostile(f"event/{label}", body, EVENTS, {"rk": "worker.heartbeat"}, may_vanish=True)


@cache
def corpus() -> tuple[Hostile, ...]:
    """All hostile messages, in a fixed order."""
    sources: Iterable[Iterable[Hostile]] = (
        _code(), _odd_numbers(), _odd_headers(), _odd_properties(), _typed_everywhere(), _content_types(),
        _compressed(), _bodies(), _protocol_1(), _envelopes(), _notifications(), _foreign(), _redirection(),
        _control(), _events(),
    )  # fmt: skip
    return tuple(one for source in sources for one in source)


def selection(count: int) -> tuple[Hostile, ...]:
    """About *count* of them, from each group as many as its share, at least one; the same ones each time."""
    groups: dict[str, list[Hostile]] = {}
    for one in corpus():
        groups.setdefault(one.name.partition("/")[0].partition("-")[0], []).append(one)
    share = count / len(corpus())
    chosen: list[Hostile] = []
    for members in groups.values():
        wanted = max(1, round(share * len(members)))
        chosen += members[:: max(1, len(members) // wanted)][:wanted]
    return tuple(chosen)
