"""The handle on the stand-in for AWS, ``benchmarks/node/standin.mjs``."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class StandIn:
    """Where it listens, see ``standin.mjs``; ``tls_url`` is ``""`` without TLS.

    Raises:
        OSError: from every method, when it has gone.
        ValueError: it refuses; its reason.
    """

    pid: int
    url: str
    side_url: str
    tls_url: str = ""

    def stats(self) -> dict[str, Any]:
        """What was counted since ``reset``: ``requests`` and ``messages`` by action, ``polls`` by queue, ``cpu_s``."""
        return control(self.side_url)

    def reset(self) -> None:
        """Start counting anew."""
        control(self.side_url, reset=True)

    def set_latency(self, seconds: float) -> None:
        """Latency of each request, half of it there and half back."""
        control(self.side_url, latency_ms=seconds * 1000)


def control(side_url: str, **changes: Any) -> dict[str, Any]:
    """Ask the stand-in at this address, see ``standin.mjs`` for ``changes``."""
    address = urlsplit(side_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        connection.request("POST", "/__standin__", json.dumps(changes))
        answer = connection.getresponse()
        body: dict[str, Any] = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(body["error"])
    return body
