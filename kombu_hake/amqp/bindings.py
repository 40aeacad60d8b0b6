"""Bindings, and how a queue's set of bindings is written as tags of its SQS queue. Pure.

A binding is one tag. Its key, ``hake:b:<digest>``, is a function of the binding alone, so that two processes that bind
the same thing write the same tag, and adding a binding never touches another one. Its value is the binding as readable
text for the AWS console::

    topic orders order.=2A            exchange type, exchange, routing key; "=2A" is "*"
    fanout celeryev                   an empty rest is left out
    headers orders = region:s:eu      "=" alone is an empty field; an argument is name, type letter, value
    all topic orders                  no room for more bindings: everything of the exchange (see overflow_tags)

AWS lets a tag hold few characters: what it forbids, and the separators, are written as ``=`` and two hexadecimal digits
for each byte of UTF-8. A value that is too long is split into ``hake:b:<digest>:<part>:<parts>`` tags. The digest also
reveals a damaged or half-written binding.

An unreadable tag is listed in :attr:`BindingSet.damaged`. It may stand for any binding, so the set of bindings is then
incomplete: the queue must not receive less than before, and a message that no readable binding matches is delivered.

The tag ``hake:max-priority`` holds the highest priority that the queue was ever declared with: it changes the
queue's filters, so every process that binds the queue must know it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast, get_args

from kombu_hake.amqp.limits import TAG_VALUE_MAX_CHARS

__all__ = [
    "MAX_BINDING_TAGS",
    "MAX_PRIORITY_TAG",
    "TAG_PREFIX",
    "Argument",
    "Binding",
    "BindingSet",
    "ExchangeType",
    "from_tags",
    "overflow_tags",
    "to_tags",
]

ExchangeType: TypeAlias = Literal["direct", "topic", "fanout", "headers"]
Argument: TypeAlias = "str | int | float | bool | None"

TAG_PREFIX = "hake:b:"
MAX_PRIORITY_TAG = "hake:max-priority"
#: A queue may have about fifty tags (``limits.SQS_MAX_TAGS``); the rest is left to users and to our other tags.
MAX_BINDING_TAGS = 40

_TYPES = get_args(ExchangeType)
_ALL = "all"  # the first field of an overflow tag
_EMPTY = "="
_UNSAFE = re.compile(r"[^A-Za-z0-9_./+@-]")
_PRIORITY = re.compile(r"\d{1,6}\Z", re.ASCII)
_KEY = re.compile(r"(?P<digest>[0-9a-f]+)(?::(?P<part>\d{1,3}):(?P<parts>\d{1,3}))?\Z", re.ASCII)


@dataclass(frozen=True, order=True)
class Binding:
    """One binding of a queue to an exchange. The queue is not part of it.

    Two bindings are equal when their arguments are equal in value *and* type: 1, 1.0 and True are three things in AMQP.
    """

    exchange: str
    exchange_type: ExchangeType
    routing_key: str = ""
    #: Of a headers exchange, ``x-match`` included; sorted by name.
    arguments: tuple[tuple[str, Argument], ...] = field(default=(), compare=False)
    _typed: tuple[str, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.arguments, key=lambda item: item[0]))
        object.__setattr__(self, "arguments", ordered)
        object.__setattr__(self, "_typed", tuple(_write_argument(name, value) for name, value in ordered))


@dataclass(frozen=True)
class BindingSet:
    """All bindings of one queue."""

    bindings: frozenset[Binding] = frozenset()
    #: Names of the exchanges from which the queue receives everything, because it has no room for more bindings.
    unfiltered: frozenset[str] = frozenset()
    #: The highest ``x-max-priority`` that the queue was declared with; 0 for none.
    max_priority: int = 0
    #: Keys of unreadable binding tags.
    damaged: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def is_partial(self) -> bool:
        """Return True if there may be more bindings than are known here."""
        return bool(self.damaged)

    def exchanges(self) -> frozenset[str]:
        """All exchanges that the queue receives from."""
        return frozenset(binding.exchange for binding in self.bindings) | self.unfiltered

    def for_exchange(self, exchange: str) -> frozenset[Binding]:
        """The bindings to one exchange; incomplete if the exchange is in ``unfiltered``."""
        return frozenset(binding for binding in self.bindings if binding.exchange == exchange)


def to_tags(binding: Binding) -> dict[str, str]:
    """The tags that record a binding; one, unless its text is longer than a tag's value may be.

    Returns:
        Tag keys to values, within AWS's characters and lengths. The same binding always gives the same tags.
    """
    fields = [binding.exchange_type, _quote(binding.exchange), _quote(binding.routing_key), *binding._typed]
    while not fields[-1]:
        fields.pop()
    text = " ".join(written or _EMPTY for written in fields)
    return _tags(text, _digest(text))


def overflow_tags(exchange: str, exchange_type: ExchangeType) -> dict[str, str]:
    """The tags that say "everything of this exchange", for a queue that has no room for another binding.

    The keys depend on the exchange's name alone. :func:`from_tags` gives the exchange in ``unfiltered``.
    """
    written = _quote(exchange)
    text = f"{_ALL} {exchange_type} {written}" if written else f"{_ALL} {exchange_type}"
    return _tags(text, _digest(f"{_ALL} {written}"))


def from_tags(tags: Mapping[str, str]) -> BindingSet:
    """Read what :func:`to_tags` and :func:`overflow_tags` wrote.

    Args:
        tags: All tags of a queue. Foreign tags are ignored; one of ours that is damaged, or lacks a part, is listed
            in ``damaged``. A process that declares the binding again replaces a tag with a wrong value.
    """
    bindings: set[Binding] = set()
    unfiltered: set[str] = set()
    damaged = {key for key in tags if key.startswith(TAG_PREFIX)}
    for digest, text, keys in _texts(tags):
        fields = ["" if part == _EMPTY else part for part in text.split(" ")]
        try:
            if fields[0] == _ALL:
                written = fields[2] if len(fields) > 2 else ""
                if digest != _digest(f"{_ALL} {written}"):
                    continue
                unfiltered.add(_unquote(written))
            elif digest == _digest(text) and fields[0] in _TYPES:
                bindings.add(_read_binding(fields))
            else:
                continue
        except ValueError:
            continue  # we did not write this text, although its digest fits
        damaged -= keys
    priority = tags.get(MAX_PRIORITY_TAG, "")
    max_priority = int(priority) if _PRIORITY.match(priority) else 0
    return BindingSet(frozenset(bindings), frozenset(unfiltered), max_priority, frozenset(damaged))


def _read_binding(fields: list[str]) -> Binding:
    exchange_type, exchange, routing_key, *arguments = fields + [""] * (3 - len(fields))
    return Binding(
        exchange=_unquote(exchange),
        exchange_type=cast(ExchangeType, exchange_type),
        routing_key=_unquote(routing_key),
        arguments=tuple(_read_argument(argument) for argument in arguments),
    )


def _write_argument(name: str, value: Argument) -> str:
    if value is None:
        return f"{_quote(name)}:n:"
    if isinstance(value, bool):
        return f"{_quote(name)}:b:{int(value)}"
    if isinstance(value, (int, float)):
        return f"{_quote(name)}:{'i' if isinstance(value, int) else 'f'}:{_quote(repr(value))}"
    return f"{_quote(name)}:s:{_quote(value)}"


def _read_argument(text: str) -> tuple[str, Argument]:
    name, letter, written = text.split(":")
    value = _unquote(written)
    if letter == "n":
        return _unquote(name), None
    if letter == "b":
        return _unquote(name), value == "1"
    if letter == "i":
        return _unquote(name), int(value)
    if letter == "f":
        return _unquote(name), float(value)
    if letter != "s":
        raise ValueError(f"unknown type letter {letter!r}")
    return _unquote(name), value


def _quote(text: str) -> str:
    def escape(match: re.Match[str]) -> str:
        # Lone surrogates are not valid text, but Python strings can contain them, so they must survive the round trip.
        return "".join(f"={byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))

    return _UNSAFE.sub(escape, text)


def _unquote(text: str) -> str:
    raw = re.sub(rb"=([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode("ascii"))
    return raw.decode("utf-8", "surrogatepass")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _tags(text: str, digest: str) -> dict[str, str]:
    if len(text) <= TAG_VALUE_MAX_CHARS:
        return {f"{TAG_PREFIX}{digest}": text}
    # AWS may strip spaces at the ends of a value: make parts one character shorter, and end each with a "/".
    size = TAG_VALUE_MAX_CHARS - 2
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    return {f"{TAG_PREFIX}{digest}:{i}:{len(parts)}": f"/{part}/" for i, part in enumerate(parts)}


def _texts(tags: Mapping[str, str]) -> Iterable[tuple[str, str, set[str]]]:
    """Digest, text and keys of every complete record among the tags; the digest is not checked yet."""
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for key, value in tags.items():
        match = _KEY.match(key, len(TAG_PREFIX)) if key.startswith(TAG_PREFIX) else None
        if match is None:
            continue
        if match["parts"] is None:
            yield match["digest"], value, {key}
        else:
            parts.setdefault((match["digest"], int(match["parts"])), {})[int(match["part"])] = value[1:-1]
    for (digest, count), found in parts.items():
        if sorted(found) == list(range(count)):
            keys = {f"{TAG_PREFIX}{digest}:{i}:{count}" for i in range(count)}
            yield digest, "".join(found[i] for i in range(count)), keys
