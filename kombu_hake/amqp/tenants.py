"""Tenants of standard queues: what a message says of its tenant, and the group id that SQS sees. Pure.

On a standard queue SQS takes the ``MessageGroupId`` of a message as its tenant, and hands out the messages of quiet
tenants before those of a noisy one ("fair queues"). On a FIFO queue it is the key of the order, so a tenant does not
replace it there.

A message carries its tenant as the property ``tenant``, and in AWS as its group id:

* a text that AWS allows as a group id is unchanged, so a group id that another program sets is the tenant's name;
* any other text becomes ``hake:`` and the text with percent escapes; one too long for that keeps its start and ends
  in ``~`` and a hash of the whole text;
* a text that begins with ``hake:`` is escaped too, so that no two tenants share a group id.

Source:
    ``MessageGroupId`` has 1 to 128 characters: alphanumerics and punctuation of ASCII, without spaces (SendMessage).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

__all__ = [
    "MAX_TENANT_CHARS",
    "group_id",
    "group_of",
    "is_group_id",
    "is_tenant",
    "tenant_of_group",
    "tenant_text",
]

MAX_TENANT_CHARS = 256
MAX_GROUP_CHARS = 128
_GROUP = re.compile(rf"[!-~]{{1,{MAX_GROUP_CHARS}}}")
_ESCAPED = "hake:"
#: Characters that :func:`urllib.parse.quote` may leave. It always leaves ``~``, which separates the hash.
_SAFE = "!$&'()*+,/:;=?@[]"
_HASH_CHARS = 40
#: Of an int: a text of fewer characters than AWS allows.
_MAX_BITS = 400


def is_tenant(value: Any) -> bool:
    """Return True if *value* is a tenant as a message carries it: printable text, not empty and not too long."""
    return type(value) is str and 0 < len(value) <= MAX_TENANT_CHARS and value.isprintable()


def is_group_id(value: Any) -> bool:
    """Return True if AWS allows *value* as a ``MessageGroupId``; publishers may give a number."""
    if type(value) is int:
        return value.bit_length() < _MAX_BITS
    return type(value) is str and _GROUP.fullmatch(value) is not None


def tenant_text(value: Any) -> str:
    """The tenant that a publisher names, as text.

    Raises:
        ValueError: the end of a sentence that begins with "it must be".
    """
    if isinstance(value, UUID) or (type(value) is int and value.bit_length() < _MAX_BITS):
        value = str(value)
    elif isinstance(value, str):
        value = str.__str__(value)  # of a subclass, such as an enum's member
    else:
        raise ValueError(f"a text, a UUID or an int of usual size, not {type(value).__name__}")
    if is_tenant(value):
        return str(value)
    found = f"{len(value):,} characters" if value.isprintable() else "a character that cannot be printed"
    raise ValueError(f"1 to {MAX_TENANT_CHARS} printable characters, and this one has {found}")


def group_id(tenant: str) -> str:
    """The ``MessageGroupId`` of a tenant. No two tenants have the same one, and AWS allows each."""
    if _GROUP.fullmatch(tenant) and not tenant.startswith(_ESCAPED):
        return tenant
    escaped = _ESCAPED + quote(tenant, safe=_SAFE).replace("~", "%7E")
    if len(escaped) <= MAX_GROUP_CHARS:
        return escaped
    digest = hashlib.sha256(tenant.encode()).hexdigest()[:_HASH_CHARS]
    return f"{escaped[: MAX_GROUP_CHARS - _HASH_CHARS - 1]}~{digest}"


def tenant_of_group(group: Any) -> str | None:
    """The tenant that a group id of a standard queue names; None where it is an escaped one, or no group id."""
    return group if isinstance(group, str) and is_group_id(group) and not group.startswith(_ESCAPED) else None


def group_of(properties: Mapping[str, Any], *, is_fifo: bool) -> str | None:
    """The ``MessageGroupId`` that the properties of a message ask for; None for none.

    One that the publisher gives by that name wins. Otherwise it is that of the tenant, except in a FIFO queue.

    Args:
        properties: With a sound ``tenant``, if any.
    """
    given = properties.get("MessageGroupId")
    # A message that is sent again may hold anything there; what has an inside is no id.
    if given is not None and not isinstance(given, Mapping | list | tuple):
        return str(given)
    tenant = properties.get("tenant")
    return None if is_fifo or tenant is None else group_id(tenant)
