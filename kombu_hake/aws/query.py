"""AWS's query protocol, in which SNS takes ``Publish`` and ``PublishBatch``. Pure.

A request is a form, its answer XML. ``tests/unit/test_query.py`` compares both with botocore's serializer and parser.

Source:
    Amazon SNS API Reference, version 2010-03-31.
"""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus

__all__ = ["decode", "encode"]

_VERSION = "2010-03-31"
_NAMESPACE = "{http://sns.amazonaws.com/doc/2010-03-31/}"
#: The characters that a message of ours has besides letters and digits, ``%`` first. A scan of a text for each of them
#: takes a tenth of the time that ``quote_plus`` takes, which looks up every single byte.
_COMMON = [(character, quote_plus(character)) for character in "%+\"{}:,[]/=\\&;|<>@()'!?#$*"]
_SAFE = re.compile(r"[A-Za-z0-9_.~%+ -]*\Z", re.ASCII)
#: Up to this length, results are remembered instead.
_SHORT = 128


def encode(action: str, params: Mapping[str, Any]) -> bytes:
    """The form of a request.

    Args:
        action: Such as ``Publish``.
        params: As for boto3: texts, ``MessageAttributes`` (texts and bytes) and ``PublishBatchRequestEntries``.
    """
    fields = [f"Action={action}&Version={_VERSION}"]
    _add(fields, "", params)
    return "&".join(fields).encode("ascii")


def decode(action: str, body: bytes) -> dict[str, Any] | None:
    """What the answer to *action* says, as boto3 gives it; None if it is none.

    Returns:
        ``MessageId`` and, of FIFO topics, ``SequenceNumber``; or ``Successful`` and ``Failed``; or ``Error`` with
        ``Code``, ``Message`` and ``Type``.
    """
    try:
        text = str(body, "utf-8")  # whatever encoding it declares, as AWS uses no other
        if "<!DOCTYPE" in text:  # AWS sends none, and its entities may expand without end
            return None
        root = ET.fromstring(text)  # noqa: S314 - no entities, see above
    except (ET.ParseError, ValueError):
        return None
    name = root.tag.removeprefix(_NAMESPACE)
    if name == "ErrorResponse":
        error = _child(root, "Error")
        return None if error is None else {"Error": _texts(error)}
    result = _child(root, f"{action}Result") if name == f"{action}Response" else None
    if result is None:
        return None
    if action == "Publish":
        return dict(_texts(result))
    lists: dict[str, Any] = {}
    for part in ("Successful", "Failed"):
        found = _child(result, part)
        lists[part] = [] if found is None else [_entry(member) for member in found]
    return lists


def _add(fields: list[str], prefix: str, params: Mapping[str, Any]) -> None:
    """Append ``name=value`` for each parameter to *fields*."""
    for name, value in params.items():
        if name == "MessageAttributes":
            for number, (key, attribute) in enumerate(value.items(), 1):
                entry = f"{prefix}MessageAttributes.entry.{number}"
                fields.append(f"{entry}.Name={_quoted(key)}")
                for kind, content in attribute.items():
                    text = base64.b64encode(content).decode("ascii") if isinstance(content, bytes) else content
                    fields.append(f"{entry}.Value.{kind}={_quoted(text)}")
        elif name == "PublishBatchRequestEntries":
            for number, entry in enumerate(value, 1):
                _add(fields, f"{name}.member.{number}.", entry)
        else:
            fields.append(f"{prefix}{name}={_quoted(value)}")


def _quoted(text: str) -> str:
    """As ``quote_plus``."""
    if len(text) <= _SHORT:
        return _quoted_short(text)
    found = text
    for character, code in _COMMON:
        if character in found:
            found = found.replace(character, code)
    return found.replace(" ", "+") if _SAFE.match(found) else quote_plus(text)


#: Names, ARNs and routing keys are the same in many requests.
_quoted_short = lru_cache(1_000)(quote_plus)


def _child(element: ET.Element, name: str) -> ET.Element | None:
    found = element.find(_NAMESPACE + name)
    return element.find(name) if found is None else found


def _texts(element: ET.Element) -> dict[str, str]:
    return {child.tag.rpartition("}")[2]: child.text or "" for child in element}


def _entry(member: ET.Element) -> dict[str, Any]:
    entry: dict[str, Any] = _texts(member)
    if "SenderFault" in entry:
        entry["SenderFault"] = entry["SenderFault"] == "true"
    return entry
