"""Reads of AWS that are not repeated within one command: :class:`OnceClients`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from kombu_hake.aws import Clients
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, HakeError

__all__ = ["OnceClients"]


class OnceClients:
    """Answers equal reads once, for commands that look at the same thing more than once. Other calls go through.

    Use it where a :class:`~kombu_hake.aws.Clients` is expected. Not safe for concurrent use by threads.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._answers: dict[str, dict[str, Any] | HakeError] = {}

    def sqs(self, operation: str, **params: Any) -> dict[str, Any]:
        """As that of :class:`~kombu_hake.aws.Clients`."""
        return self._once(self._clients.sqs, operation, params)

    def sns(self, operation: str, **params: Any) -> dict[str, Any]:
        """As that of :class:`~kombu_hake.aws.Clients`."""
        return self._once(self._clients.sns, operation, params)

    @property
    def denied(self) -> list[AccessDenied]:
        """The reads that AWS denied."""
        return [one for one in self._answers.values() if isinstance(one, AccessDenied)]

    def _once(
        self, call: Callable[..., dict[str, Any]], operation: str, params: Mapping[str, Any]
    ) -> dict[str, Any]:  # fmt: skip
        if not operation.startswith(("get_", "list_")):
            return call(operation, **params)
        key = f"{operation} {json.dumps(params, sort_keys=True)}"
        if key not in self._answers:
            try:
                self._answers[key] = call(operation, **params)
            except BrokerUnavailable:
                raise
            except HakeError as exc:
                self._answers[key] = exc
        answer = self._answers[key]
        if isinstance(answer, HakeError):
            raise answer
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clients, name)
