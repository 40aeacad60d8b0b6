"""Telemetry never fails what it reports about."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from kombu_hake.quoting import guarded

__all__ = ["never_raises", "report"]

P = ParamSpec("P")
logger = guarded(logging.getLogger(__name__))
_reported: list[bool] = []


def report(exc: Exception) -> None:
    """Log an error of OpenTelemetry, or of an SDK, sampler or processor behind it; only the first one."""
    if not _reported:
        _reported.append(True)
        logger.warning(
            "HAKE731 OpenTelemetry failed; some metrics or spans are missing. Not logged again: %r", exc, exc_info=exc
        )


def never_raises(function: Callable[P, None]) -> Callable[P, None]:
    """Decorate a function whose errors are logged once, and otherwise ignored."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as exc:
            report(exc)

    return call
