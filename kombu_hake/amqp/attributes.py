"""The attributes that a publisher gives a message: the property ``message_attributes`` of ``sqs://``. Pure.

``{name: value}``. A value is as SQS has it, ``{"DataType": "String", "StringValue": "shop"}``, or plain: text, a
number or another scalar (String), bytes (Binary). They are sent beside our own attributes, and are for other programs:
routing never depends on them, and the names that this package uses are refused.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from kombu_hake.amqp.envelope import FOREIGN_ATTRIBUTES
from kombu_hake.amqp.globs import RK, TAIL, WORDS
from kombu_hake.amqp.limits import ATTRIBUTE_NAME_MAX_CHARS, RAW_DELIVERY_MAX_ATTRIBUTES
from kombu_hake.amqp.payloads import PAYLOAD_ATTRIBUTES
from kombu_hake.amqp.routing import HEADER_PREFIX, HEADERS_MARK
from kombu_hake.exceptions import PublishError

__all__ = ["MESSAGE_ATTRIBUTES", "checked_attributes", "given_attributes", "most_attributes", "typed_bytes"]

#: Name of the property.
MESSAGE_ATTRIBUTES = "message_attributes"
#: Of a message to an exchange: :data:`RK`, :data:`WORDS`, :data:`TAIL` and the priority.
_OURS_TO_TOPIC = 4
#: Of a message with its payload in S3: the size, and what the message changes in it.
_OURS_OF_PAYLOAD = 2
_OURS = frozenset({RK, WORDS, TAIL, HEADERS_MARK, *FOREIGN_ATTRIBUTES, *PAYLOAD_ATTRIBUTES})
_OUR_PREFIXES = (HEADER_PREFIX, "hake-")
#: API-SQS, API-SNS MessageAttributeValue.
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", re.ASCII)
_AWS_PREFIXES = ("aws.", "amazon.")
_TYPE = re.compile(r"(String|Number|Binary)(?:\.[\x20-\x7e]+)?")
_TYPES_OF_SNS = ("String", "String.Array", "Number", "Binary")
_MAX_TYPE_CHARS = 256
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
#: DG-SQS "message metadata": digits of precision, and the exponents of the smallest and the largest number.
_MAX_DIGITS = 38
_MAX_NUMBER_CHARS = 256
_MIN_EXPONENT, _MAX_EXPONENT = -128, 126
#: API-SQS SendMessage.
_REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def most_attributes(*, to_topic: bool, may_be_stored: bool) -> int:
    """How many attributes a publisher may give a message.

    Args:
        to_topic: Whether it goes to an exchange. SNS then drops a message with more than ten, without an error.
        may_be_stored: Whether its payload may be kept in S3.
    """
    ours = (_OURS_TO_TOPIC if to_topic else 0) + (_OURS_OF_PAYLOAD if may_be_stored else 0)
    return RAW_DELIVERY_MAX_ATTRIBUTES - ours


def checked_attributes(given: Any, *, to_topic: bool, may_be_stored: bool) -> dict[str, dict[str, Any]]:
    """The property as SQS and SNS take it. Arguments: as of :func:`most_attributes`.

    Raises:
        PublishError: AWS would refuse it, or lose the message, or it has a name that this package uses.
    """
    if not isinstance(given, Mapping):
        raise _error(f"must map names to values, but is of type {type(given).__name__}")
    most = most_attributes(to_topic=to_topic, may_be_stored=may_be_stored)
    if len(given) > most:
        ours = RAW_DELIVERY_MAX_ATTRIBUTES - most
        rest = f", and {ours} are kept free for routing and for payloads in S3" if ours else ""
        raise _error(
            f"has {len(given)} names, but a message to {'an exchange' if to_topic else 'a queue'} may have {most}: AWS "
            f"takes {RAW_DELIVERY_MAX_ATTRIBUTES} attributes{rest}"
        )
    return {name: _checked(name, value, to_topic) for name, value in given.items()}


def _checked(name: Any, value: Any, to_topic: bool) -> dict[str, Any]:
    if (
        not isinstance(name, str)
        or len(name) > ATTRIBUTE_NAME_MAX_CHARS
        or not _NAME.fullmatch(name)
        or name.lower().startswith(_AWS_PREFIXES)
    ):
        raise _error(
            f"has the name {name!r}, which AWS refuses: use up to {ATTRIBUTE_NAME_MAX_CHARS} letters, digits, '_', "
            "'-' and single '.' inside, and no name that starts with 'AWS.' or 'Amazon.'"
        )
    if _is_ours(name):
        raise _error(f"has the name {name!r}, which this package uses: choose another one")
    kind, content = _typed(name, value)
    if not _TYPE.fullmatch(kind) or len(kind) > _MAX_TYPE_CHARS:
        raise _error(f"gives {name!r} the type {kind!r}: use String, Number or Binary")
    if to_topic and kind not in _TYPES_OF_SNS:
        raise _error(f"gives {name!r} the type {kind!r}, which SNS refuses: use {', '.join(_TYPES_OF_SNS)}")
    if not content:
        raise _error(f"gives {name!r} an empty value, which AWS refuses: leave it out")
    if isinstance(content, bytes):
        return {"DataType": kind, "BinaryValue": content}
    if _REFUSED.search(content):
        raise _error(f"gives {name!r} a value with a character that SQS refuses, such as a control character")
    if to_topic and max(content) > "\uffff":
        raise _error(f"gives {name!r} a value with an emoji or another character that SNS refuses in attributes")
    if kind.startswith("Number") and not _is_number(content):
        raise _error(
            f"gives {name!r} the type {kind!r}, but a value that is not a number of up to {_MAX_DIGITS} digits"
        )
    return {"DataType": kind, "StringValue": content}


def _is_number(text: str) -> bool:
    """Return True if SQS takes the text as a number: it would refuse what SNS delivers, and the publisher not know."""
    if len(text) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return False
    number = Decimal(text)
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    return not number or (len(digits) <= _MAX_DIGITS and _MIN_EXPONENT <= number.adjusted() <= _MAX_EXPONENT)


def _typed(name: str, value: Any) -> tuple[str, str | bytes]:
    """Type and content of a value, in either of its forms."""
    if not isinstance(value, Mapping):
        if isinstance(value, bytes | bytearray | memoryview):
            return "Binary", bytes(value)
        if value is None or isinstance(value, list | tuple | set | frozenset):
            raise _error(f"gives {name!r} a value of type {type(value).__name__}: use text, a number or bytes")
        return "String", str(value)  # as sqs:// does with those of a message to an exchange
    kind = value.get("DataType")
    if not isinstance(kind, str):
        raise _error(f"gives {name!r} a value without DataType: use {{'DataType': 'String', 'StringValue': …}}")
    part = "BinaryValue" if kind.startswith("Binary") else "StringValue"
    content = value.get(part)
    if part == "BinaryValue" and isinstance(content, bytes | bytearray | memoryview):
        return kind, bytes(content)
    if part == "StringValue" and isinstance(content, str):
        return kind, content
    needed = "bytes" if part == "BinaryValue" else "text"
    raise _error(f"gives {name!r} the type {kind!r}, but no {part} of {needed}")


def _error(fault: str) -> PublishError:
    return PublishError(f"The message was not sent: its property {MESSAGE_ATTRIBUTES} {fault}.")


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(_OUR_PREFIXES)


def given_attributes(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The attributes of a received message that its publisher gave it, in SQS's form; ``{}`` for none.

    Args:
        raw: As ReceiveMessage returned it.
    """
    attributes = raw.get("MessageAttributes")
    if not attributes or _OURS.issuperset(attributes):
        return {}
    found = {}
    for name, item in attributes.items():
        if _is_ours(name):
            continue
        kind, text, data = item.get("DataType"), item.get("StringValue"), item.get("BinaryValue")
        if isinstance(data, str):  # our own HTTP client leaves it in base64
            try:
                data = base64.b64decode(data, validate=True)
            except ValueError:
                continue
        if isinstance(kind, str) and isinstance(data, bytes):
            found[name] = {"DataType": kind, "BinaryValue": data}
        elif isinstance(kind, str) and isinstance(text, str):
            found[name] = {"DataType": kind, "StringValue": text}
    return found


def typed_bytes(attributes: Mapping[str, Mapping[str, Any]]) -> int:
    """Bytes that attributes in SQS's form add to a message: name, type and value of each, in UTF-8."""
    parts = [part for name, item in attributes.items() for part in (name, *item.values())]
    return sum(len(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part or b"") for part in parts)
