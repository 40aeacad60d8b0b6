"""What kombu loads by itself: makes the scheme ``hake`` known, and registers a serializer.

kombu has no entry point for transports, but it loads the group ``kombu.serializers`` when :mod:`kombu.serialization`
is imported, which everything that declares, publishes or consumes does. So this module must stay light (no boto3) and
must not import :mod:`kombu.serialization`, which is only half made at that moment.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.utils import json as kombu_json

__all__ = ["hake_json", "register_transport"]


def register_transport() -> None:
    """Make ``hake://`` known to kombu. Harmless when repeated."""
    TRANSPORT_ALIASES.setdefault("hake", "kombu_hake.transport:Transport")


def _dumps(obj: Any) -> str:
    # Compact separators alone take about a tenth off a typical task. AWS bills by 64 KiB and refuses over 256 KiB.
    return str(kombu_json.dumps(obj, separators=(",", ":")))


register_transport()

#: Arguments for :func:`kombu.serialization.register`: JSON without the blanks, for bodies near a size limit
#: (``task_serializer = "hake-json"``; the consumer accepts it by ``accept_content = ["json", "hake-json"]``).
hake_json = (_dumps, kombu_json.loads, "application/x-hake-json", "utf-8")
