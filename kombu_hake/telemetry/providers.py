"""Tell if the application has set a provider of OpenTelemetry for the process. Until then nothing is reported.

Each message asks for it, so it must cost next to nothing. The functions of OpenTelemetry's API that return the provider
look into the environment each time; so they are called only when the variable that they return has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Provider"]

#: Modules of the API. Its own providers wait for another one, or do nothing.
_OF_API = ("opentelemetry.metrics", "opentelemetry.trace")


class Provider:
    """The provider of metrics, or of traces, that is set for the process, now or later."""

    __slots__ = ("_find", "_is_set", "_name", "_variables")

    def __init__(self, find: Callable[[], Any], name: str, given: Any = None) -> None:
        """
        Args:
            find: The API's function that returns it.
            name: The variable in the module of *find* that is None while none is set. Where a version of the API has
                no such variable, *find* is called each time.
            given: A provider that is used whatever is set for the process.
        """
        self._find = find
        self._variables: dict[str, Any] = getattr(find, "__globals__", {})
        self._name = name
        self._is_set = given is not None or self._look()  # one that the environment names is loaded here

    def is_set(self) -> bool:
        """Return True if there is one that reports anything; from then on it stays True."""
        if not self._is_set and self._variables.get(self._name, self) is not None:
            self._is_set = self._look()
        return self._is_set

    def _look(self) -> bool:
        return not type(self._find()).__module__.startswith(_OF_API)
