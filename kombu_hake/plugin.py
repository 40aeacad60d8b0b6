"""Loaded by kombu itself: registers the scheme ``hake``, the parser of its URLs, and a serializer.

kombu has no entry point for transports, but it loads the group ``kombu.serializers`` when :mod:`kombu.serialization`
is imported, which everything that declares, publishes or consumes does. So this module must stay light (no boto3) and
must not import :mod:`kombu.serialization`, which is only partly imported at that moment.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.utils import json as kombu_json
from kombu.utils import url as kombu_url

__all__ = ["hake_json", "register_transport"]


def register_transport() -> None:
    """Register ``hake://`` with kombu. Idempotent."""
    TRANSPORT_ALIASES.setdefault("hake", "kombu_hake.transport:Transport")
    _take_urls_apart()


def _take_urls_apart() -> None:
    """Make ``kombu.connection`` parse URLs of this scheme with our parser.

    kombu's own parser turns each option in the query into an argument that ``Connection`` does not have (a
    ``TypeError``, kombu 5.4 to 5.7). ``can_parse_url`` prevents that for the first URL, but not after a fail-over.
    """
    theirs = kombu_url.parse_url
    if getattr(theirs, "knows_hake", False):
        return

    @functools.wraps(theirs)
    def parse_url(url: str) -> dict[str, Any]:
        if url.partition("://")[0].lower() != "hake":
            return dict(theirs(url))
        from kombu_hake.config import kombu_fields  # late: kombu itself is only partly imported by now

        return kombu_fields(url)

    parse_url.knows_hake = True  # type: ignore[attr-defined]
    kombu_url.parse_url = parse_url
    connection = sys.modules.get("kombu.connection")
    if getattr(connection, "parse_url", None) is theirs:  # otherwise it imports the new one soon
        connection.parse_url = parse_url  # type: ignore[union-attr]


def _dumps(obj: Any) -> str:
    # Compact separators make a typical task about a tenth smaller. AWS bills by 64 KiB and refuses over 256 KiB.
    return str(kombu_json.dumps(obj, separators=(",", ":")))


register_transport()

#: Arguments for :func:`kombu.serialization.register`: JSON without spaces, for bodies near a size limit
#: (``task_serializer = "hake-json"``; the consumer accepts it by ``accept_content = ["json", "hake-json"]``).
hake_json = (_dumps, kombu_json.loads, "application/x-hake-json", "utf-8")
