"""Make untrusted text safe to show: escaped, cut, and on one line. Pure, except for the filter of the loggers.

Task names, ids, routing keys, tags, names of queues and AWS's error texts come from outside this process. Written
unchanged, they can forge log lines (newlines), control a terminal (escape sequences), reverse displayed text
(bidirectional controls), break the stream (lone surrogates), or fill a disk.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["MARK", "escaped", "fields", "guarded", "quoted", "without_userinfo"]

#: The end of a text that was cut.
MARK = "…"
#: Maximum length of one value in a sentence.
MOST_CHARS = 200
#: Maximum length of one argument of a log line; our errors may list a few names.
LOG_CHARS = 2_000
_TRACEBACK_CHARS = 20_000
_MAX_DEPTH = 5
#: An integer with more bits is shown by its size: formatting it takes time quadratic in its length.
_MAX_BITS = 256
#: The credentials of a URL inside a text, unless masked already; matches too much rather than too little.
_USERINFO = re.compile(r"""(?<=://)(?![^\s'"@:]*:\*\*@)[^\s'"]*@""")
_PLAIN = (str, bytes, dict, list, tuple, set, frozenset)
#: How a line at WARNING or above starts; docs/messages.md explains each id.
_LOG_ID = re.compile(r"HAKE\d{3}(?= )", re.ASCII)
#: The attribute of a record with its fields, until the filter of its logger sets them.
_FIELDS = "_hake_fields"


def escaped(text: str, most: int | None = MOST_CHARS, *, keep: str = "") -> str:
    r"""Escape all characters that are not printable (``\n``, ``\x1b``, ``\u202e``).

    Backslashes stay single, so escaping twice changes nothing.

    Args:
        most: Maximum length of the result; a longer text is cut, and ends with :data:`MARK`. None: no limit.
        keep: Characters to leave unchanged, such as ``"\n"`` for a text of several lines.
    """
    length = len(text)
    if most is not None and length > most:
        text = str.__getitem__(text, slice(most))
    if not text.isprintable():
        text = "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)
    if most is not None and (length > most or len(text) > most):
        text = text[: most - len(MARK)] + MARK
    return text


def without_userinfo(text: str, mask: str = "**") -> str:
    """*text* with the user and password of each URL in it replaced by *mask*."""
    if "://" not in text or "@" not in text:
        return text
    return _USERINFO.sub(f"{mask}@", text)


def quoted(value: object, most: int = MOST_CHARS) -> str:
    """Format an untrusted value for a sentence: text as it is, anything else like its ``repr``.

    Reads only as much of the value as it shows, and runs no code of the value's class: a value that is not text, a
    number or a plain container is shown by the name of its class. Never raises.

    Args:
        most: Maximum length of the result, at least 1.
    """
    try:
        if isinstance(value, str):
            return escaped(str.__getitem__(value, slice(most + 1)), most)
        return escaped(_joined(_pieces(value, most, _MAX_DEPTH), most), most)
    except Exception:  # a container that another thread changes, or a class that misreports itself
        return "<object>"[:most]


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _joined(pieces: Iterable[str], most: int) -> str:
    found, length = [], 0
    for piece in pieces:
        found.append(piece)
        length += len(piece)
        if length > most:
            break
    return "".join(found)


def _pieces(value: object, most: int, depth: int) -> Iterator[str]:
    """The output of ``repr`` in pieces, so that the reader can stop."""
    if isinstance(value, str):
        yield repr(str.__getitem__(value, slice(most + 1)))
    elif isinstance(value, bytes | bytearray):
        yield repr(bytes(value[: most + 1]))
    elif value is None or isinstance(value, bool):
        yield repr(value)
    elif isinstance(value, int):
        bits = int.bit_length(value)
        yield int.__repr__(value) if bits <= _MAX_BITS else f"<int of {bits} bits>"
    elif isinstance(value, float):
        yield float.__repr__(value)
    elif isinstance(value, dict):
        yield from _inside("{}", dict.items(value), most, depth)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from _inside("[]" if isinstance(value, list) else "()", iter(value), most, depth)
    else:
        yield f"<{type(value).__name__}>"


def _inside(ends: str, items: Iterable[Any], most: int, depth: int) -> Iterator[str]:
    yield ends[0]
    if not depth:
        yield MARK
    else:
        for number, item in enumerate(items):
            yield ", " if number else ""
            for part, before in zip(item, ("", ": "), strict=True) if ends == "{}" else [(item, "")]:
                yield before
                yield from _pieces(part, most, depth - 1)
    yield ends[1]


def fields(
    *, queue: object = None, exchange: object = None, task_id: object = None, message_id: object = None
) -> dict[str, Any]:
    """What a log line is about, for the argument ``extra`` of a guarded logger.

    Each name that is given becomes an attribute of the record: text, escaped and cut. The filter of the logger sets
    them, because :mod:`logging` raises ``KeyError`` for a name in ``extra`` that an application's record factory sets.
    """
    named = {"queue": queue, "exchange": exchange, "task_id": task_id, "message_id": message_id}
    return {_FIELDS: {name: value for name, value in named.items() if value is not None}}


def guarded(logger: logging.Logger) -> logging.Logger:
    """Add a filter to a logger, and return the logger. May be repeated.

    The filter escapes and cuts the arguments of its lines, and masks credentials of URLs in them. A record gets the
    attribute ``hake_id`` if its text starts with an id, and those of :func:`fields`.
    """
    logger.addFilter(_complete)
    return logger


def _complete(record: logging.LogRecord) -> bool:
    """Set the attributes of a record, and escape its arguments. Passes every record."""
    found = _LOG_ID.match(record.msg) if isinstance(record.msg, str) else None
    if found is not None:
        record.hake_id = found[0]
    for name, value in record.__dict__.pop(_FIELDS, {}).items():
        setattr(record, name, without_userinfo(quoted(value, LOG_CHARS)))
    _escape_arguments(record)
    return True


def _escape_arguments(record: logging.LogRecord) -> None:
    """Keep the text and the number of its arguments, by which log collectors group lines."""
    if isinstance(record.args, tuple):
        record.args = tuple(_shown(argument) for argument in record.args)
    elif record.args:  # logging unpacks a single mapping
        record.args = (quoted(record.args, LOG_CHARS),)
    if record.exc_info and record.exc_info[0] is not None and record.exc_text is None:
        # Formatters write this instead of formatting the traceback.
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        record.exc_text = escaped(without_userinfo(text), _TRACEBACK_CHARS, keep="\n")


def _shown(argument: object) -> object:
    if isinstance(argument, bool | float) or argument is None:
        return argument
    if isinstance(argument, int):
        return argument if int.bit_length(argument) <= _MAX_BITS else quoted(argument)
    if type(argument) in _PLAIN:  # not one of our named tuples, which have their own str()
        return without_userinfo(quoted(argument, LOG_CHARS))
    try:
        # An error, an enum, an address: classes of ours or of libraries.
        return without_userinfo(escaped(str(argument), LOG_CHARS))
    except Exception:
        return quoted(argument)
