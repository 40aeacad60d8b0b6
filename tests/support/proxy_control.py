"""The handle on a proxy that runs in another process."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from .proxy_rules import Rule


class RemoteProxy:
    """Same names as ``proxy.Proxy``, over its control endpoint.

    Args:
        endpoint_url: As the proxy printed it.
    Raises:
        OSError: from every method, while the proxy refuses connections or has gone.
        ValueError: a rule that the proxy does not know.
    """

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url

    def stats(self, *, reset: bool = False) -> dict[str, Any]:
        """As ``Proxy.stats``; optionally counting anew from here."""
        return self._call({"reset_stats": reset})

    def reset_stats(self) -> None:
        """Start counting anew."""
        self._call({"reset_stats": True})

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force; assign to change them."""
        return tuple(Rule(**rule) for rule in self._call({})["rules"])

    @rules.setter
    def rules(self, rules: Iterable[Rule]) -> None:
        self._call({"rules": [rule.to_json() for rule in rules]})

    @property
    def latency_s(self) -> float:
        """Latency added to each request; assign to change it."""
        return float(self._call({})["latency_s"])

    @latency_s.setter
    def latency_s(self, seconds: float) -> None:
        self._call({"latency_s": seconds})

    def refuse(self, seconds: float) -> None:
        """Reset all connections and refuse new ones for so long."""
        self._call({"refuse_s": seconds})

    def _call(self, changes: dict[str, Any]) -> dict[str, Any]:
        address = urlsplit(self.endpoint_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        try:
            connection.request("POST", "/__proxy__", json.dumps(changes))
            answer = connection.getresponse()
            body: dict[str, Any] = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(body["error"])
        return body
