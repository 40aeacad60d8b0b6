"""What kombu loads by itself: makes the scheme ``hake`` and its URLs known, and registers a serializer.

kombu has no entry point for transports, but it loads the group ``kombu.serializers`` when :mod:`kombu.serialization`
is imported, which everything that declares, publishes or consumes does. So this module must stay light (no boto3) and
must not import :mod:`kombu.serialization`, which is only half made at that moment.
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
    """Make ``hake://`` known to kombu. Harmless when repeated."""
    TRANSPORT_ALIASES.setdefault("hake", "kombu_hake.transport:Transport")
    _take_urls_apart()


def _take_urls_apart() -> None:
    """Have ``kombu.connection`` parse the URLs of this scheme with our parser.

    kombu's own makes an argument of each option in the query, and ``Connection`` knows none of them (a ``TypeError``,
    kombu 5.4 to 5.7). ``can_parse_url`` keeps it from doing so for the first URL, but not at a fail-over to the next.
    """
    theirs = kombu_url.parse_url
    if getattr(theirs, "knows_hake", False):
        return

    @functools.wraps(theirs)
    def parse_url(url: str) -> dict[str, Any]:
        if url.partition("://")[0].lower() != "hake":
            return dict(theirs(url))
        from kombu_hake.config import kombu_fields  # late: kombu imports this module while it is half imported

        return kombu_fields(url)

    parse_url.knows_hake = True  # type: ignore[attr-defined]
    kombu_url.parse_url = parse_url
    connection = sys.modules.get("kombu.connection")
    if getattr(connection, "parse_url", None) is theirs:  # else it imports the new one in a moment
        connection.parse_url = parse_url  # type: ignore[union-attr]


def _dumps(obj: Any) -> str:
    # Compact separators alone take about a tenth off a typical task. AWS bills by 64 KiB and refuses over 256 KiB.
    return str(kombu_json.dumps(obj, separators=(",", ":")))


register_transport()

#: Arguments for :func:`kombu.serialization.register`: JSON without the blanks, for bodies near a size limit
#: (``task_serializer = "hake-json"``; the consumer accepts it by ``accept_content = ["json", "hake-json"]``).
hake_json = (_dumps, kombu_json.loads, "application/x-hake-json", "utf-8")
